"""Who sees what: student, symbolic, teachers, perception. No torch here."""

from pilotage.views.prompts import PROMPT_SETS, PromptSet
from pilotage.views.registry import make_view, reference_of_view, shows_picture, view_names
from pilotage.worlds.grids.views import (
    PICTURE_VIEWS,
    VIEWS,
    WITHOUT_PLAN,
    description_view,
    perception_view,
    picture_view,
    reference_answer,
    register_view,
    student_view,
    student_view_with_plan,
    student_view_with_state,
    symbolic_view,
    teacher_view,
    teacher_view_without_plan,
)

__all__ = [
    "PICTURE_VIEWS",
    "PROMPT_SETS",
    "VIEWS",
    "WITHOUT_PLAN",
    "PromptSet",
    "description_view",
    "make_view",
    "perception_view",
    "picture_view",
    "reference_answer",
    "reference_of_view",
    "register_view",
    "shows_picture",
    "student_view",
    "student_view_with_plan",
    "student_view_with_state",
    "symbolic_view",
    "teacher_view",
    "teacher_view_without_plan",
    "view_names",
]
