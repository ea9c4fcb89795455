"""Questions about pictures are measured like levels: every answer a row, graded by the one grader, gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.evaluate import evaluate, rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.records import Example
from pilotage.report import write_report
from pilotage.worlds.questions.question import make_question, question_of
from question_run import answers, questions


def measured(asked: list[Example], out: Path, engine: Any = None) -> Any:
    return evaluate(
        engine or answers(asked),
        asked,
        stage="base",
        prompts="brief",
        max_new_tokens=200,
        out=out,
        conditions=("question",),
    )


def test_answers_are_graded_and_failures_stay_in_the_denominator(tmp_path: Path) -> None:
    asked = questions()
    summary = measured(asked, tmp_path)
    rows = {row["id"]: row for row in read_jsonl(rows_path(tmp_path, "base", "question")).rows}
    assert len(rows) == len(asked)
    reasons: dict[str, int] = {}
    for number, question in enumerate(asked):
        row = rows[question.id]
        outcome, content = row["outcome"], question_of(question)
        assert row["right"] == {"answer": outcome["success"]} == {"answer": number % 3 == 0}, row["response"]
        assert row["response"].startswith("<description>") and row["asked"] == {
            "text": content.text,
            "options": [],
            "answer": content.answer,
            "accepted": list(content.accepted),
            "solution": content.solution,
        }
        assert row["axes"] == {"task": question.task, "level": question.level, "kind": content.kind}
        assert outcome["parsed"] == (number % 3 != 2)
        said = {0: {"answer": content.answer}, 1: {"answer": "nowhere"}, 2: {}}
        assert row["fields"] == said[number % 3] and outcome.get("matched") == (
            None if number % 3 else "text"
        )
        reasons[outcome["reason"]] = reasons.get(outcome["reason"], 0) + 1
    assert reasons["no_box"] == len(range(2, len(asked), 3))
    cells = summary.conditions["question"].tasks
    won = sum(rate.rates["success"].mean * rate.n for rate in cells.values())
    assert won == pytest.approx(len(range(0, len(asked), 3)))
    parsed = sum(rate.rates["parsed"].mean * rate.n for rate in cells.values())
    assert parsed == pytest.approx(len(asked) - reasons["no_box"])
    assert set(cells["maze"].rates) == {"success", "parsed", "state", "finished"}, "none of a plan's"


def test_what_is_there_is_not_asked_again(tmp_path: Path) -> None:
    asked = questions()
    measured(asked[:5], tmp_path)
    before = rows_path(tmp_path, "base", "question").read_text().splitlines()

    class Counting:
        def __init__(self) -> None:
            self.asked: list[str] = []

        def generate(self, requests: Any, decoding: Any) -> Any:
            self.asked += [request.example_id for request in requests]
            return answers(asked).generate(requests, decoding)

    engine = Counting()
    measured(asked, tmp_path, engine)
    after = rows_path(tmp_path, "base", "question").read_text().splitlines()
    assert after[:5] == before and len(after) == len(asked)
    assert sorted(engine.asked) == sorted(question.id for question in asked[5:])


def test_an_answer_that_wants_to_be_run_is_text(tmp_path: Path) -> None:
    image = questions()[0].image
    question = make_question(
        id="q", split="test", question="?", options=("one", "two"), answer="A", image=image
    )

    class Hostile:
        def generate(self, requests: Any, decoding: Any) -> Any:
            from pilotage.records import Rollout

            text = (
                r"</description><think>" + "{" * 10_000 + r"</think>\boxed{__import__('os').system('true')}"
            )
            return [Rollout(example_id="q", token_ids=(1,), text=text, finished=True)]

    measured([question], tmp_path, Hostile())
    [row] = read_jsonl(rows_path(tmp_path, "base", "question")).rows
    assert row["outcome"]["success"] is False and row["error"] is None


def test_levels_and_questions_do_not_mix(tmp_path: Path) -> None:
    asked = questions()
    with pytest.raises(PilotageError, match=r"unknown condition 'image': Questions is measured by question"):
        evaluate(
            answers(asked),
            asked,
            stage="base",
            prompts="brief",
            max_new_tokens=9,
            out=tmp_path,
            conditions=("image",),
        )


def test_the_command_measures_a_set_of_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "questions", tmp_path / "run"
    build = ["data", "questions", "--out", str(data), "--tasks", "frozenlake", "--levels", "frozenlake", "3"]
    assert main([*build, "--num-train", "1", "--num-val", "1", "--num-test", "6"]) == 0
    assert main(["eval", "nano", "--data", str(data), "--num", "4", "--out", str(run)]) == 0
    stored = json.loads((run / "eval" / "base.summary.json").read_text())
    assert stored["conditions"]["question"]["tasks"]["frozenlake"]["n"] == 4
    assert "question" in capsys.readouterr().out
    write_report(run)
    page = (run / "report.html").read_text()
    assert "FrozenLake. Base: from the picture and the question" in page
