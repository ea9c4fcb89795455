"""Drives recorded in MetaDrive: one chunk of map seeds in a process of its own, one line of JSON a drive.

`python -m pilotage.worlds.driving.data.simulate CHUNK FILE` drives the seeds of a chunk one after the other and writes
the log of each that arrived, or `{"seed", "map", "failed": reason}`. What a drive is like follows from the number of
the chunk: a fresh process gives the same bytes, while other drives before it in the same process would let float noise
in. That is why chunks have a fixed size, and why the engine, of which a process can have one only, never lives in
ours.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

SIMULATOR_VERSION = 1
"""Goes up whenever the same chunk would give other drives than before."""
CHUNK_SEEDS = 16
MAPS: tuple[str, ...] = ("SXS", "STS", "SCS", "random")
"""Roads of a chunk, in turn: straight, crossing, straight; the same with a T and with a curve; three random blocks."""
NUM_RANDOM_BLOCKS = 3
DENSITY = 0.15
TRAFFIC_KM_H = (15.0, 40.0)
"""Each car of the traffic wants a speed of its own between these; stock traffic all wants 30."""
EXPERT_KM_H = 45.0
LATERAL_M_S2 = 2.0
"""The expert takes no bend faster than with this acceleration to the side."""
LOOK_AHEAD_M = 25.0
STEP_S = 0.1
STEPS_A_FRAME = 5
"""The simulator's steps between two frames of a log, which are half a second apart."""
MAX_STEPS = 1_000
REACH_M = 80.0
"""Objects farther from the car are not recorded."""
MIN_WIDTH_M = 0.5
"""Some blocks have lanes of no width, which nobody drives on."""
BEND_M = 2.0
"""The centre line of a bend has a point so often; a straight one has its ends."""


def map_of(chunk: int) -> str:
    """The roads of a chunk."""
    return MAPS[chunk % len(MAPS)]


def seeds_of(chunk: int) -> range:
    """The map seeds of a chunk; no seed is of two."""
    return range(chunk * CHUNK_SEEDS, (chunk + 1) * CHUNK_SEEDS)


def drives(chunk: int, seeds: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
    """The log of every drive of a chunk, or why there is none. Only ever called in a process of its own."""
    env = _make_env(chunk)
    try:
        for seed in seeds_of(chunk) if seeds is None else seeds:
            yield _drive(env, seed, map_of(chunk))
    finally:
        env.close()


def _make_env(chunk: int) -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    from metadrive.engine.base_engine import BaseEngine  # pyright: ignore[reportMissingImports]

    # Before the first environment: its constructor would fetch pictures and models, of which nothing here is drawn.
    BaseEngine.try_pull_asset = staticmethod(lambda *_args, **_kwargs: None)
    from metadrive.envs.metadrive_env import MetaDriveEnv  # pyright: ignore[reportMissingImports]
    from metadrive.obs.observation_base import DummyObservation  # pyright: ignore[reportMissingImports]

    roads = map_of(chunk)
    return MetaDriveEnv(
        {
            "use_render": False,
            "preload_models": False,
            "show_interface": False,
            "log_level": 50,
            "agent_observation": DummyObservation,
            "agent_policy": _expert_class(),
            "start_seed": seeds_of(chunk).start,
            "num_scenarios": CHUNK_SEEDS,
            "map": NUM_RANDOM_BLOCKS if roads == "random" else roads,
            "traffic_density": DENSITY,
            "horizon": MAX_STEPS,
        }
    )


def _expert_class() -> type[Any]:
    from metadrive.policy.idm_policy import IDMPolicy  # pyright: ignore[reportMissingImports]

    class Expert(IDMPolicy):
        """The simulator's driver, faster on straight roads and slowed before bends."""

        NORMAL_SPEED = EXPERT_KM_H

        def acceleration(self, front_obj: Any, dist_to_front: float) -> float:
            wanted = self.target_speed
            self.target_speed = min(wanted, self._bend_km_h())
            try:
                return super().acceleration(front_obj, dist_to_front)
            finally:
                self.target_speed = wanted

        def _bend_km_h(self) -> float:
            """The speed that the tightest bend ahead allows."""
            car: Any = self.control_object
            lane, ahead = self.routing_target_lane, car.navigation.next_ref_lanes or ()
            lanes = [lane]
            if lane.length - lane.local_coordinates(car.position)[0] < LOOK_AHEAD_M and ahead:
                lanes.append(ahead[min(lane.index[-1], len(ahead) - 1)])
            radii = [each.radius for each in lanes if _is_bend(each)]
            return 3.6 * math.sqrt(LATERAL_M_S2 * min(radii)) if radii else math.inf

    return Expert


def _drive(env: Any, seed: int, roads: str) -> dict[str, Any]:
    env.reset(seed=seed)
    _vary_traffic(env, seed)
    car = env.agent
    lanes, numbers = _lanes(env)
    route = _route(car.navigation, numbers)
    ego: list[list[int]] = []
    others: dict[str, dict[str, Any]] = {}
    before = float(car.heading_theta), float(car.speed)
    info: Mapping[str, Any] = {}
    for step in range(MAX_STEPS + 1):
        if step % STEPS_A_FRAME == 0:
            ego.append(_ego_row(car, before))
            _note_others(env, car, len(ego) - 1, others)
        before = float(car.heading_theta), float(car.speed)
        _, _, terminated, truncated, info = env.step([0.0, 0.0])
        if terminated or truncated:
            break
    if not info.get("arrive_dest"):
        reasons = ("crash", "out_of_road", "max_step")
        return {"seed": seed, "map": roads, "failed": next((x for x in reasons if info.get(x)), "other")}
    return {
        "seed": seed,
        "map": roads,
        "box": [_centi(car.LENGTH), _centi(car.WIDTH)],
        "lanes": lanes,
        "route": route,
        "ego": ego,
        "objects": list(others.values()),
    }


def _vary_traffic(env: Any, seed: int) -> None:
    from metadrive.policy.idm_policy import IDMPolicy  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(seed)
    for name in env.engine.traffic_manager.spawned_objects:
        policy = env.engine.get_policy(name)
        if isinstance(policy, IDMPolicy):
            policy.NORMAL_SPEED = policy.target_speed = float(rng.uniform(*TRAFFIC_KM_H))  # pyright: ignore


def _lanes(env: Any) -> tuple[list[dict[str, Any]], dict[Any, int]]:
    """Every lane by its centre line and width, and the number of each by its index in the simulator."""
    lanes, numbers = [], {}
    for lane in env.current_map.road_network.get_all_lanes():
        if lane.width_at(0.0) < MIN_WIDTH_M:
            continue
        num_pieces = max(1, math.ceil(lane.length / BEND_M)) if _is_bend(lane) else 1
        along = np.linspace(0.0, lane.length, num_pieces + 1)
        line = [[_centi(x) for x in lane.position(float(place), 0.0)] for place in along]
        numbers[tuple(lane.index)] = len(lanes)
        lanes.append({"width": _centi(lane.width_at(0.0)), "line": line})
    return lanes, numbers


def _is_bend(lane: Any) -> bool:
    """Straight lanes have a radius too: 0."""
    return getattr(lane, "radius", 0.0) > 0.0


def _route(navigation: Any, numbers: Mapping[Any, int]) -> list[list[int]]:
    """The numbers of the lanes of each road on the way, from the left one to the right one."""
    graph = navigation.map.road_network.graph
    ends = navigation.checkpoints
    return [
        [numbers[tuple(lane.index)] for lane in graph[begin][end] if tuple(lane.index) in numbers]
        for begin, end in zip(ends, ends[1:], strict=False)
    ]


def _ego_row(car: Any, before: tuple[float, float]) -> list[int]:
    """Place (cm), heading (mrad), speed (cm/s), yaw rate (mrad/s) and acceleration (cm/s^2)."""
    x, y = car.position
    heading, speed = float(car.heading_theta), float(car.speed)
    turned = (heading - before[0] + math.pi) % (2 * math.pi) - math.pi
    rates = turned / STEP_S, (speed - before[1]) / STEP_S
    return [_centi(x), _centi(y), _milli(heading), _centi(speed), _milli(rates[0]), _centi(rates[1])]


def _note_others(env: Any, car: Any, frame: int, others: dict[str, dict[str, Any]]) -> None:
    """Adds a row to each object in reach: place (cm), heading (mrad), speed (cm/s). Their own names are random."""
    from metadrive.component.vehicle.base_vehicle import BaseVehicle  # pyright: ignore[reportMissingImports]

    found = env.engine.get_objects(lambda each: isinstance(each, BaseVehicle) and each is not car)
    for name, other in found.items():
        if math.dist(other.position, car.position) > REACH_M:
            continue
        log = others.setdefault(
            name,
            {
                "kind": _kind(other),
                "box": [_centi(other.LENGTH), _centi(other.WIDTH)],
                "first": frame,
                "rows": [],
            },
        )
        log["rows"] += [None] * (frame - log["first"] - len(log["rows"]))
        x, y = other.position
        log["rows"].append([_centi(x), _centi(y), _milli(other.heading_theta), _centi(other.speed)])


def _kind(vehicle: Any) -> str:
    return "truck" if vehicle.LENGTH > 5.5 else "car"


def _centi(value: float) -> int:
    return round(float(value) * 100)


def _milli(angle: float) -> int:
    return round(float(angle) * 1000)


def main(arguments: Sequence[str]) -> None:
    """Drives the chunk `arguments[0]` and writes its lines to the file `arguments[1]`, the whole of it at the end."""
    lines = [json.dumps(drive, separators=(",", ":")) for drive in drives(int(arguments[0]))]
    with open(arguments[1], "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(sys.argv[1:])
