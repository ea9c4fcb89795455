"""How much room a stage takes on disk, told from shapes: checkpoints, the model that it leaves, rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotage.backbones.load import Backbone
from pilotage.errors import PilotageError
from pilotage.train.checkpoints import WholeCheckpoints
from pilotage.train.distill_config import EMA, DistillConfig, GatedRefresh
from pilotage.train.sft_config import SftConfig

SFT_ROW, DISTILL_ROW, EVALUATION_ROW, ROLLOUT_ROW = 300, 1_600, 1_000, 700
"""Bytes of a line of figures of a step, of an evaluation's row with its (brief) prompt, and of a kept rollout; the
answer comes on top."""
TOKEN_BYTES = 2
"""Of an answer's text for each token that it may have: answers are shorter than they may be."""
PLAINLY = 0.8
"""With less than this share of what is told, a run is refused: the rest is what an estimate may be wrong by."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes of what stages leave in a run's folder, and for a while take besides."""

    checkpoints: int = 0
    models: int = 0
    rows: int = 0
    passing: int = 0
    """The most that is there besides at one moment: a checkpoint is written before the oldest goes."""

    @property
    def together(self) -> int:
        """What is left at the end."""
        return self.checkpoints + self.models + self.rows

    @property
    def most(self) -> int:
        return self.together + self.passing


def added(parts: Iterable[Disk]) -> Disk:
    """Of stages one after the other: each leaves its checkpoints."""
    parts = list(parts)
    ends = Disk(
        checkpoints=sum(part.checkpoints for part in parts),
        models=sum(part.models for part in parts),
        rows=sum(part.rows for part in parts),
    )
    before, most = 0, 0
    for part in parts:
        most = max(most, before + part.most)
        before += part.together
    return Disk(
        checkpoints=ends.checkpoints, models=ends.models, rows=ends.rows, passing=max(0, most - ends.together)
    )


def stage_disk(config: DistillConfig | SftConfig, start: Backbone, student: Backbone) -> Disk:
    """Of a stage that begins with the model `start` and trains it as `student`, which `prepared` made of another copy.

    Shapes are enough. Tokenizers and settings, a few megabytes at most, are left out.
    """
    trained = [parameter for parameter in student.model.parameters() if parameter.requires_grad]
    own = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    if config.lora is None:
        saved = sum(parameter.numel() * parameter.element_size() for parameter in student.model.parameters())
        model = saved
    else:
        # A checkpoint holds the adapter; the model is merged, in float32, and the adapter kept beside it.
        saved = own
        model = 4 * sum(parameter.numel() for parameter in start.model.parameters()) + own
    checkpoint = saved + sum(
        parameter.numel() * config.optimiser.state_bytes(parameter.element_size()) for parameter in trained
    )
    rows, kept = SFT_ROW * config.steps, WholeCheckpoints.num_checkpoints
    if isinstance(config, DistillConfig):
        moving = sum(isinstance(weights, EMA | GatedRefresh) for weights in config.all_weights)
        checkpoint += moving * sum(
            parameter.numel() * max(4, parameter.element_size()) for parameter in trained
        )
        rows, kept = DISTILL_ROW * config.steps, config.num_checkpoints
        if config.rollouts_every:
            num_written = 1 + config.steps // config.rollouts_every
            of_each = ROLLOUT_ROW + TOKEN_BYTES * config.max_new_tokens
            rows += (
                num_written
                * of_each
                * min(config.num_kept_rollouts, config.prompts_per_step * config.sources.max_samples)
            )
    # The last step is one too.
    num_made = -(-config.steps // config.checkpoint_every)
    num_left = min(kept, num_made)
    return Disk(
        checkpoints=num_left * checkpoint,
        models=model,
        rows=rows,
        passing=max(0, checkpoint - model - rows) if num_made > kept else 0,
    )


def evaluation_disk(*, num_rows: int, max_new_tokens: int) -> Disk:
    """Of so many rows of an evaluation."""
    return Disk(rows=num_rows * (EVALUATION_ROW + TOKEN_BYTES * max_new_tokens))


def disk_line(disk: Disk, folder: Path) -> str:
    """One line: what is needed, and what is free where the folder is, or is to be."""
    place = _existing(folder)
    parts = [
        f"{name} {_gb(size)}"
        for name, size in (("checkpoints", disk.checkpoints), ("models", disk.models), ("rows", disk.rows))
    ]
    more = f", and {_gb(disk.passing)} more on the way" if disk.passing else ""
    free = _gb(shutil.disk_usage(place).free)
    return f"disk: about {_gb(disk.together)} GB ({', '.join(parts)}){more}, {free} GB free at {place}"


def check_room(disk: Disk, folder: Path, stages: Sequence[DistillConfig | SftConfig]) -> None:
    """Raises PilotageError where a run's folder plainly has not the room for these stages; what it holds of them
    already counts as theirs."""
    place = _existing(folder)
    free = shutil.disk_usage(place).free
    held = sum(_size(folder / stage.stage) for stage in stages)
    if free + held >= PLAINLY * disk.most:
        return
    several = [stage for stage in stages if isinstance(stage, DistillConfig) and stage.num_checkpoints > 1]
    fewer = f", or keep fewer checkpoints (--set {several[0].stage}.num_checkpoints=1)" if several else ""
    raise PilotageError(
        f"{folder} has not the room for {', '.join(stage.stage for stage in stages)}: about {_gb(disk.most)} GB are "
        f"needed (checkpoints {_gb(disk.checkpoints)}, models {_gb(disk.models)}), and {_gb(free)} GB are free at "
        f"{place}: make room, name a folder on another disk{fewer}"
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _gb(size: float) -> str:
    """`12.3`, `0.034`."""
    size /= 1e9
    return f"{size:.1f}" if size >= 10 else f"{size:.2g}"
