"""GLM-4.6V: the model of GLM-4.1V with a processor of its own."""

from __future__ import annotations

from pilotage.backbones.families.glm4v import Glm4v


class Glm46v(Glm4v):
    model_types = ("glm46v",)
    processor_class = "Glm46VProcessor"


FAMILY = Glm46v()
