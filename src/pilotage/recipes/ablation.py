"""What each part of MGSD is worth: one command, every variant at the same budget, several seeds.

A variant starts from weights that another part of the same seed left, so that stage 1 is trained once per seed.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.distill.estimators import Sampled
from pilotage.errors import PilotageError
from pilotage.evaluate import KINDS, rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.recipe import BASE_STAGE, Recipe
from pilotage.recipes.runner import run_recipe
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.sft import SftConfig

logger = logging.getLogger(__name__)

MAIN = "mgsd"
"""Folder of the whole method; the other variants branch off it."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    title: str
    folder: str
    stage: str
    """The stage whose evaluation is the row."""
    make: Callable[[int, Path], Recipe] | None
    """Recipe of a seed, given that seed's folder of the whole method; None when it is part of that run."""


def _stage2(seed: int) -> DistillConfig:
    stage = nano_mgsd(seed).stages[1]
    assert isinstance(stage, DistillConfig)
    return stage


def _branch(seed: int, backbone: str, *stages: SftConfig | DistillConfig) -> Recipe:
    whole = nano_mgsd(seed)
    name = f"ablation_{stages[-1].stage}"
    return replace(whole, name=name, backbone=backbone, stages=stages, measure_base=False)


def _stage1_model(main: Path) -> str:
    return str(main / "stage1" / "model")


def _stage2_only(seed: int, main: Path) -> Recipe:
    return _branch(seed, "nano", _stage2(seed))


def _without_plan(seed: int, main: Path) -> Recipe:
    return _branch(seed, _stage1_model(main), replace(_stage2(seed), teacher_view="teacher_no_plan"))


def _sampled(seed: int, main: Path) -> Recipe:
    return _branch(seed, _stage1_model(main), replace(_stage2(seed), estimator=Sampled(as_="advantage")))


def _no_privilege(seed: int, main: Path) -> Recipe:
    stage = replace(_stage2(seed), teacher_view="student", teacher_weights=FrozenCopy(source="nano"))
    return _branch(seed, _stage1_model(main), stage)


def _sft_on_answers(seed: int, main: Path) -> Recipe:
    """As many image rows as stage 2 has rollouts, at its learning rate, without retention rows."""
    stage2 = _stage2(seed)
    stage1 = nano_mgsd(seed).stages[0]
    assert isinstance(stage1, SftConfig)
    stage = replace(
        stage1,
        stage="sft_answers",
        image_view="student",
        retention_share=0.0,
        steps=stage2.steps,
        batch_size=stage2.prompts_per_step,
        peak_lr=stage2.lr,
    )
    return _branch(seed, _stage1_model(main), stage)


VARIANTS = (
    Variant(title="base", folder=MAIN, stage=BASE_STAGE, make=None),
    Variant(title="stage 1 only", folder=MAIN, stage="stage1", make=None),
    Variant(title="stage 2 only", folder="stage2_only", stage="stage2", make=_stage2_only),
    Variant(title="both (MGSD, full vocabulary)", folder=MAIN, stage="stage2", make=None),
    Variant(title="both, without the reference plan", folder="no_plan", stage="stage2", make=_without_plan),
    Variant(title="both, sampled estimator", folder="sampled", stage="stage2", make=_sampled),
    Variant(
        title="stage 1, then SFT on reference answers",
        folder="sft_answers",
        stage="sft_answers",
        make=_sft_on_answers,
    ),
    Variant(title="both, no-privilege control", folder="no_privilege", stage="stage2", make=_no_privilege),
)


def run_ablation(out: Path, seeds: Sequence[int], *, jobs: int, tell: Callable[[str], None]) -> str:
    """Runs what is missing in `out`, `jobs` processes at a time of one thread each; returns the Markdown table.

    Every run resumes by itself, so that the command can be killed and given again.
    """
    if not seeds or jobs < 1:
        raise PilotageError(f"seeds {list(seeds)} and jobs {jobs}: give at least one of each")
    branches = [variant for variant in VARIANTS if variant.make is not None]
    for wave in ([None], branches):
        parts = [(seed, None if variant is None else variant.folder) for variant in wave for seed in seeds]
        with ThreadPoolExecutor(jobs) as pool:
            for (seed, folder), status in zip(
                parts, pool.map(lambda part: _spawn(out, *part), parts), strict=True
            ):
                if status:
                    log = _folder(out, seed, folder or MAIN) / "log.txt"
                    raise PilotageError(f"seed {seed}, {folder or MAIN}: exit status {status}; see {log}")
                tell(f"seed {seed}: {folder or MAIN} is there")
    table = ablation_table(out, seeds)
    (out / "ablation.md").write_text(table)
    return table


def run_part(out: Path, seed: int, folder: str) -> None:
    """One run of the ablation, in this process."""
    main = _folder(out, seed, MAIN)
    variant = next((v for v in VARIANTS if v.folder == folder and v.make is not None), None)
    if folder == MAIN:
        recipe = nano_mgsd(seed)
    elif variant is not None and variant.make is not None:
        recipe = variant.make(seed, main)
    else:
        raise PilotageError(
            f"no part {folder!r}; there are {', '.join(sorted({v.folder for v in VARIANTS}))}"
        )
    run_recipe(replace(recipe, num_threads=1), _folder(out, seed, folder))


def _spawn(out: Path, seed: int, folder: str | None) -> int:
    folder = folder or MAIN
    target = _folder(out, seed, folder)
    target.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pilotage.recipes.ablation", str(out), str(seed), folder]
    with (target / "log.txt").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode


def _folder(out: Path, seed: int, folder: str) -> Path:
    return out / f"seed{seed}" / folder


def ablation_table(out: Path, seeds: Sequence[int]) -> str:
    """Markdown: image success per task and macro, text success, perception; mean over seeds and 95 % interval.

    The last column is the image macro less the whole method's, in points, paired by seed and state. A variant that
    some seed has not finished says so.
    """
    tasks = [name for name, _ in nano_mgsd().levels]
    macros = [f"{kind} macro" for kind in KINDS]
    head = ["variant", *(f"image {task}" for task in tasks), *macros, "image macro against both"]
    whole = next(v for v in VARIANTS if v.folder == MAIN and v.stage == "stage2")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for variant in VARIANTS:
        if not all(_is_measured(_folder(out, seed, variant.folder), variant.stage) for seed in seeds):
            lines.append(f"| {variant.title} |{' not run |' * (len(head) - 1)}")
            continue
        outcomes = {kind: [_outcomes(out, seed, variant, kind) for seed in seeds] for kind in KINDS}
        cells = [_cell([[seed[task]] for seed in outcomes["image"]]) for task in tasks]
        cells += [_cell([list(seed.values()) for seed in outcomes[kind]]) for kind in KINDS]
        cells.append("" if variant is whole else _against(out, seeds, whole, outcomes["image"]))
        lines.append(f"| {variant.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _is_measured(run_dir: Path, stage: str) -> bool:
    path = run_dir / "summary.json"
    return path.exists() and "tasks" in json.loads(path.read_text())["stages"].get(stage, {})


def _outcomes(out: Path, seed: int, variant: Variant, kind: str) -> dict[str, np.ndarray]:
    """Task -> successes [states], in the order of the states' ids, the same for all variants and seeds."""
    rows = read_jsonl(rows_path(_folder(out, seed, variant.folder), variant.stage, kind)).rows
    by_task: dict[str, list[tuple[str, bool]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append((row["id"], _succeeded(row, kind)))
    return {task: np.array([won for _, won in sorted(pairs)]) for task, pairs in sorted(by_task.items())}


def _succeeded(row: Mapping[str, Any], kind: str) -> bool:
    if row.get("error"):
        return False
    return all(row["right"].values()) if kind == "perception" else bool(row["verdict"]["success"])


def _against(
    out: Path, seeds: Sequence[int], whole: Variant, image: Sequence[Mapping[str, np.ndarray]]
) -> str:
    """The variant's image success less the whole method's, in points, or `not run` where that is not there."""
    if not all(_is_measured(_folder(out, seed, whole.folder), whole.stage) for seed in seeds):
        return "not run"
    differences = [
        [won.astype(float) - reference[task] for task, won in ours.items()]
        for ours, reference in zip(
            image, [_outcomes(out, seed, whole, "image") for seed in seeds], strict=True
        )
    ]
    low, high = _bounds(differences)
    mean = np.mean([[task.mean() for task in seed] for seed in differences])
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _cell(per_seed: Sequence[Sequence[np.ndarray]]) -> str:
    """Mean over seeds of the mean over tasks, in per cent, with a bootstrap over seeds and over states."""
    mean = np.mean([[won.mean() for won in seed] for seed in per_seed])
    if mean in (0.0, 1.0):
        # Resampling sees no spread where all agree: the exact binomial bound for the states of one seed stands in.
        reach = 1 - (0.05 / 2) ** (1 / min(len(won) for won in per_seed[0]))
        return f"{100 * mean:.1f} ({100 * max(0, mean - reach):.1f}-{100 * min(1, mean + reach):.1f})"
    low, high = _bounds(per_seed)
    return f"{100 * mean:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def _bounds(per_seed: Sequence[Sequence[np.ndarray]], num_resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds of the mean over tasks of values by state.

    Both sources of chance: which seeds were run, and which states were drawn (the same ones for every seed).
    """
    rng = np.random.default_rng(0)
    num_states = [len(won) for won in per_seed[0]]
    resampled = np.empty(num_resamples)
    for i in range(num_resamples):
        seeds = rng.integers(len(per_seed), size=len(per_seed))
        states = [rng.integers(n, size=n) for n in num_states]
        resampled[i] = np.mean(
            [[won[at].mean() for won, at in zip(per_seed[s], states, strict=True)] for s in seeds]
        )
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    run_part(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
