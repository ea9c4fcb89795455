"""The methods on questions about pictures in place of levels: what each stage shows, and where its teachers look.

`pilotage train --data` finds `for_world` beside the world whose examples the set holds.
"""

from __future__ import annotations

from dataclasses import replace

from pilotage.distill.routes import Router
from pilotage.distill.vigos_spans import PAPER_DELIMITERS, RELEASED_DELIMITERS, VigosLayout
from pilotage.errors import PilotageError
from pilotage.recipes import RECIPES
from pilotage.recipes.methods import routed_stage, vigos_routes
from pilotage.runs.recipe import Form, Recipe, Stage
from pilotage.train.distill_config import DistillConfig, TeacherWeights
from pilotage.train.sft_config import SftConfig

ASKED = "vqa_student"
"""What a student is shown of a question."""


def for_world(recipe: Recipe, stage: Stage) -> Stage:
    """A stage on questions about pictures in place of levels, as its recipe teaches them.

    Raises PilotageError for a recipe that is for levels alone.
    """
    form = recipe.questions
    if form is None:
        made = {name: make(0, backbone="nano") for name, make in RECIPES.items()}
        known = ", ".join(name for name, each in made.items() if each.questions is not None)
        raise PilotageError(f"the recipe {recipe.name} is for levels; for questions there are {known}")
    if isinstance(stage, SftConfig):
        return replace(stage, image_view=ASKED, retention_share=0.0)
    if form in ("paper", "released"):
        weights = stage.routes[0].weights
        return vigos_question_stage(stage, form=form, weights=weights)  # pyright: ignore[reportArgumentType]
    if form == "reward":
        return reward_question_stage(stage)
    return read_question_stage(stage, view="vqa_solution" if form == "solution" else "vqa_symbolic")


def vigos_question_stage(stage: DistillConfig, *, form: Form, weights: TeacherWeights) -> DistillConfig:
    """ViGOS (arXiv 2606.19120) in its own domain: questions about pictures, answered in a box.

    The student's turn begins with `<description>`. `paper`: the reasoning teacher reads the student's whole turn, and
    no delimiter is taught. `released`: it is shown the reasoning alone, behind its own `<think>`; `</think>` and the
    box's opening are taught, and rows are valid by the released checker. In both nothing teaches the end of the turn
    of a valid row. Departure: the prompts are ours.
    """
    is_paper = form == "paper"
    routes = vigos_routes(
        ("vqa_perception", "vqa_reasoning", "vqa_reference"),
        weights,
        seen="description",
        planned=("reasoning", "answer"),
        append="full" if is_paper else "span_only",
        prefill="<description>" if is_paper else "<think>",
    )
    layout = VigosLayout(
        delimiters=PAPER_DELIMITERS if is_paper else RELEASED_DELIMITERS,
        checker="paper" if is_paper else "released",
    )
    stage = replace(stage, perception_share=0.0, description=None)
    return replace(
        routed_stage(stage, router=Router(layout=layout, routes=routes)),
        means="apart",
        student_view=ASKED,
    )


def read_question_stage(stage: DistillConfig, *, view: str) -> DistillConfig:
    """A stage with one teacher, on questions: it is shown `view` and begins as the student does, with `<description>`.

    `vqa_solution` for OPSD; `vqa_symbolic` for MGSD, whose teacher reads the state in place of the picture.
    """
    (route,) = stage.router.routes
    stage = replace(stage, perception_share=0.0, description=None, student_view=ASKED)
    return routed_stage(stage, replace(route, view=view, prefill="<description>"))


def reward_question_stage(stage: DistillConfig) -> DistillConfig:
    """A stage of `grpo_stage` on questions about pictures: the student's prompt is theirs, the grader rewards."""
    routes = tuple(
        replace(route, view=ASKED) if route.view == stage.student_view else route
        for route in stage.router.routes
    )
    return replace(stage, student_view=ASKED, router=replace(stage.router, routes=routes))
