"""What a run of supervised fine-tuning is: its settings, checked before anything heavy begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pilotage.errors import PilotageError
from pilotage.train.settings import LATER, check_not_negative
from pilotage.train.updates import Schedule, Updates
from pilotage.views import PromptSet, shows_picture, view_names

if TYPE_CHECKING:
    from pilotage.backbones.load import Backbone


@dataclass(frozen=True, kw_only=True)
class SftConfig(Updates):
    """One run of supervised fine-tuning."""

    stage: str = "stage1"
    """Name in `metrics.jsonl`, and of the folder in the run that holds checkpoints and the model."""
    image_view: str | tuple[tuple[str, float], ...] = "perception"
    """What image rows ask for, answered by the view's reference: `perception` (stage 1), `student` (the whole response
    to the picture alone), `student_with_plan`, `vqa_student` (questions), or another view with a picture; or several,
    with how often each is drawn."""
    prompts: PromptSet
    batch_size: int = 64
    """Rows in a step, of all ranks and both modalities together."""
    micro_batch_size: int = 32
    """At most so many rows in one forward; a step has image micro-batches and text micro-batches, never mixed ones."""
    length_groups: int = 2
    """At least so many micro-batches of each modality, cut by length where padding is least."""
    retention_share: float = 1 / 3
    """Share of the rows that are text only, so that planning from words is not forgotten. 0 for none; with 1, all are,
    and `image_view` asks nothing."""
    retention_views: tuple[tuple[str, float], ...] = (("symbolic", 0.7), ("teacher", 0.3))
    """Text views of the retention rows, with how often each is drawn."""
    lr: float = 1e-3
    schedule: Schedule = "one_cycle"
    warmup_share: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    pixel_noise: float = 0.0
    """Standard deviation of the noise on normalised pixels (black is -1 and white 1 for nano)."""
    freeze_vision: bool = False
    """Leaves the vision tower and its merger as they are."""
    gradient_checkpointing: bool | None = field(default=None, metadata=LATER)
    """Computes activations again in the backward in place of keeping them; None does so on accelerators alone."""
    max_length: int | None = None
    """Prompt and answer may have so many tokens; a longer row is an error that names its example."""
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.retention_share <= 1:
            raise PilotageError(f"retention_share {self.retention_share} must be between 0 and 1")
        rows = "num_text_rows" if self.retention_share == 1 else "num_image_rows"
        for name in ("micro_batch_size", rows, "length_groups", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise PilotageError(f"{name} {getattr(self, name)} must be at least 1")
        for name, share in self.image_views:
            if name not in view_names() or not shows_picture(name):
                known = ", ".join(filter(shows_picture, view_names()))
                raise PilotageError(f"image_view {name!r} is not a view with a picture: {known}")
            if not share > 0:
                raise PilotageError(f"image_view {name!r} has share {share}; it must be above 0")
        if self.num_text_rows and not self.retention_views:
            raise PilotageError(
                "retention_views names no view for the retention rows; give one, or retention_share 0"
            )
        for name, share in self.retention_views:
            if name not in view_names() or share <= 0 or shows_picture(name):
                raise PilotageError(
                    f"retention view {name!r} with share {share} must be a text view, share > 0"
                )
        self.check_updates()
        check_not_negative(self, "pixel_noise")

    def recomputes(self, *, on_gpu: bool) -> bool:
        """Whether activations are computed again in the backward."""
        return on_gpu if self.gradient_checkpointing is None else self.gradient_checkpointing

    @property
    def image_views(self) -> tuple[tuple[str, float], ...]:
        """Views of the image rows, with how often each is drawn."""
        return ((self.image_view, 1.0),) if isinstance(self.image_view, str) else self.image_view

    @property
    def num_text_rows(self) -> int:
        """Retention rows in every step."""
        return round(self.batch_size * self.retention_share)

    @property
    def num_image_rows(self) -> int:
        """Image rows in every step."""
        return self.batch_size - self.num_text_rows


OnBegin = Callable[[], None]
"""Called on the first rank when everything was checked and the stage has claimed its folder, before its first step."""
OnStep = Callable[[int, int, dict[str, float]], None]
"""Called after each step with steps done, steps in all and the step's figures."""
Validate = Callable[["Backbone", int, float], None]
"""Called on every rank before the first step and after each, before the step can become a checkpoint: the student as it
trains, its parameters shared out where they are; steps done; seconds since the stage began."""
