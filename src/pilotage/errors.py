"""Errors that a user can mend. Everything else is a bug of ours and is left to crash."""

from __future__ import annotations

import difflib
import errno
import importlib.util
import os
import re
from collections.abc import Iterable


class PilotageError(ValueError):
    """A user's input cannot be used; the message names the value, the place and the remedy."""


class ImpossibleRequestError(PilotageError):
    """More of something was asked for than there is (or than can be found within the stated number of tries)."""

    def __init__(self, message: str, *, num_found: int = 0) -> None:
        """`num_found`: how many there are, where whoever asked may be content with them."""
        super().__init__(message)
        self.num_found = num_found


class BadStateError(PilotageError):
    """A symbolic state is malformed: the message names the field and what it should hold."""


def meant(typed: str, legal: Iterable[str]) -> str:
    """`; did you mean eval?`: the end of a message about a name that is none of the legal ones; may be empty."""
    close = difflib.get_close_matches(typed, list(legal), n=1)
    return f"; did you mean {close[0]}?" if close else ""


_DISK_REMEDIES = {
    errno.ENOSPC: "make room and run the same command again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) and run the same command again",
    errno.EDQUOT: "make room and run the same command again",
    errno.EROFS: "name a place that can be written to",
    errno.EACCES: "name a place that you may use, or change its permissions",
    errno.EPERM: "name a place that you may use, or change its permissions",
    errno.ENOENT: "it was removed or never there; look at the path",
    errno.ENOTDIR: "a part of this path is a file; look at the path",
    errno.EISDIR: "it is a folder; name a file",
    errno.EEXIST: "something else has this name; look at the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk or the network behind it fails",
    errno.ESTALE: "the disk or the network behind it fails",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
"""How Rust writes a system's error: safetensors has it in its text alone."""
_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+")
"""What torch.save says of an archive that it could not write to its end."""


def disk_message(error: BaseException) -> str | None:
    """One line for a disk, a folder or a permission that a user can mend; None for any other failure.

    Libraries wrap what the system said: into a text of their own, or behind `raise ... from`. What was merely being
    handled when a bug struck is not looked at.
    """
    link: BaseException | None = error
    while link is not None:
        if (message := _system_message(link)) is not None:
            return message
        link = link.__cause__
    return None


def _system_message(error: BaseException) -> str | None:
    """The same for one exception of a chain."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and _TORCH_WRITER.search(text):
        return "a file of torch could not be written to its end: make room and run the same command again"
    if rust := _RUST_ERROR.search(text):
        # Where it was written to is not said.
        number, where = int(rust[1]), type(error).__module__.partition(".")[0]
    elif isinstance(error, OSError):
        number, where = error.errno or 0, error.filename
    else:
        return None
    if number not in _DISK_REMEDIES:
        return None
    place = f"{os.fsdecode(where)}: " if isinstance(where, str | bytes) else ""
    return f"{place}{os.strerror(number)}: {_DISK_REMEDIES[number]}"


_EXTRA_OF = {
    "accelerate": "train",
    "bitsandbytes": "bnb",
    "datasets": "data",
    "gguf": "smolvl",
    "gymnasium": "gym",
    "httpx2": "endpoint",
    "math_verify": "vqa",
    "metadrive": "driving",
    "minigrid": "household",
    "openai": "endpoint",
    "optimi": "train",
    "peft": "train",
    "pyarrow": "data",
    "safetensors": "train",
    "starlette": "serve",
    "torch": "train",
    "transformers": "train",
    "trl": "train",
    "uvicorn": "serve",
    "vllm": "vllm",
}


def missing_message(error: BaseException) -> str | None:
    """One line for a library of an extra that is not installed; None for any other failure.

    Libraries that import late wrap what they lack behind `raise ... from`.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ModuleNotFoundError):
            missing = (link.name or "").partition(".")[0]
            if missing in _EXTRA_OF:
                return _extra_message(missing)
        link = link.__cause__
    return None


def require(*libraries: str) -> None:
    """Raises PilotageError where a library of an extra is not installed: before anything is written, and unimported."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise PilotageError(_extra_message(library))


def _extra_message(library: str) -> str:
    return f"this needs {library}, which is not installed: pip install 'pilotage[{_EXTRA_OF[library]}]'"
