"""Tables on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pilotage.evaluate.bootstrap import Interval


def make_table(caption: str, *titles: str) -> Table:
    """A table without rows; task, field and condition are flush left, all other columns are numbers."""
    table = Table(caption=caption, box=box.SIMPLE, pad_edge=False, caption_justify="left")
    for title in titles:
        left = title in ("task", "field", "condition")
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    return table


def table_console() -> Console:
    """The terminal as wide as it is, or 110 columns where the output goes elsewhere."""
    return Console() if sys.stdout.isatty() else Console(width=110)


def say(console: Console, *lines: str) -> None:
    """Prints sentences as they are: nothing coloured, nothing broken."""
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def points(interval: Interval | None) -> str:
    """`93.3 [90, 96]` in per cent; empty for None."""
    if interval is None:
        return ""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def signed(difference: Interval) -> str:
    """`+2.7 [+0, +5]` in points."""
    mean, low, high = (100 * value for value in (difference.mean, difference.low, difference.high))
    return f"{mean:+.1f} [{low:+.0f}, {high:+.0f}]"
