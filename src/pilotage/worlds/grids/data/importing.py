"""A published set becomes a data set: every level judged, nothing dropped without a line that says so.

The levels' split is `test`, whatever their hashes say: they are for measuring. A hash that belongs to our train
split means that a training set built without `--exclude` may hold the level; the report counts them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pilotage.data.examples import make_example, split_of
from pilotage.data.folder import open_folder
from pilotage.data.source import Level, Loader, Malformed, Note, Place, Source
from pilotage.data.store import Shard, content_hash, manifest_of, save_shard
from pilotage.errors import PilotageError, require
from pilotage.files import write_json, write_whole
from pilotage.records import SPLITS, Example, Split
from pilotage.worlds.capabilities import able, need
from pilotage.worlds.grids.data import PUBLISHED
from pilotage.worlds.grids.data.plain import level_row
from pilotage.worlds.judge import StateJudge
from pilotage.worlds.task import Generates, Plans, Solution, Solves, state_hash, worked_state

SPLIT: Split = "test"
REPORT = "import.json"
"""Beside the manifest: the report, whole."""
SHARD_ROWS = 4096
MAX_LEVELS = 100_000
"""Published sets have thousands. More are refused before they fill the memory."""

Progress = Callable[[int, int], None]
"""Called with the number of levels that are done and the number in all."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an import found. `num_read` is imported, repeated, unsolvable and malformed ones together."""

    loader: str
    sources: tuple[Source, ...]
    """The sets that the levels come from, as far as they are known."""
    num_read: int
    num_imported: int
    counts: Mapping[str, Mapping[str, int]]
    """Task -> level -> imported examples."""
    hash_splits: Mapping[str, int]
    """Split -> imported examples whose hash belongs to it: those of train may be in training sets of ours."""
    malformed: tuple[Note, ...]
    unsolvable: tuple[Note, ...]
    duplicates: tuple[Note, ...]
    duplicates_kept: bool
    plans: tuple[Note, ...]
    """Reference plans that are not shortest plans, and lengths that are not theirs; ours are used instead."""
    pictures: tuple[Note, ...]
    """The set's pictures that cannot be used; these levels are drawn instead."""
    remarks: tuple[str, ...]
    """What concerns no single level."""

    @property
    def is_clean(self) -> bool:
        """Every level was read, has the plan and the picture that came with it, and none is missing."""
        return not (self.malformed or self.unsolvable or self.plans or self.pictures)

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            **{f"num_{name}": len(getattr(self, name)) for name in LISTS},
            "sources": [source.as_dict() for source in self.sources],
        }


LISTS = ("duplicates", "unsolvable", "malformed", "plans", "pictures")
"""The report's lists of notes."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Levels that were read and checked; `origins` goes with `examples` one by one."""

    examples: tuple[Example, ...]
    origins: tuple[str, ...]
    """Name of the set that each example comes from, `""` where nobody said."""
    report: Report


@dataclass
class _Found:
    """What is gathered on the way."""

    notes: dict[str, list[Note]] = field(default_factory=lambda: {name: [] for name in LISTS})
    remarks: list[str] = field(default_factory=list)

    def note(self, kind: str, place: Place, text: str) -> None:
        self.notes[kind].append(Note(file=place.file, line=place.line, note=text))


def import_levels(
    loader: Loader,
    root: Path,
    *,
    cell_px: int = 32,
    side_px: int | None = None,
    redraw: bool = False,
    keep_duplicates: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Every level below `root` as an example, and the report.

    The picture is the set's own, unless it has none or `redraw` asks for ours at `cell_px` a cell or on a square of
    `side_px`. A repeated level is left out, or kept under an id of its own. Raises PilotageError when nothing at all
    can be imported, and for a world that knows no best plans (`Solves`).
    """
    if not root.exists():
        raise PilotageError(f"{root} does not exist")
    pieces: list[Level | Malformed] = []
    for piece in loader.read(root):
        if len(pieces) == MAX_LEVELS:
            raise PilotageError(f"{root} holds more than {MAX_LEVELS} levels: import it in parts")
        pieces.append(piece)
    found, examples, origins = _Found(), list[Example](), list[str]()
    first_seen: dict[str, Place] = {}
    repeats: Counter[str] = Counter()
    hash_splits: dict[str, int] = dict.fromkeys(SPLITS, 0)
    named: dict[str, Source | None] = {loader.source.name: loader.source} if loader.source else {}
    for number, piece in enumerate(pieces, start=1):
        if progress is not None:
            progress(number, len(pieces))
        if isinstance(piece, Malformed):
            found.note("malformed", piece.place, piece.problem)
            continue
        task = need(piece.task, Solves)
        solution = task.solve(piece.state)
        if solution is None:
            found.note("unsolvable", piece.place, "no plan reaches the goal")
            continue
        hash_ = state_hash(piece.task, piece.state)
        first = first_seen.setdefault(hash_, piece.place)
        if first is not piece.place:
            repeats[hash_] += 1
            found.note("duplicates", piece.place, f"the same level as {first}")
            if not keep_duplicates:
                continue
        origin = loader.source.name if loader.source else piece.source
        if origin:
            named.setdefault(origin, None)
        if piece.picture_problem:
            found.note("pictures", piece.place, piece.picture_problem)
        canvas: dict[str, int | None] = {"cell_px": cell_px, "side_px": side_px}
        if piece.picture is not None and not redraw:
            canvas = {"cell_px": None, "side_px": None}
        example = make_example(
            task,
            piece.state,
            SPLIT,
            solution=_checked(piece, solution, found),
            hash_=hash_,
            **canvas,
        )
        if piece.picture is not None and not redraw:
            example = replace(example, start=replace(example.start, images=(piece.picture,)))
        if repeats[hash_]:
            example = replace(example, id=f"{example.id}-{repeats[hash_] + 1}")
        if piece.state == _worked(piece.task):
            found.remarks.append(f"{piece.place} is the level that the prompts show as their worked example")
        examples.append(example)
        origins.append(origin)
        hash_splits[split_of(hash_)] += 1
    if not examples:
        raise PilotageError(_nothing(root, pieces, found))
    counts = _counts(examples)
    sources = tuple(_source(name, source) for name, source in named.items())
    if loader.source:
        found.remarks += _missing(loader.source, pieces)
    report = Report(
        loader=loader.name,
        sources=sources,
        num_read=len(pieces),
        num_imported=len(examples),
        counts=counts,
        hash_splits=hash_splits,
        duplicates_kept=keep_duplicates,
        remarks=tuple(found.remarks),
        **{kind: tuple(notes) for kind, notes in found.notes.items()},
    )
    return Imported(examples=tuple(examples), origins=tuple(origins), report=report)


def write_import(imported: Imported, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Writes the data set with the report beside its manifest, and returns the manifest."""
    require("datasets")
    groups: dict[tuple[str, int], list[Example]] = {}
    for example in imported.examples:
        groups.setdefault((example.task, example.level), []).append(example)
    pieces = {
        f"{SPLIT}/{task}-{level}-{i // SHARD_ROWS:05d}.parquet": examples[i : i + SHARD_ROWS]
        for (task, level), examples in sorted(groups.items())
        for i in range(0, len(examples), SHARD_ROWS)
    }
    report = imported.report.as_dict()
    arguments = {"import": imported.report.loader, "sha256": content_hash(imported.examples)}
    with open_folder(out, arguments, list(pieces), overwrite=overwrite) as folder:
        shards: list[Shard] = []
        for file, examples in pieces.items():
            if file not in folder.finished:
                folder.record(save_shard(out, file, examples))
            shards.append(folder.finished[file])
        write_json(out / REPORT, report)
        published = {name: value for name, value in report.items() if name not in LISTS}
        manifest = manifest_of(arguments, shards, published=published)
        folder.finish(manifest)
    return manifest


def write_rows(imported: Imported, path: Path) -> None:
    """Our own JSON lines of the examples, in their order: importing them gives the same examples again."""
    pairs = zip(imported.examples, imported.origins, strict=True)
    lines = (json.dumps(level_row(example, origin)) + "\n" for example, origin in pairs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(lines))


def _checked(level: Level, solution: Solution, found: _Found) -> Solution:
    """The set's plan if it is a shortest one, else ours; what is wrong with the set's is noted."""
    shortest = len(solution.plan)
    if level.claimed_length not in (None, shortest):
        found.note(
            "plans", level.place, f"the set says that {level.claimed_length} steps are needed; {shortest} are"
        )
    if level.plan_problem:
        found.note("plans", level.place, level.plan_problem)
    if level.plan is None:
        return solution
    outcome = StateJudge(level.task, level.state).judge_plan(level.plan, strict_edges=True)
    if outcome.is_("optimal") and outcome.measures["num_executed"] == len(level.plan):
        return replace(solution, plan=level.plan)
    if outcome.success:
        text = f"the reference plan takes {len(level.plan)} steps where {shortest} are enough"
    else:
        text = f"the reference plan fails at step {outcome.measures['num_executed']}: {outcome.reason}"
    found.note("plans", level.place, text)
    return solution


def _counts(examples: list[Example]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for (task, level), num in sorted(Counter((e.task, e.level) for e in examples).items()):
        counts.setdefault(task, {})[str(level)] = num
    return counts


def _missing(source: Source, pieces: list[Level | Malformed]) -> Iterator[str]:
    """Tasks of the release of which something, but not everything, was read; or too much."""
    read = Counter(piece.task.name for piece in pieces if isinstance(piece, Level))
    for task, num_levels in source.num_levels.items():
        if read[task] != num_levels:
            yield f"{task}: {read[task]} levels were read, the release has {num_levels}"


def _nothing(root: Path, pieces: list[Level | Malformed], found: _Found) -> str:
    notes = [note for notes in found.notes.values() for note in notes]
    first = f"; the first: {notes[0].place}: {notes[0].note}" if notes else ""
    return f"{root} holds no level that can be imported: {len(pieces)} were read, none is good{first}"


def _source(name: str, source: Source | None) -> Source:
    """A row of our own JSON may name a set whose licence and rules we know."""
    for loader in PUBLISHED:
        if loader.name == name and loader.source is not None:
            return loader.source
    return source or Source(name=name, title=name, url="", license="unknown", citation="", scorer=None)


@lru_cache(maxsize=16)
def _worked(task: Plans[Any]) -> Any:
    """The state of the prompts' worked example; None where there can be none."""
    generating = able(task, Generates)
    return None if generating is None else worked_state(generating)
