"""Whole runs as typed configurations, by name.

A name here imports what it needs when it is used: torch and transformers take seconds, and a list of the recipes or a
refused name needs neither.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from pilotage.runs.measurement import DRIVING, NANO, OPSD, PAPER, SMOLVL, VIGOS, Measurement

if TYPE_CHECKING:
    from pilotage.runs.recipe import Recipe


class RecipeMaker(Protocol):
    """Seed and backbone (a model directory, a hub id or nano) -> the recipe."""

    def __call__(self, seed: int, *, backbone: str) -> Recipe: ...


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a recipe before it is made, for commands that have no torch."""

    module: str
    """Of this package."""
    function: str
    measurement: Measurement = PAPER
    """What it trains and measures on, whatever the seed."""
    backbone: str | None = None
    """The model that it is made for; None for a recipe that is given one."""


class Catalogue(Mapping[str, RecipeMaker]):
    """Name on the command line -> the function that makes the recipe."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> RecipeMaker:
        entry = self.entries[name]
        return getattr(importlib.import_module(f"{__name__}.{entry.module}"), entry.function)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def about(self, name: str) -> str:
        """The docstring of the recipe's function, read from the source of its module, which is not imported."""
        entry = self.entries[name]
        spec = importlib.util.find_spec(f"{__name__}.{entry.module}")
        assert spec is not None and isinstance(spec.loader, importlib.abc.InspectLoader)
        nodes = ast.parse(spec.loader.get_source(spec.name) or "").body
        node = next(
            node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == entry.function
        )
        return ast.get_docstring(node) or ""

    def measurement(self, name: str, seed: int = 0) -> Measurement:
        """What the recipe of this name is measured on, without the recipe itself."""
        return replace(self.entries[name].measurement, seed=seed)


def _nano(function: str, *, module: str = "nano_methods") -> Entry:
    return Entry(module=module, function=function, measurement=NANO, backbone="nano")


def _near(function: str, measurement: Measurement = PAPER) -> Entry:
    return Entry(module="neighbours", function=function, measurement=measurement)


RECIPES = Catalogue(
    {
        "nano": _nano("nano_mgsd", module="nano"),
        "nano_vigos": _nano("nano_vigos"),
        "nano_vigos_released": _nano("nano_vigos_released"),
        "nano_opsd": _nano("nano_opsd"),
        "nano_opsd_v1": _nano("nano_opsd_v1"),
        "nano_gkd": _nano("nano_gkd"),
        "nano_dense_rl": _nano("nano_dense_rl"),
        "nano_grpo": _nano("nano_grpo"),
        "nano_visual_sft": _nano("nano_visual_sft"),
        "nano_control_no_privilege": _nano("nano_control_no_privilege"),
        "smolvl": Entry(module="smolvl", function="smolvl", measurement=SMOLVL),
        "mgsd": Entry(module="mgsd", function="mgsd"),
        "mgsd_full": Entry(module="mgsd", function="mgsd_full"),
        "vigos": _near("vigos", VIGOS),
        "vigos_released": _near("vigos_released", VIGOS),
        "opsd": _near("opsd", OPSD),
        "opsd_v1": _near("opsd_v1", OPSD),
        "gkd": _near("gkd", DRIVING),
        "dense_rl": _near("dense_rl", DRIVING),
        "grpo": _near("grpo"),
        "visual_sft": _near("visual_sft"),
        "control_no_privilege": _near("control_no_privilege"),
    }
)

__all__ = ["RECIPES", "Catalogue", "Entry", "RecipeMaker"]
