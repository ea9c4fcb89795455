"""An engine that gives back recorded rollouts: for tests, and for training on rollouts made elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pilotage.errors import PilotageError
from pilotage.records import Rollout
from pilotage.rollouts.engine import Decoding, Request


class ReplayEngine:
    """Answers each example with its recorded rollouts in turn, and starts again after the last one."""

    def __init__(self, rollouts: Iterable[Rollout], *, off_policy: bool = False) -> None:
        """`off_policy`: a model may be trained on them, although they are of no weights that it has had."""
        self._off_policy = off_policy
        self._recorded: dict[str, list[Rollout]] = defaultdict(list)
        for rollout in rollouts:
            self._recorded[rollout.example_id].append(rollout)
        self._next: dict[str, int] = defaultdict(int)

    def generate(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
    ) -> list[Rollout]:
        """The recorded rollouts, cut at `max_new_tokens`; raises PilotageError for an example without one."""
        answers: list[Rollout] = []
        for example_id in (request.example_id for request in requests):
            recorded = self._recorded.get(example_id)
            if not recorded:
                raise PilotageError(
                    f"no rollout is recorded for {example_id!r} ({len(self._recorded)} examples have one)"
                )
            rollout = recorded[self._next[example_id] % len(recorded)]
            self._next[example_id] += 1
            answers.append(_cut(rollout, decoding.max_new_tokens))
        return answers

    def sync(self, model: Any) -> None:
        """Raises PilotageError where nobody said that training is to be off-policy."""
        if not self._off_policy:
            raise PilotageError(
                "recorded rollouts are of other weights than those that are trained; to train on them all the same, "
                "make the ReplayEngine with off_policy=True"
            )


def _cut(rollout: Rollout, max_new_tokens: int) -> Rollout:
    if len(rollout.token_ids) <= max_new_tokens:
        return rollout
    return replace(
        rollout,
        token_ids=rollout.token_ids[:max_new_tokens],
        logprobs=rollout.logprobs[:max_new_tokens],
        finished=False,
    )
