"""Lanes as centre lines: polygons, distances, the way ahead along a route, and the car's own axes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pilotage.worlds.driving.scene import Pose

PATH_STEP_M = 2.0
"""Points of a path are so far apart."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """A lane by the middle of it."""

    line: np.ndarray
    """float [points, 2], in driving direction; at least two."""
    width: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Roads:
    """The lanes of a map, and those that lead to the goal."""

    lanes: tuple[Lane, ...]
    route: tuple[tuple[int, ...], ...]
    """Numbers of the lanes of each road on the way."""

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the pieces of all lines: beginnings [n, 2], ways [n, 2], and where each lane's pieces begin [lanes]."""
        begins = np.concatenate([lane.line[:-1] for lane in self.lanes])
        ways = np.concatenate([np.diff(lane.line, axis=0) for lane in self.lanes])
        counts = [len(lane.line) - 1 for lane in self.lanes]
        return begins, ways, np.cumsum([0, *counts[:-1]])

    @cached_property
    def _corners(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of all lanes' polygons [n, 2], and where those of each but the first begin."""
        polygons = [lane_polygon(lane) for lane in self.lanes]
        return np.concatenate(polygons), np.cumsum([len(polygon) for polygon in polygons[:-1]])

    def distances(self, place: np.ndarray) -> np.ndarray:
        """float [lanes]: from a place to the middle of each lane."""
        begins, ways, firsts = self._pieces
        return np.minimum.reduceat(_to_pieces(begins, ways, place)[0], firsts)

    def polygons(self, pose: Pose) -> list[np.ndarray]:
        """The lanes' polygons in the axes of a car at this pose."""
        corners, firsts = self._corners
        return np.split(to_ego(corners, pose), firsts)

    def nearest(self, distances: np.ndarray) -> tuple[int, int]:
        """(number of the road, number of the lane) on the route with the least of `distances`; of equals the first."""
        _, road, lane = min(
            (round(float(distances[lane]), 6), road, lane)
            for road, of_road in enumerate(self.route)
            for lane in of_road
        )
        return road, lane

    def follow(self, road: int, lane: int, place: np.ndarray, length_m: float) -> np.ndarray:
        """float [points, 2]: the way along the route from beside a place, a point every two metres.

        Keeps to its lane, and on each next road takes the one that begins nearest to where it is.
        """
        line = self.lanes[lane].line
        begin = project(line, place)[1]
        for of_road in self.route[road + 1 :]:
            if arc_lengths(line)[-1] - begin > length_m:
                break
            gaps = [float(np.hypot(*(self.lanes[number].line[0] - line[-1]))) for number in of_road]
            line = np.concatenate([line, self.lanes[of_road[int(np.argmin(np.round(gaps, 6)))]].line])
        line = line[np.concatenate(([True], np.hypot(*np.diff(line, axis=0).T) > 1e-6))]
        last = min(begin + length_m, arc_lengths(line)[-1])
        return at_arc(line, np.arange(begin, last + 1e-6, PATH_STEP_M))


def to_ego(points: np.ndarray, pose: Pose) -> np.ndarray:
    """Points [n, 2] of the map in the axes of a car at this pose: x to its right, y forward."""
    x, y, heading = pose
    right_and_forward = np.array([[np.sin(heading), -np.cos(heading)], [np.cos(heading), np.sin(heading)]])
    # einsum, not a matrix product: BLAS would wake its threads for a few numbers.
    return np.einsum("nd,kd->nk", points - np.array([x, y]), right_and_forward)


def arc_lengths(line: np.ndarray) -> np.ndarray:
    """float [points]: the way along the line from its beginning."""
    return np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))))


def project(line: np.ndarray, place: np.ndarray) -> tuple[float, float]:
    """(distance, way along the line) of the line's point nearest to a place."""
    ways = np.diff(line, axis=0)
    distances, shares = _to_pieces(line[:-1], ways, place)
    best = int(np.argmin(distances))
    return float(distances[best]), float(arc_lengths(line)[best] + shares[best] * np.hypot(*ways[best]))


def _to_pieces(begins: np.ndarray, ways: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float [n] and [n]: from a place to each straight piece, and the share of the piece before its nearest point."""
    squares = np.maximum((ways**2).sum(axis=1), 1e-12)
    shares = np.clip(((place - begins) * ways).sum(axis=1) / squares, 0.0, 1.0)
    return np.hypot(*(begins + shares[:, None] * ways - place).T), shares


def at_arc(line: np.ndarray, along: np.ndarray) -> np.ndarray:
    """float [n, 2]: the line's points so far along it; beyond its ends, its ends."""
    lengths = arc_lengths(line)
    return np.stack([np.interp(along, lengths, line[:, axis]) for axis in (0, 1)], axis=1)


def lane_polygon(lane: Lane) -> np.ndarray:
    """float [2 x points, 2]: the left side forth, the right side back."""
    ways = np.diff(lane.line, axis=0)
    ways = np.concatenate([ways[:1], ways[:-1] + ways[1:], ways[-1:]])
    norms = np.maximum(np.hypot(*ways.T), 1e-9)[:, None]
    left = np.stack([-ways[:, 1], ways[:, 0]], axis=1) / norms * lane.width / 2
    return np.concatenate([lane.line + left, (lane.line - left)[::-1]])


def turn_along(path: np.ndarray, length_m: float) -> float:
    """By how much a path [points, 2] turns over this much of its length, in radians, positive to the left.

    In the car's axes (x right, y forward).
    """
    ways = np.diff(path[: int(length_m / PATH_STEP_M) + 1], axis=0)
    if len(ways) < 2:
        return 0.0
    headings = np.unwrap(np.arctan2(-ways[:, 0], ways[:, 1]))
    return float(headings[-1] - headings[0])
