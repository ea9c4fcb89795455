"""What a published set says of itself, what a loader finds in it, and how files of strangers are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pilotage.data.json_lines import BadLineError, numbered_lines, parse_object
from pilotage.errors import PilotageError
from pilotage.pictures import BadPictureError, opened
from pilotage.worlds.drawing import MAX_SIDE_PX
from pilotage.worlds.task import Plans

MAX_TEXT_BYTES = 64 * 2**10
"""A map of 64x64 cells, told in words, fits."""
MAX_PICTURE_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """How the set's own scorer judges, in our terms: with these, our figures stand beside published ones."""

    strict_edges: bool
    """A step off the FrozenLake board fails; without it the move is wasted."""
    accuracy: Literal["success", "optimal"]
    """Which of our rates its accuracy is."""
    note: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A published set."""

    name: str
    title: str
    url: str
    license: str
    citation: str
    scorer: Scorer | None
    """None where the set is not one that we know."""
    num_levels: Mapping[str, int] = field(default_factory=dict)
    """Task -> levels in the release that this loader was written for."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where something stands."""

    file: str
    """Relative to the root, with forward slashes."""
    line: int | None = None
    """1-based; None for a file as a whole."""

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file} line {self.line}"


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something about one level or question that whoever measures on the set should know."""

    file: str
    line: int | None
    """As of a `Place`; of a Parquet file the row."""
    note: str

    @property
    def place(self) -> str:
        return str(Place(file=self.file, line=self.line))


@dataclass(frozen=True, kw_only=True)
class Level:
    """A state that was read, with what came along."""

    place: Place
    task: Plans[Any]
    state: Any
    plan: tuple[str, ...] | None = None
    """The set's reference plan; None where it has none."""
    plan_problem: str = ""
    """Why the set's reference plan cannot even be read as one."""
    claimed_length: int | None = None
    """Length of a shortest plan according to the set; None where it does not say."""
    picture: bytes | None = None
    """PNG bytes; None where the set has none."""
    picture_problem: str = ""
    """Why the set's picture cannot be used."""
    source: str = ""
    """The set that a row of our own JSON came from."""


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """Something that stands where a level should, and is none."""

    place: Place
    problem: str


class Loader(Protocol):
    """Reads one kind of published set."""

    @property
    def name(self) -> str:
        """As the command line and the manifest name it."""
        ...

    @property
    def source(self) -> Source | None:
        """None for plain files, which come from anywhere."""
        ...

    def finds(self, root: Path) -> bool:
        """The set's files are there."""
        ...

    def read(self, root: Path) -> Iterator[Level | Malformed]:
        """Everything that is there, in a fixed order. Raises PilotageError only when the set itself is not."""
        ...


class BadLevelError(PilotageError):
    """A level is malformed. Carries the place where the trouble is, if that is not the level's own."""

    def __init__(self, problem: str, place: Place | None = None) -> None:
        super().__init__(problem)
        self.place = place


def list_folder(folder: Path) -> list[Path]:
    """What is in the folder, sorted; nothing where it is none."""
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise PilotageError(f"cannot read the folder {folder}: {error.strerror}") from None


def find_files(root: Path, suffix: str) -> list[Path]:
    """Every file below `root` that ends so, sorted by path, links to folders not followed; `root` if it is a file."""
    if root.is_file():
        return [root]
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(root, onerror=_raise)  # left alone, it skips what it may not read
        for name in names
        if name.endswith(suffix)
    ]
    return sorted(path for path in found if path.is_file())


def _raise(error: OSError) -> None:
    raise error


def read_lines(path: Path, root: Path) -> Iterator[tuple[Place, dict[str, Any] | Malformed]]:
    """The JSON objects of a file of lines, each with its place; a line that holds none is malformed."""
    name = path.name if path == root else path.relative_to(root).as_posix()
    try:
        with path.open("rb") as rows:
            for number, line in numbered_lines(rows):
                place = Place(file=name, line=number)
                try:
                    yield place, parse_object(line)
                except BadLineError as error:
                    yield place, Malformed(place=place, problem=str(error))
    except OSError as error:
        place = Place(file=name)
        yield place, Malformed(place=place, problem=f"cannot be read: {error.strerror}")


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The file's content. Raises BadLevelError for what is no file, cannot be read or is longer."""
    if not path.is_file():
        raise BadLevelError("the file is missing" if not path.exists() else "this is no file")
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise BadLevelError(f"cannot be read: {error.strerror}") from None
    if len(content) > max_bytes:
        raise BadLevelError(f"longer than {max_bytes} bytes, which no level is")
    return content


def read_text(path: Path) -> str:
    """The same, as UTF-8 text with any line ends."""
    try:
        return read_bytes(path, MAX_TEXT_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadLevelError(f"not UTF-8: {error.reason} at byte {error.start}") from None


def picture_problem(png: bytes, side_px: int | None = None) -> str:
    """Why these bytes are no PNG picture of this side (any reasonable one where None), or `""`."""
    try:
        with opened(png, ("PNG",)) as image:
            width, height = image.size
    except BadPictureError as error:
        return f"not a PNG picture ({error})"
    if side_px is not None and (width, height) != (side_px, side_px):
        return f"{width}x{height} px instead of {side_px}x{side_px}"
    if width != height or width > MAX_SIDE_PX:
        return f"{width}x{height} px: not a square of at most {MAX_SIDE_PX} px a side"
    return ""
