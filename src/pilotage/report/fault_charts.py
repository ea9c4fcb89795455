"""The diagnosis's figures as inline SVG: stacked bars of faults, lines over strata, heat maps over the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from markupsafe import Markup

from pilotage.evaluate.bootstrap import Interval
from pilotage.evaluate.strata import Curve
from pilotage.report.faults import FAULTS
from pilotage.report.svg import QUARTERS, Scale, drawing, group, level_lines, tag, title, words
from pilotage.report.text import fitted, percent, span_text, visible

FaultCell = tuple[str, int, Interval, str]
"""Fault, answers, share of all answers, address of those answers in the gallery."""

MIN_BIN = 10
"""Fewer examples than this are a hollow mark that no line leads to or from."""


def fault_bars(name: str, rows: Sequence[tuple[str, Sequence[FaultCell], int]]) -> Markup:
    """One stacked bar a source over the whole width, which is all of its answers."""
    width, bar, gap = 420.0, 26.0, 24.0
    parts = []
    for i, (source, cells, num_answers) in enumerate(rows):
        y = i * (bar + gap) + 16
        parts.append(words(fitted(source, 42), 0, y - 5, "stage", None))
        parts.append(words(f"n = {num_answers}", width, y - 5, anchor="end"))
        x = 0.0
        for fault, count, share, address in cells:
            if not count:
                continue
            wide = width * count / num_answers
            interval = f"[{percent(share.low)}–{percent(share.high)}]"
            text = f"{source}, {FAULTS[fault]}: {count} of {num_answers}, {percent(share.mean)} % {interval}"
            label = (
                [words(str(count), x + wide / 2, y + bar / 2 + 4.5)] if wide > 9 + 7 * len(str(count)) else []
            )
            rect = tag("rect", x=x, y=y, width=max(wide - 1, 0.6), height=bar, rx=2.0)
            parts.append(tag("a", title(text), rect, *label, href=address, class_=f"f-{fault}"))
            x += wide
    spoken = "; ".join(
        f"{source}: " + ", ".join(f"{FAULTS[fault]} {count}" for fault, count, *_ in cells if count)
        for source, cells, _ in rows
    )
    text = f"{name}, answers by fault. {spoken}"
    return drawing(text, width, len(rows) * (bar + gap), parts, "chart faults", role="group")


def strata_chart(name: str, axis: str, lines: Sequence[tuple[str, Curve]]) -> Markup:
    """Success along one axis, one line a source with its intervals; values stand at equal distances, under each the
    number of its examples."""
    width, height, left, right, top, bottom = 420.0, 246.0, 40.0, 10.0, 12.0, 60.0
    # Whatever a file calls a difficulty is foreign text.
    lines = [(source, _shown(curve)) for source, curve in lines]
    values = list(dict.fromkeys(value for _, curve in lines for value, _ in curve.points))
    if all(isinstance(value, int) for value in values):
        values.sort()
    y = Scale(low=0.0, high=1.0, start=height - bottom, stop=top)
    slot = (width - left - right) / len(values)
    parts = level_lines(QUARTERS, y, left, width - right)
    every = max(1, len(values) // 14 + 1)
    parts.append(words("n", left - 7, height - bottom + 32, "n", "end"))
    for i, value in enumerate(values):
        if i % every == 0:
            text = f"{value}×{value}" if lines[0][1].axis == "level" else str(value)
            n = span_text(interval.n for _, curve in lines for v, interval in curve.points if v == value)
            x = left + slot * (i + 0.5)
            parts.append(words(text, x, height - bottom + 17, "tick"))
            parts.append(words(n, x, height - bottom + 32, "n"))
    middle = (left + width - right) / 2
    parts.append(words(axis, middle, height - 6, "axis"))
    for i, (source, curve) in enumerate(lines):
        # Side by side within their slot, so that no interval hides another.
        shift = (i - (len(lines) - 1) / 2) * min(7.0, slot / (len(lines) + 1))
        points = [
            (left + slot * (values.index(value) + 0.5) + shift, interval, value)
            for value, interval in curve.points
        ]
        joined = [
            f"M{x1:.1f} {y(from_.mean):.1f}L{x2:.1f} {y(to.mean):.1f}"
            for (x1, from_, first), (x2, to, then) in pairwise(points)
            if min(from_.n, to.n) >= MIN_BIN and values.index(then) == values.index(first) + 1
        ]
        marks = [
            group(
                [
                    title(
                        f"{source}, {axis} {value}: {percent(interval.mean)} % "
                        f"[{percent(interval.low)}–{percent(interval.high)}], n = {interval.n}"
                    ),
                    tag("path", d=f"M{x:.1f} {y(interval.low):.1f}V{y(interval.high):.1f}", class_="whisker"),
                    tag(
                        "circle",
                        cx=x,
                        cy=y(interval.mean),
                        r=3.6 if interval.n >= MIN_BIN else 3.0,
                        class_=None if interval.n >= MIN_BIN else "few",
                    ),
                ]
            )
            for x, interval, value in points
        ]
        line = [tag("path", d="".join(joined), class_="line")] if joined else []
        parts.append(group([*line, *marks], class_=f"c-{i}"))
    spoken = "; ".join(
        f"{source}: " + ", ".join(f"{value} {percent(interval.mean)} %" for value, interval in curve.points)
        for source, curve in lines
    )
    return drawing(f"{name}, success by {axis}. {spoken}", width, height, parts, "chart strata")


def _shown(curve: Curve) -> Curve:
    points = [(visible(v, 20) if isinstance(v, str) else v, interval) for v, interval in curve.points]
    return replace(curve, points=points)


def heat_map(
    name: str,
    heat: Sequence[Sequence[float | None]],
    labels: Sequence[Sequence[str]],
    texts: Sequence[Sequence[str]],
) -> Markup:
    """A grid whose cells glow with `heat` in [0, 1]; None is a cell of which nothing is known."""
    n = len(heat)
    parts = []
    for r in range(n):
        for c in range(n):
            value = heat[r][c]
            # Few elements a cell: a page may hold thousands.
            box = {"x": c + 0.03, "y": r + 0.03, "width": 0.94, "height": 0.94, "rx": 0.08}
            cell = [title(texts[r][c]), tag("rect", **box, class_="ground" if value is not None else "none")]
            if value:
                cell.append(tag("rect", **box, class_="glow", fill_opacity=round(0.9 * value, 3)))
            if labels[r][c]:
                hot = "hot" if (value or 0) > 0.55 else None
                cell.append(words(labels[r][c], c + 0.5, r + 0.61, hot))
            parts.append(group(cell))
    return drawing(name, n, n, parts, "heat")
