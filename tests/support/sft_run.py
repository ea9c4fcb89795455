"""One small supervised run, for tests and for the processes that they start and kill."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np

from pilotage.backbones.load import Backbone, LoraSettings, make_backbone
from pilotage.data.examples import make_example
from pilotage.nano.model import build_nano
from pilotage.nano.tokenizer import build_nano_tokenizer
from pilotage.records import Example
from pilotage.train.sft import SftConfig, run_sft
from pilotage.views import reference_of_view
from pilotage.worlds import TASKS
from pilotage.worlds.grids.views import VIEWS
from tiny import TINY

NUM_EXAMPLES = 12


def some_examples() -> list[Example]:
    rng = np.random.default_rng(5)
    levels = {"frozenlake": 3, "maze": 3, "minibehaviour": 5}
    return [
        make_example(task, task.generate(levels[task.name], rng), "train")
        for task in TASKS
        for _ in range(NUM_EXAMPLES // len(TASKS))
    ]


EXAMPLES = some_examples()
TEXTS = [reference_of_view(e, name) for e in EXAMPLES for name in VIEWS] + [
    str(message["content"])
    for e in EXAMPLES
    for view in VIEWS.values()
    for message in view(e, "brief").messages
]


CONFIG = SftConfig(
    prompts="brief", steps=6, batch_size=9, micro_batch_size=4, lr=3e-3, checkpoint_every=2, seed=7
)


def fresh() -> Backbone:
    tokenizer = build_nano_tokenizer(TEXTS, min_count=1)
    return make_backbone(*build_nano(TINY, tokenizer, seed=3), name="tiny")


# The last line of the step is written, the checkpoint of step 2 is whole, that of step 4 is not begun.
KILLED_AT = 3
DROPOUT = replace(CONFIG, lora=LoraSettings(rank=2, alpha=4, dropout=0.3), pixel_noise=0.02)


def kill_myself(step: int, _: int, __: dict[str, float]) -> None:
    if step == KILLED_AT:
        signal.raise_signal(signal.SIGKILL)


def killed_run(run_dir: Path) -> None:
    """A run of `DROPOUT` that kills its process after step `KILLED_AT`."""
    run_sft(DROPOUT, fresh(), EXAMPLES, run_dir, kill_myself)
