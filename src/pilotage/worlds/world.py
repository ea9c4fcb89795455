"""The protocols of worlds: what a simulator must offer, and what it may offer besides.

A world emits content, public and privileged apart (`Observation`), and judges. It writes no prompt and knows no model.
What it can do beyond that is a capability of its own, a protocol that a world has or has not: `HasExpert` and
its like here, those of planning worlds in `pilotage.worlds.task`. Who needs one asks `pilotage.worlds.capabilities`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pilotage.records import Condition, End, Example, Measure, Observation, Outcome


class SessionError(Exception):
    """A session failed by the world's fault. `kind` is `world_failed` (it crashed) or `timeout` (it hung)."""

    def __init__(self, message: str, kind: End = "world_failed", *, by_another: bool = False) -> None:
        """`by_another`: it lived in one process with a session that failed, and did nothing wrong itself."""
        super().__init__(message)
        self.kind: End = kind
        self.by_another = by_another


class Session(Protocol):
    """One episode under way.

    An agent has `observe`, without the privileged part, and `act` of it (see `pilotage.worlds.agents.AgentSession`).
    """

    def observe(self) -> Observation | None:
        """What there is now; None when the episode is over."""
        ...

    def act(self, text: str) -> float | None:
        """Takes the model's words, whatever they are, and returns a reward where the world gives one by turns.

        Never raises on any `text`: words that cannot be acted on are a failure or a wasted turn of the model's.
        """
        ...

    def outcome(self) -> Outcome:
        """What the episode has come to, over or cut off here."""
        ...

    def close(self) -> None:
        """Frees what the episode holds; may be called more than once."""
        ...


@runtime_checkable
class World(Protocol):
    """A simulator. The docstrings are the specification; `tests/contracts` holds every registered world to it."""

    @property
    def name(self) -> str:
        """Lower case: file name, JSON field and plot label alike."""
        ...

    @property
    def title(self) -> str:
        """As a prompt or a page names it."""
        ...

    @property
    def roles(self) -> tuple[str, ...]:
        """The parts that a model may play, the usual one first."""
        ...

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every reason that an outcome may have, `success` among them."""
        ...

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Every measure that an outcome may hold."""
        ...

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The ways to measure a model here."""
        ...

    @property
    def usual(self) -> tuple[str, ...]:
        """Names of the conditions that are measured where nobody names any."""
        ...

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> Session:
        """Begins the example's episode, for one of the world's roles (None: its first).

        `strict` takes the harder of two rules where a world has two (FrozenLake: a step off the board fails). Raises
        PilotageError for an example that is not of this world or is damaged.
        """
        ...


@runtime_checkable
class ShowsEnd(Protocol):
    """A session that can still be seen when its episode is over."""

    def at_end(self) -> Observation | None:
        """What there is after the last action, public; None where nothing can be shown."""
        ...


@runtime_checkable
class HasAgentInfo(Protocol):
    """A world whose agents need more than they see: which words are actions, how many of them a turn takes."""

    def agent_info(self, example: Example) -> Mapping[str, Any]:
        """Name -> what an agent of this example's episodes has under that name; nothing of its state or its plan."""
        ...


@runtime_checkable
class HasExpert(Protocol):
    """A world whose expert can go on from wherever an episode is: what DAgger and stepwise teachers need."""

    def expert(self, session: Any) -> tuple[str, ...] | None:
        """The expert's actions from the session's state to the end; None where there is no way on."""
        ...


@runtime_checkable
class HasWrongAnswers(Protocol):
    """A world that knows answers that are wrong: what PALR compares the right one with."""

    def wrong(self, example: Example, num: int, *, seed: int) -> tuple[Example, ...]:
        """The example `num` times, each time told another wrong answer as if it were the right one.

        Raises ImpossibleRequestError where there are not so many; its `num_found` says how many there are.
        """
        ...


class OneAnswer:
    """A session of one turn: something is asked, and the first answer ends it. What it came to, a world's own says."""

    def __init__(self, example: Example) -> None:
        self._example = example
        self._text: str | None = None

    def observe(self) -> Observation | None:
        return self._example.start if self._text is None else None

    def act(self, text: str) -> float | None:
        self._text = text
        return None

    def close(self) -> None:
        pass


def condition_of(world: World, name: str) -> Condition | None:
    """The world's condition of this name, or None."""
    return next((condition for condition in world.conditions if condition.name == name), None)


def check_outcome(world: World, outcome: Outcome) -> Outcome:
    """The outcome, if it speaks the world's own words. Raises SessionError: a world that breaks them is broken."""
    if outcome.reason not in world.reasons:
        raise SessionError(
            f"{world.name}: reason {outcome.reason!r} is not one of {', '.join(world.reasons)}"
        )
    known = {measure.name for measure in world.measures}
    if unknown := sorted(outcome.measures.keys() - known):
        raise SessionError(
            f"{world.name}: {', '.join(unknown)} of its outcome is no measure that it declares "
            f"({', '.join(sorted(known))})"
        )
    return outcome
