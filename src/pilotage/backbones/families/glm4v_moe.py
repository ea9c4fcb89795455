"""GLM-4.5V: GLM-4.1V with experts."""

from __future__ import annotations

from pilotage.backbones.families.glm4v import Glm4v


class Glm4vMoe(Glm4v):
    model_types = ("glm4v_moe",)
    # Asked for its other layers by name, peft adapts the experts in their place.
    language_linears = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"


FAMILY = Glm4vMoe()
