"""SmolVLM and SmolVLM2: Idefics3 with smaller parts, and videos, which are left alone."""

from __future__ import annotations

from pilotage.backbones.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    model_types = ("smolvlm",)
    processor_class = "SmolVLMProcessor"
    # Its own says how long a video is in words, for which it needs num2words.
    processor_base = "Idefics3Processor"


FAMILY = SmolVLM()
