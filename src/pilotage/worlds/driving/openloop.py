"""How far a plan is from what was driven, and what it would have hit: two published conventions and a geometric one.

Legend: F frames, T six steps, D x and y, R rows and C columns of a grid.

The published collision is computed as the public evaluator does it, oddities included, because published figures are
made of it: a grid of 0.5 m cells, a box of always the same 32 cells that never turns, offsets cut down to whole cells
after x was negated (STP-3; under UniAD it is negated twice), cells beyond the grid moved to its border, and steps left
out at which the box of what was driven hits something itself. What no release contains is the evaluator's occupancy:
here a cell is occupied where the box of an object covers its middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

import numpy as np

from pilotage.worlds.driving.render import box
from pilotage.worlds.driving.scene import EGO_LENGTH, EGO_WIDTH, NUM_FUTURE, Point, Scene

Convention = Literal["stp3", "uniad"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
NUM_CELLS, CELL_M = 200, 0.5
FIRST_CELL_M = -NUM_CELLS * CELL_M / 2 + CELL_M / 2
"""The middle of the first cell, in either direction."""
BOX_AHEAD_M = 0.5
"""The evaluator's box has its middle so far ahead of the place that is planned."""
MOVED_M = 0.1
"""Who moves less between two steps keeps its heading."""
STP3_WEIGHTS = np.array([11, 11, 5, 5, 2, 2]) / 36
"""The mean of the means over one, two and three seconds, as weights of the six steps."""
UNIAD_WEIGHTS = np.array([0, 1, 0, 1, 0, 1]) / 3


def averaged(values_FT: np.ndarray, convention: Convention) -> np.ndarray:
    """float [F]: errors or hits of the six steps as one number, by convention."""
    return np.einsum("...t,t->...", values_FT, STP3_WEIGHTS if convention == "stp3" else UNIAD_WEIGHTS)


def step_errors(plan_TD: np.ndarray, truth_TD: np.ndarray, mask_T: np.ndarray) -> np.ndarray:
    """float [..., T]: distances in metres; masked steps count as 0, and stay in every denominator."""
    return np.hypot(*np.moveaxis(plan_TD - truth_TD, -1, 0)) * mask_T


@cache
def box_cells() -> np.ndarray:
    """int [32, 2]: row and column of every cell of the evaluator's box, for a car at the origin."""
    ahead = np.array([-EGO_LENGTH / 2, EGO_LENGTH / 2]) + BOX_AHEAD_M
    aside = np.array([-EGO_WIDTH / 2, EGO_WIDTH / 2])
    rows, columns = ((sides - FIRST_CELL_M) / CELL_M for sides in (ahead, aside))
    return np.array(
        [
            (row, column)
            for row in range(int(np.ceil(rows[0])), int(np.floor(rows[1])) + 1)
            for column in range(int(np.ceil(columns[0])), int(np.floor(columns[1])) + 1)
        ]
    )


def occupied(scene: Scene, convention: Convention) -> np.ndarray:
    """bool [T, R, C]: cells whose middle an object covers at each step. Rows go forward.

    Columns go to the left under STP-3 and to the right under UniAD: each as its plans are laid over them.
    """
    grid_TRC = np.zeros((NUM_FUTURE, NUM_CELLS, NUM_CELLS), dtype=bool)
    for one in scene.objects:
        reach = float(np.hypot(one.length, one.width)) / 2
        for step, pose in enumerate(one.future or ()):
            if pose is None:
                continue
            x, y, heading = pose
            rows, columns = _cells_near(y, reach), _cells_near(x, reach)
            if not len(rows) or not len(columns):
                continue
            dy, dx = _middle(rows)[:, None] - y, _middle(columns)[None, :] - x
            forward = -np.sin(heading) * dx + np.cos(heading) * dy
            aside = np.cos(heading) * dx + np.sin(heading) * dy
            covered = (np.abs(forward) <= one.length / 2) & (np.abs(aside) <= one.width / 2)
            grid_TRC[step, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] |= covered
    # The middles of the cells lie evenly about the car: to the left is to the right, read backwards.
    return grid_TRC[:, :, ::-1] if convention == "stp3" else grid_TRC


def _cells_near(place: float, reach: float) -> np.ndarray:
    low, high = ((place + sign * reach - FIRST_CELL_M) / CELL_M for sign in (-1, 1))
    return np.arange(max(0, int(np.floor(low))), min(NUM_CELLS, int(np.ceil(high)) + 1))


def _middle(cells: np.ndarray) -> np.ndarray:
    return FIRST_CELL_M + CELL_M * cells


def box_hits(plan_TD: np.ndarray, occupied_TRC: np.ndarray, convention: Convention) -> np.ndarray:
    """bool [T]: whether the evaluator's box, moved along a plan, covers an occupied cell."""
    side = -1.0 if convention == "stp3" else 1.0
    moved = np.stack([plan_TD[:, 1], side * plan_TD[:, 0]], axis=1) / CELL_M
    # Down to whole cells, sums and not offsets: it is what the evaluator's cast of the sum to whole numbers does.
    cells = np.floor(moved[:, None, :] + box_cells()[None]).astype(int)
    rows, columns = np.moveaxis(np.clip(cells, 0, NUM_CELLS - 1), -1, 0)
    steps = np.arange(len(plan_TD))[:, None]
    return np.any(occupied_TRC[steps, rows, columns], axis=1)


def published_hits(plan_TD: np.ndarray, scene: Scene) -> dict[Convention, np.ndarray]:
    """bool [T] by convention: the steps that the published collision counts. A hit counts at its own step alone."""
    driven_TD, grid_TRC = np.array(scene.future), occupied(scene, "uniad")
    grids: dict[Convention, np.ndarray] = {"stp3": grid_TRC[:, :, ::-1], "uniad": grid_TRC}
    return {
        convention: box_hits(plan_TD, grid, convention) & ~box_hits(driven_TD, grid, convention)
        for convention, grid in grids.items()
    }


def geometric_hits(plan_TD: np.ndarray, scene: Scene) -> np.ndarray:
    """bool [T]: whether the car's own box, turned as the plan moves, meets an object's.

    Steps at which the car as it was driven met something are left out here too: boxes may be drawn too large.
    """
    driven = np.array(scene.future)
    return _meets(plan_TD, scene) & ~_meets(driven, scene)


def _meets(plan_TD: np.ndarray, scene: Scene) -> np.ndarray:
    ego, hits = scene.ego, np.zeros(len(plan_TD), dtype=bool)
    for step, heading in enumerate(headings(plan_TD)):
        place = float(plan_TD[step, 0]), float(plan_TD[step, 1])
        corners = box(place, heading, ego.length, ego.width)
        for one in scene.objects:
            pose = one.future[step] if one.future is not None else None
            if pose is None:
                continue
            reach = (np.hypot(one.length, one.width) + np.hypot(ego.length, ego.width)) / 2
            if np.hypot(pose[0] - place[0], pose[1] - place[1]) <= reach and overlap(
                corners, box(pose[:2], pose[2], one.length, one.width)
            ):
                hits[step] = True
                break
    return hits


def headings(plan_TD: np.ndarray) -> list[float]:
    """The heading at each step: from the step before to the step after, kept while it hardly moves."""
    points = np.concatenate([np.zeros((1, 2)), plan_TD])
    told, heading = [], 0.0
    for step in range(1, len(points)):
        x, y = points[min(step + 1, len(points) - 1)] - points[step - 1]
        if np.hypot(x, y) >= MOVED_M:
            heading = float(np.arctan2(-x, y))
        told.append(heading)
    return told


def overlap(one: Sequence[Point], other: Sequence[Point]) -> bool:
    """Whether two boxes, as corners in turn, share a point: no side of either parts them."""
    first, second = np.array(one), np.array(other)
    for corners in (first, second):
        for place in (0, 1):
            side = corners[place + 1] - corners[place]
            axis = np.array([-side[1], side[0]])
            here, there = ((points * axis).sum(axis=1) for points in (first, second))
            if here.max() < there.min() or there.max() < here.min():
                return False
    return True
