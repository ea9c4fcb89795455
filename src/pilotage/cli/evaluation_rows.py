"""Rows that were measured before: of a run folder, of one stage of it, or of a file. No model is needed."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError, meant
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.run import EVAL_FOLDER, rows_path
from pilotage.files import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationRows:
    """Rows of an evaluation that were found, and where what is made of them goes."""

    name: str
    """How tables name it: `runs/demo stage2`, or the file's name."""
    rows: list[dict[str, Any]]
    """Of all conditions."""
    beside: Path
    """`<beside>.gap.json` and the like are written next to the rows."""


def find_rows(spec: str, stage: str | None = None, *, out: Path | None = None) -> EvaluationRows:
    """The rows of `RUN` (its last stage, or `stage`), `RUN/STAGE`, or `FILE.jsonl`; `out` is a run folder that takes
    what is made of them.

    Raises PilotageError where there are none, with the stages that there are.
    """
    path = Path(spec)
    if path.is_file():
        beside = path.with_suffix("") if out is None else out / EVAL_FOLDER / path.stem
        return EvaluationRows(name=path.name, rows=_read([path]), beside=beside)
    run = path
    if stage is None and not (path / EVAL_FOLDER).is_dir() and path.name in stages_of(path.parent):
        run, stage = path.parent, path.name
    stages = stages_of(run)
    if not stages:
        raise PilotageError(
            f"{spec} holds no rows: neither a file nor a run folder with {EVAL_FOLDER}/*.jsonl"
        )
    if stage is None:
        stage = stages[-1]
    elif stage not in stages:
        raise PilotageError(
            f"{run} has no rows of a stage {stage!r}; there are {', '.join(stages)}{meant(stage, stages)}"
        )
    files = sorted((run / EVAL_FOLDER).glob(f"{stage}.*.jsonl"))
    beside = (run if out is None else out) / EVAL_FOLDER / stage
    return EvaluationRows(name=f"{run} {stage}", rows=_read(files), beside=beside)


def stages_of(run: Path) -> list[str]:
    """Stages with rows, the one that ran last at the end."""
    from pilotage.report.folder import order_stages, read_config

    names = [file.name.split(".")[0] for file in (run / EVAL_FOLDER).glob("*.*.jsonl")]
    return order_stages(names, read_config(run))


def rows_of(run: Path, stage: str, conditions: Sequence[str], ids: frozenset[str]) -> list[dict[str, Any]]:
    """Rows of these conditions and examples out of a run's files."""
    files = [rows_path(run, stage, condition) for condition in conditions]
    return [row for row in _read([file for file in files if file.is_file()]) if row["id"] in ids]


def keep(path: Path, figures: Mapping[str, Any]) -> None:
    """Writes figures beside their rows and prints where. Where nothing can be written, it says so: they were shown."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, figures)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        logger.warning("%s is not written: %s", path, error.strerror)
    else:
        print(path)


def _read(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Every readable row, each once per condition, example and sample. Bad lines are told of and left out."""
    from pilotage.report.folder import row_problem, state_problem

    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in files:
        file = read_jsonl(path)
        problems = list(file.problems)
        for row in file.rows:
            problem = row_problem(row, str(row.get("condition")))
            if not problem and (reason := state_problem(row)):
                problem = f"is of no state that can be judged: {reason}"
            key = () if problem else (row["condition"], row["task"], row["id"], row.get("sample", 0))
            if not problem and rows.setdefault(key, row) is not row:
                problem = "answers again what an earlier row answers"
            if problem:
                problems.append(f"{path.name}: the row {str(row.get('id'))[:80]} {problem}")
        for problem in problems[:5]:
            logger.warning("%s; left out", problem)
        if len(problems) > 5:
            logger.warning("... and %d more such lines in %s", len(problems) - 5, path)
    if not rows:
        raise PilotageError(f"no evaluation rows in {', '.join(map(str, files))}")
    return list(rows.values())
