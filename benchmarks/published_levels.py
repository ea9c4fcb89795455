"""Where the nano model loses on published levels, before and after each stage: one command.

    python benchmarks/published_levels.py [RUN...] [--out DIR] [--vsp CLONE] [--visualplanning CLONE]

imports the sets that were downloaded, keeps the sizes that the run trained on and the levels that no training split
of ours can hold (by the hash of their state), and measures base, stage 1 and stage 2 of every run as `pilotage
diagnose RUN gap` does: words, pictures, pictures with the true state told, perception. All levels are drawn by us: nano
knows no other pictures. Without a clone, fixtures of our own in exactly the published forms stand in. Rows stay in DIR,
one folder a run and set, so that a killed command goes on, and `pilotage diagnose DIR/RUN/SET gap --rows-only` and
`pilotage report DIR/RUN/SET` show them. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import numpy as np

from pilotage.cli.evaluation_rows import find_rows
from pilotage.data.examples import split_of
from pilotage.evaluate import evaluate, rows_path
from pilotage.evaluate.bootstrap import Interval
from pilotage.evaluate.gap import GAP_CONDITIONS, Gap, gap
from pilotage.recipes.nano import nano_mgsd
from pilotage.records import Example
from pilotage.report import write_report
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.runs.measurement import NANO_LEVELS, NANO_MAX_NEW_TOKENS
from pilotage.runs.runner import load
from pilotage.worlds import get_task
from pilotage.worlds.grids.data import PUBLISHED
from pilotage.worlds.grids.data.importing import import_levels
from published_forms import (  # pyright: ignore[reportMissingImports]
    VISUALPLANNING,
    visualplanning_row,
    write_lines,
    write_vsp_map,
)

NUM_FIXTURES = 200
SHOWN_FAULTS = ("misread", "misplanned", "both", "format")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders of the recipe nano (runs/demo)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/published"), help="folder for the rows")
    for loader in PUBLISHED:
        parser.add_argument(
            f"--{loader.name}", type=Path, metavar="CLONE", help="the set as it was downloaded"
        )
    options = vars(parser.parse_args(argv))
    runs = options["runs"] or [Path("runs/demo")]
    for run in runs:
        if not (run / "stage2" / "model").is_dir():
            print(f"{run} holds no finished run: nothing measured (pilotage demo makes runs/demo)")
            return
    head = ["run", "set", "task", "stage", "n", "text", "image", "state told", "perception", *SHOWN_FAULTS]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for loader in PUBLISHED:
        root, name = options[loader.name], loader.name
        if root is None:
            root, name = write_fixtures(loader.name, options["out"] / "fixtures"), f"{loader.name} (fixtures)"
        examples = unseen(import_levels(loader, root, redraw=True).examples)
        for run in runs:
            folder = options["out"] / "_".join(run.parts[-3:]).strip("/") / loader.name
            for stage, model in (
                ("base", "nano"),
                *((s, str(run / s / "model")) for s in ("stage1", "stage2")),
            ):
                print_rows(run, name, stage, diagnose(model, stage, examples, folder))
            write_report(folder)


def write_fixtures(name: str, folder: Path) -> Path:
    """Levels of ours, out of the sizes that nano knows, in the form of the named set."""
    rng = np.random.default_rng(11)
    for task_name, levels in NANO_LEVELS:
        task = get_task(task_name)
        states = [task.generate(int(rng.choice(levels)), rng) for _ in range(NUM_FIXTURES)]
        if name == "visualplanning":
            rows = [visualplanning_row(task_name, state) for state in states]
            write_lines(folder / name / VISUALPLANNING.format(task_name), rows)
        elif task_name == "frozenlake":
            for number, state in enumerate(states):
                write_vsp_map(folder / name, number, task.to_json(state)["map"])
    return folder / name


def unseen(examples: Sequence[Example]) -> list[Example]:
    """The examples of the sizes that nano knows whose state belongs to no training split."""
    sizes = dict(NANO_LEVELS)
    return [
        example
        for example in examples
        if example.level in sizes.get(example.task, ()) and split_of(example.id.split("-")[2]) != "train"
    ]


def diagnose(model: str, stage: str, examples: Sequence[Example], folder: Path) -> Gap:
    """The gap of one model; rows that are there are not asked again."""
    recipe = nano_mgsd(0)
    evaluate(
        TransformersEngine(load(recipe, model)),
        examples,
        stage=stage,
        prompts=recipe.prompts,
        max_new_tokens=NANO_MAX_NEW_TOKENS,
        out=folder,
        model=model,
        conditions=GAP_CONDITIONS,
        batch_size=128,
    )
    wanted = {example.id for example in examples}
    assert all(rows_path(folder, stage, condition).is_file() for condition in GAP_CONDITIONS), (
        "every condition has its file"
    )
    return gap(row for row in find_rows(str(folder), stage).rows if row["id"] in wanted)


def print_rows(run: Path, name: str, stage: str, found: Gap) -> None:
    for task, cell in found.tasks.items():
        rates = [cell.success[condition] for condition in GAP_CONDITIONS] + [
            cell.fault_shares[fault] for fault in SHOWN_FAULTS
        ]
        line = [str(run), name, task, stage, str(cell.success["image"].n), *map(percent, rates)]
        print(f"| {' | '.join(line)} |", flush=True)


def percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f} ({100 * interval.low:.0f}-{100 * interval.high:.0f})"


if __name__ == "__main__":
    main()
