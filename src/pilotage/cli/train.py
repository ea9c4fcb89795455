"""`pilotage train`: a recipe's stages, one at a time or all of them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pilotage.cli.choose import (
    REAL_RECIPE,
    RecipeOptions,
    command_name,
    make_recipe,
    own_recipe,
    use_threads,
)
from pilotage.cli.options import AtLeast, RecipeCount, SessionOptions, takes
from pilotage.cli.progress import Bar
from pilotage.cli.stages import (
    check_begun,
    command_for,
    first_weights,
    stage_named,
    stages_left,
    with_stage,
    with_steps,
)
from pilotage.errors import PilotageError, require

if TYPE_CHECKING:
    from pilotage.backbones.load import Backbone
    from pilotage.records import Example
    from pilotage.runs import Recipe
    from pilotage.runs.recipe import Stage
    from pilotage.runs.record import RunRecord
    from pilotage.train.disk import Disk
    from pilotage.train.distill_config import AdapterOff, FrozenCopy
    from pilotage.train.fit import Plan

ADAPTER_OFF = "adapter-off"
NEW_RUN = "nano"
"""Recipe of a new run, where nothing says another."""
NUM_LOOKED_AT = 24
"""Examples of each task whose lengths an estimate goes by."""


@dataclass(frozen=True, kw_only=True)
class Train(SessionOptions, RecipeOptions):
    """Train the next stage of a run, or the one named, as its recipe says.

    The first command names the recipe and says what differs from it; the run remembers both. Each
    stage begins with the model that the one before left in RUN/STAGE/model. The figures of every
    step go to RUN/metrics.jsonl. Killed and run again, it goes on as if nothing had happened.

    --set changes any setting of the recipe or of a stage, by its path (repeat it for several):
    --set stage2.lr=1e-6
    --set "stage2.router.routes.plan.estimator=TopK(k=64, divergence=JSD(beta=0.1))"
    --set stage2.router.routes.perception.scale=2
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    recipe: Annotated[str | None, takes("NAME", f"the run's; for a new one {NEW_RUN}")] = None
    """What is trained, how, and on what; `pilotage recipes` lists them."""
    backbone: Annotated[str | None, takes("MODEL", "the run's, else the recipe's own")] = None
    """The base: a model directory, a hub id, or nano."""
    stage: Annotated[str | None, takes("NAME", "the next one")] = None
    """Which of the recipe's stages."""
    all: tyro.conf.FlagCreatePairsOff[bool] = False
    """Every stage that is left, and after each the measurements and the page of the run."""
    start: Annotated[
        str | None,
        tyro.conf.arg(
            name="from", metavar="MODEL", help_behavior_hint="(default: the stage before's, or the base)"
        ),
    ] = None
    """Weights that the stage begins with."""
    teacher: Annotated[str | None, takes("MODEL", "the recipe's")] = None
    """The model that teaches in place of the recipe's frozen one; for gkd and dense_rl, the larger model. With an
    adapter, adapter-off is the student without it."""
    lora: Annotated[int | None, takes("RANK", "as the recipe says")] = None
    """Train an adapter of this rank in every stage; 0 trains all weights. Learning rates stay the recipe's."""
    qlora: Annotated[int | None, takes("RANK", "none")] = None
    """The same on a base in 4 bits, which takes the extra bnb."""
    steps: RecipeCount = None
    """Optimiser steps of the stage."""
    changes: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="PATH=VALUE")
    ] = ()
    """A setting in place of the recipe's: STAGE.FIELD=VALUE, or FIELD=VALUE of the recipe itself."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the settings, estimates of memory and time on a GPU and the prompts of one example, and train nothing. RUN
    may then be the name of a recipe, and --backbone a directory that holds no more than config.json."""
    gpu_memory: Annotated[float | None, takes("GIB", "nothing is checked"), AtLeast(1)] = None
    """Refuse a stage that does not fit on a GPU of so many GiB, and say which setting would make it fit."""
    gpu_tflops: Annotated[float | None, takes("N", "an H100's, 989"), AtLeast(1)] = None
    """What the GPU is sold as doing in dense bfloat16, for the seconds that --dry-run tells."""

    def run(self) -> int:
        if self.dry_run:
            return self._dry_run()
        if self.all:
            return self._train_all()
        run = self.run_folder
        recipe, record = self._recipe_in(run)
        config = self._next(recipe, record)
        if config is None:
            print(
                f"{run} holds every stage of {command_name(recipe)}; next: {self._next_command(recipe, None)}"
            )
            return 0
        use_threads(recipe)
        ahead = [config] if self.stage is not None else stages_left(recipe, record, self.run_folder)
        self._check_fits(recipe, record, ahead)
        self._check_room(recipe, record, [config])
        directory = self._train(recipe, config, first_weights(recipe, record, run, config.stage, self.start))
        print(f"{directory} holds the model; next: {self._next_command(recipe, config)}")
        return 0

    # -- what is trained ----------------------------------------------------------------------------------------------

    def _recipe_in(self, run: Path) -> tuple[Recipe, RunRecord | None]:
        """The recipe of the run in a folder, or of one that is to begin there, as the options change it.

        Raises PilotageError for options that contradict a run's record, and for a new run's base without a recipe.
        """
        from pilotage.runs.changes import changed
        from pilotage.runs.record import lasting_name, read_record

        base = None if self.backbone is None else lasting_name(self.backbone)
        record = read_record(run)
        if record is not None:
            kept = self.of_run(run, record)
            self._check(run, backbone=(base, kept.backbone), seed=(self.seed, kept.seed))
        else:
            if self.recipe is None and self.backbone is not None and own_recipe(self.backbone) is None:
                raise PilotageError(
                    f"--backbone {self.backbone} names no recipe that it is made for: give one, as in --recipe "
                    f"{REAL_RECIPE} (pilotage recipes lists them)"
                )
            kept = self._with_threads(make_recipe(self.recipe or NEW_RUN, self.seed, base))
        kept = replace(kept, sessions=self.sessions_of(kept))
        suited = self._suited(kept, record)
        recipe = changed(suited, self.changes)
        if self.teacher is not None and _teachers(suited) != _teachers(recipe):
            raise PilotageError(f"--teacher {self.teacher} and --set name two teachers: give one of them")
        _check_adapters(recipe)
        if record is not None:
            config = self._next(recipe, record)
            check_begun(kept, recipe, run, training=None if config is None else config.stage)
        return recipe, record

    def _suited(self, recipe: Recipe, record: RunRecord | None) -> Recipe:
        """The recipe on the kind of data and with the teacher that the options name, in the stages to be trained."""
        from pilotage.recipes.methods import adapted, taught_by, teaches_answers
        from pilotage.train.distill_config import DistillConfig
        from pilotage.worlds.registry import beside_world

        if self.lora is not None and self.qlora is not None:
            raise PilotageError(f"--lora {self.lora} and --qlora {self.qlora}: give one of them")
        if self.qlora == 0:
            raise PilotageError("--qlora 0 is no adapter: --lora 0 trains all weights")
        rank = self.lora if self.qlora is None else self.qlora
        if self.data is None and self.teacher is None and rank is None:
            return recipe
        names = self._names_ahead(recipe, record)
        stages = [stage for stage in recipe.stages if stage.stage in names]
        kind = self.kind_of_data()
        beside = None if kind is None or kind.world is None else beside_world(kind.world, "recipes")
        suit = getattr(beside, "for_world", None)
        if kind is not None and suit is not None:
            answering = [stage for stage in stages if teaches_answers(stage)]
            if stages[0] not in answering:
                remedy = f"; {kind.holds} are for --stage {answering[0].stage}" if answering else ""
                raise PilotageError(
                    f"{stages[0].stage} of {command_name(recipe)} is trained on levels{remedy}"
                )
            for stage in answering:
                if record is None or stage.stage not in record.began_with:
                    recipe = with_stage(recipe, suit(recipe, stage))
        if self.teacher is not None:
            taught = [
                stage
                for stage in recipe.stages
                if stage.stage in names
                and isinstance(stage, DistillConfig)
                and any(route.has_teacher for route in stage.routes)
            ]
            if not taught:
                raise PilotageError(
                    f"--teacher {self.teacher}: no stage of {command_name(recipe)} that is to be trained has a teacher"
                )
            by = self._teacher_named(recipe, self.teacher)
            for stage in taught:
                recipe = with_stage(recipe, taught_by(stage, by))
        if rank is not None:
            for stage in recipe.stages:
                if stage.stage in names:
                    in_four_bits = self.qlora is not None
                    recipe = with_stage(recipe, adapted(stage, rank, in_four_bits=in_four_bits))
        return recipe

    def _teacher_named(self, recipe: Recipe, name: str) -> FrozenCopy | AdapterOff:
        """What `--teacher` says. Raises PilotageError for what is no model: now, and not stages later."""
        from pilotage.backbones.load import load_shape
        from pilotage.runs.record import lasting_name
        from pilotage.train.distill_config import AdapterOff, FrozenCopy

        if name == ADAPTER_OFF:
            return AdapterOff()
        source = lasting_name(name)
        load_shape(source, dtype=recipe.dtype, from_config=self.dry_run)
        return FrozenCopy(source=source)

    def _names_ahead(self, recipe: Recipe, record: RunRecord | None) -> list[str]:
        """The stages that this command and, where none is named, those after it train."""
        if self.stage is not None:
            return [stage_named(recipe, self.stage, command_name(recipe)).stage]
        return [stage.stage for stage in stages_left(recipe, record, self.run_folder) or recipe.stages[-1:]]

    def _next(self, recipe: Recipe, record: RunRecord | None) -> Stage | None:
        """The stage to train; None where every one is finished and none is named."""
        if self.stage is not None:
            return with_steps(stage_named(recipe, self.stage, command_name(recipe)), self.steps)
        left = stages_left(recipe, record, self.run_folder)
        return with_steps(left[0], self.steps) if left else None

    def _next_command(self, recipe: Recipe, config: Stage | None) -> str:
        """What to type when the stage is finished: the recipe's next stage, on the same data, or its measurement."""
        if config is None or config.stage == recipe.stages[-1].stage:
            return f"pilotage eval {shlex.quote(str(self.run_folder))}"
        data = "" if self.data is None else f" --data {shlex.quote(str(self.data))}"
        return command_for(self.run_folder) + data

    # -- training -----------------------------------------------------------------------------------------------------

    def _train(self, recipe: Recipe, config: Stage, student: str) -> Path:
        """Trains one stage; the folder of its model."""
        from pilotage.runs.record import begin_stage
        from pilotage.train.sft import SftConfig

        run = self.run_folder
        if isinstance(config, SftConfig):
            require("trl", "datasets", "accelerate")  # imported late
        from pilotage.runs.runner import load_student, train_stage, validator

        examples: Sequence[Example] = self.load_examples(recipe, "train")
        unseen = self._unseen(recipe) if recipe.validate_every else ()
        backbone = load_student(recipe, config, student)

        def on_begin() -> None:
            # A command that was refused has not called it.
            begin_stage(recipe, config, student, run)

        with Bar(config.stage, unit="steps") as bar, recipe.sessions.opened() as open_session:
            validate = None
            if recipe.validate_every:
                validate = validator(recipe, config, unseen, run, open_session=open_session)
            return train_stage(
                config,
                backbone,
                examples,
                run,
                answers=recipe.engine,
                open_session=open_session,
                on_step=bar,
                on_begin=on_begin,
                validate=validate,
            )

    def _unseen(self, recipe: Recipe) -> list[Example]:
        """The examples that validation plays: of a data set, the first of each task, as many as the recipe says."""
        counts: Counter[str] = Counter()
        chosen = []
        for example in self.load_examples(recipe, "val"):
            counts[example.task] += 1
            if counts[example.task] <= recipe.num_val:
                chosen.append(example)
        return chosen

    def _train_all(self) -> int:
        """Every stage that is left, with the measurements."""
        from pilotage.cli.demo import LiveTable

        for option, given in (("--stage", self.stage), ("--from", self.start), ("--data", self.data)):
            if given is not None:
                raise PilotageError(
                    f"--all trains every stage as the recipe says: leave out {option} {given}"
                )
        from pilotage.runs import run_recipe

        recipe, record = self._recipe_in(self.run_folder)
        for stage in stages_left(recipe, record, self.run_folder):
            recipe = with_stage(recipe, with_steps(stage, self.steps))
        ahead = stages_left(recipe, record, self.run_folder)
        self._check_fits(recipe, record, ahead)
        self._check_room(recipe, record, ahead)
        with LiveTable([name for name, _ in recipe.levels]) as table:
            run_recipe(recipe, self.run_folder, table)
        print(f"page     {self.run_folder / 'report.html'}")
        print(f"numbers  {self.run_folder / 'summary.json'}")
        return 0

    def _dry_run(self) -> int:
        """Prints what the command would train. Raises PilotageError for what does not fit on the GPU that is named."""
        require("torch")  # what is imported first needs more, and would name that
        from pilotage.recipes import RECIPES
        from pilotage.train.disk import check_room, disk_line
        from pilotage.train.dry_run import dry_run
        from pilotage.train.step_time import H100_TFLOPS

        options, name = self, str(self.run_folder)
        if name in RECIPES and self.recipe is None and not self.run_folder.exists():
            options = replace(self, recipe=name)
        recipe, record = options._recipe_in(self.run_folder)
        config = options._next(recipe, record)
        if config is None:
            raise PilotageError(
                f"{self.run_folder} holds every stage of {command_name(recipe)}; name one with --stage"
            )
        stages = [config]
        if self.all:
            stages = [with_steps(stage, self.steps) for stage in stages_left(recipe, record, self.run_folder)]
        refused = []
        plans = options._plans(recipe, record, stages)
        for plan in plans:
            gpu_bytes = None if self.gpu_memory is None else int(self.gpu_memory * 2**30)
            print(dry_run(plan, gpu_bytes=gpu_bytes, tflops=self.gpu_tflops or H100_TFLOPS))
            try:
                if verdict := self._fits(plan):
                    print(f"\n{verdict}")
            except PilotageError as error:
                refused.append(str(error))
        disk = options._disk(recipe, plans)
        print(f"\n{disk_line(disk, self.run_folder)}")
        if self.gpu_memory is None:  # a GPU that is named is another machine's, as its disk is
            try:
                check_room(disk, self.run_folder, stages)
            except PilotageError as error:
                refused.append(str(error))
        if refused:
            raise PilotageError("; ".join(refused))
        return 0

    def _few(self, recipe: Recipe) -> Sequence[Example]:
        """Some examples of every level: the longest rows are what memory goes by."""
        few = replace(recipe, num_train=min(recipe.num_train, NUM_LOOKED_AT))
        return self.load_examples(few, "train")[: 8 * NUM_LOOKED_AT]

    def _plans(
        self,
        recipe: Recipe,
        record: RunRecord | None,
        stages: Sequence[Stage],
        examples: Sequence[Example] | None = None,
    ) -> list[Plan]:
        """What would be trained, in shapes alone; stages that are not begun have the base's."""
        from pilotage.backbones.load import load_shape
        from pilotage.train.fit import Plan

        examples = self._few(recipe) if examples is None else examples

        def shape(path: str) -> Backbone:
            return load_shape(path, dtype=recipe.dtype, from_config=True)

        return [
            Plan(
                config=stage,
                engine=recipe.engine,
                start=first_weights(recipe, record, self.run_folder, stage.stage, self.start, is_trial=True),
                load=shape,
                attention=recipe.attention,
                examples=examples,
            )
            for stage in stages
        ]

    def _fits(self, plan: Plan) -> str | None:
        """A line that says how a stage fits; None where no GPU is named. Raises PilotageError where it does not."""
        from pilotage.train.fit import check_fits

        return None if self.gpu_memory is None else check_fits(plan, self.gpu_memory)

    def _check_fits(self, recipe: Recipe, record: RunRecord | None, stages: Sequence[Stage]) -> None:
        """Prints how stages fit on the GPU that is named, before anything of them begins."""
        if self.gpu_memory is not None:
            for plan in self._plans(recipe, record, stages):
                print(self._fits(plan))

    def _disk(self, recipe: Recipe, plans: Sequence[Plan]) -> Disk:
        """What the stages leave on disk and, where all are trained, their measurements."""
        from pilotage.runs.measurement import measured_conditions
        from pilotage.train.disk import added, evaluation_disk

        parts = []
        num_rows = recipe.num_test * len(recipe.levels) * len(measured_conditions(recipe)) if self.all else 0
        measured = evaluation_disk(num_rows=num_rows, max_new_tokens=recipe.max_new_tokens)
        if recipe.measure_base:
            parts.append(measured)
        for plan in plans:
            parts += [plan.disk(), measured]
        return added(parts)

    def _check_room(self, recipe: Recipe, record: RunRecord | None, stages: Sequence[Stage]) -> None:
        """Raises PilotageError where the run's folder plainly has not the room for these stages."""
        from pilotage.train.disk import check_room

        check_room(self._disk(recipe, self._plans(recipe, record, stages, ())), self.run_folder, stages)


def _teachers(recipe: Recipe) -> list[object]:
    return [getattr(stage, "all_weights", ()) for stage in recipe.stages]


def _check_adapters(recipe: Recipe) -> None:
    """Raises PilotageError for a teacher that is the student without its adapter, where the stage trains none."""
    from pilotage.train.distill_config import AdapterOff

    for stage in recipe.stages:
        teachers = getattr(stage, "all_weights", ())
        if stage.lora is None and any(isinstance(weights, AdapterOff) for weights in teachers):
            raise PilotageError(
                f"{stage.stage} is taught by the student with its adapter off, and trains all weights: give --lora RANK"
            )
