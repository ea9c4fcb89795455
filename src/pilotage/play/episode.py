"""An episode of many turns played by hand: whatever a model would be asked, a person answers. No torch here.

The world's own agent runs, the prompt and the pictures are those that a model is shown, and the outcome is the world's.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from pilotage.data.made import made_examples, own_levels
from pilotage.errors import PilotageError
from pilotage.records import Condition, Moment, Rollout, Turn, View
from pilotage.views import make_view, view_of
from pilotage.worlds.agents import AgentSession, agent_of, direct
from pilotage.worlds.answers import last_answer_block
from pilotage.worlds.registry import get_world

MAX_SEED = 2**31 - 1
MAX_ANSWER_CHARACTERS = 50_000


class ByHand:
    """One world at the table; a new episode takes the place of the last one."""

    def __init__(self, world: str, options: Mapping[str, Any], *, agent: str | None = None) -> None:
        """Raises PilotageError for a world or an agent that is unknown, and for a world that tells its answers."""
        self.world = get_world(world)
        self.options = dict(options)
        if not self.conditions:
            raise PilotageError(
                f"{world} has no condition that a person may play: each of them tells the answer"
            )
        own = getattr(self.world, "agent", direct)
        self._agent = own if agent is None else agent_of(self.world, agent)
        self._asking: Any = None
        self._session: Any = None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those that tell nothing privileged: what a person would otherwise be told is the answer."""
        return tuple(
            each
            for each in self.world.conditions
            if not any(view_of(view, self.world.name).privileged for view in each.views.values())
        )

    def begin(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The first thing that is asked in the episode of this `seed`, under this `condition`."""
        name, seed = request.get("condition"), request.get("seed")
        known = [each.name for each in self.conditions]
        if name not in known:
            raise PilotageError(f"condition {str(name)[:40]!r} is none; there are {', '.join(known)}")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise PilotageError(f"seed is {str(seed)[:40]!r}: a whole number from 0 to {MAX_SEED}")
        self.close()
        self._condition = next(each for each in self.conditions if each.name == name)
        levels = own_levels(self.world.name)[:1]
        (self._example,) = made_examples(self.world.name, levels, 1, "test", seed, options=self.options)
        self._session = self.world.open(self._example, role=self._condition.role)
        facing = AgentSession(self._session, self.world, self._example)
        self._asking = self._agent(facing, self._condition.role)
        self._past: list[Turn] = []
        return self._next(None)

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked after this `text`, or the episode's outcome. An action alone needs no tags around it."""
        text = request.get("text")
        if self._asking is None:
            raise PilotageError("no episode is under way: begin one")
        if not isinstance(text, str) or len(text) > MAX_ANSWER_CHARACTERS:
            raise PilotageError(f"the answer is no text of at most {MAX_ANSWER_CHARACTERS:,} characters")
        if self._takes_actions() and last_answer_block(text) is None:
            text = f"<answer>{text}</answer>"
        ask = self._ask
        said = Rollout(example_id=self._example.id, token_ids=(), text=text, finished=True, origin="person")
        self._past.append(Turn(role=ask.role, seen=ask.seen, view=self._view, rollout=said, notes=ask.notes))
        return self._next(text)

    def close(self) -> None:
        """Ends what is under way."""
        if self._session is not None:
            self._session.close()
        self._session = self._asking = None

    def _next(self, text: str | None) -> dict[str, Any]:
        try:
            self._ask = next(self._asking) if text is None else self._asking.send(text)
        except StopIteration:
            outcome = self._session.outcome()
            shown = self._session.at_end() if hasattr(self._session, "at_end") else None
            self.close()
            return {
                "over": True,
                "success": outcome.success,
                "reason": outcome.reason.replace("_", " "),
                "measures": {name: round(float(value), 4) for name, value in outcome.measures.items()},
                "images": [] if shown is None else _encoded(shown.images),
            }
        ask = self._ask
        moment = Moment(
            example=self._example, role=ask.role, seen=ask.seen, past=tuple(self._past), notes=ask.notes
        )
        self._view: View = make_view(self._condition.views[ask.role], moment, "full")
        return {
            "over": False,
            "turn": len(self._past) + 1,
            "role": ask.role,
            "text": "\n\n".join(_words(message) for message in self._view.messages),
            "images": _encoded(self._view.images),
            "actions": list(self.world.actions) if self._takes_actions() else [],
        }

    def _takes_actions(self) -> bool:
        """Whether what is asked now is an action of the world's."""
        return bool(getattr(self.world, "actions", ())) and self._ask.role == self.world.roles[0]


def _words(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def _encoded(images: tuple[bytes, ...]) -> list[str]:
    return [base64.b64encode(image).decode("ascii") for image in images]
