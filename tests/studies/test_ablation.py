"""The ablation's table: means over seeds and tasks, intervals over seeds and states, rows that are not there yet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.recipes.nano import nano_mgsd
from pilotage.studies.ablation import ABLATION, VARIANTS
from pilotage.studies.runs import run_part, run_study
from pilotage.studies.tables import cell, stages_table, success_table


def measured(out: Path, seed: int, folder: str, stage: str, wins: int) -> None:
    """A finished run of 10 states per task, of which `wins` succeed in every condition."""
    run = out / f"seed{seed}" / folder
    (run / "eval").mkdir(parents=True, exist_ok=True)
    path = run / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {"stages": {}}
    summary["stages"][stage] = {"tasks": {}}
    path.write_text(json.dumps(summary))
    for condition in ("image", "text", "perception"):
        rows = [
            {
                "id": f"{task}-{i}",
                "task": task,
                "error": None,
                "outcome": None if condition == "perception" else {"success": i < wins},
                "right": {"Size": i < wins},
            }
            for task, _ in nano_mgsd().levels
            for i in range(10)
        ]
        (run / "eval" / f"{stage}.{condition}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )


def test_a_row_is_the_mean_over_seeds_and_a_missing_one_says_so(tmp_path):
    for seed, wins in ((0, 4), (1, 8)):
        measured(tmp_path, seed, "mgsd", "stage2", wins)
    table = success_table(ABLATION, tmp_path, (0, 1)).as_markdown().splitlines()
    assert len(table) == 2 + len(VARIANTS) + 2, "a head, the variants, and what they are held against"
    (both,) = [line for line in table if line.startswith("| both (MGSD")]
    assert both.count("| 60.0 (") == 6
    (base,) = [line for line in table if line.startswith("| base")]
    assert base.count("not run") == 7


def test_a_variant_is_held_against_the_whole_method_seed_by_seed_and_state_by_state(tmp_path):
    for seed, wins in ((0, 4), (1, 8)):
        measured(tmp_path, seed, "mgsd", "stage2", wins)
        measured(tmp_path, seed, "no_plan", "stage2", wins - 1)
    (line,) = [
        row
        for row in success_table(ABLATION, tmp_path, (0, 1)).as_markdown().splitlines()
        if "without the reference" in row
    ]
    mean, low, high = re.search(r"\| ([+-]\d+\.\d) \(([+-]\d+\.\d) to ([+-]\d+\.\d)\) \|$", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert mean == "-10.0", "one state of ten fewer, on both seeds, although the seeds are 40 points apart"
    assert -25 < float(low) < -10 < float(high) <= 0


def test_the_stages_of_the_whole_method_stand_side_by_side(tmp_path):
    for seed, wins in ((0, 4), (1, 8)):
        measured(tmp_path, seed, "mgsd", "base", 0)
        measured(tmp_path, seed, "mgsd", "stage2", wins)
    lines = stages_table(ABLATION, tmp_path, (0, 1)).as_markdown().splitlines()
    assert lines[0] == "|  | base | stage1 | stage2 |" and len(lines) == 2 + 3 * 3
    (line,) = [line for line in lines if line.startswith("| perception, maze")]
    assert line.startswith("| perception, maze | 0.0 (0.0-30.8) | not run | 60.0 (")


def test_the_interval_covers_both_seeds_when_they_disagree():
    """Two seeds at 0 and 1 of the same states: only resampling the seeds can show that the mean is unsure."""
    assert cell([[np.zeros(50)], [np.ones(50)]]) == "50.0 (0.0-100.0)"


def test_agreement_of_all_states_is_not_certainty():
    assert cell([[np.ones(300)]] * 3) == "100.0 (98.8-100.0)"
    assert cell([[np.zeros(300)]] * 3) == "0.0 (0.0-1.2)"


def test_every_variant_differs_from_the_whole_method_in_what_its_title_says(tmp_path):
    stages: dict[str, Any] = {
        v.folder: v.make(0, tmp_path).stages[-1] for v in VARIANTS if v.make is not None
    }
    assert set(stages) == {"stage2_only", "no_plan", "sampled", "sft_answers", "no_privilege"}
    whole: Any = nano_mgsd(0).stages[1]
    assert stages["stage2_only"] == whole
    assert stages["no_plan"].router.routes[0].view == "teacher_no_plan"
    assert stages["no_privilege"].router.routes[0].view == "student"
    assert type(stages["sampled"].router.routes[0].estimator).__name__ == "Sampled"
    answers = stages["sft_answers"]
    assert answers.image_view == "student" and answers.retention_share == 0
    assert answers.steps * answers.batch_size == whole.steps * whole.prompts_per_step


def test_mistakes_are_named(tmp_path):
    with pytest.raises(PilotageError, match="jobs 0"):
        run_study(ABLATION, tmp_path, (0,), jobs=0, report=print)
    with pytest.raises(PilotageError, match="no part 'tea'"):
        run_part(ABLATION, tmp_path, 0, "tea")


def test_a_branch_waits_for_its_base_run_and_a_failure_stops_nothing_else(tmp_path, monkeypatch):
    begun, done = [], []

    def spawn(study: Any, out: Path, seed: int, folder: str, *, threads: int) -> int:
        assert threads == 3
        begun.append((seed, folder))
        assert folder == "mgsd" or (seed, "mgsd") in done, "the base run is there first"
        done.append((seed, folder))
        return 1 if folder == "mgsd" and seed == 1 else 0

    monkeypatch.setattr("pilotage.studies.runs._spawn", spawn)
    lines: list[str] = []
    with pytest.raises(PilotageError, match=r"6 of 18 runs failed: seed 1, mgsd: see .*log.txt"):
        run_study(ABLATION, tmp_path, (0, 1, 2), jobs=2, report=lines.append, threads=3)
    assert sorted(begun) == sorted(set(begun)) and len(begun) == 13, (
        "branches of a failed base run are not begun"
    )
    assert "seed 2: no_privilege is there" in lines and "seed 1: no_plan failed" in lines
    assert (tmp_path / "mgsd.md").exists(), "what is there is still told"


def test_a_damaged_summary_of_a_study_is_one_line_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(tmp_path, 0, "mgsd", "stage2", wins=5)
    path = tmp_path / "seed0" / "mgsd" / "summary.json"
    path.write_bytes(path.read_bytes()[:-5])
    assert main(["study", "mgsd", str(tmp_path), "--seeds", "0", "--tables-only"]) == 2
    err = capsys.readouterr().err
    assert f"{path} is damaged" in err and "remove it" in err and err.count("\n") == 1
