"""Views by name, whether of a planning example or of a question about a picture."""

from __future__ import annotations

from pilotage.errors import PilotageError
from pilotage.records import Prompted, Question, View
from pilotage.views.prompts import PromptSet
from pilotage.worlds.grids.views import PICTURE_VIEWS, VIEWS, reference_answer
from pilotage.worlds.questions.views import VQA_VIEWS, vqa_reference_response


def view_names() -> tuple[str, ...]:
    """All views that there are."""
    return (*VIEWS, *VQA_VIEWS)


def shows_picture(name: str) -> bool:
    """Whether a view shows the picture. All views of questions do."""
    return name in VQA_VIEWS or name in PICTURE_VIEWS


def make_view(name: str, example: Prompted, prompts: PromptSet) -> View:
    """What the named reader is shown. Raises PilotageError for a view that is not of such examples."""
    if isinstance(example, Question):
        if name in VQA_VIEWS:
            return VQA_VIEWS[name](example, prompts)
        raise PilotageError(
            f"question {example.id}: view {name!r} is not of questions; there are {', '.join(VQA_VIEWS)}"
        )
    if name in VIEWS:
        return VIEWS[name](example, prompts)
    raise PilotageError(
        f"example {example.id}: view {name!r} is not of examples; there are {', '.join(VIEWS)}"
    )


def reference_of_view(example: Prompted, view_name: str) -> str:
    """The text that a perfect reader would write, the view's prefill included.

    Raises PilotageError for a question from elsewhere, which has none.
    """
    if isinstance(example, Question):
        return vqa_reference_response(example)
    return reference_answer(example, view_name)
