"""`pilotage eval`: what a model can do, from the image, from the text, and how well it sees."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from pilotage.cli.choose import RecipeOptions, latest_model, recipe_of_run, use_threads
from pilotage.cli.options import RecipeInt, given
from pilotage.cli.progress import Bar
from pilotage.errors import PilotageError
from pilotage.records import Split

if TYPE_CHECKING:
    from pilotage.evaluate import Interval, Progress, Summary
    from pilotage.recipes import Recipe

Kind = Literal["image", "text", "corrected", "perception", "description", "teacher", "teacher_no_plan"]
RATES = ("success", "optimal", "illegal", "parsed")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured, and where its rows are."""

    stage: str
    out: Path
    """Run folder."""
    ids: frozenset[str]
    """Examples; the rows' files may hold those of other measurements, too."""
    summary: Summary


@dataclass(frozen=True, kw_only=True)
class Eval(RecipeOptions):
    """Measure a model on unseen levels: plans from the image, plans from the text, and perception.

    Every prompt, answer and verdict goes to eval/<stage>.<kind>.jsonl of the run, the rates with
    their 95 % bootstrap intervals, by task and by level, to eval/<stage>.summary.json. Answers that
    cannot be parsed, and rows that failed, count as failures. Killed and run again, it asks only for
    the rows that are missing.
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")]
    """A run folder (its last finished stage), a model directory, a hub id, or nano."""
    stage: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the last; base for a model)")
    ] = None
    """The stage of the run to measure; for a model: the name of its rows."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: RUN; runs/NAME for a model)")
    ] = None
    """Run folder that the rows go to."""
    kinds: tuple[Kind, ...] = ("image", "text", "perception")
    """What is measured; corrected is the image with the true state told at the head of the answer, description is the
    perception question with the state as text, and the two teachers see the state as text, with and without the
    reference plan."""
    split: Split = "test"
    """Which levels."""
    num: RecipeInt = None
    """Levels of each task."""
    prompts: Annotated[
        Literal["full", "brief"] | None,
        tyro.conf.arg(metavar="{full,brief}", help_behavior_hint="(default: the recipe's)"),
    ] = None
    """Prompt set."""
    max_new_tokens: RecipeInt = None
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """With a temperature: the share of the probability that is sampled from."""
    batch_size: int = 64
    """Rows decoded at once."""
    strict_edges: tyro.conf.FlagCreatePairsOff[bool] = False
    """A step off the FrozenLake board fails."""
    by_level: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print a line for every level, too."""

    def run(self) -> int:
        measured = self.measure()
        path = measured.out / "eval" / f"{measured.stage}.summary.json"
        path.write_text(json.dumps(measured.summary.as_dict(), indent=1))
        print_summary(measured.summary, by_level=self.by_level)
        print(path)
        return 0

    def measure(self) -> Measured:
        """Asks for the rows that are missing."""
        stage, weights, out, recipe = self._choose()
        from pilotage.evaluate import evaluate
        from pilotage.recipes.runner import load
        from pilotage.rollouts.transformers_engine import TransformersEngine

        recipe = replace(
            recipe, **given(num_test=self.num, prompts=self.prompts, max_new_tokens=self.max_new_tokens)
        )
        use_threads(recipe)
        examples = self._examples(recipe)
        engine = TransformersEngine(load(recipe, weights), batch_size=self.batch_size)
        with Bar("eval", unit="rows") as bar:
            summary = evaluate(
                engine,
                examples,
                stage=stage,
                prompts=recipe.prompts,
                max_new_tokens=recipe.max_new_tokens,
                out=out,
                model=stage if out == Path(self.target) else weights,
                kinds=self.kinds,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed,
                batch_size=self.batch_size,
                strict_edges=self.strict_edges,
                progress=_show(bar, self.kinds),
            )
        return Measured(
            stage=stage, out=out, ids=frozenset(example.id for example in examples), summary=summary
        )

    def _choose(self) -> tuple[str, str, Path, Recipe]:
        """Stage, weights, folder for the rows, recipe."""
        run = Path(self.target)
        if run.is_dir() and not any(run.glob("*.safetensors")):
            if self.stage is None:
                latest = latest_model(run)
                if latest is None:
                    raise PilotageError(f"{run} holds neither a model nor a finished stage of a run")
                stage, model = latest
            else:
                stage, model = self.stage, run / self.stage / "model"
                if not model.is_dir():
                    raise PilotageError(f"{run} has no finished stage {stage!r}: {model} is not there")
            recipe = recipe_of_run(run, self.make_recipe(str(model)))
            return stage, str(model), self.out or run, recipe
        out = self.out or Path("runs") / Path(self.target).name
        return self.stage or "base", self.target, out, self.make_recipe(self.target)

    def _examples(self, recipe: Recipe) -> list[Any]:
        examples = self.load_examples(recipe, self.split)
        if self.num is None or self.data is None:
            return examples
        kept, taken = [], dict.fromkeys((example.task for example in examples), 0)
        for example in examples:
            if taken[example.task] < self.num:
                taken[example.task] += 1
                kept.append(example)
        return kept


def _show(bar: Bar, kinds: tuple[str, ...]) -> Any:
    def tell(progress: Progress) -> None:
        before = kinds.index(progress.kind) * progress.num_total
        bar(before + progress.num_done, len(kinds) * progress.num_total, progress.kind)

    return tell


def print_summary(summary: Summary, *, by_level: bool) -> None:
    """A table of rates in per cent with their intervals, then the modality gap."""
    table = Table(caption="per cent, with 95 % bootstrap intervals", box=box.SIMPLE, pad_edge=False)
    for title in ("kind", "task", "n", *RATES):
        table.add_column(title, justify="left" if title in ("kind", "task") else "right", no_wrap=True)
    for kind, rates in summary.kinds.items():
        for task, cell in rates.tasks.items():
            table.add_row(kind, task, str(cell.n), *_cells(cell.rates))
            if by_level:
                for level, at_level in rates.levels[task].items():
                    table.add_row("", f"  level {level}", str(at_level.n), *_cells(at_level.rates))
        table.add_row(kind, "macro", "", *_cells(rates.macro), end_section=True)
    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(table)
    gaps = [(task, gap) for task, gap in summary.gap.items()]
    if summary.gap_macro is not None:
        gaps.append(("macro", summary.gap_macro))
    for task, gap in gaps:
        console.print(f"modality gap, {task}: {_points(gap)}", highlight=False)


def _cells(rates: Mapping[str, Interval]) -> list[str]:
    return [_points(rates[name]) if name in rates else "" for name in RATES]


def _points(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
