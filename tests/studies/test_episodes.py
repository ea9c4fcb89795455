"""The studies of episodes: what their arms set, why episodes are lost, tables by hand; one base run for all seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pilotage.evaluate.rows import make_row
from pilotage.records import Rollout, View
from pilotage.rollouts.play import Limits, Start, Writer, play
from pilotage.runs.measurement import examples_of
from pilotage.studies import runs
from pilotage.studies.catalogue import STUDIES
from pilotage.studies.drift import DRIFT, drift_table
from pilotage.studies.episode_tables import episodes_table, pairs_table
from pilotage.studies.episodes import EPISODES, also_measured
from pilotage.studies.failures import TITLES, Failures, failures_of
from pilotage.train.distill_config import DistillConfig
from pilotage.worlds import get_task
from pilotage.worlds.grids.data.steps import make_step_example, map_hash

MAP = ["SFF", "FHF", "FFG"]
CELLS = ["(0,0)", "(0,1)", "(0,2)", "(1,2)"]


def row(*turns: tuple[str, str], max_turns: int = 9) -> dict[str, Any]:
    """The row of an episode whose turns recite a cell for the player and make a move."""
    task = get_task("frozenlake")
    state = task.parse_state({"map": MAP})
    map_ = map_hash({"map": MAP}, task.name)
    example = make_step_example("frozenlake_steps", state, map_=map_, starts="corner")
    said = iter(turns)

    def write(moment: Any, view: View) -> Rollout:
        player, move = next(said)
        text = f"Size: 3. Player: {player}. Goal: (2,2). Holes: (1,1).\n<answer>{move}</answer>"
        return Rollout(example_id=example.id, token_ids=(1,), text=text, finished=True)

    [episode] = play(
        [Start(example=example)],
        writer=Writer(write=write),
        show=lambda moment: View(name="student", messages=[]),
        limits=Limits(max_turns=max_turns),
    )
    return json.loads(json.dumps(make_row(episode, "image", {"model": "m"})))


def flags(*names: str) -> Failures:
    return dict.fromkeys(TITLES, False) | dict.fromkeys(names, True)


WON = row(*zip(CELLS, "RRDD", strict=True))
IN_A_HOLE = row(("(0,0)", "R"), ("(0,1)", "D"))
MISREAD = row(*[("(0,0)", "R"), ("(0,0)", "L")] * 4, ("(0,0)", "R"))
"""To and fro until the nine turns are used up: the right one of two cells is always read as the left one."""
AT_ONCE = row(("(0,0)", "L"), max_turns=1)


@pytest.mark.parametrize(
    ("episode", "expected"),
    [
        (WON, flags()),
        (IN_A_HOLE, flags("hole", "first_misplanned")),
        (MISREAD, flags("circled", "misread", "misplaced", "first_misread")),
        # A row of one turn has no list of turns.
        (AT_ONCE, flags("other", "first_misplanned")),
    ],
    ids=["won", "hole", "misread", "one turn"],
)
def test_an_episode_is_lost_by_its_first_mistake(episode: dict[str, Any], expected: Failures) -> None:
    assert failures_of(episode) == expected


def write_arm(out: Path, folder: str, stage: str, rows: Sequence[dict[str, Any]], *, seeds: int = 2) -> None:
    for seed in range(seeds):
        home = out / f"seed{seed}" / folder
        (home / "eval").mkdir(parents=True)
        named = [episode | {"id": f"e-{place}"} for place, episode in enumerate(rows)]
        (home / "eval" / f"{stage}.image.jsonl").write_text(
            "".join(json.dumps(each) + "\n" for each in named)
        )
        success = sum(each["outcome"]["success"] for each in rows) / len(rows)
        entry = {"train_s": 1.0, "eval_s": 1.0, "seconds": 2.0}
        tasks = {"frozenlake_steps": {"image": {"success": success}}}
        summary = {"recipe": "r", "seed": seed, "stages": {stage: entry | {"tasks": tasks}}}
        (home / "summary.json").write_text(json.dumps(summary))


def test_tables_tell_levels_circles_and_what_one_arm_has_over_another(tmp_path: Path) -> None:
    four = [each | {"level": 4} for each in (WON, WON, IN_A_HOLE, MISREAD)]
    write_arm(tmp_path, "start", "steps", [four[0], *four[1:]])
    write_arm(tmp_path, "own", "steps", [four[0]] * 3 + four[3:])
    table = episodes_table(EPISODES, tmp_path, (0, 1))
    by_title = {line[0]: dict(zip(table.head, line, strict=True)) for line in table.rows}
    start, own = by_title["start states"], by_title["the student's own episodes"]
    assert start["level 4"].startswith("50.0") and own["level 4"].startswith("75.0")
    assert start["in circles"].startswith("25.0") and start["turns"] == f"{(4 + 4 + 2 + 9) / 4:.1f}"
    assert own["all, against reference"].startswith("+25.0")
    assert by_title["own states, reference answers"]["all"] == "not run"
    # Nothing else was measured: no column for it.
    assert "one plan" not in table.head
    pairs = pairs_table([("own", "start"), ("own", "expert")], EPISODES, tmp_path, (0, 1))
    assert pairs.rows[0][1].startswith("+25.0") and pairs.rows[1][1] == "not run"


def test_drift_is_told_by_turn_and_by_part_of_the_training(tmp_path: Path) -> None:
    write_arm(tmp_path, "this_turn_own", "steps", [WON, IN_A_HOLE])
    for seed in range(2):
        metrics = [
            {"stage": "steps", "step": step, "kl/all": 1.0 / step, "rollout/success": step / 10}
            | {"turn/kl_0": 0.5 + seed, "turn/kl_1": 0.25}
            for step in range(1, 7)
        ]
        (tmp_path / f"seed{seed}" / "this_turn_own" / "metrics.jsonl").write_text(
            "".join(json.dumps(each) + "\n" for each in metrics)
        )
    table = drift_table(DRIFT, tmp_path, (0, 1))
    cells = dict(zip(table.head, table.rows[0], strict=True))
    assert cells["nats, turns 0"] == "1.00 (0.50 to 1.50)" and cells["nats, turns 1"] == "0.25 (0.25 to 0.25)"
    assert cells["nats, turns 2-3"] == "-"
    assert (
        cells["success, part 1 of 3"] == "15 (15 to 15)" and cells["success, part 3 of 3"] == "55 (55 to 55)"
    )
    assert cells["nats, first part"] == "0.75 (0.75 to 0.75)"


@pytest.mark.parametrize("name", ["episodes", "episodes_anywhere", "episodes_fog", "drift"])
def test_arms_differ_in_what_they_say_and_begin_with_one_model(name: str) -> None:
    study = STUDIES[name]
    found = {}
    for variant in study.variants:
        assert variant.make is not None
        recipe = variant.make(3, Path("out") / "base_run")
        (stage,) = recipe.stages
        assert isinstance(stage, DistillConfig)
        assert recipe.backbone == "out/base_run/stage2/model" and (recipe.seed, stage.seed) == (3, 3)
        assert stage.stage == variant.stage and stage.steps == 48
        found[variant.folder] = stage
    assert len({repr(stage) for stage in found.values()}) == len(found)
    by_words = {folder for folder, stage in found.items() if stage.relabel}
    assert by_words == {"start_reference", "cloning", "own_dagger"} & set(found)
    assert all(not stage.all_weights for folder, stage in found.items() if folder in by_words)


@pytest.mark.parametrize("name", ["episodes", "episodes_anywhere", "episodes_fog"])
def test_nothing_is_measured_twice_where_starts_of_one_map_meet(name: str) -> None:
    make = STUDIES[name].variants[0].make
    assert make is not None
    for examples in also_measured(examples_of(make(0, Path("out")), "test")).values():
        ids = [example.id for example in examples()]
        assert len(set(ids)) == len(ids) > 0


def test_a_study_of_one_base_run_trains_it_once_and_what_all_share_before_any_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[tuple[int, str]] = []

    def spawn(study: Any, out: Path, seed: int, folder: str, *, threads: int) -> int:
        began.append((seed, folder))
        return 0

    monkeypatch.setattr(runs, "_spawn", spawn)
    monkeypatch.setattr(runs, "write_tables", lambda study, out, seeds: "")
    runs.run_study(DRIFT, tmp_path, [5, 6], jobs=1, report=lambda line: None)
    assert began[:2] == [(5, "base_run"), (5, "seeing")]
    assert len(began) == 2 + 2 * len(DRIFT.variants) and len(set(began)) == len(began)
    folder = partial(DRIFT.folder, tmp_path)
    assert folder(5, "base_run") == folder(6, "base_run") == tmp_path / "base_run"
    assert folder(6, "seeing") == tmp_path / "seeing" and folder(6, "at_start_own").parent.name == "seed6"
