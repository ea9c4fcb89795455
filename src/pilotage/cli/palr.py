"""`pilotage diagnose RUN palr`: how much of what a run's teachers teach comes from the answer they were shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pilotage.cli.choose import RecipeOptions, choose_model, use_threads
from pilotage.cli.evaluation_rows import keep
from pilotage.cli.options import Count, takes
from pilotage.cli.progress import Bar
from pilotage.cli.tables import make_table, say, table_console
from pilotage.errors import PilotageError

if TYPE_CHECKING:
    from pilotage.train.answer_leak import Leak
    from pilotage.train.distill_config import DistillConfig

PALR_FILE = "palr.json"


@dataclass(frozen=True, kw_only=True)
class PalrCommand(RecipeOptions):
    """How much of what a stage's teachers teach hangs on the answer that they were shown.

    The stage's model answers unseen pictures; its teachers read the answers as in training, then
    with wrong plans in place of the reference plan, with another example's picture, and without
    any plan.
    PALR is 0 where nothing taught hangs on the answer, 1 where all of it does; it says nothing for
    teachers who see no picture. The privilege gap is what the answer adds to a token's
    log-probability. Written to RUN/STAGE/palr.json.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run with a stage of distillation."""
    stage: Annotated[str | None, takes("NAME", "the run's last")] = None
    """Which one."""
    num: Count = 60
    """Pictures, of the split val: tasks take turns."""
    wrong_answers: int = 4
    """Wrong plans or answers for each, at most: K."""

    def run(self) -> int:
        from pilotage.runs.runner import load
        from pilotage.train.answer_leak import leak_of_trained

        stage, weights, recipe = choose_model(str(self.run_folder), self.stage, self)
        config, start = self._taught(stage)
        use_threads(recipe)
        examples = self.load_examples(replace(recipe, num_val=self.num), "val")
        with Bar("palr", unit="passes"):
            leak = leak_of_trained(
                config,
                start=load(recipe, start),
                trained=load(recipe, weights),
                examples=examples,
                num_examples=self.num,
                num_wrong=self.wrong_answers,
            )
        path = self.run_folder / stage / PALR_FILE
        print_leak(leak)
        keep(path, leak.as_dict())
        return 0

    def _taught(self, stage: str) -> tuple[DistillConfig, str]:
        """How a stage of the run was trained, and the weights that it began with."""
        from pilotage.runs.record import read_record
        from pilotage.train.distill_config import DistillConfig

        record = read_record(self.run_folder)
        configs = {} if record is None else {each.stage: each for each in record.recipe.stages}
        if record is None or stage not in configs:
            raise PilotageError(f"{self.run_folder} has no record of how the stage {stage!r} was trained")
        config = configs[stage]
        if not isinstance(config, DistillConfig):
            raise PilotageError(
                f"the stage {stage!r} of {self.run_folder} has no teacher: it is no distillation"
            )
        return config, record.first_weights(stage, self.run_folder)


def print_leak(leak: Leak) -> None:
    console = table_console()
    table = make_table("of the tokens that are taught", "group", "tokens", "PALR, per cent")
    for name, sums in leak.palr.groups.items():
        if sums.num_tokens:
            table.add_row(name, f"{sums.num_tokens:,}", f"{100 * sums.rate:.2f}")
    console.print(table)
    say(
        console,
        f"{leak.palr.num_valid} answers in the format, {leak.palr.num_invalid} not; "
        f"at most K = {leak.palr.num_wrong_answers} wrong answers",
    )
    for name, gap in leak.gap_nats.items():
        say(console, f"privilege gap, {name}: {gap:+.4f} nats a token")
