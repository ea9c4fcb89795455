"""How a model does on unseen pictures while it learns: a few levels of the split `val`, every so many steps.

Where several ranks train, each plays a share of the episodes, and the first writes what came of all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pilotage.backbones.load import Backbone, is_sharded
from pilotage.backbones.ranks import joined_over_ranks, rank_and_number
from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import read_jsonl, write_jsonl
from pilotage.evaluate.run import episodes_of, has_won, success_by_task
from pilotage.records import Episode, Example
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
    and the model's mode is put back. On the same weights the shares are those of one process, however many ranks play.
    """

    def __init__(
        self,
        stage: str,
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
        self._examples = examples
        self._prompts: PromptSet = prompts
        self._decoding = Decoding(max_new_tokens=max_new_tokens)
        self._open_session = open_session

    def __call__(self, student: Backbone, step: int, time_s: float) -> None:
        """Measures when it is time (`pilotage.train.sft_config.Validate`); all ranks must call this.

        Raises PilotageError, on all of them, for an episode that cannot be played on one.
        """
        if step % self.every:
            return
        began_s = time.monotonic()
        success = self._success(student)
        rank, _ = rank_and_number()
        if rank == 0:
            self._write(step, success, time_s=time_s, validation_s=time.monotonic() - began_s)

    def _write(self, step: int, success: dict[str, float], *, time_s: float, validation_s: float) -> None:
        others, earlier = self._rows_before(step)
        lost_s = sum(row["validation_s"] for row in earlier)
        row = {
            "stage": self.stage,
            "step": step,
            "train_s": time_s - lost_s,
            "validation_s": validation_s,
            "success": success,
            "macro": float(np.mean(list(success.values()))),
        }
        write_jsonl(self.path, [*others, *earlier, row])

    def _rows_before(self, step: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Other stages' rows, and this one's of earlier steps: a run that was killed measures later ones again."""
        rows = read_jsonl(self.path).rows if self.path.exists() else []
        others = [row for row in rows if row["stage"] != self.stage]
        return others, [row for row in rows if row["stage"] == self.stage and row["step"] < step]

    def _success(self, student: Backbone) -> dict[str, float]:
        rank, num_ranks = rank_and_number()
        # Task after task: every rank has some of each, and none the long ones alone.
        places = range(rank, len(self._examples), num_ranks)
        engine = TransformersEngine(student, batch_size=BATCH)
        episodes: list[Episode] = []
        failure = None
        with torch.autocast(student.device.type, torch.bfloat16, enabled=student.computes_in is not None):
            try:
                episodes = self._play(engine, [self._examples[place] for place in places])
            except PilotageError as error:
                # In the midst of a forward that all ranks make, the others wait for this one: their launcher ends them.
                if num_ranks == 1 or (engine.is_broken_off and is_sharded(student.model)):
                    raise
                failure = f"validation on rank {rank}: {error}"
            engine.join(self._decoding)
        found = [
            (place, episode.example.task, has_won(episode))
            for place, episode in zip(places, episodes, strict=False)
        ]
        if failures := joined_over_ranks([] if failure is None else [failure]):
            raise PilotageError(failures[0])
        return success_by_task((task, won) for _, task, won in sorted(joined_over_ranks(found)))

    def _play(self, engine: TransformersEngine, examples: Sequence[Example]) -> list[Episode]:
        return episodes_of(
            engine,
            examples,
            decoding=self._decoding,
            prompts=self._prompts,
            batch_size=BATCH,
            open_session=self._open_session,
        )
