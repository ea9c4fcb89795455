"""Hand-drawn SVG: elements with escaped attributes, linear scales and round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

from pilotage.report.text import percent

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)

Value = str | int | float


def tag(name: str, *children: str, **attributes: Value | None) -> Markup:
    """`tag("rect", class_="bar", stroke_width=2)`. Children that are not Markup are escaped; None is left out."""
    parts = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    ]
    return Markup("<{}{}>{}</{}>").format(
        name, Markup("").join(parts), Markup("").join(map(escape, children)), name
    )


def group(children: list[Markup], **attributes: Value | None) -> Markup:
    """A `g` element with these children."""
    return tag("g", *children, **attributes)


def drawing(
    spoken: str, width: float, height: float, parts: Iterable[Markup], class_: str, *, role: str = "img"
) -> Markup:
    """A whole figure of so many pixels; `spoken` is what is read aloud of it."""
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        class_=class_,
        role=role,
        aria_label=spoken,
        xmlns="http://www.w3.org/2000/svg",
    )


def words(text: str, x: float, y: float, class_: str | None = None, anchor: str | None = "middle") -> Markup:
    """Text of which the middle stands at `x`, or as `anchor` says; `y` is its base line."""
    return tag("text", text, x=x, y=y, class_=class_, text_anchor=anchor)


def level_lines(values: Iterable[float], y: Scale, left: float, right: float) -> list[Markup]:
    """Lines of a grid across a figure at these shares, each with its per cent at the left."""
    return [
        part
        for value in values
        for part in (
            tag("line", x1=left, x2=right, y1=y(value), y2=y(value), class_="grid"),
            words(percent(value), left - 7, y(value) + 4, "tick", "end"),
        )
    ]


def title(text: str) -> Markup:
    """What shows on hovering, and is read aloud."""
    return tag("title", text)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Linear map of values [low, high] to pixels [start, stop]."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


@dataclass(frozen=True, kw_only=True)
class LogScale(Scale):
    """Logarithmic map of positive values."""

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.stop - self.start)


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """`0.05`, `1,000`, `2e-05`."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value:.4g}"


def _number(value: Value | None) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"
    return str(value)
