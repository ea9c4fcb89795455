"""What a recipe is measured on: the part of a recipe that a model behind an endpoint needs. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pilotage.records import Example, Split
from pilotage.train.settings import LATER
from pilotage.views.prompts import PromptSet
from pilotage.worlds.registry import get_world, usual_conditions

if TYPE_CHECKING:
    from pilotage.rollouts.sessions import SessionSettings

TEST_SEED = 2606_06076
"""Every run of every recipe is measured on the same test states."""

NANO_LEVELS = (("frozenlake", (3, 4, 5)), ("maze", (3, 4)), ("minibehaviour", (5,)))
NANO_MAX_NEW_TOKENS = 144
"""The longest reference answer at these levels has under 110 tokens."""
PAPER_LEVELS = (
    ("frozenlake", (3, 4, 5, 6, 7, 8)),
    ("maze", (3, 4, 5, 6)),
    ("minibehaviour", (5, 6)),
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Which examples a model is trained and measured on, in which words, and how long it may answer."""

    levels: tuple[tuple[str, tuple[int, ...]], ...]
    """Task and the levels that are trained and measured."""
    num_train: int
    """Training examples per task."""
    num_test: int
    """Test examples per task; the same ones whatever the seed."""
    max_new_tokens: int
    """Longest answer, in evaluation."""
    prompts: PromptSet
    seed: int
    cell_px: int | None = 32
    """Pixels per cell; None draws every level on 256 x 256."""
    train_prior: bool = False
    """Train on levels that follow their task's prior alone, where the task has one (`pilotage.data.prior`)."""
    num_val: int = 30
    """Validation examples per task; the same ones whatever the seed."""
    conditions: tuple[str, ...] = field(default=(), metadata=LATER)
    """Conditions that are measured after each stage; none named: those that the worlds usually are."""
    options: tuple[tuple[str, int | str], ...] = field(default=(), metadata=LATER)
    """What shapes the episodes of worlds that are played step by step, e.g. `(("starts", "corner"), ("fog", 2))`."""


NANO = Measurement(
    levels=NANO_LEVELS,
    num_train=3000,
    num_test=300,
    max_new_tokens=NANO_MAX_NEW_TOKENS,
    prompts="brief",
    seed=0,
)
SMOLVL = replace(NANO, levels=(("frozenlake", (3, 4)),), num_test=100)
"""What a pretrained language model of 135 million parameters learns on two cores."""
PAPER = Measurement(
    levels=PAPER_LEVELS,
    num_train=6000,
    num_test=300,
    max_new_tokens=2048,
    prompts="full",
    seed=0,
    cell_px=None,
)
VIGOS = replace(PAPER, max_new_tokens=4096)
OPSD = replace(PAPER, max_new_tokens=1024)
DRIVING = replace(PAPER, max_new_tokens=512)
"""Of the recipes whose papers say another number of tokens than MGSD's."""


def measured_conditions(measurement: Measurement) -> tuple[str, ...]:
    """The conditions that are measured."""
    return measurement.conditions or usual_conditions(name for name, _ in measurement.levels)


def examples_of(
    measurement: Measurement, split: Split, sessions: SessionSettings | None = None
) -> list[Example]:
    """The examples of a split, task after task.

    `sessions` says where worlds make them: by default where a recipe's episodes live, else in this process.
    """
    # Here, so that a list of the recipes opens no world: their packages and numpy take longer than the command.
    from pilotage.data.prior import examples_with_prior, prior_of
    from pilotage.rollouts.sessions import SessionsHere
    from pilotage.worlds.drawing import FIXED_SIDE_PX

    make = (sessions or getattr(measurement, "sessions", SessionsHere())).make
    counts = {"train": measurement.num_train, "val": measurement.num_val, "test": measurement.num_test}
    count, seed = counts[split], measurement.seed if split == "train" else TEST_SEED
    side_px = FIXED_SIDE_PX if measurement.cell_px is None else None
    examples: list[Example] = []
    for name, levels in measurement.levels:
        world = get_world(name)
        if split == "train" and measurement.train_prior and prior_of(world) is not None:
            for place, level in enumerate(levels):
                share = len(range(place, count, len(levels)))
                examples += examples_with_prior(
                    world,
                    level,
                    share,
                    consistent=True,
                    split=split,
                    seed=seed,
                    cell_px=measurement.cell_px,
                    side_px=side_px,
                )
        else:
            examples += make(
                name,
                levels,
                count,
                split,
                seed,
                cell_px=measurement.cell_px,
                side_px=side_px,
                options=dict(measurement.options),
            )
    return examples
