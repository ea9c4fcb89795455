"""Evaluation files: exactly one row each, whatever was killed or failed in between."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pilotage.errors import PilotageError
from pilotage.evaluate import KINDS, Progress, evaluate, rows_path
from pilotage.records import Example, Rollout, View
from synthetic_run import ScriptedEngine, make_examples

PERFECT = {"image": (1.0, 0.0), "text": (1.0, 0.0), "perception": (1.0, 0.0)}
EXAMPLES = make_examples(3)


class Spy(ScriptedEngine):
    """Counts questions; fails on chosen examples, or dies after some batches."""

    def __init__(self, examples: Sequence[Example], *, bad: Sequence[str] = (), batches: int = 10**9) -> None:
        super().__init__(examples, PERFECT)
        self.bad, self.batches, self.asked = set(bad), batches, []

    def generate(
        self, views: Sequence[View], *, example_ids: Sequence[str], **settings: Any
    ) -> list[Rollout]:
        if self.batches == 0:
            raise KeyboardInterrupt
        self.batches -= 1
        if self.bad & set(example_ids):
            raise TimeoutError("no answer")
        self.asked.extend((view.name, id_) for view, id_ in zip(views, example_ids, strict=True))
        return super().generate(views, example_ids=example_ids, **settings)


def run(engine: Any, out: Path, examples: Sequence[Example] = EXAMPLES, **more: Any) -> Any:
    options = {"stage": "base", "prompts": "brief", "max_new_tokens": 400, "out": out, "batch_size": 2} | more
    return evaluate(engine, examples, **options)


def read(out: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rows_path(out, "base", kind).read_text().splitlines()]


def test_every_kind_has_one_row_for_every_example(tmp_path: Path) -> None:
    summary = run(Spy(EXAMPLES), tmp_path)
    for kind in KINDS:
        rows = read(tmp_path, kind)
        assert sorted(row["id"] for row in rows) == sorted(example.id for example in EXAMPLES)
        assert summary.kinds[kind].macro["success"].mean == 1.0
    image = read(tmp_path, "image")[0]
    assert image["view"] == "student"
    assert image["messages"][0]["role"] == "user"
    assert image["verdict"]["optimal"] is True
    assert image["settings"]["temperature"] == 0.0
    assert image["error"] is None and image["seconds"] >= 0
    assert read(tmp_path, "perception")[0]["verdict"] is None


def test_rows_can_be_judged_again_from_what_they_hold(tmp_path: Path) -> None:
    run(Spy(EXAMPLES), tmp_path)
    for row in read(tmp_path, "image"):
        assert {"id", "task", "state", "response"} <= set(row)


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    first = run(Spy(EXAMPLES), tmp_path)
    before = rows_path(tmp_path, "base", "image").read_bytes()
    again = Spy(EXAMPLES)
    assert run(again, tmp_path) == first
    assert again.asked == []
    assert rows_path(tmp_path, "base", "image").read_bytes() == before


@pytest.mark.parametrize("batches", [0, 1, 4, 7])
def test_killed_between_batches_it_goes_on_without_asking_twice(tmp_path: Path, batches: int) -> None:
    killed = Spy(EXAMPLES, batches=batches)
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path)
    rest = Spy(EXAMPLES)
    summary = run(rest, tmp_path)
    asked = killed.asked + rest.asked
    assert len(asked) == len(set(asked)) == 3 * len(EXAMPLES)
    assert summary.kinds["text"].tasks["maze"].n == 3


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_half_written_last_row_is_cut_off_and_asked_again(tmp_path: Path, cut: int) -> None:
    run(Spy(EXAMPLES), tmp_path)
    path = rows_path(tmp_path, "base", "text")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = Spy(EXAMPLES)
    run(again, tmp_path)
    # With only the newline gone the row is whole.
    assert len(again.asked) == (0 if cut == 1 else 1)
    rows = read(tmp_path, "text")
    assert sorted(row["id"] for row in rows) == sorted(example.id for example in EXAMPLES)


def test_a_row_written_twice_counts_once(tmp_path: Path) -> None:
    run(Spy(EXAMPLES), tmp_path)
    path = rows_path(tmp_path, "base", "image")
    path.write_bytes(path.read_bytes() * 2)
    summary = run(Spy(EXAMPLES), tmp_path)
    assert len(read(tmp_path, "image")) == len(EXAMPLES)
    assert summary.kinds["image"].tasks["maze"].n == 3


def test_a_failure_costs_one_row_stays_in_the_denominator_and_is_asked_again(tmp_path: Path) -> None:
    bad = EXAMPLES[0].id
    summary = run(Spy(EXAMPLES, bad=[bad]), tmp_path)
    rates = summary.kinds["image"].tasks["frozenlake"]
    assert (rates.n, rates.num_errors) == (3, 1)
    assert rates.rates["success"].mean == pytest.approx(2 / 3)
    failed = [row for row in read(tmp_path, "image") if row["error"]]
    assert [row["id"] for row in failed] == [bad]
    assert failed[0]["error"] == "TimeoutError: no answer"
    assert failed[0]["verdict"] is None
    mended = Spy(EXAMPLES)
    summary = run(mended, tmp_path)
    assert {id_ for _, id_ in mended.asked} == {bad}
    assert summary.kinds["image"].tasks["frozenlake"].rates["success"].mean == 1.0
    assert len(read(tmp_path, "image")) == len(EXAMPLES)


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"model": "other"}, {"prompts": "full"}])
def test_a_file_is_not_continued_with_other_settings(tmp_path: Path, change: dict[str, Any]) -> None:
    run(Spy(EXAMPLES), tmp_path)
    before = rows_path(tmp_path, "base", "image").read_bytes()
    with pytest.raises(PilotageError, match="another folder"):
        run(Spy(EXAMPLES), tmp_path, **change)
    assert rows_path(tmp_path, "base", "image").read_bytes() == before


def test_progress_reaches_the_total_and_hands_over_every_row_once(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with pytest.raises(KeyboardInterrupt):
        run(Spy(EXAMPLES, batches=2), tmp_path)
    run(Spy(EXAMPLES), tmp_path, progress=seen.append)
    for kind in KINDS:
        of_kind = [p for p in seen if p.kind == kind]
        assert of_kind[-1].num_done == of_kind[-1].num_total == len(EXAMPLES)
        ids = [row["id"] for p in of_kind for row in p.rows]
        assert sorted(ids) == sorted(example.id for example in EXAMPLES)
    assert len(seen[0].rows) == 4


def test_requests_that_make_no_sense_are_refused_before_any_work(tmp_path: Path) -> None:
    engine = Spy(EXAMPLES)
    with pytest.raises(PilotageError, match="unknown kinds"):
        run(engine, tmp_path, kinds=("smell",))
    with pytest.raises(PilotageError, match="more than once"):
        run(engine, tmp_path, [EXAMPLES[0], EXAMPLES[0]])
    with pytest.raises(PilotageError, match="no examples"):
        run(engine, tmp_path, [])
    with pytest.raises(PilotageError, match="stage"):
        run(engine, tmp_path, stage="../x")
    assert engine.asked == []
