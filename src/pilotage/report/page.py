"""`report.html`: one file that shows a run or several side by side, made from their folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pilotage import __version__
from pilotage.errors import PilotageError
from pilotage.files import write_whole
from pilotage.report import charts, curves, numbers, overview
from pilotage.report.assets import asset, embedded_json, environment, script
from pilotage.report.conditions import condition_class, condition_titles, task_title, worlds_of
from pilotage.report.diagnosis import SHOWN_FAULTS, diagnose
from pilotage.report.fault_charts import MIN_BIN
from pilotage.report.faults import FAULTS
from pilotage.report.folder import RunFolder, order_stages, read_run, stage_title
from pilotage.report.gallery import make_gallery
from pilotage.report.pairs import pair_sources
from pilotage.report.sources import all_rows, make_sources, run_names
from pilotage.report.strata import hard_examples
from pilotage.report.text import visible

REPORT_NAME = "report.html"
MAX_SETTINGS = 200
MAX_BUBBLES = 4
"""More sources than this are too many for one chart of bubbles: the first and the last ones stay."""


def write_report(
    *run_dirs: Path, out: Path | None = None, stage: str | None = None, max_levels: int | None = None
) -> Path:
    """Writes `report.html` into the run folder (or to `out`) and returns its path.

    Several runs stand side by side and need `out`; `stage` is the one that is compared (default: the last of
    each; `all` for all). `max_levels` of each task are in the gallery, or all. Whatever a folder lacks is named
    on the page. Raises PilotageError when there is no folder.
    """
    if not run_dirs:
        raise PilotageError("no run to write a page of: give its folder, as in pilotage report runs/demo")
    if len(run_dirs) != 1 and out is None:
        raise PilotageError(f"a page of {len(run_dirs)} runs needs a file to go to: give --out FILE")
    if max_levels is not None and max_levels < 0:
        raise PilotageError(f"max_levels {max_levels}: the gallery holds 0 levels of each task or more")
    page = render_report([read_run(path) for path in run_dirs], stage=stage, max_levels=max_levels)
    target = run_dirs[0] / REPORT_NAME if out is None else out
    # A file name that is not UTF-8 may have put a lone surrogate into the page.
    content = page.encode("utf-8", "replace")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)
        return out
    try:
        write_whole(target, content)
    except OSError as error:
        raise PilotageError(f"{target} cannot be written ({error.strerror}): give --out FILE") from None
    return target


def render_report(
    runs: Sequence[RunFolder], *, stage: str | None = None, max_levels: int | None = None
) -> str:
    """The whole page."""
    sources = make_sources(runs, stage=stage)
    titles = {source.key: source.title for source in sources}
    names = run_names([run.path for run in runs])
    shares = overview.shares_of(sources)
    macro = overview.macro_of(sources)
    levels = overview.levels_are(sources)
    conditions = condition_titles(
        {condition for of in shares.values() for k in of.values() for condition in k},
        worlds_of(all_rows(sources)),
    )
    columns = numbers.columns_of(sources)
    number_names, by_number = numbers.by_number(sources)
    panels = _panels(runs, names)
    pairs, pair_notes = pair_sources(sources)
    gallery = make_gallery(sources, max_levels=max_levels)
    text, text_hash = script("level.js", "waffle.js", "page.js", "gallery.js")
    alone = len(runs) == 1
    in_plane = _few(list(titles))
    gaps, macro_gaps = overview.gaps_of(sources)
    titled = [(task_title(task), cells, gaps.get(task, {})) for task, cells in shares.items()]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            name=names[0] if alone else f"{len(runs)} runs side by side",
            version=__version__,
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            facts=overview.facts(runs[0]) if alone else _run_facts(runs, names),
            problems=_problems(runs, names),
            headline=overview.headline(macro, conditions, _num_measured(shares, macro), levels)
            if alone
            else overview.headline_of_several(sources, macro, conditions, levels),
            tiles=overview.tiles(runs[0], macro, conditions, macro_gaps) if alone else [],
            legend=conditions,
            condition_classes={condition: condition_class(condition) for condition in conditions},
            levels_are=levels,
            bars=[
                (name, charts.gap_chart(name, cells, titles, conditions, gaps))
                for name, cells, gaps in [
                    *titled,
                    *([(numbers.MACRO, macro, macro_gaps)] if len(shares) > 1 else []),
                ]
            ],
            diagnostics=[
                (
                    name,
                    charts.perception_planning(
                        name,
                        i % curves.NUM_COLOURS,
                        {key: cells[key] for key in in_plane if key in cells},
                        titles,
                        is_way=alone,
                    ),
                )
                for i, (name, cells, _) in enumerate(titled)
                if any(k.keys() >= set(charts.PLANE_CONDITIONS) for k in cells.values())
            ],
            not_in_plane=", ".join(title for key, title in titles.items() if key not in in_plane),
            pairs=pairs,
            pair_notes=pair_notes,
            diagnosis=diagnose(sources),
            strata=hard_examples(sources),
            shown_faults=SHOWN_FAULTS,
            min_bin=MIN_BIN,
            fault_titles=FAULTS,
            curves=panels,
            curve_data=embedded_json([panel.data for _, made, _ in panels for panel in made]),
            columns=[column.title for column in columns],
            column_groups=numbers.column_groups(columns),
            has_gap=bool(macro_gaps),
            table=list(numbers.by_task(sources, list(shares))),
            number_names=number_names,
            by_number=by_number,
            by_axis=list(numbers.by_axis(sources)),
            by_level=list(numbers.by_level(sources)),
            by_field=list(numbers.by_field(sources)),
            gallery=gallery,
            gallery_index=embedded_json(gallery.index),
            source_word="Stage" if alone else "Run",
            folded_curves=not alone,
            settings=_settings(runs, names),
            style=Markup(asset("page.css")),
            script=text,
            script_hash=text_hash,
        )
    )


def _num_measured(shares: Mapping[str, charts.Cells], macro: charts.Cells) -> int:
    """Tasks that were measured by the condition that the headline tells of."""
    condition = overview.main_condition(macro)
    return sum(any(condition in conditions for conditions in cells.values()) for cells in shares.values())


def _few(keys: Sequence[str]) -> Sequence[str]:
    """The first source and the last ones, as many as a chart of bubbles has room for."""
    return keys if len(keys) <= MAX_BUBBLES else [keys[0], *keys[1 - MAX_BUBBLES :]]


def _panels(
    runs: Sequence[RunFolder], names: Sequence[str]
) -> list[tuple[str, list[curves.Panel], list[str]]]:
    """(run and stage, its panels of curves, what they do not show)."""
    panels = []
    for run, name in zip(runs, names, strict=True):
        for stage in order_stages(list(run.metrics), run.config):
            made, notes = curves.panels(run.metrics[stage]), curves.notes(run.metrics[stage])
            if made or notes:
                title = stage_title(stage) if len(runs) == 1 else f"{name} · {stage_title(stage)}"
                panels.append((title, made, notes))
    return panels


def _problems(runs: Sequence[RunFolder], names: Sequence[str]) -> list[str]:
    several = len(runs) > 1
    return [
        visible(f"{name}: {problem}" if several else problem, 300)
        for run, name in zip(runs, names, strict=True)
        for problem in run.problems
    ]


def _run_facts(runs: Sequence[RunFolder], names: Sequence[str]) -> list[tuple[str, str]]:
    facts = [
        (name, dict(overview.evaluation_facts(run)).get("Evaluation", "no rows"))
        for run, name in zip(runs, names, strict=True)
    ]
    same = {how for _, how in facts}
    return facts if len(same) > 1 else [("Evaluation of all", same.pop())]


def _settings(runs: Sequence[RunFolder], names: Sequence[str]) -> list[tuple[str, str]]:
    """Every setting of one run; of several those that are not the same in all."""
    flat: list[Mapping[str, Any]] = [dict(overview.flatten(run.config)) for run in runs]
    if len(runs) == 1:
        return list(flat[0].items())[:MAX_SETTINGS]
    keys = dict.fromkeys(key for config in flat for key in config)
    differ = [key for key in keys if len({config.get(key) for config in flat}) > 1]
    return [
        (f"{key} of {name}", config.get(key, "(not there)"))
        for key in differ
        for name, config in zip(names, flat, strict=True)
    ][:MAX_SETTINGS]
