"""A run folder as it lies there, half finished or not: what could be read, and what could not.

config.json              the run's whole configuration
metrics.jsonl            one line a step: {"stage", "step", "time_s", "<area>/<name>": number, …}
rollouts.jsonl           some raw rollouts of training; no part of the page, but damage to it is told of
eval/<stage>.<condition>.jsonl   rows of `pilotage.evaluate`
summary.json             {"stages": {stage: {"seconds", "tasks": {task: {condition: {"success", "n", …}}}}}}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.run import EVAL_FOLDER
from pilotage.files import read_json
from pilotage.report.conditions import ordered_conditions, task_title, world_name, worlds_of
from pilotage.report.text import visible
from pilotage.worlds.registry import get_world, usual_conditions

ROLLOUTS = "rollouts.jsonl"
STAGE_ORDER = ("base", "stage1", "stage2")
STAGE_TITLES = {"base": "Base", "stage1": "Stage 1", "stage2": "Stage 2"}
_ROW_TYPES = {"id": str, "condition": str, "task": str, "level": int, "response": str, "state": dict}
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
_OUTCOME_TYPES = {"success": bool, "reason": str}
_PLAN_TYPES = {"parsed": bool, "illegal": bool, "optimal": bool, "num_executed": int}
"""Of a plan's outcome besides: all of them, or none; only `optimal` may be missing, where a world solves nothing."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """What a run's folder holds, read whatever state it is in."""

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    """`summary.json`, or `{}`."""
    metrics: Mapping[str, list[Row]]
    """Stage -> its lines by rising step, each step once."""
    rows: Mapping[str, Mapping[str, list[Row]]]
    """Stage -> condition -> evaluation rows, each sample of each example once. Stages in the order they ran."""
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


def order_stages(names: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Without repetition: in the order of the recipe that the run's settings hold, then the usual, then by name."""
    recipe = config.get("recipe")
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    named = (
        [stage.get("stage") for stage in stages if isinstance(stage, dict)]
        if isinstance(stages, list)
        else []
    )
    own = [name for name in named if isinstance(name, str)]
    known = [name for name in dict.fromkeys((STAGE_ORDER[0], *own, *STAGE_ORDER)) if name in names]
    return known + sorted(set(names) - set(known))


def read_config(path: Path) -> Mapping[str, Any]:
    """The settings of the run in a folder, as far as they can be read."""
    return _read_object(path / "config.json", "", [])


def stage_title(stage: str) -> str:
    """The stage as the page names it; an unknown one by its own name, at most 40 characters of it."""
    return STAGE_TITLES.get(stage) or visible(stage, 40)


def read_run(path: Path) -> RunFolder:
    """Whatever can be read of the run folder `path`. PilotageError only when there is no such folder."""
    if not path.is_dir():
        raise PilotageError(f"{path} is no run folder: there is no such directory")
    problems: list[str] = []
    config = _read_object(path / "config.json", "the run's settings", problems)
    summary = _read_object(path / "summary.json", "the seconds of each stage", problems)
    problems.extend(_summary_problems(summary))
    if (path / ROLLOUTS).exists():
        _read_lines(path / ROLLOUTS, problems)
    return RunFolder(
        path=path,
        config=config,
        summary=summary,
        metrics=_read_metrics(path / "metrics.jsonl", problems),
        rows=_read_evals(path / EVAL_FOLDER, config, problems),
        problems=tuple(problems),
    )


def _read_object(path: Path, holds: str, problems: list[str]) -> dict[str, Any]:
    try:
        return read_json(path, remedy=f"{holds} cannot be shown")
    except PilotageError as error:
        problems.append(str(error).replace(str(path), path.name))
        return {}


def _read_lines(path: Path, problems: list[str]) -> list[Row]:
    """The readable lines of a file that is there."""
    try:
        file = read_jsonl(path)
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error.strerror}) and is left out")
        return []
    _add_problems([f"{problem} and is left out" for problem in file.problems], problems)
    return file.rows


def is_share(cell: Any) -> bool:
    """Whether a cell of `summary.json` is a success with its interval."""
    if not isinstance(cell, dict):
        return False
    values: list[Any] = [cell.get(key) for key in ("low", "success", "high", "n")]
    if not all(map(_is_number, values)):
        return False
    low, success, high, n = values
    return 0 <= low <= success <= high <= 1 <= n


def is_seconds(value: Any) -> bool:
    """Whether a value that was read is a plausible time: a number from 0 to 1e9."""
    return _is_number(value) and 0 <= value < 1e9


def _is_number(value: Any) -> bool:
    """Finite, and small enough to be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _summary_problems(summary: Mapping[str, Any]) -> Iterator[str]:
    stages = summary.get("stages", {})
    if not isinstance(stages, dict):
        yield "summary.json is damaged: its stages are no object, and are left out"
        return
    for name, stage in stages.items():
        where = f"summary.json is damaged: {visible(name, 40)}"
        if not isinstance(stage, dict):
            yield f"{where} is no object and is left out"
            continue
        if not is_seconds(stage.get("seconds", 0)):
            yield f"{where} has no seconds that are a time"
        tasks = stage.get("tasks", {})
        cells = [
            (task, condition, cell)
            for task, conditions in (tasks.items() if isinstance(tasks, dict) else [("tasks", None)])
            for condition, cell in (conditions.items() if isinstance(conditions, dict) else [("", None)])
        ]
        for task, condition, cell in cells:
            if not is_share(cell):
                yield f"{where}, {visible(f'{task} {condition}'.strip(), 80)} is no success rate and is left out"


def _read_metrics(path: Path, problems: list[str]) -> dict[str, list[Row]]:
    if not path.exists():
        problems.append(f"{path.name} is not there: no training curves")
        return {}
    steps: dict[str, dict[int, Row]] = {}
    bad: list[str] = []
    for row in _read_lines(path, problems):
        step: Any = row.get("step")
        stage = row.get("stage", "train")
        if not _is_number(step) or not isinstance(stage, str):
            bad.append(
                f"{path.name}: a line has no {'stage' if _is_number(step) else 'step'} and is left out"
            )
            continue
        # A resumed run repeats the steps since its last checkpoint: the later line is the one that counts.
        steps.setdefault(stage, {})[int(step)] = row
    _add_problems(bad, problems)
    if not steps:
        problems.append(f"{path.name} has no steps yet: no training curves")
    return {stage: [rows[step] for step in sorted(rows)] for stage, rows in steps.items()}


def _read_evals(
    folder: Path, config: Mapping[str, Any], problems: list[str]
) -> dict[str, dict[str, list[Row]]]:
    stages: dict[str, dict[str, list[Row]]] = {}
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
        stage, _, condition = path.name.removesuffix(".jsonl").partition(".")
        if not stage or not condition:
            problems.append(
                f"{EVAL_FOLDER}/{path.name} is not named <stage>.<condition>.jsonl and is left out"
            )
            continue
        rows = _read_rows(path, condition, problems)
        if rows:
            stages.setdefault(stage, {})[condition] = rows
    if not stages:
        problems.append(f"{EVAL_FOLDER}/ holds no evaluation rows: no gallery, no table by level")
    ordered = order_stages(list(stages), config)
    for stage in ordered:
        problems.extend(
            f"{stage_title(stage)} was not evaluated on: {missing}" for missing in _lacking(stages[stage])
        )
    return {stage: stages[stage] for stage in ordered}


def _lacking(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """The conditions by which the worlds of a stage's rows are usually measured, and were not; the worlds are named
    where they lack different ones."""
    there: dict[str, set[str]] = {}
    for condition, of_condition in rows.items():
        for world in worlds_of(of_condition):
            there.setdefault(world, set()).add(condition)
    lacking: dict[tuple[str, ...], list[str]] = {}
    for world, conditions in there.items():
        missing = tuple(ordered_conditions(set(usual_conditions([world])) - conditions))
        lacking.setdefault(missing, []).append(task_title(world))
    return [
        ", ".join(missing) + (f" ({', '.join(titles)})" if len(lacking) > 1 else "")
        for missing, titles in lacking.items()
        if missing
    ]


def _read_rows(path: Path, condition: str, problems: list[str]) -> list[Row]:
    """The sound rows of a file, each sample of each example once; an id is one example of each task."""
    rows: dict[tuple[str, str, int], Row] = {}
    bad: list[str] = []
    for row in _read_lines(path, problems):
        problem = row_problem(row, condition)
        if problem:
            bad.append(f"{path.name}: a row {problem} and is left out")
        elif rows.setdefault((row["task"], row["id"], row.get("sample", 0)), row) is not row:
            bad.append(f"{path.name}: a row answers again what an earlier one answers and is left out")
    _add_problems(bad, problems)
    undrawn = [
        f"{path.name}: a row's state cannot be judged: {reason}"
        for row in rows.values()
        if (reason := state_problem(row))
    ]
    _add_problems(
        [f"{what}; it is no part of whose fault, hard levels and misread" for what in undrawn], problems
    )
    return list(rows.values())


def state_problem(row: Row) -> str:
    """What makes the state of a sound row none that can be judged, in words; "" when nothing does."""
    try:
        if not hasattr(get_world(world_name(row)), "parse_state") or "turns" in row:
            return ""  # judged by its own world, and no part of whose fault and misread
        task = get_world(row["task"])
        level = task.level_of(task.parse_state(row["state"]))
    except PilotageError as problem:
        return str(problem)
    return "" if level == row["level"] else f"it is of level {level}, and the row says {row['level']}"


def row_problem(row: Row, condition: str) -> str:
    """What makes a line of a file no evaluation row of that condition, in words; "" when nothing does."""
    for key, type_ in _ROW_TYPES.items():
        if not isinstance(row.get(key), type_):
            return f"has no {key}"
    sample = row.get("sample", 0)
    if not isinstance(sample, int) or isinstance(sample, bool):
        return "has a malformed sample"
    if row["condition"] != condition:
        return f"is of condition {row['condition']!r}"
    for key, type_ in _OPTIONAL_TYPES.items():
        if row.get(key) is not None and not isinstance(row[key], type_):
            return f"has a malformed {key}"
    outcome = row.get("outcome")
    if outcome is not None and not _is_outcome(outcome):
        return "has a malformed outcome"
    turns = row.get("turns", [])
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "has malformed turns"
    if "verdict" in row and outcome is None:
        return "was written by an earlier version (it has a verdict and no outcome): evaluate again"
    return ""


def _is_outcome(outcome: Any) -> bool:
    if not isinstance(outcome, dict):
        return False
    types = dict(_OUTCOME_TYPES)
    if "optimal" in outcome or "illegal" in outcome:
        types |= {name: type_ for name, type_ in _PLAN_TYPES.items() if name != "optimal" or name in outcome}
    return all(isinstance(outcome.get(key), type_) for key, type_ in types.items())


def _add_problems(found: Sequence[str], problems: list[str], at_most: int = 5) -> None:
    """Each sentence once, with how often it holds."""
    counts = Counter(found)
    for problem, count in list(counts.items())[:at_most]:
        problems.append(problem if count == 1 else f"{problem} ({count} such)")
    if len(counts) > at_most:
        problems.append(f"… and {sum(list(counts.values())[at_most:])} more such lines")
