"""Sets of questions about our own levels: deterministic, split by state, balanced, whole on disk or refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.main import main
from pilotage.data.examples import split_of
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import Observation
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.questions.asked import QUESTION_KINDS
from pilotage.worlds.questions.data.build import QuestionsConfig, build_questions, iter_questions
from pilotage.worlds.questions.data.store import COLUMNS, load_questions, questions_hash, write_questions
from pilotage.worlds.questions.grading import grade
from pilotage.worlds.questions.question import question_of
from pilotage.worlds.task import state_hash

every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def config(out: Path, **changes: Any) -> QuestionsConfig:
    return QuestionsConfig(
        **({"out": out, "num_train": 48, "num_val": 12, "num_test": 12, "cell_px": 8} | changes)
    )


def test_the_same_arguments_give_the_same_questions_and_another_seed_others(tmp_path: Path) -> None:
    first, second = (build_questions(config(tmp_path / name)) for name in ("a", "b"))
    other = build_questions(config(tmp_path / "c", seed=1))
    assert first == second and first["sha256"] != other["sha256"]
    questions = load_questions(tmp_path / "a")
    assert len(questions) == first["num_questions"] == 72
    assert len({question.id for question in questions}) == 72


def test_every_question_is_in_the_split_of_its_state_and_of_every_task_and_kind(tmp_path: Path) -> None:
    build_questions(config(tmp_path / "q"))
    questions = load_questions(tmp_path / "q")
    for question in questions:
        task = get_task(question.task)
        state = task.parse_state(question.state)
        assert question.split == split_of(state_hash(task, state))
        assert question.level == task.level_of(state) and question.image.startswith(b"\x89PNG")
    train = [question for question in questions if question.split == "train"]
    assert Counter(question_of(question).kind for question in train) == dict.fromkeys(QUESTION_KINDS, 12)
    assert {question.task for question in train} == {task.name for task in TASKS}
    assert load_questions(tmp_path / "q", "val") == [q for q in questions if q.split == "val"]


@every_task
def test_plans_that_fail_and_plans_that_do_not_are_as_many_at_every_level(task: Any) -> None:
    for level in (task.levels[0], task.levels[1]):
        answers = Counter(
            question_of(question).answer
            for question in iter_questions([(task, level)], ("safe",), 20, "train", 0, cell_px=None)
        )
        assert answers == {"yes": 10, "no": 10}


@every_task
def test_more_questions_begin_with_the_fewer(task: Any) -> None:
    world = [(task, task.levels[0])]
    few = list(iter_questions(world, QUESTION_KINDS, 8, "train", 3, cell_px=None))
    assert list(iter_questions(world, QUESTION_KINDS, 16, "train", 3, cell_px=None))[:8] == few
    assert all(grade(asked, rf"\boxed{{{asked.answer}}}").success for asked in map(question_of, few))


def test_no_state_is_asked_the_same_twice_however_often_more_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pilotage.worlds.questions.data.build.FIRST_DRAW", 4)
    questions = iter_questions([(get_task("maze"), 3)], ("length",), 40, "train", 0, cell_px=None)
    assert len({question.id for question in questions}) == 40


def test_a_level_that_runs_dry_says_how_many_there_are() -> None:
    """FrozenLake of level 2: 4 cells, so few states that every one is listed."""
    lake = get_task("frozenlake")
    total = len(list(lake.enumerate_states(2)))
    with pytest.raises(ImpossibleRequestError, match=r"frozenlake level 2 train has states for (\d+) length"):
        list(iter_questions([(lake, 2)], ("length",), total, "train", 0, cell_px=None))


def test_excluded_states_are_not_asked_about(tmp_path: Path) -> None:
    lake = get_task("frozenlake")
    first = list(iter_questions([(lake, 3)], ("length",), 10, "train", 0, cell_px=None))
    file = tmp_path / "seen.jsonl"
    file.write_text("".join(json.dumps({"task": q.task, "state": q.state}) + "\n" for q in first[:5]))
    build_questions(
        config(
            tmp_path / "q",
            tasks=("frozenlake",),
            levels={"frozenlake": (3,)},
            kinds=("length",),
            exclude=(file,),
        )
    )
    ids = {question.id for question in load_questions(tmp_path / "q")}
    assert not ids & {q.id for q in first[:5]} and ids & {q.id for q in first[5:]}


def test_a_folder_of_other_arguments_is_kept_and_one_of_the_same_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "q"
    build_questions(config(out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    build_questions(config(out))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    with pytest.raises(PilotageError, match="other arguments"):
        build_questions(config(out, seed=2))
    assert len(load_questions(out)) == 72
    build_questions(config(out, seed=2, overwrite=True))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(PilotageError, match="is no set of questions"):
        build_questions(config(tmp_path / "mine", overwrite=True))
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_killed_writing_is_told_and_goes_on(tmp_path: Path) -> None:
    questions = list(iter_questions([(TASKS[0], 4)], ("cell",), 4, "train", 0, cell_px=8))

    def killed():
        yield questions[0]
        raise KeyboardInterrupt

    out = tmp_path / "q"
    with pytest.raises(KeyboardInterrupt):
        write_questions(out, killed(), {"seed": 0})
    with pytest.raises(PilotageError, match="unfinished"):
        load_questions(out)
    manifest = write_questions(out, questions, {"seed": 0})
    assert load_questions(out) == questions and manifest["num_questions"] == 4
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "train"]


def test_two_at_once_do_not_write_to_one_folder(tmp_path: Path) -> None:
    out, messages = tmp_path / "q", []

    def progress(num_done: int, num_total: int) -> None:
        if not messages:
            with pytest.raises(PilotageError) as caught:
                build_questions(config(out, seed=1, overwrite=True))
            messages.append(str(caught.value))

    manifest = build_questions(config(out), progress)
    assert messages == [f"another command is writing questions to {out}: wait for it, or give another folder"]
    assert len(load_questions(out)) == manifest["num_questions"] == 72
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "test", "train", "val"]
    other = build_questions(config(out, seed=1, overwrite=True))
    assert other["sha256"] != manifest["sha256"], "when the first has ended, the folder is free"


@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_a_damaged_shard_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "q"
    build_questions(config(out, num_val=0, num_test=0))
    [shard] = out.rglob("*.parquet")
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "missing":
        shard.unlink()
    else:
        build_questions(config(tmp_path / "other", seed=9, num_val=0, num_test=0))
        shard.write_bytes(next((tmp_path / "other").rglob("*.parquet")).read_bytes())
    with pytest.raises(PilotageError, match="questions-00000.parquet"):
        load_questions(out)


def test_the_shards_are_a_data_set_with_pictures_for_datasets(tmp_path: Path) -> None:
    import datasets

    build_questions(config(tmp_path / "q", num_val=0, num_test=0))
    rows = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "q" / "train" / "*.parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert isinstance(rows.features["image"], datasets.Image) and rows[0]["image"].size[0] >= 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train": -1}, "num_train is -1"),
        ({"num_train": 0, "num_val": 0, "num_test": 0}, "nothing to build"),
        ({"tasks": ("chess",)}, "chess"),
        ({"kinds": ("cell", "cell")}, "none twice"),
        ({"levels": {"maze": (3,)}, "tasks": ("frozenlake",)}, "levels are given for"),
        ({"levels": {"maze": ()}}, "at least one level"),
    ],
)
def test_arguments_without_sense_are_refused_before_work(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(PilotageError, match=message):
        build_questions(config(tmp_path / "q", **changes))
    assert not (tmp_path / "q").exists()


def test_splits_that_are_not_there_are_errors(tmp_path: Path) -> None:
    build_questions(config(tmp_path / "q", num_val=0, num_test=0, kinds=("cell",)))
    with pytest.raises(PilotageError, match="no questions of split 'val'; it has train"):
        load_questions(tmp_path / "q", "val")
    with pytest.raises(PilotageError, match="no set of questions"):
        load_questions(tmp_path)


AXES = {"task": "x", "level": 9, "kind": "x"}
HIDDEN = {"answer": "x", "accepted": (), "solution": ""}


def test_the_hash_is_over_every_column() -> None:
    [question] = iter_questions([(TASKS[0], 3)], ("cell",), 1, "test", 0, cell_px=8)
    hidden, start = question.hidden, question.start
    changed = [
        replace(question, id="x"),
        replace(question, split="val"),
        *(replace(question, axes={**question.axes, name: x}) for name, x in AXES.items()),
        replace(question, start=replace(start, text="x")),
        replace(question, data={"options": ("x", "y")}),
        *(replace(question, hidden={**hidden, name: x}) for name, x in HIDDEN.items()),
        replace(question, start=Observation(text=start.text, images=start.images)),
        question.with_images((b"x",)),
    ]
    assert len(changed) == len(COLUMNS)
    assert len({questions_hash([each]) for each in (question, *changed)}) == len(COLUMNS) + 1


def test_the_command_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "q"
    arguments = [
        "data",
        "questions",
        "--out",
        str(out),
        "--num-train",
        "24",
        "--num-val",
        "0",
        "--num-test",
        "0",
    ]
    assert main([*arguments, "--kinds", "safe", "cell", "--tasks", "maze"]) == 0
    printed = capsys.readouterr().out
    assert "train cell 12, safe 12" in printed and "holds 24 questions" in printed
    assert len(load_questions(out)) == 24
