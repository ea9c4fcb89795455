"""Evaluation files: exactly one row each, whatever was killed or failed in between."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilotage.errors import PilotageError
from pilotage.evaluate import USUAL_CONDITIONS, Progress, evaluate, rows_path
from pilotage.evaluate.run import sample_seed
from pilotage.records import Example, Rollout, View
from pilotage.rollouts import Answer, Decoding, Request
from synthetic_run import ScriptedEngine, make_examples

PERFECT: dict[str, tuple[float, float]] = dict.fromkeys(
    (*USUAL_CONDITIONS, "teacher", "teacher_no_plan", "student_with_plan"), (1.0, 0.0)
)
EXAMPLES = make_examples(3)


class Spy(ScriptedEngine):
    """Counts questions; fails on chosen examples, or dies after some batches."""

    def __init__(self, examples: Sequence[Example], *, bad: Sequence[str] = (), batches: int = 10**9) -> None:
        super().__init__(examples, PERFECT)
        self.bad, self.batches, self.asked = set(bad), batches, []

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        if self.batches == 0:
            raise KeyboardInterrupt
        self.batches -= 1
        if self.bad & {request.example_id for request in requests}:
            raise TimeoutError("no answer")
        self.asked.extend((request.view.name, request.example_id) for request in requests)
        return super().generate(requests, decoding)


def run(engine: Any, out: Path, examples: Sequence[Example] = EXAMPLES, **more: Any) -> Any:
    options = {"stage": "base", "prompts": "brief", "max_new_tokens": 400, "out": out, "batch_size": 2} | more
    return evaluate(engine, examples, **options)


def read(out: Path, condition: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rows_path(out, "base", condition).read_text().splitlines()]


def test_every_condition_has_one_row_for_every_example(tmp_path: Path) -> None:
    summary = run(Spy(EXAMPLES), tmp_path)
    for condition in USUAL_CONDITIONS:
        rows = read(tmp_path, condition)
        assert sorted(row["id"] for row in rows) == sorted(example.id for example in EXAMPLES)
        assert summary.conditions[condition].macro["success"].mean == 1.0
    image = read(tmp_path, "image")[0]
    assert image["view"] == "student"
    assert image["messages"][0]["role"] == "user"
    assert image["outcome"]["optimal"] is True
    assert image["settings"]["temperature"] == 0.0
    assert image["error"] is None and image["seconds"] >= 0
    assert read(tmp_path, "perception")[0]["outcome"] == {"success": True, "reason": "success"}


def test_every_teacher_can_be_asked_to_plan_itself(tmp_path: Path) -> None:
    conditions = ("teacher", "teacher_no_plan", "teacher_with_picture")
    summary = run(Spy(EXAMPLES), tmp_path, conditions=conditions)
    row = read(tmp_path, "teacher_with_picture")[0]
    assert row["view"] == "student_with_plan"
    example = next(example for example in EXAMPLES if example.id == row["id"])
    (message,) = row["messages"]
    assert {"type": "image"} in message["content"]
    assert " ".join(example.plan) in str(message["content"])
    for condition in conditions:
        assert summary.conditions[condition].macro["success"].mean == 1.0


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
    assert summary.conditions["text"].tasks["maze"].n == 3


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
    assert summary.conditions["image"].tasks["maze"].n == 3


def test_a_failure_costs_one_row_stays_in_the_denominator_and_is_asked_again(tmp_path: Path) -> None:
    bad = EXAMPLES[0].id
    summary = run(Spy(EXAMPLES, bad=[bad]), tmp_path)
    rates = summary.conditions["image"].tasks["frozenlake"]
    assert (rates.n, rates.num_errors) == (3, 1)
    assert rates.rates["success"].mean == pytest.approx(2 / 3)
    failed = [row for row in read(tmp_path, "image") if row["error"]]
    assert [row["id"] for row in failed] == [bad]
    assert failed[0]["error"] == "TimeoutError: no answer"
    assert failed[0]["outcome"] is None
    mended = Spy(EXAMPLES)
    summary = run(mended, tmp_path)
    assert {id_ for _, id_ in mended.asked} == {bad}
    assert summary.conditions["image"].tasks["frozenlake"].rates["success"].mean == 1.0
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
    for condition in USUAL_CONDITIONS:
        of_condition = [p for p in seen if p.condition == condition]
        assert of_condition[-1].num_done == of_condition[-1].num_total == len(EXAMPLES)
        ids = [row["id"] for p in of_condition for row in p.rows]
        assert sorted(ids) == sorted(example.id for example in EXAMPLES)
    assert len(seen[0].rows) == 4


def test_requests_that_make_no_sense_are_refused_before_any_work(tmp_path: Path) -> None:
    engine = Spy(EXAMPLES)
    with pytest.raises(PilotageError, match="unknown condition"):
        run(engine, tmp_path, conditions=("smell",))
    with pytest.raises(PilotageError, match="more than once"):
        run(engine, tmp_path, [EXAMPLES[0], EXAMPLES[0]])
    with pytest.raises(PilotageError, match="no examples"):
        run(engine, tmp_path, [])
    with pytest.raises(PilotageError, match="stage"):
        run(engine, tmp_path, stage="../x")
    assert engine.asked == []


class Sampler(Spy):
    """Answers differ from seed to seed; remembers with which seed each example was asked."""

    def __init__(self, examples: Sequence[Example], **more: Any) -> None:
        super().__init__(examples, **more)
        self.seeds: list[tuple[str, int]] = []

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        rollouts = super().generate(requests, decoding)
        self.seeds.extend((request.example_id, request.seed) for request in requests)
        return [
            replace(rollout, text=f"{request.seed} {rollout.text}")
            for request, rollout in zip(requests, rollouts, strict=True)
        ]


def keys(out: Path, condition: str = "image") -> list[tuple[str, int]]:
    return sorted((row["id"], row["sample"]) for row in read(out, condition))


def sampled(engine: Any, out: Path, samples: int, **more: Any) -> Any:
    return run(engine, out, conditions=("image",), temperature=0.8, samples=samples, **more)


def test_every_example_has_as_many_rows_as_samples_each_from_its_own_seed(tmp_path: Path) -> None:
    engine = Sampler(EXAMPLES)
    summary = sampled(engine, tmp_path, 3)
    assert keys(tmp_path) == sorted((example.id, k) for example in EXAMPLES for k in range(3))
    assert len(set(engine.seeds)) == 3 * len(EXAMPLES)
    rates = summary.conditions["image"].tasks["maze"]
    assert (rates.n, rates.num_answers, rates.rates["success"].n) == (3, 9, 3)


def test_more_samples_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    sampled(Sampler(EXAMPLES), tmp_path, 1)
    before = {(row["id"], row["sample"]): row["response"] for row in read(tmp_path, "image")}
    more = Sampler(EXAMPLES)
    sampled(more, tmp_path, 3)
    assert len(more.asked) == 2 * len(EXAMPLES)
    after = {(row["id"], row["sample"]): row["response"] for row in read(tmp_path, "image")}
    assert before.items() <= after.items() and len(after) == 3 * len(EXAMPLES)
    # Asked for fewer again, the rest stays in the file and out of the rates.
    assert sampled(Sampler(EXAMPLES), tmp_path, 2).conditions["image"].tasks["maze"].num_answers == 6
    assert len(read(tmp_path, "image")) == 3 * len(EXAMPLES)


@pytest.mark.parametrize("batches", [0, 3, 8])
def test_samples_are_complete_after_a_kill(tmp_path: Path, batches: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        sampled(Sampler(EXAMPLES, batches=batches), tmp_path, 3)
    sampled(Sampler(EXAMPLES), tmp_path, 3)
    assert keys(tmp_path) == sorted((example.id, k) for example in EXAMPLES for k in range(3))


def test_a_run_with_another_seed_shares_no_sample_seed() -> None:
    seeds = [sample_seed(seed, sample) for seed in range(50) for sample in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert [sample_seed(seed, 0) for seed in range(5)] == [0, 1, 2, 3, 4]


def test_samples_without_a_temperature_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PilotageError, match="give a temperature"):
        run(Spy(EXAMPLES), tmp_path, samples=2)
    with pytest.raises(PilotageError, match="samples 0"):
        run(Spy(EXAMPLES), tmp_path, samples=0)


def test_rows_from_before_there_were_samples_are_the_first_ones(tmp_path: Path) -> None:
    run(Spy(EXAMPLES), tmp_path)
    path = rows_path(tmp_path, "base", "image")
    old = [
        {k: v for k, v in row.items() if k not in ("sample", "error_kind")} for row in read(tmp_path, "image")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    again = Spy(EXAMPLES)
    run(again, tmp_path)
    assert again.asked == [] and "endpoint" not in old[0]["settings"]


class Streamer:
    """Answers one by one, the last question first; `failing` has (error, condition) for chosen examples."""

    def __init__(self, failing: dict[str, tuple[str, Any]], *, stop_after: int = 10**9) -> None:
        self.scripted = ScriptedEngine(EXAMPLES, PERFECT)
        self.failing, self.stop_after, self.asked = failing, stop_after, []

    def stream(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[Answer]:
        for index in reversed(range(len(requests))):
            if len(self.asked) == self.stop_after:
                raise PilotageError("the key was refused")
            id_ = requests[index].example_id
            self.asked.append(id_)
            error, error_kind = self.failing.get(id_, (None, None))
            rollout = None
            if error is None or error_kind == "too_large":
                (rollout,) = self.scripted.generate([requests[index]], decoding)
            yield Answer(index=index, rollout=rollout, error=error, error_kind=error_kind, seconds=0.5)


def test_a_stream_s_rows_are_there_one_by_one_and_stay_when_it_breaks(tmp_path: Path) -> None:
    with pytest.raises(PilotageError, match="refused"):
        run(Streamer({}, stop_after=4), tmp_path, conditions=("image",))
    assert len(read(tmp_path, "image")) == 4
    rest = Streamer({})
    run(rest, tmp_path, conditions=("image",))
    assert len(rest.asked) == len(EXAMPLES) - 4
    assert keys(tmp_path) == sorted((example.id, 0) for example in EXAMPLES)


def test_only_failures_that_say_nothing_of_the_model_are_asked_again(tmp_path: Path) -> None:
    error_kinds = ("transport", "engine", "refused", "empty", "too_large")
    failing = {
        example.id: (f"bad: {each}", each) for example, each in zip(EXAMPLES, error_kinds, strict=False)
    }
    summary = run(Streamer(failing), tmp_path, conditions=("image",))
    assert summary.conditions["image"].tasks["frozenlake"].num_errors == 3
    assert summary.conditions["image"].tasks["frozenlake"].rates["success"].mean == 0.0
    large = next(row for row in read(tmp_path, "image") if row["error_kind"] == "too_large")
    assert large["response"] and large["outcome"] is None and not any(large["right"].values())
    again = Streamer({})
    summary = run(again, tmp_path, conditions=("image",))
    assert sorted(again.asked) == sorted(id_ for id_, (_, each) in failing.items() if each in error_kinds[:2])
    assert summary.conditions["image"].tasks["frozenlake"].rates["success"].mean == pytest.approx(2 / 3)
    left = {row["error_kind"] for row in read(tmp_path, "image")}
    assert left == {None, "refused", "empty", "too_large"}


def test_before_work_sees_a_view_with_a_picture_and_may_stop_everything(tmp_path: Path) -> None:
    seen: list[View] = []

    def refuse(view: View) -> None:
        seen.append(view)
        raise PilotageError("nobody there")

    with pytest.raises(PilotageError, match="nobody there"):
        run(Spy(EXAMPLES), tmp_path / "run", conditions=("text", "image"), before_work=refuse)
    assert seen[0].images and not (tmp_path / "run").exists()


def test_before_work_is_not_called_when_nothing_is_missing(tmp_path: Path) -> None:
    run(Spy(EXAMPLES), tmp_path)
    run(Spy(EXAMPLES), tmp_path, before_work=lambda view: pytest.fail("nothing was to be asked"))


def test_two_evaluations_do_not_write_to_one_folder(tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        with pytest.raises(PilotageError, match="another evaluation"):
            run(Spy(EXAMPLES), tmp_path)

    run(Spy(EXAMPLES), tmp_path, conditions=("image",), progress=second)
    run(Spy(EXAMPLES), tmp_path, conditions=("image",))


def test_progress_counts_failures(tmp_path: Path) -> None:
    seen: list[Progress] = []
    failing = {EXAMPLES[0].id: ("cut", "transport"), EXAMPLES[4].id: ("no", "refused")}
    run(Streamer(failing), tmp_path, conditions=("image",), progress=seen.append)
    assert seen[-1].num_failed == 2
    seen.clear()
    run(Streamer({}), tmp_path, conditions=("image",), progress=seen.append)
    assert (seen[0].num_failed, seen[-1].num_failed, seen[-1].num_done) == (1, 1, len(EXAMPLES))
