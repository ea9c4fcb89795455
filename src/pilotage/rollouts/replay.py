"""An engine that gives back recorded rollouts: for tests, and for training on rollouts made elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pilotage.errors import PilotageError
from pilotage.records import Rollout, View
from pilotage.rollouts.engine import ProgressCallback, check_request


class ReplayEngine:
    """Answers each example with its recorded rollouts in turn, and starts again after the last one."""

    def __init__(self, rollouts: Iterable[Rollout]) -> None:
        self._recorded: dict[str, list[Rollout]] = defaultdict(list)
        for rollout in rollouts:
            self._recorded[rollout.example_id].append(rollout)
        self._next: dict[str, int] = defaultdict(int)

    def generate(
        self,
        views: Sequence[View],
        *,
        example_ids: Sequence[str],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        num_return: int = 1,
        progress: ProgressCallback | None = None,
    ) -> list[Rollout]:
        """The recorded rollouts, cut at `max_new_tokens`; raises PilotageError for an example without one."""
        check_request(
            views,
            example_ids=example_ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            num_return=num_return,
        )
        answers: list[Rollout] = []
        for example_id in example_ids:
            recorded = self._recorded.get(example_id)
            if not recorded:
                raise PilotageError(
                    f"no rollout is recorded for {example_id!r} ({len(self._recorded)} examples have one)"
                )
            for _ in range(num_return):
                rollout = recorded[self._next[example_id] % len(recorded)]
                self._next[example_id] += 1
                answers.append(_cut(rollout, max_new_tokens))
            if progress is not None:
                progress(num_return)
        return answers


def _cut(rollout: Rollout, max_new_tokens: int) -> Rollout:
    if len(rollout.token_ids) <= max_new_tokens:
        return rollout
    return replace(
        rollout,
        token_ids=rollout.token_ids[:max_new_tokens],
        logprobs=rollout.logprobs[:max_new_tokens],
        finished=False,
    )
