"""Making logs: the same whoever works, going on where it was, and a simulator that dies or hangs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from driving_scenes import log_json
from pilotage.errors import PilotageError
from pilotage.worlds.driving.data import build
from pilotage.worlds.driving.data.build import LogsConfig, build_logs
from pilotage.worlds.driving.data.logs import SHIPPED, load_logs
from pilotage.worlds.driving.data.simulate import CHUNK_SEEDS, drives, seeds_of

SUPPORT = Path(__file__).parent.parent / "support"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A simulator's process that needs no simulator; the folder tells which chunks it was asked for."""
    folder = tmp_path / "asked"
    folder.mkdir()
    monkeypatch.setattr(build, "SIMULATE", "fake_drives")
    monkeypatch.setattr(build, "find_spec", lambda _: True)
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    message = {name: value for name, value in log_json().items() if name not in ("id", "group", "map")}
    (folder / "log.json").write_text(json.dumps(message))
    monkeypatch.setenv("FAKE_DRIVES_FOLDER", str(folder))
    return folder


def asked(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("asked-*"))


def shards(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_the_first_drives_that_arrive_are_taken_in_the_order_of_their_seeds(fake: Path, tmp_path: Path):
    message: list[tuple[int, int]] = []
    manifest = build_logs(
        LogsConfig(out=tmp_path / "logs", num_logs=20, num_workers=1), lambda *x: message.append(x)
    )
    assert (manifest["num_logs"], manifest["num_drives"], manifest["failed"]) == (20, 32, {"crash": 8})
    assert message == [(12, 20), (20, 20)]
    logs = load_logs(tmp_path / "logs")
    seeds = [seed for seed in range(32) if seed % 4 != 3][:20]
    assert [log.group for log in logs] == [str(seed) for seed in seeds]
    assert logs[0].id == "driving-sxs-0" and logs[12].id == "driving-sts-16"
    assert not (tmp_path / "logs" / ".driving").exists()


def test_more_workers_write_the_same_bytes(fake: Path, tmp_path: Path):
    for place, num_workers in (("one", 1), ("three", 3)):
        build_logs(LogsConfig(out=tmp_path / place, num_logs=20, num_workers=num_workers))
    assert shards(tmp_path / "one") == shards(tmp_path / "three")


def test_what_is_finished_is_not_driven_again(fake: Path, tmp_path: Path):
    config = LogsConfig(out=tmp_path / "logs", num_logs=20, num_workers=1)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_logs(config, stop)
    assert asked(fake) == [0]
    build_logs(config)
    assert asked(fake) == [0, 1]
    build_logs(config)
    assert asked(fake) == [0, 1], "a complete set is left as it is"
    with pytest.raises(PilotageError, match="holds logs of other arguments"):
        build_logs(LogsConfig(out=tmp_path / "logs", num_logs=5, num_workers=1))
    manifest = build_logs(LogsConfig(out=tmp_path / "logs", num_logs=5, num_workers=1, overwrite=True))
    assert manifest["num_logs"] == 5


def test_chunks_of_another_version_of_the_simulation_are_driven_again(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = LogsConfig(out=tmp_path / "logs", num_logs=5, num_workers=1)
    (config.out / ".driving").mkdir(parents=True)
    (config.out / ".driving" / "chunk-00000.jsonl").write_text("{}\n")
    (config.out / ".driving" / "arguments.json").write_text(json.dumps({"simulator": -1}))
    assert build_logs(config)["num_logs"] == 5


def test_a_process_that_dies_is_asked_again_and_counted_apart(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKE_DRIVES_FAULT", "die")
    manifest = build_logs(LogsConfig(out=tmp_path / "logs", num_logs=20, num_workers=1))
    assert manifest["asked_again"] == {"died": 1} and asked(fake) == [0, 1, 1]
    assert manifest["failed"] == {"crash": 8}


def test_a_process_that_hangs_is_ended_and_asked_again(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKE_DRIVES_FAULT", "hang")
    monkeypatch.setattr(build, "CHUNK_TIMEOUT_S", 6.0)
    manifest = build_logs(LogsConfig(out=tmp_path / "logs", num_logs=13, num_workers=1))
    assert manifest["asked_again"] == {"hung": 1}


def test_one_that_always_dies_ends_the_build_with_its_last_word(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKE_DRIVES_FAULT", "always")
    with pytest.raises(PilotageError, match="failed 3 times on chunk 1: the engine is gone"):
        build_logs(LogsConfig(out=tmp_path / "logs", num_logs=13, num_workers=1))
    monkeypatch.delenv("FAKE_DRIVES_FAULT")
    assert build_logs(LogsConfig(out=tmp_path / "logs", num_logs=13, num_workers=1))["num_logs"] == 13


def test_a_build_without_the_simulator_or_into_something_else_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build, "find_spec", lambda _: None)
    with pytest.raises(
        PilotageError, match=r"needs MetaDrive, .* pip install 'pilotage\[driving\]' with Python 3.11"
    ):
        build_logs(LogsConfig(out=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    for out, message in ((tmp_path, "holds other files and no logs"), (tmp_path / "file", "is a file")):
        with pytest.raises(PilotageError, match=message):
            build_logs(LogsConfig(out=out))
    with pytest.raises(PilotageError, match="num_logs 0 and num_workers"):
        build_logs(LogsConfig(out=tmp_path / "new", num_logs=0))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("metadrive") is None, reason="needs pilotage[driving]")
def test_the_simulator_drives_what_was_shipped_bit_for_bit():
    from multiprocessing import get_context

    with get_context("spawn").Pool(1) as pool:
        driven = pool.apply(first_drives)
    shipped = json.loads((SHIPPED / "manifest.json").read_text())
    assert shipped["arguments"]["first_chunk"] == 0
    (log,) = [log for log in load_logs(SHIPPED) if log.group == str(driven[0]["seed"])]
    assert (log.ego[:, 0] * 100).round().astype(int).tolist() == [row[0] for row in driven[0]["ego"]]


def first_drives() -> list[dict[str, Any]]:
    """The first drive of the first chunk, in a process of its own."""
    return list(drives(0, seeds_of(0)[:1]))


def test_seeds_of_chunks_do_not_meet():
    seeds = [seed for chunk in range(5) for seed in seeds_of(chunk)]
    assert seeds == list(range(5 * CHUNK_SEEDS))
