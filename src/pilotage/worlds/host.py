"""The process that worlds live in: `python -m pilotage.worlds.host`, started by `pilotage.worlds.child` alone.

Commands come over standard input and are answered, one after the other, over what was standard output. A world never
sees either: its prints go to standard error and its standard input is empty. What a world raises is an answer; a world
that dies or hangs takes this process along, which the other side notices.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from pilotage.errors import PilotageError
from pilotage.worlds import wire
from pilotage.worlds.registry import get_world
from pilotage.worlds.world import Session

READY = "ready"


class Host:
    """The sessions of this process and the commands that they know."""

    def __init__(self) -> None:
        self._sessions: dict[int, tuple[Session, bool]] = {}
        """Number -> the session, and whether its privileged part may be told: settled when it is opened."""
        self.commands: Mapping[str, Callable[[Mapping[str, Any]], wire.Message]] = {
            "observe": self._observe,
            "act": self._act,
            "outcome": self._outcome,
            "close": self._close,
        }

    def answer(self, content: Mapping[str, Any], pictures: tuple[bytes, ...]) -> wire.Message:
        """The answer to a command; `ok`, or `error` and whose it is."""
        try:
            if content["do"] == "open":
                answer = self._open(content, pictures)
            elif (command := self.commands.get(content["do"])) is None:
                raise PilotageError(
                    f"unknown command {content['do']!r}; there are open, {', '.join(self.commands)}"
                )
            else:
                answer = command(content)
        except PilotageError as error:
            return {"error": " ".join(str(error).split())[:2000], "is_ours": True}, ()
        # SystemExit too: a simulator that gives up is no reason to end its neighbours.
        except (Exception, SystemExit) as failure:  # noqa: BLE001 - a simulator: record and go on
            return {"error": wire.one_line(failure)}, ()
        return {"ok": answer[0]}, answer[1]

    def _open(self, content: Mapping[str, Any], pictures: tuple[bytes, ...]) -> wire.Message:
        example = wire.unpack_example(content["example"], pictures)
        session = get_world(example.world).open(example, role=content["role"], strict=content["strict"])
        self._sessions[content["session"]] = session, content["privileged"] is True
        return {}, ()

    def _observe(self, content: Mapping[str, Any]) -> wire.Message:
        session, privileged = self._sessions[content["session"]]
        seen = session.observe()
        if seen is None:
            return {"over": True}, ()
        return wire.pack_observation(seen if privileged else seen.public())

    def _act(self, content: Mapping[str, Any]) -> wire.Message:
        reward = self._sessions[content["session"]][0].act(content["text"])
        return {"reward": None if reward is None else float(reward)}, ()

    def _outcome(self, content: Mapping[str, Any]) -> wire.Message:
        return wire.pack_outcome(self._sessions[content["session"]][0].outcome()), ()

    def _close(self, content: Mapping[str, Any]) -> wire.Message:
        if content["session"] in self._sessions:
            self._sessions.pop(content["session"])[0].close()
        return {}, ()

    def close_all(self) -> None:
        for number in list(self._sessions):
            self.answer({"do": "close", "session": number}, ())


def main(host: Host) -> int:
    """Serves it over pipes until the parent goes; the exit status."""
    life_fd, max_bytes = map(int, sys.argv[1:3])
    commands, answers = private_pipes()
    end_with_parent(life_fd)

    def send(number: int, content: Mapping[str, Any], pictures: tuple[bytes, ...] = ()) -> None:
        try:
            raw = wire.frame({**content, "id": number}, pictures, max_bytes=max_bytes)
        except wire.WireError as error:
            message = f"what the world gave cannot be sent: {error}"
            raw = wire.frame({"error": message, "id": number}, max_bytes=max_bytes)
        answers.write(raw)
        answers.flush()

    def take(num_bytes: int) -> bytes:
        raw = commands.read(num_bytes)
        if len(raw) < num_bytes:
            raise EOFError
        return raw

    try:
        send(0, {"ok": READY})
        while True:
            content, pictures = wire.read(take, max_bytes=max_bytes)
            send(content["id"], *host.answer(content, pictures))
    except (EOFError, BrokenPipeError):
        host.close_all()
    return 0


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Commands and answers. From here on descriptor 0 is empty and 1 is standard error, for C libraries too."""
    commands, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(commands, "rb"), os.fdopen(answers, "wb")


def end_with_parent(life_fd: int) -> None:
    """Kills this process group when the parent is gone: nothing is ever written to this pipe, only closed.

    The kernel sends the signal by itself, so that a simulator which hangs in C, and its own children, end too.
    (PR_SET_PDEATHSIG would do so when the parent's *thread* ends.)
    """
    os.set_inheritable(life_fd, False)
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(life_fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life_fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([life_fd], [], [], 0)[0]:  # it was closed before we asked to be told
            os.killpg(0, signal.SIGKILL)
    else:

        def wait() -> None:
            os.read(life_fd, 1)
            os.killpg(0, signal.SIGKILL)

        threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Host()))
