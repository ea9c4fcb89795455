"""Gemma 3: tokens of one picture see each other, whichever comes first; most layers see a window of the past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilotage.backbones.checkpoint import refuse_unequal
from pilotage.backbones.processed import ProcessorFamily


class Gemma3(ProcessorFamily):
    model_types = ("gemma3",)
    processor_class = "Gemma3Processor"
    prompt_only_tokens = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    # The forward makes its mask of it: without, its tokens would see the past alone.
    token_arguments = ("token_type_ids",)
    vision_modules = ("vision_tower", "multi_modal_projector")

    def image_token_id(self, processor: Any) -> int:
        # The processor's own is that of the token in front of a picture.
        return processor.tokenizer.image_token_id

    def refuse_misfit(self, processor: Any, config: Any, directory: Path) -> None:
        refuse_unequal(
            {"image_seq_length": (processor.image_seq_length, config.mm_tokens_per_image)}, directory
        )


FAMILY = Gemma3()
