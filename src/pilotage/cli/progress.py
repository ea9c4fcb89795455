"""Progress on standard error: a bar with rate and time left; where nobody looks on, its last line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

TELLING = ("loss", "loss/image", "loss/pictures", "kl/all", "rollout/success")
"""Figures shown beside a bar, as far as a step has them."""


class RateColumn(TextColumn):
    """Units per second, once there are any."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.3g} {self._unit}/s", style="progress.data.speed")


def _stderr() -> Console:
    console = Console(stderr=True)
    return console if console.is_terminal else Console(stderr=True, width=120)


def make_progress(unit: str, console: Console) -> Progress:
    """Title, bar, done of total, rate in `unit`s, time left, and the field `figures` that every task needs."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", style="dim"),
        console=console,
    )


class Bar:
    """One bar, shown from its first figure on. As a context: `with Bar("sft", unit="steps") as bar: bar(3, 10)`."""

    def __init__(self, title: str, *, unit: str) -> None:
        self._progress = make_progress(unit, _stderr())
        self._title = title
        self._row: TaskID | None = None

    def __call__(self, done: float, total: float, figures: str | Mapping[str, Any] = "") -> None:
        if self._row is None:
            self._row = self._progress.add_task(self._title, total=total, figures="")
            self._progress.start()
        text = figures if isinstance(figures, str) else figures_text(figures)
        self._progress.update(self._row, completed=done, total=total, figures=text)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._row is not None:
            self._progress.stop()


def figures_text(figures: Mapping[str, Any]) -> str:
    """`loss 0.31  rollout/success 0.5`: those of a step's figures that tell a person how it goes."""
    return "  ".join(f"{name} {figures[name]:.3g}" for name in TELLING if name in figures)
