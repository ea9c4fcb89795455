"""Reading data sets back, what is said about damaged ones, and examples made without files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilotage.data.build import BuildConfig, build
from pilotage.data.examples import make_example
from pilotage.data.store import (
    content_hash,
    load_examples,
    read_parquet,
    sample_examples,
    write_shard,
)
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.drawing import decode_png


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "built"
    config = BuildConfig(
        out=out,
        tasks=("frozenlake", "maze"),
        levels={"frozenlake": (3, 4), "maze": (3,)},
        num_train=9,
        num_val=0,
        num_test=3,
        seed=5,
        workers=1,
        shard_rows=4,
    )
    build(config)
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "copy")


SHARD = "train/maze-3-00001.parquet"


# Reading


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = [
        example for task in TASKS for example in sample_examples(task, [min(task.levels)], 3, "val", 0)
    ]
    write_shard(tmp_path / "x.parquet", written)
    assert read_parquet(tmp_path / "x.parquet", "") == written
    assert [list(e.facts) for e in read_parquet(tmp_path / "x.parquet", "")] == [
        list(e.facts) for e in written
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_splits_are_chosen_and_tasks_and_levels_come_in_turn(built: Path) -> None:
    assert len(load_examples(built)) == 36
    assert {e.split for e in load_examples(built, "test")} == {"test"}
    first = load_examples(built, "train")[:6]
    assert [(e.task, e.level) for e in first] == [("frozenlake", 3), ("frozenlake", 4), ("maze", 3)] * 2


@pytest.mark.parametrize("split", ["val", "dev"])
def test_what_the_data_set_does_not_hold_is_named(built: Path, split: Any) -> None:
    with pytest.raises(PilotageError, match=f"has no split {split}; it has test, train"):
        load_examples(built, split)


# Damage


def test_missing_folder_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(PilotageError, match=r"no data set at .*nowhere; build one: pilotage data build"):
        load_examples(tmp_path / "nowhere")


def test_folder_without_manifest_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(PilotageError, match=r"is not a data set: it has no manifest\.json"):
        load_examples(tmp_path)


def test_file_is_no_data_set(built: Path) -> None:
    with pytest.raises(PilotageError, match="is a file; a data set is a folder"):
        load_examples(built / SHARD)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "pilotage-data", "format_version": 1, "shards": [{}]}', "\0"]
)
def test_damaged_manifest_is_named(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(PilotageError, match=r"manifest\.json is damaged or not a manifest of pilotage"):
        load_examples(copy)


def test_manifest_of_another_version_is_named(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(PilotageError, match="not a manifest of this version"):
        load_examples(copy)


@pytest.mark.parametrize("keep", [0, 4, 300, -1])
def test_truncated_shard_is_named_with_the_remedy(copy: Path, keep: int) -> None:
    path = copy / SHARD
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        PilotageError, match=r"maze-3-00001\.parquet has \d+ bytes instead of .* run the build"
    ):
        load_examples(copy)
    with pytest.raises(PilotageError, match=r"maze-3-00001\.parquet cannot be read as Parquet.*; do this"):
        read_parquet(path, "do this")


def test_shard_with_other_rows_is_noticed(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    shard = next(s for s in manifest["shards"] if s["file"] == SHARD)
    rows = read_parquet(copy / SHARD, "")
    write_shard(copy / SHARD, [rows[0].with_plan((*rows[0].plan, "L")), *rows[1:]])
    shard["num_bytes"] = (copy / SHARD).stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PilotageError, match=r"maze-3-00001\.parquet does not hold what the manifest says"):
        load_examples(copy)


def test_foreign_parquet_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(
        PilotageError, match=r"x\.parquet is not a file of examples: no column difficulty, facts"
    ):
        read_parquet(tmp_path / "x.parquet", "")


def test_row_that_is_no_example_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    task = get_task("maze")
    write_shard(tmp_path / "x.parquet", sample_examples(task, [3], 2, "train", 0))
    table = pq.read_table(tmp_path / "x.parquet")
    place = table.column_names.index("state")
    pq.write_table(table.set_column(place, "state", pa.array(["{", "{}"])), tmp_path / "x.parquet")
    with pytest.raises(PilotageError, match=r"x\.parquet holds a row that is no example"):
        read_parquet(tmp_path / "x.parquet", "")


def test_content_hash_sees_every_column() -> None:
    task = get_task("maze")
    example = sample_examples(task, [3], 1, "train", 0)[0]
    privileged = example.start.privileged
    assert privileged is not None
    changed = [
        replace(example, id="x"),
        replace(example, world="x"),
        replace(example, axes={**example.axes, "level": 9}),
        replace(example, split="val"),
        replace(example, axes={**example.axes, "difficulty": "x"}),
        replace(example, start=replace(example.start, privileged=replace(privileged, state={}))),
        replace(example, start=replace(example.start, privileged=replace(privileged, facts={}))),
        example.with_plan(()),
        example.with_images(()),
    ]
    assert len({content_hash([each]) for each in [example, *changed]}) == 10


# Without files


def test_examples_made_on_the_spot_are_those_of_a_build(built: Path) -> None:
    task = get_task("frozenlake")
    made = sample_examples(task, [3, 4], 18, "train", 5)
    assert made == [e for e in load_examples(built, "train") if e.task == "frozenlake"]


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_count_is_spread_over_levels_in_turn(task: Any) -> None:
    levels = list(task.levels)[:3]
    examples = sample_examples(task, levels, 7, "test", 1, cell_px=8)
    assert [e.level for e in examples] == [levels[i % 3] for i in range(7)]
    assert {e.split for e in examples} == {"test"}
    assert decode_png(examples[0].image).shape == (8 * levels[0], 8 * levels[0], 3)


def test_examples_on_the_spot_may_fill_a_fixed_side() -> None:
    task = get_task("maze")
    example = sample_examples(task, [3], 1, "train", 1, side_px=256)[0]
    assert decode_png(example.image).shape == (256, 256, 3)
    state = task.parse_state(dict(example.state))
    assert example == make_example(task, state, side_px=256)


def test_impossible_count_is_refused_for_the_level_that_lacks_it() -> None:
    with pytest.raises(ImpossibleRequestError, match="frozenlake level 3 has 6792 states"):
        sample_examples(get_task("frozenlake"), [4, 3], 2000, "test", 0)


@pytest.mark.parametrize("levels", [[], [3, 3]])
def test_levels_must_be_given_once(levels: list[int]) -> None:
    with pytest.raises(PilotageError, match="at least one level, and none twice"):
        sample_examples(get_task("maze"), levels, 5, "test", 0)


@pytest.mark.parametrize("kind", ["absolute", "above", "link"])
def test_a_manifest_leads_nowhere_but_into_its_folder(copy: Path, tmp_path: Path, kind: str) -> None:
    outside = Path(shutil.copy(copy / SHARD, tmp_path / "outside.parquet"))
    names = {"absolute": str(outside), "above": f"../{outside.name}", "link": "train/link.parquet"}
    if kind == "link":
        (copy / "train" / "link.parquet").symlink_to(outside)
    manifest = json.loads((copy / "manifest.json").read_text())
    for shard in manifest["shards"]:
        shard["file"] = names[kind] if shard["file"] == SHARD else shard["file"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PilotageError, match="which is not in the folder"):
        load_examples(copy)


FIELDS = ("file", "task", "level", "split", "num_rows", "num_bytes", "sha256", "difficulties")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, [], -1, {"a": 1}, "../x", 1e300])
def test_a_manifest_with_a_field_of_another_kind_is_an_error(copy: Path, field: str, value: Any) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["shards"][0][field] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    if field == "difficulties" and value == {"a": 1}:
        return  # a tally that nobody reads
    if field == "task" and value == "../x":
        return  # a task without rows of its own
    with pytest.raises(PilotageError):
        load_examples(copy)


def test_a_file_that_unfolds_to_millions_of_rows_is_refused_by_its_own_count(copy: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = copy / SHARD
    table = pq.read_table(path)
    column = pa.array(["x"]).take(pa.array([0] * 3_000_000, pa.int64()))
    bomb = pa.table({name: column if name == "id" else pa.nulls(3_000_000) for name in table.column_names})
    pq.write_table(bomb, path, compression="zstd")
    assert path.stat().st_size < 200_000
    manifest = json.loads((copy / "manifest.json").read_text())
    for shard in manifest["shards"]:
        if shard["file"] == SHARD:
            shard["num_bytes"] = path.stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PilotageError, match="has 3000000 rows instead of"):
        load_examples(copy)
    with pytest.raises(PilotageError, match="unfolds to 3000000 rows"):
        read_parquet(path, "remove it")
