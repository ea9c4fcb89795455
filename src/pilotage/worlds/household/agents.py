"""The agent of RoboAgent (arXiv 2604.07774) between a mission and one model: a scheduler that asks five capabilities.

    schedule -> explore(thing):  explore -> decode -> the actions are made -> locate
             -> do(command):     describe -> decode -> the actions are made -> summarise
             -> stop()

What the scheduler is told of the past are its own queries and the answers of some capabilities. The defaults are those
of the published code; each is a field of `Capabilities`:

* `locate` and `summarise` alone enter the history. A thing not found twice in a row is told once, and a find takes the
  place of the miss before it.
* `describe` is asked where the last `locate` found something, about that thing; its answer is told to `decode` alone.
* A direction that was tried in vain for the same thing, or that is none, is asked for again, ten times at most and each
  time hotter; then the episode is given up.
* Answers that cannot be read: the published code stops with an error. Here the scheduler is asked again, `tries` times;
  a `locate` found nothing, a `decode` makes no action, other answers are told as they are.

Two things are otherwise, because directions here are the agent's own left and right and not names of furniture: a
direction counts as tried until something has changed (`forgets_directions`), and `decode` is asked anew after 16
actions, for what the scheduler asks then.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from pilotage.worlds.agents import Agent, AgentSession, Ask
from pilotage.worlds.household.grammar import MAX_ANSWER, Query, read_answer
from pilotage.worlds.household.observing import LAST
from pilotage.worlds.household.reports import report

TRIES = 10
TEMPERATURES: Mapping[str, float] = MappingProxyType(
    {f"again_{number}": round(0.8 + 0.1 * number, 1) for number in range(1, TRIES + 1)}
)
"""Of the decodings of what is asked again: the published code's."""
NOT_FOUND = "Grounding: not found."
MAX_TOLD = 300
"""Characters of an answer that enter the history."""

Asking = Generator[Ask, str, Any]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """An agent: called with a session and its first role, it plays one episode."""

    history: frozenset[str] = frozenset({"locate", "summarise"})
    """Capabilities whose answers the scheduler is told."""
    describes: str = "found"
    """When `describe` is asked before something is done: `found`, `always`, `never`."""
    tries: int = TRIES
    """How often something is asked again."""
    forgets_directions: bool = True
    """Whether a direction may be tried again once something has changed; False as in the published code."""
    max_lines: int = 24
    """Lines of the history that are told, the last ones."""

    def __call__(self, session: AgentSession, role: str) -> Generator[Ask, str, None]:
        return _Episode(self, session).play()


class _Over(Exception):
    """Nothing more is asked: the episode is over, or given up."""


@dataclass(eq=False)
class _Episode:
    """What the agent keeps in mind."""

    how: Capabilities
    session: AgentSession
    lines: list[str] = field(default_factory=list)
    thing: str = ""
    """What was explored for last."""
    explored: list[str] = field(default_factory=list)
    found: str = ""
    """What `locate` found last; `""` where it found nothing."""

    def play(self) -> Generator[Ask, str, None]:
        try:
            while (query := (yield from self._schedule())).call != "stop":
                yield from (self._explore if query.call == "explore" else self._do)(query.of)
        except _Over:
            return

    def _schedule(self) -> Asking:
        """The scheduler's query. Raises _Over where it writes none."""
        for number in range(self.how.tries + 1):
            text = yield from self._ask(
                "schedule", "", number, history="\n".join(self.lines[-self.how.max_lines :])
            )
            read = read_answer("schedule", text)
            if not read.problem:
                self._tell_query(read.value)
                return read.value
        raise _Over

    def _explore(self, thing: str) -> Asking:
        if thing != self.thing:
            self.thing, self.explored = thing, []
        direction = yield from self._direction(thing)
        self.explored.append(direction)
        before = self._sight()
        yield from self._decode(f"explore {direction}", "")
        if self.how.forgets_directions and self._sight() != before:
            self.explored = []
        text = yield from self._ask("locate", thing)
        read = read_answer("locate", text)
        self.found = thing if read.value else ""
        if "locate" in self.how.history:
            self._tell_place(thing)

    def _direction(self, thing: str) -> Asking:
        """A direction that was not tried. Raises _Over where none is named."""
        for number in range(self.how.tries + 1):
            text = yield from self._ask("explore", thing, number, explored=list(self.explored))
            read = read_answer("explore", text)
            if not read.problem and read.value not in self.explored:
                if "explore" in self.how.history:
                    self.lines.append(f"Direction: {read.value}.")
                return read.value
        raise _Over

    def _do(self, command: str) -> Asking:
        scene = ""
        if self.how.describes == "always" or (self.how.describes == "found" and self.found):
            scene = yield from self._ask("describe", self.found)
            if "describe" in self.how.history:
                self.lines.append(f"Scene: {_short(scene)}")
        log = yield from self._decode(command, _short(scene))
        summary = yield from self._ask("summarise", command, log=log)
        if "summarise" in self.how.history:
            self.lines.append(f"Summary: {_short(summary)}")

    def _decode(self, command: str, scene: str) -> Asking:
        """The actions that were made, and which of them led nowhere, in the world's own words."""
        text = yield from self._ask("decode", command, scene=scene)
        actions: Sequence[str] = read_answer("decode", text).value or ()
        if "decode" in self.how.history:
            self.lines.append(f"Actions: {_short(text)}")
        for action in actions:
            self.session.act(f"<answer>{action}</answer>")
        seen = self.session.observe()
        return seen.text.rpartition(LAST)[2] if seen is not None and actions else "none"

    def _ask(self, role: str, query: str, number: int = 0, **notes: Any) -> Asking:
        """A role's answer, which the session is told of. `number`: how often it was asked before. Raises _Over."""
        seen = self.session.observe()
        if seen is None:
            raise _Over
        if number:
            notes["decoding"] = f"again_{number}"
        text = yield Ask(role=role, seen=seen, notes={"query": query, **notes})
        self.session.act(report(role, query, text[: MAX_ANSWER + 1]))
        return text

    def _tell_query(self, query: Query) -> None:
        line = f"Query: {query}"
        if self.lines[-2:] != [line, NOT_FOUND]:
            self.lines.append(line)

    def _tell_place(self, thing: str) -> None:
        if self.lines and self.lines[-1] == NOT_FOUND:
            self.lines.pop()
        self.lines.append(f"Grounding: {thing} is in view." if self.found else NOT_FOUND)

    def _sight(self) -> tuple[bytes, ...]:
        seen = self.session.observe()
        return () if seen is None else seen.images


def _short(text: str) -> str:
    return " ".join(text.split())[:MAX_TOLD]


capabilities = Capabilities()
"""As published."""
AGENTS: Mapping[str, Agent] = MappingProxyType(
    {
        "capabilities": capabilities,
        "capabilities_all_told": replace(
            capabilities, history=frozenset({"explore", "locate", "describe", "decode", "summarise"})
        ),
        "capabilities_described": replace(capabilities, describes="always"),
        "capabilities_once": replace(capabilities, tries=0),
    }
)
"""Those that are offered by name."""
