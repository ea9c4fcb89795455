"""How a model does on unseen pictures while it learns: a few levels of the split `val`, every so many steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.backbones.load import Backbone
from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import read_jsonl, write_jsonl
from pilotage.evaluate.run import episodes_of, success_by_task
from pilotage.records import Example
from pilotage.rollouts import Decoding
from pilotage.rollouts.play import Open, open_in_process
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.views import PromptSet

VALIDATION = "validation.jsonl"
BATCH = 64


class Validator:
    """Plays some examples in their world's first condition every `every` steps, and writes a row for each time.

    A row has the stage, the step, the seconds of training before it (its own and earlier validations' apart), its own
    seconds, and the share of successes by task and their mean. Training is not disturbed: nothing is drawn at random,
    and the model's mode is put back.
    """

    def __init__(
        self,
        stage: str,
        backbone: Backbone,
        examples: Sequence[Example],
        run_dir: Path,
        *,
        every: int,
        max_new_tokens: int,
        prompts: PromptSet,
        open_session: Open = open_in_process,
    ) -> None:
        if not examples:
            raise PilotageError("validation needs examples: num_val must be at least 1")
        self.stage = stage
        self.every = every
        self.path = run_dir / VALIDATION
        self._engine = TransformersEngine(backbone, batch_size=BATCH)
        self._examples = examples
        self._prompts: PromptSet = prompts
        self._max_new_tokens = max_new_tokens
        self._open_session = open_session

    def before_training(self) -> None:
        """Measures where the stage starts from, unless that has been done."""
        rows = read_jsonl(self.path).rows if self.path.exists() else []
        if not any(row["stage"] == self.stage for row in rows):
            self.after(0, {"time_s": 0.0})

    def after(self, step: int, figures: Mapping[str, Any]) -> None:
        """Measures when it is time; `figures` hold `time_s`, the seconds since the stage began."""
        if step % self.every:
            return
        others, earlier = self._rows_before(step)
        began_s = time.monotonic()
        success = self._success()
        lost_s = sum(row["validation_s"] for row in earlier)
        row = {
            "stage": self.stage,
            "step": step,
            "train_s": float(figures["time_s"]) - lost_s,
            "validation_s": time.monotonic() - began_s,
            "success": success,
            "macro": float(np.mean(list(success.values()))),
        }
        write_jsonl(self.path, [*others, *earlier, row])

    def _rows_before(self, step: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Other stages' rows, and this one's of earlier steps: a run that was killed measures later ones again."""
        rows = read_jsonl(self.path).rows if self.path.exists() else []
        others = [row for row in rows if row["stage"] != self.stage]
        return others, [row for row in rows if row["stage"] == self.stage and row["step"] < step]

    def _success(self) -> dict[str, float]:
        episodes = episodes_of(
            self._engine,
            self._examples,
            decoding=Decoding(max_new_tokens=self._max_new_tokens),
            prompts=self._prompts,
            batch_size=len(self._examples),
            open_session=self._open_session,
        )
        return success_by_task(episodes)
