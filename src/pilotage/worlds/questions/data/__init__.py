"""Sets of questions: built from states, imported from elsewhere, on disk."""

from __future__ import annotations

from pilotage.data.sets import SetKind
from pilotage.worlds.questions.data.build import KNOWN_OPTIONS, LEVELS, examples
from pilotage.worlds.questions.data.store import QUESTIONS_FORMAT, load_questions

SETS = (SetKind(format=QUESTIONS_FORMAT, holds="questions", world="questions", load=load_questions),)
"""The kinds of data sets that this world brings."""

__all__ = ["KNOWN_OPTIONS", "LEVELS", "SETS", "examples"]
