"""Frames from elsewhere: JSON lines, GPT-Driver's pickle, and pickles that are programs."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driving_scenes import car, nuscenes_fields, scene
from pilotage.data.sets import load_any
from pilotage.errors import BadStateError, PilotageError
from pilotage.worlds.driving.data.nuscenes import read_nuscenes, scene_of_fields
from pilotage.worlds.driving.data.pickles import plain, read_pickle
from pilotage.worlds.driving.data.scenes import import_scenes, read_scenes
from pilotage.worlds.driving.scene import Scene, to_json


def only(message: Any) -> Scene:
    assert isinstance(message, Scene), message
    return message


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    path = tmp_path / "cached_nuscenes_info.pkl"
    path.write_bytes(pickle.dumps({"token-1": nuscenes_fields(), "token-2": nuscenes_fields()}))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_frame_of_gpt_drivers_form_is_read_in_every_protocol(tmp_path: Path, protocol: int):
    path = tmp_path / "info.pkl"
    path.write_bytes(pickle.dumps({"token-1": nuscenes_fields()}, protocol=protocol))
    ((token, read),) = read_nuscenes(path)
    message = only(read)
    assert (token, message.id, message.group, message.goal) == ("token-1", "token-1", "scene-0061", "FORWARD")
    assert message.ego.speed == 8.0 and message.ego.yaw_rate == 0.02
    assert message.ego.acceleration == pytest.approx((4.0 - 3.75) / 0.25)
    assert message.ego.past == ((0, -15), (0, -11.5), (0, -7.75), (0, -4))
    assert message.future[-1] == pytest.approx((0.6, 24.0)) and message.mask == (True,) * 5 + (False,)
    ahead, behind = message.objects
    assert (ahead.kind, ahead.x, ahead.y, ahead.width, ahead.length) == ("car", 3.0, 12.0, 2.0, 4.5)
    assert ahead.heading == pytest.approx(0.0, abs=1e-9) and ahead.vy == 4.0
    assert ahead.predicted is not None and ahead.predicted[-1] == (3.0, 24.0)
    assert ahead.future is not None and [pose is None for pose in ahead.future] == [False] * 4 + [True] * 2
    assert (behind.vx, behind.vy) == (0.0, 0.0), "what was not measured"
    assert not message.lanes and not message.path


def test_a_frame_without_objects_is_read():
    fields = nuscenes_fields() | {
        "gt_boxes": np.zeros((0, 7)),
        "gt_names": np.array([]),
        "gt_velocity": np.zeros((0,)),
        "gt_agent_fut_trajs": np.zeros((0, 12)),
        "gt_agent_fut_masks": np.zeros((0, 6)),
    }
    assert scene_of_fields("token", fields).objects == ()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("gt_boxes", np.zeros((2, 6)), r"gt_boxes has the shape \[2, 6\], not \['up to 512', 7\]"),
        ("gt_boxes", np.zeros((600, 7)), "up to 512"),
        ("gt_names", np.array(["car"]), r"gt_names has the shape \[1\], not \[2\]"),
        ("gt_names", np.zeros(2), "gt_names holds no texts"),
        ("gt_ego_fut_trajs", np.full((7, 2), np.nan), "gt_ego_fut_trajs holds what is no number"),
        ("gt_ego_lcf_feat", np.array(["a"] * 9), "gt_ego_lcf_feat holds no numbers"),
        ("gt_ego_fut_cmd", "left", "gt_ego_fut_cmd: str is no array"),
        ("gt_ego_his_diff", [[0, 1], [2]], "gt_ego_his_diff"),
        ("scene_token", 7, "group is 7, not a printable text"),
    ],
)
def test_a_field_that_is_wrong_is_told(field: str, value: Any, message: str):
    with pytest.raises(BadStateError, match=message):
        scene_of_fields("token", nuscenes_fields() | {field: value})


@pytest.mark.parametrize(
    "field", sorted({*nuscenes_fields()} - {"gt_velocity", "gt_ego_fut_masks", "scene_token"})
)
def test_a_missing_field_is_told(field: str):
    fields = nuscenes_fields()
    del fields[field]
    with pytest.raises(BadStateError, match=f"no field '{field}'"):
        scene_of_fields("token", fields)


class Program:
    """What an attacker writes: a pickle that runs a command when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_is_a_program_is_refused_by_name_and_does_not_run(tmp_path: Path, protocol: int):
    marker, path = tmp_path / "was-run", tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"token": {"gt_boxes": Program(marker)}}, protocol=protocol))
    with pytest.raises(
        PilotageError, match=r"bad.pkl asks for (posix|nt).system, which is no data"
    ) as caught:
        read_pickle(path)
    assert not marker.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'__class__'\ntR.",
        b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"ccollections\nOrderedDict\n(tR.",
        b"cnumpy\ndtype\n(S'O8\\x00'\ntR.",
        b"cnumpy\ndtype\n(S'V999999999999'\ntR.",
        b"Ppersistent\n.",
    ],
)
def test_names_that_are_no_data_are_refused(tmp_path: Path, code: bytes):
    path = tmp_path / "bad.pkl"
    path.write_bytes(code)
    with pytest.raises(PilotageError, match="asks for"):
        read_pickle(path)


def array_of(shape: str, content: str = "S''") -> bytes:
    """A pickle of an array of eight-byte numbers with this shape and content, in protocol 0."""
    return (
        "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        f"(I1\n{shape}cnumpy\ndtype\n(S'f8'\nI0\nI1\ntRI00\n{content}\ntb."
    ).encode()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (array_of("(I1000000000000\nt"), "asks for an array whose bytes are not as many as its shape says"),
        (array_of("(I-1\nt"), "asks for an array of no shape"),
        (array_of("(I1\nI1\nI1\nI1\nI1\nt"), "asks for an array of no shape"),
        (b"cnumpy\nndarray\n(I1000000000000\ntR.", None),
        (b"\x80\x04N", "truncated or damaged"),
        (b"", "truncated or damaged"),
        (b"hello", "truncated or damaged"),
        (b"(" * 10, "truncated or damaged"),
    ],
)
def test_shapes_that_would_fill_the_memory_and_broken_files_are_one_line(
    tmp_path: Path, code: bytes, message: str | None
):
    path = tmp_path / "bad.pkl"
    path.write_bytes(code)
    if message is None:
        assert plain(read_pickle(path)).size == 0, "nothing is made of a size alone"
        return
    with pytest.raises(PilotageError, match=message) as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=60))
def test_no_bytes_are_anything_but_data_or_an_error(tmp_path_factory: pytest.TempPathFactory, junk: bytes):
    path = tmp_path_factory.mktemp("junk") / "junk.pkl"
    for content in (junk, b"\x80\x04" + junk):
        path.write_bytes(content)
        try:
            read_pickle(path)
        except PilotageError as error:
            assert "\n" not in str(error)


def test_arrays_come_back_as_numpy_wrote_them(tmp_path: Path):
    path = tmp_path / "arrays.pkl"
    arrays = [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["car", "truck"]),
        np.array(["car", "truck"], dtype=object),
        np.array([True, False]),
        np.arange(3, dtype=">f4"),
    ]
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps([*arrays, np.float64(2.5)], protocol=protocol))
        *found, number = read_pickle(path)
        assert number == 2.5
        for wanted, got in zip(arrays, found, strict=True):
            assert np.array_equal(plain(got), wanted)
    path.write_bytes(pickle.dumps(OrderedDict(a=1)))
    with pytest.raises(PilotageError, match="asks for collections.OrderedDict"):
        read_pickle(path)


def test_lines_are_imported_each_counted_and_told_with_its_place(tmp_path: Path):
    good = [
        to_json(scene(car(0, 9), id=f"frame-{place}", group=f"drive-{place // 2}")) for place in range(20)
    ]
    broken = json.dumps(good[0] | {"id": "broken", "goal": "BACK"})
    path = tmp_path / "frames.jsonl"
    lines = [*map(json.dumps, good), broken, json.dumps(good[3]), "{", '{"id": NaN}']
    path.write_text("\n".join(lines) + "\n")
    report = import_scenes(path, tmp_path / "set")
    assert (report.num_read, report.num_imported) == (24, 20)
    assert [note.place for note in report.malformed] == [f"frames.jsonl line {n}" for n in (21, 23, 24)]
    assert "goal is 'BACK'" in report.malformed[0].note
    assert [note.place for note in report.duplicates] == ["frames.jsonl line 22"]
    found = [example for split in ("train", "test") for example in load_any(tmp_path / "set", split)]
    groups = {
        split: {e.axes["group"] for e in load_any(tmp_path / "set", split)} for split in ("train", "test")
    }
    assert not groups["train"] & groups["test"]
    assert {e.id for e in found} <= {row["id"] for row in good}
    with pytest.raises(PilotageError, match="is not empty"):
        import_scenes(path, tmp_path / "set")
    packed = tmp_path / "frames.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert import_scenes(packed, tmp_path / "set", split="test", overwrite=True).splits["test"] == 20
    packed.write_bytes(gzip.compress(path.read_bytes())[:200])
    with pytest.raises(PilotageError, match="frames.jsonl.gz is truncated or damaged"):
        list(read_scenes(packed))


def test_a_pickle_is_imported_like_lines(pickled: Path, tmp_path: Path):
    fields = {
        "token-1": nuscenes_fields(),
        "token-2": nuscenes_fields() | {"gt_boxes": np.zeros(3)},
        "token-3": 7,
    }
    pickled.write_bytes(pickle.dumps(fields))
    report = import_scenes(pickled, tmp_path / "set", split="test")
    assert (report.num_read, report.num_imported) == (3, 1)
    assert report.malformed[0].place == "cached_nuscenes_info.pkl frame token-2"
    (example,) = load_any(tmp_path / "set", "test")
    assert example.id == "token-1" and example.split == "test"
    pickled.write_bytes(pickle.dumps([1]))
    with pytest.raises(PilotageError, match="holds no dictionary of frames by token"):
        import_scenes(pickled, None)
