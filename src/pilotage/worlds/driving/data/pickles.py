"""Pickles of strangers, read without running anything that they ask for.

A pickle is a program: to unpickle one from outside is to run it. Here nothing of a pickle is ever called. Plain values
are read as they are; of classes only the few names under which numpy writes arrays are known, and each stands for code
of our own that makes an array of plain numbers or texts. Any other name is refused, with that name.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.errors import PilotageError

MAX_BYTES = 8 * 2**30
_CODE = re.compile(r"[<>|=]?(?:[iuf][1248]|b1|[US][0-9]{1,4}|O8?)", re.ASCII)
"""Number and text types; `O` of texts in a list."""


class _Refused(Exception):
    """Something that no data file of this kind holds."""


class _Type:
    """Stands in for a numpy type: its code and byte order, nothing else of its state."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise _Refused(f"an array of {str(code)[:40]!r}")
        self.code = code.lstrip("<>|=")
        self.order = code[0] if code[0] in "<>" else "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]

    def read(self, content: Any, num: int) -> np.ndarray:
        """The `num` values in bytes. Refuses any other length."""
        dtype = np.dtype(self.order + self.code)
        if not isinstance(content, bytes | bytearray) or len(content) != num * dtype.itemsize:
            raise _Refused("an array whose bytes are not as many as its shape says")
        return np.frombuffer(content, dtype)


class _Array:
    """Stands in for a numpy array until its content comes."""

    def __init__(self, *_: Any) -> None:
        self.array: Any = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array without its content")
        _, shape, dtype, is_fortran, content = state
        self.array = _shaped(shape, dtype, content, "F" if is_fortran else "C")


def _shaped(shape: Any, dtype: Any, content: Any, order: Any) -> np.ndarray:
    sides = shape if isinstance(shape, tuple) else ()
    if not isinstance(dtype, _Type) or len(sides) > 4 or not all(type(x) is int and x >= 0 for x in sides):
        raise _Refused("an array of no shape or type that we know")
    num = math.prod(sides)
    if dtype.code.startswith("O"):
        if (
            not isinstance(content, list)
            or len(content) != num
            or not all(isinstance(x, str) for x in content)
        ):
            raise _Refused("an array of objects that are no texts")
        values = np.array([x[:200] for x in content], dtype=str)
    else:
        values = dtype.read(content, num)
    return values.reshape(sides, order="F" if order == "F" else "C")


def _scalar(dtype: Any, content: Any) -> Any:
    if not isinstance(dtype, _Type):
        raise _Refused("a number without a type")
    return dtype.read(content, 1)[0].item()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """How protocol 5 writes an array."""
    made = _Array()
    made.array = _shaped(shape, dtype, bytes(content), order)
    return made


def _encoded(text: Any, encoding: Any = "") -> bytes:
    """How old protocols write bytes: as a text of as many characters."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("bytes in no form that we know")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        stand_in = _KNOWN.get((module, name))
        if stand_in is None:
            raise _Refused(f"{module}.{name}"[:100])
        return stand_in

    def persistent_load(self, pid: Any, /) -> Any:
        raise _Refused("a reference to something outside the file")


def read_pickle(path: Path) -> Any:
    """What a pickle of plain values and arrays holds, arrays as `plain` gives them.

    Raises PilotageError, and nothing else, in one line: for a file that is truncated, and for one that asks for
    anything besides data.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PilotageError(f"{path} has more than {MAX_BYTES} bytes")
        with path.open("rb") as file:
            return _Reader(file).load()
    except _Refused as refused:
        raise PilotageError(
            f"{path} asks for {refused}, which is no data: a pickle from outside can run programs, so nothing but "
            "numbers, texts, lists, dictionaries and numpy arrays is read of one; write the scenes as JSON lines"
        ) from None
    except OSError as error:
        raise PilotageError(f"{path} cannot be read: {error.strerror}") from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        MemoryError,
        RecursionError,
        struct.error,
    ) as error:
        if isinstance(error, PilotageError):
            raise
        told = " ".join(str(error).split())[:100] or type(error).__name__
        raise PilotageError(f"{path} is no pickle, truncated or damaged ({told})") from None


def plain(value: Any) -> np.ndarray:
    """An array out of what `read_pickle` gave, or out of numbers and lists of them. Raises ValueError for no array."""
    if isinstance(value, _Array):
        return np.asarray(value.array)
    if isinstance(value, list | tuple):
        return np.array([plain(each) for each in value])
    if isinstance(value, int | float | np.ndarray):
        return np.asarray(value)
    raise ValueError(f"{type(value).__name__} is no array")
