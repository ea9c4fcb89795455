"""Levels with and against a task's usual regularity, and what a difference between them is worth."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotage.cli.main import main
from pilotage.data.examples import split_of
from pilotage.data.prior import examples_with_prior, prior_of, prior_pairs, tasks_with_prior
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.evaluate import evaluate, rows_path
from pilotage.evaluate.bootstrap import bootstrap_mean
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.evaluate.prior_probe import prior_conflict
from pilotage.records import Example, Rollout
from pilotage.views import reference_of_view
from pilotage.worlds import TASKS, Task, get_task
from pilotage.worlds.task import state_hash, worked_state

WITH_PRIOR = [task for task in TASKS if prior_of(task)]
every_prior = pytest.mark.parametrize("task", WITH_PRIOR, ids=lambda task: task.name)
LEVEL = {"frozenlake": 4, "minibehaviour": 5}


def follows(task: Task[Any], data: dict[str, Any]) -> bool | None:
    prior = prior_of(task)
    assert prior is not None
    return prior.follows_prior(task.parse_state(data))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["SFF", "FFF", "FFG"], True),
        (["SFG", "FFF", "FFF"], True),
        (["FFF", "FFF", "SFG"], True),
        (["GFF", "FFF", "FFS"], False),
        (["GFS", "FFF", "FFF"], False),
        (["FGF", "FFF", "FSF"], False),
        (["FFS", "FFF", "GFF"], None),
        (["FFG", "FFF", "SFF"], None),
    ],
)
def test_frozenlake_usually_has_its_goal_to_the_lower_right(rows: list[str], expected: bool | None) -> None:
    assert follows(get_task("frozenlake"), {"map": rows}) is expected


@pytest.mark.parametrize(
    ("level", "top_row", "expected"),
    [(5, 0, False), (5, 1, False), (5, 2, True), (5, 3, True), (6, 1, False), (6, 2, None), (6, 3, True)],
)
def test_minibehaviour_usually_has_its_table_in_the_lower_half(
    level: int, top_row: int, expected: bool | None
) -> None:
    table = [[top_row + i, j] for i in range(2) for j in range(3)]
    state = {"level": level, "agent": [0, 4], "printer": [4, 4], "table": table}
    assert follows(get_task("minibehaviour"), state) is expected


def test_the_probe_knows_frozenlake_and_minibehaviour() -> None:
    assert tasks_with_prior() == ["frozenlake", "minibehaviour"]


@every_prior
def test_reversed_states_are_as_many_and_as_hard_as_those_that_follow(task: Task[Any]) -> None:
    """Over all states of a small level: mirroring maps one set onto the other."""
    level = {"frozenlake": 3, "minibehaviour": 5}[task.name]
    lengths: dict[bool | None, Counter[int]] = {True: Counter(), False: Counter(), None: Counter()}
    for state in task.enumerate_states(level):
        solution = task.solve(state)
        assert solution is not None
        lengths[follows(task, task.to_json(state))][len(solution.plan)] += 1
    assert lengths[True] == lengths[False]
    assert sum(lengths[True].values()) > 100


@every_prior
def test_pairs_match_in_level_and_length_and_are_distinct_unseen_states(task: Task[Any]) -> None:
    levels = [LEVEL[task.name], LEVEL[task.name] + 1]
    pairs = prior_pairs(task, levels, 41, split="test", seed=3)
    assert len(pairs) == 41
    for one, other in pairs:
        assert follows(task, dict(one.state)) is True
        assert follows(task, dict(other.state)) is False
        assert (one.level, one.optimal_length) == (other.level, other.optimal_length)
        assert one.split == other.split == "test"
    examples = [example for pair in pairs for example in pair]
    assert len({example.id for example in examples}) == 82
    assert Counter(example.level for example in examples) == {levels[0]: 42, levels[1]: 40}
    assert all(split_of(state_hash(task, task.parse_state(example.state))) == "test" for example in examples)
    assert min(Counter(example.difficulty for example in examples).values()) >= 20
    again = prior_pairs(task, levels, 41, split="test", seed=3)
    assert [e.id for pair in again for e in pair] == [e.id for e in examples]
    other_seed = prior_pairs(task, levels, 41, split="test", seed=4)
    assert [e.id for pair in other_seed for e in pair] != [e.id for e in examples]


@every_prior
def test_more_pairs_than_there_are_is_an_error_that_says_how_many_there_are(task: Task[Any]) -> None:
    with pytest.raises(ImpossibleRequestError, match=r"\d+ of 5000 pairs .* ask for at most \d+"):
        prior_pairs(task, [task.levels[0] - 1], 5000, split="test", seed=0)


@every_prior
@pytest.mark.parametrize("consistent", [True, False])
def test_training_examples_can_all_follow_the_prior_or_all_reverse_it(
    task: Task[Any], consistent: bool
) -> None:
    level = LEVEL[task.name]
    examples = examples_with_prior(task, level, 90, consistent=consistent, split="train", seed=1)
    assert len({example.id for example in examples}) == 90
    assert all(follows(task, dict(example.state)) is consistent for example in examples)
    assert Counter(e.difficulty for e in examples) == {"easy": 30, "medium": 30, "hard": 30}
    assert {example.split for example in examples} == {"train"}
    worked = task.to_json(worked_state(task))
    assert all(example.state != worked for example in examples)


def test_a_task_without_a_prior_is_an_error_that_names_those_with_one() -> None:
    with pytest.raises(PilotageError, match="maze has no prior .*: frozenlake, minibehaviour"):
        prior_pairs(get_task("maze"), [3], 2, split="test", seed=0)
    with pytest.raises(PilotageError, match="maze has no prior"):
        examples_with_prior(get_task("maze"), 3, 2, consistent=True, split="test", seed=0)


class Habitual:
    """Plans well, but against the prior goes down and right from the picture with probability `habit`."""

    def __init__(self, examples: list[Example], habit: float) -> None:
        self.examples = {example.id: example for example in examples}
        self.habit = habit
        self.rng = np.random.default_rng(0)

    def generate(self, requests: Any, decoding: Any) -> list[Rollout]:
        rollouts = []
        for request in requests:
            view, example = request.view, self.examples[request.example_id]
            task = get_task(example.task)
            against = follows(task, dict(example.state)) is False
            text = reference_of_view(example, "student")
            if against and view.images and self.rng.random() < self.habit:
                text = text[: text.index("<answer>")] + "<answer>D R D R D R D R</answer>"
            rollouts.append(Rollout(example_id=example.id, token_ids=(1,), text=text, finished=True))
        return rollouts


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [
        example
        for task in WITH_PRIOR
        for pair in prior_pairs(task, [LEVEL[task.name]], 60, split="test", seed=0)
        for example in pair
    ]


def probe_rows(examples: list[Example], habit: float, out: Path) -> list[Any]:
    evaluate(
        Habitual(examples, habit),  # pyright: ignore[reportArgumentType]
        examples,
        stage="base",
        prompts="brief",
        max_new_tokens=400,
        out=out,
        conditions=("image", "text"),
    )
    return [
        row for condition in ("image", "text") for row in read_jsonl(rows_path(out, "base", condition)).rows
    ]


def test_a_planted_habit_shows_in_the_image_view_alone(examples: list[Example], tmp_path: Path) -> None:
    probe = prior_conflict(probe_rows(examples, 0.5, tmp_path))
    for task in WITH_PRIOR:
        seen, from_text = probe.conditions["image"][task.name], probe.conditions["text"][task.name]
        assert (seen.num_pairs, seen.num_unpaired) == (60, (0, 0))
        assert seen.follows.mean == 1.0
        assert seen.leans and seen.difference.mean == pytest.approx(seen.follows.mean - seen.reverses.mean)
        assert from_text.difference.mean == 0.0 and not from_text.leans
        assert seen.faults[1] is not None and seen.faults[1].counts["misplanned"] > 10
    assert probe.macro["image"].low > 0
    assert json.loads(json.dumps(probe.as_dict()))["conditions"]["image"]["frozenlake"]["num_pairs"] == 60


def test_no_habit_shows_no_difference(examples: list[Example], tmp_path: Path) -> None:
    probe = prior_conflict(probe_rows(examples, 0.0, tmp_path))
    for cell in probe.conditions["image"].values():
        assert cell.difference.mean == 0.0 and cell.difference.low < 0 < cell.difference.high
        assert not cell.leans


def lake_row(rows: list[str], length: int, success: bool, id_: str) -> dict[str, Any]:
    verdict = {"parsed": True, "illegal": False, "success": success, "optimal": success, "num_executed": 1}
    return {
        "id": id_,
        "condition": "image",
        "task": "frozenlake",
        "level": 2,
        "optimal_length": length,
        "state": {"map": rows},
        "response": "",
        "outcome": verdict | {"reason": "success" if success else "not_reached"},
        "fields": {"Size": "2"},
        "right": {"Size": True},
    }


def test_pairs_are_made_within_one_length_by_hand() -> None:
    rows = [
        lake_row(["SG", "FF"], 1, True, "a"),
        lake_row(["SF", "GF"], 1, True, "b"),
        lake_row(["SF", "FG"], 2, False, "c"),
        lake_row(["GS", "FF"], 1, False, "d"),
        lake_row(["GF", "FS"], 2, True, "e"),
        lake_row(["GF", "HS"], 2, False, "f"),
        # Upper right: neither with nor against.
        lake_row(["FG", "SF"], 2, True, "g"),
    ]
    [cell] = prior_conflict(rows).conditions["image"].values()
    # a-d and c-e are paired; b and f are left over.
    assert (cell.num_pairs, cell.num_unpaired) == (2, (1, 1))
    assert cell.difference == bootstrap_mean([1.0, -1.0], bounds=(-1.0, 1.0))
    assert (cell.follows.mean, cell.reverses.mean) == (0.5, 0.5)
    with pytest.raises(PilotageError, match="no two examples can be paired"):
        prior_conflict(rows[:3])


def test_the_command_pairs_rows_that_are_there(
    examples: list[Example], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe_rows(examples, 1.0, tmp_path)
    assert main(["diagnose", str(tmp_path), "prior", "--rows-only"]) == 0
    printed = capsys.readouterr().out
    assert (
        "image, frozenlake: usually the goal lies to the lower right of the player; the model leans on it"
        in printed
    )
    assert "text, minibehaviour: usually the table stands in the lower half" in printed
    assert "+100.0" in printed
    figures = json.loads((tmp_path / "eval" / "base.prior.json").read_text())
    assert figures["conditions"]["image"]["minibehaviour"]["difference"]["mean"] == 1.0


def test_the_command_draws_pairs_and_keeps_their_rows_apart_from_the_run_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose", "nano", "prior", "--num", "3", "--conditions", "image", "--threads", "1"]) == 0
    capsys.readouterr()
    folder = tmp_path / "runs" / "nano" / "probe"
    rows = read_jsonl(rows_path(folder, "base", "image")).rows
    sides = Counter((row["task"], follows(get_task(row["task"]), row["state"])) for row in rows)
    assert sides == {(task.name, side): 3 for task in WITH_PRIOR for side in (True, False)}
    assert (folder / "eval" / "base.prior.json").is_file()
    assert not (tmp_path / "runs" / "nano" / "eval").exists()
