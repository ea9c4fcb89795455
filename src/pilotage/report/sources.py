"""What a page compares: one stage of one run is a source; a page shows one or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError, meant
from pilotage.evaluate.summary import Summary, summarise
from pilotage.report.folder import Row, RunFolder, stage_title
from pilotage.report.text import visible

MAX_SOURCES = 24


@dataclass(frozen=True, kw_only=True)
class Source:
    """One stage of one run, as the page shows it."""

    key: str
    """`stage2`, or `run/stage2` where several runs are shown: unique on the page."""
    title: str
    run: RunFolder
    stage: str
    rows: Mapping[str, list[Row]]
    """Condition -> evaluation rows; empty where only `summary.json` tells of the stage."""
    summary: Summary | None
    """Rates of the rows."""

    @property
    def reported(self) -> Mapping[str, Any]:
        """What `summary.json` says of the stage."""
        return self.run.reported.get(self.stage, {})


def make_sources(runs: Sequence[RunFolder], *, stage: str | None = None) -> list[Source]:
    """Every stage of a single run; of several runs the last stage of each.

    `stage` names another one, or `all`. Raises PilotageError when no run has it, or for too many sources.
    """
    chosen = [(run, name) for run in runs for name in _stages(run, stage, alone=len(runs) == 1)]
    if stage not in (None, "all") and not chosen:
        known = sorted({name for run in runs for name in run.stages})
        raise PilotageError(
            f"no run has a stage {stage!r}; there are {', '.join(known) or 'none'}{meant(stage, known)}"
        )
    if len(chosen) > MAX_SOURCES:
        raise PilotageError(
            f"{len(chosen)} stages do not fit one page; name fewer runs or one stage (at most {MAX_SOURCES})"
        )
    names = dict(zip(map(id, runs), run_names([run.path for run in runs]), strict=True))
    alone = len(runs) == 1
    one_stage = len({name for _, name in chosen}) == 1
    sources = []
    for run, name in chosen:
        called = names[id(run)]
        title = called if one_stage else f"{called} · {stage_title(name)}"
        rows = run.rows.get(name, {})
        sources.append(
            Source(
                key=name if alone else f"{called}/{name}",
                title=stage_title(name) if alone else title,
                run=run,
                stage=name,
                rows=rows,
                summary=summarise(row for of_condition in rows.values() for row in of_condition)
                if rows
                else None,
            )
        )
    return sources


def all_rows(sources: Sequence[Source]) -> list[Row]:
    """The rows of all sources, of every condition."""
    return [row for source in sources for rows in source.rows.values() for row in rows]


def run_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart: `seed0/mgsd` beside `seed1/mgsd`."""
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise PilotageError("the same run is named twice")
    lengths = [1] * len(parts)
    for depth in range(1, max(map(len, parts), default=0)):
        ends = [p[-n:] for p, n in zip(parts, lengths, strict=True)]
        lengths = [depth + 1 if ends.count(end) > 1 else n for end, n in zip(ends, lengths, strict=True)]
    return [visible("/".join(p[-n:]), 60) for p, n in zip(parts, lengths, strict=True)]


def _stages(run: RunFolder, stage: str | None, *, alone: bool) -> list[str]:
    if stage == "all" or (stage is None and alone):
        return run.stages
    if stage is None:
        return run.stages[-1:]
    return [name for name in run.stages if name == stage]
