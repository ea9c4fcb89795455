"""A model for the play page."""

from __future__ import annotations

from pilotage.play import Reply
from pilotage.records import Example
from pilotage.views import reference_of_view


class Scripted:
    """A model at the table that knows the reference, or says what it was told to."""

    name = "<b>scripted</b>\u202e"

    def __init__(self, text: str | None = None) -> None:
        self.text = text

    def answer(self, example: Example, view: str) -> Reply:
        if self.text == "raise":
            raise RuntimeError("secret detail")
        text = reference_of_view(example, "student") if self.text is None else self.text
        return Reply(text=text, finished=True, seconds=0.25)
