"""The ablation's table: means over seeds and tasks, intervals over seeds and states, rows that are not there yet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotage.errors import PilotageError
from pilotage.recipes.ablation import VARIANTS, _cell, ablation_table, run_ablation, run_part
from pilotage.recipes.nano import nano_mgsd


def measured(out: Path, seed: int, folder: str, stage: str, wins: int) -> None:
    """A finished run of 10 states per task, of which `wins` succeed in every kind."""
    run = out / f"seed{seed}" / folder
    (run / "eval").mkdir(parents=True, exist_ok=True)
    path = run / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {"stages": {}}
    summary["stages"][stage] = {"tasks": {}}
    path.write_text(json.dumps(summary))
    for kind in ("image", "text", "perception"):
        rows = [
            {
                "id": f"{task}-{i}",
                "task": task,
                "error": None,
                "verdict": None if kind == "perception" else {"success": i < wins},
                "right": {"Size": i < wins},
            }
            for task, _ in nano_mgsd().levels
            for i in range(10)
        ]
        (run / "eval" / f"{stage}.{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_row_is_the_mean_over_seeds_and_a_missing_one_says_so(tmp_path):
    for seed, wins in ((0, 4), (1, 8)):
        measured(tmp_path, seed, "mgsd", "stage2", wins)
    table = ablation_table(tmp_path, (0, 1)).splitlines()
    assert len(table) == 2 + len(VARIANTS)
    (both,) = [line for line in table if line.startswith("| both (MGSD")]
    assert both.count("| 60.0 (") == 6
    (base,) = [line for line in table if line.startswith("| base")]
    assert base.count("not run") == 7


def test_a_variant_is_held_against_the_whole_method_seed_by_seed_and_state_by_state(tmp_path):
    for seed, wins in ((0, 4), (1, 8)):
        measured(tmp_path, seed, "mgsd", "stage2", wins)
        measured(tmp_path, seed, "no_plan", "stage2", wins - 1)
    (line,) = [row for row in ablation_table(tmp_path, (0, 1)).splitlines() if "without the reference" in row]
    mean, low, high = re.search(r"\| ([+-]\d+\.\d) \(([+-]\d+\.\d) to ([+-]\d+\.\d)\) \|$", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert mean == "-10.0", "one state of ten fewer, on both seeds, although the seeds are 40 points apart"
    assert -25 < float(low) < -10 < float(high) <= 0


def test_the_interval_covers_both_seeds_when_they_disagree():
    """Two seeds at 0 and 1 of the same states: only resampling the seeds can show that the mean is unsure."""
    assert _cell([[np.zeros(50)], [np.ones(50)]]) == "50.0 (0.0-100.0)"


def test_agreement_of_all_states_is_not_certainty():
    assert _cell([[np.ones(300)]] * 3) == "100.0 (98.8-100.0)"
    assert _cell([[np.zeros(300)]] * 3) == "0.0 (0.0-1.2)"


def test_every_variant_differs_from_the_whole_method_in_what_its_title_says(tmp_path):
    stages: dict[str, Any] = {
        v.folder: v.make(0, tmp_path).stages[-1] for v in VARIANTS if v.make is not None
    }
    assert set(stages) == {"stage2_only", "no_plan", "sampled", "sft_answers", "no_privilege"}
    whole: Any = nano_mgsd(0).stages[1]
    assert stages["stage2_only"] == whole
    assert stages["no_plan"].teacher_view == "teacher_no_plan"
    assert stages["no_privilege"].teacher_view == "student"
    assert type(stages["sampled"].estimator).__name__ == "Sampled"
    answers = stages["sft_answers"]
    assert answers.image_view == "student" and answers.retention_share == 0
    assert answers.steps * answers.batch_size == whole.steps * whole.prompts_per_step


def test_mistakes_are_named(tmp_path):
    with pytest.raises(PilotageError, match="jobs 0"):
        run_ablation(tmp_path, (0,), jobs=0, tell=print)
    with pytest.raises(PilotageError, match="no part 'tea'"):
        run_part(tmp_path, 0, "tea")
