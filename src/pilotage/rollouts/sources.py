"""Where a step's rollouts come from, as data: the student, the data set, the teacher, or a mixture.

What a prompt gets is a pure function of (seed, step, slot), so that it depends neither on ranks nor on a resumed run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pilotage.errors import PilotageError
from pilotage.records import Rollout
from pilotage.rollouts.engine import Decoding

Origin = Literal["student", "dataset", "teacher"]
_TAG = 0x736F7572
"""Keeps these draws apart from others of the same seed and step."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a policy's responses are drawn."""

    num_samples: int = 1
    """Rollouts of one prompt."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise PilotageError(f"num_samples {self.num_samples} must be at least 1")
        if self.temperature == 0:
            raise PilotageError(f"temperature {self.temperature} must be above 0: rollouts are samples")
        self.decoding(1)  # which says what is wrong with the rest

    def decoding(self, max_new_tokens: int) -> Decoding:
        """The same as an engine takes it."""
        return Decoding(
            max_new_tokens=max_new_tokens, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k
        )

    @property
    def is_exact(self) -> bool:
        """The samples are the policy's own at this temperature: nothing is cut off its distribution."""
        return self.top_p == 1.0 and self.top_k == 0


@dataclass(frozen=True, kw_only=True)
class FromStudent:
    """The student answers its own view: on-policy."""

    sampling: Sampling = Sampling()

    @property
    def origin(self) -> Origin:
        return "student"

    @property
    def num_samples(self) -> int:
        return self.sampling.num_samples


@dataclass(frozen=True, kw_only=True)
class FromDataSet:
    """The reference answer to the student's view (`pilotage.views.reference_of_view`, or a data set's own text)."""

    @property
    def origin(self) -> Origin:
        return "dataset"

    @property
    def num_samples(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class FromTeacher:
    """A teacher answers its own view; the student is then taught on that text."""

    view: str
    weights: Hashable
    """Which parameters answer, as in `pilotage.distill.routes.Route`."""
    sampling: Sampling = Sampling()

    @property
    def origin(self) -> Origin:
        return "teacher"

    @property
    def num_samples(self) -> int:
        return self.sampling.num_samples


Source = FromStudent | FromDataSet | FromTeacher


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Sources with their shares. GKD's lambda is the student's share (arXiv 2306.13649, algorithm 1)."""

    parts: tuple[tuple[float, Source], ...]
    """(share, source); the shares sum to 1."""
    per: Literal["prompt", "batch"] = "prompt"
    """Each prompt draws its source by itself, or all of a step share one draw."""

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.parts]
        if not shares or min(shares) <= 0.0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
            raise PilotageError(f"shares {shares} of a mixture must be above 0 and sum to 1")
        if self.per not in ("prompt", "batch"):
            raise PilotageError(f"per {self.per!r} must be one of prompt, batch")
        if len({source for _, source in self.parts}) < len(self.parts):
            raise PilotageError("two parts of a mixture are the same source; add their shares")

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(source for _, source in self.parts)

    @property
    def origins(self) -> frozenset[Origin]:
        return frozenset(source.origin for source in self.sources)

    @property
    def max_samples(self) -> int:
        """The most rollouts that a prompt may get: what numbers rows apart."""
        return max(source.num_samples for source in self.sources)

    def draw(self, *, seed: int, step: int, slot: int) -> Source:
        """The source of the prompt in one slot of one step (slots count over all ranks)."""
        numbers = [seed & (2**64 - 1), step, _TAG] + ([slot] if self.per == "prompt" else [])
        drawn = np.random.default_rng(numbers).random()
        reached = 0.0
        for share, source in self.parts:
            reached += share
            if drawn < reached:
                return source
        return self.sources[-1]


def only(source: Source) -> Mixture:
    """A mixture of one source."""
    return Mixture(parts=((1.0, source),))


def on_policy_share(
    share: float, student: FromStudent, other: Source, *, per: Literal["prompt", "batch"] = "prompt"
) -> Mixture:
    """Lambda of the student's own rollouts, the rest from another source; 0 and 1 leave one of them alone."""
    if share in (0.0, 1.0):
        return only(student if share else other)
    return Mixture(parts=((share, student), (1.0 - share, other)), per=per)


@dataclass(frozen=True, kw_only=True)
class PlannedRollout:
    """One rollout to be made."""

    slot: int
    """The prompt's place in the step, over all ranks."""
    sample: int
    """Which of the prompt's rollouts, from 0."""
    source: Source

    def number(self, mixture: Mixture) -> int:
        """A number that no other row of the step has, on any rank."""
        return self.slot * mixture.max_samples + self.sample


def plan_rollouts(mixture: Mixture, *, seed: int, step: int, slots: Iterable[int]) -> list[PlannedRollout]:
    """The rollouts that these prompts of a step need, prompt by prompt."""
    return [
        PlannedRollout(slot=slot, sample=sample, source=source)
        for slot in slots
        for source in [mixture.draw(seed=seed, step=step, slot=slot)]
        for sample in range(source.num_samples)
    ]


def by_source(rows: Sequence[PlannedRollout]) -> dict[Source, list[int]]:
    """Source -> the places of its rows, so that each engine is asked once."""
    places: dict[Source, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.source, []).append(place)
    return places


def text_rollout(
    text: str,
    *,
    example_id: str,
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    end_id: int,
    prefill: str = "",
    max_new_tokens: int | None = None,
    origin: Origin = "dataset",
) -> Rollout:
    """A given text as a rollout: its ids without the prefill, the end of turn behind them, no log-probabilities.

    `encode` gives ids without special tokens, `decode` the text of ids. Longer texts are cut and not finished. Raises
    PilotageError when the text does not begin with the prefill, or does not survive its tokens.
    """
    if not text.startswith(prefill):
        raise PilotageError(
            f"{example_id}: the reference begins {text[:40]!r}, not with the prefill {prefill!r}"
        )
    response = text[len(prefill) :]
    ids = (*encode(response), end_id)
    finished = max_new_tokens is None or len(ids) <= max_new_tokens
    ids = ids if finished else ids[:max_new_tokens]
    decoded = decode(ids)
    if finished and decoded != response:
        raise PilotageError(
            f"{example_id}: the reference {response[:40]!r} is read back as {decoded[:40]!r}: the tokenizer cannot "
            "write it"
        )
    return Rollout(
        example_id=example_id, token_ids=tuple(ids), text=decoded, finished=finished, origin=origin
    )
