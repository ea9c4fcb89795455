"""`pilotage nano …`: the tiny backbone that ships with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pilotage.cli.options import AtLeast, RecipeCount, RecipeFloat, RecipeInt, given
from pilotage.cli.progress import Bar
from pilotage.errors import PilotageError
from pilotage.files import whole


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train the nano base from random weights.

    It learns to plan from symbolic text, to follow a reference plan and to read pictures in general,
    but never to plan from one. The shipped weights come from this command with its defaults: hours on
    one CPU core, minutes on a GPU. Killed and run again, it goes on where it was.
    """

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder for model/ (an ordinary transformers directory), the checkpoint and metrics.jsonl."""
    steps: RecipeCount = None
    """Optimiser steps."""
    seed: RecipeInt = None
    """Seed of the weights and of every lesson."""
    peak_lr: RecipeFloat = None
    """Highest learning rate."""
    threads: Annotated[int, tyro.conf.arg(metavar="N"), AtLeast(1)] = 1
    """CPU threads."""

    def run(self) -> int:
        from pilotage.nano.pretrain import PretrainConfig, pretrain

        options = given(steps=self.steps, seed=self.seed, peak_lr=self.peak_lr)
        config = PretrainConfig(out=self.out, num_threads=self.threads, **options)
        with Bar("nano pretrain", unit="steps") as bar:
            directory = pretrain(config, bar)
        print(f"{directory} holds the base; use it as --backbone {directory}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Copy the shipped base, an ordinary transformers directory, to a folder of your own."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder to make; it must not exist."""

    def run(self) -> int:
        from pilotage.backbones.load import resolve

        source = Path(resolve("nano"))
        if self.out.exists():
            raise PilotageError(f"{self.out} exists already; name a new folder")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with whole(self.out) as partial:
            partial.mkdir()
            for file in source.iterdir():
                (partial / file.name).write_bytes(file.read_bytes())
        print(f"{self.out} holds the nano base; use it as --backbone {self.out}")
        return 0
