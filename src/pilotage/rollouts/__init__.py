"""Rollout engines: they turn views into token ids. Importing this package does not import torch."""

from pilotage.rollouts.engine import RolloutEngine
from pilotage.rollouts.replay import ReplayEngine
from pilotage.rollouts.stream import Answer, Request, StreamingEngine, answers

__all__ = ["Answer", "ReplayEngine", "Request", "RolloutEngine", "StreamingEngine", "answers"]
