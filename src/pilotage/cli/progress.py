"""Progress on standard error: a bar with rate and time left where a person looks on, else nothing."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class RateColumn(TextColumn):
    """Units per second, once there are any."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.3g} {self._unit}/s", style="progress.data.speed")


def progress_bar(unit: str) -> Progress:
    """A bar for `unit`s (steps, rows): done and total, rate, time left, then the task's `figures` field.

    Add tasks with `figures=""`.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", style="dim"),
        console=Console(stderr=True),
    )


def figures_text(figures: dict[str, float], limit: int = 4) -> str:
    """`loss 0.31  lr 0.002`: the first few figures, three digits each."""
    shown = [f"{name} {value:.3g}" for name, value in figures.items() if isinstance(value, float | int)]
    return "  ".join(shown[:limit])
