"""`pilotage report`: the page of a run or of several side by side, from their folders alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pilotage.cli.options import AtLeast, takes
from pilotage.errors import PilotageError

_OUT = takes("FILE", "RUN/report.html; needed for several runs")
_STAGE = takes("NAME", "all of one run, the last of each of several")
_LEVELS = takes("N", "all")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the page of a run, or of several side by side: one HTML file that needs no network.

    It shows the modality gap, the paired differences, the training curves, what was seen against what
    could be planned, and every level with the plans drawn on it, step by step. A run that is still
    going on, or was killed, gets a page too; what its folder lacks is named there.
    """

    run_folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of the runs."""
    out: Annotated[Path | None, _OUT] = None
    """Where the page goes."""
    stage: Annotated[str | None, _STAGE] = None
    """The stage to show, or all."""
    tables: Annotated[Path | None, takes("DIR", "none")] = None
    """Write the numbers there, too, as CSV, Markdown and LaTeX."""
    max_levels: Annotated[int | None, _LEVELS, AtLeast(1)] = None
    """Levels of each task in the gallery."""

    def run(self) -> int:
        if not self.run_folders:
            raise PilotageError("name the folder of a run: pilotage report RUN")
        from pilotage.report import write_report, write_tables

        if self.tables is not None:
            for path in write_tables(self.run_folders, self.tables, stage=self.stage)[0]:
                print(path)
            if len(self.run_folders) > 1 and self.out is None:
                return 0
        print(write_report(*self.run_folders, out=self.out, stage=self.stage, max_levels=self.max_levels))
        return 0
