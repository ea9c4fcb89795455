"""`pilotage data …`: data sets on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pilotage.cli.options import takes
from pilotage.cli.progress import Bar
from pilotage.data.build import BuildConfig, build
from pilotage.data.source import Note
from pilotage.errors import PilotageError
from pilotage.worlds.grids.data import PUBLISHED, Json, Loader, Text
from pilotage.worlds.grids.data.importing import (
    LISTS,
    REPORT,
    Report,
    import_levels,
    write_import,
    write_rows,
)
from pilotage.worlds.questions.data.build import QuestionsConfig, build_questions
from pilotage.worlds.questions.data.importing import REPORT as VQA_REPORT
from pilotage.worlds.questions.data.importing import SplitRule, import_vqa
from pilotage.worlds.registry import planning_world
from pilotage.worlds.task import Plans

NUM_SHOWN = 10
"""Notes of each kind that are printed; the report file has them all."""
MAX_NOTE_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Build(BuildConfig):
    """Write a data set: levels of every task with their pictures, states, facts and plans.

    The same arguments give the same content, whatever the number of workers. A state belongs to
    train, val or test by its own hash, so that no two data sets ever disagree. Killed and run again
    with the same arguments, the build goes on where it was.
    """

    def run(self) -> int:
        with Bar("data build", unit="levels") as bar:
            manifest = build(self, bar)
        for task, levels in manifest["counts"].items():
            for level, splits in levels.items():
                counts = ", ".join(f"{split} {sum(tally.values())}" for split, tally in splits.items())
                print(f"{task:<14} level {level:>2}: {counts}")
        print(f"{self.out} holds {manifest['num_examples']} examples, sha256 {manifest['sha256'][:16]}…")
        return 0


@dataclass(frozen=True, kw_only=True)
class Import:
    """Read published levels, judge every one, and write them as a data set for `pilotage eval --data`.

    vsp             maps of a clone of UCSB-NLP-Chang/Visual-Spatial-Planning, with their pictures
    visualplanning  test levels of a clone of yix8/VisualPlanning; we draw them
    json            our own lines: {"task": ..., "state": {...}, "plan": [...]}
    text            maps of characters, in folders named after their tasks
    vqa             questions about any pictures: see pilotage data import vqa --help

    Every level is counted: imported, repeated, unsolvable or malformed, all with file and line. A
    reference plan that is no shortest plan is listed, and ours is used. The examples' split is test.
    The exit status is 1 if anything is malformed, unsolvable, or came with a wrong plan or picture.
    """

    source: Annotated[Literal["vsp", "visualplanning", "json", "text"], tyro.conf.Positional]
    """What is read."""
    root: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The set as it was downloaded, or one file of it."""
    out: Annotated[Path | None, takes("DIR", "only the report")] = None
    """Folder of the data set; import.json in it is the whole report."""
    json: Annotated[Path | None, takes("FILE", "none")] = None
    """Also write the levels as our own JSON lines."""
    task: Annotated[str | None, takes("TASK", "the folder's name")] = None
    """Task of the maps, for text."""
    redraw: tyro.conf.FlagCreatePairsOff[bool] = False
    """Our pictures in place of the set's own: for models that know ours only, such as nano."""
    cell_px: int = 32
    """Pixels per cell of the pictures that we draw."""
    side_px: Annotated[int | None, takes("N", "by cell")] = None
    """Draw every picture on a square of this side instead."""
    keep_duplicates: tyro.conf.FlagCreatePairsOff[bool] = False
    """Keep repeated levels, under ids of their own, so that rates are over as many levels as the set's."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace another import or data set in the same folder."""

    def run(self) -> int:
        loader = self._loader()
        with Bar("data import", unit="levels") as bar:
            imported = import_levels(
                loader,
                self.root,
                cell_px=self.cell_px,
                side_px=self.side_px,
                redraw=self.redraw,
                keep_duplicates=self.keep_duplicates,
                progress=bar,
            )
        _print_report(imported.report)
        if self.json is not None:
            write_rows(imported, self.json)
            print(f"{self.json} holds {len(imported.examples)} levels as JSON lines")
        if self.out is not None:
            manifest = write_import(imported, self.out, overwrite=self.overwrite)
            print(f"{self.out} holds {manifest['num_examples']} examples, sha256 {manifest['sha256'][:16]}…")
            print(self.out / REPORT)
        return 0 if imported.report.is_clean else 1

    def _loader(self) -> Loader:
        if self.task is not None and self.source != "text":
            raise PilotageError(
                f"--task {self.task} is for text; {self.source} says itself what its levels are of"
            )
        task = planning_world(self.task, Plans) if self.task is not None else None
        loaders: Sequence[Loader] = (*PUBLISHED, Json(), Text(task))
        return next(loader for loader in loaders if loader.name == self.source)


def _print_report(report: Report) -> None:
    for source in report.sources:
        print(f"{source.title} ({source.name}), licence {source.license}, {source.url or 'no address known'}")
        if source.citation:
            print(f"  cite: {source.citation}")
        if source.scorer is not None:
            edges = "a failure" if source.scorer.strict_edges else "wasted"
            print(f"  scorer: a step off the board is {edges}; its accuracy is our {source.scorer.accuracy}")
            print(f"  {source.scorer.note}")
    kept = "kept" if report.duplicates_kept else "left out"
    print(
        f"read {report.num_read}: imported {report.num_imported}, duplicates {len(report.duplicates)} ({kept}), "
        f"unsolvable {len(report.unsolvable)}, malformed {len(report.malformed)}"
    )
    for task, levels in report.counts.items():
        print(
            f"{task:<14} {sum(levels.values()):>5}: " + ", ".join(f"level {k} {n}" for k, n in levels.items())
        )
    shares = ", ".join(f"{split} {num}" for split, num in report.hash_splits.items())
    print(f"by hash our own splits would hold them so: {shares}; build training sets with --exclude")
    for kind in LISTS:
        print_notes(kind, getattr(report, kind))
    for remark in report.remarks:
        print(remark)


@dataclass(frozen=True, kw_only=True)
class ImportVqa:
    """Read questions about pictures from Parquet or JSON lines, and write them as a set of questions.

    A row has problem, images (one picture: bytes, a data URL, or a path inside the file's folder)
    and answer; options (texts; the answer is a letter or one of them) and solution where there are
    any. Nothing is fetched, and a row with several pictures is refused. Every row is counted:
    imported, repeated or malformed, with file and line. The exit status is 1 if any is malformed.
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A .jsonl or .parquet file, or a folder of such files."""
    out: Annotated[Path | None, takes("DIR", "only the report")] = None
    """Folder of the questions; import.json in it is the whole report."""
    split: SplitRule = "hash"
    """Where they go: 80/10/10 by the picture's hash, or all into one."""
    max_side_px: Annotated[int | None, takes("N", "as is")] = None
    """Shrink pictures with a longer side."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace other questions in the same folder."""

    def run(self) -> int:
        with Bar("data import vqa", unit="bytes") as bar:
            report = import_vqa(
                self.path,
                self.out,
                split=self.split,
                max_side_px=self.max_side_px,
                overwrite=self.overwrite,
                progress=bar,
            )
        print(
            f"read {report.num_read}: imported {report.num_imported}, duplicates {len(report.duplicates)} (left out), "
            f"malformed {len(report.malformed)}"
        )
        shares = ", ".join(f"{split} {num}" for split, num in report.splits.items())
        print(f"{shares}; with options {report.num_with_options}, with solution {report.num_with_solution}")
        print_notes("duplicates", report.duplicates)
        print_notes("malformed", report.malformed)
        if self.out is not None:
            print(
                f"{self.out} holds {report.num_imported} questions; {self.out / VQA_REPORT} tells of every row"
            )
        return 0 if report.is_clean else 1


@dataclass(frozen=True, kw_only=True)
class Questions(QuestionsConfig):
    """Write questions about states of our tasks, with their pictures and exact answers.

    The same arguments give the same questions. A state belongs to train, val or test by its own
    hash, as in data sets of levels. Plans that fail and plans that do not come in turn. Killed, the
    same command writes them again.
    """

    def run(self) -> int:
        with Bar("data questions", unit="questions") as bar:
            manifest = build_questions(self, bar)
        for split, kinds in manifest["counts"].items():
            print(f"{split:<5} " + ", ".join(f"{kind} {num}" for kind, num in kinds.items()))
        print(f"{self.out} holds {manifest['num_questions']} questions, sha256 {manifest['sha256'][:16]}…")
        return 0


def print_notes(kind: str, notes: Sequence[Note]) -> None:
    """The first of the notes, a line each."""
    for note in notes[:NUM_SHOWN]:
        text = " ".join(f"{kind}: {note.place}: {note.note}".split())
        # What strangers wrote may hold anything: a terminal is shown printable characters only.
        text = "".join(x if x.isprintable() else "\N{REPLACEMENT CHARACTER}" for x in text)
        print(text if len(text) <= MAX_NOTE_CHARACTERS else text[: MAX_NOTE_CHARACTERS - 1] + "…")
    if len(notes) > NUM_SHOWN:
        print(f"{kind}: and {len(notes) - NUM_SHOWN} more, all in {REPORT} of --out")
