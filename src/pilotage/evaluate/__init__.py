"""What a model can do: rows with every prompt, answer and verdict, rates with intervals. No torch here."""

from pilotage.evaluate.bootstrap import Interval, bootstrap_macro_mean, bootstrap_mean
from pilotage.evaluate.run import USUAL_CONDITIONS, Progress, evaluate, rows_path
from pilotage.evaluate.summary import Summary, summarise

__all__ = [
    "USUAL_CONDITIONS",
    "Interval",
    "Progress",
    "Summary",
    "bootstrap_macro_mean",
    "bootstrap_mean",
    "evaluate",
    "rows_path",
    "summarise",
]
