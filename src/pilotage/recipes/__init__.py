"""Whole runs as typed configurations, and what runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pilotage.recipes.mgsd import mgsd, mgsd_full
from pilotage.recipes.nano import nano_mgsd
from pilotage.recipes.nano_methods import (
    nano_control_no_privilege,
    nano_dense_rl,
    nano_gkd,
    nano_grpo,
    nano_opsd,
    nano_opsd_v1,
    nano_vigos,
    nano_vigos_released,
    nano_visual_sft,
)
from pilotage.recipes.neighbours import (
    control_no_privilege,
    dense_rl,
    gkd,
    grpo,
    opsd,
    opsd_v1,
    vigos,
    vigos_released,
    visual_sft,
)
from pilotage.recipes.recipe import BASE_STAGE, Recipe
from pilotage.recipes.runner import Watcher, run_recipe


class RecipeMaker(Protocol):
    def __call__(self, seed: int, *, backbone: str) -> Recipe: ...


RECIPES: Mapping[str, RecipeMaker] = {
    "nano": nano_mgsd,
    "nano_vigos": nano_vigos,
    "nano_vigos_released": nano_vigos_released,
    "nano_opsd": nano_opsd,
    "nano_opsd_v1": nano_opsd_v1,
    "nano_gkd": nano_gkd,
    "nano_dense_rl": nano_dense_rl,
    "nano_grpo": nano_grpo,
    "nano_visual_sft": nano_visual_sft,
    "nano_control_no_privilege": nano_control_no_privilege,
    "mgsd": mgsd,
    "mgsd_full": mgsd_full,
    "vigos": vigos,
    "vigos_released": vigos_released,
    "opsd": opsd,
    "opsd_v1": opsd_v1,
    "gkd": gkd,
    "dense_rl": dense_rl,
    "grpo": grpo,
    "visual_sft": visual_sft,
    "control_no_privilege": control_no_privilege,
}
"""Name on the command line -> the function that makes the recipe."""


def knows_its_backbone(name: str) -> bool:
    """Whether a recipe is made for the nano model; the others are given one."""
    return name.startswith("nano")


__all__ = [
    "BASE_STAGE",
    "RECIPES",
    "Recipe",
    "RecipeMaker",
    "Watcher",
    "knows_its_backbone",
    "run_recipe",
]
