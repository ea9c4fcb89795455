"""What a model can do: rows with every prompt, answer and verdict, rates with intervals. No torch here."""

from pilotage.evaluate.bootstrap import Interval, bootstrap_macro_mean, bootstrap_mean
from pilotage.evaluate.run import KIND_VIEWS, KINDS, Progress, evaluate, rows_path
from pilotage.worlds.score import Score, score
from pilotage.evaluate.summary import Summary, summarise

__all__ = [
    "KINDS",
    "KIND_VIEWS",
    "Interval",
    "Progress",
    "Score",
    "Summary",
    "bootstrap_macro_mean",
    "bootstrap_mean",
    "evaluate",
    "rows_path",
    "score",
    "summarise",
]
