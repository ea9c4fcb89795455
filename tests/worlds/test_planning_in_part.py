"""Planning worlds that lack a capability: what needs it is left out, or refused in one line that names both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halls import HALLS, Hall, HallState, known
from pilotage.cli.gap import _check_planning
from pilotage.cli.main import main
from pilotage.data.examples import make_example
from pilotage.data.made import made_examples, makes_examples
from pilotage.data.store import sample_examples
from pilotage.errors import PilotageError
from pilotage.evaluate import evaluate, rows_path
from pilotage.evaluate.attribution import attribute
from pilotage.evaluate.confusion import confusions
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.play.game import new_level
from pilotage.play.page import render_page
from pilotage.records import Example, Rollout
from pilotage.report import write_report
from pilotage.views import make_view, reference_of_view
from pilotage.worlds.capabilities import able, members, need
from pilotage.worlds.grids.views import task_of
from pilotage.worlds.judge import judge
from pilotage.worlds.registry import get_task, planning_worlds, tasks
from pilotage.worlds.score import DESCRIBE, score
from pilotage.worlds.task import Draws, DrawsTiles, Generates, Plans, Recites, Solves, Task
from report_parts import chunks_of

HALL, DRAWN, TOLD = HALLS
LACKS = "the world {} has not the capability {} that this needs: it lacks "


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with known(*HALLS):
        yield


class Scripted:
    """Writes the same to every prompt."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.seen: list[Any] = []

    def generate(self, requests: Any, decoding: Any) -> list[Rollout]:
        self.seen += requests
        return [
            Rollout(example_id=each.example_id, token_ids=(1,), text=self.text, finished=True)
            for each in requests
        ]


def evaluated(
    out: Path, examples: list[Example], text: str, *conditions: str
) -> dict[str, list[dict[str, Any]]]:
    """Condition -> the rows of these examples, all answered by `text`."""
    engine: Any = Scripted(text)
    evaluate(
        engine,
        examples,
        stage="base",
        prompts="brief",
        max_new_tokens=8,
        out=out,
        model="scripted",
        conditions=conditions,
    )
    return {name: read_jsonl(rows_path(out, "base", name)).rows for name in conditions}


def shown_levels(page: str) -> list[dict[str, Any]]:
    return [level for chunk in chunks_of(page) for level in chunk["levels"]]


def drawn_examples(count: int = 3) -> list[Example]:
    return sample_examples(DRAWN, [5], count, "test", 0)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("world", "has"),
    [(HALL, ()), (DRAWN, (Generates, Solves, Draws)), (TOLD, (Recites,))],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_world_has_the_capabilities_whose_members_it_has(world: Hall, has: tuple[type, ...]) -> None:
    for capability in (Generates, Solves, Recites, Draws, DrawsTiles, Task):
        assert (able(world, capability) is world) == (capability in has)
        if capability not in has:
            with pytest.raises(PilotageError) as caught:
                need(world, capability)
            assert str(caught.value).startswith(LACKS.format(world.name, capability.__name__))
            assert "\n" not in str(caught.value)
    assert need(world, Plans) is world


def test_the_refusal_names_what_is_missing_alone() -> None:
    assert members(Recites)[:4] == ["recital", "parse_recital", "facts", "route"]
    with pytest.raises(PilotageError, match=r"it lacks recital, parse_recital, facts, route \(see pilotage"):
        need(DRAWN, Recites)


def test_a_world_in_part_is_a_planning_world_and_no_task_of_grids() -> None:
    assert {world.name for world in planning_worlds()} >= {"hall", "drawnhall", "toldhall", "maze"}
    assert {world.name for world in tasks()} == {"frozenlake", "maze", "minibehaviour"}
    with pytest.raises(PilotageError, match=LACKS.format("drawnhall", "Task")):
        get_task("drawnhall")
    with pytest.raises(PilotageError, match=LACKS.format("drawnhall", "Task")):
        task_of("drawnhall")


def test_what_a_world_declares_follows_from_what_it_can_do() -> None:
    assert DRAWN.roles == ("plan",) and DRAWN.usual == ("image", "text")
    names = [condition.name for condition in DRAWN.conditions]
    assert names == ["image", "text", "teacher", "teacher_no_plan", "teacher_with_picture"]
    assert "misread" not in DRAWN.reasons and "misread" in TOLD.reasons
    assert "optimal" in {measure.name for measure in DRAWN.measures}
    assert "optimal" not in {measure.name for measure in (*HALL.measures, *TOLD.measures)}
    assert TOLD.roles == ("plan", "describe")


def test_a_judge_without_a_solver_says_nothing_of_best_plans() -> None:
    state = HallState(level=5, player=1, goal=3)
    for text, reason in (("R R", "success"), ("L L", "off_board"), ("", "empty_answer")):
        known_best, unknown = (judge(world, state, f"<answer>{text}</answer>") for world in (DRAWN, HALL))
        assert (known_best.reason, unknown.reason) == (reason, reason)
        message = dict(known_best.measures)
        assert message.pop("optimal") == (reason == "success")
        assert message == unknown.measures


def test_a_description_is_scored_where_the_world_recites_and_refused_where_not() -> None:
    state = HallState(level=5, player=1, goal=3)
    scored = score(TOLD, state, "Size: 5. Player: 1. Goal: 2.", role=DESCRIBE)
    assert scored.right == {"Size": True, "Player": True, "Goal": False} and scored.reason == "misread"
    with pytest.raises(PilotageError, match=LACKS.format("drawnhall", "Recites")):
        score(DRAWN, state, "Size: 5.", role=DESCRIBE)
    planned = score(DRAWN, state, "Size: 5.\n<answer>R R</answer>")
    assert planned.success and not planned.fields and not planned.right


def test_examples_have_what_the_world_can_make() -> None:
    [example] = drawn_examples(1)
    assert example.image and example.plan and not example.facts
    assert not makes_examples("hall")
    with pytest.raises(PilotageError, match="the world hall makes no examples"):
        made_examples("hall", [4], 1, "test", 0)
    assert [example.world for example in made_examples("toldhall", [0], 2, "test", 0)] == ["toldhall"] * 2
    with pytest.raises(PilotageError, match=LACKS.format("drawnhall", "DrawsTiles")):
        make_example(DRAWN, HallState(level=5, player=1, goal=3), side_px=64)  # pyright: ignore


def test_a_state_is_told_as_json_where_it_is_not_recited() -> None:
    [example] = drawn_examples(1)
    message = str(make_view("symbolic", example, "full").messages)
    assert json.dumps(dict(example.state), sort_keys=True, separators=(",", ":")) in message.replace(
        '\\"', '"'
    )
    assert reference_of_view(example, "student") == f"<answer>{' '.join(example.plan)}</answer>"
    assert "whole plan" in message
    assert "Size: 9. Player: 0. Goal: 8." in str(make_view("symbolic", TOLD.examples(1, "test")[0], "brief"))


def test_an_undrawn_unspoken_world_is_played_into_rows_and_a_page_with_its_pictures(tmp_path: Path) -> None:
    examples = drawn_examples()
    rows = evaluated(tmp_path, examples, "<answer>R</answer>", "image", "text", "teacher_with_picture")
    succeeded = [example.plan == ("R",) for example in examples]
    assert [row["outcome"]["success"] for row in rows["image"]] == succeeded
    assert all(row["fields"] == {} and row["right"] == {} for row in rows["image"])
    page = write_report(tmp_path).read_text()
    assert "Drawn hall" in page and "state recited right" not in page
    for level in shown_levels(page):
        assert level["k"] is None and level["i"].startswith("data:image/png;base64,")
        assert all("p" not in answer and answer["f"] == [] for answer in level["a"])


def test_a_told_world_without_tiles_has_fields_and_faults_on_its_page(tmp_path: Path) -> None:
    text = "Size: 9. Player: 6. Goal: 8.\nRoute.\n<answer>R R</answer>"
    rows = evaluated(tmp_path, TOLD.examples(8, "test"), text, "text")["text"]
    assert [row["outcome"]["success"] for row in rows] == [row["state"]["player"] >= 6 for row in rows]
    assert {attribute(row).fault for row in rows} == {"none", "misread"}
    assert confusions(rows) == []
    levels = shown_levels(write_report(tmp_path).read_text())
    assert len(levels) == 8
    for level in levels:
        [answer] = level["a"]
        assert level["k"] is None and "i" not in level and len(answer["f"]) == 3 and "q" not in answer


def test_faults_of_a_world_that_recites_nothing_are_refused_in_one_line(
    tmp_path: Path,
) -> None:
    [row] = evaluated(tmp_path, drawn_examples(1), "<answer>R</answer>", "image")["image"]
    for call in (lambda: attribute(row), lambda: confusions([row])):
        with pytest.raises(PilotageError, match=LACKS.format("drawnhall", "Recites")):
            call()
    with pytest.raises(PilotageError, match=LACKS.format("drawnhall", "Recites")):
        _check_planning(["maze", "drawnhall"])


def test_the_commands_know_a_world_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds", "drawnhall"]) == 0
    message = capsys.readouterr().out
    assert "pictures" in message and "states in words" not in message
    state = {"level": 5, "player": 1, "goal": 3}
    rows = [
        {"id": name, "task": name, "state": state, "response": "<answer>R R</answer>"}
        for name in ("hall", "drawnhall")
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["judge", str(file)]) == 0
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["success"], each["optimal"]) for each in verdicts] == [(True, None), (True, True)]
    assert main(["data", "build", "--out", str(tmp_path / "a"), "--tasks", "toldhall"]) == 2
    assert LACKS.format("toldhall", "Sampled") + "levels, generate" in capsys.readouterr().err
    assert main(["data", "questions", "--out", str(tmp_path / "b"), "--tasks", "drawnhall"]) == 2
    assert LACKS.format("drawnhall", "Task") in capsys.readouterr().err


def test_a_set_of_levels_is_built_of_a_world_that_recites_nothing(tmp_path: Path) -> None:
    sizes = ["--num-train", "4", "--num-val", "1", "--num-test", "1", "--workers", "1"]
    assert (
        main(
            [
                "data",
                "build",
                "--out",
                str(tmp_path / "a"),
                "--tasks",
                "drawnhall",
                "--levels",
                "drawnhall",
                "7",
                *sizes,
            ]
        )
        == 0
    )


def test_only_worlds_of_tiles_are_played_by_hand() -> None:
    page = render_page(model=None, token="t")
    assert "Maze" in page and "Drawn hall" not in page
    with pytest.raises(PilotageError, match=LACKS.format("drawnhall", "Playable")):
        new_level({"task": "drawnhall", "level": 4, "seed": 0})
