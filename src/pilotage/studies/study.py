"""A study: variants of a run at the same budget, with several seeds, in one command and one table.

Variants of a seed branch off its base run, so that what they share is trained once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotage.report.study_page import StudyTable
from pilotage.runs.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    title: str
    folder: str
    stage: str
    """The stage whose evaluation is the row."""
    make: Callable[[int, Path], Recipe] | None
    """Recipe of a seed, given that seed's folder of the base run; None when it is part of the base run."""


Extra = Callable[[Recipe, Path], None]
"""A measurement of a finished run's last stage, besides the usual ones; it does nothing where its result is there."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which runs, and what is told of them."""

    name: str
    title: str
    base_run: Callable[[int], Recipe]
    """The run of a seed that variants branch off."""
    base_run_folder: str
    variants: tuple[Variant, ...]
    reference: str
    """Title of the variant that the others are compared with."""
    extras: tuple[Extra, ...] = ()
    tables: tuple[Callable[[Study, Path, Sequence[int]], StudyTable], ...] = ()
    """Further tables."""
    main_table: Callable[[Study, Path, Sequence[int]], StudyTable] | None = None
    """In place of success by task and condition, for a study of other worlds than the planning tasks."""

    base_made_by: str = ""
    """The command that makes the folder of the base run's backbone, where it is none that ships."""
    one_base_run: bool = False
    """Whether all seeds branch off one base run, that of the first seed: then it is trained once."""
    shared: tuple[Variant, ...] = ()
    """Runs that branch off the one base run before any variant does, trained once: teachers that variants name."""

    def variant(self, title: str) -> Variant:
        return next(variant for variant in self.variants if variant.title == title)

    def folder(self, out: Path, seed: int, folder: str) -> Path:
        """Where a part of a seed is, or one that all seeds share."""
        is_shared = self.one_base_run and folder in (
            self.base_run_folder,
            *(one.folder for one in self.shared),
        )
        return out / folder if is_shared else run_folder(out, seed, folder)


def run_folder(out: Path, seed: int, folder: str) -> Path:
    """`OUT/seedN/FOLDER`, where a seed's own run is."""
    return out / f"seed{seed}" / folder
