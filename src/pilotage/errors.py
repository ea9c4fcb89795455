"""Errors that a user can mend. Everything else is a bug of ours and is left to crash."""

from __future__ import annotations

import errno


class PilotageError(ValueError):
    """A user's input cannot be used; the message names the value, the place and the remedy."""


class ImpossibleRequestError(PilotageError):
    """More distinct states were asked for than exist (or than can be found within the stated number of tries)."""


class BadStateError(PilotageError):
    """A symbolic state is malformed: the message names the field and what it should hold."""


_DISK_REMEDIES = {
    errno.ENOSPC: "make room and run the same command again",
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


def told_of_disk(error: OSError) -> str | None:
    """One line for a disk, a folder or a permission that a user can mend; None for any other failure."""
    remedy = _DISK_REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}: {remedy}"


_EXTRA_OF = {
    "accelerate": "train",
    "datasets": "data",
    "httpx2": "endpoint",
    "math_verify": "vqa",
    "openai": "endpoint",
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


def told_of_missing(error: ImportError) -> str | None:
    """One line for a library of an extra that is not installed; None for any other failed import."""
    missing = (error.name or "").partition(".")[0]
    if missing not in _EXTRA_OF or not isinstance(error, ModuleNotFoundError):
        return None
    return f"this needs {missing}, which is not installed: pip install 'pilotage[{_EXTRA_OF[missing]}]'"
