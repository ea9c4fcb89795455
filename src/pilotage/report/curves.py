"""Training curves out of `metrics.jsonl`: known metrics in panels with a meaning, all others by their area.

What shares a panel shares its axis: one unit, and for metrics that are not known one order of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from markupsafe import Markup

from pilotage.report.svg import LogScale, Scale, drawing, nice_ticks, tag, tick_text, words
from pilotage.report.text import visible

MAX_POINTS = 400
"""Longer curves are averaged down: more points than pixels only make the page heavy."""
LOG_FROM = 30.0
NUM_COLOURS = 6
ALL = "all"
_ABSURD = 1e30
"""Larger numbers are left out of the curves, and so are NaN and infinity."""
_NOT_METRICS = frozenset({"stage", "step", "time_s", "epoch"})


@dataclass(frozen=True, kw_only=True)
class PanelSpec:
    """Which metrics share a panel."""

    title: str
    unit: str
    """`%` for shares, which are drawn from 0 to 100."""
    names: tuple[str, ...]
    """Metric names, in which `*` stands for anything. A metric is in the first panel that names it."""
    band: tuple[str, str] | None = None
    """Metrics of a shaded range, low and high."""
    note: str = ""
    smooth: bool = True
    """A running mean over the steps; off for what has no noise."""
    may_be_log: bool = False
    """Drawn on a logarithmic axis where the values span more than LOG_FROM times the smallest."""


PANELS = (
    PanelSpec(title="Loss", unit="", names=("loss", "loss/image", "loss/text", "eval/loss"), may_be_log=True),
    PanelSpec(
        title="Divergence by span",
        unit="nats/token",
        names=("kl/*",),
        note="how far the student is from the teacher, on the student's own tokens",
        may_be_log=True,
    ),
    PanelSpec(
        title="Success of the rollouts",
        unit="%",
        names=("rollout/success", "rollout/success/*", "rollout/described"),
        note="sampled at training temperature, on training states",
    ),
    PanelSpec(
        title="Form of the rollouts",
        unit="%",
        names=("rollout/parsed", "rollout/valid", "rollout/truncated", "rollout/repetition"),
    ),
    PanelSpec(
        title="Length of the rollouts",
        unit="tokens",
        names=("rollout/length_mean",),
        band=("rollout/length_p05", "rollout/length_p95"),
        note="shaded: 5th to 95th percentile",
    ),
    PanelSpec(title="Reward", unit="per rollout", names=("rollout/reward", "rollout/reward_std")),
    PanelSpec(title="Groups of one reward", unit="%", names=("rollout/same_reward",)),
    PanelSpec(title="Whose rollouts", unit="%", names=("source/*",)),
    PanelSpec(title="Entropy of the student", unit="nats/token", names=("policy/entropy",)),
    PanelSpec(title="Teacher's agreement", unit="%", names=("teacher/agreement", "loss/cap_rate")),
    PanelSpec(title="Divergence by route", unit="nats/token", names=("route/*/kl",), may_be_log=True),
    PanelSpec(title="Tokens by route", unit="tokens/step", names=("route/*/tokens",)),
    PanelSpec(title="Tokens that no route teaches", unit="%", names=("route/untaught",)),
    PanelSpec(
        title="Divergence by position",
        unit="nats/token",
        names=("position/kl_*",),
        note="quarters of the response",
        may_be_log=True,
    ),
    PanelSpec(
        title="Divergence by turn",
        unit="nats/token",
        names=("turn/kl_*",),
        may_be_log=True,
        note="turns of an episode, the first one is 0",
    ),
    PanelSpec(title="Turns of an episode", unit="turns", names=("episode/turns",)),
    PanelSpec(
        title="Episodes that their worlds broke off", unit="episodes/step", names=("episode/world_failed",)
    ),
    PanelSpec(title="Words of style", unit="%", names=("style/*_share",), note="of tokens, of divergence"),
    PanelSpec(title="Tokens behind PALR", unit="tokens", names=("palr/*_tokens",)),
    PanelSpec(title="Rollouts behind PALR", unit="", names=("palr/num_*",)),
    PanelSpec(title="Taught by the answer (PALR)", unit="%", names=("palr/*",)),
    PanelSpec(title="Privilege gap", unit="nats/token", names=("privilege_gap/*",)),
    PanelSpec(title="Gradient norm", unit="", names=("grad_norm",)),
    PanelSpec(title="Time of a step", unit="seconds", names=("time/*",)),
    PanelSpec(title="Learning rate", unit="", names=("lr", "learning_rate"), smooth=False),
    PanelSpec(title="Image tokens sampled", unit="tokens/step", names=("rollout/vision_attempts",)),
)
_UNIT_ENDINGS = {"_s": "seconds", "_nats": "nats", "tokens": "tokens"}
"""How the name of a metric that no panel knows may end, and the unit that this tells."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a panel."""

    label: str
    colour: str
    """A number below NUM_COLOURS, or `all` for the ink that a total is drawn with."""
    values: list[float | None]
    """One a step; None where the metric was not logged."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart of a stage's metrics over its steps."""

    title: str
    unit: str
    note: str
    series: tuple[Series, ...]
    chart: Markup
    data: Mapping[str, Any]
    """What the pointer reads off: steps, series, the plot's frame."""


def panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """A panel for everything that one stage's metric lines hold, in a fixed order; `notes` tells of the rest."""
    return [
        _panel(spec, names, rows, band)
        for spec, names, band in _chosen(rows)
        if not _is_zero(rows, [*names, *(band or ())])
    ]


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What no curve shows of one stage's metric lines, a sentence each."""
    said = []
    for name in dict.fromkeys(name for row in rows for name in row):
        bad = [row["step"] for row in rows if _is_lost(row.get(name))]
        if bad and name not in _NOT_METRICS:
            steps = f"{len(bad)} of {len(rows)} steps, first at step {bad[0]:g}"
            said.append(f"{visible(name, 60)} is no finite number at {steps}")
    zero = [
        name for _, names, band in _chosen(rows) for name in names if _is_zero(rows, [*names, *(band or ())])
    ]
    if zero:
        said.append(f"0 at every step: {', '.join(visible(name, 60) for name in zero)}")
    return said


def _chosen(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[PanelSpec, list[str], tuple[str, str] | None]]:
    """(panel, its metrics, its band) of everything that is a number somewhere."""
    names = list(dict.fromkeys(n for row in rows for n, v in row.items() if _is_number(v)))
    free = [name for name in names if name not in _NOT_METRICS]
    for spec in PANELS:
        taken = list(dict.fromkeys(n for want in spec.names for n in free if fnmatchcase(n, want)))
        band = spec.band if spec.band and all(name in free for name in spec.band) else None
        used = {*taken, *(band or ())} if taken else set()
        free = [name for name in free if name not in used]
        for i in range(0, len(taken), NUM_COLOURS + 1):
            yield spec, taken[i : i + NUM_COLOURS + 1], band
    groups: dict[tuple[str, str, int], list[str]] = {}
    for name in free:
        unit = next((unit for ending, unit in _UNIT_ENDINGS.items() if name.endswith(ending)), "")
        groups.setdefault((name.rpartition("/")[0] or name, unit, _magnitude(rows, name)), []).append(name)
    for (area, unit, _), group in groups.items():
        for i in range(0, len(group), NUM_COLOURS):
            shared = group[i : i + NUM_COLOURS]
            title = shared[0] if len(shared) == 1 else area
            yield PanelSpec(title=visible(title, 60), unit=unit, names=()), shared, None


def _magnitude(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """Which power of LOG_FROM the metric's largest value is near: what is far smaller would be drawn as nought."""
    most = max(abs(row[name]) for row in rows if _is_number(row.get(name)))
    return round(math.log(most, LOG_FROM)) if most > 0 else 0


def _is_zero(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bool:
    return not any(_is_number(row.get(name)) and row[name] for row in rows for name in names)


def _is_lost(value: Any) -> bool:
    """A number that is none, or that no axis can show."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not _is_number(value)


def _panel(
    spec: PanelSpec,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    band: tuple[str, str] | None,
) -> Panel:
    rows = [row for row in rows if any(_is_number(row.get(name)) for name in names)]
    steps, columns = _thin(rows, [*names, *(band or ())])
    labels = _labels(names)
    ordered = sorted(zip(names, labels, strict=True), key=lambda named: named[1] == ALL)
    series = tuple(
        Series(
            label=visible(label, 40),
            colour=ALL if label == ALL else str(i % NUM_COLOURS),
            values=columns[name],
        )
        for i, (name, label) in enumerate(ordered)
    )
    low_high = (columns[band[0]], columns[band[1]]) if band else None
    chart, data, is_log = _draw(spec, steps, series, low_high)
    unit = ", ".join(filter(None, (spec.unit, "log scale" if is_log else "")))
    return Panel(title=spec.title, unit=unit, note=spec.note, series=series, chart=chart, data=data)


def _labels(names: Sequence[str]) -> list[str]:
    """What tells each name from the others; `all` for one that the others are parts of."""
    parts = [name.split("/") for name in names]
    for place in (-1, -2):
        short = [part[place].replace("_", " ") if len(part) >= -place else "" for part in parts]
        if len(set(short)) == len(short):
            break
    else:
        short = list(names)
    return [
        ALL if any(other.startswith(f"{name}/") for other in names) else label
        for name, label in zip(names, short, strict=True)
    ]


def _draw(
    spec: PanelSpec,
    steps: list[float],
    series: Sequence[Series],
    band: tuple[list[float | None], list[float | None]] | None,
) -> tuple[Markup, dict[str, Any], bool]:
    width, height, left, right, top, bottom = 420, 210, 46, 12, 12, 30
    shown = [v for s in series for v in s.values if v is not None]
    shown += [v for edge in band or () for v in edge if v is not None]
    is_log = spec.may_be_log and min(shown) > 0 and max(shown) > LOG_FROM * min(shown)
    ticks = _ticks(min(shown), max(shown), "log" if is_log else spec.unit)
    x = Scale(low=steps[0], high=max(steps[-1], steps[0] + 1), start=left, stop=width - right)
    frame = {"start": height - bottom, "stop": top}
    ends = (min(ticks[0], *shown), max(ticks[-1], *shown))
    y = LogScale(low=ends[0], high=ends[1], **frame) if is_log else Scale(low=ends[0], high=ends[1], **frame)
    parts = []
    for tick in ticks:
        text = tick_text(100 * tick) if spec.unit == "%" else tick_text(tick)
        parts.append(tag("line", x1=left, x2=width - right, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(words(text, left - 7, y(tick) + 4, "tick", "end"))
    parts.append(words("step", left - 14, height - 10, "tick", "end"))
    for tick in nice_ticks(x.low, x.high, 5):
        if x.low <= tick <= x.high and tick == int(tick):
            parts.append(words(tick_text(tick), x(tick), height - 10, "tick"))
    if band:
        parts.append(tag("path", d=_band_path(steps, band, x, y), class_="band c-0"))
    for s in series:
        smooth = _smooth(s.values) if spec.smooth else s.values
        if smooth is not s.values:
            parts.append(tag("path", d=_path(steps, s.values, x, y), class_=f"raw c-{s.colour}"))
        parts.append(tag("path", d=_path(steps, smooth, x, y), class_=f"line c-{s.colour}"))
        there = [(step, v) for step, v in zip(steps, s.values, strict=True) if v is not None]
        if len(there) == 1:
            parts.append(tag("circle", cx=x(there[0][0]), cy=y(there[0][1]), r=3, class_=f"c-{s.colour}"))
    parts.append(tag("line", x1=0, x2=0, y1=top, y2=height - bottom, class_="cursor"))
    chart = drawing(_spoken(spec, steps, series), width, height, parts, "chart curve")
    data = {
        "unit": spec.unit,
        "width": width,
        "left": left,
        "right": width - right,
        "x": [round(step) for step in steps],
        "series": [
            {
                "label": s.label,
                "colour": s.colour,
                "y": [None if v is None else float(f"{v:.4g}") for v in s.values],
            }
            for s in series
        ],
    }
    return chart, data, is_log


def _ticks(low: float, high: float, unit: str) -> list[float]:
    if unit == "%":
        return [0.0, 0.25, 0.5, 0.75, 1.0]
    if unit == "log":
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        fine = [m * 10.0**p for p in powers for m in (1, 3)]
        first = max(t for t in fine if t <= low * 1.001)
        last = min((t for t in fine if t >= high * 0.999), default=fine[-1])
        return [t for t in fine if first <= t <= last]
    ticks = nice_ticks(min(0.0, low), high)
    return ticks if len(ticks) > 1 else [0.0, 1.0]


def _spoken(spec: PanelSpec, steps: Sequence[float], series: Sequence[Series]) -> str:
    said = []
    for s in series:
        values = [v for v in _smooth(s.values) if v is not None]
        first, last = (
            f"{100 * v:.0f} %" if spec.unit == "%" else f"{v:.3g}" for v in (values[0], values[-1])
        )
        said.append(f"{s.label} from {first} to {last}")
    return f"{spec.title}, steps {steps[0]:.0f} to {steps[-1]:.0f}: {'; '.join(said)}"


def _path(steps: Sequence[float], values: Sequence[float | None], x: Scale, y: Scale) -> str:
    d, pen = [], "M"
    for step, value in zip(steps, values, strict=True):
        if value is not None:
            d.append(f"{pen}{x(step):.1f} {y(value):.1f}")
            pen = "L"
    return "".join(d)


def _band_path(
    steps: Sequence[float], band: tuple[list[float | None], list[float | None]], x: Scale, y: Scale
) -> str:
    both = [
        (step, low, high)
        for step, low, high in zip(steps, *band, strict=True)
        if low is not None and high is not None
    ]
    if not both:
        return ""
    over = [f"{x(step):.1f} {y(high):.1f}" for step, _, high in both]
    under = [f"{x(step):.1f} {y(low):.1f}" for step, low, _ in reversed(both)]
    return f"M{'L'.join(over + under)}Z"


def _smooth(values: list[float | None]) -> list[float | None]:
    """Exponential mean over about a twentieth of the curve, without a lag at its start."""
    span = len(values) / 20
    if span < 2:
        return values
    keep = 1 - 2 / (span + 1)
    total = weight = 0.0
    smoothed: list[float | None] = []
    for value in values:
        if value is None:
            smoothed.append(None)
            continue
        total, weight = keep * total + value, keep * weight + 1
        smoothed.append(total / weight)
    return smoothed


def _thin(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[list[float], dict[str, list[float | None]]]:
    """Steps and columns, neighbours averaged until at most MAX_POINTS are left."""
    size = math.ceil(len(rows) / MAX_POINTS)
    bins = [rows[i : i + size] for i in range(0, len(rows), size)]
    steps = [sum(float(row["step"]) for row in b) / len(b) for b in bins]
    return steps, {name: [_mean([row.get(name) for row in b]) for b in bins] for name in names}


def _mean(values: Sequence[Any]) -> float | None:
    numbers = [float(value) for value in values if _is_number(value)]
    return sum(numbers) / len(numbers) if numbers else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _ABSURD
