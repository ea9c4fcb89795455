"""Rollout engines: they turn views into token ids. Importing this package does not import torch."""

from pilotage.rollouts.engine import RolloutEngine
from pilotage.rollouts.replay import ReplayEngine

__all__ = ["ReplayEngine", "RolloutEngine"]
