"""`pilotage eval`: what a model can do, from the image, from the text, and how well it sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from pilotage.cli.choose import RecipeOptions, choose_model, use_threads
from pilotage.cli.endpoint import EndpointOptions, folder_for
from pilotage.cli.evaluation_rows import find_rows, keep, rows_of
from pilotage.cli.options import AtLeast, Count, RecipeCount, SessionOptions, given, key_and_value, takes
from pilotage.cli.progress import Bar
from pilotage.cli.tables import points, say, table_console
from pilotage.errors import PilotageError
from pilotage.records import Split
from pilotage.rollouts.engines import InProcess, engine_named

if TYPE_CHECKING:
    from pilotage.evaluate import Interval, Progress, Summary
    from pilotage.evaluate.passk import PassK
    from pilotage.records import View
    from pilotage.rollouts import Engine, StreamingEngine
    from pilotage.runs import Recipe
    from pilotage.runs.measurement import Measurement

UNSHOWN = ("state", "finished")
"""Rates that stand on the page and in the summary, and would make the table too wide."""
MANY_CUT = 0.1
"""From this share of answers on, their being cut at the token limit is worth a notice."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured, and where its rows are."""

    stage: str
    out: Path
    """Run folder."""
    ids: frozenset[str]
    """Examples; the rows' files may hold those of other measurements, too."""
    summary: Summary
    rows: list[dict[str, Any]]
    """Condition after condition."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who is asked."""

    model: str
    """What rows call it."""
    engine: Engine | StreamingEngine
    batch_size: int
    """Requests at once."""
    endpoint: Mapping[str, Any] | None = None
    before_work: Callable[[View], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Eval(SessionOptions, RecipeOptions, EndpointOptions):
    """Measure a model on unseen levels: plans from the image, plans from the text, and perception.

    The model is on this machine (RUN|MODEL) or behind an endpoint (--endpoint URL --model NAME).
    Every prompt, answer and verdict goes to eval/<stage>.<condition>.jsonl of the run, the rates with
    their 95 % bootstrap intervals, by task and by level, to eval/<stage>.summary.json. Answers that
    cannot be parsed, and rows that failed, count as failures. Killed and run again, it asks only for
    the rows that are missing and those that failed on the way (cut connections, timeouts, 5xx);
    what a server refused or answered with nothing stays a failure.
    """

    target: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL", help_behavior_hint="(or: --endpoint)")
    ] = ""
    """A run folder (its last finished stage), a model directory, a hub id, or nano."""
    engine: Annotated[str | None, takes("NAME", "the recipe's")] = None
    """What a model of this machine answers in: transformers, vllm, or module:Class of your own."""
    stage: Annotated[str | None, takes("NAME", "the last; base for a model")] = None
    """The stage of the run to measure; for a model: the name of its rows."""
    out: Annotated[Path | None, takes("DIR", "RUN; runs/NAME for a model")] = None
    """Run folder that the rows go to."""
    conditions: Annotated[
        tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: what is usual there)")
    ] = ()
    """What is measured: usually image text perception; of questions question, of worlds that are played step by step
    image text. Corrected is the image with the true state told at the head of the answer, description is the
    perception question with the state as text, and the teachers are shown the state as text with the reference plan,
    without it (no_plan), or the picture with the plan (with_picture)."""
    world: Annotated[str | None, tyro.conf.arg(metavar="WORLD")] = None
    """Play episodes of this world in place of the recipe's tasks, e.g. frozenlake_steps."""
    levels: tuple[int, ...] = ()
    """Of such a world."""
    option: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE", help_behavior_hint="(repeatable)")
    ] = ()
    """What shapes its episodes: starts=corner, fog=2, window=3, burst=2; exclude=PATH leaves out the maps of
    published levels."""
    agent: Annotated[str | None, takes("NAME", "the world's own")] = None
    """When the model is asked in an episode of many turns, by an agent that the world offers: direct before every move;
    in grid worlds also follow_plan, follow_on_revisit, sampling_on_revisit, one_plan."""
    split: Split = "test"
    """Which levels."""
    seed: int = 0
    """Seed of the sampling; of a model that is no run's, also of the levels of --split train."""
    num: RecipeCount = None
    """Levels of each task."""
    prompts: Annotated[Literal["full", "brief"] | None, takes("{full,brief}", "the recipe's")] = None
    """Prompt set."""
    max_new_tokens: RecipeCount = None
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """With a temperature: the share of the probability that is sampled from."""
    samples: Count = 1
    """Answers to each level, with a temperature; run again with more, the rest is added."""
    batch_size: Annotated[int | None, takes("N", "64; 512 for vllm"), AtLeast(1)] = None
    """Rows decoded at once by a model of this machine."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Insist that there are rows to go on from. Where there are, every run goes on from them, with or without this."""
    strict_edges: tyro.conf.FlagCreatePairsOff[bool] = False
    """A step off the FrozenLake board fails."""
    by_level: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print a line for every level, too."""

    def run(self) -> int:
        measured = self.measure()
        path = measured.out / "eval" / f"{measured.stage}.summary.json"
        estimates = self._passk(measured)
        summary = measured.summary.as_dict() | self._usage(measured)
        if estimates:
            summary["passk"] = {condition: estimate.as_dict() for condition, estimate in estimates.items()}
        print_summary(measured.summary, by_level=self.by_level)
        if estimates:
            from pilotage.cli.passk import print_passk

            print_passk(estimates)
        for line in _notices(measured, summary):
            print(line)
        keep(path, summary)
        return 0

    def _passk(self, measured: Measured) -> dict[str, PassK]:
        """Condition -> pass@k; nothing where every level was answered once."""
        if self.samples == 1:
            return {}
        from pilotage.evaluate.passk import passk

        return passk(measured.rows)

    def found_or_measured(self, *, rows_only: bool) -> tuple[list[dict[str, Any]], Path]:
        """The rows of `conditions`, those that are there alone or with what is missing, and the place of what is made
        of them, without its ending."""
        if rows_only:
            found = find_rows(self.target, self.stage, out=self.out)
            return [row for row in found.rows if row["condition"] in self.conditions], found.beside
        measured = self.measure()
        rows = rows_of(measured.out, measured.stage, self.conditions, measured.ids)
        return rows, measured.out / "eval" / measured.stage

    def measure(self) -> Measured:
        """Asks for the rows that are missing."""
        if bool(self.target) == (self.endpoint is not None):
            raise PilotageError(
                "give a model: RUN|MODEL for one of this machine, or --endpoint URL --model NAME"
            )
        if self.target and self.model is not None:
            raise PilotageError(
                f"--model {self.model} goes with --endpoint; a model of this machine is RUN|MODEL"
            )
        if self.data is not None:
            self._check_data_alone()
        stage, weights, out, recipe, measurement = self._choose()
        from pilotage.data.made import own_levels
        from pilotage.evaluate import evaluate, rows_path
        from pilotage.evaluate.run import check_agent, conditions_of
        from pilotage.worlds.registry import usual_conditions

        measurement = replace(
            measurement, **given(num_test=self.num, prompts=self.prompts, max_new_tokens=self.max_new_tokens)
        )
        if self.world is not None:
            measurement = replace(
                measurement,
                levels=((self.world, self.levels or own_levels(self.world)),),
                options=tuple(map(key_and_value, self.option)),
            )
        elif self.levels or self.option:
            raise PilotageError(
                "--levels and --option go with --world: a recipe's tasks have their own levels"
            )
        sessions = self.sessions_of(recipe)
        if recipe is not None:
            use_threads(recipe)
        examples = self._examples(measurement)
        conditions = self.conditions or usual_conditions(example.world for example in examples)
        conditions_of(examples, conditions)  # says what is wrong with them before a model is loaded
        check_agent(examples, self.agent)
        if self.resume and not any(rows_path(out, stage, condition).is_file() for condition in conditions):
            raise PilotageError(f"--resume: {out}/eval has no rows of {stage} to go on from")
        subject = self._subject(recipe, weights, stage if out == Path(self.target) else weights)
        rows: list[dict[str, Any]] = []
        with Bar("eval", unit="rows") as bar:
            summary = evaluate(
                subject.engine,
                examples,
                stage=stage,
                prompts=measurement.prompts,
                max_new_tokens=measurement.max_new_tokens,
                out=out,
                model=subject.model,
                conditions=conditions,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed,
                samples=self.samples,
                batch_size=subject.batch_size,
                strict_edges=self.strict_edges,
                agent=self.agent,
                sessions=sessions,
                endpoint=subject.endpoint,
                before_work=subject.before_work,
                progress=_show(bar, conditions, rows),
            )
        ids = frozenset(example.id for example in examples)
        return Measured(stage=stage, out=out, ids=ids, summary=summary, rows=rows)

    def _check_data_alone(self) -> None:
        """Raises PilotageError for an option that says which examples are made, where `--data` holds them."""
        levels = " ".join(map(str, self.levels))
        for name, value in (("world", self.world), ("levels", levels), ("option", " ".join(self.option))):
            if value:
                raise PilotageError(
                    f"--{name} {value}: --data {self.data} holds its examples as they are; leave one of the two out"
                )

    def _subject(self, recipe: Recipe | None, weights: str, name: str) -> Subject:
        if recipe is None:
            engine = self.endpoint_engine()
            place: dict[str, Any] = {"url": engine.config.url}
            if engine.config.extra_body:
                place["extra_body"] = dict(engine.config.extra_body)
            return Subject(
                model=name,
                engine=engine,
                batch_size=self.batch_size or InProcess().batch_size,
                endpoint=place,
                before_work=lambda view: engine.probe(view, temperature=self.temperature, top_p=self.top_p),
            )
        from pilotage.runs.runner import engine_of

        if self.engine is not None:
            recipe = replace(recipe, engine=engine_named(self.engine))
        title, batch_size = recipe.engine.title, self.batch_size or recipe.engine.batch_size
        return Subject(
            model=f"{name} in {title}" if title else name,
            engine=engine_of(recipe, weights, batch_size=batch_size),
            batch_size=batch_size,
        )

    def _usage(self, measured: Measured) -> dict[str, Any]:
        """What the summary says of tokens and cost; nothing for a model of this machine."""
        if self.endpoint is None:
            return {}
        from pilotage.evaluate.usage import usage_of

        usage = usage_of(measured.rows)
        if self.price_in is None and self.price_out is None:
            return {"usage": usage.as_dict()}
        cost = usage.cost(price_in=self.price_in or 0.0, price_out=self.price_out or 0.0)
        return {"usage": usage.as_dict() | {"cost": cost}}

    def _choose(self) -> tuple[str, str, Path, Recipe | None, Measurement]:
        """Stage, weights (the name, at an endpoint), folder for the rows, recipe (none, there), what is measured."""
        if self.endpoint is not None:
            model = self.served_model
            return self.stage or "base", model, self.out or folder_for(model), None, self.of_endpoint(model)
        stage, weights, recipe = choose_model(self.target, self.stage, self)
        is_run = weights != self.target
        out = self.out or (Path(self.target) if is_run else Path("runs") / Path(self.target).name)
        return stage, weights, out, recipe, recipe

    def _examples(self, measurement: Measurement) -> list[Any]:
        examples = self.load_examples(measurement, self.split, self.sessions_named())
        if self.num is None or self.data is None:
            return examples
        kept, taken = [], dict.fromkeys((example.task for example in examples), 0)
        for example in examples:
            if taken[example.task] < self.num:
                taken[example.task] += 1
                kept.append(example)
        return kept


def _show(bar: Bar, conditions: tuple[str, ...], rows: list[dict[str, Any]]) -> Any:
    """A progress callback that moves the bar and collects the rows."""

    def report(progress: Progress) -> None:
        rows.extend(progress.rows)
        before = conditions.index(progress.condition) * progress.num_total
        failed = f"  {progress.num_failed} failed" if progress.num_failed else ""
        bar(before + progress.num_done, len(conditions) * progress.num_total, progress.condition + failed)

    return report


def _notices(measured: Measured, summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the rates should know besides."""
    lines = []
    failed: dict[str, int] = {}
    for row in measured.rows:
        if row.get("error"):
            error_kind = row.get("error_kind") or "engine"
            failed[error_kind] = failed.get(error_kind, 0) + 1
    if failed:
        counts = ", ".join(f"{num} {error_kind}" for error_kind, num in sorted(failed.items()))
        lines.append(f"{sum(failed.values())} rows failed and count as failures: {counts}")
        if failed.get("transport") or failed.get("engine"):
            lines.append("run the same command again to ask for those that failed by transport or engine")
    answered = [row for row in measured.rows if not row.get("error")]
    num_cut = sum(not row.get("finished", True) for row in answered)
    if answered and num_cut >= MANY_CUT * len(answered):
        limit = answered[0]["settings"]["max_new_tokens"]
        lines.append(f"{num_cut} of {len(answered)} answers were cut at {limit} tokens (--max-new-tokens)")
    usage = summary.get("usage")
    if usage is not None:
        text = f"tokens: {usage['prompt_tokens']:,} in, {usage['completion_tokens']:,} out"
        missing = usage["num_rows"] - usage["num_reported"]
        text += f", of {missing} rows unknown" if missing else ""
        lines.append(text + (f"; cost {usage['cost']:.4f}" if "cost" in usage else ""))
    return lines


def print_summary(summary: Summary, *, by_level: bool) -> None:
    """A table of rates in per cent with their intervals, then the modality gap."""
    from pilotage.evaluate.summary import rate_names

    cells = [cell for rates in summary.conditions.values() for cell in rates.tasks.values()]
    names = [name for name in rate_names(cells) if name not in UNSHOWN]
    console = table_console()
    for block in _blocks(names, lambda some: _table(summary, some, by_level=by_level), console):
        console.print(block)
    macro = {} if summary.gap_macro is None else {"macro": summary.gap_macro}
    for task, gap in {**summary.gap, **macro}.items():
        say(console, f"modality gap, {task}: {points(gap)}")


def _table(summary: Summary, names: Sequence[str], *, by_level: bool) -> Table:
    table = Table(caption="per cent, with 95 % bootstrap intervals", box=box.SIMPLE, pad_edge=False)
    for title in ("condition", "task", "n", *names):
        table.add_column(title, justify="left" if title in ("condition", "task") else "right", no_wrap=True)
    for condition, rates in summary.conditions.items():
        for task, cell in rates.tasks.items():
            table.add_row(condition, task, str(cell.n), *_cells(cell.rates, names))
            if by_level:
                for level, at_level in rates.levels[task].items():
                    table.add_row("", f"  level {level}", str(at_level.n), *_cells(at_level.rates, names))
        table.add_row(condition, "macro", "", *_cells(rates.macro, names), end_section=True)
    return table


def _blocks(names: Sequence[str], make: Callable[[Sequence[str]], Table], console: Console) -> list[Table]:
    """Tables of some of the columns each, so that none is wider than the console, which would cut its numbers."""
    unbounded = console.options.update(max_width=10_000)
    blocks, taken = [], []
    for name in names:
        if taken and console.measure(make([*taken, name]), options=unbounded).maximum > console.width:
            blocks.append(make(taken))
            taken = []
        taken = [*taken, name]
    return [*blocks, make(taken)]


def _cells(rates: Mapping[str, Interval], names: Sequence[str]) -> list[str]:
    return [points(rates.get(name)) for name in names]
