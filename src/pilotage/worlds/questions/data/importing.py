"""Visual questions of strangers: Parquet or JSON lines become a set of questions, nothing dropped without a line.

A row has `problem` (a text), `images` (one picture, or a list of one) and `answer` (a text or a number); where there
are any, `options` (2 to 26 texts; the answer is then the letter or the text of one) and `solution` (a text). A picture
is bytes, `{"bytes": …}`, a data URL, or a path inside the folder of its file; nothing is fetched. A row with several
pictures is refused: the views show one, and showing the first would change the question.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from pilotage.data.examples import split_of
from pilotage.data.json_lines import BadLineError, json_type, numbered_lines, parse_object
from pilotage.data.source import Note, Place, find_files
from pilotage.data.store import MANIFEST
from pilotage.errors import PilotageError
from pilotage.records import SPLITS, Example
from pilotage.worlds.boxes import boxed_answer
from pilotage.worlds.grid import shorten
from pilotage.worlds.questions.data.pictures import picture_bytes, to_png
from pilotage.worlds.questions.data.store import write_questions
from pilotage.worlds.questions.grading import (
    LETTERS,
    MAX_ANSWER_CHARACTERS,
    option_of,
    plain_text,
    without_preamble,
)
from pilotage.worlds.questions.question import make_question, question_of
from pilotage.worlds.thoughts import after_thoughts

REPORT = "import.json"
TASK = "vqa"
MAX_LINE_BYTES = 64 * 2**20
"""Pictures may stand in a line as text."""
MAX_QUESTION_CHARACTERS = 20_000
MAX_SOLUTION_CHARACTERS = 100_000
MAX_NOTES = 100_000
BATCH_ROWS = 32
SplitRule = Literal["hash", "train", "val", "test"]

PLACEHOLDER = "<image>"
"""Where the picture belongs, in the form that most sets use; the views show the picture before the question."""
_OTHER_PLACEHOLDER = re.compile(
    r"<[|/]?(?:start_of_|end_of_)?(?:image|img|picture|video|audio)[^<>]{0,20}>"
    r"|\[(?:image|img)[ _]?\d{0,2}\]|\{(?:image|img)[ _]?\d{0,2}\}",
    re.IGNORECASE,
)
_CHAT_TOKEN = re.compile(r"<\|[^|<>\s]{1,60}\|>")

Progress = Callable[[int, int], None]
"""Called with the bytes or rows that are done and their number in all."""


@dataclass(kw_only=True)
class VqaReport:
    """What an import found; `num_read` is imported, malformed and repeated rows together."""

    num_read: int = 0
    num_imported: int = 0
    num_with_options: int = 0
    num_with_solution: int = 0
    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    malformed: list[Note] = field(default_factory=list)
    duplicates: list[Note] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.malformed

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "num_malformed": len(self.malformed),
            "num_duplicates": len(self.duplicates),
        }


class BadRowError(PilotageError):
    """A row is no question; the message does not say where, which its reader knows."""


def import_vqa(
    path: Path,
    out: Path | None = None,
    *,
    split: SplitRule = "hash",
    max_side_px: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> VqaReport:
    """Reads every row below `path`, a file or a folder, writes the questions to `out`, and says what was found.

    By the split rule `hash` the picture's hash decides, so that no picture is in two splits. Raises PilotageError
    when there is nothing to import, or when `out` holds something else or is not to be overwritten.
    """
    if split not in get_args(SplitRule):
        raise PilotageError(f"split {split!r} must be one of {', '.join(get_args(SplitRule))}")
    if max_side_px is not None and max_side_px < 1:
        raise PilotageError(f"max_side_px {max_side_px} must be at least 1")
    if out is not None and (out / MANIFEST).exists() and not overwrite:
        raise PilotageError(f"{out} holds a data set: give a new folder, or --overwrite to replace an import")
    report = VqaReport()
    questions = _questions(path, report, split, max_side_px, progress)
    first = next(questions, None)
    if first is None:
        why = (
            f"; the first: {report.malformed[0].place}: {report.malformed[0].note}"
            if report.malformed
            else ""
        )
        raise PilotageError(
            f"{path} holds no question that can be imported: {report.num_read} were read{why}"
        )
    questions = chain([first], questions)
    if out is None:
        for _ in questions:
            pass
        return report
    arguments = {"import": TASK, "source": path.name, "split": split, "max_side_px": max_side_px}
    write_questions(
        out,
        questions,
        arguments,
        files=lambda: {REPORT: json.dumps(report.as_dict(), indent=1) + "\n"},
        overwrite=overwrite,
    )
    return report


def read_row(row: Mapping[str, Any], folder: Path, split: SplitRule, max_side_px: int | None) -> Example:
    """The question of one row. Raises PilotageError that says what is wrong with it, and nothing else."""
    problem = _text(row, "problem", MAX_QUESTION_CHARACTERS, num_pictures=1)
    problem = problem.replace(PLACEHOLDER, "").strip()
    if not problem:
        raise BadRowError("problem is empty")
    options = _options(row.get("options"))
    answer = read_answer(row.get("answer"), options)
    solution = "" if row.get("solution") is None else _text(row, "solution", MAX_SOLUTION_CHARACTERS).strip()
    # Last, because it costs most.
    picture = to_png(picture_bytes(_one_picture(row), folder), max_side_px)
    of_all = hashlib.sha256(
        json.dumps([picture.sha256, plain_text(problem), [plain_text(option) for option in options]]).encode()
    ).hexdigest()
    return make_question(
        id=f"{TASK}-{of_all[:16]}",
        task=TASK,
        level=0,
        split=split_of(picture.sha256) if split == "hash" else split,
        kind=TASK,
        question=problem,
        options=options,
        answer=answer,
        solution=solution,
        image=picture.png,
    )


def _questions(
    path: Path, report: VqaReport, split: SplitRule, max_side_px: int | None, progress: Progress | None
) -> Iterator[Example]:
    seen: dict[str, tuple[Note, str]] = {}
    for file, place, row in _rows(path, progress):
        report.num_read += 1
        note = Note(file=place.file, line=place.line, note="")
        try:
            if isinstance(row, str):
                raise BadRowError(row)
            question = read_row(row, file.parent, split, max_side_px)
        except PilotageError as error:
            _add(report.malformed, note, str(error))
            continue
        if question.id in seen:
            first, answer = seen[question.id]
            same = "" if answer == plain_text(question_of(question).answer) else ", with another answer"
            _add(report.duplicates, note, f"the same picture and question as {first.place}{same}")
            continue
        seen[question.id] = note, plain_text(question_of(question).answer)
        report.num_imported += 1
        report.num_with_options += bool(question_of(question).options)
        report.num_with_solution += bool(question_of(question).solution)
        report.splits[question.split] += 1
        yield question


def _add(notes: list[Note], at: Note, text: str) -> None:
    if len(notes) == MAX_NOTES:
        raise PilotageError(f"{at.place} is the {MAX_NOTES + 1}th row that is left out: this is no such file")
    notes.append(Note(file=at.file, line=at.line, note=text))


def _rows(root: Path, progress: Progress | None) -> Iterator[tuple[Path, Place, Mapping[str, Any] | str]]:
    """(file, place, row or what is wrong with it) of everything below `root`."""
    if not root.exists():
        raise PilotageError(f"{root} does not exist")
    files = [root] if root.is_file() else sorted([*find_files(root, ".jsonl"), *find_files(root, ".parquet")])
    wrong = [file for file in files if file.suffix.lower() not in (".jsonl", ".parquet")]
    if not files or wrong:
        raise PilotageError(f"{root} is no .jsonl or .parquet file, nor a folder that holds one")
    sizes = [file.stat().st_size for file in files]
    for number, file in enumerate(files):
        name = file.name if file == root else file.relative_to(root).as_posix()
        read = _jsonl_rows if file.suffix.lower() == ".jsonl" else _parquet_rows
        for line, share, row in read(file):
            yield file, Place(file=name, line=line), row
            if progress is not None:
                progress(int(sum(sizes[:number]) + share * sizes[number]), sum(sizes))


def _jsonl_rows(file: Path) -> Iterator[tuple[int | None, float, Mapping[str, Any] | str]]:
    size = max(file.stat().st_size, 1)
    try:
        with file.open("rb") as rows:
            for number, line in numbered_lines(rows, MAX_LINE_BYTES):
                share = min(rows.tell() / size, 1.0)
                try:
                    yield number, share, parse_object(line, MAX_LINE_BYTES)
                except BadLineError as error:
                    yield number, share, str(error)
    except OSError as error:
        yield None, 1.0, f"cannot be read: {error.strerror}"


def _parquet_rows(file: Path) -> Iterator[tuple[int | None, float, Mapping[str, Any] | str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = ("problem", "images", "image", "answer", "options", "solution")
    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            num_rows = max(parquet.metadata.num_rows, 1)
            columns = [name for name in wanted if name in parquet.schema_arrow.names]
            if "problem" not in columns:
                held = ", ".join(parquet.schema_arrow.names)
                yield None, 1.0, f"has no column problem; it has {shorten(held, 200)}"
                return
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, number / num_rows, row
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        problem = " ".join(str(error).split())[:200]
        yield (
            None,
            1.0,
            f"cannot be read as Parquet after row {number} ({problem}); what follows is not imported",
        )


def _text(row: Mapping[str, Any], name: str, max_characters: int, num_pictures: int = 0) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRowError(f"{name} is {_said(value)}, not a text")
    return _checked(name, value, max_characters, num_pictures)


def _checked(name: str, value: str, max_characters: int, num_pictures: int = 0) -> str:
    """The text, which may hold the placeholder of so many pictures, and nothing that a model would take for another."""
    if len(value) > max_characters:
        raise BadRowError(f"{name} has {len(value)} characters, more than {max_characters}")
    if token := _CHAT_TOKEN.search(value):
        raise BadRowError(f"{name} holds {token[0]}, which a tokenizer would take for a token of the chat")
    if value.count(PLACEHOLDER) > num_pictures:
        raise BadRowError(
            f"{name} has places for several pictures; a question has one"
            if num_pictures
            else f"{name} holds {PLACEHOLDER}: the place of a picture is in problem"
        )
    if other := _OTHER_PLACEHOLDER.search(value.replace(PLACEHOLDER, "")):
        raise BadRowError(
            f"{name} holds {shorten(other[0])}, which reads as the place of a picture; write {PLACEHOLDER} once, "
            "in problem, or nothing"
        )
    if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise BadRowError(f"{name} holds half of a character (a lone surrogate)")
    return value


def _options(value: Any) -> tuple[str, ...]:
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        raise BadRowError(f"options is {_said(value)}, not a list of 2 to {len(LETTERS)} texts")
    texts = [str(x) if isinstance(x, int | float) and not isinstance(x, bool) else x for x in value]
    if not all(isinstance(text, str) and plain_text(text[:MAX_ANSWER_CHARACTERS]) for text in texts):
        raise BadRowError(f"options is {_said(value)}, not a list of texts of which none is empty")
    texts = [_checked("an option", str(text).strip(), MAX_ANSWER_CHARACTERS) for text in texts]
    labels = [re.match(rf"\(?{x}[.):]\s*(?=\S)", text) for x, text in zip(LETTERS, texts, strict=False)]
    if all(labels):  # "A. Rome", "B. Paris": the views letter them again
        texts = [text[label.end() :] for label, text in zip(labels, texts, strict=True) if label]
    repeated = [text for text, num in Counter(map(plain_text, texts)).items() if num > 1]
    if repeated:
        raise BadRowError(f"two options are the same: {shorten(repeated[0])}")
    return tuple(texts)


_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_MARK = "####"
"""Stands before the answer in the solutions of GSM8K and its like."""


def _out_of_its_form(answer: str) -> str:
    """The reference alone, out of a worked solution that ends in it: behind a thought, in tags, marked, or boxed."""
    answer = after_thoughts(answer) or answer
    if (tagged := _TAGGED.findall(answer)) and tagged[-1].strip():
        answer = tagged[-1]
    answer = answer.rpartition(_MARK)[2]
    boxed = boxed_answer(answer)
    answer = (answer if boxed is None else boxed).strip()
    plain = plain_text(answer)
    return without_preamble(plain) if without_preamble(plain) != plain else answer


def read_answer(value: Any, options: tuple[str, ...]) -> str:
    """The reference answer in a row's field; with options, the letter of the one that it names. Raises BadRowError."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadRowError(f"answer is {_said(value)}, not a text or a number")
    answer = _checked("answer", value, MAX_ANSWER_CHARACTERS).strip()
    answer = _out_of_its_form(answer)
    if not plain_text(answer):
        raise BadRowError("answer is empty")
    if not options:
        return answer
    letter = option_of(answer, options)
    if letter is None:
        raise BadRowError(
            f"answer {shorten(answer)} names none of the {len(options)} options, or not one alone"
        )
    return letter


def _one_picture(row: Mapping[str, Any]) -> Any:
    value = row.get("images")
    value = row.get("image") if value is None else value
    if value is None:
        raise BadRowError("the row has no images")
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise BadRowError(f"the row has {len(value)} images; a question has one")
    return value[0]


def _said(value: Any) -> str:
    return json_type(value) if value is None or isinstance(value, list | dict) else shorten(value)
