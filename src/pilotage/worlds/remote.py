"""Sessions that live in other processes: a simulator that crashes, hangs or lies costs an episode's try and no more.

    with RemoteWorlds(num_processes=4, timeout_s=30) as worlds:
        for episode in play(starts, writer=writer, show=show, open_session=worlds.open_session):
            ...

What comes back is text and pictures. The privileged part stays in the world's process unless the opener asks for it.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pilotage.errors import PilotageError
from pilotage.pictures import BadPictureError, check_png
from pilotage.records import Example, Observation, Outcome
from pilotage.worlds import wire
from pilotage.worlds.child import Child
from pilotage.worlds.world import SessionError

MOST = 1_000_000
"""Of seconds (some eleven days; `poll` counts milliseconds in 32 bits), and of processes."""
CLOSE_S = 2.0
"""What processes have to close their sessions in, when they are to end."""


class Begins(Protocol):
    """What a session is opened from: `pilotage.rollouts.play.Start`."""

    @property
    def example(self) -> Example: ...

    @property
    def role(self) -> str: ...


class RemoteWorlds:
    """Processes that worlds live in; a context manager. They start with the first session; one that was ended is
    replaced by a fresh one."""

    def __init__(
        self,
        *,
        num_processes: int,
        timeout_s: float,
        open_timeout_s: float = 120.0,
        privileged: bool = False,
        strict: bool = False,
        max_message_bytes: int = wire.MAX_MESSAGE_BYTES,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        """`timeout_s` is what one observation, act or outcome may take, `open_timeout_s` what the start of a process or
        of an episode may, with all that a world loads. Whoever exceeds either is killed.

        `privileged`: observations keep their privileged part, for training with teachers that read it. `strict`: as in
        `World.open`. `env`: variables of the processes beside this one's. `log`: what the worlds print is appended
        there; without it, it goes to standard error. Raises PilotageError for a value that cannot be used.
        """
        if os.name != "posix":
            raise PilotageError(f"worlds in processes of their own need a POSIX system, not {os.name}")
        for name, value in (
            ("num_processes", num_processes),
            ("timeout_s", timeout_s),
            ("open_timeout_s", open_timeout_s),
        ):
            if not 0 < value <= MOST:
                raise PilotageError(f"{name} {value} must be more than 0 and at most {MOST:,}")
        if not 4096 <= max_message_bytes < 2**32:
            raise PilotageError(f"max_message_bytes {max_message_bytes} must be from 4096 to {2**32 - 1}")
        self._timeout_s, self._open_timeout_s = timeout_s, open_timeout_s
        self._privileged, self._strict, self._max_bytes = privileged, strict, max_message_bytes
        self._env, self._log = dict(env or {}), log
        self._children: list[Child | None] = [None] * num_processes
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._is_open = False

    def __enter__(self) -> RemoteWorlds:
        self._is_open = True
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes, and what they have started; may be called more than once."""
        with self._lock:
            self._is_open = False
            children = self._children
            self._children = [None for _ in children]
        running = [child for child in children if child is not None]
        try:
            for child in running:
                child.ask_to_end()
            for child in running:
                child.wait_for_end(CLOSE_S)
        finally:
            for child in running:
                child.kill()

    def open_session(self, start: Begins) -> RemoteSession:
        """A session as `play(open_session=...)` wants it."""
        return self.open(start.example, role=start.role or None, strict=self._strict)

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> RemoteSession:
        """Begins the example's episode in the process with the fewest. Raises PilotageError as `World.open` does, and
        SessionError."""
        child, number = self._least_busy()
        try:
            packed, pictures = wire.pack_example(example)
            command = {
                "do": "open",
                "session": number,
                "example": packed,
                "role": role,
                "strict": strict,
                "privileged": self._privileged,
            }
            child.request(command, pictures, timeout_s=self._open_timeout_s)
        except wire.WireError as error:
            raise PilotageError(f"{example.id} cannot be sent to its world's process: {error}") from error
        finally:
            child.num_sessions -= 1  # `_least_busy` reserved it
        return RemoteSession(child, number, timeout_s=self._timeout_s, privileged=self._privileged)

    def _least_busy(self) -> tuple[Child, int]:
        with self._lock:
            if not self._is_open:
                raise PilotageError(
                    "RemoteWorlds is not open: use it as a context manager, `with RemoteWorlds(...) as`"
                )
            for place, child in enumerate(self._children):
                if child is None or child.failure is not None:
                    self._children[place] = self._start()
            child = min(
                (child for child in self._children if child is not None), key=lambda one: one.num_sessions
            )
            child.num_sessions += 1
            return child, next(self._numbers)

    def _start(self) -> Child:
        return Child(
            max_bytes=self._max_bytes, start_timeout_s=self._open_timeout_s, env=self._env, log=self._log
        )


class RemoteSession:
    """An episode under way in another process. It holds nothing of the example."""

    __slots__ = ("_child", "_is_closed", "_number", "_privileged", "_timeout_s")

    def __init__(self, child: Child, number: int, *, timeout_s: float, privileged: bool) -> None:
        self._child, self._number = child, number
        self._timeout_s, self._privileged = timeout_s, privileged
        self._is_closed = False
        child.num_sessions += 1

    def observe(self) -> Observation | None:
        content, pictures = self._ask("observe")
        if isinstance(content, dict) and content.get("over") is True:
            return None
        seen = self._read(lambda: wire.unpack_observation(content, pictures, privileged=self._privileged))
        try:
            for picture in pictures:
                check_png(picture)
        except BadPictureError as error:
            raise SessionError(f"the world showed what cannot be shown: {error}") from error
        return seen

    def act(self, text: str) -> float | None:
        content, _ = self._ask("act", text=text)
        return self._read(lambda: wire.unpack_reward(content["reward"]))

    def outcome(self) -> Outcome:
        content, _ = self._ask("outcome")
        return self._read(lambda: wire.unpack_outcome(content))

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._child.num_sessions -= 1
            if self._child.failure is None:
                self._ask("close")

    def _ask(self, do: str, **more: Any) -> tuple[Any, tuple[bytes, ...]]:
        command = {"do": do, "session": self._number, **more}
        try:
            return self._child.request(command, timeout_s=self._timeout_s)
        except wire.WireError as error:
            raise SessionError(f"what the model said cannot be sent to the world: {error}") from error

    def _read(self, read: Any) -> Any:
        """What an answer says. Our own host sends nothing else: whoever does is not to be asked again."""
        try:
            return read()
        except (wire.WireError, TypeError, KeyError) as error:
            raise self._child.fail(f"the world's process sent what is no answer: {error}") from error
