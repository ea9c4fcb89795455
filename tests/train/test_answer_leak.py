"""PALR and the privilege gap on a run's own teachers: who sees the answer, what is counted, nothing disturbed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from distill_run import other_weights, references, rows_of, tiny_config, tiny_examples
from pilotage.backbones.encode import encode_with_response
from pilotage.backbones.load import Backbone
from pilotage.distill.divergences import ForwardKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.errors import PilotageError
from pilotage.recipes.methods import opsd_stage, vigos_stage
from pilotage.records import View
from pilotage.train.answer_leak import Leak, LeakProbe, leak_meter, leak_of_trained
from pilotage.train.distill import distill
from pilotage.train.distill_config import EMA, AdapterOff, DistillConfig, FrozenCopy, Live
from pilotage.train.step.teacher_models import TeacherModels
from pilotage.views import reference_of_view
from pilotage.worlds import get_task
from pilotage.worlds.grids.views import VIEWS
from pilotage.worlds.questions.data.build import iter_questions
from pilotage.worlds.questions.question import question_of
from pilotage.worlds.questions.recipes import vigos_question_stage
from tiny import tiny_backbone

FORWARD = FullVocabulary(divergence=ForwardKL())
NUM_EXAMPLES, NUM_WRONG = 4, 3


def leak_of(config: DistillConfig, *, teacher: Backbone | None = None, break_first: bool = False) -> Leak:
    student = tiny_backbone()
    teachers = TeacherModels(config, student=student, given=teacher, device=torch.device("cpu"))
    return leak_meter(
        config,
        student=student,
        teachers=teachers,
        examples=tiny_examples(),
        num_examples=NUM_EXAMPLES,
        num_wrong=NUM_WRONG,
        engine=references(student, break_first=break_first),
    ).measure()


def stage() -> DistillConfig:
    return tiny_config(max_new_tokens=120)


def test_a_teacher_that_sees_the_picture_alone_teaches_nothing_by_the_answer_and_one_that_is_told_does() -> (
    None
):
    leak = leak_of(vigos_stage(stage(), form="paper", weights=FrozenCopy()), teacher=other_weights())
    groups = leak.palr.groups
    assert leak.palr.num_valid == NUM_EXAMPLES and leak.palr.num_wrong_answers == NUM_WRONG
    assert groups["description"].answer_nats2 == 0.0 < groups["description"].image_nats2
    assert groups["reasoning_answer"].answer_nats2 > 0.0
    assert 0.0 < groups["reasoning_answer"].rate < 1.0
    assert (
        groups["all"].num_tokens == groups["description"].num_tokens + groups["reasoning_answer"].num_tokens
    )
    assert "state" not in leak.gap_nats, "its teacher has no answer that could be taken away"
    assert set(leak.gap_nats) == {"route", "answer", "all"}


def test_a_teacher_that_reads_words_leans_on_no_picture_and_the_control_on_no_answer() -> None:
    words = leak_of(stage(), teacher=other_weights()).palr.groups["all"]
    assert words.image_nats2 == 0.0 < words.answer_nats2
    control = leak_of(tiny_config(max_new_tokens=120, view="student"), teacher=other_weights())
    assert control.palr.num_wrong_answers == 0 and control.gap_nats == {}
    assert control.palr.groups["all"].answer_nats2 == 0.0 < control.palr.groups["all"].image_nats2


def test_a_teacher_that_says_what_the_student_says_teaches_nothing() -> None:
    control = leak_of(tiny_config(max_new_tokens=120, view="student"))
    assert control.palr.groups["all"].image_nats2 == pytest.approx(0.0, abs=1e-8)


def test_rows_that_break_the_format_are_counted_apart() -> None:
    config = vigos_stage(stage(), form="paper", weights=FrozenCopy())
    whole = leak_of(config, teacher=other_weights())
    broken = leak_of(config, teacher=other_weights(), break_first=True)
    assert (broken.palr.num_valid, broken.palr.num_invalid) == (NUM_EXAMPLES - 1, 1)
    assert broken.palr.groups["invalid"].num_tokens > 0 == whole.palr.groups["invalid"].num_tokens
    assert broken.palr.groups["all"].num_tokens < whole.palr.groups["all"].num_tokens


def test_the_privilege_gap_is_that_of_plain_forwards() -> None:
    """Each answer scored by whole, unbatched forwards with and without the plan."""
    teacher = other_weights()
    leak = leak_of(opsd_stage(stage(), version=3, weights=FrozenCopy()), teacher=teacher)
    gaps = []
    probe = LeakProbe(stage(), tiny_examples(), num_examples=NUM_EXAMPLES, num_wrong=NUM_WRONG)
    for probed in probe.probed:
        text = reference_of_view(probed.example, "student") + str(teacher.tokenizer.eos_token)
        ids: Any = teacher.tokenizer(text, add_special_tokens=False)["input_ids"]
        informed, blind = (
            plain_logps(teacher, VIEWS[name](probed.example, "brief"), ids)
            for name in ("student_with_plan", "student")
        )
        gaps += list(informed - blind)
    assert leak.gap_nats["all"] == pytest.approx(float(np.mean(gaps)), abs=1e-5)
    assert abs(leak.gap_nats["all"]) > 1e-4


@torch.no_grad()
def plain_logps(backbone: Backbone, view: View, ids: list[int]) -> np.ndarray:
    encoded = encode_with_response(backbone, [view], [ids], pad_to_multiple=1)
    logits = backbone.model(**encoded["inputs"]).logits[0]
    logp = logits[-len(ids) - 1 : -1].log_softmax(-1)
    return logp.gather(1, torch.tensor(ids)[:, None]).squeeze(1).double().numpy()


def test_measuring_on_the_way_changes_no_step(tmp_path) -> None:
    config = replace(stage(), steps=3, max_new_tokens=6)
    for name, palr_every in (("plain", 0), ("probed", 2)):
        distill(
            replace(config, palr_every=palr_every, palr_examples=2, palr_wrong_answers=2),
            student=tiny_backbone(),
            examples=tiny_examples(),
            run_dir=tmp_path / name,
        )
    plain, probed = rows_of(tmp_path / "plain"), rows_of(tmp_path / "probed")
    is_probe = ("palr/", "privilege_gap/")
    assert [any(name.startswith(is_probe) for name in row) for row in probed] == [True, False, True]
    assert [{k: v for k, v in row.items() if not k.startswith(is_probe)} for row in probed] == plain
    assert probed[0]["palr/num_wrong_answers"] == 2.0


def test_a_finished_stage_is_measured_with_the_weights_it_began_with() -> None:
    config = opsd_stage(stage(), version=3, weights=AdapterOff())
    start, trained = tiny_backbone(), other_weights()

    def measured(start: Backbone, trained: Backbone) -> Leak:
        return leak_of_trained(
            replace(config, max_new_tokens=8),
            start=start,
            trained=trained,
            examples=tiny_examples(),
            num_examples=2,
            num_wrong=2,
        )

    leak = measured(start, trained).palr.groups["all"]
    assert leak.answer_nats2 > 0.0
    assert measured(start, trained).palr.groups["all"] == leak, "the same twice"
    assert measured(trained, trained).palr.groups["all"] != leak, "the teacher is what the stage began with"


@pytest.mark.parametrize("weights", [Live(), EMA(rate=0.1)], ids=str)
def test_teachers_that_moved_are_refused_afterwards(weights: Any) -> None:
    with pytest.raises(PilotageError, match="moved with the student.*palr_every"):
        leak_of_trained(
            tiny_config(max_new_tokens=120, weights=weights),
            start=tiny_backbone(),
            trained=tiny_backbone(),
            examples=tiny_examples(),
            num_examples=2,
            num_wrong=2,
        )


def test_a_probe_needs_examples_with_wrong_answers() -> None:
    with pytest.raises(PilotageError, match="num_wrong 0 must be at least 1"):
        LeakProbe(stage(), tiny_examples(), num_examples=1, num_wrong=0)
    alone = [example for example in tiny_examples() if example.task == "maze"][:1]
    with pytest.raises(PilotageError, match=r"in 1 examples: 1 whose task has no other picture .*\(maze\)"):
        LeakProbe(stage(), alone, num_examples=1, num_wrong=1)


def test_an_example_with_fewer_wrong_answers_is_compared_with_those(caplog: pytest.LogCaptureFixture) -> None:
    lake = [(get_task("frozenlake"), 3)]
    asked = list(iter_questions(lake, ("safe", "cell"), 4, "train", 0))
    unknown = replace(asked[1], id="text", hidden={**asked[1].hidden, "answer": "in the corner"})
    only = next(iter_questions([(get_task("maze"), 3)], ("safe",), 1, "train", 0))
    config = vigos_question_stage(stage(), form="paper", weights=FrozenCopy())
    with caplog.at_level("WARNING"):
        probe = LeakProbe(config, [*asked, unknown, only], num_examples=9, num_wrong=3)
    assert [(question_of(p.example).kind, len(p.wrong)) for p in probe.probed] == [
        ("safe", 1),
        ("cell", 3),
        ("safe", 1),
        ("cell", 3),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "PALR leaves out 1 without a known wrong answer (cell); "
        "1 whose task has no other picture to compare with (safe)",
        "PALR takes fewer than 3 wrong answers of 2 of 4 examples, as many as are known (safe)",
    ]
