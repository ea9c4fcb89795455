"""Sources of rollouts: what a prompt gets is a function of seed, step and slot, and its share is the one asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pilotage.errors import PilotageError
from pilotage.rollouts.sources import (
    FromDataSet,
    FromStudent,
    FromTeacher,
    Mixture,
    Sampling,
    by_source,
    on_policy_share,
    only,
    plan_rollouts,
    text_rollout,
)

STUDENT, DATA = FromStudent(), FromDataSet()
TEACHER = FromTeacher(view="teacher", weights="base", sampling=Sampling(num_samples=3))
GKD = on_policy_share(0.5, STUDENT, DATA)
THREE = Mixture(parts=((0.5, STUDENT), (0.3, DATA), (0.2, TEACHER)))


def drawn(mixture: Mixture, *, seed: int = 0, step: int = 0, slots: Any = range(64)) -> list[str]:
    return [mixture.draw(seed=seed, step=step, slot=slot).origin for slot in slots]


def test_draws_depend_on_seed_step_and_slot_alone():
    assert drawn(GKD) == drawn(GKD)
    assert drawn(GKD, slots=range(32, 64)) == drawn(GKD)[32:]
    assert drawn(GKD, step=1) != drawn(GKD)
    assert drawn(GKD, seed=1) != drawn(GKD)
    assert drawn(GKD, seed=-1) != drawn(GKD)


def test_shares_are_those_asked_for():
    counts = Counter(origin for step in range(100) for origin in drawn(THREE, step=step))
    shares = {origin: count / 6400 for origin, count in counts.items()}
    # Six standard deviations of 6,400 draws are below 0.04.
    assert shares == {
        "student": pytest.approx(0.5, abs=0.04),
        "dataset": pytest.approx(0.3, abs=0.04),
        "teacher": pytest.approx(0.2, abs=0.04),
    }


def test_a_batch_has_one_source_and_batches_differ():
    mixture = replace(GKD, per="batch")
    steps = [set(drawn(mixture, step=step)) for step in range(200)]
    assert all(len(origins) == 1 for origins in steps)
    assert sum(origins == {"student"} for origins in steps) == pytest.approx(100, abs=40)
    assert any(len(set(drawn(GKD, step=step))) == 2 for step in range(3))


def test_prompts_get_as_many_rows_as_their_source_says():
    rows = plan_rollouts(THREE, seed=3, step=2, slots=range(8, 40))
    origins = drawn(THREE, seed=3, step=2, slots=range(8, 40))
    expected = [
        (slot, sample, origin)
        for slot, origin in zip(range(8, 40), origins, strict=True)
        for sample in range(3 if origin == "teacher" else 1)
    ]
    assert [(row.slot, row.sample, row.source.origin) for row in rows] == expected
    assert {"teacher", "student"} <= set(origins)


def test_rows_of_all_ranks_have_different_numbers():
    whole = plan_rollouts(THREE, seed=0, step=0, slots=range(32))
    ranks = [plan_rollouts(THREE, seed=0, step=0, slots=slots) for slots in (range(16), range(16, 32))]
    assert ranks[0] + ranks[1] == whole
    numbers = [row.number(THREE) for row in whole]
    assert len(set(numbers)) == len(numbers)


def test_each_source_is_asked_once():
    rows = plan_rollouts(THREE, seed=0, step=0, slots=range(32))
    places = by_source(rows)
    assert sorted(place for of_source in places.values() for place in of_source) == list(range(len(rows)))
    for source, of_source in places.items():
        assert all(rows[place].source == source for place in of_source)


def test_lambda_of_one_and_zero_leave_one_source():
    assert on_policy_share(1.0, STUDENT, DATA) == only(STUDENT)
    assert on_policy_share(0.0, STUDENT, DATA) == only(DATA)
    assert GKD.origins == {"student", "dataset"}
    assert (GKD.max_samples, THREE.max_samples) == (1, 3)


def test_cut_distributions_are_not_the_policys_own():
    assert Sampling(temperature=0.7).is_exact
    assert not Sampling(top_p=0.95).is_exact
    assert not Sampling(top_k=20).is_exact


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Mixture(parts=()), "sum to 1"),
        (lambda: Mixture(parts=((0.5, STUDENT), (0.4, DATA))), r"\[0.5, 0.4\]"),
        (lambda: Mixture(parts=((1.5, STUDENT), (-0.5, DATA))), "above 0"),
        (lambda: Mixture(parts=((0.5, STUDENT), (0.5, STUDENT))), "the same source"),
        (lambda: Mixture(parts=((1.0, STUDENT),), per="row"), "prompt, batch"),  # type: ignore[arg-type]
        (lambda: on_policy_share(1.2, STUDENT, DATA), "sum to 1|above 0"),
        (lambda: Sampling(num_samples=0), "num_samples 0"),
        (lambda: Sampling(temperature=0.0), "temperature 0.0"),
        (lambda: Sampling(top_p=0.0), "top_p 0.0"),
        (lambda: Sampling(top_k=-1), "top_k -1"),
    ],
)
def test_settings_that_make_no_sense_are_named(make, named):
    with pytest.raises(PilotageError, match=named):
        make()


# -- texts as rollouts --------------------------------------------------------------------------------------------

CODEC: dict[str, Any] = {
    "encode": lambda text: [ord(letter) for letter in text],
    "decode": lambda ids: "".join(chr(i) for i in ids if i),
    "end_id": 0,
    "example_id": "maze-3-x",
}


def test_text_becomes_ids_with_the_end_of_turn():
    rollout = text_rollout("UR", **CODEC)
    assert (rollout.token_ids, rollout.text, rollout.finished) == ((85, 82, 0), "UR", True)
    assert (rollout.origin, rollout.example_id, rollout.logprobs) == ("dataset", "maze-3-x", ())


def test_prefill_is_the_prompts():
    assert text_rollout("<d>UR", prefill="<d>", **CODEC).text == "UR"
    with pytest.raises(PilotageError, match="maze-3-x.*'UR'.*'<d>'"):
        text_rollout("UR", prefill="<d>", **CODEC)


def test_long_texts_are_cut_and_not_finished():
    rollout = text_rollout("URD", max_new_tokens=2, **CODEC)
    assert (rollout.token_ids, rollout.text, rollout.finished) == ((85, 82), "UR", False)
    assert text_rollout("UR", max_new_tokens=3, **CODEC).finished


def test_text_that_the_tokenizer_cannot_write_is_refused():
    lossy: dict[str, Any] = {**CODEC, "encode": lambda text: [ord(letter) for letter in text.lower()]}
    with pytest.raises(PilotageError, match="'UR'.*'ur'"):
        text_rollout("UR", **lossy)
