"""Agents for grid worlds that are played move by move: when the model is asked again, and how.

`pilotage.worlds.agents.direct` asks before every move. An answer holds a whole plan, so an agent may as well go on
with the last one. These know a state by its privileged form where there is one and else by its picture, which fog makes
ambiguous; the model is told nothing of it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from pilotage.records import Observation
from pilotage.worlds.agents import Ask
from pilotage.worlds.answers import parse_answer
from pilotage.worlds.task import canonical_key

REVISIT = "revisit"
"""What `sampling_on_revisit` notes as the `decoding` of an ask: see `pilotage.rollouts.play.Writer.decodings`."""


def follow_plan(session: Any, role: str) -> Generator[Ask, str, None]:
    """The whole plan until a surprise: asks again where the plan is used up, where a move did not lead to where the
    rules say, and where a state is seen again, as behind a bump.

    An answer without a plan goes to the world as it is, a wasted turn, and the model is asked again.
    """
    return _follow(session, role, always=True)


def follow_on_revisit(session: Any, role: str) -> Generator[Ask, str, None]:
    """Asks before every move until a state is seen again; the plan that is answered there is followed to its end.

    In half of the circles some state's own plan would have succeeded, had it not been thrown away for the next.
    """
    return _follow(session, role, always=False)


def sampling_on_revisit(session: Any, role: str) -> Generator[Ask, str, None]:
    """Asks before every move; in a state seen before, the ask notes that it wants the decoding `revisit`."""
    visited: set[Any] = set()
    while (seen := session.observe()) is not None:
        here = _look(session.task, seen)
        notes = {"decoding": REVISIT} if here in visited else {}
        visited.add(here)
        session.act((yield Ask(role=role, seen=seen, notes=notes)))


def _follow(session: Any, role: str, *, always: bool) -> Generator[Ask, str, None]:
    task = session.task
    visited: set[Any] = set()
    plan: tuple[str, ...] = ()
    expected: Any = None
    while (seen := session.observe()) is not None:
        here = _look(task, seen)
        again = here in visited
        visited.add(here)
        # A plan that is followed because of a revisit leads through states seen before: no surprise there.
        if not plan or here != expected or (always and again):
            text = yield Ask(role=role, seen=seen)
            plan = parse_answer(text, task.actions).plan or ()
            is_followed = always or again
        else:
            text = f"<answer>{' '.join(plan[: session.burst])}</answer>"
            is_followed = True
        made, plan = plan[: session.burst], plan[session.burst :] if is_followed else ()
        expected = _expected(task, seen, made)
        session.act(text)


def _look(task: Any, seen: Observation) -> Any:
    """What a state is known by."""
    told = seen.privileged
    if told is None or told.state is None:
        return seen.text, seen.images
    return canonical_key(task, task.parse_state(told.state))


def _expected(task: Any, seen: Observation, made: tuple[str, ...]) -> Any:
    """What the state behind these moves is known by; None where only the picture is there, which tells of no rule."""
    told = seen.privileged
    if told is None or told.state is None:
        return None
    state = task.parse_state(told.state)
    for action in made:
        state, reason = task.after(state, action)
        if reason:
            break
    return canonical_key(task, state)
