"""Agents for grid worlds that are played move by move: when the model is asked again, and how.

`pilotage.worlds.agents.direct` asks before every move. An answer holds a whole plan, so an agent may as well go on
with the last one.

These agents know what a model at inference knows: its own answers and what there is to see. A place is known by the
bytes of its pictures and by its text, never by the privileged part. That is enough where a place always looks the same
and no other place of the episode looks like it. It holds in our grid worlds, in fog too, which hides cells but never
where the player is. A model that is told the state in words is played by its picture all the same. In a world with a
moving background nothing is ever seen again; in one that shows only the player's surroundings, two places may pass for
one, and a plan is then begun anew or followed for no reason.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import MappingProxyType
from typing import Any

from pilotage.errors import PilotageError
from pilotage.records import Observation
from pilotage.worlds.agents import Agent, AgentSession, Ask
from pilotage.worlds.answers import parse_answer

REVISIT = "revisit"
"""What `sampling_on_revisit` notes as the `decoding` of an ask: see `pilotage.rollouts.play.Writer.decodings`."""
TEMPERATURES: Mapping[str, float] = MappingProxyType({REVISIT: 1.0})
"""Temperature of the decodings that agents name, where nothing else is said."""


def follow_plan(session: AgentSession, role: str) -> Generator[Ask, str, None]:
    """The whole plan until a surprise: asks again where the plan is used up and where a picture was seen before, as
    behind a move that changed nothing.

    An answer without a plan goes to the world as it is, a wasted turn, and the model is asked again.
    """
    return _follow(session, role, always=True)


def follow_on_revisit(session: AgentSession, role: str) -> Generator[Ask, str, None]:
    """Asks before every move until a picture is seen again; the plan that is answered there is followed to its end,
    through moves that change nothing too: asked about the same picture, a greedy model would answer the same.
    """
    return _follow(session, role, always=False)


def sampling_on_revisit(session: AgentSession, role: str) -> Generator[Ask, str, None]:
    """Asks before every move; where a picture was seen before, the ask notes that it wants the decoding `revisit`."""
    visited: set[Any] = set()
    while (seen := session.observe()) is not None:
        here = _look(seen)
        notes = {"decoding": REVISIT} if here in visited else {}
        visited.add(here)
        session.act((yield Ask(role=role, seen=seen, notes=notes)))


def one_plan(session: AgentSession, role: str) -> Generator[Ask, str, None]:
    """Asks once and makes the moves of that plan, whatever they lead to; the episode ends with it."""
    if (seen := session.observe()) is None:
        return
    text = yield Ask(role=role, seen=seen)
    plan = parse_answer(text, session.actions).plan or ()
    session.act(text)
    for first in range(session.burst, len(plan), session.burst):
        if session.observe() is None:
            return
        session.act(_moves(plan[first : first + session.burst]))


AGENTS: Mapping[str, Agent] = MappingProxyType(
    {agent.__name__: agent for agent in (follow_plan, follow_on_revisit, sampling_on_revisit, one_plan)}
)
"""Those that are offered besides `direct`, by name."""


def _follow(session: AgentSession, role: str, *, always: bool) -> Generator[Ask, str, None]:
    visited: set[Any] = set()
    plan: tuple[str, ...] = ()
    while (seen := session.observe()) is not None:
        here = _look(seen)
        again = here in visited
        visited.add(here)
        # A plan that is followed because of a revisit leads through places seen before: no surprise there.
        if plan and not (always and again):
            text = _moves(plan[: session.burst])
            plan = plan[session.burst :]
        else:
            text = yield Ask(role=role, seen=seen)
            plan = parse_answer(text, session.actions).plan or ()
            plan = plan[session.burst :] if always or again else ()
        session.act(text)


def _moves(plan: tuple[str, ...]) -> str:
    return f"<answer>{' '.join(plan)}</answer>"


def _look(seen: Observation) -> tuple[str, tuple[bytes, ...]]:
    """What a place is known by."""
    if not seen.text and not seen.images:
        raise PilotageError(
            "an agent that knows places by sight was shown nothing: draw pictures (cell_px 32), or play with direct"
        )
    return seen.text, seen.images
