"""GLM-4.1V: pictures of any size, positions of rows and columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilotage.backbones.checkpoint import refuse_unequal
from pilotage.backbones.processed import ProcessorFamily

_MARKS = ("begin_of_image", "end_of_image", "image", "begin_of_video", "end_of_video", "video")


class Glm4v(ProcessorFamily):
    model_types = ("glm4v",)
    processor_class = "Glm4vProcessor"
    prompt_only_tokens = tuple(f"<|{mark}|>" for mark in _MARKS)
    vision_modules = ("visual",)
    language_linears = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_up_proj|down_proj)"

    def refuse_misfit(self, processor: Any, config: Any, directory: Path) -> None:
        images, vision = processor.image_processor, config.vision_config
        refuse_unequal(
            {
                "patch_size": (images.patch_size, vision.patch_size),
                "merge_size": (images.merge_size, vision.spatial_merge_size),
            },
            directory,
        )


FAMILY = Glm4v()
