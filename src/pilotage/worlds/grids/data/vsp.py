"""VSP's FrozenLake maps (UCSB-NLP-Chang/Visual-Spatial-Planning).

    VSP-main/maze/task-main/maps/level{3..8}/{table,pure_text,img}/{0..99}.{txt,png}

A map is told three times: as a table (`| Row 2 | _ | # | * |`), in words (`The goal is at: Row 2, Column 3.`; rows
and columns from 1) and as a picture of 64 px per cell. The words say what stands where; the table's marks are
read off them, and a table that does not bear them out makes the map malformed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pilotage.data.source import (
    MAX_PICTURE_BYTES,
    BadLevelError,
    Level,
    Malformed,
    Place,
    Scorer,
    Source,
    list_folder,
    picture_problem,
    read_bytes,
    read_text,
)
from pilotage.errors import PilotageError
from pilotage.worlds import get_task
from pilotage.worlds.grid import Cell, check_level, shorten

CELL_PX = 64
MAPS = Path("VSP-main", "maze", "task-main", "maps")
FORMS = {"table": ".txt", "pure_text": ".txt", "img": ".png"}

_LEVEL = re.compile(r"level([1-9][0-9]{0,2})")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")
_SIZE = re.compile(r"This is an? ([0-9]{1,4})x([0-9]{1,4}) map\.?", re.IGNORECASE)
_PLAYER = re.compile(r"The player is at: (.*)", re.IGNORECASE)
_GOAL = re.compile(r"The goal is at: (.*)", re.IGNORECASE)
_NO_HOLES = re.compile(r"There (?:is|are) no holes? in this map[.;]?", re.IGNORECASE)
_HOLES = re.compile(r"The holes?(?:\(s\))? (?:is|are) at: (.*)", re.IGNORECASE)
_CELL = re.compile(r"row ([0-9]{1,4}), ?column ([0-9]{1,4})", re.IGNORECASE)
_TABLE_ROW = re.compile(r"\|\s*Row ([0-9]{1,4})\s*\|(.*)\|", re.IGNORECASE)
_TABLE_HEAD = re.compile(r"\|\s*\|((?:\s*Col [0-9]{1,4}\s*\|)+)", re.IGNORECASE)

LETTERS = {"player": "S", "goal": "G", "hole": "H", "safe": "F"}


@dataclass(frozen=True)
class Vsp:
    """The loader of VSP's levels."""

    name = "vsp"
    source = Source(
        name="vsp",
        title="VSP, maze navigation, main task",
        url="https://github.com/UCSB-NLP-Chang/Visual-Spatial-Planning",
        license="MIT",
        citation=(
            "Qiucheng Wu, Handong Zhao, Michael Saxon, Trung Bui, William Yang Wang, Yang Zhang, Shiyu Chang: VSP: "
            "Diagnosing the Dual Challenges of Perception and Reasoning in Spatial Planning Tasks for MLLMs"
        ),
        scorer=Scorer(
            strict_edges=False,
            accuracy="success",
            note=(
                "Plans run in Gymnasium's FrozenLake without slipping: a step off the board leaves the player in "
                "place, what follows the goal is ignored, a word before it that is no move makes the answer fail."
            ),
        ),
        num_levels={"frozenlake": 600},
    )

    def finds(self, root: Path) -> bool:
        return self._maps(root) is not None

    def read(self, root: Path) -> Iterator[Level | Malformed]:
        maps = self._maps(root)
        if maps is None:
            raise PilotageError(
                f"{root} holds no VSP maps: there is no {MAPS.as_posix()}/level3/table in it or below it; give the "
                "folder of a clone, or its maps folder"
            )
        for level, folder in sorted((int(match[1]), path) for match, path in _matching(maps, _LEVEL)):
            numbers: set[int] = set()
            for form, suffix in FORMS.items():
                for path in list_folder(folder / form):
                    if path.suffix == suffix and _NUMBER.fullmatch(path.stem):
                        numbers.add(int(path.stem))
                    elif not path.name.startswith("."):
                        yield Malformed(
                            place=_place(path, root),
                            problem=f"the name is not a number from 0 to 999999 and {suffix}: no map is read",
                        )
            for number in sorted(numbers):
                yield self._read_map(root, folder, level, number)

    def _maps(self, root: Path) -> Path | None:
        for below in (MAPS, *(Path(*MAPS.parts[i:]) for i in range(1, len(MAPS.parts))), Path()):
            maps = root / below
            if maps.is_dir() and any((path / "table").is_dir() for _, path in _matching(maps, _LEVEL)):
                return maps
        return None

    def _read_map(self, root: Path, folder: Path, level: int, number: int) -> Level | Malformed:
        table, words = (folder / form / f"{number}.txt" for form in ("table", "pure_text"))
        reading = table
        try:
            marks = _parse_table(read_text(table))
            reading = words
            roles = _parse_words(read_text(words))
            reading = table
            rows = _combine(marks, roles)
            if len(rows) != level:
                raise BadLevelError(f"a {len(rows)}x{len(rows)} map in the folder {folder.name}")
            task = get_task("frozenlake")
            state = task.parse_state({"map": rows})
        except PilotageError as error:
            where = error.place if isinstance(error, BadLevelError) else None
            return Malformed(
                place=Place(file=_place(reading, root).file, line=where.line if where else None),
                problem=str(error),
            )
        picture, problem = None, ""
        try:
            picture = read_bytes(folder / "img" / f"{number}.png", MAX_PICTURE_BYTES)
            problem = picture_problem(picture, CELL_PX * level)
        except BadLevelError as error:
            problem = str(error)
        if problem:
            problem = f"{folder.name}/img/{number}.png: {problem}"
        return Level(
            place=_place(table, root),
            task=task,
            state=state,
            picture=None if problem else picture,
            picture_problem=problem,
        )


def _parse_table(text: str) -> list[tuple[int, list[str]]]:
    """(line, marks) of every row, top to bottom. Raises BadLevelError with its line."""
    rows: list[tuple[int, list[str]]] = []
    width = 0
    for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
        if not line:
            continue
        here = Place(file="", line=number)
        if not width:
            head = _TABLE_HEAD.fullmatch(line)
            if head is None:
                raise BadLevelError(f"{shorten(line)} is no head of a table: | | Col 1 | Col 2 | …", here)
            width = head[1].count("|")
            continue
        row = _TABLE_ROW.fullmatch(line)
        if row is None:
            raise BadLevelError(f"{shorten(line)} is no row of a table: | Row 1 | _ | … |", here)
        marks = [mark.strip() for mark in row[2].split("|")]
        if int(row[1]) != len(rows) + 1:
            raise BadLevelError(f"row {row[1]} stands where row {len(rows) + 1} should", here)
        if len(marks) != width:
            raise BadLevelError(f"row {row[1]} has {len(marks)} cells under {width} columns", here)
        if not all(marks):
            raise BadLevelError(f"row {row[1]} has a cell without a mark", here)
        rows.append((number, marks))
    if not rows or len(rows) != width:
        raise BadLevelError(f"a table of {len(rows)} rows and {width} columns: cut short, or no square map")
    check_level(len(rows), minimum=2, task="frozenlake")
    return rows


def _parse_words(text: str) -> tuple[int, dict[Cell, str]]:
    """(size, cell -> `player`, `goal` or `hole`), 0-based. Raises BadLevelError with its line."""
    size, said, roles = 0, set[str](), dict[Cell, str]()
    for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
        if not line:
            continue
        here = Place(file="", line=number)
        if match := _SIZE.fullmatch(line):
            what, cells = "size", []
            if match[1] != match[2]:
                raise BadLevelError(f"a map of {match[1]}x{match[2]} cells is no square", here)
            size = int(match[1])
        elif match := _PLAYER.fullmatch(line):
            what, cells = "player", _cells(match[1], here)
        elif match := _GOAL.fullmatch(line):
            what, cells = "goal", _cells(match[1], here)
        elif match := _HOLES.fullmatch(line):
            what, cells = "hole", _cells(match[1], here)
        elif _NO_HOLES.fullmatch(line):
            what, cells = "hole", []
        else:
            raise BadLevelError(f"{shorten(line)} says neither size nor player, holes or goal", here)
        if what in said:
            raise BadLevelError(f"{what} is told twice", here)
        if what in ("player", "goal") and len(cells) != 1:
            raise BadLevelError(f"{what} is at {len(cells)} cells, not one", here)
        said.add(what)
        for cell in cells:
            if not (0 <= cell[0] < size and 0 <= cell[1] < size):
                raise BadLevelError(
                    f"row {cell[0] + 1}, column {cell[1] + 1} lies outside the {size}x{size} map", here
                )
            if cell in roles:
                raise BadLevelError(f"row {cell[0] + 1}, column {cell[1] + 1} is told of twice", here)
            roles[cell] = what
    if missing := {"size", "player", "hole", "goal"} - said:
        raise BadLevelError(f"nothing is said of {', '.join(sorted(missing))}: cut short?")
    return size, roles


def _cells(text: str, here: Place) -> list[Cell]:
    """`Row 2, Column 2; Row 3, Column 1;` as 0-based cells."""
    cells = []
    for part in re.split(r"[;.]", text):
        if part := part.strip():
            match = _CELL.fullmatch(part)
            if match is None:
                raise BadLevelError(f"{shorten(part)} is no cell such as Row 1, Column 2", here)
            cells.append((int(match[1]) - 1, int(match[2]) - 1))
    return cells


def _combine(table: list[tuple[int, list[str]]], words: tuple[int, dict[Cell, str]]) -> list[str]:
    """Rows of S F H G. Raises BadLevelError where a mark stands for two things, or a thing has two marks."""
    size, roles = words
    if len(table) != size:
        raise BadLevelError(f"a table of {len(table)} rows, but its text tells of a {size}x{size} map")
    first: dict[str, tuple[str, Cell]] = {}
    rows = []
    for r, (line, marks) in enumerate(table):
        letters = []
        for c, mark in enumerate(marks):
            role = roles.get((r, c), "safe")
            known, where = first.setdefault(mark, (role, (r, c)))
            if known != role:
                raise BadLevelError(
                    f"row {r + 1}, column {c + 1} is {shorten(mark)}, as is row {where[0] + 1}, column {where[1] + 1}; "
                    f"but its text says {role} here and {known} there",
                    Place(file="", line=line),
                )
            letters.append(LETTERS[role])
        rows.append("".join(letters))
    for role in LETTERS:
        marks_of = sorted(mark for mark, (known, _) in first.items() if known == role)
        if len(marks_of) > 1:
            raise BadLevelError(
                f"the marks {' '.join(map(shorten, marks_of))} all stand for {role} cells of its text"
            )
    return rows


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[tuple[re.Match[str], Path]]:
    found = ((pattern.fullmatch(path.name), path) for path in list_folder(folder))
    return [(match, path) for match, path in found if match is not None and path.is_dir()]


def _place(path: Path, root: Path) -> Place:
    return Place(file=path.relative_to(root).as_posix())
