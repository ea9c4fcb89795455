"""From a command's words to the command. What tyro says of a mistake in a box becomes one line."""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import takewhile
from typing import Any, TypeVar

import tyro

from pilotage.errors import PilotageError, meant

T = TypeVar("T")

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CHOICE = re.compile(r"invalid choice '(?P<typed>.*)' for argument '.*'\. Expected one of \((?P<legal>.*)\)")
_REASON = re.compile(r"^- <class .*?>: (.*)$", re.MULTILINE)
LARGEST = 2**32 - 1
"""Of whole numbers: the largest seed."""
HELP_INDENT = 8
"""tyro indents an option's text as far as this below its name."""


def parse(command_type: type[T], program: str, arguments: Sequence[str]) -> T:
    """The command with its options. Raises PilotageError for words that make none."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = tyro.cli(
                command_type,
                prog=program,
                description=_description(command_type),
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        message = _one_line(_COLOURS.sub("", complaint.getvalue()))
        raise PilotageError(f"{message} ({program} --help)") from None
    _check_numbers(command)
    return command


def _check_numbers(command: Any) -> None:
    """Raises PilotageError for an option that is no number, or one that no library can count with."""
    for field in fields(command):
        value = getattr(command, field.name)
        option = "--" + field.name.replace("_", "-")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise PilotageError(f"{option} {number} is no number that can be worked with")
            if isinstance(number, int) and abs(number) > LARGEST:
                raise PilotageError(f"{option} {number} is too large; the largest is {LARGEST}")


def _one_line(box: str) -> str:
    """What the box says without an option's own help text, and the option or the choice that may have been meant."""
    said, *more = _sections(box)
    text = " ".join(
        line.strip() for line in takewhile(str.strip, said) if _indent(line) < HELP_INDENT
    ).rstrip(".")
    # Of a value that is none of several types, what the last of them has against it.
    if reasons := _REASON.findall("\n".join(said)):
        text = f"{text.partition(': ')[0]}: {reasons[-1]}"
    for section in more:
        if section and section[0].startswith("Perhaps you meant"):
            options = [line.split()[0].rstrip(",") for line in section if line.strip().startswith("-")]
            return f"{text}; did you mean {' or '.join(options)}?"
    if choice := _CHOICE.fullmatch(text):
        text += meant(choice["typed"], re.findall(r"'([^']*)'", choice["legal"]))
    return text


def _sections(box: str) -> Iterator[list[str]]:
    """The lines between the rules of a box, without its title and its sides.

    Where the output is not UTF-8, the box has no sides, and a rule of its own below the title.
    """
    lines = box.splitlines()
    inside = lines[1:-1] if box.startswith("╭") else lines[2:]
    section: list[str] = []
    for line in (line[2:].rstrip(" │") for line in inside):
        if line and set(line) <= set("─-"):
            yield section
            section = []
        else:
            section.append(line)
    yield section


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _description(command_type: type[object]) -> str:
    """The class's docstring, its lines kept.

    tyro joins lines that begin with a letter and triples empty ones before others: hence the indentation,
    and a zero-width space where a line should be empty.
    """
    summary, *rest = (inspect.getdoc(command_type) or "").splitlines()
    return "\n".join([summary, *("  " + line if line else "\u200b" for line in rest)])
