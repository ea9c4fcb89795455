"""Where a recipe's episodes live, and their examples are made: settings that say it, and that open it.

    Recipe(sessions=SessionsHere())                            in this process
    pilotage train RUN --set "sessions=SessionsApart(num_processes=4, timeout_s=10)"
    pilotage eval RUN --worlds-apart 4:10                      in four processes, ten seconds for each answer

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from pilotage.data.made import Make, made_examples
from pilotage.data.made_apart import MadeApart
from pilotage.errors import PilotageError
from pilotage.rollouts.play import Open, open_in_process
from pilotage.worlds import wire
from pilotage.worlds.remote import RemoteWorlds


class SessionSettings(Protocol):
    """What opens the sessions of episodes, before there are any."""

    def opened(self, *, strict: bool = False) -> AbstractContextManager[Open]:
        """What `play` opens sessions with, while the block runs. `strict` as in `World.open`."""
        ...

    @property
    def make(self) -> Make:
        """What makes a world's examples: the same ones wherever they are made."""
        ...


@dataclass(frozen=True, kw_only=True)
class SessionsHere:
    """In this process: the fastest, for simulators that can be trusted to come back."""

    def opened(self, *, strict: bool = False) -> AbstractContextManager[Open]:
        return nullcontext(partial(open_in_process, strict=strict))

    @property
    def make(self) -> Make:
        return made_examples


@dataclass(frozen=True, kw_only=True)
class SessionsApart:
    """In processes of their own (of each rank, where several train): who hangs or dies costs a try of its episode.

    They start with the first session and end with the block, however it ends. Examples are made in one more, which ends
    when they are made. A process finds a world by its entry point alone, not one that was registered in this process.
    """

    num_processes: int
    timeout_s: float = 60.0
    """What one observation, act or outcome may take, and an example that is made after another."""
    open_timeout_s: float = 120.0
    """What the start of a process or of an episode may take, with all that a world loads, and the first example that is
    made; all of them, of a world that makes a list."""
    max_message_bytes: int = wire.MAX_MESSAGE_BYTES
    """Of an observation with its pictures, and of an example."""

    def __post_init__(self) -> None:
        self._worlds(strict=False)

    @contextmanager
    def opened(self, *, strict: bool = False) -> Iterator[Open]:
        with self._worlds(strict=strict) as worlds:
            yield worlds.open_session

    @property
    def make(self) -> Make:
        return MadeApart(
            timeout_s=self.timeout_s,
            open_timeout_s=self.open_timeout_s,
            max_message_bytes=self.max_message_bytes,
        )

    def _worlds(self, *, strict: bool) -> RemoteWorlds:
        """Raises PilotageError for settings that cannot be used."""
        return RemoteWorlds(
            num_processes=self.num_processes,
            timeout_s=self.timeout_s,
            open_timeout_s=self.open_timeout_s,
            # Views and rows are made here, and some of them tell of the state.
            privileged=True,
            strict=strict,
            max_message_bytes=self.max_message_bytes,
        )


def sessions_named(text: str) -> SessionsHere | SessionsApart:
    """The settings of `4` (processes), of `4:10` (with seconds for each answer), of `0` (none: in this process).

    Raises PilotageError for any other text.
    """
    number, colon, seconds = text.partition(":")
    try:
        num_processes = int(number)
        timeout_s = float(seconds) if colon else None
    except ValueError:
        raise PilotageError(
            f"worlds apart {text!r}: give the number of processes, as in 4, or with the seconds that an answer may "
            "take, as in 4:10"
        ) from None
    if num_processes == 0 and not colon:
        return SessionsHere()
    apart = SessionsApart(num_processes=num_processes)
    if timeout_s is None:
        return apart
    # Who gives an answer more time gives a start no less.
    return replace(apart, timeout_s=timeout_s, open_timeout_s=max(apart.open_timeout_s, timeout_s))
