"""`pilotage judge`: verdicts for answers that were made anywhere, without any model. No torch here.

One row in memory at a time, whatever the file's size, and no row can end the run: what is wrong with a row
is written where its verdict would have stood.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Annotated, Any

import tyro

from pilotage.cli.options import takes
from pilotage.cli.progress import Bar
from pilotage.data.json_lines import MAX_LINE_BYTES, BadLineError, json_type, numbered_lines, parse_object
from pilotage.errors import PilotageError
from pilotage.files import whole
from pilotage.records import Outcome
from pilotage.worlds.judge import StateJudge
from pilotage.worlds.registry import planning_world, planning_worlds
from pilotage.worlds.task import Plans

MAX_ERROR_CHARACTERS = 300
MAX_KNOWN_BYTES = 4 * 2**20
"""What the states kept by `KnownStates` may take, as bytes of their keys: about 10,000 of level 8, in two halves."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Score answers in a JSONL file, without any model.

    A row is {"id": ..., "task": ..., "state": {...}, "response": "..."}. Each becomes one line with
    id, parsed, legal, success, optimal, num_executed and reason; a bad row becomes one with line and
    error, and makes the exit status 1. Blank lines are skipped. The summary goes to standard error.
    optimal is null in a world that solves nothing.

    States, by task:
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.jsonl")]
    """Rows to score; - reads standard input."""
    out: Annotated[Path | None, takes("FILE", "standard output")] = None
    """Where the verdicts go. The file takes its name when it is complete."""
    strict_edges: tyro.conf.FlagCreatePairsOff[bool] = False
    """A step off the FrozenLake board fails. Without it the move is wasted, as in Gymnasium."""

    def run(self) -> int:
        began_s = time.monotonic()
        tally = Tally()
        with _open_rows(self.file) as rows, _open_out(self.out, source=self.file) as out:
            states = KnownStates()
            for line_number, line in _shown(numbered_lines(rows, MAX_LINE_BYTES), rows):
                out.write(_judge_line(line_number, line, tally, self.strict_edges, states))
        print(tally.summary(time.monotonic() - began_s), file=sys.stderr)
        return 1 if tally.num_bad else 0


def _state_forms() -> str:
    """The forms of all registered tasks' states, as lines of a docstring of 80 columns."""
    wrapper = textwrap.TextWrapper(width=76, subsequent_indent=" " * 6)
    lines = [line for task in planning_worlds() for line in wrapper.wrap(f"  {task.name} {task.state_form}")]
    return "".join(f"    {line}\n" for line in lines)


# The help page is the docstring, and the tasks know their forms themselves.
Judge.__doc__ = f"{(Judge.__doc__ or '').rstrip()}\n{_state_forms()}"


class Tally:
    """Counts per task, for the summary."""

    def __init__(self) -> None:
        self.num_bad = 0
        self._endings: Counter[tuple[str, bool, bool, bool, bool]] = Counter()

    def add(self, task: str, outcome: Outcome) -> None:
        of = outcome.measures
        legal = of["parsed"] and not of["illegal"]
        self._endings[task, bool(of["parsed"]), bool(legal), outcome.success, bool(of.get("optimal"))] += 1

    def summary(self, wall_s: float) -> str:
        by_task: dict[str, Counter[str]] = {}
        for (task, parsed, legal, success, optimal), num_rows in self._endings.items():
            named = {
                "rows": True,
                "parsed": parsed,
                "success": success,
                "optimal": optimal,
                "illegal": parsed and not legal,
            }
            by_task.setdefault(task, Counter()).update(
                {name: num_rows for name, is_so in named.items() if is_so}
            )
        lines = [f"judged {self._endings.total()} rows in {wall_s:.1f} s; {self.num_bad} bad rows"]
        for task, counts in sorted(by_task.items()):
            shares = "  ".join(
                f"{what} {100 * counts[what] / counts['rows']:5.1f} %"
                for what in ("parsed", "success", "optimal", "illegal")
            )
            lines.append(f"{task:<14} {counts['rows']:>8} rows  {shares}")
        return "\n".join(lines)


def _judge_line(
    line_number: int, line: bytes | None, tally: Tally, strict_edges: bool, states: KnownStates
) -> str:
    """The output line for one input line; `None` stands for a line that was too long to be read."""
    row: Any = None
    try:
        row = parse_object(line, MAX_LINE_BYTES)
        _check_fields(row)
        known = states.get(row["task"], row["state"])
        outcome = known.judge(row["response"], strict_edges=strict_edges)
    except PilotageError as error:
        tally.num_bad += 1
        bad = {"line": line_number, "error": _one_line(str(error))}
        if row is not None and _is_id(row.get("id")):
            bad = {"id": row["id"], **bad}
        return json.dumps(bad) + "\n"
    tally.add(row["task"], outcome)
    return f'{{"id": {_ENCODER.encode(row["id"])}, {_outcome_text(outcome)}'


def _outcome_text(outcome: Outcome) -> str:
    of = outcome.measures
    return _verdict_text(
        bool(of["parsed"]),
        bool(of["parsed"] and not of["illegal"]),
        outcome.success,
        bool(of["optimal"]) if "optimal" in of else None,
        int(of["num_executed"]),
        outcome.reason,
    )


@lru_cache(maxsize=4096)
def _verdict_text(
    parsed: bool, legal: bool, success: bool, optimal: bool | None, num_executed: int, reason: str
) -> str:
    """The rest of a line, after the id. ASCII, as all of it: a lone surrogate in an id survives any encoding."""
    verdict = {
        "parsed": parsed,
        "legal": legal,
        "success": success,
        "optimal": optimal,
        "num_executed": num_executed,
        "reason": reason,
    }
    return json.dumps(verdict)[1:] + "\n"


class KnownStates:
    """States that rows have named lately, parsed and checked once. Its memory is bounded, however long the file.

    Two generations: when the newer is full, it becomes the older and what was the older is forgotten; a state that
    is met again moves to the newer. That costs less than forgetting states one by one.
    """

    def __init__(self, max_bytes: int = MAX_KNOWN_BYTES) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._newer: dict[tuple[str, bytes], StateJudge] = {}
        self._older: dict[tuple[str, bytes], StateJudge] = {}

    def get(self, task_name: str, data: dict[str, Any]) -> StateJudge:
        """Raises PilotageError for an unknown task or a state that is none."""
        try:
            # Version 2 has no references: equal values give equal bytes, and 1, 1.0 and true do not.
            key = (task_name, marshal.dumps(data, 2))
        except ValueError:
            raise BadLineError("nested too deeply") from None
        known = self._newer.get(key)
        if known is None:
            known = self._older.get(key)
            if known is None:
                task = planning_world(task_name, Plans)
                known = StateJudge(task, task.parse_state(data))
            self._keep(key, known)
        return known

    def _keep(self, key: tuple[str, bytes], known: StateJudge) -> None:
        num_bytes = len(key[1])
        if 2 * (self._num_bytes + num_bytes) > self._max_bytes:
            self._older, self._newer, self._num_bytes = self._newer, {}, 0
        if 2 * num_bytes <= self._max_bytes:
            self._newer[key] = known
            self._num_bytes += num_bytes


def _check_fields(row: dict[str, Any]) -> None:
    for field in ("id", "task", "state", "response"):
        if field not in row:
            raise BadLineError(f"the field {field!r} is missing")
    if not _is_id(row["id"]):
        raise BadLineError(f"id is {json_type(row['id'])}, not a string or a whole number")
    for field in ("task", "response"):
        if not isinstance(row[field], str):
            raise BadLineError(f"{field} is {json_type(row[field])}, not a string")
    if not isinstance(row["state"], dict):
        raise BadLineError(f"state is {json_type(row['state'])}, not an object")


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


_ENCODER = json.JSONEncoder()
"""Made once: json.dumps with options would make one for every row."""


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[: MAX_ERROR_CHARACTERS - 1] + "…"


def _shown(lines: Iterator[tuple[int, bytes | None]], rows: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """The lines as they come; a bar tells a person at a terminal how much of the file is done."""
    if not sys.stderr.isatty() or sys.stdout.isatty() or not rows.seekable():
        yield from lines
        return
    num_megabytes = os.fstat(rows.fileno()).st_size / 1e6
    with Bar("judge", unit="MB") as bar:
        for number, line in lines:
            if number % 1000 == 0:
                bar(rows.tell() / 1e6, num_megabytes, f"{number:,} rows")
            yield number, line


@contextlib.contextmanager
def _open_rows(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        if sys.stdin is None:
            raise PilotageError("cannot read -: standard input is closed")
        yield sys.stdin.buffer
        return
    try:
        rows = open(file, "rb")  # noqa: SIM115
    except OSError as error:
        raise PilotageError(f"cannot read {file}: {error.strerror}") from None
    with rows:
        yield rows


@contextlib.contextmanager
def _open_out(out: Path | None, *, source: str) -> Iterator[IO[str]]:
    """Standard output, or a file that takes its name only when it is complete."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    if source != "-" and out.exists() and out.samefile(source):
        raise PilotageError(f"--out {out} is the file that is being read; name another")
    is_device = out.exists() and not out.is_file()  # or a pipe: nothing to rename
    with (
        contextlib.nullcontext(out) if is_device else whole(out) as target,
        open(target, "w", encoding="ascii") as lines,
    ):
        yield lines
