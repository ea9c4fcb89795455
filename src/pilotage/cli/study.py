"""`pilotage study`: variants side by side, with several seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pilotage.cli.options import Count
from pilotage.cli.progress import Bar
from pilotage.errors import PilotageError, meant

if TYPE_CHECKING:
    from pilotage.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Train every variant of a study, with several seeds, and print the tables.

    The model is nano where nothing else is said.

    mgsd: what each part of MGSD is worth. Base, stage 1 only, stage 2 only, both, both without the
    reference plan, both with the sampled estimator, stage 1 and then reference answers, and a control
    whose teacher sees no more than the student.

    methods: MGSD, ViGOS, OPSD, GKD, dense-feedback RL, GRPO, SFT and the control after one first
    stage, on larger levels. estimators: full vocabulary or sampled token, JSD or reverse KL, all rows
    the student's or half of them the data set's. Both share the first stage when OUT is the same
    folder. vigos: ViGOS without one of its parts, and prior: trained on levels that follow a prior
    alone; both after a first stage that also teaches to follow a plan beside a picture.

    episodes: whose episodes teach to play move by move. episodes_anywhere: the same from starts that
    cover what is visited, the null control. episodes_fog: the same where only near cells are drawn.
    drift: is a teacher carried off along the student's errors there? circles: what helps a model
    that goes in circles; in the same folder OUT it measures the models of episodes.

    questions: ViGOS where it was proposed, on questions with boxed answers. smolvl: a pretrained
    language model with new eyes in nano's place; `pilotage models make smolvl runs/smolvl-base`
    makes it. smolvl_questions: the same questions asked of what that leaves after stage 1.

    Killed and run again, it trains only what is missing. A seed that was added later is added.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
    """Which one."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder for the runs, for <STUDY>.md and for the page <STUDY>.html."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the training levels, their order and the rollouts."""
    jobs: Count = 2
    """Runs at a time."""
    threads: Count = 1
    """CPU threads of each run; nano is no faster with a second one, larger models are."""
    tables_only: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train nothing: the tables of what is there."""

    def run(self) -> int:
        from pilotage.studies.catalogue import STUDIES
        from pilotage.studies.runs import run_study, write_tables

        if self.name not in STUDIES:
            raise PilotageError(
                f"no study {self.name!r}; there are {', '.join(STUDIES)}{meant(self.name, STUDIES)}"
            )
        study = STUDIES[self.name]
        if self.tables_only:
            print(write_tables(study, self.out, self.seeds))
        else:
            with Bar("study", unit="runs") as bar:
                report = _show(bar, study, self.seeds)
                print(
                    run_study(
                        study, self.out, self.seeds, jobs=self.jobs, report=report, threads=self.threads
                    )
                )
        print(f"page {self.out / study.name}.html")
        return 0


def _show(bar: Bar, study: Study, seeds: Sequence[int]) -> Callable[[str], None]:
    """Prints what is reported when a run has ended, and moves the bar."""
    folders = {
        study.base_run_folder,
        *(variant.folder for variant in study.variants if variant.make is not None),
    }
    num_ended = 0

    def report(line: str) -> None:
        nonlocal num_ended
        num_ended += 1
        print(line, flush=True)
        bar(num_ended, len(folders) * len(seeds))

    return report
