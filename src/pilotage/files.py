"""Files that survive being killed, and folders that have one writer.

What is written is the old content or the new, never half of either. What is read is whole, or one line says what is
wrong with it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError

PARTIAL = ".partial"
"""Ending of what is not whole yet."""
STALE_S = 60.0
"""A partial file this old whose writer is dead was left by a kill. Not sooner: its writer may be on another machine."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name of our own to write a file or a folder to, which becomes `path` when the block ends, and is removed when
    it fails.

    The folder that it is in must exist. Several writers of one path do not meet: the last one to end wins, with its
    whole content.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (None, str(partial)):  # a write to an open file names none
            error.filename = str(path)  # the name that a user knows
        raise
    finally:
        _remove(partial)
    _sweep(path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces `path`, text as UTF-8; its folder must exist."""
    with whole(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def append(path: Path, content: bytes) -> None:
    """Adds `content` at the end of `path`, in one write. A disk that fails may leave a part of it there."""
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        error.filename = str(path)
        raise


def file_hash(path: Path) -> str:
    """SHA-256 of what is in a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Replaces `path` with indented JSON, whose keys stay in their order."""
    write_whole(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises PilotageError, which ends with `remedy`, where it is not there, cannot be opened or holds anything else.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise PilotageError(f"{path} is not there: {remedy}") from None
    except OSError as error:
        raise PilotageError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    except (ValueError, RecursionError):
        raise PilotageError(f"{path} is damaged (it is not JSON): {remedy}") from None
    if not isinstance(data, dict):
        raise PilotageError(f"{path} is damaged (it is no JSON object): {remedy}")
    return data


@contextmanager
def locked(lock: Path, *, busy: str) -> Iterator[None]:
    """Holds the file `lock`, made where it is not there, until the block ends; a lock does not outlive its process.

    Raises PilotageError with `busy` where another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            import fcntl
        except ImportError:  # Windows: two writers to one folder are then the user's care.
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PilotageError(busy) from None
        yield


def _sweep(path: Path) -> None:
    """Removes what kills left of earlier writes to `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*-*{PARTIAL}"):
        with contextlib.suppress(OSError):
            if _is_left_over(left) and time.time() - left.stat().st_mtime > STALE_S:
                _remove(left)


def clear_partial(folder: Path) -> None:
    """Removes all that kills left half written in a folder that the caller holds."""
    for left in folder.glob(f"*{PARTIAL}"):
        if not left.name.startswith(".") or _is_left_over(left):
            _remove(left)


def _is_left_over(partial: Path) -> bool:
    """Whether the writer that a partial file is named after is dead."""
    pid = partial.name.removesuffix(PARTIAL).rpartition(".")[2].partition("-")[0]
    return pid.isdigit() and not _lives(int(pid))


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(OSError):
        partial.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
