"""`build` writes a data set: the same arguments give the same content, whatever the number of workers.

Processes share two kinds of work: drawing numbered blocks of states, and rendering and writing shards. The
parent only reads the blocks in order and deals states out to shards, so nothing depends on who was faster,
and it holds a few shards' states however many examples are asked for (plus 8 bytes for each example of the
level in hand, to keep doubles out). A killed build keeps its finished shards; the same call goes on from there.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.data.examples import make_example
from pilotage.data.exclude import Exclusions, load_exclusions
from pilotage.data.folder import open_folder
from pilotage.data.sampling import BLOCK_DRAWS, Candidate, Turns, check_request, draw_block
from pilotage.data.store import Shard, manifest_of, read_manifest, save_shard
from pilotage.data.workers import Workers
from pilotage.errors import PilotageError, require
from pilotage.records import SPLITS, Split
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import planning_world, planning_worlds
from pilotage.worlds.task import Sampled

GENERATOR_VERSION = 1
"""Goes up whenever the same arguments would give other content than before."""

Progress = Callable[[int, int], None]
"""Called with the number of examples that are finished and the number in all."""


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """What states a set is made of, of levels or of questions, and where it is written."""

    out: Path
    """Folder of the set; new, empty, or one of the same arguments, which goes on."""
    tasks: tuple[str, ...] = tuple(task.name for task in planning_worlds() if able(task, Sampled))
    """Tasks, by name."""
    levels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Task and its levels, e.g. `frozenlake 3 4 5 maze 3 4`; a task left out has its own training levels."""
    num_train: int = 2000
    """Training examples: levels for each task and level, questions in all."""
    num_val: int = 200
    """Validation examples."""
    num_test: int = 200
    """Test examples."""
    seed: int = 0
    """Which ones are drawn. The split of a state never depends on it."""
    cell_px: int = 32
    """Pixels per cell of the pictures."""
    side_px: int | None = None
    """Draw every picture on a square of this side instead, e.g. 256, whatever the level."""
    exclude: tuple[Path, ...] = ()
    """States to keep out of every split: JSONL files of `{"task": ..., "state": {...}}`, folders of imports or of data
    sets, VSP or VisualPlanning as downloaded."""
    overwrite: bool = False
    """Replace a set of other arguments in the same folder."""

    def count(self, split: Split) -> int:
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}[split]

    def check_numbers(self, **least: int) -> None:
        """Raises PilotageError for a count that is none, or a field below what it must be at `least`."""
        for name, minimum in {"num_train": 0, "num_val": 0, "num_test": 0, "seed": 0, **least}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise PilotageError(f"{name} is {value!r}, not a whole number from {minimum} up")
        if not (self.num_train or self.num_val or self.num_test):
            raise PilotageError("num_train, num_val and num_test are all 0: there is nothing to build")

    def chosen(self) -> dict[str, list[int]]:
        """Task -> its levels, both in order. Raises PilotageError for arguments without sense, and for a size of
        picture that cannot be drawn, before any work starts."""
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise PilotageError(f"tasks {list(self.tasks)} must name at least one task, and none twice")
        if unused := set(self.levels) - set(self.tasks):
            raise PilotageError(f"levels are given for {sorted(unused)}, but tasks are {list(self.tasks)}")
        chosen = {}
        for name in sorted(self.tasks):
            task = planning_world(name, Sampled)
            chosen[task.name] = levels = sorted(self.levels.get(task.name, task.levels))
            if not levels or len(set(levels)) != len(levels):
                raise PilotageError(
                    f"{task.name}: levels {list(levels)} must name at least one level, and none twice"
                )
            for level in levels:
                state = task.generate(level, np.random.default_rng(0))
                make_example(task, state, cell_px=self.cell_px, side_px=self.side_px)
        return chosen


@dataclass(frozen=True, kw_only=True)
class BuildConfig(SetConfig):
    """What goes into a data set, and where it is written."""

    balance: bool = True
    """Give easy, medium and hard states in turn as long as a level has them."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that draw, render and write. No effect on the content."""
    shard_rows: int = 4096
    """Examples per Parquet file."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """All examples of one (task, level, split)."""

    task: Sampled[Any]
    level: int
    split: Split
    count: int
    shard_rows: int

    @property
    def files(self) -> list[str]:
        num_files = -(-self.count // self.shard_rows)
        return [f"{self.split}/{self.task.name}-{self.level}-{i:05d}.parquet" for i in range(num_files)]


def build(config: BuildConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Writes the data set, or what is missing of it, and returns its manifest (see `read_manifest`).

    Raises PilotageError before any work for arguments that cannot be met (ImpossibleRequestError names how many
    states exist), for a folder that holds something else, and, later, when a worker process dies.
    """
    require("datasets")
    parts = _parts(config)
    exclusions = load_exclusions(config.exclude)
    for part in parts:
        check_request(part.task, part.level, part.count, part.split, config.seed, exclusions.hashes)
    arguments = _arguments(config, parts, exclusions)
    files = [file for part in parts for file in part.files]
    with open_folder(config.out, arguments, files, overwrite=config.overwrite) as folder:
        num_total = sum(part.count for part in parts)
        num_done = sum(shard.num_rows for shard in folder.finished.values())
        report = progress or _silent
        report(num_done, num_total)

        def collect(shard: Shard) -> None:
            nonlocal num_done
            folder.record(shard)
            num_done += shard.num_rows
            report(num_done, num_total)

        if not folder.complete:
            _write_missing(config, parts, exclusions, frozenset(folder.finished), collect)
            folder.finish(_manifest(arguments, exclusions, [folder.finished[file] for file in files]))
    return read_manifest(config.out)


def _write_missing(
    config: BuildConfig,
    parts: Sequence[Part],
    exclusions: Exclusions,
    finished: frozenset[str],
    collect: Callable[[Shard], None],
) -> None:
    missing = [part for part in parts if not finished.issuperset(part.files)]
    if not missing:
        return
    try:
        with Workers(config.workers, collect) as workers:
            for _, level_parts in groupby(missing, key=lambda part: (part.task.name, part.level)):
                for part, file, candidates in _deal(list(level_parts), config, exclusions, workers):
                    if file not in finished:
                        picture = (config.cell_px, config.side_px)
                        workers.hand_out(_render, config.out, file, part, candidates, *picture)
    except BrokenProcessPool as error:
        raise PilotageError(
            "a worker process died (killed, or out of memory); finished shards are kept: run the same build "
            f"again, perhaps with fewer workers than {config.workers}"
        ) from error


def _deal(
    parts: Sequence[Part], config: BuildConfig, exclusions: Exclusions, workers: Workers[Shard]
) -> Iterator[tuple[Part, str, list[Candidate]]]:
    """The shards of one (task, level) with their states, one after the other as the stream fills them."""
    seed, num_workers = config.seed, workers.num_workers
    task, level = parts[0].task, parts[0].level
    by_split: dict[Split, Part] = {part.split: part for part in parts}
    turns: dict[Split, Turns] = {
        part.split: Turns(
            task, level, part.count, part.split, seed, exclude=exclusions.hashes, balance=config.balance
        )
        for part in parts
    }
    files = {part.split: iter(part.files) for part in parts}
    given: dict[Split, list[Candidate]] = {part.split: [] for part in parts}
    # Alone, there is no "meanwhile": draw one by one, and no more than needed.
    draw = draw_block if num_workers == 1 else _draw
    ahead: deque[Future[Iterable[tuple[int, Candidate]]]] = deque()
    num_read = num_asked = 0
    while wanted := frozenset(split for split in turns if not turns[split].done):
        # Few blocks ahead at first: a small request needs only one.
        while len(ahead) < (1 if num_workers == 1 else min(num_read + 1, 2 * num_workers)):
            ahead.append(workers.submit(draw, task, level, seed, num_asked, wanted))
            num_asked += 1
        for position, candidate in workers.result(ahead.popleft()):
            split = candidate.split
            if not turns[split].done:
                turns[split].offer(position, candidate)
                given[split].extend(turns[split].take(position))
            elif all(turn.done for turn in turns.values()):
                break
        num_read += 1
        for part in parts:
            given[part.split].extend(turns[part.split].take(num_read * BLOCK_DRAWS))
        for split, part in by_split.items():
            while len(given[split]) >= part.shard_rows or (given[split] and turns[split].done):
                rows, given[split] = given[split][: part.shard_rows], given[split][part.shard_rows :]
                yield part, next(files[split]), rows
    for future in ahead:
        future.cancel()


def _draw(
    task: Sampled[Any], level: int, seed: int, block: int, wanted: frozenset[Split]
) -> list[tuple[int, Candidate]]:
    return list(draw_block(task, level, seed, block, wanted))


def _render(
    root: Path, file: str, part: Part, candidates: Sequence[Candidate], cell_px: int, side_px: int | None
) -> Shard:
    """Writes one shard. The work of a process of its own, so its arguments and its result are plain data."""
    examples = [candidate.example(part.task, cell_px=cell_px, side_px=side_px) for candidate in candidates]
    return save_shard(root, file, examples)


def _parts(config: BuildConfig) -> list[Part]:
    """What is to be written, in the order of the manifest. Raises PilotageError for arguments without sense."""
    config.check_numbers(workers=1, shard_rows=1)
    return [
        Part(
            task=planning_world(name, Sampled),
            level=level,
            split=split,
            count=config.count(split),
            shard_rows=config.shard_rows,
        )
        for name, levels in config.chosen().items()
        for level in levels
        for split in SPLITS
        if config.count(split)
    ]


def _arguments(config: BuildConfig, parts: Sequence[Part], exclusions: Exclusions) -> dict[str, Any]:
    """Everything that the content follows from, and nothing else."""
    return {
        "generator_version": GENERATOR_VERSION,
        "levels": {part.task.name: sorted({p.level for p in parts if p.task is part.task}) for part in parts},
        "num_train": config.num_train,
        "num_val": config.num_val,
        "num_test": config.num_test,
        "seed": config.seed,
        "cell_px": None if config.side_px is not None else config.cell_px,
        "side_px": config.side_px,
        "balance": config.balance,
        "excluded_sha256": exclusions.digest,
        "shard_rows": config.shard_rows,
    }


def _manifest(
    arguments: Mapping[str, Any], exclusions: Exclusions, shards: Sequence[Shard]
) -> dict[str, Any]:
    excluded: dict[str, dict[str, int]] = {}
    for task, level, num_states in exclusions.counts:
        excluded.setdefault(task, {})[str(level)] = num_states
    return manifest_of(
        arguments,
        shards,
        excluded={
            "num_states": len(exclusions.hashes),
            "counts": excluded,
            "files": [asdict(file) for file in exclusions.files],
        },
    )


def _silent(num_done: int, num_total: int) -> None:
    pass
