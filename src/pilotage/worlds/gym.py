"""Any Gymnasium environment as a world; `pilotage.data.gym_env` is the other way round (extra `gym`).

    cliff = GymWorld(
        name="cliff", title="CliffWalking", make=lambda: gym.make("CliffWalking-v1", render_mode="rgb_array"),
        actions_of={"UP": 0, "RIGHT": 1, "DOWN": 2, "LEFT": 3}, rules="Walk to the goal; the cliff sends you back.",
    )
    register_world(cliff)

An episode is a seed; a turn shows the rendered picture and takes the word of an action out of the answer's last block.
Where a function reads the privileged state and another knows an expert, words, teachers and DAgger come with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pilotage.errors import PilotageError
from pilotage.records import Condition, Example, Measure, Observation, Outcome, Privileged, Split
from pilotage.worlds.answers import last_answer_block
from pilotage.worlds.drawing import decode_png, encode_png
from pilotage.worlds.split import split_of

ACT = "act"
PATIENCE = 10_000
"""Seeds tried, one after the other, without one whose start belongs to the split."""

MEASURES = (
    Measure(name="parsed", title="parsed"),
    Measure(name="return", title="return", unit="reward", bounds=None, is_flag=False),
    Measure(name="num_turns", title="turns", better="lower", unit="turns", bounds=None, is_flag=False),
)


@dataclass(frozen=True, kw_only=True)
class GymWorld:
    """A Gymnasium environment whose `render_mode` is `rgb_array`."""

    name: str
    title: str
    make: Callable[[], Any]
    """Makes the environment; called once for each episode."""
    actions_of: Mapping[str, Any]
    """Word, in upper case -> the environment's action."""
    rules: str
    """What the student is told of the world."""
    max_turns: int = 64
    state: Callable[[Any], Mapping[str, Any]] | None = None
    """The environment, unwrapped -> the privileged state as JSON. Its JSON decides the split of a start."""
    facts: Callable[[Any], Mapping[str, str]] | None = None
    """The same in words, field by field: what views without a picture show. None shows the state's own entries."""
    expert_of_env: Callable[[Any], Sequence[str]] | None = None
    """The environment, unwrapped -> words of the actions that an expert would take from here, to the end. With it the
    world has the capability `HasExpert`."""
    success: Callable[[float, bool], bool] = lambda total, terminated: terminated and total > 0
    """(sum of rewards, whether the environment terminated) -> whether the episode succeeded."""

    roles = (ACT,)
    reasons = ("success", "terminated", "not_reached")
    measures = MEASURES
    answer_form = "block"
    views_module = "pilotage.views.acting"

    def __post_init__(self) -> None:
        if bad := [word for word in self.actions_of if word != word.upper() or len(word.split()) != 1]:
            raise PilotageError(f"{self.name}: action words must be single and upper case, not {bad}")
        if self.expert_of_env is not None:
            # Of this world alone: a method of the class would be every world's.
            object.__setattr__(self, "expert", self._expert)

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(self.actions_of)

    @property
    def usual(self) -> tuple[str, ...]:
        return ("image",) if self.state is None else ("image", "text")

    @property
    def conditions(self) -> tuple[Condition, ...]:
        found = [Condition(name="image", title="from the picture", views={ACT: "student"})]
        if self.state is not None:
            found.append(Condition(name="text", title="from words", views={ACT: "symbolic"}))
            if self.expert_of_env is not None:
                found.append(
                    Condition(name="teacher", title="teacher: words and plan", views={ACT: "teacher"})
                )
        return tuple(found)

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> GymSession:
        if role not in (None, ACT):
            raise PilotageError(f"{self.name} has no role {role!r}; there is {ACT}")
        session = GymSession(self, int(example.data["seed"]))
        if session.digest != example.data["start"]:
            session.close()
            raise PilotageError(
                f"{example.id}: seed {example.data['seed']} does not begin as it did: another version of the "
                "environment, or one whose reset is not decided by its seed"
            )
        return session

    def examples(self, count: int, split: Split, seed: int = 0) -> list[Example]:
        """`count` distinct episodes of a split, a function of the arguments.

        The split is that of what the start shows, by hash, so that two seeds that begin alike are never in two splits.
        Raises PilotageError where no more are found.
        """
        return list(self.making(count, split, seed))

    def making(self, count: int, split: Split, seed: int = 0) -> Iterator[Example]:
        """The same, each when it is found."""
        found: set[str] = set()
        numbers = np.random.default_rng(seed)
        tried = 0
        while len(found) < count:
            number = int(numbers.integers(2**31))
            session = GymSession(self, number)
            digest, start = session.digest, session.start
            session.close()
            tried += 1
            if split_of(digest) == split and digest not in found:
                tried = 0
                found.add(digest)
                yield Example(
                    id=f"{self.name}-{digest[:12]}",
                    world=self.name,
                    split=split,
                    start=start,
                    data={"seed": number, "start": digest},
                )
            if tried > PATIENCE:
                raise PilotageError(
                    f"{self.name}: {len(found)} of {count} starts of the split {split} were found in {PATIENCE} seeds "
                    "more; ask for fewer"
                )

    def expert_plan(self, env: Any) -> tuple[str, ...]:
        return () if self.expert_of_env is None else tuple(self.expert_of_env(env.unwrapped))

    def _expert(self, session: GymSession) -> tuple[str, ...] | None:
        """`HasExpert.expert`."""
        return None if session.observe() is None else self.expert_plan(session._env) or None


class GymSession:
    """One episode of an environment."""

    def __init__(self, world: GymWorld, seed: int) -> None:
        self._world = world
        self._env = world.make()
        self._env.reset(seed=seed)
        self._total, self._num_turns, self._num_parsed = 0.0, 0, 0
        self._terminated = self._over = False
        self.start = self._look()
        privileged = self.start.privileged
        state = None if privileged is None else privileged.state
        content = repr(sorted(state.items())).encode() if state else _pixels(self.start.images[0])
        self.digest = hashlib.sha256(content).hexdigest()[:32]
        self._seen: Observation | None = self.start

    def observe(self) -> Observation | None:
        if self._over:
            return None
        if self._seen is None:
            self._seen = self._look()
        return self._seen

    def at_end(self) -> Observation | None:
        """The last frame alone: an expert need not know a way on from there."""
        return Observation(images=(encode_png(self._render()),))

    def act(self, text: str) -> float | None:
        """Makes the first action of the answer's last block; words that are none waste the turn."""
        if self._over:
            return None
        self._num_turns += 1
        word = self._word(text)
        reward = 0.0
        if word is not None:
            self._num_parsed += 1
            self._seen = None
            _, gained, self._terminated, truncated, _ = self._env.step(self._world.actions_of[word])
            reward = float(gained)
            self._total += reward
            self._over = bool(self._terminated or truncated)
        self._over = self._over or self._num_turns >= self._world.max_turns
        return reward

    def outcome(self) -> Outcome:
        success = bool(self._world.success(self._total, bool(self._terminated)))
        reason = "success" if success else "terminated" if self._terminated else "not_reached"
        return Outcome(
            success=success,
            reason=reason,
            measures={
                "parsed": bool(self._num_turns) and self._num_parsed == self._num_turns,
                "return": self._total,
                "num_turns": self._num_turns,
            },
        )

    def close(self) -> None:
        self._env.close()

    def _word(self, text: str) -> str | None:
        """The first word of the answer's last block, if it is an action. Letters that grids read as moves are none."""
        words = (last_answer_block(text) or "").replace(",", " ").upper().split()
        return words[0] if words and words[0] in self._world.actions_of else None

    def _render(self) -> np.ndarray:
        picture = np.asarray(self._env.render())
        if picture.dtype != np.uint8 or picture.ndim != 3:
            raise PilotageError(
                f"{self._world.name}: render() gave {type(picture).__name__} of shape {picture.shape}; make the "
                "environment with render_mode='rgb_array'"
            )
        return picture

    def _look(self) -> Observation:
        picture = self._render()
        world, env = self._world, self._env.unwrapped
        privileged = None
        if world.state is not None or world.expert_of_env is not None:
            state = dict(world.state(env)) if world.state is not None else None
            words = world.facts(env) if world.facts is not None else (state or {})
            privileged = Privileged(
                state=state,
                facts={name: str(value) for name, value in words.items()},
                plan=world.expert_plan(self._env),
            )
        return Observation(images=(encode_png(picture),), privileged=privileged)


def _pixels(png: bytes) -> bytes:
    """What the picture shows, whatever it was compressed with: the file's own bytes hang on the version of zlib."""
    pixels = decode_png(png)
    return repr(pixels.shape).encode() + pixels.tobytes()
