"""Film strips: what a frame shows, and what is marked as having gone wrong, on episodes made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pilotage.evaluate import evaluate, rows_path
from pilotage.evaluate.jsonl import append_jsonl, read_jsonl
from pilotage.records import Rollout
from pilotage.report import write_report
from pilotage.report.film import AGAIN, DETOUR, MAX_FRAMES, UNREAD, pack_film
from pilotage.report.gallery import make_gallery
from pilotage.report.sources import make_sources
from pilotage.report.verdicts import verdict_class
from pilotage.rollouts.play import Limits
from pilotage.worlds import get_task
from pilotage.worlds.grids.data.steps import make_step_example
from report_parts import levels_of, run_of

LAKE = {"map": ["SFF", "FHF", "FFG"]}


def played(tmp_path: Path, *answers: str, limits: Limits | None = None, burst: int = 1) -> dict[str, Any]:
    """The row of one episode on the lake with these answers, the last one again and again."""
    state = get_task("frozenlake").parse_state(LAKE)
    said = iter(answers)
    last = answers[-1]

    class Scripted:
        def generate(self, requests: Any, decoding: Any) -> list[Rollout]:
            text = next(said, last)
            return [
                Rollout(example_id=request.example_id, token_ids=(1,), text=text, finished=True)
                for request in requests
            ]

    evaluate(
        Scripted(),  # pyright: ignore[reportArgumentType]
        [make_step_example("frozenlake_steps", state, burst=burst)],
        stage="base",
        prompts="brief",
        max_new_tokens=8,
        out=tmp_path,
        conditions=("image",),
        limits=limits,
    )
    [row] = read_jsonl(rows_path(tmp_path, "base", "image")).rows
    return row


def answer(action: str) -> str:
    return f"<answer>{action}</answer>"


def marks(row: dict[str, Any]) -> list[list[str]]:
    film = pack_film(row)
    assert film is not None
    return [frame[2] for frame in film["frames"]]


def test_a_straight_way_has_no_mark(tmp_path: Path) -> None:
    row = played(tmp_path, *map(answer, "RRDD"))
    assert row["outcome"]["success"] and marks(row) == [[], [], [], []]
    film = pack_film(row)
    assert film is not None and [frame[1] for frame in film["frames"]] == ["R", "R", "D", "D"]
    assert all(len(frame[0]) == 9 for frame in film["frames"]) and film["left"] == 0


def test_a_move_back_is_a_detour_and_its_end_a_state_seen_before(tmp_path: Path) -> None:
    row = played(tmp_path, *map(answer, "RLRRDD"))
    assert marks(row) == [[], [DETOUR], [AGAIN], [AGAIN], [], []]


def test_an_illegal_move_is_marked_by_its_reason(tmp_path: Path) -> None:
    row = played(tmp_path, *map(answer, "RD"))
    assert row["outcome"]["reason"] == "hole" and marks(row) == [[], ["hole"]]


def test_words_without_an_action_are_marked_and_waste_the_turn(tmp_path: Path) -> None:
    row = played(tmp_path, "I look around.", *map(answer, "RRDD"))
    assert marks(row)[0] == [UNREAD] and marks(row)[1] == [AGAIN]
    assert row["outcome"]["success"] and verdict_class(row) == "optimal"


def test_a_failed_episode_is_unreadable_only_where_no_turn_could_be_read(tmp_path: Path) -> None:
    assert verdict_class(played(tmp_path / "a", "Hm.", answer("U"))) == "not_reached"
    assert verdict_class(played(tmp_path / "b", "Hm.")) == "unparsed"


def film_of(row: dict[str, Any]) -> dict[str, Any]:
    film = pack_film(row)
    assert film is not None
    return film


def test_the_first_mistake_is_told_apart_from_later_ones(tmp_path: Path) -> None:
    # Right, back (a detour), words alone, then on: the detour comes first.
    assert (
        film_of(played(tmp_path / "a", answer("R"), answer("L"), "Hm.", *map(answer, "RRDD")))["first"] == 1
    )
    assert film_of(played(tmp_path / "b", *map(answer, "RRDD")))["first"] == -1
    assert film_of(played(tmp_path / "c", *map(answer, "RD")))["first"] == 1
    # A state seen again is what a mistake led to, none by itself.
    assert film_of(played(tmp_path / "d", "Hm.", *map(answer, "RRDD")))["first"] == 0


def test_the_last_turn_of_an_episode_that_was_cut_off_is_looked_at_too(tmp_path: Path) -> None:
    row = played(tmp_path, *map(answer, "RL"), limits=Limits(max_turns=2))
    assert marks(row) == [[], [DETOUR]]


def test_a_frame_shows_the_moves_that_were_made_of_an_answer(tmp_path: Path) -> None:
    row = played(tmp_path / "one", answer("R R D"), answer("R"), answer("D D"))
    made = [[["R"], [0, 1]], [["R"], [1, 2]], [["D"], [2, 5]], [["D"], [5, 8]]]
    assert [frame[3:] for frame in film_of(row)["frames"]] == made
    row = played(tmp_path / "two", answer("R R D"), answer("D D"), burst=2)
    assert [frame[3:] for frame in film_of(row)["frames"]] == [
        [["R", "R"], [0, 1, 2]],
        [["D", "D"], [2, 5, 8]],
    ]
    assert marks(row) == [[], []]


def test_a_film_tells_how_far_the_model_saw(tmp_path: Path) -> None:
    """In fog cells are shaded that the pictures did not show; a number that is none shades nothing."""
    row = played(tmp_path, *map(answer, "RRDD"))
    assert film_of(row)["fog"] == 0
    for fog, shown in ((2, 2), (0, 0), (-1, 0), ("2", 0), (None, 0), (True, 0)):
        assert film_of(row | {"asked": {**row["asked"], "fog": fog}})["fog"] == shown


def test_a_move_that_fails_has_no_cell_behind_it_and_is_told(tmp_path: Path) -> None:
    film = film_of(played(tmp_path, *map(answer, "RD")))
    assert film["failed"] == 1 and film["frames"][-1][2:] == [["hole"], ["D"], [1, 4]]


def test_the_badge_tells_how_an_episode_ended_that_its_world_did_not_end(tmp_path: Path) -> None:
    cut = played(tmp_path / "cut", answer("R"), limits=Limits(max_turns=1))
    done = played(tmp_path / "done", *map(answer, "RRDD"))
    badges = [
        levels_of(make_gallery(make_sources([run_of({"base": {"image": [row]}})])))[0]["a"][0]["b"]
        for row in (cut, done)
    ]
    assert badges == ["does not arrive, 1 turn, ended by max turns", "optimal, 4 turns"]


def test_long_episodes_are_cut_and_counted(tmp_path: Path) -> None:
    row = played(tmp_path, answer("U"))
    row["turns"] = row["turns"] * 8
    film = pack_film(row)
    assert film is not None
    assert len(film["frames"]) == MAX_FRAMES and film["left"] == len(row["turns"]) - MAX_FRAMES


@pytest.mark.parametrize(
    "turns", [[{}, {}], [{"state": {"map": 5}}, {"state": "x"}], [1, {"response": None}]]
)
def test_damaged_turns_are_shown_without_a_picture(tmp_path: Path, turns: list[Any]) -> None:
    row = played(tmp_path, *map(answer, "RRDD")) | {"turns": turns}
    film = pack_film(row)
    assert film is not None and all(frame[0] is None for frame in film["frames"])


def test_rows_of_plans_have_no_film_and_the_page_of_episodes_is_written(tmp_path: Path) -> None:
    assert pack_film({"task": "maze", "condition": "image", "role": "plan"}) is None
    played(tmp_path, *map(answer, "RLRRDD"))
    path = rows_path(tmp_path, "base", "image")
    damaged = [
        {**read_jsonl(path).rows[0], "id": f"x{i}", "turns": turns} for i, turns in enumerate((5, [1]))
    ]
    append_jsonl(path, damaged)
    page = write_report(tmp_path).read_text()
    assert "has malformed turns" in page and "FrozenLake, step by step" in page
