"""What is told of a stage's student before its first step."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from pilotage.backbones.load import Backbone
from pilotage.train.sft_config import Validate


class ValidatesBeginning(TrainerCallback):
    """Has the student validated when it stands as it trains and has made no step; not where a run goes on."""

    def __init__(self, validate: Validate, student: Backbone) -> None:
        self.validate, self.student = validate, student

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.validate(self.student, 0, 0.0)
