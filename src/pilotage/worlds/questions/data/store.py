"""Questions on disk: Parquet shards beside a manifest.

    manifest.json                   arguments, counts, and each shard's rows and hashes; written last
    train/questions-00000.parquet   likewise val/ and test/

`datasets.load_dataset(folder)` reads the shards as well: `image` is an `Image()` feature, `options` and `accepted` are
lists of texts, `state` is a JSON text or empty.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pilotage import __version__
from pilotage.data.store import MANIFEST, joint_hash, parquet_rows, rows_hash, shard_path, write_parquet
from pilotage.errors import PilotageError, require
from pilotage.files import locked, write_json, write_whole
from pilotage.records import SPLITS, Example, Split
from pilotage.worlds.questions.question import make_question, question_of

QUESTIONS_FORMAT = "pilotage-questions"
QUESTIONS_VERSION = 1
SHARD_ROWS = 2048
_BEGUN = ".questions"
"""Marks a folder whose writing was begun; gone once it is complete."""
_LOCK = ".questions.lock"
"""Held by whoever writes."""
COLUMNS = (
    "id",
    "task",
    "level",
    "split",
    "kind",
    "question",
    "options",
    "answer",
    "accepted",
    "solution",
    "state",
    "image",
)


@dataclass(frozen=True, kw_only=True)
class QuestionShard:
    """One Parquet file, as the manifest tells of it."""

    file: str
    """Relative to the folder, with forward slashes."""
    split: Split
    num_rows: int
    sha256: str
    """Over the content of its rows: it does not depend on how Parquet packed them."""


def write_questions(
    root: Path,
    questions: Iterable[Example],
    arguments: Mapping[str, Any],
    *,
    files: Callable[[], Mapping[str, str]] = dict,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the questions, shard by shard as they come, and returns the manifest.

    `arguments` are what the content follows from; a complete folder of the same arguments is left as it is. `files`
    gives texts to be written beside the manifest, and is asked when all questions are written. Whoever reads an
    unfinished folder is told so: the manifest comes last.
    Raises PilotageError for a folder that holds something else.
    """
    require("datasets")
    if (held := _held(root, arguments, overwrite=overwrite)) is not None:
        return held
    lock = root / _LOCK
    busy = f"another command is writing questions to {root}: wait for it, or give another folder"
    with locked(lock, busy=busy):
        try:
            # Whoever held the lock may have finished since.
            if (held := _held(root, arguments, overwrite=overwrite)) is not None:
                return held
            return _write_all(root, questions, arguments, files)
        finally:
            lock.unlink()


def _write_all(
    root: Path,
    questions: Iterable[Example],
    arguments: Mapping[str, Any],
    files: Callable[[], Mapping[str, str]],
) -> dict[str, Any]:
    (root / _BEGUN).touch()
    (root / MANIFEST).unlink(missing_ok=True)
    for split in SPLITS:
        shutil.rmtree(root / split, ignore_errors=True)
    shards = list(_write_shards(root, questions))
    counts = _counts(shards)
    manifest = {
        "format": QUESTIONS_FORMAT,
        "format_version": QUESTIONS_VERSION,
        "pilotage": __version__,
        "arguments": dict(arguments),
        "num_questions": sum(shard.num_rows for shard, _ in shards),
        "counts": counts,
        "sha256": joint_hash(shard.sha256 for shard, _ in shards),
        "shards": [asdict(shard) for shard, _ in shards],
    }
    for name, text in files().items():
        write_whole(root / name, text)
    write_json(root / MANIFEST, manifest)
    (root / _BEGUN).unlink()
    return manifest


def load_questions(
    path: Path | str,
    split: Split | None = None,
) -> list[Example]:
    """The questions of a folder in its order; None means all splits.

    Raises PilotageError when the folder is no complete set of questions, when a shard is missing, damaged or not what
    the manifest says, and for a split that the set does not have.
    """
    root = Path(path)
    manifest = read_questions_manifest(root)
    if split is not None and split not in {shard["split"] for shard in manifest["shards"]}:
        held = sorted({shard["split"] for shard in manifest["shards"]})
        raise PilotageError(f"{root} has no questions of split {split!r}; it has {', '.join(held)}")
    chosen = [shard for shard in manifest["shards"] if split in (None, shard["split"])]
    return [question for shard in chosen for question in _read_shard(root, shard)]


def read_questions_manifest(root: Path) -> dict[str, Any]:
    """Raises PilotageError that says what `root` is instead."""
    path = root / MANIFEST
    if (root / _BEGUN).exists():
        raise PilotageError(f"{root} holds an unfinished set of questions; run the same command again")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        right = (manifest["format"], manifest["format_version"]) == (QUESTIONS_FORMAT, QUESTIONS_VERSION)
        if right and all({"file", "split", "num_rows", "sha256"} <= set(s) for s in manifest["shards"]):
            assert isinstance(manifest["arguments"], dict) and isinstance(manifest["counts"], dict)
            return manifest
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        pass
    raise PilotageError(
        f"{root} is no set of questions of this version; make one: pilotage data questions --out FOLDER, or pilotage "
        "data import vqa FILE --out FOLDER"
    )


def questions_hash(questions: Iterable[Example]) -> str:
    """SHA-256 over every column of every row."""
    return rows_hash(map(_row, questions))


def _held(root: Path, arguments: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """The manifest of what need not be written again; None where all is to be written.

    Raises PilotageError where it holds something else.
    """
    if not root.exists():
        return None
    if not root.is_dir():
        raise PilotageError(f"{root} is a file; a set of questions is a folder")
    if (root / _BEGUN).exists() or all(path.name == _LOCK for path in root.iterdir()):
        return None
    held = read_questions_manifest(root)
    if held["arguments"] != arguments and not overwrite:
        raise PilotageError(
            f"{root} holds questions of other arguments: give another folder, the same arguments, or --overwrite"
        )
    return None if overwrite else held


def _write_shards(root: Path, questions: Iterable[Example]) -> Iterator[tuple[QuestionShard, Counter[str]]]:
    waiting: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    num_shards = dict.fromkeys(SPLITS, 0)

    def write(split: Split) -> tuple[QuestionShard, Counter[str]]:
        rows, waiting[split] = waiting[split], []
        file = f"{split}/questions-{num_shards[split]:05d}.parquet"
        num_shards[split] += 1
        write_parquet(root / file, COLUMNS, [_row(question) for question in rows])
        shard = QuestionShard(file=file, split=split, num_rows=len(rows), sha256=questions_hash(rows))
        return shard, Counter(question_of(question).kind for question in rows)

    for question in questions:
        waiting[question.split].append(question)
        if len(waiting[question.split]) == SHARD_ROWS:
            yield write(question.split)
    for split in SPLITS:
        if waiting[split]:
            yield write(split)


def _counts(shards: Iterable[tuple[QuestionShard, Counter[str]]]) -> dict[str, dict[str, int]]:
    """Split -> kind -> number of questions."""
    counts: dict[str, Counter[str]] = {}
    for shard, kinds in shards:
        counts.setdefault(shard.split, Counter()).update(kinds)
    return {split: dict(sorted(tally.items())) for split, tally in counts.items()}


def _read_shard(root: Path, shard: Mapping[str, Any]) -> list[Example]:
    remedy = "write the set again with --overwrite"
    path = shard_path(root, str(shard["file"]))
    questions = parquet_rows(path, COLUMNS, _question, remedy, num_rows=shard["num_rows"])
    if questions_hash(questions) != shard["sha256"]:
        raise PilotageError(f"{path} does not hold what the manifest says (its hash differs); {remedy}")
    return questions


def _row(question: Example) -> dict[str, Any]:
    content = question_of(question)
    return {
        "id": question.id,
        "task": question.task,
        "level": question.level,
        "split": question.split,
        "kind": content.kind,
        "question": content.text,
        "options": list(content.options),
        "answer": content.answer,
        "accepted": list(content.accepted),
        "solution": content.solution,
        "state": "" if not question.state else json.dumps(question.state),
        "image": {"bytes": question.image, "path": None},
    }


def _question(row: dict[str, Any]) -> Example:
    return make_question(
        **row
        | {
            "options": tuple(row["options"]),
            "accepted": tuple(row["accepted"]),
            "state": json.loads(row["state"]) if row["state"] else None,
            "image": row["image"]["bytes"],
        }
    )
