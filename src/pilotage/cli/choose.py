"""From options to a recipe, its examples and its weights: what `train`, `eval` and others have in common."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pilotage.cli.options import AtLeast, takes
from pilotage.errors import PilotageError, meant
from pilotage.records import Example, Split

if TYPE_CHECKING:
    from pilotage.data.sets import SetKind
    from pilotage.rollouts.sessions import SessionSettings
    from pilotage.runs import Recipe
    from pilotage.runs.measurement import Measurement
    from pilotage.runs.record import RunRecord

logger = logging.getLogger(__name__)

REAL_RECIPE = "mgsd"
"""How a model that names no recipe is measured, where the user names none: the paper's levels, prompts and length."""
MEASURED_BY = "pilotage_recipe"
"""Key of a model's `config.json`: the recipe whose prompts and levels the model was made for."""

_RECIPE = takes("NAME", f"the run's; else the model's, else {REAL_RECIPE}")
_SEED = takes("N", "the run's, else 0")
_DATA = takes("DIR", "levels drawn as the recipe says")
_THREADS = takes("N", "the recipe's")


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Which recipe, with which examples."""

    recipe: Annotated[str | None, _RECIPE] = None
    """The recipe whose settings hold where no option replaces them; `pilotage recipes` lists them."""
    seed: Annotated[int | None, _SEED] = None
    """Seed of the training levels, their order and the sampling."""
    data: Annotated[Path | None, _DATA] = None
    """A data set from `pilotage data build` in place of freshly drawn levels, or a set of questions about pictures."""
    threads: Annotated[int | None, _THREADS, AtLeast(1)] = None
    """CPU threads."""

    def of_model(self, model: str) -> Recipe:
        """The recipe that a model which is no run's is measured by. Without --recipe, the log says which and why."""
        return self._with_threads(make_recipe(self._recipe_for(model), self.seed, model))

    def of_endpoint(self, model: str) -> Measurement:
        """What the recipe says of how a model at an endpoint is measured; no torch is needed for it."""
        from pilotage.recipes import RECIPES

        return RECIPES.measurement(self._recipe_for(model), self.seed or 0)

    def _recipe_for(self, model: str) -> str:
        """Name of the recipe that a model which is no run's is measured by."""
        from pilotage.recipes import RECIPES

        if self.recipe is not None:
            return known_recipe(self.recipe)
        if (own := own_recipe(model)) is not None:
            return own
        measurement = RECIPES.measurement(REAL_RECIPE)
        logger.info(
            "no --recipe is given and %s names none: measured as %s says, with %s prompts and %d tokens",
            *(model, REAL_RECIPE, measurement.prompts, measurement.max_new_tokens),
        )
        return REAL_RECIPE

    def of_run(self, run: Path, record: RunRecord) -> Recipe:
        """The recipe of a run. Raises PilotageError for options that contradict it."""
        self._check(run, recipe=(self.recipe, command_name(record.recipe)))
        return self._with_threads(record.recipe)

    def _check(self, run: Path, **pairs: tuple[Any, Any]) -> None:
        """Option -> what was given (None: nothing), and what the run's record holds."""
        for option, (now, kept) in pairs.items():
            if now not in (None, kept):
                raise PilotageError(
                    f"--{option} {now}: {run} was begun with {kept}; leave the option out, or name a new folder"
                )

    def _with_threads(self, recipe: Recipe) -> Recipe:
        return recipe if self.threads is None else replace(recipe, num_threads=self.threads)

    def kind_of_data(self) -> SetKind | None:
        """What kind of set `--data` is; None without one."""
        from pilotage.data.sets import kind_of_set

        return None if self.data is None else kind_of_set(self.data)

    def load_examples(
        self, measurement: Measurement, split: Split, sessions: SessionSettings | None = None
    ) -> list[Example]:
        """The examples of `split`: from `--data` as they are, of whatever kind, else levels, drawn.

        `sessions` says where worlds make theirs; None: as the recipe says.
        """
        if self.data is not None:
            from pilotage.data.sets import load_any

            return load_any(self.data, split)
        from pilotage.runs.measurement import examples_of

        return examples_of(measurement, split, sessions)


def known_recipe(name: str) -> str:
    """The name. Raises PilotageError where there is no such recipe."""
    from pilotage.recipes import RECIPES

    if name not in RECIPES:
        raise PilotageError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}{meant(name, RECIPES)}")
    return name


def make_recipe(name: str, seed: int | None, base: str | None) -> Recipe:
    """The recipe of that name on a base; some are made for one of their own."""
    from pilotage.recipes import RECIPES

    backbone = base or RECIPES.entries[known_recipe(name)].backbone
    if backbone is None:
        raise PilotageError(f"the recipe {name} needs --backbone: a model directory or a hub id")
    return RECIPES[name](seed or 0, backbone=backbone)


def command_name(recipe: Recipe) -> str:
    """A recipe's name on the command line; its own where the command line does not know it."""
    from pilotage.recipes import RECIPES

    known = (name for name, make in RECIPES.items() if make(0, backbone="nano").name == recipe.name)
    return next(known, recipe.name)


def own_recipe(model: str) -> str | None:
    """The recipe that a model is made for: the one whose backbone it is, or the one that its directory names."""
    from pilotage.recipes import RECIPES

    for name, entry in RECIPES.entries.items():
        if entry.backbone == model:
            return name
    named = _config_of(Path(model).expanduser()).get(MEASURED_BY)
    return named if isinstance(named, str) and named in RECIPES else None


def choose_model(target: str, stage: str | None, options: RecipeOptions) -> tuple[str, str, Recipe]:
    """(stage, model directory or id, recipe) of RUN|MODEL: of a run, its last finished stage or the one named.

    Raises PilotageError where there is no such stage.
    """
    from pilotage.backbones.checkpoint import holds_model  # numpy comes with it

    run = Path(target)
    if not run.is_dir() or holds_model(run):
        return stage or "base", target, options.of_model(target)
    from pilotage.runs.record import is_finished, model_of, read_record

    record = read_record(run)
    if stage is None:
        if record is not None:
            finished = record.finished(run)
        else:
            finished = sorted(path.name for path in run.iterdir() if is_finished(run, path.name))
        if not finished:
            raise PilotageError(f"{run} holds neither a model nor a finished stage of a run")
        if record is None and len(finished) > 1:
            raise PilotageError(
                f"{run} has no record of which stage was the last of {', '.join(finished)}: name it with --stage"
            )
        stage = finished[-1]
    elif not model_of(run, stage).is_dir():
        raise PilotageError(f"{run} has no finished stage {stage!r}: {model_of(run, stage)} is not there")
    model = str(model_of(run, stage))
    return stage, model, options.of_model(model) if record is None else options.of_run(run, record)


def use_threads(recipe: Recipe) -> None:
    import torch

    torch.set_num_threads(recipe.num_threads)


def _config_of(directory: Path) -> dict[str, Any]:
    """The `config.json` of what may be a model directory; nothing where it cannot be read."""
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
