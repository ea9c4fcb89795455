"""The record of a run: one file that says what the run is, written by its first command and read by all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pilotage import __version__
from pilotage.errors import PilotageError
from pilotage.files import read_json, write_json
from pilotage.runs.recipe import PLACES, Recipe, Stage
from pilotage.train.parts import parts_of
from pilotage.train.settings import as_settings, differences, from_settings

RECORD_FILE = "config.json"
_INSIDE = "./"
"""Begins the path of a model in the run's own folder, which may be moved."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run is. Its stages and their order are the recipe's."""

    recipe: Recipe
    """Stages that have begun stand in it as they are trained, the others as they would be."""
    began_with: Mapping[str, str] = field(default_factory=dict)
    """Stage -> weights that it began with, of the stages that were trained by a command of their own."""

    def stage_before(self, stage: str) -> Stage | None:
        """The recipe's stage before one of its stages; None for the first."""
        names = [each.stage for each in self.recipe.stages]
        at = names.index(stage)
        return self.recipe.stages[at - 1] if at else None

    def first_weights(self, stage: str, run: Path) -> str:
        """The weights that a stage of the run began with, or that it would begin with in a whole run."""
        if stage in self.began_with:
            weights = self.began_with[stage]
            return str(run / weights) if weights.startswith(_INSIDE) else weights
        before = self.stage_before(stage)
        return self.recipe.backbone if before is None else str(model_of(run, before.stage))

    def finished(self, run: Path) -> list[str]:
        """The stages whose models are there, in the order of the recipe, whatever their files' times are."""
        return [stage.stage for stage in self.recipe.stages if is_finished(run, stage.stage)]


def model_of(run: Path, stage: str) -> Path:
    return run / stage / "model"


def is_finished(run: Path, stage: str) -> bool:
    return (model_of(run, stage) / "config.json").is_file()


def read_record(run: Path) -> RunRecord | None:
    """The record of the run in a folder; None where no run was begun. PilotageError for a file that is no record."""
    settings = _read(run)
    if settings is None:
        return None
    try:
        recipe = from_settings(settings.get("recipe"), parts_of(Recipe))
        began_with = settings.get("began_with", {})
        if not isinstance(recipe, Recipe):
            raise PilotageError("it has no recipe")
        if not isinstance(began_with, dict) or not all(isinstance(name, str) for name in began_with.values()):
            raise PilotageError("began_with holds no names of weights")
    except PilotageError as error:
        raise PilotageError(f"{run / RECORD_FILE} is damaged ({error}): {_remedy(run)}") from None
    return RunRecord(recipe=recipe, began_with=began_with)


def check_whole_run(recipe: Recipe, run: Path) -> None:
    """Raises PilotageError where a folder holds a run of another recipe or version; `PLACES` make no other run."""
    settings = _read(run)
    if settings is None:
        return
    kept = {"recipe": settings.get("recipe"), "version": settings.get("version")}
    now = _settings(RunRecord(recipe=recipe))
    for each in (kept, now):
        if isinstance(each["recipe"], dict):
            each["recipe"] = {k: v for k, v in each["recipe"].items() if k not in PLACES}
    if changed := list(differences(kept, now)):
        raise PilotageError(
            f"{run} holds another run ({'; '.join(changed[:3])}): name a new folder or remove it"
        )


def begin_run(recipe: Recipe, run: Path) -> None:
    """Writes the record of a whole run, unless it is there."""
    if not (run / RECORD_FILE).exists():
        _write(run, RunRecord(recipe=recipe))


def begin_stage(recipe: Recipe, config: Stage, student: str, run: Path) -> None:
    """Notes in the record that a stage of the recipe begins: how it is trained, and from which weights.

    The stages after it stand in the record as they do in `recipe`. To be called when nothing can be refused any more.
    """
    known = read_record(run)
    before = RunRecord(recipe=recipe) if known is None else known
    stages = tuple(config if stage.stage == config.stage else stage for stage in recipe.stages)
    record = RunRecord(
        recipe=replace(before.recipe, stages=stages),
        began_with={**before.began_with, config.stage: _weights_name(run, student)},
    )
    if record != known:
        _write(run, record)


def lasting_name(model: str) -> str:
    """A model's name that holds wherever a later command is started: of a directory, its whole path."""
    directory = Path(model).expanduser()
    return str(directory.absolute()) if model != "nano" and directory.is_dir() else model


def _weights_name(run: Path, weights: str) -> str:
    inside = Path(weights).absolute()
    if inside.is_relative_to(run.absolute()):
        return _INSIDE + inside.relative_to(run.absolute()).as_posix()
    return lasting_name(weights)


def _settings(record: RunRecord) -> dict[str, Any]:
    settings: dict[str, Any] = {"version": __version__, "recipe": as_settings(record.recipe)}
    return settings | ({"began_with": dict(record.began_with)} if record.began_with else {})


def _write(run: Path, record: RunRecord) -> None:
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / RECORD_FILE, _settings(record))


def _read(run: Path) -> dict[str, Any] | None:
    path = run / RECORD_FILE
    if not path.exists():
        return None
    settings = read_json(path, remedy=_remedy(run))
    if "model_type" in settings:
        raise PilotageError(f"{run} is a model, not a run: name another folder for the run")
    if isinstance(settings.get("stages"), dict):
        raise PilotageError(f"{path} is of an earlier version, which kept no whole recipe: {_remedy(run)}")
    return settings


def _remedy(run: Path) -> str:
    return (
        "remove it and give the run's first command again with all its options, or measure a stage by its path, "
        f"{model_of(run, 'STAGE')}"
    )
