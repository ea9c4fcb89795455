"""Progress on standard error: a bar with rate and time left; in a log, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Event, Thread
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

TELLING = ("loss", "loss/image", "loss/pictures", "loss/naming", "kl/all", "rollout/success")
"""Figures shown beside a bar, as far as a step has them."""

BEAT_S = 60.0
"""Seconds between the lines of a log."""
SPEED_S = 600.0
"""The last seconds that rate and time left are of: a step of a large model may take a minute."""


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
        speed_estimate_period=SPEED_S,
    )


class Heartbeat:
    """The line of a log, printed every `BEAT_S`. From another thread: a step, a batch or a load may take minutes.

    At a terminal it does nothing; there the bar itself is seen.
    """

    def __init__(self, title: str, *, progress: Progress, unit: str) -> None:
        self._title = title
        self._unit = unit
        self._progress = progress
        self._ended = Event()
        self._began_s = time.monotonic()
        self._thread = Thread(target=self._beat, daemon=True)

    def line(self) -> str:
        """`sft: 12 of 320 steps, 0.53 steps/s, 9:41 left, loss 0.31`, as far as it is known."""
        so_far = f"{minutes(time.monotonic() - self._began_s)} so far"
        if not self._progress.tasks:
            return f"{self._title}: {so_far}"
        task = self._progress.tasks[-1]
        parts = []
        if task.total is not None:
            parts.append(f"{task.completed:,.0f} of {task.total:,.0f} {self._unit}".rstrip())
        if task.speed:
            parts.append(f"{task.speed:,.3g} {self._unit}".rstrip() + "/s")
        if task.time_remaining:
            parts.append(f"{minutes(task.time_remaining)} left")
        return f"{task.description}: " + ", ".join(filter(None, [*parts, so_far, task.fields["figures"]]))

    def __enter__(self) -> Heartbeat:
        if not self._progress.console.is_terminal:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            self.print_line()

    def print_line(self) -> None:
        self._progress.console.print(self.line(), markup=False, highlight=False, soft_wrap=True)


class Bar:
    """One bar, shown from its first figure on. As a context: `with Bar("sft", unit="steps") as bar: bar(3, 10)`."""

    def __init__(self, title: str, *, unit: str) -> None:
        self._progress = make_progress(unit, _stderr())
        self._heartbeat = Heartbeat(title, progress=self._progress, unit=unit)
        self._title = title
        self._row: TaskID | None = None

    def __call__(self, done: float, total: float, figures: str | Mapping[str, Any] = "") -> None:
        if self._row is None:
            self._row = self._progress.add_task(self._title, total=total, figures="")
            if self._progress.console.is_terminal:
                self._progress.start()
        text = figures if isinstance(figures, str) else figures_text(figures)
        self._progress.update(self._row, completed=done, total=total, figures=text)

    def __enter__(self) -> Bar:
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._heartbeat.__exit__(*error)
        if self._progress.console.is_terminal:
            self._progress.stop()
        elif self._row is not None:
            self._heartbeat.print_line()


def minutes(seconds: float) -> str:
    """`3:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def figures_text(figures: Mapping[str, Any]) -> str:
    """`loss 0.31  rollout/success 0.5`: those of a step's figures that tell a person how it goes."""
    return "  ".join(f"{name} {figures[name]:.3g}" for name in TELLING if name in figures)
