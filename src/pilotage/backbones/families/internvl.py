"""InternVL (3 and 3.5, as transformers has them): a picture is cut into squares and shown whole besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilotage.backbones.checkpoint import refuse_unequal
from pilotage.backbones.processed import ProcessorFamily


class InternVL(ProcessorFamily):
    model_types = ("internvl",)
    processor_class = "InternVLProcessor"
    prompt_only_tokens = ("<IMG_CONTEXT>", "<img>", "</img>", "<video>")
    vision_modules = ("vision_tower", "multi_modal_projector")

    def refuse_misfit(self, processor: Any, config: Any, directory: Path) -> None:
        refuse_unequal({"image_seq_length": (processor.image_seq_length, config.image_seq_length)}, directory)


FAMILY = InternVL()
