"""Agents: the program between a world and a model. An agent says what is asked next, of which role, and acts on it.

An agent is a generator, so that many episodes can wait for one batch of answers: it yields what it asks, is sent the
answer, and acts. It asks no model itself and sees no prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilotage.errors import PilotageError, meant
from pilotage.records import Example, Observation
from pilotage.worlds.world import HasAgentInfo, Session


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One thing to be asked of the model."""

    role: str
    seen: Observation
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the view of it may need besides; kept in the turn."""


class AgentSession:
    """What an agent has of a session: its public observations, acting, and what the world tells agents of an example.

    The outcome, the state and the privileged part of observations stay with who plays: `play` adds that part to what
    the agent asks. That (`pilotage.worlds.world.HasAgentInfo`) comes from the example, so that agents play alike
    where the session lives in another process.
    """

    __slots__ = ("act", "observe", "info")

    def __init__(self, session: Session, world: Any, example: Example) -> None:
        self.info: Mapping[str, Any] = world.agent_info(example) if isinstance(world, HasAgentInfo) else {}

        def observe() -> Observation | None:
            seen = session.observe()
            return None if seen is None else seen.public()

        def act(text: str) -> float | None:
            return session.act(text)

        # Functions, and no attribute that holds the session.
        self.observe: Callable[[], Observation | None] = observe
        self.act: Callable[[str], float | None] = act

    def __getattr__(self, name: str) -> Any:
        try:
            return self.info[name]
        except KeyError:
            known = ", ".join(("observe", "act", *self.info))
            raise AttributeError(f"an agent has {known} of this session, and no {name!r}") from None


Agent = Callable[[AgentSession, str], Generator[Ask, str, None]]
"""(the session as agents have it, the role that the episode begins with) -> asks, sent the answers; it ends when the
episode does."""


def direct(session: AgentSession, role: str) -> Generator[Ask, str, None]:
    """One role, asked until the world has nothing more to show; each answer goes to the world as it is."""
    while (seen := session.observe()) is not None:
        session.act((yield Ask(role=role, seen=seen)))


def agents_of(world: Any) -> Mapping[str, Agent]:
    """Name -> agent of all that may play in this world: `direct`, and those of its attribute `agents`, if any."""
    return {direct.__name__: direct, **getattr(world, "agents", {})}


def agent_of(world: Any, name: str) -> Agent:
    """The agent of this name. Raises PilotageError for one that the world does not offer."""
    known = agents_of(world)
    if name not in known:
        raise PilotageError(
            f"{world.name} has no agent {name!r}; there are {', '.join(known)}{meant(name, known)}"
        )
    return known[name]
