"""`--worlds-apart` and `Recipe.sessions`: what a world does wrong apart costs episodes, never the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import misbehaving_world
from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.recipes import RECIPES
from pilotage.rollouts.sessions import SessionsApart, SessionsHere, sessions_named
from pilotage.runs.changes import changed
from pilotage.train.parts import parts_of
from pilotage.train.settings import as_settings, from_settings

STOPS = '''"""An engine that is interrupted at its second call."""

import os
from dataclasses import dataclass
from pathlib import Path

from pilotage.records import Rollout

FOUND = []


@dataclass(frozen=True, kw_only=True)
class Stops:
    batch_size: int = 7
    title = "stops"
    has_own_weights = False

    def open(self, backbone, *, batch_size=None, max_prompt_tokens=None):
        return Stopping()


class Stopping:
    def generate(self, requests, decoding):
        FOUND.append(hosts())
        if len(FOUND) == 2:
            raise KeyboardInterrupt
        return [Rollout(example_id=each.example_id, token_ids=(1,), text="x", finished=True) for each in requests]

    def sync(self, model): ...


def hosts():
    """Processes of worlds that this process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"pilotage.worlds.host" in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the misbehaving world is installed, for this process and those that it starts."""
    with misbehaving_world.installed(tmp_path_factory.mktemp("installed")) as folder:
        (folder / "stops.py").write_text(STOPS)
        yield folder


@pytest.fixture(autouse=True)
def elsewhere(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_threads: None) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def well(installed: Path, one_thread: None) -> list[dict[str, Any]]:
    """The rows of an evaluation in this process, in which nothing goes wrong."""
    return evaluated(str(installed / "well"))


def evaluated(out: str, *options: str) -> list[dict[str, Any]]:
    words = ["eval", "nano", "--world", "misbehaving", "--num", "4", "--max-new-tokens", "4", "--out", out]
    assert main([*words, *options]) == 0
    rows = read_jsonl(Path(out) / "eval" / "base.image.jsonl").rows
    timeless = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return sorted(timeless, key=lambda row: row["id"])


def test_rows_are_the_same_here_and_apart(well: list[dict[str, Any]]) -> None:
    assert [(row["end"], row["num_turns"]) for row in well] == [("done", 3)] * 4
    assert evaluated("apart", "--worlds-apart", "2") == well


@pytest.mark.parametrize(("misdeed", "kind"), [("hang", "timeout"), ("exit", "world"), ("garbage", "world")])
def test_an_evaluation_goes_on_and_counts_what_a_world_did(
    misdeed: str,
    kind: str,
    well: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MISDEED", misdeed)
    rows = evaluated("out", "--worlds-apart", "2:0.5" if misdeed == "hang" else "2")
    assert [row["error_kind"] for row in rows] == [None, kind, None, None]
    assert rows[1]["num_tries"] >= 3
    assert f"1 rows failed and count as failures: 1 {kind}" in capsys.readouterr().out
    for good, row in zip(well, rows, strict=True):
        if row is not rows[1]:
            row.pop("num_tries", None)  # of one that was in the process which was ended
            assert row == good


def test_processes_end_with_a_command_that_is_interrupted() -> None:
    words = ["eval", "nano", "--world", "misbehaving", "--num", "2", "--engine", "stops:Stops"]
    assert main([*words, "--worlds-apart", "2"]) == 130
    import stops  # pyright: ignore[reportMissingImports]

    assert [len(found) for found in stops.FOUND] == [2, 2]
    assert stops.hosts() == []


FEW = ("steps=2", "warmup_share=0.5", "prompts_per_step=4", "perception_share=0", "rollouts_every=1")


def trained(run: str, *options: str, levels: str, **stage: str) -> Path:
    changes = [*FEW, *(f"{name}={value}" for name, value in stage.items())]
    changes = [f"levels={levels}", "num_train=4", *(f"stage2.{change}" for change in changes)]
    words = ["train", run, "--recipe", "nano", "--stage", "stage2", "--from", "nano", *options]
    assert main([*words, *(part for change in changes for part in ("--set", change))]) == 0
    return Path(run)


def logged(run: Path) -> list[dict[str, Any]]:
    """What the steps came to and which rollouts they were made of, without what the clock says."""
    rows = [*read_jsonl(run / "metrics.jsonl").rows, *read_jsonl(run / "rollouts.jsonl").rows]
    return [{name: value for name, value in row.items() if "time" not in name} for row in rows]


def test_two_steps_of_training_are_the_same_here_and_apart() -> None:
    steps = '[["frozenlake_steps", [3]]]'
    how = {"max_turns": "3", "router.routes.plan.view": "teacher", "max_new_tokens": "40"}
    here = logged(trained("here", levels=steps, **how))
    apart = logged(trained("apart", "--worlds-apart", "2", levels=steps, **how))
    assert here == apart and len(here) > 2


@pytest.mark.parametrize("misdeed", ["hang", "kill", "garbage"])
def test_a_training_goes_on_and_counts_what_a_world_did(
    misdeed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISDEED", misdeed)
    sessions = "2:0.5" if misdeed == "hang" else "2"
    how = {"router.routes.plan.view": "teacher", "max_new_tokens": "4"}
    run = trained("run", "--worlds-apart", sessions, levels='[["misbehaving", [0]]]', **how)
    rows = read_jsonl(run / "metrics.jsonl").rows
    # Each step has all four examples.
    assert [row["episode/world_failed"] for row in rows] == [1, 1]
    ids = {row["id"] for row in read_jsonl(run / "rollouts.jsonl").rows}
    assert ids == {"misbehaving-0", "misbehaving-2", "misbehaving-3"}


def test_a_recipe_holds_where_its_worlds_live_and_older_records_still_hold() -> None:
    recipe = RECIPES["nano"](0, backbone="nano")
    assert recipe.sessions == SessionsHere()
    assert "sessions" not in as_settings(recipe)
    other = changed(recipe, ["sessions=SessionsApart(num_processes=4, timeout_s=5)"])
    assert other.sessions == SessionsApart(num_processes=4, timeout_s=5.0)
    written: Any = json.loads(json.dumps(as_settings(other)))
    assert from_settings(written, parts_of(type(recipe))) == other


def test_a_run_goes_on_with_its_worlds_elsewhere(trained: dict[str, Any]) -> None:
    assert main(["train", "run", "--recipe", "nano", "--backbone", "nano"]) == 0
    assert main(["train", "run", "--worlds-apart", "2"]) == 0
    assert trained["recipe"].sessions == SessionsApart(num_processes=2)
    assert (
        main(["train", "run", "--stage", "stage2", "--set", "sessions=SessionsApart(num_processes=3)"]) == 0
    )
    assert trained["recipe"].sessions == SessionsApart(num_processes=3)


def test_the_option_names_processes_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert sessions_named("0") == SessionsHere()
    assert sessions_named("4") == SessionsApart(num_processes=4)
    assert sessions_named("4:2.5") == SessionsApart(num_processes=4, timeout_s=2.5)
    for bad, about in (
        ("x", "'x'"),
        ("2:", "'2:'"),
        ("-1", "-1"),
        ("2:0", "0.0"),
        ("2:inf", "inf"),
        ("0:1", "0"),
    ):
        with pytest.raises(PilotageError, match=about):
            sessions_named(bad)
    assert main(["eval", "nano", "--worlds-apart", "x", "--num", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
