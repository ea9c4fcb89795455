"""Whole runs as typed configurations, and what runs them.

A name here imports what it needs when it is used: torch and transformers take seconds, and a list of the recipes or a
refused name needs neither.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pilotage.runs.recipe import Recipe


class RecipeMaker(Protocol):
    def __call__(self, seed: int, *, backbone: str) -> Recipe: ...


class Catalogue(Mapping[str, RecipeMaker]):
    """Name on the command line -> the function that makes the recipe."""

    def __init__(self, places: Mapping[str, tuple[str, str]]) -> None:
        self._places = places
        """Name -> the module of this package and the function in it."""

    def __getitem__(self, name: str) -> RecipeMaker:
        module, function = self._places[name]
        return getattr(importlib.import_module(f"{__name__}.{module}"), function)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def about(self, name: str) -> str:
        """The docstring of the recipe's function, read from the source of its module, which is not imported."""
        module, function = self._places[name]
        spec = importlib.util.find_spec(f"{__name__}.{module}")
        assert spec is not None and isinstance(spec.loader, importlib.abc.InspectLoader)
        nodes = ast.parse(spec.loader.get_source(spec.name) or "").body
        node = next(node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == function)
        return ast.get_docstring(node) or ""


RECIPES = Catalogue(
    {
        "nano": ("nano", "nano_mgsd"),
        "nano_vigos": ("nano_methods", "nano_vigos"),
        "nano_vigos_released": ("nano_methods", "nano_vigos_released"),
        "nano_opsd": ("nano_methods", "nano_opsd"),
        "nano_opsd_v1": ("nano_methods", "nano_opsd_v1"),
        "nano_gkd": ("nano_methods", "nano_gkd"),
        "nano_dense_rl": ("nano_methods", "nano_dense_rl"),
        "nano_grpo": ("nano_methods", "nano_grpo"),
        "nano_visual_sft": ("nano_methods", "nano_visual_sft"),
        "nano_control_no_privilege": ("nano_methods", "nano_control_no_privilege"),
        "mgsd": ("mgsd", "mgsd"),
        "mgsd_full": ("mgsd", "mgsd_full"),
        "vigos": ("neighbours", "vigos"),
        "vigos_released": ("neighbours", "vigos_released"),
        "opsd": ("neighbours", "opsd"),
        "opsd_v1": ("neighbours", "opsd_v1"),
        "gkd": ("neighbours", "gkd"),
        "dense_rl": ("neighbours", "dense_rl"),
        "grpo": ("neighbours", "grpo"),
        "visual_sft": ("neighbours", "visual_sft"),
        "control_no_privilege": ("neighbours", "control_no_privilege"),
    }
)


def knows_its_backbone(name: str) -> bool:
    """Whether a recipe is made for the nano model; the others are given one."""
    return name.startswith("nano")


__all__ = [
    "RECIPES",
    "RecipeMaker",
    "knows_its_backbone",
]
