"""`report.html`: one file that shows a run, made from its folder alone. No network, no torch."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pilotage import __version__
from pilotage.evaluate.bootstrap import Interval
from pilotage.evaluate.summary import Rates, Summary
from pilotage.report import charts, curves
from pilotage.report.charts import Cells, Share
from pilotage.report.folder import RunFolder, order_stages, read_run, stage_title
from pilotage.report.gallery import VERDICTS, make_gallery
from pilotage.report.text import duration, percent, points, visible
from pilotage.tasks import TASKS

REPORT_NAME = "report.html"
MACRO = "All tasks"
_HEADER_KEYS = ("recipe", "backbone", "command", "created", "commit", "seed", "device", "version")
MAX_SETTINGS = 200
_COLUMNS = (
    ("image", "success", "Image success"),
    ("text", "success", "Text success"),
    ("perception", "success", "Perception"),
    ("image", "optimal", "Image optimal"),
    ("image", "illegal", "Image illegal"),
    ("image", "parsed", "Image parsed"),
    ("image", "state", "Recited state"),
)


def write_report(run_dir: Path, *, out: Path | None = None, gallery_per_task: int = 12) -> Path:
    """Writes `report.html` into the run folder (or to `out`) and returns its path.

    Whatever the folder lacks is named on the page. Raises PilotageError only when there is no folder.
    """
    page = render_report(read_run(run_dir), gallery_per_task=gallery_per_task)
    target = run_dir / REPORT_NAME if out is None else out
    partial = target.with_name(target.name + ".partial")
    # A file name that is not UTF-8 may have put a lone surrogate into the page.
    partial.write_bytes(page.encode("utf-8", "replace"))
    os.replace(partial, target)
    return target


def render_report(run: RunFolder, *, gallery_per_task: int = 12) -> str:
    """The whole page."""
    summaries = run.summaries()
    shares = _shares(run, summaries)
    titles = {stage: stage_title(stage) for stage in run.stages}
    macro = _macro(run, summaries)
    panels = {stage: curves.panels(rows) for stage, rows in _ordered_metrics(run).items()}
    script = _asset("page.js")
    template = _environment().get_template("page.html.j2")
    return template.render(
        name=visible(run.path.resolve().name, 80),
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=_facts(run),
        problems=[visible(problem, 300) for problem in run.problems],
        titles=titles,
        headline=_headline(macro, len(shares), _levels_are(run)),
        tiles=_tiles(run, macro),
        legend=charts.KIND_TITLES,
        levels_are=_levels_are(run),
        bars=[
            (name, charts.gap_bars(name, cells, titles))
            for name, cells in [*_titled(shares), *([(MACRO, macro)] if len(shares) > 1 else [])]
        ],
        diagnostics=[
            (name, charts.perception_planning(name, i % curves.NUM_COLOURS, cells, titles))
            for i, (name, cells) in enumerate(_titled(shares))
            if any(kinds.keys() >= set(charts.KINDS) for kinds in cells.values())
        ],
        curves=[(stage_title(stage), made) for stage, made in panels.items() if made],
        curve_data=_json([panel.data for made in panels.values() for panel in made]),
        columns=[name for *_, name in _COLUMNS],
        table=list(_table(run, summaries)),
        by_level=list(_by_level(summaries)),
        by_field=list(_by_field(summaries)),
        gallery=make_gallery(run.rows, per_task=gallery_per_task),
        verdicts=VERDICTS,
        task_titles=_task_titles(shares),
        settings=list(_flatten(run.config))[:MAX_SETTINGS],
        style=Markup(_asset("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def _shares(run: RunFolder, summaries: Mapping[str, Summary]) -> dict[str, dict[str, dict[str, Share]]]:
    """Task -> stage -> kind -> success, from the rows, or from `summary.json` where rows are not there."""
    found: dict[str, dict[str, dict[str, Share]]] = {}
    for stage in run.stages:
        reported = run.reported.get(stage, {}).get("tasks")
        cells = dict(_reported_shares(reported)) if isinstance(reported, dict) else {}
        if stage in summaries:
            for task, kinds in summaries[stage].headline().items():
                for kind, cell in kinds.items():
                    n = int(cell["n"])
                    share = Share(success=cell["success"], low=cell["low"], high=cell["high"], n=n)
                    cells[task, kind] = share
        for (task, kind), share in cells.items():
            found.setdefault(task, {}).setdefault(stage, {})[kind] = share
    known = [task.name for task in TASKS if task.name in found]
    return {task: found[task] for task in [*known, *sorted(set(found) - set(known))]}


def _reported_shares(tasks: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Share]]:
    for task, kinds in tasks.items():
        for kind, cell in kinds.items() if isinstance(kinds, dict) else ():
            try:
                share = Share(
                    success=float(cell["success"]),
                    low=float(cell["low"]),
                    high=float(cell["high"]),
                    n=int(cell["n"]),
                )
            except (TypeError, KeyError, ValueError, OverflowError):
                continue
            if 0 <= share.low <= share.success <= share.high <= 1:
                yield (str(task), str(kind)), share


def _macro(run: RunFolder, summaries: Mapping[str, Summary]) -> dict[str, dict[str, Share]]:
    """Stage -> kind -> plain mean over tasks."""
    return {
        stage: {kind: _share(summary.macro["success"]) for kind, summary in summaries[stage].kinds.items()}
        for stage in run.stages
        if stage in summaries
    }


def _share(interval: Interval) -> Share:
    return Share(success=interval.mean, low=interval.low, high=interval.high, n=interval.n)


def _task_titles(tasks: Mapping[str, Any]) -> dict[str, str]:
    known = {task.name: task.title for task in TASKS}
    return {task: known.get(task, visible(task, 40)) for task in tasks}


def _titled(shares: Mapping[str, Cells]) -> list[tuple[str, Cells]]:
    titles = _task_titles(shares)
    return [(titles[task], cells) for task, cells in shares.items()]


def _headline(macro: Cells, num_tasks: int, levels: str) -> str:
    """The run in one sentence, or "" before there is anything to say."""
    with_image = [kinds for kinds in macro.values() if "image" in kinds]
    if not with_image:
        return ""
    first, last = with_image[0], with_image[-1]
    over = "one task" if num_tasks == 1 else f"{num_tasks} tasks"
    whose = f"{levels} of {over}"
    text = f"; from text it is {percent(last['text'].success)} %" if "text" in last else ""
    if len(with_image) == 1:
        return f"Planning from pixels succeeds on {percent(first['image'].success)} % of {whose}{text}."
    return (
        f"Planning from pixels went from {percent(first['image'].success)} % to "
        f"{percent(last['image'].success)} % of {whose}{text}."
    )


def _levels_are(run: RunFolder) -> str:
    """`unseen levels`, unless a row says that training saw its split, or does not say."""
    splits = {row.get("split") for kinds in run.rows.values() for rows in kinds.values() for row in rows}
    return "unseen levels" if splits <= {"test", "val"} else "levels"


def _tiles(run: RunFolder, macro: Cells) -> list[tuple[str, str, str]]:
    """(what, before and after, note) of the numbers to see first."""
    tiles = []
    stages = list(macro.values())
    ends = (stages[0], stages[-1]) if stages else ()
    notes = {
        "image": "success, pictures only",
        "perception": "every field of the state read right",
        "text": "success, state given in words",
    }
    for kind, name in (("image", "Image view"), ("text", "Text view"), ("perception", "Perception")):
        values = [f"{percent(kinds[kind].success)} %" for kinds in ends if kind in kinds]
        if values:
            tiles.append((name, " → ".join(values if len(macro) > 1 else values[:1]), notes[kind]))
    gaps = [k["text"].success - k["image"].success for k in ends if {"text", "image"} <= k.keys()]
    if gaps:
        shown = map(points, gaps if len(macro) > 1 else gaps[:1])
        tiles.insert(1, ("Modality gap", " → ".join(shown), "points between text and image"))
    seconds = [stage.get("seconds") for stage in run.reported.values()]
    known = [float(s) for s in seconds if isinstance(s, int | float) and 0 <= s < 1e9]
    if known:
        tiles.append(("Time", duration(sum(known)), "all stages and evaluations"))
    return tiles


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    """What, when and with which settings, for the header."""
    recipe = run.config.get("recipe")
    known = {**run.summary, **(recipe if isinstance(recipe, dict) else {}), **run.config}
    if isinstance(recipe, dict):
        known["recipe"] = recipe.get("name", "")
    facts = [
        (key.capitalize(), visible(known[key], 200))
        for key in _HEADER_KEYS
        if isinstance(known.get(key), str | int | float) and known[key] != ""
    ]
    started = run.path / "config.json"
    if "created" not in known and started.is_file():
        when = datetime.fromtimestamp(started.stat().st_mtime, UTC)
        facts.append(("Begun", f"{when:%Y-%m-%d %H:%M} UTC"))
    for stage, content in sorted(run.reported.items(), key=lambda item: run.stages.index(item[0])):
        seconds = content.get("seconds")
        if isinstance(seconds, int | float) and 0 <= seconds < 1e9:
            facts.append((f"{stage_title(stage)} took", duration(float(seconds))))
    rows = next((rows for kinds in run.rows.values() for rows in kinds.values()), [])
    settings = rows[0].get("settings") if rows else None
    if isinstance(settings, dict):
        greedy = settings.get("temperature") == 0
        how = "greedy" if greedy else f"temperature {settings.get('temperature')}"
        what = f"{len(rows)} levels a view, {how}, at most {settings.get('max_new_tokens')} tokens"
        facts.append(("Evaluation", visible(f"{what}, {settings.get('prompts')} prompts", 200)))
    return facts


def _ordered_metrics(run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    return {stage: run.metrics[stage] for stage in order_stages(list(run.metrics))}


def _table(run: RunFolder, summaries: Mapping[str, Summary]) -> Iterator[tuple[str, list[Any]]]:
    """(task, [(stage, n, cells)]) rows, the macro mean last."""
    tasks = _task_titles(_shares(run, summaries))
    for task, name in tasks.items():
        rows = []
        for stage, summary in summaries.items():
            by_kind = {kind: s.tasks[task] for kind, s in summary.kinds.items() if task in s.tasks}
            if by_kind:
                rows.append((stage_title(stage), *_cells(by_kind), summary.gap.get(task)))
        if rows:
            yield name, rows
    if len(tasks) > 1 and summaries:
        yield (
            f"{MACRO} (plain mean)",
            [
                (
                    stage_title(stage),
                    max((s.macro["success"].n for s in summary.kinds.values()), default=0),
                    0,
                    [
                        summary.kinds[kind].macro.get(rate) if kind in summary.kinds else None
                        for kind, rate, _ in _COLUMNS
                    ],
                    summary.gap_macro,
                )
                for stage, summary in summaries.items()
            ],
        )


def _cells(by_kind: Mapping[str, Rates]) -> tuple[int, int, list[Interval | None]]:
    """n, rows that the engine failed on, and one interval or None a column."""
    cells = [by_kind[kind].rates.get(rate) if kind in by_kind else None for kind, rate, _ in _COLUMNS]
    return (
        max(rates.n for rates in by_kind.values()),
        sum(rates.num_errors for rates in by_kind.values()),
        cells,
    )


def _by_level(summaries: Mapping[str, Summary]) -> Iterator[tuple[str, str, list[tuple[str, int, Any]]]]:
    """(task, level, [(stage, n, cells)])."""
    levels = sorted(
        {
            (t, n)
            for s in summaries.values()
            for k in s.kinds.values()
            for t, at in k.levels.items()
            for n in at
        }
    )
    titles = _task_titles({task: None for task, _ in levels})
    for task, level in levels:
        rows = []
        for stage, summary in summaries.items():
            by_kind = {
                kind: s.levels[task][level]
                for kind, s in summary.kinds.items()
                if level in s.levels.get(task, {})
            }
            if by_kind:
                n, _, cells = _cells(by_kind)
                rows.append((stage_title(stage), n, cells))
        yield titles[task], f"{level}×{level}", rows


def _by_field(
    summaries: Mapping[str, Summary],
) -> Iterator[tuple[str, list[str], list[tuple[str, list[Any]]]]]:
    """(task, fields, [(stage, share right per field)]) of the perception view."""
    tasks = {
        task: rates
        for s in summaries.values()
        if "perception" in s.kinds
        for task, rates in s.kinds["perception"].tasks.items()
    }
    for task, name in _task_titles(tasks).items():
        fields = list(tasks[task].fields)
        rows: list[tuple[str, Sequence[Interval | None]]] = []
        for stage, summary in summaries.items():
            kind = summary.kinds.get("perception")
            if kind and task in kind.tasks:
                rates = kind.tasks[task]
                rows.append((stage_title(stage), [rates.fields.get(f) for f in fields]))
        if fields:
            yield name, [visible(f, 40) for f in fields], [(stage, list(cells)) for stage, cells in rows]


def _flatten(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        name = f"{prefix}{visible(key, 80)}"
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, dict) and value and name.count(".") < 8:
            yield from _flatten(value, f"{name}.")
        else:
            yield name, visible(value if isinstance(value, str) else json.dumps(value), 300)


def _json(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@lru_cache(maxsize=8)
def _asset(name: str) -> str:
    return (files("pilotage.report") / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points)
    return environment
