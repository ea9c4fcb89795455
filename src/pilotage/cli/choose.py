"""From options to a recipe, its examples and its weights: what `sft`, `distill` and `eval` have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pilotage import __version__
from pilotage.errors import PilotageError, meant
from pilotage.files import write_json
from pilotage.records import Example, Split

if TYPE_CHECKING:
    from pilotage.recipes import Recipe

_DATA = tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: levels drawn as the recipe says)")
_MODEL = tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: nano, for the nano recipes)")
_THREADS = tyro.conf.arg(metavar="N", help_behavior_hint="(default: the recipe's)")


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Which recipe, with which examples."""

    recipe: str = "nano"
    """The recipe whose settings hold where no option replaces them; `pilotage recipes` lists them."""
    seed: int = 0
    """Seed of the training levels, their order and the sampling."""
    data: Annotated[Path | None, _DATA] = None
    """A data set from `pilotage data build` in place of freshly drawn levels; for `distill` with a ViGOS recipe also a
    set of questions."""
    threads: Annotated[int | None, _THREADS] = None
    """CPU threads."""

    def make_recipe(self, base: str | None) -> Recipe:
        """The recipe on a base; only the nano recipes know their own."""
        from pilotage.recipes import RECIPES, knows_its_backbone

        if self.recipe not in RECIPES:
            raise PilotageError(
                f"unknown recipe {self.recipe!r}; there are {', '.join(RECIPES)}{meant(self.recipe, RECIPES)}"
            )
        if base is None and not knows_its_backbone(self.recipe):
            raise PilotageError(f"the recipe {self.recipe} needs --model: a model directory or a hub id")
        recipe = RECIPES[self.recipe](self.seed, backbone=base or "nano")
        return recipe if self.threads is None else replace(recipe, num_threads=self.threads)

    def holds_questions(self) -> bool:
        """Whether `--data` is a set of questions about pictures, not of levels."""
        from pilotage.data.vqa_store import QUESTIONS_FORMAT, read_questions_manifest

        path = None if self.data is None else self.data / "manifest.json"
        if path is None or not path.is_file() or QUESTIONS_FORMAT not in path.read_text(encoding="utf-8"):
            return False
        assert self.data is not None
        read_questions_manifest(self.data)
        return True

    def load_prompted(self, recipe: Recipe, split: Split) -> list[Any]:
        """The examples of `split`, or the questions where `--data` holds such."""
        if self.data is not None and self.holds_questions():
            from pilotage.data.vqa_store import load_questions

            return load_questions(self.data, split)
        return self.load_examples(recipe, split)

    def load_examples(self, recipe: Recipe, split: Split) -> list[Example]:
        """The examples of `split`: from `--data` as they are, else drawn."""
        if self.data is not None:
            from pilotage.data.store import load_examples

            return load_examples(self.data, split)
        from pilotage.recipes.runner import examples_of

        return examples_of(recipe, split)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RecipeOptions):
    """The same, for a command that begins with a base."""

    model: Annotated[str | None, _MODEL] = None
    """The base: a model directory, a hub id, or nano."""


def use_threads(recipe: Recipe) -> None:
    import torch

    torch.set_num_threads(recipe.num_threads)


def latest_model(run: Path) -> tuple[str, Path] | None:
    """(stage, model directory) of the stage of a run that was finished last, or None."""
    models = [path for path in run.glob("*/model") if (path / "config.json").is_file()]
    if not models:
        return None
    latest = max(models, key=lambda path: (path.stat().st_mtime, path.parent.name))
    return latest.parent.name, latest


def recipe_of_run(run: Path, recipe: Recipe) -> Recipe:
    """`recipe` with what the run's own `config.json` says of how it is measured, if it says so."""
    path = run / "config.json"
    try:
        settings = json.loads(path.read_bytes())["recipe"] if path.is_file() else {}
    except (ValueError, KeyError, TypeError):
        return recipe
    names = ("backbone", "num_test", "max_new_tokens", "prompts", "cell_px", "dtype", "attention")
    known = {name: settings[name] for name in names if name in settings}
    if "levels" in settings:
        known["levels"] = tuple((task, tuple(levels)) for task, levels in settings["levels"])
    return replace(recipe, **known)


def note_settings(run: Path, stage: str, recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Keeps a stage's settings in the run's `config.json`. A folder made by one whole recipe has them already."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / "config.json"
    config: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    if config and "stages" not in config:
        return
    from pilotage.train.distill_config import as_settings

    measured = {k: v for k, v in as_settings(recipe).items() if k not in ("stages", "num_threads")}
    # The first settings stay: a stage refuses to go on with others.
    stages = {stage: as_settings(settings)} | config.get("stages", {})
    write_json(path, {"version": __version__, "recipe": measured, "stages": stages})
