"""Who sees what of a moment. No torch here; the views themselves lie beside their worlds."""

from pilotage.views.prompts import PROMPT_SETS, PromptSet
from pilotage.views.registry import (
    ViewSpec,
    first_moment,
    forget_view,
    make_view,
    reference_of_view,
    register_view,
    shows_picture,
    view_names,
    view_of,
    without_plan,
)

__all__ = [
    "PROMPT_SETS",
    "PromptSet",
    "ViewSpec",
    "first_moment",
    "forget_view",
    "make_view",
    "reference_of_view",
    "register_view",
    "shows_picture",
    "view_names",
    "view_of",
    "without_plan",
]
