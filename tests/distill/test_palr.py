"""PALR on numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pilotage.distill.palr import EPS, PalrRow, PalrSums, palr
from pilotage.distill.spans import STATE, Spans
from pilotage.distill.vigos_spans import VIGOS_SPANS

OWNERS = ("description", "reasoning", "answer", "untaught")


def log(*p: float) -> np.ndarray:
    return np.log(np.array(p))


# Token by token: description (no answer in sight), reasoning, answer, and one without a teacher.
#   s   = ln 2 | ln 2 | ln 4 | -
#   c^A = 0 | ln(.5 / mean(.25, .25)) = ln 2 | ln(.8 / mean(.1, .3)) = ln 4 | -
#   c^I = ln(.5 / .125) = ln 4 | ln(.5 / .25) = ln 2 | [ln(.8 / .9)]+ = 0 | -
ROW = PalrRow(
    spans=Spans(owners=OWNERS, names=VIGOS_SPANS),
    student_logp_T=log(0.25, 0.25, 0.2, 0.5),
    teacher_logp_T=log(0.5, 0.5, 0.8, 0.9),
    taught_T=np.array([True, True, True, False]),
    sees_answer_T=np.array([False, True, True, True]),
    wrong_answer_logp_KT=np.stack([log(0.001, 0.25, 0.1, 0.001), log(0.001, 0.25, 0.3, 0.001)]),
    sees_image_T=np.array([True, True, True, True]),
    other_image_logp_T=log(0.125, 0.25, 0.9, 0.001),
)
L2 = math.log(2) ** 2
# In units of (ln 2)^2: description 0 and 2, reasoning 1 and 1, answer 4 and 0.
BY_HAND = {
    "description": (1, 0 * L2, 2 * L2, 0.0),
    "reasoning_answer": (2, 5 * L2, 1 * L2, 5 / 6),
    "all": (3, 5 * L2, 3 * L2, 5 / 8),
    "invalid": (0, 0.0, 0.0, float("nan")),
}


@pytest.mark.parametrize("group", BY_HAND)
def test_rates_by_hand(group):
    found = palr([ROW])
    num_tokens, answer, image, rate = BY_HAND[group]
    sums = found.groups[group]
    assert sums.num_tokens == num_tokens
    assert (sums.answer_nats2, sums.image_nats2) == (pytest.approx(answer), pytest.approx(image))
    assert sums.rate == pytest.approx(rate, abs=1e-6, nan_ok=True)
    assert (found.num_wrong_answers, found.num_valid, found.num_invalid) == (2, 1, 0)


def test_a_row_with_fewer_wrong_answers_is_averaged_over_those_that_it_has():
    """One wrong answer, .25 and .1: s c^A = ln 2 * ln(.5 / .25) + ln 4 * ln(.8 / .1), 1 and 6 times (ln 2)^2."""
    fewer = replace(ROW, wrong_answer_logp_KT=ROW.wrong_answer_logp_KT[:1])
    found = palr([ROW, fewer])
    assert found.num_wrong_answers == 2
    sums = found.groups["reasoning_answer"]
    own = palr([fewer]).groups["reasoning_answer"]
    assert sums.answer_nats2 == pytest.approx(5 * L2 + own.answer_nats2)
    assert own.answer_nats2 == pytest.approx(L2 + 6 * L2)


def test_probabilities_of_wrong_answers_are_averaged_not_their_logs():
    """mean(.1, .3) = .2 for the answer; the mean of the logs would give sqrt(.03)."""
    sums = palr([ROW]).groups["reasoning_answer"]
    geometric = math.log(4) * math.log(0.8 / math.sqrt(0.03)) + L2
    assert sums.answer_nats2 == pytest.approx(5 * L2)
    assert abs(sums.answer_nats2 - geometric) > 0.1


def test_invalid_rows_are_apart_and_in_no_group():
    broken = replace(ROW, spans=replace(ROW.spans, valid=False))
    found = palr([ROW, broken])
    assert found.groups["all"] == palr([ROW]).groups["all"]
    assert found.groups["invalid"] == palr([ROW]).groups["all"]
    assert (found.num_valid, found.num_invalid) == (1, 1)


def test_parts_add_up():
    assert palr([ROW, ROW]).groups["all"] == palr([ROW]).groups["all"] + palr([ROW]).groups["all"]
    assert PalrSums(num_tokens=1, answer_nats2=3.0, image_nats2=1.0).rate == pytest.approx(0.75)


def test_teacher_without_the_answer_does_not_leak_it_whatever_the_wrong_answers_say():
    blind = replace(ROW, sees_answer_T=np.zeros(4, bool), wrong_answer_logp_KT=np.zeros((0, 4)))
    found = palr([blind])
    assert found.groups["all"].answer_nats2 == 0.0
    assert found.groups["all"].rate == 0.0
    assert found.num_wrong_answers == 0


def test_teacher_without_the_image_has_only_the_answer_to_lean_on():
    blind = replace(ROW, sees_image_T=np.zeros(4, bool))
    assert palr([blind]).groups["reasoning_answer"].rate == pytest.approx(5 * L2 / (5 * L2 + EPS))


def test_answers_that_make_a_token_less_likely_do_not_count():
    likelier_with_wrong = replace(ROW, wrong_answer_logp_KT=log(0.99, 0.99, 0.99, 0.99)[None])
    assert palr([likelier_with_wrong]).groups["all"].answer_nats2 == 0.0


def test_student_that_agrees_is_taught_nothing_and_leaks_nothing():
    assert palr([replace(ROW, student_logp_T=ROW.teacher_logp_T)]).groups["all"].rate == 0.0


def test_empty_groups_are_no_zeros():
    assert math.isnan(palr([]).groups["all"].rate)
    assert "palr/invalid" not in palr([ROW]).as_dict()
    assert palr([ROW]).as_dict()["palr/all"] == pytest.approx(5 / 8)
    assert palr([ROW]).as_dict()["palr/num_wrong_answers"] == 2.0


def test_other_formats_have_other_groups():
    row = replace(ROW, spans=Spans(owners=(STATE,) * 4))
    found = palr([row], {"state": (STATE,), "route": ("route",)})
    assert found.groups["state"] == found.groups["all"]
    assert found.groups["route"].num_tokens == 0


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([replace(ROW, student_logp_T=log(0.5))], r"row 0: student_logp_T has shape \(1,\), the row 4 tokens"),
        ([replace(ROW, wrong_answer_logp_KT=np.zeros((0, 4)))], "needs K >= 1"),
        ([replace(ROW, wrong_answer_logp_KT=np.zeros((2, 3)))], "of 4 tokens"),
        ([replace(ROW, teacher_logp_T=np.array([0.0, -np.inf, 0.0, 0.0]))], "row 0, token 1: teacher_logp_T is -inf"),
    ],
)  # fmt: skip
def test_rows_that_make_no_sense_are_named(rows, named):
    with pytest.raises(ValueError, match=named):
        palr(rows)


def test_numbers_of_tokens_without_teacher_are_not_read():
    odd = replace(ROW, other_image_logp_T=np.array([*ROW.other_image_logp_T[:3], np.nan]))
    assert palr([odd]).groups == palr([ROW]).groups


def test_reserved_names_are_refused():
    with pytest.raises(ValueError, match="always there"):
        palr([ROW], {"all": ("answer",)})
