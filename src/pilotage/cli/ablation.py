"""`pilotage ablation`: what each part of the method is worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Train every variant of the method on the nano model, with several seeds, and print the table.

    Base, stage 1 only, stage 2 only, both, both without the reference plan, both with the sampled
    estimator, stage 1 and then reference answers, and a control whose teacher sees no more than the
    student. Killed and run again, it trains only what is missing.
    """

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder for the runs and for ablation.md."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the training levels, their order and the rollouts."""
    jobs: int = 2
    """Runs at a time, of one CPU thread each."""

    def run(self) -> int:
        from pilotage.recipes.ablation import run_ablation

        print(run_ablation(self.out, self.seeds, jobs=self.jobs, tell=print))
        return 0
