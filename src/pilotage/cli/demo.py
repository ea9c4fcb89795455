"""`pilotage demo`: the whole method on the shipped nano model, with a table that fills as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from pilotage.cli.options import Count
from pilotage.cli.progress import Heartbeat, figures_text, make_progress, minutes
from pilotage.worlds.registry import planning_worlds

if TYPE_CHECKING:
    from pilotage.evaluate import Progress

STAGE_TITLES = {"base": "Base", "stage1": "Stage 1", "stage2": "Stage 2"}
CONDITION_TITLES = {"image": "image", "text": "text", "perception": "seen"}
CONDITION_WIDTHS = (5, 6, 6)
"""Narrow enough for three tasks and the time in 80 columns."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Teach the shipped nano model to plan from pixels, and write a page about it.

    The base can plan from text but not from pictures. Stage 1 teaches it to read pictures; in stage
    2 a frozen copy of the base that reads the state as text supervises the model's own visual plans.
    After each stage it is measured on unseen levels: success from the image, success from the text,
    and how often it sees everything right. Killed and run again, it goes on where it was.
    """

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = Path("runs/demo")
    """Folder of the run: report.html, summary.json, every answer, both trained models."""
    seed: int = 0
    """Seed of the training levels, their order and the rollouts; the test levels are always the same."""
    threads: Count = 1
    """CPU threads; for so small a model a second one slows the first down."""
    backbone: Annotated[str, tyro.conf.arg(metavar="DIR")] = "nano"
    """Another nano base to start from, e.g. one from `pilotage nano pretrain`."""

    def run(self) -> int:
        from dataclasses import replace

        from pilotage.recipes import RECIPES
        from pilotage.runs import run_recipe

        recipe = replace(RECIPES["nano"](self.seed, backbone=self.backbone), num_threads=self.threads)
        tasks = [name for name, _ in recipe.levels]
        with LiveTable(tasks) as table:
            summary = run_recipe(recipe, self.out, table)
        seconds = sum(stage["seconds"] for stage in summary["stages"].values())
        print(f"{len(summary['stages']) - 1} stages and their measurements took {minutes(seconds)}")
        print(f"page     {self.out / 'report.html'}")
        print(f"numbers  {self.out / 'summary.json'}")
        return 0


@dataclass(kw_only=True)
class StageRow:
    """What the table knows of one stage."""

    shares: dict[tuple[str, str], float] = field(default_factory=dict)
    """(task, condition) -> success so far."""
    counts: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """(task, condition) -> successes and rows so far, while it is being measured."""
    seconds: float | None = None


class LiveTable:
    """A `Watcher`: a table of stages and tasks above a progress bar. Where nobody looks on, lines of text."""

    def __init__(self, tasks: list[str], console: Console | None = None) -> None:
        self._tasks = tasks
        self._stages: dict[str, StageRow] = {}
        self._console = console or Console()
        self._progress = make_progress("steps", self._console)
        self._bar = self._progress.add_task("loading", total=None, figures="")
        self._heartbeat = Heartbeat("demo", progress=self._progress, unit="")
        self._live = Live(
            get_renderable=lambda: Group(self.table(), self._progress),
            console=self._console,
            refresh_per_second=4,
        )

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._heartbeat.__exit__(*error)
        self._progress.update(self._bar, visible=False)
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._console.print(self.table())

    def stage_begins(self, stage: str, num_steps: int) -> None:
        self._stages[stage] = StageRow()
        if num_steps:
            self._show(_title(stage, f"{num_steps} steps"))
        self._progress.reset(self._bar, total=num_steps or None, description=_title(stage, "loading"))

    def trained(self, stage: str, done: int, total: int, figures: Mapping[str, Any]) -> None:
        self._progress.update(
            self._bar,
            description=_title(stage, "training"),
            completed=done,
            total=total,
            figures=figures_text(figures),
        )

    def measured(self, stage: str, progress: Progress) -> None:
        description = _title(stage, f"measuring {progress.condition}")
        if progress.num_done == len(progress.rows):
            self._progress.reset(self._bar, total=progress.num_total, description=description, figures="")
        self._progress.update(
            self._bar, description=description, completed=progress.num_done, total=progress.num_total
        )
        row = self._stages[stage]
        for answer in progress.rows:
            count = row.counts.setdefault((answer["task"], progress.condition), [0, 0])
            count[0] += _succeeded(answer)
            count[1] += 1
            row.shares[answer["task"], progress.condition] = count[0] / count[1]

    def stage_ends(self, stage: str, entry: Mapping[str, Any]) -> None:
        row = self._stages[stage]
        row.seconds = seconds = entry["seconds"]
        for task, conditions in entry["tasks"].items():
            for condition, rate in conditions.items():
                row.shares[task, condition] = rate["success"]
        self._show(_title(stage, f"done in {minutes(seconds)}"))

    def table(self) -> Table:
        """Success in per cent, as far as it is known."""
        table = Table(caption="success on unseen levels, %; seen: every part of the description right")
        table.add_column("", no_wrap=True)
        titles = {task.name: task.title for task in planning_worlds()}
        heads = "".join(
            f"{title:>{width}}"
            for title, width in zip(CONDITION_TITLES.values(), CONDITION_WIDTHS, strict=True)
        )
        for task in self._tasks:
            table.add_column(f"{titles.get(task, task)}\n{heads}", justify="right", no_wrap=True)
        table.add_column("time", justify="right", vertical="bottom", no_wrap=True)
        for stage, row in self._stages.items():
            cells = [
                "".join(
                    f"{_percent(row.shares.get((task, condition))):>{width}}"
                    for condition, width in zip(CONDITION_TITLES, CONDITION_WIDTHS, strict=True)
                )
                for task in self._tasks
            ]
            table.add_row(
                STAGE_TITLES.get(stage, stage), *cells, "" if row.seconds is None else minutes(row.seconds)
            )
        return table

    def _show(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(line)


def _title(stage: str, doing: str) -> str:
    return f"{STAGE_TITLES.get(stage, stage)}, {doing}"


def _percent(share: float | None) -> str:
    return "·" if share is None else f"{100 * share:.1f}"


def _succeeded(answer: Mapping[str, Any]) -> bool:
    if answer["error"]:
        return False
    if answer["outcome"] is not None:
        return answer["outcome"]["success"]
    return all(answer["right"].values())
