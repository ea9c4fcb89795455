"""Recorded drives: their frames, their mirror images, sets on disk, and the set that comes with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driving_scenes import log_json
from pilotage.data.sets import load_any
from pilotage.errors import BadStateError, ImpossibleRequestError, PilotageError
from pilotage.records import SPLITS
from pilotage.worlds.driving.data import examples
from pilotage.worlds.driving.data.logs import (
    SHIPPED,
    SHIPPED_SHA256,
    load_logs,
    read_logs_manifest,
    write_logs,
)
from pilotage.worlds.driving.log import mirrored, parse_log, scene_at, scenes
from pilotage.worlds.driving.roads import Lane, Roads, turn_along
from pilotage.worlds.driving.split import split_of_group


def test_a_frame_is_in_the_cars_own_axes():
    log = parse_log(log_json())
    assert log.frames == range(4, 10)
    message = scene_at(log, 5)
    assert message.id == "driving-hand-7-005" and message.group == "7"
    assert message.ego.speed == 10 and (message.ego.length, message.ego.width) == (4.5, 1.85)
    assert np.array(message.ego.past) == pytest.approx(
        np.array([(0, -20), (0, -15), (0, -10), (0, -5)]), abs=1e-9
    )
    assert np.array(message.future) == pytest.approx(np.array([(0, 5 * k) for k in range(1, 7)]), abs=1e-9)
    (one,) = message.objects
    # At frame 5 it is at 20 + 2.5 * 5 = 32.5 m, the car at 25; its row 3 is that of frame 5, `first` being 2.
    assert (one.x, one.y, one.vx, one.vy) == pytest.approx((0, 7.5, 0, 5))
    assert one.future is not None and one.future[0] == pytest.approx((0, 10, 0))
    assert np.array(message.path)[:3] == pytest.approx(np.array([(0, 0), (0, 2), (0, 4)]), abs=1e-9)
    assert np.array(message.lanes[0]) == pytest.approx(
        np.array([(-1.75, -45), (-1.75, 175), (1.75, 175), (1.75, -45)])
    )
    assert message.route == message.lanes and message.goal == "FORWARD"


def test_an_object_is_there_from_its_first_row_to_its_last_and_no_longer():
    log = parse_log(log_json())
    assert [len(message.objects) for message in scenes(log)] == [1] * 6
    late = scene_at(log, 9).objects[0].future
    assert late is not None and [pose is None for pose in late] == [False] * 4 + [True] * 2


def test_a_turned_car_sees_what_is_north_ahead():
    north = log_json(
        ego=[[0, 500 * frame, 1571, 1000, 0, 0] for frame in range(16)],
        lanes=[{"width": 350, "line": [[0, -2000], [0, 20000]]}],
        objects=[{"kind": "car", "box": [400, 200], "first": 0, "rows": [[300, 4000, 3142, 500]] * 16}],
    )
    (one,) = scene_at(parse_log(north), 4).objects
    assert (one.x, one.y) == pytest.approx((3.0, 20.0), abs=0.02)
    # It faces west, to the left of a car that faces north.
    assert one.heading == pytest.approx(np.pi / 2, abs=1e-3)
    assert (one.vx, one.vy) == pytest.approx((-5, 0), abs=1e-2)


def test_the_path_takes_the_next_road_where_its_lane_ends_and_a_bend_is_a_goal():
    def lane(*points: tuple[float, float]) -> Lane:
        return Lane(line=np.array(points, dtype=float), width=3.5)

    lanes = (
        lane((0, 0), (10, 0)),
        lane((0, 4), (10, 4)),
        lane((10, 0), (20, 0), (20, 30)),
        lane((10, 4), (40, 4)),
    )
    roads = Roads(lanes=lanes, route=((0, 1), (2, 3)))
    here = np.array([4.0, 1.0])
    road, chosen = roads.nearest(roads.distances(here))
    assert (road, chosen) == (0, 0)
    path = roads.follow(road, chosen, here, 20.0)
    assert path[[0, 3, 8, 10]].tolist() == [[4, 0], [10, 0], [20, 0], [20, 4]]
    assert len(path) == 11
    # In the car's axes (x right, y forward) this bend to the north is one to the left.
    assert turn_along(np.stack([-path[:, 1], path[:, 0]], axis=1), 40.0) == pytest.approx(np.pi / 2)


def test_a_mirror_image_exchanges_left_and_right_and_nothing_else():
    bend = log_json(ego=[[500 * f, 10 * f * f, 5 * f, 1000, 20, 0] for f in range(16)])
    one, other = scene_at(parse_log(bend), 5), scene_at(mirrored(parse_log(bend)), 5)
    flip = np.array([-1.0, 1.0])
    assert np.array(other.future) == pytest.approx(np.array(one.future) * flip)
    assert np.array(other.path) == pytest.approx(np.array(one.path) * flip)
    assert other.ego.yaw_rate == -one.ego.yaw_rate and other.ego.speed == one.ego.speed
    assert (other.objects[0].x, other.objects[0].y) == pytest.approx((-one.objects[0].x, one.objects[0].y))
    assert other.objects[0].heading == pytest.approx(-one.objects[0].heading)
    assert other.group == one.group and other.id == "driving-hand-7-m-005"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ego": [[0, 0, 0, 0, 0, 0]] * 10}, "ego has 10 frames: a log has more than 10"),
        ({"ego": [[0, 0, 0, 0, 0, 0.5]] * 16}, "ego holds [0, 0, 0, 0, 0, 0.5], not 6 whole numbers"),
        ({"ego": [[10**9, 0, 0, 0, 0, 0]] * 16}, "not 6 whole numbers up to 10000000"),
        ({"ego": "much"}, "ego is 'much', not a list"),
        ({"route": [[3]]}, "route names lane 3; there are 1"),
        ({"route": []}, "route is empty"),
        ({"lanes": [{"width": 0, "line": [[0, 0], [1, 1]]}]}, "lanes[0].width is 0"),
        ({"lanes": [{"width": 350, "line": [[0, 0]]}]}, "lanes[0].line has one point"),
        ({"lanes": [7]}, "are JSON objects, and one of them is not"),
        (
            {"objects": [{"kind": "car", "box": [4, 2], "first": 14, "rows": [None] * 3}]},
            "objects[0].first is 14",
        ),
        (
            {"objects": [{"kind": "car", "box": [4], "first": 0, "rows": []}]},
            "objects[0].box is [4], not [length",
        ),
        ({"box": None}, "box is None"),
        ({"group": ""}, "group is ''"),
    ],
)
def test_what_is_no_log_is_told_with_its_field(changed: dict[str, Any], message: str):
    with pytest.raises(BadStateError) as caught:
        parse_log(log_json(**changed))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("field", sorted(log_json()))
def test_a_log_without_a_field_is_told(field: str):
    data = log_json()
    del data[field]
    with pytest.raises(BadStateError, match=f"the log has no field '{field}'"):
        parse_log(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "logs"
    root.mkdir()
    write_logs(root, [[log_json(id=f"driving-hand-{seed}", group=str(seed))] for seed in range(12)], {"a": 1})
    return root


def test_a_set_comes_back_each_drive_in_the_split_of_its_seed_and_the_same_bytes_each_time(folder: Path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    counts = read_logs_manifest(folder)["counts"]
    for split in SPLITS:
        logs = load_logs(folder, split)
        assert len(logs) == counts[split]["logs"] and all(split_of_group(log.group) == split for log in logs)
    assert sum(tally["frames"] for tally in counts.values()) == 12 * 6
    write_logs(
        folder, [[log_json(id=f"driving-hand-{seed}", group=str(seed))] for seed in range(12)], {"a": 1}
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_pilotage_eval_loads_a_set_by_its_manifest(folder: Path):
    found = load_any(folder, "train")
    assert {example.axes["group"] for example in found} == {log.group for log in load_logs(folder, "train")}
    assert len({example.id for example in found}) == len(found)


def test_damaged_sets_are_told_with_file_and_line(folder: Path):
    shard = folder / "logs-00000.jsonl.gz"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PilotageError, match="logs-00000.jsonl.gz is truncated or damaged"):
        load_logs(folder)
    shard.write_bytes((folder / "logs-00001.jsonl.gz").read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    with pytest.raises(PilotageError, match="does not hold what the manifest says"):
        _fresh(folder, manifest)
    import hashlib

    lines = json.dumps(log_json()).encode() + b"\n" + json.dumps(log_json(route=[])).encode() + b"\n"
    shard.write_bytes(lines)
    manifest["shards"][0]["sha256"] = hashlib.sha256(lines).hexdigest()
    with pytest.raises(PilotageError, match="logs-00000.jsonl.gz line 2: driving: route is empty"):
        _fresh(folder, manifest)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(PilotageError, match="is no set of driving logs of this version"):
        read_logs_manifest(folder)


def _fresh(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))
    load_logs(folder)


def test_the_shipped_logs_are_those_whose_hash_is_recorded_and_no_seed_is_on_two_sides():
    manifest = read_logs_manifest(SHIPPED)
    assert manifest["sha256"] == SHIPPED_SHA256
    assert 50 <= manifest["num_logs"] <= 70
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3_000_000
    groups = {split: {log.group for log in load_logs(SHIPPED, split)} for split in SPLITS}
    assert all(groups.values())
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == manifest["num_logs"]


def test_frames_are_drawn_by_the_seed_and_more_of_them_begin_alike():
    few, many = (examples("driving", (0,), num, "val", 3, cell_px=32, options={}) for num in (3, 5))
    assert [e.id for e in few] == [e.id for e in many[:3]]
    other = examples("driving", (0,), 3, "val", 4, cell_px=32, options={"side": 64, "mirror": 1})
    assert [e.id for e in other] != [e.id for e in few]
    with pytest.raises(ImpossibleRequestError, match="were asked for, and the logs have"):
        examples("driving", (0,), 10**6, "val", 3, cell_px=32, options={})
    with pytest.raises(
        PilotageError, match="driving has no option 'sides'; there are logs, side, mirror; did you mean"
    ):
        examples("driving", (0,), 1, "val", 3, cell_px=32, options={"sides": 64})
    with pytest.raises(PilotageError, match="side=5 is no picture"):
        examples("driving", (0,), 1, "val", 3, cell_px=32, options={"side": 5})
