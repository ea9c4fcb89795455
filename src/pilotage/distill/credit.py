"""What a turn is worth: an episode's reward or an expert's advantage as one number a turn. No torch here.

An episode of three turns that succeeds gives, with `EpisodeReturn`, 1, 1, 1; with `Discounted(gamma=0.5)`, 0.25, 0.5,
1; and with `ExpertAdvantage`, when the second move led away from the goal, 1, -1, and what was left of the plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from pilotage.errors import PilotageError
from pilotage.records import Episode


class Credit(Protocol):
    """An episode as one number for each of its turns."""

    def __call__(self, episode: Episode) -> list[float]:
        """[turns] floats; an episode that failed before it was judged gives zeros."""
        ...


@dataclass(frozen=True, kw_only=True)
class EpisodeReturn:
    """Every turn gets the whole episode's return: the sum of its rewards, or 1 for success where a world gives none."""

    parsed: float = 0.0
    """Added for an episode whose answer could be read (the outcome's flag `parsed`)."""

    def __post_init__(self) -> None:
        if not (self.parsed >= 0.0 and math.isfinite(self.parsed)):
            raise PilotageError(f"EpisodeReturn(parsed={self.parsed}): a reward of at least 0")

    def __call__(self, episode: Episode) -> list[float]:
        is_read = episode.outcome is not None and episode.outcome.is_("parsed")
        return [episode_return(episode) + self.parsed * is_read] * len(episode.turns)


@dataclass(frozen=True, kw_only=True)
class Discounted:
    """A turn gets what comes after it, each reward shrunk by `gamma` for every turn in between."""

    gamma: float
    """In (0, 1]; 1 is the sum of all that comes."""

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma <= 1.0:
            raise PilotageError(f"gamma {self.gamma} must be above 0 and at most 1")

    def __call__(self, episode: Episode) -> list[float]:
        credits: list[float] = []
        coming = 0.0
        for reward in reversed(_rewards(episode)):
            coming = reward + self.gamma * coming
            credits.append(coming)
        return credits[::-1]


@dataclass(frozen=True, kw_only=True)
class ExpertAdvantage:
    """How many of the expert's actions a turn saved: length of its plan from here, less that from the next turn.

    1 for a move as the expert would make it, -1 for one straight back, 0 for a wasted turn. The last turn is worth the
    rest of the plan when the episode succeeds and loses `failure` when it does not. Without an expert's plan: 0.
    """

    failure: float = 1.0

    def __call__(self, episode: Episode) -> list[float]:
        lengths = [
            math.nan if turn.seen.privileged is None else float(len(turn.seen.privileged.plan))
            for turn in episode.turns
        ]
        success = episode.outcome is not None and episode.outcome.success
        credits = [before - after for before, after in zip(lengths, lengths[1:], strict=False)]
        if lengths:
            credits.append(lengths[-1] if success else -self.failure)
        return [0.0 if math.isnan(credit) else credit for credit in credits]


def episode_return(episode: Episode) -> float:
    """The sum of the episode's rewards; without any, 1 for success and 0 otherwise."""
    return float(sum(_rewards(episode)))


def _rewards(episode: Episode) -> list[float]:
    rewards = [turn.reward for turn in episode.turns]
    if any(reward is not None for reward in rewards):
        return [reward or 0.0 for reward in rewards]
    won = float(episode.outcome is not None and episode.outcome.success)
    return [0.0] * (len(rewards) - 1) + [won] if rewards else []
