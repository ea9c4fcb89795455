"""ViGOS on questions about pictures: the trainer takes them, its three teachers share the turn, the grader rewards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from distill_run import rows_of, tiny_config, tiny_examples
from pilotage.backbones.load import Backbone
from pilotage.errors import PilotageError
from pilotage.recipes import RECIPES
from pilotage.records import Example, Observation
from pilotage.runs.recipe import Form
from pilotage.train.answer_leak import leak_meter
from pilotage.train.distill import distill
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from pilotage.train.sft import SftConfig, run_sft
from pilotage.train.sft_rows import DataMixture, encode_rows
from pilotage.train.step.teacher_models import TeacherModels
from pilotage.views import make_view
from pilotage.worlds import get_task
from pilotage.worlds.questions.asked import QUESTION_KINDS
from pilotage.worlds.questions.data.build import iter_questions
from pilotage.worlds.questions.question import FOREIGN, question_of
from pilotage.worlds.questions.recipes import for_world, vigos_question_stage
from pilotage.worlds.questions.views import described, vqa_reference_response
from question_run import answers, questions
from tiny import tiny_backbone

pytestmark = pytest.mark.usefixtures("one_thread")


def other_teacher() -> Backbone:
    """Weights that differ, or teachers would say what the student says."""
    teacher = tiny_backbone()
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.mul_(1.5)
    return teacher


def from_elsewhere(example: Example) -> Example:
    """The same as if nobody knew what its picture is of."""
    start = Observation(text=example.start.text, images=example.start.images)
    return replace(example, axes={"task": FOREIGN, "level": 0, "kind": FOREIGN}, start=start)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_three_teachers_share_the_turn_and_the_grader_tells_what_is_right(form: Form, tmp_path):
    asked = questions()
    config = tiny_config(prompts_per_step=len(asked), micro_batch_size=4, max_new_tokens=300)
    stage = vigos_question_stage(config, form=form, weights=FrozenCopy())
    foreign = asked[0].task
    given = [from_elsewhere(question) if question.task == foreign else question for question in asked]
    distill(
        stage,
        student=tiny_backbone(),
        teacher=other_teacher(),
        examples=given,
        run_dir=tmp_path,
        engine=answers(asked),
    )
    (row,) = rows_of(tmp_path)
    assert row["rollout/success"] == pytest.approx(1 / 3)
    assert row["rollout/parsed"] == row["rollout/valid"] == pytest.approx(2 / 3)
    assert {f"rollout/success/{question.task}" for question in given} <= row.keys()
    tokens = {name: row[f"route/{name}/tokens"] for name in ("perception", "reasoning", "reference")}
    assert all(tokens.values()), tokens
    # A broken row's tokens are all the reference teacher's; no other row has any.
    backbone = tiny_backbone()
    broken: Any = backbone.tokenizer("no idea" + str(backbone.tokenizer.eos_token), add_special_tokens=False)
    assert tokens["reference"] == len(broken["input_ids"]) * len(asked) // 3
    assert row["route/perception/kl"] > 0 and row["route/reasoning/kl"] > 0


@pytest.mark.parametrize("form", ["paper", "released"])
def test_palr_finds_the_answer_in_what_the_teacher_of_reasoning_teaches_and_in_no_description(form: Form):
    lake = [(get_task("frozenlake"), 3)]
    asked = list(iter_questions(lake, QUESTION_KINDS, 2 * len(QUESTION_KINDS), "train", 0))
    config = tiny_config(prompts_per_step=len(asked), micro_batch_size=4, max_new_tokens=300)
    stage = vigos_question_stage(config, form=form, weights=FrozenCopy())
    student = tiny_backbone()
    meter = leak_meter(
        stage,
        student=student,
        teachers=TeacherModels(stage, student=student, given=other_teacher(), device=torch.device("cpu")),
        examples=asked,
        num_examples=len(asked),
        num_wrong=2,  # of yes and no, one is wrong
        engine=answers(asked),
    )
    assert [probed.example for probed in meter.probe.probed] == asked
    leak = meter.measure()
    groups = leak.palr.groups
    num_broken = len(range(2, len(asked), 3))
    assert (leak.palr.num_valid, leak.palr.num_invalid) == (len(asked) - num_broken, num_broken)
    assert groups["description"].answer_nats2 == 0.0 < groups["description"].image_nats2
    assert groups["reasoning_answer"].answer_nats2 > 0.0 < groups["reasoning_answer"].rate < 1.0
    assert all(np.isfinite(value) for value in leak.as_dict().values())
    assert leak.gap_nats == {}, "no view of a question is the same view without the answer"


def test_a_recipe_for_levels_has_a_form_for_questions_or_says_that_it_has_none(tmp_path):
    config = tiny_config()
    stage = for_world(RECIPES["nano_vigos_released"](0, backbone="nano"), config)
    assert isinstance(stage, DistillConfig)
    assert stage.student_view == "vqa_student" and stage.routes[0].weights == FrozenCopy()
    with pytest.raises(PilotageError, match="gkd is for levels"):
        for_world(RECIPES["gkd"](0, backbone="nano"), config)


@pytest.mark.parametrize(("name", "view"), [("nano", "vqa_symbolic"), ("nano_opsd", "vqa_solution")])
def test_one_teacher_of_questions_begins_as_the_student_does(name: str, view: str) -> None:
    """OPSD's is shown the worked solution beside the picture, MGSD's reads the state in place of it."""
    config = RECIPES[name](0, backbone="nano").stages[1]
    stage = for_world(RECIPES[name](0, backbone="nano"), config)
    assert isinstance(stage, DistillConfig) and isinstance(config, DistillConfig)
    (route,) = stage.routes
    assert (route.view, route.prefill, route.spans) == (view, "<description>", "all")
    assert stage.perception_share == 0.0 and stage.student_view == "vqa_student"
    of_levels = config.routes[0]
    assert route.estimator == of_levels.estimator and route.weights == of_levels.weights
    (asked, *_) = questions()
    seen = make_view(view, asked, "brief")
    assert seen.prefill in ("<think>", "<description>")
    assert bool(seen.images) == (view == "vqa_solution")
    shown = str(seen.messages)
    privileged = question_of(asked).solution if view == "vqa_solution" else described(asked)
    assert privileged in shown and question_of(asked).text in shown


def test_reference_answers_to_questions_are_fine_tuned_on_behind_what_the_prompt_begins(tmp_path):
    answers = RECIPES["nano_visual_sft"](0, backbone="nano").stages[1]
    stage = for_world(
        RECIPES["nano_visual_sft"](0, backbone="nano"),
        replace(answers, steps=1, batch_size=4, micro_batch_size=2),
    )
    assert isinstance(stage, SftConfig) and stage.retention_share == 0.0
    asked = questions()[:4]
    backbone = tiny_backbone()
    rows = DataMixture(stage, backbone, asked, [], {}).micro_batches(0)[0]
    labels = encode_rows(backbone, rows, stage)["labels"]
    for row, of_row in zip(rows, labels, strict=True):
        said = backbone.decode(of_row[of_row >= 0].tolist())
        whole = vqa_reference_response(row.example)
        assert whole == "<description>" + said.removesuffix(str(backbone.tokenizer.eos_token))
    run_sft(stage, backbone, asked, tmp_path)
    (step,) = rows_of(tmp_path)
    assert step["loss"] > 0


def test_views_of_levels_and_of_questions_are_not_confused(tmp_path):
    with pytest.raises(PilotageError, match="view 'student' is not of the world questions"):
        distill(tiny_config(), student=tiny_backbone(), examples=questions(), run_dir=tmp_path / "a")
    stage = vigos_question_stage(tiny_config(), form="paper", weights=FrozenCopy())
    with pytest.raises(PilotageError, match="view 'vqa_student' is not of the world frozenlake"):
        distill(stage, student=tiny_backbone(), examples=tiny_examples(), run_dir=tmp_path / "b")
