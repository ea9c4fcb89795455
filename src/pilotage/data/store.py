"""Examples on disk: Parquet shards beside a manifest, and examples made on the spot.

A data set is a folder:

    manifest.json                      arguments, counts, and each shard's rows and hashes
    train/frozenlake-4-00000.parquet   likewise val/ and test/

`datasets.load_dataset("parquet", data_files=...)` or `load_dataset(folder)` reads the shards as well: `image`
is an `Image()` feature, `plan` a list of actions, `state` and `facts` are JSON texts.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pilotage import __version__
from pilotage.data.examples import SPLIT_SHARES
from pilotage.data.sampling import DIFFICULTIES, Candidate, check_request, sample
from pilotage.errors import PilotageError
from pilotage.files import write_whole
from pilotage.records import SPLITS, Example, Observation, Privileged, Split
from pilotage.worlds.grid import shorten
from pilotage.worlds.task import Sampled

MANIFEST = "manifest.json"
FORMAT = "pilotage-data"
FORMAT_VERSION = 1
BUILD_FOLDER = ".build"
"""Where a build keeps what it needs to go on after a kill; gone once the data set is complete."""

COLUMNS = ("id", "task", "level", "split", "difficulty", "state", "facts", "plan", "optimal_length", "image")


MAX_SHARD_ROWS = 1_000_000
MAX_SHARD_BYTES = 4 * 2**30
"""Of one shard, unpacked. Ours have thousands of rows."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of a data set, as the manifest tells of it."""

    file: str
    """Relative to the folder, with forward slashes."""
    task: str
    level: int
    split: Split
    num_rows: int
    num_bytes: int
    sha256: str
    """`content_hash` of its rows: it does not depend on how Parquet packed them."""
    difficulties: Mapping[str, int]
    """Difficulty -> number of rows."""

    def __post_init__(self) -> None:
        texts = (self.file, self.task, self.split, self.sha256)
        numbers = (self.level, self.num_rows, self.num_bytes)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"a shard of {texts}")
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise TypeError(f"a shard of {numbers}")
        if not isinstance(self.difficulties, dict) or self.split not in SPLITS:
            raise TypeError(f"a shard of {self.difficulties}, of split {self.split}")


def load_examples(path: Path | str, split: Split | None = None) -> list[Example]:
    """The examples of a data set, of all splits for None; tasks and levels come in turn.

    Raises PilotageError when the folder is no complete data set, when a shard is missing, damaged or not
    what the manifest says, and when a split is asked for that the data set does not have.
    """
    root = Path(path)
    groups: dict[tuple[str, int, str], list[Shard]] = {}
    for shard in read_manifest(root)["shards"]:
        groups.setdefault((shard.task, shard.level, shard.split), []).append(shard)
    held = {of_group for _, _, of_group in groups}
    if split is not None and split not in held:
        raise PilotageError(
            f"{root} has no split {split}; it has {_listed(held)}: ask for one of these, or build a data set that "
            "holds it"
        )
    chosen = [shards for (_, _, of_group), shards in groups.items() if split in (None, of_group)]
    return list(in_turn([_read_shards(root, shards) for shards in chosen]))


def sample_examples(
    task: Sampled[Any],
    levels: Sequence[int],
    count: int,
    split: Split,
    seed: int,
    *,
    cell_px: int | None = 32,
    side_px: int | None = None,
) -> list[Example]:
    """`count` examples in all, spread evenly over `levels` and given level by level in turn, without any file.

    They are the examples that a build with the same seed would hold.
    Raises ImpossibleRequestError when a level cannot give its share.
    """
    return list(sampled(task, levels, count, split, seed, cell_px=cell_px, side_px=side_px))


def sampled(
    task: Sampled[Any],
    levels: Sequence[int],
    count: int,
    split: Split,
    seed: int,
    *,
    cell_px: int | None = 32,
    side_px: int | None = None,
) -> Iterator[Example]:
    """The examples of `sample_examples`, each when it is drawn."""
    if not levels or len(set(levels)) != len(levels):
        raise PilotageError(
            f"{task.name}: levels {list(levels)} must name at least one level, and none twice"
        )
    if count < 0:
        raise PilotageError(f"{task.name}: {count} examples cannot be drawn: ask for 0 or more")
    for level in levels:
        check_request(task, level, -(-count // len(levels)), split, seed)
    shares = [len(range(i, count, len(levels))) for i in range(len(levels))]
    streams = [sample(task, level, share, split, seed) for level, share in zip(levels, shares, strict=True)]
    drawn: Iterator[Candidate] = in_turn(streams)
    for candidate in drawn:
        yield candidate.example(task, cell_px=cell_px, side_px=side_px)


def write_shard(path: Path, examples: Sequence[Example]) -> None:
    """Writes the rows so that `datasets` reads them, pictures and all."""
    write_parquet(path, COLUMNS, [_row(example) for example in examples])


def write_parquet(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of such columns with the features that `datasets` knows them by; `path` is whole or not there."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = {name: datasets.List(datasets.Value("string")) for name in ("plan", "options", "accepted")}
    numbers = {name: datasets.Value("int32") for name in ("level", "optimal_length")}
    known = lists | numbers | {"image": datasets.Image()}
    features = datasets.Features({name: known.get(name, datasets.Value("string")) for name in columns})
    table = pa.Table.from_pydict(
        {name: [row[name] for row in rows] for name in columns}, schema=features.arrow_schema
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # To memory first: on a full disk, what writes Parquet aborts the whole process (a check in C++).
    content = io.BytesIO()
    pq.write_table(table, content)
    write_whole(path, content.getvalue())


def save_shard(root: Path, file: str, examples: Sequence[Example]) -> Shard:
    """Writes the rows, all of one task, level and split, to `root / file`, and says what the manifest will say."""
    write_shard(root / file, examples)
    first = examples[0]
    return Shard(
        file=file,
        task=first.task,
        level=first.level,
        split=first.split,
        num_rows=len(examples),
        num_bytes=(root / file).stat().st_size,
        sha256=content_hash(examples),
        difficulties=dict(sorted(Counter(example.difficulty for example in examples).items())),
    )


def counts_of(shards: Iterable[Shard]) -> dict[str, Any]:
    """Task -> level -> split -> difficulty -> number of examples."""
    counts: dict[str, Any] = {}
    for shard in shards:
        level = counts.setdefault(shard.task, {}).setdefault(str(shard.level), {})
        tally = level.setdefault(shard.split, dict.fromkeys(DIFFICULTIES, 0))
        for difficulty, num_rows in shard.difficulties.items():
            tally[difficulty] += num_rows
    return counts


def manifest_of(arguments: Mapping[str, Any], shards: Sequence[Shard], **more: Any) -> dict[str, Any]:
    """What `manifest.json` says of these shards, and `more` beside it."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "pilotage": __version__,
        "arguments": dict(arguments),
        "split_shares": dict(SPLIT_SHARES),
        "num_examples": sum(shard.num_rows for shard in shards),
        "counts": counts_of(shards),
        **more,
        "sha256": joint_hash(shard.sha256 for shard in shards),
        "shards": [asdict(shard) for shard in shards],
    }


def joint_hash(hashes: Iterable[str]) -> str:
    """One SHA-256 of several."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def content_hash(examples: Iterable[Example]) -> str:
    """SHA-256 over every column of every row."""
    return rows_hash(map(_row, examples))


def rows_hash(rows: Iterable[dict[str, Any]]) -> str:
    """SHA-256 over rows that each have an `image`, by column."""
    digest = hashlib.sha256()
    for row in rows:
        image = row.pop("image")["bytes"]
        text = _TO_TEXT(row).encode()
        digest.update(b"%d %d\n" % (len(text), len(image)) + text + image)
    return digest.hexdigest()


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest, its shards as `Shard`s. Raises PilotageError that says what `root` is instead."""
    path = root / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise PilotageError(_why_no_manifest(root)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PilotageError(f"cannot read {path}: {error}") from error
    try:
        manifest = json.loads(text)
        if manifest["format"] != FORMAT or manifest["format_version"] != FORMAT_VERSION:
            raise PilotageError(
                f"{path} is not a manifest of this version of pilotage (format {FORMAT} {FORMAT_VERSION}): build "
                "the data set again"
            )
        if not isinstance(manifest["arguments"], dict):
            raise TypeError("its arguments are no object")
        manifest["shards"] = [Shard(**shard) for shard in manifest["shards"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, PilotageError):
            raise
        raise PilotageError(
            f"{path} is damaged or not a manifest of pilotage ({type(error).__name__}: {error}): build the data "
            "set again in another folder"
        ) from error
    return manifest


def read_shard(root: Path, shard: Shard) -> list[Example]:
    """The rows of one shard. Raises PilotageError when they are not what the manifest says."""
    remedy = "run the build again with the same arguments: it redoes this file only"
    path = shard_path(root, shard.file)
    if not path.exists():
        raise PilotageError(f"{path} is missing; {remedy}")
    if path.stat().st_size != shard.num_bytes:
        raise PilotageError(f"{path} has {path.stat().st_size} bytes instead of {shard.num_bytes}; {remedy}")
    examples = read_parquet(path, remedy, num_rows=shard.num_rows)
    if len(examples) != shard.num_rows or content_hash(examples) != shard.sha256:
        raise PilotageError(f"{path} does not hold what the manifest says (its hash differs); {remedy}")
    return examples


def shard_path(root: Path, file: str) -> Path:
    """Where a shard of a data set is. Raises PilotageError for a name that leads out of its folder, by a link too."""
    path = root / file
    if not path.resolve().is_relative_to(root.resolve()):
        raise PilotageError(
            f"{root / MANIFEST} names {shorten(file)}, which is not in the folder: it is damaged"
        )
    return path


def read_parquet(path: Path, remedy: str, *, num_rows: int | None = None) -> list[Example]:
    """The rows of one file of examples. Raises PilotageError that names what is wrong, then `remedy`."""
    return parquet_rows(path, COLUMNS, _example, remedy, num_rows=num_rows)


def parquet_rows(
    path: Path,
    columns: Sequence[str],
    make: Callable[[dict[str, Any]], Example],
    remedy: str,
    *,
    num_rows: int | None = None,
) -> list[Example]:
    """What `make` makes of these columns of a Parquet file, row by row.

    What the file says of its own size is compared with `num_rows` and with what memory may hold before a row is read: a
    small file can unfold to millions. Raises PilotageError, which ends with `remedy`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:  # a name may be no UTF-8
            parquet = pq.ParquetFile(file)
            missing = [name for name in columns if name not in parquet.schema_arrow.names]
            if missing:
                raise PilotageError(
                    f"{path} is not a file of examples: no column {_listed(missing)}; {remedy}"
                )
            metadata = parquet.metadata
            if num_rows is not None and metadata.num_rows != num_rows:
                raise PilotageError(f"{path} has {metadata.num_rows} rows instead of {num_rows}; {remedy}")
            num_bytes = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if metadata.num_rows > MAX_SHARD_ROWS or num_bytes > MAX_SHARD_BYTES:
                raise PilotageError(
                    f"{path} unfolds to {metadata.num_rows} rows of {num_bytes} bytes, more than a shard holds "
                    f"({MAX_SHARD_ROWS}, {MAX_SHARD_BYTES}); {remedy}"
                )
            rows = parquet.read(columns=list(columns)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise PilotageError(f"{path} cannot be read as Parquet ({error}); {remedy}") from error
    try:
        return [make(row) for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        message = " ".join(str(error).split())[:200]
        raise PilotageError(f"{path} holds a row that is no example ({message}); {remedy}") from error


_TO_TEXT = json.JSONEncoder(check_circular=False).encode


def _row(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "task": example.task,
        "level": example.level,
        "split": example.split,
        "difficulty": example.difficulty,
        "state": _TO_TEXT(example.state),
        "facts": _TO_TEXT(example.facts),
        "plan": list(example.plan),
        "optimal_length": example.optimal_length,
        "image": {"bytes": example.image, "path": None},
    }


def _example(row: dict[str, Any]) -> Example:
    image = row["image"]["bytes"]
    return Example(
        id=row["id"],
        world=row["task"],
        split=row["split"],
        axes={"level": row["level"], "difficulty": row["difficulty"]},
        start=Observation(
            images=(image,) if image else (),
            privileged=Privileged(
                state=json.loads(row["state"]), facts=json.loads(row["facts"]), plan=tuple(row["plan"])
            ),
        ),
    )


def _read_shards(root: Path, shards: Iterable[Shard]) -> Iterator[Example]:
    for shard in shards:
        yield from read_shard(root, shard)


def in_turn(streams: Iterable[Iterable[Any]]) -> Iterator[Any]:
    """One from each stream, again and again, until all have ended."""
    running = [iter(stream) for stream in streams]
    nothing = object()
    while running:
        still = []
        for stream in running:
            item = next(stream, nothing)
            if item is not nothing:
                yield item
                still.append(stream)
        running = still


def _why_no_manifest(root: Path) -> str:
    if not root.exists():
        return f"no data set at {root}; build one: pilotage data build --out {root}"
    if not root.is_dir():
        return f"{root} is a file; a data set is a folder with a {MANIFEST}"
    if (root / BUILD_FOLDER).exists():
        return f"{root} holds an unfinished build; run it again with the same arguments to finish it"
    return f"{root} is not a data set: it has no {MANIFEST}; build one: pilotage data build --out FOLDER"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, sorted(values)))
