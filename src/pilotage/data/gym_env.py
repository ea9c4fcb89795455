"""Any of our worlds as a Gymnasium environment.

    register_gym()
    env = gymnasium.make("pilotage/Maze-v0")
    observation, info = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step("<answer>R R D</answer>")

An observation is what a student may see: `{"image": uint8 [height, width, 3], "text": …}`. Nothing privileged is in it
or in `info`. An action is the whole answer in words; in a world that is acted in step by step, the number of one of its
action words. The episode of a planning world has one step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pilotage.data.made import made_examples, makes_examples, own_levels
from pilotage.errors import PilotageError, require
from pilotage.pictures import read_rgb
from pilotage.records import Example, Observation, Split
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import get_world, world_names
from pilotage.worlds.task import DrawsTiles
from pilotage.worlds.world import ShowsEnd

require("gymnasium")
import gymnasium  # noqa: E402
from gymnasium import spaces  # noqa: E402

ACT = "act"
CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
"""Of texts, either way; another one in a world's text stands as `?`."""
MAX_CHARACTERS = 4096
_OTHER = re.compile(r"[^ -~\n]")

Examples = Sequence[Example] | Callable[[], Sequence[Example]]


class WorldEnv(gymnasium.Env[dict[str, Any], Any]):
    """A world's examples, one drawn by each `reset`; `reset(options={"example": id})` takes one by its id.

    `image_shape` None is the first example's; pictures of another size are resized to it. `words` makes the action a
    text where it would be a number.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(
        self,
        world: str,
        examples: Examples | None = None,
        *,
        image_shape: tuple[int, int] | None = None,
        words: bool = False,
        strict: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self._world, self._strict, self.render_mode = get_world(world), strict, render_mode
        given = default_examples(world) if examples is None else examples
        self._examples = tuple(given() if callable(given) else given)
        if not self._examples:
            raise PilotageError(f"{world}: an environment needs at least one example")
        if not self._examples[0].image:
            raise PilotageError(f"{self._examples[0].id} has no picture to be observed; build it with one")
        self._shape = image_shape or read_rgb(self._examples[0].image).size[::-1]
        self._by_id = {example.id: example for example in self._examples}
        self._words = tuple(getattr(self._world, "actions", ()))
        self._is_number = not words and self._world.roles[0] == ACT and bool(self._words)
        self.action_space: Any = spaces.Discrete(len(self._words)) if self._is_number else _text_space()
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (*self._shape, 3), np.uint8),
                "text": _text_space(),
            }
        )
        self._session: Any = None
        self._seen: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        asked = (options or {}).get("example")
        if asked is not None and asked not in self._by_id:
            raise PilotageError(f"{self._world.name}: there is no example {asked!r} among {len(self._by_id)}")
        drawn = self._examples[int(self.np_random.integers(len(self._examples)))]
        example = drawn if asked is None else self._by_id[asked]
        self._leave()
        self._session = self._world.open(example, strict=self._strict)
        seen = self._session.observe()
        assert seen is not None, f"{example.id}: an episode begins with something to be seen"
        self._seen = self._shown(seen)
        return self._copy(), {"example": example.id}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """The reward is the world's for the turn; where it gives none by turns, 1 for success at the end.

        At the end the observation is what there is after the last action where the world can show it
        (`pilotage.worlds.world.ShowsEnd`); a world of one answer shows what was asked about.
        """
        if self._session is None:
            raise PilotageError(f"{self._world.name}: call reset() before step(), and after an episode's end")
        session = self._session
        reward = session.act(
            f"<answer>{self._words[int(action)]}</answer>" if self._is_number else str(action)
        )
        seen, info = session.observe(), {}
        over, was_cut = seen is None, seen is None and bool(getattr(session, "truncated", False))
        if seen is not None:
            self._seen = self._shown(seen)
        else:
            outcome = session.outcome()
            last = session.at_end() if isinstance(session, ShowsEnd) else None
            self._seen = self._seen if last is None else self._shown(last)
            info = {"success": outcome.success, "reason": outcome.reason, **outcome.measures}
            reward = float(outcome.success) if reward is None else reward
            self._leave()
        return self._copy(), float(reward or 0.0), over and not was_cut, was_cut, info

    def render(self) -> Any:
        """The picture that was last seen; None before the first."""
        return self._seen["image"].copy() if self._seen else None

    def close(self) -> None:
        self._leave()

    def _copy(self) -> dict[str, Any]:
        """What was seen last, anew: Gymnasium's users keep and change what they are given."""
        return {"image": self._seen["image"].copy(), "text": self._seen["text"]}

    def _leave(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _shown(self, seen: Observation) -> dict[str, Any]:
        """A world may show no picture at a turn: it stays dark."""
        height, width = self._shape
        image = np.zeros((height, width, 3), np.uint8)
        if seen.images:
            picture = read_rgb(seen.images[0])
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.NEAREST)
            image = np.array(picture, np.uint8)
        return {"image": image, "text": _OTHER.sub("?", seen.text)[:MAX_CHARACTERS]}


def _text_space() -> spaces.Text:
    return spaces.Text(MAX_CHARACTERS, min_length=0, charset=CHARACTERS)


def default_examples(world: str, *, split: Split = "train", count: int = 16, seed: int = 0) -> list[Example]:
    """Examples that the world makes itself, of its own levels. Raises PilotageError for one that makes none."""
    levels = own_levels(world)
    # One size for all levels, where a world can: an observation space has one.
    side_px = 32 * max(levels) if able(get_world(world), DrawsTiles) else None
    return made_examples(world, levels, count, split, seed, side_px=side_px)


def gym_id(world: str) -> str:
    """`pilotage/Maze-v0`: the title's letters and digits."""
    return f"pilotage/{re.sub(r'[^A-Za-z0-9]', '', get_world(world).title)}-v0"


def register_gym(*worlds: str) -> tuple[str, ...]:
    """Registers worlds with Gymnasium and returns their ids; without names every world that makes its own examples."""
    named = worlds or tuple(name for name in world_names() if makes_examples(name))
    ids = tuple(map(gym_id, named))
    for id_, world in zip(ids, named, strict=True):
        if id_ not in gymnasium.registry:
            gymnasium.register(id_, entry_point=f"{__name__}:WorldEnv", kwargs={"world": world})
    return ids
