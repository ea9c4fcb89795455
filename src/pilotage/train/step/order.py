"""Which example stands where: a pure function of the seed and the step, so that there is no sampler to restore."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pilotage.errors import PilotageError
from pilotage.records import Example


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One prompt of a step."""

    index: int
    """Place in the step, over all ranks."""
    example: Example


class ExampleOrder:
    """Deals examples to steps: tasks take turns, and each task's examples come in a new order every pass.

    A step that begins one pass and ends another shows no example twice, given two steps' worth of examples per task.
    """

    def __init__(self, examples: Sequence[Example], *, prompts_per_step: int, seed: int) -> None:
        if not examples:
            raise PilotageError("there are no examples to train on")
        self.examples_of: dict[str, list[Example]] = {}
        for example in examples:
            self.examples_of.setdefault(example.task, []).append(example)
        self.tasks = sorted(self.examples_of)
        self.prompts_per_step = prompts_per_step
        self.seed = seed
        self._passes: dict[tuple[str, int], np.ndarray] = {}

    def slots(self, step: int, *, rank: int = 0, num_ranks: int = 1) -> list[Slot]:
        """The prompts of a step (counted from 0) that belong to `rank`: a contiguous block of its slots."""
        if self.prompts_per_step % num_ranks:
            raise PilotageError(
                f"prompts_per_step {self.prompts_per_step} must be a multiple of the {num_ranks} ranks"
            )
        share = self.prompts_per_step // num_ranks
        return [
            Slot(index=index, example=self._example(step * self.prompts_per_step + index))
            for index in range(rank * share, (rank + 1) * share)
        ]

    def is_drawn(self, step: int, index: int, share: float) -> bool:
        """Whether a slot is among `share` of all: whole rounds of the tasks, spread evenly over the run."""
        turn = (step * self.prompts_per_step + index) // len(self.tasks)
        # 100 * 0.29 is a hair below 29: without the 1e-9 that round would come one too late.
        return int((turn + 1) * share + 1e-9) > int(turn * share + 1e-9)

    def _example(self, place: int) -> Example:
        draw, turn = divmod(place, len(self.tasks))
        task = self.tasks[turn]
        examples = self.examples_of[task]
        pass_index, position = divmod(draw, len(examples))
        return examples[int(self._shuffled(task, pass_index)[position])]

    def _shuffled(self, task: str, pass_index: int) -> np.ndarray:
        key = (task, pass_index)
        if key not in self._passes:
            # crc32, because hash() of a string differs from process to process.
            rng = np.random.default_rng([self.seed, zlib.crc32(task.encode()), pass_index])
            order = rng.permutation(len(self.examples_of[task]))
            # Each pass needs the one before it, so a resumed run makes them all again, the same ones.
            if pass_index:
                _keep_apart(
                    order, self._shuffled(task, pass_index - 1), -(-self.prompts_per_step // len(self.tasks))
                )
            self._passes[key] = order
        return self._passes[key]


def _keep_apart(order: np.ndarray, before: np.ndarray, share: int) -> None:
    """Swaps what ended the pass before out of the first places of this one; `share` is a step's share of a task."""
    # A step over the border shows at least one example of the old pass, so at most share - 1 of the new.
    border = share - 1
    if len(order) < 2 * border:
        return
    recent = set(before[len(before) - border :].tolist())
    # Lazy, and never going back: a place that was swapped into is behind it and is not offered again.
    later = (place for place in range(border, len(order)) if int(order[place]) not in recent)
    for place in range(border):
        if int(order[place]) in recent:
            other = next(later)
            order[place], order[other] = order[other], order[place]
