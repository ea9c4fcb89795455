"""Tables of open-loop figures: planners on scenes, and rows of models, with intervals that resample drives.

Frames of a drive are no independent observations, so that an interval over frames is far too narrow. Drives on one map
seed count as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from pilotage.errors import PilotageError
from pilotage.evaluate.bootstrap import ALPHA, NUM_RESAMPLES, Interval
from pilotage.records import Split
from pilotage.worlds.driving.baselines import BASELINES, Planner
from pilotage.worlds.driving.data import split_scenes
from pilotage.worlds.driving.data.logs import SHIPPED
from pilotage.worlds.driving.mlp import mlp_planner
from pilotage.worlds.driving.scene import Scene, parse_scene
from pilotage.worlds.driving.situations import situation_of
from pilotage.worlds.driving.world import WORLD, judge_plan, plan_figures

Figures = Mapping[str, float]
MLP = "MLP"
"""The baseline that is trained, as tables name it."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The figures of one plan."""

    id: str
    group: str
    figures: Figures
    situation: str = ""


def baseline_frames(
    root: Path | None, split: Split, *, num_seeds: int = 1, progress: Callable[[int, int], None] | None = None
) -> dict[str, list[Frame]]:
    """Baseline -> its figures on every frame of a split of a set of logs (None: the shipped one).

    The MLP is trained on the drives of the training split and their mirror images, once a seed; its figures of a frame
    are the means over the seeds.
    """
    where = SHIPPED if root is None else root
    scenes = [scene for _, scene in split_scenes(where, split)]
    if not scenes:
        raise PilotageError(f"{where} has no drives of the split {split}")
    found: dict[str, list[Frame]] = {}
    of_seeds: list[Frame] = []
    total = len(BASELINES) + num_seeds
    for done, (name, planner) in enumerate(BASELINES.items(), start=1):
        found[name] = measure(planner, scenes)
        if progress is not None:
            progress(done, total)
    training = [scene for _, scene in split_scenes(where, "train", mirror=True)]
    for seed in range(num_seeds):
        of_seeds += measure(mlp_planner(training, seed), scenes)
        if progress is not None:
            progress(len(BASELINES) + seed + 1, total)
    return {**found, MLP: merged(of_seeds)}


def measure(planner: Planner, scenes: Iterable[Scene]) -> list[Frame]:
    """A planner's figures on every scene."""
    return [
        Frame(
            id=scene.id,
            group=scene.group,
            figures=plan_figures(scene, planner(scene)),
            situation=situation_of(scene),
        )
        for scene in scenes
    ]


def frames_of_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Frame]]:
    """Condition -> the figures of evaluation rows of this world; of several answers to a frame their means.

    A row whose engine failed counts as an answer that cannot be read. Raises PilotageError where there is no row.
    """
    found: dict[str, list[Frame]] = {}
    for row in rows:
        if row.get("world") == WORLD:
            axes, outcome = row.get("axes", {}), row.get("outcome")
            if row.get("error") or not outcome:
                outcome = judge_plan(parse_scene(row.get("state")), "").measures
            frame = Frame(
                id=row["id"],
                group=str(axes.get("group", row["id"])),
                figures={name: float(x) for name, x in outcome.items() if isinstance(x, int | float)},
                situation=str(axes.get("situation", "")),
            )
            found.setdefault(str(row["condition"]), []).append(frame)
    if not found:
        raise PilotageError("there is no row of the world driving")
    return {kind: merged(frames) for kind, frames in found.items()}


def merged(frames: Iterable[Frame]) -> list[Frame]:
    """Each frame once, with the means of its figures."""
    by_id: dict[str, list[Frame]] = {}
    for frame in frames:
        by_id.setdefault(frame.id, []).append(frame)
    return [
        replace(same[0], figures={name: fmean(x.figures[name] for x in same) for name in same[0].figures})
        for same in by_id.values()
    ]


def mean_over_drives(frames: Sequence[Frame], name: str, *, seed: int = 0) -> Interval:
    """The mean over frames of a figure, with a percentile bootstrap interval that resamples groups of drives."""
    return cluster_mean(
        [frame.figures[name] for frame in frames], [frame.group for frame in frames], seed=seed
    )


def paired_difference(
    frames: Sequence[Frame], minus: Sequence[Frame], name: str, *, seed: int = 0
) -> Interval:
    """The mean difference over the frames that both have; drives are resampled, both alike."""
    others = {frame.id: frame.figures[name] for frame in minus}
    shared = [frame for frame in frames if frame.id in others]
    if not shared:
        raise PilotageError("the two have no frame in common: measure both on the same logs")
    values = [frame.figures[name] - others[frame.id] for frame in shared]
    return cluster_mean(values, [frame.group for frame in shared], seed=seed)


def cluster_mean(
    values: Sequence[float], groups: Sequence[str], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """The mean of values, and the range in which it lies when whole groups are resampled; `n` counts groups."""
    if not values:
        raise PilotageError("an interval needs at least one value")
    _, number = np.unique(np.array(groups), return_inverse=True)
    sums, counts = np.bincount(number, weights=np.array(values, dtype=float)), np.bincount(number)
    n = len(counts)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=num_resamples)
    means = np.einsum("rg,g->r", drawn, sums) / np.einsum("rg,g->r", drawn, counts)
    low, high = np.quantile(means, (ALPHA / 2, 1 - ALPHA / 2))
    return Interval(mean=float(sums.sum() / counts.sum()), low=float(low), high=float(high), n=n)
