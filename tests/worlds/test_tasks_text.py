"""Maps of characters, each drawn and read by hand."""

from __future__ import annotations

from typing import Any

import pytest

from pilotage.errors import BadStateError
from pilotage.worlds import get_task
from pilotage.worlds.task import TextMaps

# A U-shaped corridor: (0,0) opens down, (1,0) up and right, (1,1) left and up, (0,1) down.
MAZE = "#####\n#S#G#\n# # #\n#   #\n#####"
ROOM = "..A..\n.....\n...P.\nTTT..\nTTT.."
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("frozenlake", "SFF\nFHF\nFFG", {"map": ["SFF", "FHF", "FFG"]}),
    ("maze", MAZE, {"start": [0, 0], "target": [0, 1], "walls": [[13, 13], [6, 10]]}),
    (
        "minibehaviour",
        ROOM,
        {
            "level": 5,
            "agent": [0, 2],
            "printer": [2, 3],
            "table": [[r, c] for r in (3, 4) for c in (0, 1, 2)],
        },
    ),
]


def text_task(name: str) -> TextMaps[Any]:
    task = get_task(name)
    assert isinstance(task, TextMaps)
    return task


@pytest.mark.parametrize(("name", "text", "state"), CASES, ids=[name for name, *_ in CASES])
def test_a_map_drawn_by_hand_is_the_state_written_by_hand(
    name: str, text: str, state: dict[str, Any]
) -> None:
    task = get_task(name)
    assert task.to_json(text_task(name).parse_text(text)) == state
    assert text_task(name).to_text(task.parse_state(state)) == text


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("frozenlake", "", "the map is empty"),
        ("frozenlake", "SF\nFX", "row 1 column 1 is 'X', not one of S F H G"),
        ("frozenlake", "SFF\nFG", "row 0 has 3 cells in a map of 2 rows"),
        ("frozenlake", "SF\nFF", "0 goal cells"),
        ("maze", MAZE.replace("G", "S"), "2 start cells"),
        ("maze", "####\n#SG#\n#  #\n####", "4 rows"),
        ("maze", MAZE.replace("#S#G#", "#SSG#"), "row 1 column 2 is 'S', but a side between cells"),
        ("maze", MAZE.replace("#   #", "## ##"), "row 3 column 1 is '#', but a cell"),
        ("maze", MAZE.replace("# # #", "#   #"), "row 2 column 2 is ' ', but a post"),
        ("maze", MAZE.replace("#   #", "#  #"), "row 3 has 4 cells"),
        ("maze", "#####\n#S#G#\n# # #\n#   #\n# ###", r"walls\[1\]\[0\] leaves the border open towards D"),
        ("minibehaviour", ROOM.replace("P", "A"), "2 agent cells"),
        ("minibehaviour", ROOM.replace("TTT..\nTTT..", "TT...\nTTT.."), "not a block of 2 rows"),
        ("minibehaviour", "#\n" * 1000, "more than 129 rows"),
    ],
)
def test_a_map_that_is_none_is_an_error_with_its_place(name: str, text: str, complaint: str) -> None:
    with pytest.raises(BadStateError, match=f"^{name}: .*{complaint}"):
        text_task(name).parse_text(text)
