"""One process of worlds as the agent's side holds it: started, asked one thing at a time, killed if it misbehaves."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError
from pilotage.records import End
from pilotage.worlds import wire
from pilotage.worlds.world import SessionError

SOURCE = Path(__file__).parent.parent.parent
CHUNK_BYTES = 1 << 20


class Child:
    """The process, its two pipes, and a third that ends it when this process is gone, however it went."""

    def __init__(
        self,
        *,
        max_bytes: int,
        start_timeout_s: float,
        env: Mapping[str, str],
        log: Path | None,
        host: str = "pilotage.worlds.host",
    ) -> None:
        """Does not wait until it is ready: several may start at once. Raises PilotageError where none can start.

        `host` is the module that it runs.
        """
        self.failure: SessionError | None = None
        """Why it was ended; None while it lives."""
        self.num_sessions = 0
        self._max_bytes, self._start_timeout_s = max_bytes, start_timeout_s
        self._lock = threading.Lock()
        self._number, self._is_ready = 0, False
        life_fd, self._life_fd = os.pipe()
        try:
            with open(log, "ab") if log else contextlib.nullcontext() as prints:
                self._process = subprocess.Popen(
                    # -P: no module of the folder that we happen to be in.
                    [sys.executable, "-P", "-m", host, str(life_fd), str(max_bytes)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=prints,
                    bufsize=0,
                    env=_environment(env),
                    pass_fds=(life_fd,),
                    # A group of its own: Ctrl-C is ours to handle, and killing reaches what a simulator has started.
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._life_fd)
            raise PilotageError(f"a process for worlds cannot be started: {error}") from error
        finally:
            os.close(life_fd)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        for pipe in (self._in, self._out):
            os.set_blocking(pipe.fileno(), False)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._out, select.POLLIN)
        self._writable.register(self._in, select.POLLOUT)
        self._buffer = bytearray()

    def request(
        self, command: Mapping[str, Any], pictures: Sequence[bytes] = (), *, timeout_s: float
    ) -> tuple[Any, tuple[bytes, ...]]:
        """What it answers. Raises WireError, before anything is sent, for a command that cannot be; SessionError where
        the world failed; PilotageError where the world raised it."""
        with self._lock:
            if self.failure is not None:
                raise SessionError(
                    f"its process was ended because of another episode: {self.failure}", by_another=True
                )
            number = self._number + 1
            raw = wire.frame({**command, "id": number}, pictures, max_bytes=self._max_bytes)
            try:
                if not self._is_ready:
                    self._wait_until_ready()
                self._number = number
                deadline_s = time.monotonic() + timeout_s
                self._write(raw, deadline_s)
                answer, shown = wire.read(
                    lambda num_bytes: self._take(num_bytes, deadline_s), max_bytes=self._max_bytes
                )
            except TimeoutError:
                raise self.fail(f"no answer to {command['do']} within {timeout_s:g} s", "timeout") from None
            except (EOFError, OSError):
                raise self.fail(f"its process {self._how_it_ended()} during {command['do']}") from None
            except wire.WireError as error:
                raise self.fail(f"its process broke the protocol during {command['do']}: {error}") from error
            except BaseException:  # Ctrl-C: an answer is under way that nobody will read
                self.fail("it was interrupted")
                raise
            if answer.get("id") != number:
                raise self.fail(
                    f"its process broke the protocol during {command['do']}: it answered something else"
                )
            if "ok" in answer:
                return answer["ok"], shown
            message = str(answer.get("error"))[:2000]
            raise PilotageError(message) if answer.get("is_ours") is True else SessionError(message)

    def fail(self, message: str, kind: End = "world_failed") -> SessionError:
        """Ends the process; the error to raise."""
        self.failure = self.failure or SessionError(message, kind)
        self.kill()
        return SessionError(message, kind)

    def ask_to_end(self) -> None:
        """It closes its sessions and ends, where it still can."""
        self.failure = self.failure or SessionError("RemoteWorlds was closed")
        self._in.close()

    def wait_for_end(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        with contextlib.suppress(EOFError, OSError):  # TimeoutError is one
            while not self._out.closed:
                self._take(CHUNK_BYTES, deadline_s)
                self._buffer.clear()

    def kill(self) -> None:
        """Ends it and all that it has started, leaving no zombie and no open pipe; may be called more than once."""
        if self._process.returncode is None:
            # Before `wait`: until then the number cannot have become another's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._in.close()
        self._out.close()
        if self._life_fd >= 0:
            os.close(self._life_fd)
            self._life_fd = -1

    def _wait_until_ready(self) -> None:
        """Raises PilotageError where it never is: nothing that is opened could ever be answered."""
        deadline_s = time.monotonic() + self._start_timeout_s
        try:
            wire.read(lambda num_bytes: self._take(num_bytes, deadline_s), max_bytes=self._max_bytes)
        except TimeoutError:
            message = f"was not ready within {self._start_timeout_s:g} s"
        except (EOFError, OSError):
            message = self._how_it_ended()
        except wire.WireError as error:
            message = f"broke the protocol: {error}"
        else:
            self._is_ready = True
            return
        self.fail(message)
        raise PilotageError(f"a process for worlds {message} before it had begun: see what it printed")

    def _write(self, raw: bytes, deadline_s: float) -> None:
        rest = memoryview(raw)
        while rest:
            try:
                rest = rest[os.write(self._in.fileno(), rest) :]
            except BlockingIOError:
                _wait(self._writable, deadline_s)

    def _take(self, num_bytes: int, deadline_s: float) -> bytes:
        while len(self._buffer) < num_bytes:
            _wait(self._readable, deadline_s)
            chunk = os.read(self._out.fileno(), CHUNK_BYTES)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        taken = bytes(self._buffer[:num_bytes])
        del self._buffer[:num_bytes]
        return taken

    def _how_it_ended(self) -> str:
        """Of a process whose pipe is closed; one that closed it and lives on is killed for it."""
        try:
            code = self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code >= 0:
            return f"ended with status {code}"
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        return f"was ended by {name}"


def _wait(poll: select.poll, deadline_s: float) -> None:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0 or not poll.poll(math.ceil(left_s * 1000)):
        raise TimeoutError


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    env = {**os.environ, **more}
    if SOURCE.name not in ("site-packages", "dist-packages"):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SOURCE), env.get("PYTHONPATH"))))
    return env
