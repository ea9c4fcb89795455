"""VSP's maps: three forms of one map, the words first; what does not agree is malformed and has its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.data.source import Level, Malformed
from pilotage.errors import PilotageError
from pilotage.worlds import get_task
from pilotage.worlds.grids.data import Vsp
from published_forms import MAPS, MARKS, png, table, words, write_vsp_map

TASK = get_task("frozenlake")
ROWS = ("FSF", "FHF", "FFG")
TABLE = "| | Col 1 | Col 2 | Col 3 |\n| Row 1 | _ | @ | _ |\n| Row 2 | _ | # | _ |\n| Row 3 | _ | _ | * |\n"
WORDS = (
    "This is a 3x3 map.\nThe player is at: row 1, column 2;\nThe hole(s) are at: Row 2, Column 2;\n"
    "The goal is at: Row 3, Column 3."
)


def read_one(root: Path) -> Level | Malformed:
    [piece] = Vsp().read(root)
    return piece


def test_a_map_written_by_hand_is_read_with_its_picture(tmp_path: Path) -> None:
    folder = write_vsp_map(tmp_path, 42, ROWS)
    assert ((folder / "table" / "42.txt").read_text(), (folder / "pure_text" / "42.txt").read_text()) == (
        TABLE,
        WORDS,
    )
    level = read_one(tmp_path)
    assert isinstance(level, Level)
    assert TASK.to_json(level.state) == {"map": list(ROWS)}
    assert level.picture == (folder / "img" / "42.png").read_bytes()
    assert (level.plan, level.picture_problem) == (None, "")
    assert str(level.place) == "VSP-main/maze/task-main/maps/level3/table/42.txt"


def test_a_map_without_holes_says_so(tmp_path: Path) -> None:
    folder = write_vsp_map(tmp_path, 0, ("GF", "FS"))
    assert "There is no holes in this map;" in (folder / "pure_text" / "0.txt").read_text()
    level = read_one(tmp_path)
    assert isinstance(level, Level) and TASK.to_json(level.state) == {"map": ["GF", "FS"]}


@pytest.mark.parametrize("marks", ["*@_#", "abcd", "#_*@"])
def test_marks_mean_what_the_words_say_of_them(tmp_path: Path, marks: str) -> None:
    folder = write_vsp_map(tmp_path, 0, ROWS)
    (folder / "table" / "0.txt").write_text(table(ROWS, dict(zip("SGHF", marks, strict=True))))
    level = read_one(tmp_path)
    assert isinstance(level, Level) and TASK.to_json(level.state) == {"map": list(ROWS)}


@pytest.mark.parametrize("depth", range(5))
def test_the_root_is_the_clone_or_any_folder_down_to_the_maps(tmp_path: Path, depth: int) -> None:
    write_vsp_map(tmp_path, 0, ROWS)
    root = tmp_path.joinpath(*MAPS.parts[:depth])
    assert Vsp().finds(root)
    assert isinstance(read_one(root), Level)


def test_a_folder_without_maps_is_one_clear_error(tmp_path: Path) -> None:
    assert not Vsp().finds(tmp_path)
    with pytest.raises(PilotageError, match="holds no VSP maps"):
        list(Vsp().read(tmp_path))


def test_maps_come_by_level_and_number(tmp_path: Path) -> None:
    for number in (10, 9, 0):
        write_vsp_map(tmp_path, number, ROWS)
    write_vsp_map(tmp_path, 5, ("SF", "FG"))
    order = [piece.place.file.split("maps/")[1] for piece in Vsp().read(tmp_path)]
    assert order == ["level2/table/5.txt", *(f"level3/table/{n}.txt" for n in (0, 9, 10))]


# form, what is replaced, by what, the file and line blamed, the complaint
SPOILT = [
    (
        "table",
        "| Row 2 | _ | # | _ |",
        "| Row 2 | _ | _ | _ |",
        "table/0.txt line 3",
        "says hole here and safe there",
    ),
    (
        "table",
        "| Row 2 | _ | # | _ |",
        "| Row 2 | # | # | _ |",
        "table/0.txt line 3",
        "says hole here and safe there",
    ),
    (
        "table",
        "| Row 3 | _ | _ | * |",
        "| Row 3 | _ | * | _ |",
        "table/0.txt line 4",
        "says goal here and safe there",
    ),
    (
        "table",
        "| Row 3 | _ | _ | * |",
        "| Row 3 | _ | ! | * |",
        "table/0.txt",
        "the marks '!' '_' all stand for safe",
    ),
    ("table", "| Row 1 | _ | @ | _ |", "| Row 1 | _ | @ |", "table/0.txt line 2", "2 cells under 3 columns"),
    ("table", "| Row 1 | _ | @ | _ |", "| Row 1 | _ | @ |  |", "table/0.txt line 2", "cell without a mark"),
    ("table", "| Row 2 |", "| Row 7 |", "table/0.txt line 3", "row 7 stands where row 2 should"),
    ("table", "| Row 2 |", "Row 2", "table/0.txt line 3", "no row of a table"),
    ("table", "| | Col 1", "| Col 1", "table/0.txt line 1", "no head of a table"),
    ("table", "| Row 3 | _ | _ | * |\n", "", "table/0.txt", "2 rows and 3 columns: cut short"),
    ("table", TABLE, "", "table/0.txt", "0 rows and 0 columns"),
    ("table", TABLE, table(("SF", "FG")), "table/0.txt", "its text tells of a 3x3 map"),
    ("table", "_", "x" * 70_000, "table/0.txt", "longer than 65536 bytes"),
    (
        "pure_text",
        "row 1, column 2",
        "row 1, column 1",
        "table/0.txt line 2",
        "says safe here and player there",
    ),
    ("pure_text", "row 1, column 2", "row 0, column 2", "pure_text/0.txt line 2", "outside the 3x3 map"),
    ("pure_text", "row 1, column 2", "row 2, column 2", "pure_text/0.txt line 3", "told of twice"),
    ("pure_text", "row 1, column 2", "the top", "pure_text/0.txt line 2", "no cell such as"),
    ("pure_text", "row 1, column 2;", ";", "pure_text/0.txt line 2", "player is at 0 cells"),
    ("pure_text", "3x3", "3x4", "pure_text/0.txt line 1", "no square"),
    ("pure_text", "3x3", "4x4", "table/0.txt", "a table of 3 rows, but its text tells of a 4x4 map"),
    ("pure_text", "This is a 3x3 map.\n", "", "pure_text/0.txt line 1", "outside the 0x0 map"),
    ("pure_text", "The goal is at: Row 3, Column 3.", "", "pure_text/0.txt", "nothing is said of goal"),
    ("pure_text", "The hole(s) are at: Row 2, Column 2;\n", "", "pure_text/0.txt", "nothing is said of hole"),
    ("pure_text", "The goal", "The gaol", "pure_text/0.txt line 4", "says neither size nor"),
    (
        "pure_text",
        "3x3 map.\n",
        "3x3 map.\nThis is a 3x3 map.\n",
        "pure_text/0.txt line 2",
        "size is told twice",
    ),
]


@pytest.mark.parametrize(("form", "old", "new", "place", "complaint"), SPOILT)
def test_forms_that_disagree_or_are_damaged_are_malformed_at_their_place(
    tmp_path: Path, form: str, old: str, new: str, place: str, complaint: str
) -> None:
    folder = write_vsp_map(tmp_path, 0, ROWS)
    path = folder / form / "0.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    found = read_one(tmp_path)
    assert isinstance(found, Malformed)
    assert str(found.place) == f"{(MAPS / 'level3').as_posix()}/{place}"
    assert complaint in found.problem


def test_a_map_of_another_size_than_its_folder_says_is_malformed(tmp_path: Path) -> None:
    folder = write_vsp_map(tmp_path, 0, ROWS)
    folder.rename(folder.with_name("level4"))
    found = read_one(tmp_path)
    assert isinstance(found, Malformed) and "a 3x3 map in the folder level4" in found.problem


def test_missing_halves_files_that_are_none_and_odd_names_are_listed(tmp_path: Path) -> None:
    folder = [write_vsp_map(tmp_path, number, ROWS) for number in range(5)][0]
    (folder / "table" / "0.txt").unlink()
    (folder / "pure_text" / "1.txt").unlink()
    (folder / "table" / "2.txt").write_bytes(b"\xff\xfe")
    (folder / "table" / "3.txt").unlink()
    os.mkfifo(folder / "table" / "3.txt")
    (folder / "table" / "notes.txt").write_text("mine")
    (folder / "table" / ".DS_Store").write_text("")
    found = list(Vsp().read(tmp_path))
    problems = {
        piece.place.file.split("level3/")[1]: piece.problem for piece in found if isinstance(piece, Malformed)
    }
    assert problems == {
        "table/notes.txt": "the name is not a number from 0 to 999999 and .txt: no map is read",
        "table/0.txt": "the file is missing",
        "pure_text/1.txt": "the file is missing",
        "table/2.txt": "not UTF-8: invalid start byte at byte 0",
        "table/3.txt": "this is no file",
    }
    assert len(found) == 6


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the file is missing"),
        (b"", "not a PNG picture"),
        (b"GIF89a", "not a PNG picture"),
        (png(192)[:-30], "not a PNG picture"),
        (png(256), "256x256 px instead of 192x192"),
        (png(96), "96x96 px instead of 192x192"),
    ],
    ids=["missing", "empty", "other", "truncated", "large", "small"],
)
def test_a_picture_that_does_not_fit_is_told_and_not_used(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = write_vsp_map(tmp_path, 0, ROWS) / "img" / "0.png"
    path.unlink() if content is None else path.write_bytes(content)
    level = read_one(tmp_path)
    assert isinstance(level, Level)
    assert level.picture is None
    assert level.picture_problem.startswith(f"level3/img/0.png: {problem}")


@given(data=st.data())
def test_no_single_change_of_a_form_makes_another_map_of_it(tmp_path: Path, data: st.DataObject) -> None:
    """The two forms back each other: what is read is the true map, or nothing."""
    folder = write_vsp_map(tmp_path, 0, ROWS)
    form, text = data.draw(st.sampled_from([("table", TABLE), ("pure_text", WORDS)]))
    at = data.draw(st.integers(0, len(text)))
    new = data.draw(
        st.sampled_from(["", *MARKS.values(), "|", "\n", "1", "2", "9", " "]) | st.text(max_size=3)
    )
    width = data.draw(st.integers(0, 2))
    (folder / form / "0.txt").write_text(text[:at] + new + text[at + width :])
    found = read_one(tmp_path)
    (folder / form / "0.txt").write_text(text)
    assert isinstance(found, Malformed) or TASK.to_json(found.state) == {"map": list(ROWS)}


@given(
    text=st.text(max_size=80) | st.text("|_*@# Row1\n", max_size=80),
    form=st.sampled_from(["table", "pure_text"]),
)
def test_any_text_at_all_is_malformed(tmp_path: Path, text: str, form: str) -> None:
    folder = write_vsp_map(tmp_path, 0, ROWS)
    (folder / form / "0.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert isinstance(read_one(tmp_path), Malformed)


def test_the_words_of_the_helper_are_those_of_the_set() -> None:
    assert words(ROWS) == WORDS
