"""Whether two mathematical texts mean the same, by math-verify in a process of its own.

Symbolic algebra on hostile text can run for ever or fill the memory, inside calls that no thread can be taken out of;
math-verify's own timeout is a Unix alarm that works in the main thread alone. A process can be ended from any thread.
One process serves all comparisons, one after the other; it starts with the first and starts anew after a death.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from functools import lru_cache
from typing import Literal

from pilotage.errors import PilotageError

Comparison = Literal["equal", "differs", "timeout"]

MAX_MATH_CHARACTERS = 300
"""Longer texts are not compared as mathematics: no answer is so long, and parsing is not linear."""
PATIENCE_S = 60.0
"""Seconds of waiting after which a comparison counts as hung: the worker's own limit is 5 of processor time, so this
is for machines that are many times overloaded, and for those where that limit does not exist."""
START_PATIENCE_S = 300.0
CACHED = 16_384


def math_available() -> bool:
    """Whether math-verify is installed (extra `vqa`)."""
    return importlib.util.find_spec("math_verify") is not None


def require_math() -> None:
    """Raises PilotageError when answers cannot be compared as mathematics here. Call it before long work."""
    if not math_available():
        raise PilotageError("grading mathematical answers needs math-verify: pip install 'pilotage[vqa]'")


@lru_cache(maxsize=CACHED)
def compare_math(gold: str, said: str) -> Comparison:
    """What the library says of `said` where `gold` is right; not symmetric in `x = 4` and the like.

    `timeout` when the comparison was ended for its time or its memory. Never raises on any text; raises PilotageError
    where the library is missing.
    """
    if not gold.strip() or not said.strip() or max(len(gold), len(said)) > MAX_MATH_CHARACTERS:
        return "differs"
    require_math()
    return _WORKER.compare(gold, said)


class _Worker:
    """The process, from any thread. A fork of ours gets a process of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str | None] = queue.Queue()
        self._owner = -1

    def compare(self, gold: str, said: str) -> Comparison:
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([gold, said]) + "\n")
                process.stdin.flush()
                reply = self._replies.get(timeout=PATIENCE_S)
            except (queue.Empty, OSError):
                reply = None
            if reply is None:
                self._end()
                return "timeout"
            return "equal" if json.loads(reply) else "differs"

    def end(self) -> None:
        with self._lock:
            if self._owner == os.getpid():
                self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._owner == os.getpid():
            return self._process
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pilotage.worlds.questions.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # The order of a set must not decide what two texts compare as.
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            text=True,
            encoding="utf-8",
        )
        self._process, self._owner, self._replies = process, os.getpid(), queue.Queue()
        threading.Thread(target=_pass_on, args=(process, self._replies), daemon=True).start()
        try:
            ready = self._replies.get(timeout=START_PATIENCE_S)
        except queue.Empty:
            ready = None
        if ready is None:
            self._end()
            raise PilotageError(
                "the process that compares mathematical answers did not start; try "
                "`python -m pilotage.worlds.questions.math_worker` to see why"
            )
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()


def _pass_on(process: subprocess.Popen[str], replies: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            replies.put(line)
    except ValueError:  # closed while reading: the process was ended
        pass
    replies.put(None)


_WORKER = _Worker()
atexit.register(_WORKER.end)
# A fork while another thread compares would leave the child's lock taken for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _WORKER.__init__())
