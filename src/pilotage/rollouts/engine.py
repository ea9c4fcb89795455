"""What every rollout engine does, and the checks that they share."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from pilotage.errors import PilotageError
from pilotage.records import Rollout, View

ProgressCallback = Callable[[int], None]
"""Called with the number of rollouts that have just been completed."""

MIN_TEMPERATURE = 1e-3
"""Below it, and above 0, a logit divided by the temperature leaves float32's range, and nothing can be drawn."""


class RolloutEngine(Protocol):
    """Samples responses to views from one policy."""

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
        """`num_return` rollouts of each view, in the order of the views.

        Temperature 0 is greedy. `top_p` 1 and `top_k` 0 keep the whole vocabulary. The same seed, views and weights
        give the same rollouts; vary the seed from step to step. An id that only a prompt may hold (an image
        placeholder) is never sampled. Raises PilotageError for settings that make no sense and for a prompt that is
        too long, with the example's id.
        """
        ...


def check_request(
    views: Sequence[View],
    *,
    example_ids: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    num_return: int,
) -> None:
    """Raises PilotageError that names the first setting that cannot be used."""
    if len(views) != len(example_ids):
        raise PilotageError(f"{len(views)} views but {len(example_ids)} example ids")
    if max_new_tokens < 1:
        raise PilotageError(f"max_new_tokens {max_new_tokens} must be at least 1")
    if temperature != 0 and not MIN_TEMPERATURE <= temperature < math.inf:
        raise PilotageError(
            f"temperature {temperature} must be 0 (greedy) or a number from {MIN_TEMPERATURE} on"
        )
    if not 0 < top_p <= 1:
        raise PilotageError(f"top_p {top_p} must be above 0 and at most 1 (1 keeps the whole vocabulary)")
    if top_k < 0:
        raise PilotageError(f"top_k {top_k} must be 0 (the whole vocabulary) or more")
    if num_return < 1:
        raise PilotageError(f"num_return {num_return} must be at least 1")
    if temperature == 0 and num_return > 1:
        raise PilotageError(
            f"num_return {num_return} with temperature 0 would repeat the same greedy rollout"
        )


def sampling_noise(example_ids: Sequence[str], *, seed: int, num_return: int, num_tokens: int) -> np.ndarray:
    """[views x num_return, num_tokens] float32 uniforms in [0, 1).

    A row depends on the seed, its example, and how often that example came before: neither on the other rows nor
    on their order, so that a batch may be split, sorted or resumed without changing what is sampled.
    """
    seen: Counter[str] = Counter()
    noise = np.empty((len(example_ids) * num_return, num_tokens), dtype=np.float32)
    for row in range(len(noise)):
        example_id = example_ids[row // num_return]
        entropy = [seed & (2**64 - 1), zlib.crc32(example_id.encode()), seen[example_id]]
        noise[row] = np.random.default_rng(entropy).random(num_tokens, dtype=np.float32)
        seen[example_id] += 1
    return noise
