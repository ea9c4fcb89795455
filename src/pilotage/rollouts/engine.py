"""What every rollout engine does: requests and a way of decoding in, rollouts out."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pilotage.errors import PilotageError
from pilotage.records import Rollout, View

MIN_TEMPERATURE = 1e-3
"""Below it, and above 0, a logit divided by the temperature leaves float32's range, and nothing can be drawn."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How each next token is chosen, and how many there may be. Raises PilotageError that names a bad value."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """1 keeps the whole vocabulary."""
    top_k: int = 0
    """0 keeps the whole vocabulary."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise PilotageError(f"max_new_tokens {self.max_new_tokens} must be at least 1")
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise PilotageError(
                f"temperature {self.temperature} must be 0 (greedy) or a number from {MIN_TEMPERATURE} on"
            )
        if not 0 < self.top_p <= 1:
            raise PilotageError(
                f"top_p {self.top_p} must be above 0 and at most 1 (1 keeps the whole vocabulary)"
            )
        if self.top_k < 0:
            raise PilotageError(f"top_k {self.top_k} must be 0 (the whole vocabulary) or more")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One view to be answered once."""

    view: View
    example_id: str
    seed: int = 0
    """With a temperature: the same seed, example, sample, view and weights give the same answer."""
    sample: int = 0
    """Which of the answers to this example under this seed."""


class Engine(Protocol):
    """Samples responses to views from one policy."""

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        """One rollout for each request, in their order.

        An id that only a prompt may hold (an image placeholder) is never sampled. Raises PilotageError for a prompt
        that is too long, with the example's id.
        """
        ...

    def sync(self, model: Any) -> None:
        """From now on samples from the weights that `model` has now; called before every step's rollouts.

        Raises PilotageError where the engine cannot: it would train off-policy in silence.
        """
        ...


@runtime_checkable
class JoiningEngine(Protocol):
    """An engine whose ranks may have to ask together."""

    def join(self, decoding: Decoding) -> None:
        """Takes part in what other ranks still ask with this decoding, until no rank asks any more."""
        ...


def samples_of(views: Sequence[View], ids: Sequence[str], *, num: int = 1, seed: int = 0) -> list[Request]:
    """Requests for `num` samples of each view, those of one view together."""
    return [
        Request(view=view, example_id=example_id, seed=seed, sample=sample)
        for view, example_id in zip(views, ids, strict=True)
        for sample in range(num)
    ]


def sampling_noise(requests: Sequence[Request], *, num_tokens: int) -> np.ndarray:
    """[requests, num_tokens] float32 uniforms in [0, 1).

    A row depends on its seed, example and sample: neither on the other rows nor on their order, so that a batch may be
    split, sorted or resumed without changing what is sampled.
    """
    noise = np.empty((len(requests), num_tokens), dtype=np.float32)
    for row, request in enumerate(requests):
        entropy = [request.seed & (2**64 - 1), zlib.crc32(request.example_id.encode()), request.sample]
        noise[row] = np.random.default_rng(entropy).random(num_tokens, dtype=np.float32)
    return noise


def sampling_seed(request: Request) -> int:
    """31 bits that depend on seed, example and sample, for a sampler that takes a seed for each request."""
    entropy = [request.seed & (2**64 - 1), zlib.crc32(request.example_id.encode()), request.sample]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
