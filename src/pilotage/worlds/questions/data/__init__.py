"""Sets of questions: built from states, imported from elsewhere, on disk."""

from __future__ import annotations

from pilotage.data.sets import Reader
from pilotage.worlds.questions.data.store import QUESTIONS_FORMAT, load_questions

SETS: dict[str, Reader] = {QUESTIONS_FORMAT: load_questions}
"""Format of a manifest -> what reads such a set."""

__all__ = ["SETS"]
