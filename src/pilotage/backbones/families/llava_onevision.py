"""LLaVA-OneVision: a picture alone is shown whole and in squares, several are shown whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilotage.backbones.checkpoint import refuse_unequal
from pilotage.backbones.processed import ProcessorFamily


class LlavaOneVision(ProcessorFamily):
    model_types = ("llava_onevision",)
    processor_class = "LlavaOnevisionProcessor"
    prompt_only_tokens = ("<image>", "<video>")
    vision_modules = ("vision_tower", "multi_modal_projector", "image_newline")

    def refuse_misfit(self, processor: Any, config: Any, directory: Path) -> None:
        vision = config.vision_config
        num_tokens = (vision.image_size // vision.patch_size) ** 2
        refuse_unequal({"num_image_tokens": (processor.num_image_tokens, num_tokens)}, directory)


FAMILY = LlavaOneVision()
