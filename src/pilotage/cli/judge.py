"""`pilotage judge`: verdicts for answers that were made anywhere, without any model. No torch here.

One row in memory at a time, whatever the file's size, and no row can end the run: what is wrong with a row
is written where its verdict would have stood.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import tyro

from pilotage.cli.progress import Bar
from pilotage.errors import PilotageError
from pilotage.records import Verdict
from pilotage.tasks import get_task
from pilotage.tasks.judge import judge

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is a bad row: reading it whole would let one row take all the memory."""
MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Score answers in a JSONL file, without any model.

    A row is {"id": ..., "task": ..., "state": {...}, "response": "..."}. Each becomes one line with
    id, parsed, legal, success, optimal, num_executed and reason; a bad row becomes one with line and
    error, and makes the exit status 1. Blank lines are skipped. The summary goes to standard error.

    States
      frozenlake     {"map": ["SFF", "FHF", "FFG"]}
      maze           {"start": [r, c], "target": [r, c], "walls": [[13, 5, ...], ...]}
                     with wall bits N 1, S 2, W 4, E 8
      minibehaviour  {"level": N, "agent": [r, c], "printer": [r, c], "table": [[r, c], ...]}
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.jsonl")]
    """Rows to score; - reads standard input."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: standard output)")
    ] = None
    """Where the verdicts go. The file takes its name when it is complete."""
    strict_edges: tyro.conf.FlagCreatePairsOff[bool] = False
    """A step off the FrozenLake board fails. Without it the move is wasted, as in Gymnasium."""

    def run(self) -> int:
        began_s = time.monotonic()
        tally = Tally()
        with _open_rows(self.file) as rows, _open_out(self.out, source=self.file) as out:
            for line_number, line in _shown(_lines(rows), rows):
                out.write(_judge_line(line_number, line, tally, self.strict_edges))
        print(tally.summary(time.monotonic() - began_s), file=sys.stderr)
        return 1 if tally.num_bad else 0


class _BadRowError(Exception):
    """A row that cannot be judged."""


class Tally:
    """Counts per task, for the summary."""

    def __init__(self) -> None:
        self.num_bad = 0
        self._counts: dict[str, Counter[str]] = {}

    def add(self, task: str, verdict: Verdict) -> None:
        counts = self._counts.setdefault(task, Counter())
        counts["rows"] += 1
        counts["parsed"] += verdict.parsed
        counts["success"] += verdict.success
        counts["optimal"] += verdict.optimal
        counts["illegal"] += verdict.parsed and not verdict.legal

    def summary(self, wall_s: float) -> str:
        num_judged = sum(counts["rows"] for counts in self._counts.values())
        lines = [f"judged {num_judged} rows in {wall_s:.1f} s; {self.num_bad} bad rows"]
        for task, counts in sorted(self._counts.items()):
            shares = "  ".join(
                f"{what} {100 * counts[what] / counts['rows']:5.1f} %"
                for what in ("parsed", "success", "optimal", "illegal")
            )
            lines.append(f"{task:<14} {counts['rows']:>8} rows  {shares}")
        return "\n".join(lines)


def _judge_line(line_number: int, line: bytes | None, tally: Tally, strict_edges: bool) -> str:
    """The output line for one input line; `None` stands for a line that was too long to be read."""
    row: Any = None
    try:
        row = _parse_row(line)
        _check_fields(row)
        task = get_task(row["task"])
        verdict = judge(task, task.parse_state(row["state"]), row["response"], strict_edges=strict_edges)
    except (_BadRowError, PilotageError) as error:
        problem = str(error)
    except RecursionError:
        problem = "nested too deeply"
    else:
        tally.add(row["task"], verdict)
        return _dump({"id": row["id"], **verdict.as_dict()})
    tally.num_bad += 1
    bad = {"line": line_number, "error": _one_line(problem)}
    if row is not None and _is_id(row.get("id")):
        bad = {"id": row["id"], **bad}
    return _dump(bad)


def _parse_row(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise _BadRowError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        row = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _BadRowError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except ValueError as error:  # JSONDecodeError, and whole numbers of thousands of digits
        raise _BadRowError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise _BadRowError(f"a row is a JSON object, not {_kind(row)}")
    return row


def _check_fields(row: dict[str, Any]) -> None:
    for field in ("id", "task", "state", "response"):
        if field not in row:
            raise _BadRowError(f"the field {field!r} is missing")
    if not _is_id(row["id"]):
        raise _BadRowError(f"id is {_kind(row['id'])}, not a string or a whole number")
    for field in ("task", "response"):
        if not isinstance(row[field], str):
            raise _BadRowError(f"{field} is {_kind(row[field])}, not a string")
    if not isinstance(row["state"], dict):
        raise _BadRowError(f"state is {_kind(row['state'])}, not an object")


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return "a number"
    return "an array" if isinstance(value, list) else "an object"


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


# Made once: json.loads and json.dumps with options would make one for every row.
_DECODER = json.JSONDecoder(parse_constant=_reject_constant)
_ENCODER = json.JSONEncoder()


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[: MAX_ERROR_CHARACTERS - 1] + "…"


def _dump(row: dict[str, Any]) -> str:
    """ASCII, so that a lone surrogate in an id survives any encoding of the output."""
    return _ENCODER.encode(row) + "\n"


def _lines(rows: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """(1-based number, line) of every line that is not blank; None for a line beyond MAX_LINE_BYTES."""
    number = 0
    while line := rows.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = rows.readline(MAX_LINE_BYTES)
            yield number, None
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.isspace() and line:
            yield number, line


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
    if out.exists() and not out.is_file():
        partial = out  # a device or a pipe: nothing to rename
    else:
        partial = out.with_name(out.name + ".partial")
    try:
        lines = open(partial, "w", encoding="ascii")  # noqa: SIM115
    except OSError as error:
        raise PilotageError(f"cannot write {out}: {error.strerror}") from None
    with lines:
        yield lines
    if partial is not out:
        os.replace(partial, out)
