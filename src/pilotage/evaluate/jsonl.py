"""JSON lines that survive being killed: a row is there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.files import append, write_whole


@dataclass(frozen=True, kw_only=True)
class JsonlFile:
    """What a file of JSON lines holds, readable lines and the others apart."""

    rows: list[dict[str, Any]]
    problems: list[str]
    """One sentence for every line that could not be read, with its number."""


def read_jsonl(path: Path) -> JsonlFile:
    """Every readable row of `path`. A bad line is a problem in the answer, never an exception."""
    rows, problems = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError):
                what = "is not JSON" if line.endswith(b"\n") else "was cut short"
                problems.append(f"{path.name} line {number} {what}")
                continue
            if isinstance(row, dict):
                rows.append(row)
            else:
                problems.append(f"{path.name} line {number} is not a JSON object")
    return JsonlFile(rows=rows, problems=problems)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces `path` with `rows`; at every moment the file is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(map(dump_row, rows)))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds `rows` in one write. The caller has cut a half-written last line before (`write_jsonl`)."""
    append(path, "".join(map(dump_row, rows)).encode("ascii"))


def dump_row(row: Mapping[str, Any]) -> str:
    """One line of ASCII, so that a lone surrogate in a model's text survives any encoding."""
    return json.dumps(row) + "\n"
