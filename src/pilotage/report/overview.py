"""What the head of the page says of a run: its settings in a line each, its result in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pilotage.evaluate.bootstrap import Interval
from pilotage.report.charts import Cells, Share
from pilotage.report.conditions import ordered_conditions, ordered_tasks, world_name
from pilotage.report.folder import Row, RunFolder, is_seconds, is_share, stage_title
from pilotage.report.sources import Source, all_rows
from pilotage.report.text import duration, percent, points, span_text, visible

_HEADER_KEYS = ("recipe", "backbone", "command", "created", "commit", "seed", "device", "version")


def shares_of(sources: Sequence[Source]) -> dict[str, dict[str, dict[str, Share]]]:
    """Task -> source -> condition -> success, from the rows, or from `summary.json` where rows are not there."""
    found: dict[str, dict[str, dict[str, Share]]] = {}
    for source in sources:
        reported = source.reported.get("tasks")
        cells = dict(_reported_shares(reported)) if isinstance(reported, dict) else {}
        if source.summary is not None:
            for task, conditions in source.summary.headline().items():
                for condition, cell in conditions.items():
                    n = int(cell["n"])
                    share = Share(success=cell["success"], low=cell["low"], high=cell["high"], n=n)
                    cells[task, condition] = share
        for (task, condition), share in cells.items():
            found.setdefault(task, {}).setdefault(source.key, {})[condition] = share
    return {task: found[task] for task in ordered_tasks(found)}


def _reported_shares(tasks: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Share]]:
    for task, conditions in tasks.items():
        for condition, cell in conditions.items() if isinstance(conditions, dict) else ():
            if is_share(cell):
                values = {key: float(cell[key]) for key in ("success", "low", "high")}
                yield (str(task), str(condition)), Share(**values, n=int(cell["n"]))


def macro_of(sources: Sequence[Source]) -> dict[str, dict[str, Share]]:
    """Source -> condition -> plain mean over tasks."""
    return {
        source.key: {
            condition: _share(summary.macro["success"])
            for condition, summary in source.summary.conditions.items()
        }
        for source in sources
        if source.summary is not None
    }


def gaps_of(sources: Sequence[Source]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Task -> source -> modality gap, paired by level; and source -> the mean over tasks."""
    gaps: dict[str, dict[str, float]] = {}
    macro = {}
    for source in sources:
        if source.summary is None or source.summary.gap_macro is None:
            continue
        macro[source.key] = source.summary.gap_macro.mean
        for task, interval in source.summary.gap.items():
            gaps.setdefault(task, {})[source.key] = interval.mean
    return gaps, macro


def _share(interval: Interval) -> Share:
    return Share(success=interval.mean, low=interval.low, high=interval.high, n=interval.n)


def headline(macro: Cells, titles: Mapping[str, str], num_tasks: int, levels: str) -> str:
    """The run in one sentence, or "" before there is anything to say: the first condition that was measured, and what
    the last stage reaches by the others."""
    condition = main_condition(macro)
    if condition is None:
        return ""
    stages = [conditions for conditions in macro.values() if condition in conditions]
    first, last = stages[0], stages[-1]
    whose = f"{levels} of {'one task' if num_tasks == 1 else f'{num_tasks} tasks'}"
    others = ", ".join(
        f"{titles[k]} {percent(last[k].success)} %" for k in ordered_conditions(last) if k != condition
    )
    end = f"; {others}." if others else "."
    start = titles[condition][:1].upper() + titles[condition][1:]
    if len(stages) == 1:
        return f"{start}: success on {percent(first[condition].success)} % of {whose}{end}"
    return (
        f"{start}: success went from {percent(first[condition].success)} % to "
        f"{percent(last[condition].success)} % of {whose}{end}"
    )


def headline_of_several(
    sources: Sequence[Source], macro: Cells, titles: Mapping[str, str], levels: str
) -> str:
    """Which of several runs succeeds most, by the plain mean over tasks; the table tells what can be told apart."""
    condition = main_condition(macro)
    if condition is None:
        return ""
    of = {s.title: macro[s.key][condition].success for s in sources if condition in macro.get(s.key, {})}
    shown = ", ".join(f"{title} {percent(success)} %" for title, success in of.items())
    return f"Success on {levels}, {titles[condition]}: {shown}."


def main_condition(macro: Cells) -> str | None:
    """The first condition that was measured."""
    return next(
        iter(ordered_conditions({condition for conditions in macro.values() for condition in conditions})),
        None,
    )


def levels_are(sources: Sequence[Source]) -> str:
    """`unseen levels`, unless a row says that training saw its split, or does not say. Worlds without levels have
    examples."""
    rows = all_rows(sources)
    what = _noun(rows)
    return f"unseen {what}" if {row.get("split") for row in rows} <= {"test", "val"} else what


def _noun(rows: Iterable[Row]) -> str:
    """`levels`, or `examples` where a row has none, or is one of several questions about one."""
    return "levels" if all(row["level"] and world_name(row) == row["task"] for row in rows) else "examples"


MAX_TILES = 3


def tiles(
    run: RunFolder, macro: Cells, titles: Mapping[str, str], gaps: Mapping[str, float]
) -> list[tuple[str, str, str]]:
    """(what, before and after, note) of the numbers to see first; `gaps` are the stages' paired gaps."""
    made = []
    stages = list(macro.values())
    for condition in ordered_conditions({condition for conditions in stages for condition in conditions})[
        :MAX_TILES
    ]:
        values = [conditions[condition] for conditions in stages if condition in conditions]
        shown = [f"{percent(value.success)} %" for value in values]
        last = f"{percent(values[-1].low)}–{percent(values[-1].high)} %, n = {values[-1].n}"
        note = f"success; 95 % interval{' of the last' * (len(values) > 1)} {last}"
        name = titles[condition][:1].upper() + titles[condition][1:]
        made.append((name, " → ".join([shown[0], *shown[1:][-1:]]), note))
    paired = [gaps[stage] for stage in (list(macro)[0], list(macro)[-1]) if stage in gaps] if macro else []
    if paired:
        shown = [points(gap) for gap in (paired if len(macro) > 1 else paired[:1])]
        made.insert(
            1, ("Modality gap", " → ".join(shown), "points between words and picture, paired by level")
        )
    seconds: list[Any] = [stage.get("seconds") for stage in run.reported.values()]
    known = [float(s) for s in seconds if is_seconds(s)]
    if known:
        made.append(("Time", duration(sum(known)), "all stages and evaluations"))
    return made


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """What, when and with which settings, for the header."""
    recipe = run.config.get("recipe")
    known = {**run.summary, **(recipe if isinstance(recipe, dict) else {}), **run.config}
    if isinstance(recipe, dict):
        known["recipe"] = recipe.get("name", "")
    shown = [
        (key.capitalize(), visible(known[key], 200))
        for key in _HEADER_KEYS
        if isinstance(known.get(key), str | int | float) and known[key] != ""
    ]
    started = run.path / "config.json"
    if "created" not in known and started.is_file():
        when = datetime.fromtimestamp(started.stat().st_mtime, UTC)
        shown.append(("Begun", f"{when:%Y-%m-%d %H:%M} UTC"))
    for stage, content in sorted(run.reported.items(), key=lambda item: run.stages.index(item[0])):
        seconds: Any = content.get("seconds")
        if is_seconds(seconds):
            shown.append((f"{stage_title(stage)} took", duration(float(seconds))))
    return [*shown, *evaluation_facts(run)]


def evaluation_facts(run: RunFolder) -> list[tuple[str, str]]:
    """How many levels and answers there are, and how these were decoded: all ways, where there are several."""
    groups = [rows for conditions in run.rows.values() for rows in conditions.values()]
    if not groups:
        return []
    levels = [len({(row["task"], row["id"]) for row in rows}) for rows in groups]
    answers = [round(len(rows) / n) for rows, n in zip(groups, levels, strict=True)]
    what = f"{span_text(levels)} {_noun(row for rows in groups for row in rows)} a condition"
    if max(answers) > 1:
        what += f", {span_text(answers)} answers each"
    how = dict.fromkeys(_decoding(rows[0].get("settings")) for rows in groups)
    return [("Evaluation", visible(", ".join([what, "; ".join(filter(None, how))]).rstrip(", "), 200))]


def _decoding(settings: Any) -> str:
    if not isinstance(settings, dict):
        return ""
    temperature = settings.get("temperature")
    how = "greedy" if temperature == 0 else f"temperature {temperature}"
    return f"{how}, at most {settings.get('max_new_tokens')} tokens, {settings.get('prompts')} prompts"


def flatten(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value) of every setting."""
    for key, value in config.items():
        name = f"{prefix}{visible(key, 80)}"
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, dict) and value and name.count(".") < 8:
            yield from flatten(value, f"{name}.")
        else:
            yield name, visible(value if isinstance(value, str) else json.dumps(value), 300)
