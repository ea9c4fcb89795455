"""The page of a study: where each variant ends, how it got there, and the tables. One file, no script, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from pilotage import __version__
from pilotage.evaluate.bootstrap import Interval
from pilotage.report.assets import asset, environment
from pilotage.report.conditions import condition_class, condition_titles
from pilotage.report.svg import (
    QUARTERS,
    Scale,
    drawing,
    group,
    level_lines,
    nice_ticks,
    tag,
    tick_text,
    title,
    words,
)
from pilotage.report.text import percent

Curve = Sequence[tuple[float, float]]
"""(rollouts so far, success) of one seed, in order."""

_TENTHS = tuple(i / 5 for i in range(6))


@dataclass(frozen=True, kw_only=True)
class ShownVariant:
    """One variant, as far as it has been run."""

    title: str
    shares: Mapping[str, Interval]
    """Condition (`image`, `text`, `perception`) -> success on test levels; empty for a variant that was not run."""
    curves: Sequence[Curve] = ()
    """By seed; empty for what has no steps of its own."""
    is_reference: bool = False


@dataclass(frozen=True, kw_only=True)
class StudyTable:
    """Figures in words, a row a variant."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""

    def as_markdown(self) -> str:
        printed = [self.head, ["---"] * len(self.head), *self.rows]
        table = "".join(f"| {' | '.join(row)} |\n" for row in printed)
        return f"{table}\n{self.note}\n" if self.note else table


def render_study(
    *,
    name: str,
    what: str,
    facts: Sequence[tuple[str, str]],
    variants: Sequence[ShownVariant],
    tables: Sequence[StudyTable],
    goal: float | None,
) -> str:
    """The whole page. `goal` is a success in [0, 1] that the curves are held against."""
    shown = [variant for variant in variants if variant.shares]
    drawn = [variant for variant in variants if variant.curves]
    conditions = _conditions(shown)
    most = max((curve[-1][0] for variant in drawn for curve in variant.curves), default=0.0)
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            name=name,
            what=what,
            facts=facts,
            version=__version__,
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            missing=[variant.title for variant in variants if not variant.shares],
            legend=[(condition_class(condition), title) for condition, title in conditions.items()],
            main=next(iter(conditions.values()), ""),
            ends=ends_chart(shown) if shown else None,
            panels=[(variant, ways_chart(variant, drawn, most=most, goal=goal)) for variant in drawn],
            goal=None if goal is None else percent(goal),
            tables=tables,
            style=Markup(asset("page.css") + asset("study.css")),
        )
    )


def _conditions(variants: Sequence[ShownVariant]) -> dict[str, str]:
    """Conditions that some variant was measured by -> their titles, the main one first."""
    return condition_titles({condition for variant in variants for condition in variant.shares})


def ends_chart(variants: Sequence[ShownVariant]) -> Markup:
    """A line a variant: success by the first condition with its interval, by the others as lighter marks."""
    conditions = _conditions(variants)
    main = next(iter(conditions), "")
    width, left, right, row, top = 980.0, 292.0, 52.0, 27.0, 24.0
    bottom = top + row * len(variants)
    x = Scale(low=0.0, high=1.0, start=left, stop=width - right)
    parts = [tag("line", x1=x(v), x2=x(v), y1=top - 6, y2=bottom, class_="grid") for v in _TENTHS]
    parts += [words(f"{100 * v:.0f} %", x(v), 12, "tick") for v in _TENTHS]
    for i, variant in enumerate(variants):
        y = top + row * (i + 0.5)
        name_class = "name reference" if variant.is_reference else "name"
        marks = [words(variant.title, left - 14, y + 4.5, name_class, "end")]
        # The main one last, so that no other hides it.
        for condition in reversed(conditions):
            share = variant.shares.get(condition)
            if share is None:
                continue
            text = (
                f"{variant.title}, {conditions[condition]}: {percent(share.mean)} % "
                f"[{percent(share.low)}–{percent(share.high)}]"
            )
            mark = [title(text)]
            if condition == main:
                mark.append(tag("path", d=f"M{x(share.low):.1f} {y:.1f}H{x(share.high):.1f}", class_="reach"))
            mark.append(tag("circle", cx=x(share.mean), cy=y, r=5.5 if condition == main else 4.0))
            marks.append(
                group(mark, class_=f"{condition_class(condition)} {'main' if condition == main else 'other'}")
            )
        if (share := variant.shares.get(main)) is not None:
            marks.append(words(percent(share.mean), width - 6, y + 4.5, "value", "end"))
        parts.append(group(marks))
    spoken = "; ".join(
        f"{variant.title} {percent(variant.shares[main].mean)} %"
        for variant in variants
        if main in variant.shares
    )
    text = f"Success {conditions.get(main, '')} by variant. {spoken}"
    return drawing(text, width, bottom + 4, parts, "chart ends")


def ways_chart(
    variant: ShownVariant, all_variants: Sequence[ShownVariant], *, most: float, goal: float | None
) -> Markup:
    """The variant's seeds over rollouts, and the other variants' means in grey behind them."""
    width, height, left, right, top, bottom = 330.0, 190.0, 38.0, 12.0, 8.0, 30.0
    x = Scale(low=0.0, high=most or 1.0, start=left, stop=width - right)
    y = Scale(low=0.0, high=1.0, start=height - bottom, stop=top)
    parts = level_lines(QUARTERS, y, left, width - right)
    parts += [
        words(tick_text(v), x(v), height - bottom + 16, "tick")
        for v in nice_ticks(0.0, most or 1.0, 3)
        if v <= (most or 1.0)
    ]
    if goal is not None:
        parts.append(tag("line", x1=left, x2=width - right, y1=y(goal), y2=y(goal), class_="goal"))
    for other in all_variants:
        if other is not variant:
            parts.append(tag("path", title(other.title), d=_path(_mean(other.curves), x, y), class_="other"))
    parts += [tag("path", d=_path(curve, x, y), class_="seed") for curve in variant.curves]
    parts.append(tag("path", d=_path(_mean(variant.curves), x, y), class_="own"))
    last = _mean(variant.curves)[-1]
    text = f"{variant.title}: {percent(last[1])} % after {last[0]:,.0f} rollouts"
    return drawing(text, width, height, parts, "chart ways")


def _mean(curves: Sequence[Curve]) -> list[tuple[float, float]]:
    """The seeds' mean at the rollouts that all of them were measured at."""
    by_rollouts: dict[float, list[float]] = {}
    for curve in curves:
        for rollouts, success in curve:
            by_rollouts.setdefault(rollouts, []).append(success)
    return [
        (at, sum(found) / len(found))
        for at, found in sorted(by_rollouts.items())
        if len(found) == len(curves)
    ]


def _path(curve: Curve, x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(rollouts):.1f} {y(success):.1f}" for rollouts, success in curve)
