"""The page's figures as inline SVG. Colours are classes, so that one style sheet serves light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pilotage.report.conditions import condition_class
from pilotage.report.svg import QUARTERS, Scale, drawing, group, level_lines, tag, title, words
from pilotage.report.text import fitted, percent, points, span_text

PLANE_CONDITIONS = ("perception", "text", "image")
"""Conditions that the figure of reading and planning is made of: x, y and area."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A success rate with its interval, all in [0, 1]."""

    success: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{percent(self.success)} % [{percent(self.low)}–{percent(self.high)}], n = {self.n}"


Cells = Mapping[str, Mapping[str, Share]]
"""Stage -> condition -> share, of one task."""


MAX_BARS, MAX_CONDITIONS = 4, 4
"""More sources or conditions than this are too many for bars that stand side by side."""


def gap_chart(
    name: str,
    cells: Cells,
    stage_titles: Mapping[str, str],
    condition_titles: Mapping[str, str],
    gaps: Mapping[str, float] | None = None,
) -> Markup:
    """Success of every stage on one task by every condition: upright bars, or lying ones where the stages or
    conditions are many or their names long. `condition_titles` tells which conditions are drawn and in which order,
    `gaps` the stages' paired gaps; without one it is the difference of the bars.
    """
    condition_titles = {
        k: title
        for k, title in condition_titles.items()
        if any(k in conditions for conditions in cells.values())
    }
    gap_texts = {stage: _gap_text(conditions, (gaps or {}).get(stage)) for stage, conditions in cells.items()}
    room = (_BARS_WIDTH / max(1, len(cells))) / 8
    fits = len(cells) <= MAX_BARS and len(condition_titles) <= MAX_CONDITIONS
    fits = fits and all(len(stage_titles[stage]) <= room for stage in cells)
    spoken = "; ".join(
        f"{stage_titles[stage]}: "
        + ", ".join(
            f"{called} {percent(conditions[k].success)} %"
            for k, called in condition_titles.items()
            if k in conditions
        )
        for stage, conditions in cells.items()
    )
    draw = _upright_bars if fits else _lying_bars
    parts, width, height = draw(cells, stage_titles, condition_titles, gap_texts)
    return drawing(f"{name}. {spoken}", width, height, parts, "chart bars")


_BARS_WIDTH = 374


def _gap_text(conditions: Mapping[str, Share], gap: float | None) -> list[str]:
    """`gap +83`, where there is one, and `n = 100`."""
    if gap is None and "text" in conditions and "image" in conditions:
        gap = conditions["text"].success - conditions["image"].success
    texts = [] if gap is None else [f"gap {points(gap)}"]
    shown = [share.n for share in conditions.values()]
    return [*texts, f"n = {span_text(shown)}"] if shown else texts


Drawn = tuple[list[Markup], float, float]
"""Parts, width and height."""


def _upright_bars(
    cells: Cells,
    stage_titles: Mapping[str, str],
    condition_titles: Mapping[str, str],
    gap_texts: Mapping[str, list[str]],
) -> Drawn:
    width, height, left, right, top, bottom = 420, 264, 38, 8, 18, 64
    y = Scale(low=0.0, high=1.0, start=height - bottom, stop=top)
    parts = [group(level_lines(QUARTERS, y, left, width - right))]
    slot = _BARS_WIDTH / max(1, len(cells))
    bar = min(30.0, slot / (len(condition_titles) + 1.2))
    for i, (stage, conditions) in enumerate(cells.items()):
        middle = left + slot * (i + 0.5)
        for j, (condition, called) in enumerate(condition_titles.items()):
            if condition in conditions:
                x = middle + (j - len(condition_titles) / 2) * (bar + 3) + 1.5
                parts.append(
                    _bar(x, bar, y, condition, conditions[condition], f"{stage_titles[stage]}, {called}")
                )
        lines = [(stage_titles[stage], "stage"), *((text, "gap") for text in gap_texts[stage])]
        for down, (text, class_) in zip((19, 38, 54), lines, strict=False):
            parts.append(words(text, middle, y(0) + down, class_))
    return parts, width, height


def _lying_bars(
    cells: Cells,
    stage_titles: Mapping[str, str],
    condition_titles: Mapping[str, str],
    gap_texts: Mapping[str, list[str]],
) -> Drawn:
    width, right, top, bar = 420.0, 40.0, 20.0, 11.0
    x = Scale(low=0.0, high=1.0, start=2.0, stop=width - right)
    bars: list[Markup] = []
    y = top
    for stage, conditions in cells.items():
        bars.append(words(fitted(stage_titles[stage], 30), 2, y + 14, "stage", None))
        bars.append(words(" · ".join(gap_texts[stage]), width, y + 14, "gap", "end"))
        y += 21
        for condition, called in condition_titles.items():
            if condition in conditions:
                bars.append(
                    _lying_bar(
                        y, bar, x, condition, conditions[condition], f"{stage_titles[stage]}, {called}"
                    )
                )
                y += bar + 3
        y += 5
    parts = [tag("line", x1=x(v), x2=x(v), y1=top - 4, y2=y - 8, class_="grid") for v in QUARTERS]
    parts += [words(percent(v), x(v), 11, "tick", "middle" if v else "start") for v in QUARTERS]
    return [*parts, *bars], width, y


def _lying_bar(y: float, height: float, x: Scale, condition: str, share: Share, called: str) -> Markup:
    middle = y + height / 2
    whisker = f"M{x(share.low):.1f} {middle:.1f}H{x(share.high):.1f}"
    return group(
        [
            title(f"{called}: {share}"),
            tag(
                "rect",
                x=x(0),
                y=y,
                width=max(1.5, x(share.success) - x(0)),
                height=height,
                rx=2.0,
                class_="bar",
            ),
            tag("path", d=whisker, class_="whisker"),
            words(percent(share.success), x(max(share.high, share.success)) + 6, middle + 4, "value", None),
        ],
        class_=condition_class(condition),
    )


def _bar(x: float, width: float, y: Scale, condition: str, share: Share, called: str) -> Markup:
    middle = x + width / 2
    top = y(share.success)
    label_y = min(y(share.high), top) - 5
    return group(
        [
            title(f"{called}: {share}"),
            # A sliver at nought, so that nothing measured does not look like nothing there.
            tag(
                "rect",
                x=x,
                y=min(top, y(0) - 1.5),
                width=width,
                height=max(1.5, y(0) - top),
                rx=2.0,
                class_="bar",
            ),
            tag("path", d=_whisker(middle, y(share.low), y(share.high), width / 5), class_="whisker"),
            words(percent(share.success), middle, label_y, "value"),
        ],
        class_=condition_class(condition),
    )


def _whisker(x: float, low: float, high: float, half: float) -> str:
    return (
        f"M{x:.1f} {low:.1f}V{high:.1f}"
        f"M{x - half:.1f} {low:.1f}h{2 * half:.1f}M{x - half:.1f} {high:.1f}h{2 * half:.1f}"
    )


def perception_planning(
    name: str, colour: int, cells: Cells, stage_titles: Mapping[str, str], *, is_way: bool = True
) -> Markup:
    """One task's way through the stages: x state recovery from the image, y planning from the text view,
    bubble area the end-to-end success from the image. Without `is_way` there is no order to be drawn."""
    width, height, left, right, top, bottom = 380, 270, 46, 6, 4, 44
    inset = MAX_RADIUS + 2
    lowest = min(
        (conditions["text"].success for conditions in cells.values() if "text" in conditions), default=0.0
    )
    # Half the scale where nothing lies in the lower half: bubbles need the room.
    floor = 0.5 if lowest > 0.6 else 0.0
    x = Scale(low=0.0, high=1.0, start=left + inset, stop=width - right - inset)
    y = Scale(low=floor, high=1.0, start=height - bottom - 12, stop=top + inset)
    levels = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0] if floor else QUARTERS
    frame = tag(
        "rect", x=left, y=top, width=width - left - right, height=height - top - bottom, rx=6, class_="field"
    )
    parts = [
        frame,
        *(tag("line", x1=x(v), x2=x(v), y1=top, y2=height - bottom, class_="grid") for v in QUARTERS),
        *(tag("line", y1=y(v), y2=y(v), x1=left, x2=width - right, class_="grid") for v in levels),
        *(words(percent(v), x(v), height - bottom + 16, "tick") for v in QUARTERS),
        *(words(f"{100 * v:g}", left - 7, y(v) + 4, "tick", "end") for v in levels),
        words("state read from the image, %", (x.start + x.stop) / 2, height - 8, "axis"),
        tag(
            "text",
            "planning from text, %",
            transform=f"translate(11 {(y.start + y.stop) / 2:.0f}) rotate(-90)",
            class_="axis",
            text_anchor="middle",
        ),
    ]
    bubbles = [
        (stage, conditions)
        for stage, conditions in cells.items()
        if all(condition in conditions for condition in PLANE_CONDITIONS)
    ]
    placed = [
        (
            x(conditions["perception"].success),
            y(conditions["text"].success),
            _radius(conditions["image"].success),
        )
        for _, conditions in bubbles
    ]
    # Big ones first, so that none hides a smaller one.
    for i in sorted(range(len(bubbles)), key=lambda i: -placed[i][2]):
        stage, conditions = bubbles[i]
        parts.append(_bubble(stage_titles[stage], conditions, placed[i], i == len(bubbles) - 1))
    for a, b in zip(placed, placed[1:], strict=False) if is_way else ():
        parts.extend(_arrow(a, b))
    parts.extend(_labels([(stage_titles[s], conditions) for s, conditions in bubbles], placed, width, height))
    spoken = "; ".join(
        f"{stage_titles[stage]}: state read {percent(conditions['perception'].success)} %, text planning "
        f"{percent(conditions['text'].success)} %, image planning {percent(conditions['image'].success)} %"
        for stage, conditions in bubbles
    )
    return drawing(f"{name}. {spoken}", width, height, parts, f"chart diagnostic t-{colour}")


MAX_RADIUS = 34.0
MIN_RADIUS = 4.0

Bubble = tuple[float, float, float]
"""x, y, radius in pixels."""


def _radius(success: float) -> float:
    """The area is the success; nothing smaller than a dot."""
    return max(MIN_RADIUS, MAX_RADIUS * math.sqrt(success))


def _bubble(stage: str, conditions: Mapping[str, Share], at: Bubble, is_last: bool) -> Markup:
    cx, cy, r = at
    text = (
        f"{stage}: image success {conditions['image']}; state read {conditions['perception']}; "
        f"text planning {conditions['text']}"
    )
    return group(
        [title(text), tag("circle", cx=cx, cy=cy, r=r), tag("circle", cx=cx, cy=cy, r=1.8, class_="heart")],
        class_="bubble last" if is_last else "bubble",
    )


def _arrow(a: Bubble, b: Bubble) -> list[Markup]:
    """From rim to heart; none where the bubbles' hearts all but coincide."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    distance = math.hypot(dx, dy)
    if distance < a[2] + 16:
        return []
    ux, uy = dx / distance, dy / distance
    x1, y1 = a[0] + ux * (a[2] + 2), a[1] + uy * (a[2] + 2)
    x2, y2 = b[0] - ux * 5, b[1] - uy * 5
    head = f"M{x2 - 8 * ux - 4.5 * uy:.1f} {y2 - 8 * uy + 4.5 * ux:.1f}L{x2:.1f} {y2:.1f}"
    head += f"L{x2 - 8 * ux + 4.5 * uy:.1f} {y2 - 8 * uy - 4.5 * ux:.1f}"
    return [tag("path", d=f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}{head}", class_="way")]


def _labels(
    stages: Sequence[tuple[str, Mapping[str, Share]]], bubbles: Sequence[Bubble], width: float, height: float
) -> list[Markup]:
    """A label with a leader for each bubble, pushed apart where bubbles lie upon each other."""
    labels: list[Markup] = []
    boxes: list[tuple[float, float]] = []
    for (stage, conditions), (cx, cy, r) in zip(stages, bubbles, strict=True):
        text = f"{fitted(stage, 18)}: {percent(conditions['image'].success)} %"
        half = 3.4 * len(text)
        x = min(max(cx, half + 52), width - 30 - half)
        below = cy < height / 2
        deepest = max(b[2] + abs(b[1] - cy) for b in bubbles if abs(b[0] - cx) < half + b[2])
        y = cy + (deepest + 20) * (1 if below else -1)
        while any(abs(bx - x) < half + 40 and abs(by - y) < 17 for bx, by in boxes):
            y += 18 if below else -18
        boxes.append((x, y))
        end = y - 12 if below else y + 5
        labels.append(
            tag("line", x1=cx, y1=cy + min(r, 6) * (1 if below else -1), x2=x, y2=end, class_="leader")
        )
        labels.append(words(text, x, y, "label"))
    return labels
