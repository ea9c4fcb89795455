"""What makes a run survive being killed: folders that appear whole, and logs that agree with them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from pilotage.errors import PilotageError
from pilotage.files import (
    PARTIAL,
    append,
    clear_partial,
    file_hash,
    locked,
    read_json,
    write_json,
    write_whole,
)
from pilotage.train.settings import differences

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")
CHECKSUMS = "checksums.json"
"""In a checkpoint: every other file in it, with its SHA-256."""
LOCK = ".training.lock"
"""In a run's folder: held while a stage trains. Stages share the run's logs, so two of them would lose rows."""


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, directory) of the whole checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = ((_NAME.fullmatch(entry.name), entry) for entry in folder.iterdir() if entry.is_dir())
    return sorted((int(match[1]), entry) for match, entry in found if match)


@contextmanager
def training_in(run_dir: Path, *, is_first: bool) -> Iterator[None]:
    """Holds a run for the block, on the first rank. Raises PilotageError where another command trains in it.

    Over at the end: what kills left half written in the run's folder is removed.
    """
    if not is_first:
        yield
        return
    busy = f"another command is training in {run_dir}: wait for it to end, or name another folder"
    with locked(run_dir / LOCK, busy=busy):
        yield
        clear_partial(run_dir)


def newest_whole(folder: Path) -> tuple[int, Path] | None:
    """(step, directory) of the newest checkpoint whose files are all as they were written; None without one.

    A damaged one is passed over with a line in the log: the one before it leads to the same end.
    """
    for step, directory in reversed(checkpoints(folder)):
        if (fault := _fault(directory)) is None:
            return step, directory
        logger.warning("%s is passed over: %s; going on from what is before it", directory, fault)
    return None


def _fault(directory: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sums = read_json(directory / CHECKSUMS, remedy="it is not whole")
    except PilotageError as error:
        return str(error)
    for name, written in sums.items():
        path = directory / name
        try:
            if file_hash(path) != written:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def _seal(directory: Path) -> None:
    """Writes the checksums of a checkpoint that is complete."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    write_json(
        directory / CHECKSUMS, {path.relative_to(directory).as_posix(): file_hash(path) for path in files}
    )


def publish(written: Path, target: Path) -> None:
    """Moves a directory that is complete to its name; until then, whatever was there stays."""
    if target.exists():
        # Only a directory of the same step can be here, and the new one holds the same.
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(written, target)


def prune(folder: Path, num_kept: int) -> None:
    """Removes all but the newest checkpoints and what a kill left half written."""
    for _, directory in checkpoints(folder)[:-num_kept]:
        # Renamed first: a kill during the removal must not leave a damaged directory under a good name.
        doomed = directory.with_name(directory.name + PARTIAL)
        os.replace(directory, doomed)
        shutil.rmtree(doomed)
    for entry in folder.glob(f"*{PARTIAL}"):
        shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def own_names(model: Any) -> Iterator[None]:
    """`save_pretrained` writes the parameters' own names within the block.

    A model that was read from a directory with other names, or other shapes, is written with those again, which is
    what its users expect; `load_state_dict`, by which a Trainer goes on, finds none of them.
    """
    before = vars(model).get("_weight_conversions")
    model._weight_conversions = []
    try:
        yield
    finally:
        del model._weight_conversions
        if before is not None:
            model._weight_conversions = before


class WholeCheckpoints:
    """A `transformers.Trainer`, named after this class among the bases, whose checkpoints are in `stage_dir`.

    A checkpoint appears under its name when it is whole; a kill before that leaves the one before.
    """

    stage_dir: Path
    num_checkpoints = 2
    """Checkpoints kept."""
    _staging: Path | None = None

    def write_beside_checkpoint(self, directory: Path) -> None:
        """Adds what the Trainer does not know of to a checkpoint that has no name yet; called on the first rank."""

    def checkpoint_to_go_on_from(self: Any) -> tuple[int, Path] | None:
        """The newest whole checkpoint, found by the first rank for all."""
        found = [newest_whole(self.stage_dir) if self.is_world_process_zero() else None]
        if self.args.world_size > 1:
            broadcast_object_list(found)
        return found[0]

    def _get_output_dir(self: Any, trial: Any) -> str:
        return str(self._staging or self.args.output_dir)

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        self._staging = self.stage_dir / f"writing{PARTIAL}"
        if self.is_world_process_zero():
            shutil.rmtree(self._staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with own_names(self.accelerator.unwrap_model(self.model)):
            super()._save_checkpoint(model, trial)  # pyright: ignore[reportAttributeAccessIssue]
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            name = f"checkpoint-{self.state.global_step}"
            self.write_beside_checkpoint(self._staging / name)
            # The Trainer pickles its arguments; nothing reads them, and pickles can run code.
            (self._staging / name / "training_args.bin").unlink(missing_ok=True)
            _seal(self._staging / name)
            publish(self._staging / name, self.stage_dir / name)
            prune(self.stage_dir, self.num_checkpoints)
        self._staging = None
        self.accelerator.wait_for_everyone()

    def _issue_warnings_after_load(self: Any, load_result: Any) -> None:
        """Raises PilotageError where a checkpoint's names are not the model's: the Trainer goes on with a warning."""
        given = set(load_result.missing_keys)
        values = self.model.state_dict()
        # What is tied to a parameter that was read is not written beside it.
        read = {_place(values[name]) for name in values.keys() - given}
        missing = [name for name in sorted(given) if _place(values[name]) not in read]
        if missing or load_result.unexpected_keys:
            bad = [f"no {missing[0]}"] if missing else []
            bad += [f"{name} that the model has not" for name in load_result.unexpected_keys[:1]]
            raise PilotageError(
                f"a checkpoint in {self.stage_dir} has {' and '.join(bad)}: remove the folder to train the stage again"
            )
        self.model.tie_weights()


def _place(value: Any) -> tuple[int, int]:
    """Where a tensor lies: equal for tied ones alone."""
    return value.untyped_storage().data_ptr(), value.storage_offset()


def check_name(folder: Path) -> None:
    """Raises PilotageError for a name that is no text: the libraries that save a model could not write there."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise PilotageError(f"{str(folder)!r} is no name in UTF-8, and no model can be saved there") from None


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Ties a folder to a run's settings; raises PilotageError when it holds a run with others."""
    check_name(folder)
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1, sort_keys=True)
    if path.exists():
        kept = read_json(path, remedy=f"remove {folder} to train the stage again")
        if changed := list(differences(kept, json.loads(text))):
            raise PilotageError(
                f"{folder} holds a run with other settings ({'; '.join(changed)}): give another folder, or remove it"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One JSON line at the end of a file."""
    append(path, f"{json.dumps(row)}\n".encode())


def trim_rows(path: Path, *, stage: str, last_step: int) -> list[dict[str, Any]]:
    """Drops a stage's rows after `last_step`, and lines that are no rows; returns the stage's rows that stay."""
    if not path.exists():
        return []
    kept, own = [], []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            is_own = row.get("stage") == stage
            if is_own and row["step"] > last_step:
                continue
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            continue  # cut short by a kill, or damaged: no row that anybody could read
        if is_own:
            own.append(row)
        kept.append(line + b"\n")
    write_whole(path, b"".join(kept))
    return own
