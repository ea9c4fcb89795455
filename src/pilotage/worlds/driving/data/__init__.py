"""Frames of logs as examples: those that come with the package, and sets of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.data.options import refuse_unknown
from pilotage.data.sets import SetKind
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import Example, Split
from pilotage.worlds.driving.data.logs import LOGS_FORMAT, SHIPPED, load_logs
from pilotage.worlds.driving.data.scenes import SCENES_FORMAT, load_scenes
from pilotage.worlds.driving.log import DriveLog, mirrored, scene_at
from pilotage.worlds.driving.render import MAX_SIDE_PX, MIN_SIDE_PX
from pilotage.worlds.driving.scene import Scene
from pilotage.worlds.driving.world import SIDE_PX, make_example

KNOWN_OPTIONS = ("logs", "side", "mirror")
"""What shapes the examples: a folder of logs in place of the shipped ones, pixels a side, mirrored drives too (1)."""


def examples(
    world: str,
    levels: Sequence[int],
    count: int,
    split: Split,
    seed: int,
    *,
    cell_px: int,
    options: Mapping[str, Any],
) -> list[Example]:
    """`count` frames of the logs of a split, drawn by the seed; more of them begin with the same ones.

    Raises ImpossibleRequestError where there are not as many, PilotageError for an option that is another.
    """
    refuse_unknown("driving", options, KNOWN_OPTIONS)
    side_px = options.get("side", SIDE_PX)
    if not isinstance(side_px, int) or not MIN_SIDE_PX <= side_px <= MAX_SIDE_PX:
        raise PilotageError(
            f"driving: side={side_px} is no picture; choose from {MIN_SIDE_PX} to {MAX_SIDE_PX}"
        )
    logs = with_mirrored(load_logs(options.get("logs", SHIPPED), split), bool(options.get("mirror", 0)))
    places = [(log, frame) for log in logs for frame in log.frames]
    if count > len(places):
        raise ImpossibleRequestError(
            f"driving: {count} frames of the split {split} were asked for, and the logs have {len(places)}; ask for "
            "fewer, or make more logs: pilotage data driving --out FOLDER, then --option logs=FOLDER",
            num_found=len(places),
        )
    order = np.random.default_rng(seed).permutation(len(places))[:count]
    chosen = (places[place] for place in order)
    return [make_example(scene_at(log, frame), log=log.id, side_px=side_px) for log, frame in chosen]


def load_frames(root: Path, split: Split) -> list[Example]:
    """Every frame of a split, drive by drive. Raises PilotageError for a split that the set does not have."""
    found = [
        make_example(scene_at(log, frame), log=log.id)
        for log in load_logs(root, split)
        for frame in log.frames
    ]
    if not found:
        raise PilotageError(f"{root} has no drives of the split {split}")
    return found


def split_scenes(root: Path | str, split: Split, *, mirror: bool = False) -> list[tuple[str, Scene]]:
    """(drive, scene) of every frame of a split."""
    logs = with_mirrored(load_logs(root, split), mirror)
    return [(log.id, scene_at(log, frame)) for log in logs for frame in log.frames]


def with_mirrored(logs: Sequence[DriveLog], mirror: bool) -> list[DriveLog]:
    """The drives, each followed by itself with left and right exchanged where that is wanted."""
    return [each for log in logs for each in ((log, mirrored(log)) if mirror else (log,))]


SETS = (
    SetKind(format=LOGS_FORMAT, holds="driving logs", load=load_frames),
    SetKind(format=SCENES_FORMAT, holds="driving scenes", load=load_scenes),
)
"""The kinds of data sets that this world brings."""

__all__ = ["KNOWN_OPTIONS", "SETS", "examples", "load_frames", "split_scenes"]
