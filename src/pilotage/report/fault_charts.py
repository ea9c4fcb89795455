"""The diagnosis's figures as inline SVG: stacked bars of faults, lines over strata, heat maps over the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from markupsafe import Markup

from pilotage.evaluate.bootstrap import Interval
from pilotage.evaluate.strata import Curve
from pilotage.report.faults import FAULTS
from pilotage.report.svg import Scale, group, tag, title
from pilotage.report.text import fitted, percent, span_text, visible

FaultCell = tuple[str, int, Interval, str]
"""Fault, answers, share of all answers, address of those answers in the gallery."""

_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
MIN_BIN = 10
"""Fewer examples than this are a hollow mark that no line leads to or from."""


def fault_bars(name: str, rows: Sequence[tuple[str, Sequence[FaultCell], int]]) -> Markup:
    """One stacked bar a source over the whole width, which is all of its answers."""
    width, bar, gap = 420.0, 26.0, 24.0
    parts = []
    for i, (source, cells, num_answers) in enumerate(rows):
        y = i * (bar + gap) + 16
        parts.append(tag("text", fitted(source, 42), x=0, y=y - 5, class_="stage"))
        parts.append(tag("text", f"n = {num_answers}", x=width, y=y - 5, text_anchor="end"))
        x = 0.0
        for fault, count, share, address in cells:
            if not count:
                continue
            wide = width * count / num_answers
            interval = f"[{percent(share.low)}–{percent(share.high)}]"
            told = f"{source}, {FAULTS[fault]}: {count} of {num_answers}, {percent(share.mean)} % {interval}"
            label = (
                [tag("text", str(count), x=x + wide / 2, y=y + bar / 2 + 4.5, text_anchor="middle")]
                if wide > 9 + 7 * len(str(count))
                else []
            )
            rect = tag("rect", x=x, y=y, width=max(wide - 1, 0.6), height=bar, rx=2.0)
            parts.append(tag("a", title(told), rect, *label, href=address, class_=f"f-{fault}"))
            x += wide
    spoken = "; ".join(
        f"{source}: " + ", ".join(f"{FAULTS[fault]} {count}" for fault, count, *_ in cells if count)
        for source, cells, _ in rows
    )
    height = len(rows) * (bar + gap)
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        class_="chart faults",
        role="group",
        aria_label=f"{name}, answers by fault. {spoken}",
        xmlns="http://www.w3.org/2000/svg",
    )


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
    parts = [tag("line", x1=left, x2=width - right, y1=y(v), y2=y(v), class_="grid") for v in _QUARTERS]
    parts += [
        tag("text", percent(v), x=left - 7, y=y(v) + 4, class_="tick", text_anchor="end") for v in _QUARTERS
    ]
    every = max(1, len(values) // 14 + 1)
    parts.append(tag("text", "n", x=left - 7, y=height - bottom + 32, class_="n", text_anchor="end"))
    for i, value in enumerate(values):
        if i % every == 0:
            text = f"{value}×{value}" if lines[0][1].axis == "level" else str(value)
            n = span_text(interval.n for _, curve in lines for v, interval in curve.points if v == value)
            x = left + slot * (i + 0.5)
            parts.append(tag("text", text, x=x, y=height - bottom + 17, class_="tick", text_anchor="middle"))
            parts.append(tag("text", n, x=x, y=height - bottom + 32, class_="n", text_anchor="middle"))
    middle = (left + width - right) / 2
    parts.append(tag("text", axis, x=middle, y=height - 6, class_="axis", text_anchor="middle"))
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
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        class_="chart strata",
        role="img",
        aria_label=f"{name}, success by {axis}. {spoken}",
        xmlns="http://www.w3.org/2000/svg",
    )


def _shown(curve: Curve) -> Curve:
    points = [(visible(v, 20) if isinstance(v, str) else v, interval) for v, interval in curve.points]
    return replace(curve, points=points)


def heat_map(
    name: str,
    heat: Sequence[Sequence[float | None]],
    labels: Sequence[Sequence[str]],
    told: Sequence[Sequence[str]],
) -> Markup:
    """A grid whose cells glow with `heat` in [0, 1]; None is a cell of which nothing is known."""
    n = len(heat)
    parts = []
    for r in range(n):
        for c in range(n):
            value = heat[r][c]
            # Few elements a cell: a page may hold thousands.
            box = {"x": c + 0.03, "y": r + 0.03, "width": 0.94, "height": 0.94, "rx": 0.08}
            cell = [title(told[r][c]), tag("rect", **box, class_="ground" if value is not None else "none")]
            if value:
                cell.append(tag("rect", **box, class_="glow", fill_opacity=round(0.9 * value, 3)))
            if labels[r][c]:
                hot = "hot" if (value or 0) > 0.55 else None
                place = {"x": c + 0.5, "y": r + 0.61, "text_anchor": "middle"}
                cell.append(tag("text", labels[r][c], **place, class_=hot))
            parts.append(group(cell))
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {n} {n}",
        class_="heat",
        role="img",
        aria_label=name,
        xmlns="http://www.w3.org/2000/svg",
    )
