"""Engines, which turn views into token ids, and the one loop in which episodes are played. No torch here."""

from pilotage.rollouts.engine import Decoding, Engine, Request, samples_of
from pilotage.rollouts.replay import ReplayEngine
from pilotage.rollouts.stream import Answer, StreamingEngine, answers

__all__ = [
    "Answer",
    "Decoding",
    "Engine",
    "ReplayEngine",
    "Request",
    "StreamingEngine",
    "answers",
    "samples_of",
]
