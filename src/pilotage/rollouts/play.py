"""The one loop in which a model is asked and a world answers: evaluation, training and probes all call it.

    for episode in play(starts, writer=Writer(engine=engine, decoding=decoding), show=show):
        ...

In each round all episodes that wait for an answer are asked in one call of the engine. There is no event loop: the same
starts and weights give the same episodes, whatever the number of episodes that are open at once. Plain questions of no
world (`studies.retention`) and a served model's requests are not episodes, and go to the engine directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from traceback import extract_tb
from typing import Any, TypeVar

from pilotage.errors import PilotageError
from pilotage.records import End, Episode, Example, Moment, Observation, Outcome, Rollout, Turn, View
from pilotage.rollouts.engine import Decoding, Engine, Request
from pilotage.rollouts.stream import Answer, StreamingEngine, answers
from pilotage.worlds.agents import Agent, AgentSession, Ask, agent_of, direct
from pilotage.worlds.registry import get_world
from pilotage.worlds.wire import one_line
from pilotage.worlds.world import Session, SessionError, World, check_outcome

logger = logging.getLogger(__name__)

MAX_TURNS = 64
"""Of an episode, where neither the limits nor its world say how many it may have."""

T = TypeVar("T")
Show = Callable[[Moment], View]
"""What the model or a teacher is shown of a moment."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """An episode to be played."""

    example: Example
    sample: int = 0
    """Which of the episodes from this example."""
    seed: int = 0
    draw: int = 0
    """Number of the sample under this seed, where several episodes share one."""
    role: str = ""
    """The role that it begins with; `""` is the world's first."""

    def key(self, turn: int) -> str:
        """What the noise of a turn's sampling depends on: the example's id, for the first turn that alone."""
        return self.example.id if turn == 0 else f"{self.example.id}#{turn}"


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Who writes a turn's answer, and how."""

    engine: Engine | StreamingEngine | None = None
    decoding: Decoding | None = None
    """How the engine decodes; goes with it."""
    write: Callable[[Moment, View], Rollout] | None = None
    """In place of an engine: writes the answer to a moment whose turn's view is given, as an expert does."""
    show: Show | None = None
    """What the writer is shown, where that is not what the turn's own view shows: a teacher that writes in place of the
    student. None: the turn's own view."""
    batch_size: int = 64
    decodings: dict[str, Decoding] = field(default_factory=dict)
    """Other ways of writing, by the name that an agent notes in its ask (`decoding`), e.g. one that samples where
    greedy answers would repeat themselves. A name that is not here is written as `decoding` says."""
    raises: bool = False
    """A failing engine ends the play with its error (in training), not the episode with a note of it."""

    def __post_init__(self) -> None:
        assert (self.write is None) == (self.engine is not None) == (self.decoding is not None), (
            "a writer has an engine with its decoding, or writes by itself"
        )

    def named(self, name: str) -> Writer:
        """The same with the decoding of this name, where there is one."""
        return replace(self, decoding=self.decodings[name]) if name in self.decodings else self


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When an episode is cut off, and how many are open at once."""

    max_turns: int | None = None
    """None: the world's own (its attribute `max_turns`), 64 where it has none."""
    max_tokens: int | None = None
    """Of all of an episode's answers together."""
    num_open: int = 2048
    """Episodes under way at once; a simulator that takes much memory wants fewer."""
    num_tries: int = 3
    """How often an episode is begun that the world breaks off. Where another's failure took it along, that does not
    count."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "num_open", "num_tries"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise PilotageError(f"{name} {number} must be at least 1")


Open = Callable[[Start], Session]


def open_in_process(start: Start, *, strict: bool = False) -> Session:
    """The start's session in this process."""
    return get_world(start.example.world).open(start.example, role=start.role or None, strict=strict)


def play(
    starts: Sequence[Start],
    *,
    writer: Writer | Callable[[Start, int], Writer],
    show: Show,
    agent: Agent | str | None = None,
    read: Callable[[Start, int, Turn], str] | None = None,
    limits: Limits | None = None,
    open_session: Open = open_in_process,
) -> Iterator[Episode]:
    """The episodes, each when it is over. `writer` may depend on the start and the number of the turn, from 0.

    `agent` None is the world's own (its attribute `agent`), or `direct`; a name is that of one which the start's world
    offers (`pilotage.worlds.agents.agents_of`). `read` says what the world is told of an
    answer; None tells it all, the view's prefill included.

    A session that raises is an end of its own, tried `limits.num_tries` times from the start; an engine that fails on a
    request ends that episode. Both have an `error` and no outcome. Raises PilotageError for an example that no session
    can be begun from, and what a streaming engine raises when no further request could succeed.
    """
    limits = limits or Limits()
    for first in range(0, len(starts), limits.num_open):
        group = [
            _Running(start, agent=agent, read=read, limits=limits, open_session=open_session, place=place)
            for place, start in enumerate(starts[first : first + limits.num_open])
        ]
        try:
            yield from _play_group(group, writer, show)
        finally:
            for running in group:
                running.close()


def _play_group(
    group: Sequence[_Running], writer: Writer | Callable[[Start, int], Writer], show: Show
) -> Iterator[Episode]:
    waiting = []
    for running in group:
        running.begin()
        if running.episode is None:
            waiting.append(running)
        else:
            yield running.episode
    while waiting:
        by_writer: dict[tuple[int, str], tuple[Writer, str, list[_Running]]] = {}
        for running in waiting:
            one = writer if isinstance(writer, Writer) else writer(running.start, len(running.turns))
            name = str(running.ask.notes.get("decoding", ""))
            name = name if name in one.decodings else ""
            # The writer itself is kept beside its id, or another one might come to have it.
            by_writer.setdefault((id(one), name), (one, name, []))[2].append(running)
        still = []
        for one, name, asked in by_writer.values():
            for running in _ask(one.named(name), asked, show):
                if running.episode is None:
                    still.append(running)
                else:
                    yield running.episode
        waiting = sorted(still, key=lambda running: running.place)


def _ask(writer: Writer, asked: list[_Running], show: Show) -> Iterator[_Running]:
    """One call of the engine; each episode when its answer is there and acted on."""
    moments = [running.moment for running in asked]
    for running, moment in zip(asked, moments, strict=True):
        running.view = show(moment)
    if writer.write is not None:
        for running, moment in zip(asked, moments, strict=True):
            running.take(Answer(index=0, rollout=writer.write(moment, running.view), seconds=0.0))
            yield running
        return
    assert writer.engine is not None and writer.decoding is not None, "checked when the writer was made"
    requests = [
        Request(
            view=running.view if writer.show is None else writer.show(moment),
            example_id=running.start.key(len(running.turns)),
            seed=running.start.seed,
            sample=running.start.draw,
        )
        for running, moment in zip(asked, moments, strict=True)
    ]
    if writer.raises:
        rollouts = writer.engine.generate(requests, writer.decoding)  # pyright: ignore[reportAttributeAccessIssue]
        for running, rollout in zip(asked, rollouts, strict=True):
            running.take(Answer(index=0, rollout=rollout, seconds=0.0))
            yield running
        return
    for answer in answers(writer.engine, requests, writer.decoding, batch_size=writer.batch_size):
        running = asked[answer.index]
        running.take(answer)
        yield running


@dataclass(eq=False)
class _Running:
    """An episode under way."""

    start: Start
    agent: Agent | str | None
    read: Callable[[Start, int, Turn], str] | None
    limits: Limits
    open_session: Open
    turns: list[Turn] = field(default_factory=list)
    view: Any = None
    episode: Episode | None = None
    num_tries: int = 0
    num_failures: int = 0
    """Tries that failed by themselves. Each ends all sessions of a process at most, so that tries come to an end."""
    place: int = 0

    def begin(self) -> None:
        """Opens the session and has the first question ready, or the episode's end."""
        self.turns, self.num_tries = [], self.num_tries + 1
        world = get_world(self.start.example.world)
        if isinstance(self.agent, str):
            agent = agent_of(world, self.agent)
        else:
            agent = self.agent or getattr(world, "agent", direct)
        try:
            self._session = _Recorder(self.open_session(self.start), world)
        except PilotageError:
            raise
        except Exception as failure:  # noqa: BLE001 - a simulator at the other side: record and go on
            self._failed(failure)
        else:
            facing = AgentSession(self._session, world, self.start.example)
            self._asking = agent(facing, self.start.role or world.roles[0])
            self._go_on(lambda: next(self._asking))

    @property
    def max_turns(self) -> int:
        """Turns after which the episode is cut off."""
        own = getattr(get_world(self.start.example.world), "max_turns", MAX_TURNS)
        return own if self.limits.max_turns is None else self.limits.max_turns

    @property
    def moment(self) -> Moment:
        return Moment(
            example=self.start.example,
            role=self.ask.role,
            seen=self.ask.seen,
            past=tuple(self.turns),
            notes=self.ask.notes,
        )

    def take(self, answer: Answer) -> None:
        """The answer becomes a turn, and the agent goes on to its next question or to the end."""
        turn = Turn(
            role=self.ask.role,
            seen=self.ask.seen,
            view=self.view,
            rollout=answer.rollout,
            notes={**self.ask.notes, "seconds": answer.seconds, **answer.notes},
        )
        self.turns.append(turn)
        if answer.error:
            self._end("engine_failed", None, error=answer.error, error_kind=answer.error_kind)
            return
        self._session.reward = None
        said = turn.text if self.read is None else self.read(self.start, len(self.turns) - 1, turn)
        self._go_on(lambda: self._asking.send(said))

    def close(self) -> None:
        """Frees the session, whatever state it is in."""
        session: _Recorder | None = getattr(self, "_session", None)
        if session is not None:
            try:
                session.close()
            except Exception as failure:  # noqa: BLE001 - what was to be known of the session is known
                logger.debug("%s: closing its session failed: %s", self.start.example.id, failure)

    def _go_on(self, go_on: Callable[[], Ask]) -> None:
        """The next question or the end. Raises PilotageError for what the agent, and not the world, does wrong."""
        try:
            self._next(go_on)
        except Exception as failure:
            if not self._session.raised(failure):
                if isinstance(failure, PilotageError):
                    raise
                line = extract_tb(failure.__traceback__)[-1]
                raise PilotageError(
                    f"{self.start.example.id}: the agent failed after {len(self.turns)} turns, at {line.filename}:"
                    f"{line.lineno}: {type(failure).__name__}: {failure}"
                ) from failure
            if isinstance(failure, PilotageError) and not self.turns:
                raise  # no session can be begun from this example
            self._failed(failure)

    def _next(self, go_on: Callable[[], Ask]) -> None:
        try:
            ask: Ask | None = go_on()
        except StopIteration:
            ask = None
        if self.turns and self._session.reward is not None:
            self.turns[-1] = replace(self.turns[-1], reward=self._session.reward)
        if ask is None:
            self._end("done", self._session.outcome())
        elif len(self.turns) >= self.max_turns:
            self._end("max_turns", self._session.outcome())
        elif self.limits.max_tokens is not None and self._num_tokens() >= self.limits.max_tokens:
            self._end("max_tokens", self._session.outcome())
        else:
            self.ask = replace(ask, seen=self._session.whole(ask.seen))

    def _num_tokens(self) -> int:
        return sum(len(turn.rollout.token_ids) for turn in self.turns if turn.rollout is not None)

    def _failed(self, failure: Exception) -> None:
        self.close()
        message = one_line(failure)
        kind: End = "world_failed"
        if isinstance(failure, SessionError):
            message, kind = " ".join(str(failure).split())[:500], failure.kind
        self.num_failures += not (isinstance(failure, SessionError) and failure.by_another)
        if self.num_failures < self.limits.num_tries:
            logger.warning("%s: the world failed (%s); beginning again", self.start.example.id, message)
            self.begin()
        else:
            logger.error("%s: the world failed %d times: %s", self.start.example.id, self.num_tries, message)
            self._end(kind, None, error=message, error_kind="timeout" if kind == "timeout" else "world")

    def _end(
        self,
        end: End,
        outcome: Outcome | None,
        *,
        error: str | None = None,
        error_kind: str | None = None,
    ) -> None:
        self.close()
        self.episode = Episode(
            example=self.start.example,
            sample=self.start.sample,
            turns=tuple(self.turns),
            outcome=outcome,
            end=end,
            error=error,
            error_kind=error_kind,
            num_tries=self.num_tries,
        )


class _Recorder:
    """The session; remembers what was seen last, and what an answer was rewarded with."""

    def __init__(self, session: Session, world: World) -> None:
        self._session, self._world = session, world
        self._seen: Observation | None = None
        self._failure: Exception | None = None
        self.reward: float | None = None

    def observe(self) -> Observation | None:
        self._seen = self._ask(self._session.observe)
        return self._seen

    def act(self, text: str) -> float | None:
        reward = self._ask(lambda: self._session.act(text))
        if reward is not None:
            self.reward = reward + (self.reward or 0.0)
        return reward

    def whole(self, seen: Observation) -> Observation:
        """What the agent asks about, with the privileged part of what it saw last: agents are not given it."""
        if self._seen is None or seen == self._seen.public():
            return self._seen or seen
        return replace(seen, privileged=self._seen.privileged)

    def outcome(self) -> Outcome:
        """In the world's own words, or the world has failed and not the model."""
        return self._ask(lambda: check_outcome(self._world, self._session.outcome()))

    def close(self) -> None:
        self._session.close()

    def raised(self, failure: BaseException | None) -> bool:
        """Whether the failure, or what it was raised upon, came out of the session."""
        while failure is not None and failure is not self._failure:
            failure = failure.__cause__ or failure.__context__
        return failure is not None

    def _ask(self, do: Callable[[], T]) -> T:
        try:
            return do()
        except Exception as failure:
            self._failure = failure
            raise
