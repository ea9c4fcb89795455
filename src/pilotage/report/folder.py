"""A run folder as it lies there, half finished or not: what could be read, and what could not.

config.json              the run's whole configuration
metrics.jsonl            one line a step: {"stage", "step", "time_s", "<area>/<name>": number, …}
eval/<stage>.<kind>.jsonl   rows of `pilotage.evaluate`
summary.json             {"stages": {stage: {"seconds", "tasks": {task: {kind: {"success", "n", …}}}}}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import JsonlFile, read_jsonl
from pilotage.evaluate.rows import QUESTION_KIND
from pilotage.evaluate.run import EVAL_FOLDER, KINDS
from pilotage.evaluate.summary import Summary, summarise
from pilotage.report.text import visible

STAGE_ORDER = ("base", "stage1", "stage2")
STAGE_TITLES = {"base": "Base", "stage1": "Stage 1", "stage2": "Stage 2"}
_ROW_TYPES = {"id": str, "kind": str, "task": str, "level": int, "response": str, "state": dict}
_OPTIONAL_TYPES = {
    "difficulty": str,
    "optimal_length": int,
    "split": str,
    "view": str,
    "settings": dict,
    "fields": dict,
    "right": dict,
    "finished": bool,
}
_VERDICT_TYPES = {
    "parsed": bool,
    "legal": bool,
    "success": bool,
    "optimal": bool,
    "num_executed": int,
    "reason": str,
}

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    """`summary.json`, or `{}`."""
    metrics: Mapping[str, list[Row]]
    """Stage -> its lines by rising step, each step once."""
    rows: Mapping[str, Mapping[str, list[Row]]]
    """Stage -> kind -> evaluation rows, each sample of each example once. Stages in the order they ran."""
    problems: tuple[str, ...]
    """What is missing or unreadable, a sentence each."""

    @property
    def stages(self) -> list[str]:
        """Stages that were evaluated, by their rows or by `summary.json`, in order."""
        return order_stages([*self.rows, *self.reported], self.config)

    @property
    def reported(self) -> Mapping[str, Mapping[str, Any]]:
        """`summary.json`'s stages, as far as they are well formed."""
        stages = self.summary.get("stages")
        if not isinstance(stages, dict):
            return {}
        return {str(name): stage for name, stage in stages.items() if isinstance(stage, dict)}

    def summaries(self) -> dict[str, Summary]:
        """Stage -> rates of its rows."""
        return {
            stage: summarise(row for rows in kinds.values() for row in rows)
            for stage, kinds in self.rows.items()
        }


def order_stages(names: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Without repetition: in the order of the recipe that the run's settings hold, then the usual, then by name."""
    recipe = config.get("recipe")
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    told = (
        [stage.get("stage") for stage in stages if isinstance(stage, dict)]
        if isinstance(stages, list)
        else []
    )
    own = [name for name in told if isinstance(name, str)]
    known = [name for name in dict.fromkeys((STAGE_ORDER[0], *own, *STAGE_ORDER)) if name in names]
    return known + sorted(set(names) - set(known))


def read_config(path: Path) -> Mapping[str, Any]:
    """The settings of the run in a folder, as far as they can be read."""
    return _read_object(path / "config.json", "", [])


def stage_title(stage: str) -> str:
    return STAGE_TITLES.get(stage) or visible(stage, 40)


def read_run(path: Path) -> RunFolder:
    """Whatever can be read of the run folder `path`. PilotageError only when there is no such folder."""
    if not path.is_dir():
        raise PilotageError(f"{path} is no run folder: there is no such directory")
    problems: list[str] = []
    config = _read_object(path / "config.json", "the run's settings", problems)
    return RunFolder(
        path=path,
        config=config,
        summary=_read_object(path / "summary.json", "the seconds of each stage", problems),
        metrics=_read_metrics(path / "metrics.jsonl", problems),
        rows=_read_evals(path / EVAL_FOLDER, config, problems),
        problems=tuple(problems),
    )


def _read_object(path: Path, holds: str, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        problems.append(f"{path.name} is not there: {holds} cannot be shown")
        return {}
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        problems.append(f"{path.name} is not JSON: {holds} cannot be shown")
        return {}
    if not isinstance(data, dict):
        problems.append(f"{path.name} is not a JSON object: {holds} cannot be shown")
        return {}
    return data


def _read_metrics(path: Path, problems: list[str]) -> dict[str, list[Row]]:
    if not path.is_file():
        problems.append(f"{path.name} is not there: no training curves")
        return {}
    file = read_jsonl(path)
    _tell(file, problems)
    steps: dict[str, dict[int, Row]] = {}
    for row in file.rows:
        step = row.get("step")
        if not isinstance(step, int | float) or not math.isfinite(step):
            problems.append(f"{path.name}: a line has no step and is left out")
            continue
        # A resumed run repeats the steps since its last checkpoint: the later line is the one that counts.
        steps.setdefault(str(row.get("stage", "train")), {})[int(step)] = row
    if not steps:
        problems.append(f"{path.name} has no steps yet: no training curves")
    return {stage: [rows[step] for step in sorted(rows)] for stage, rows in steps.items()}


def _read_evals(
    folder: Path, config: Mapping[str, Any], problems: list[str]
) -> dict[str, dict[str, list[Row]]]:
    stages: dict[str, dict[str, list[Row]]] = {}
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
        stage, _, kind = path.name.removesuffix(".jsonl").partition(".")
        if kind == QUESTION_KIND:
            problems.append(f"{EVAL_FOLDER}/{path.name} holds answers to questions; the page shows plans")
            continue
        if not stage or not kind:
            problems.append(f"{EVAL_FOLDER}/{path.name} is not named <stage>.<kind>.jsonl and is left out")
            continue
        file = read_jsonl(path)
        _tell(file, problems)
        rows: dict[tuple[str, Any], Row] = {}
        for row in file.rows:
            problem = row_problem(row, kind)
            if problem:
                problems.append(f"{path.name}: a row {problem} and is left out")
            else:
                rows.setdefault((row["id"], row.get("sample", 0)), row)
        if rows:
            stages.setdefault(stage, {})[kind] = list(rows.values())
    if not stages:
        problems.append(f"{EVAL_FOLDER}/ holds no evaluation rows: no gallery, no table by level")
    ordered = order_stages(list(stages), config)
    for stage in ordered:
        lacking = [kind for kind in KINDS if kind not in stages[stage]]
        if lacking:
            problems.append(f"{stage_title(stage)} was not evaluated on: {', '.join(lacking)}")
    return {stage: stages[stage] for stage in ordered}


def row_problem(row: Row, kind: str) -> str:
    """What makes a line of a file no evaluation row of that kind, in words; "" when nothing does."""
    for key, type_ in _ROW_TYPES.items():
        if not isinstance(row.get(key), type_):
            return f"has no {key}"
    sample = row.get("sample", 0)
    if not isinstance(sample, int) or isinstance(sample, bool):
        return "has a malformed sample"
    if row["kind"] != kind:
        return f"is of kind {row['kind']!r}"
    for key, type_ in _OPTIONAL_TYPES.items():
        if row.get(key) is not None and not isinstance(row[key], type_):
            return f"has a malformed {key}"
    verdict = row.get("verdict")
    if verdict is not None and not (
        isinstance(verdict, dict)
        and all(isinstance(verdict.get(key), type_) for key, type_ in _VERDICT_TYPES.items())
    ):
        return "has a malformed verdict"
    return ""


def _tell(file: JsonlFile, problems: list[str], at_most: int = 5) -> None:
    problems.extend(f"{problem} and is left out" for problem in file.problems[:at_most])
    if len(file.problems) > at_most:
        problems.append(f"… and {len(file.problems) - at_most} more such lines")
