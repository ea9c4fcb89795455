"""`pilotage report`: the page of a run, from its folder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the page of a run: one HTML file that needs no network.

    It shows the modality gap before and after each stage, the training curves, what was seen against
    what could be planned, and a gallery of levels with the plans drawn on them. A run that is still
    going on, or was killed, gets a page too; what its folder lacks is named there.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN/report.html)")
    ] = None
    """Where the page goes."""
    gallery_per_task: int = 12
    """Levels of each task in the gallery."""

    def run(self) -> int:
        from pilotage.report import write_report

        print(write_report(self.run_folder, out=self.out, gallery_per_task=self.gallery_per_task))
        return 0
