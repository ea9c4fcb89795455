"""What is wrong with a model directory, said before its weights are read: files, shards, parameters.

Directories come from strangers and from broken downloads. No name in a file leads out of the directory, nothing is
unpickled, and no parameter is ever left at random: a model that lacks its eyes would show a gap that is not its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from pilotage.errors import PilotageError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
"""Implementations that are in the libraries; any other name would be fetched from the hub as code."""
LFS_POINTER = b"version https://git-lfs"
MAX_JSON_BYTES = 64 * 2**20


class BackboneError(PilotageError):
    """A model directory cannot be used; the message says what is missing and how to get it."""


def check_attention(name: str, place: str) -> None:
    """Raises BackboneError for an attention that would be fetched."""
    if name not in ATTENTIONS:
        raise BackboneError(f"{place}: attention {name!r} is none of {', '.join(ATTENTIONS)}")


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json`, looked through for what would make a loader fetch or unpickle something. Raises BackboneError."""
    path = directory / "config.json"
    config = _read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise BackboneError(f"{path} names no model_type: it is not the configuration of a model")
    for place, name, value in _walk(config, str(path)):
        if name in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
            for each in value.values() if isinstance(value, dict) else [value]:
                if each is not None:
                    check_attention(each, f"{place}.{name}")
        if name == "transformers_weights" and value is not None:
            raise BackboneError(
                f"{place}.{name} names other weights, {value!r}: remove it, {WEIGHTS} is read"
            )
    return config


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, whole as far as their sizes tell. Raises BackboneError that names one.

    Their headers are read and their numbers are not.
    """
    if (directory / ADAPTER).is_file():
        raise BackboneError(
            f"{directory} is an adapter ({ADAPTER}), not a model: merge it into its base and save that"
        )
    if (directory / INDEX).is_file():
        names = _shards(directory)
    elif (directory / WEIGHTS).exists():
        names = [WEIGHTS]
    else:
        raise BackboneError(f"{directory} has no {WEIGHTS} and no {INDEX}{_instead(directory)}")
    files = [directory / name for name in names]
    for file in files:
        _check_file(file)
    return files


def check_parameters(
    model_class: Any, config: Any, files: list[Path], *, dtype: torch.dtype | str = torch.float32
) -> None:
    """Raises BackboneError that names the first parameter that is missing, of another shape, or of another model.

    The loader itself is asked, with shapes in place of numbers, so that its renamings and ties hold.
    """
    shapes = {name: torch.empty(shape, device="meta") for name, shape in _shapes(files)}
    with _quiet():
        _, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=shapes,
            dtype=dtype,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            attn_implementation="eager",
        )
    check_loading(info, files[0].parent)


def check_loading(info: Mapping[str, Any], directory: Path | str) -> None:
    """Raises BackboneError for what `output_loading_info` tells of a load that left parameters behind."""
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(info["mismatched_keys"])
    if missing:
        hint = "save the whole model again"
        if missing == ["lm_head.weight"]:
            hint = 'if the model ties it to its embeddings, config.json needs "tie_word_embeddings": true at its top'
        elif unexpected:
            hint = f"it has {unexpected[0]} and {len(unexpected) - 1} others in their place: is it of another family?"
        raise BackboneError(
            f"{directory} lacks {_first(missing, 'parameter')}, which would be random: {hint}"
        )
    if mismatched:
        name, here, wanted = mismatched[0]
        raise BackboneError(
            f"{directory}: {name} has the shape {tuple(here)}, and config.json wants {tuple(wanted)} "
            f"({len(mismatched)} such): weights and configuration are of different models"
        )
    if unexpected:
        raise BackboneError(
            f"{directory} has {_first(unexpected, 'parameter')} that its configuration does not know: "
            "weights and configuration are of different models"
        )


def _first(names: list[str], what: str) -> str:
    return f"the {what} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _read_json(path: Path) -> dict[str, Any]:
    remedy = "download or save the model again"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise BackboneError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    if len(content) > MAX_JSON_BYTES:
        raise BackboneError(f"{path} has more than {MAX_JSON_BYTES} bytes: it is no such file; {remedy}")
    if content.startswith(LFS_POINTER):
        raise BackboneError(f"{path} is a Git LFS pointer, not the file: run git lfs pull in its folder")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise BackboneError(f"{path} is damaged (it is not JSON): {remedy}") from None
    if not isinstance(data, dict):
        raise BackboneError(f"{path} is damaged (it is no JSON object): {remedy}")
    return data


def _walk(value: Any, place: str) -> Iterator[tuple[str, str, Any]]:
    """(place, name, value) of every field of nested objects."""
    waiting: list[tuple[str, Any]] = [(place, value)]
    while waiting:
        at, each = waiting.pop()
        if isinstance(each, dict):
            for name, inner in each.items():
                yield at, name, inner
                waiting.append((f"{at}.{name}", inner))
        elif isinstance(each, list):
            waiting.extend((at, inner) for inner in each)


def _shards(directory: Path) -> list[str]:
    path = directory / INDEX
    shard_of = _read_json(path).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise BackboneError(f"{path} is damaged (it has no weight_map): download or save the model again")
    for parameter, name in shard_of.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise BackboneError(
                f"{path} says that {parameter} is in {name!r}: weights are read from *.safetensors files of the "
                "folder itself, and from nothing else"
            )
    names = sorted(set(shard_of.values()))
    for name in names:
        if not (directory / name).exists():
            raise BackboneError(f"{directory / name} is not there, and {INDEX} names it: download it")
    held = {
        parameter: file.name for file in map(directory.joinpath, names) for parameter, _ in _shapes([file])
    }
    for parameter, name in shard_of.items():
        if held.get(parameter) != name:
            where = f"it is in {held[parameter]}" if parameter in held else "no shard has it"
            raise BackboneError(
                f"{path} says that {parameter} is in {name}, and {where}: save the model again"
            )
    if lost := sorted(held.keys() - shard_of.keys()):
        raise BackboneError(f"{path} leaves out {_first(lost, 'parameter')}: save the model again")
    return names


def _instead(directory: Path) -> str:
    """What a directory has in place of its weights, and what to do."""
    names = sorted(entry.name for entry in directory.iterdir())
    pickled = [name for name in names if name.endswith(PICKLES)]
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        return (
            f", but {', '.join(others[:4])} without an index: download {INDEX} too, or save the model again"
        )
    found = f"; {', '.join(pickled[:4])} are pickle files, which can run code" if pickled else ""
    return f": no *.safetensors weights{found}. Save the model again with save_pretrained"


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise BackboneError(f"{file} is no file: download or save the model again")
    num_bytes = file.stat().st_size
    with file.open("rb") as start:
        head = start.read(8)
        rest = start.read(len(LFS_POINTER))
    if (head + rest).startswith(LFS_POINTER):
        raise BackboneError(f"{file} is a Git LFS pointer, not the weights: run git lfs pull in its folder")
    try:
        with safe_open(file, framework="pt"):
            pass  # opening compares the header with the size
    except SafetensorError as error:
        raise BackboneError(
            f"{file} is damaged or cut short ({num_bytes} bytes; {error}): download or save it again"
        ) from None


def _shapes(files: list[Path]) -> Iterator[tuple[str, list[int]]]:
    for file in files:
        _check_file(file)
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                yield name, tensors.get_slice(name).get_shape()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the loader's own report and bar: what it would say is said by an error."""
    verbosity = transformers_logging.get_verbosity()
    shows_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bars:
            transformers_logging.enable_progress_bar()
