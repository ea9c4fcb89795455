"""Where a model's files are and whether they are whole, found out before a weight is read.

A model directory may come from anyone. Only its JSON, its tokenizer's files and safetensors are read; nothing that its
`config.json` says makes a loader fetch or run anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotage.backbones.base import family_of, model_types
from pilotage.errors import PilotageError
from pilotage.files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "download or save the model again"
FROM_BASE = "copy the processor's and the tokenizer's files from the base model"

_MODEL_FILES = ("*.safetensors", "*.bin", "adapter_config.json", "tokenizer_config.json")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
_SMALL_FILES = ("*.json", "*.jinja", "*.txt")
"""What is fetched from the hub before the weights."""
_MAX_JSON_BYTES = 64 * 2**20
_MAX_LAYERS = 1000

_FLOATS = ("F64", "F32", "F16", "BF16")
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""Beside any of these, transformers leaves `model.safetensors` alone and reads them."""

_LOADER_FIELDS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "configuration_files",
        "distributed_config",
        "experts_implementation",
        "fusion_config",
        "kernel_config",
        "transformers_weights",
        "use_kernels",
    }
)
"""What `config.json` may tell a loader to fetch, to run or to read; none of it describes the model."""
_QUANTISATION_FIELDS = ("quantization_config", "compression_config")


class BackboneError(PilotageError):
    """A model directory cannot be used; the message says what is missing and how to get it."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A parameter as a safetensors header describes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@contextmanager
def refusing(what: Path | str, *, remedy: str) -> Iterator[None]:
    """One line for whatever a library raises over a file that it cannot make sense of.

    Such files raise anything: the tokenizers library raises bare `Exception`, configurations a dozen kinds.
    """
    try:
        yield
    except (PilotageError, MemoryError):
        raise
    except Exception as error:
        raise BackboneError(
            f"{what} cannot be used ({type(error).__name__}: {_shortened(error)}): {remedy}"
        ) from error


def holds_model(directory: Path) -> bool:
    """Whether a folder holds a model's files, whole or not, rather than a run."""
    return any(any(directory.glob(pattern)) for pattern in _MODEL_FILES)


def holds_no_weights(directory: Path) -> bool:
    """Whether a folder has a model's configuration and no weights in any form, nor a list of them."""
    if not (directory / "config.json").is_file():
        return False
    names = [entry.name for entry in directory.iterdir()]
    weights = (*_PICKLE_SUFFIXES, ".safetensors", ".safetensors.index.json", ".bin.index.json", ".gguf")
    return not any(name.endswith(weights) or name == "adapter_config.json" for name in names)


def look_at(directory: Path, name: str) -> None:
    """Raises BackboneError unless there are a configuration and safetensors in a folder of the user's own."""
    _refuse_adapter(directory, name)
    if not (directory / "config.json").is_file():
        raise BackboneError(
            f"{name} is not a model directory ({_found(directory)}); give a directory with config.json and "
            "safetensors, a hub id such as Qwen/Qwen3-VL-4B-Instruct, or `nano`"
        )
    if not any(directory.glob("*.safetensors")):
        pickled = sorted(entry.name for entry in directory.iterdir() if entry.suffix in _PICKLE_SUFFIXES)
        found = f"; {', '.join(pickled)} are pickle files, which can run code" if pickled else ""
        raise BackboneError(
            f"{name} has no *.safetensors weights{found}. Save the model again with save_pretrained"
        )


def fetch(name: str) -> Path:
    """The folder of a model's small files: `name` itself, or where the hub's are downloaded to."""
    if Path(name).is_dir():
        return Path(name)
    directory = _download(name, None, _SMALL_FILES)
    _refuse_adapter(directory, name)
    return directory


def fetch_weights(name: str, directory: Path) -> None:
    """Completes the folder that `fetch(name)` gave, where it is the hub's, with the weights of the same revision."""
    if directory != Path(name):
        names = _shards(directory / INDEX) if (directory / INDEX).exists() else [SINGLE]
        _download(name, directory.name, names)


def read_config(directory: Path) -> dict[str, Any]:
    """The model's description in `config.json`, without what it tells a loader.

    Raises BackboneError for another architecture.
    """
    path = directory / "config.json"
    config = read_small_json(path)
    model_type = config.get("model_type")
    if family_of(model_type) is None:
        raise BackboneError(
            f"{directory} is a {model_type!r} model; backbones are {', '.join(sorted(model_types()))}; "
            "docs/add-a-backbone.md adds another"
        )
    # Older configurations have the text model's fields at the top.
    for part in (config, *(inner for inner in config.values() if isinstance(inner, dict))):
        for field in ("num_hidden_layers", "depth"):
            layers = part.get(field)
            if isinstance(layers, int) and layers > _MAX_LAYERS:
                raise BackboneError(f"{path} says {field} {layers}, more than {_MAX_LAYERS}: {AGAIN}")
    return _described(config)


def quantisation(config: Mapping[str, Any]) -> str | None:
    """How `config.json` says that the weights are quantised, or None."""
    for part in (config, *(part for part in config.values() if isinstance(part, dict))):
        for field in _QUANTISATION_FIELDS:
            if settings := part.get(field):
                method = settings.get("quant_method") if isinstance(settings, dict) else settings
                return f"{field}: {method}"
    return None


def read_weights(directory: Path) -> dict[str, Stored]:
    """Every parameter that the directory's safetensors hold, from their headers alone.

    Names in an index are plain and stay inside the folder. Links are followed (the hub's cache consists of them):
    whatever they lead to is read as safetensors or not at all. Raises BackboneError for a file that is missing, cut,
    damaged, or at odds with its index.
    """
    index = directory / INDEX
    for entry in directory.iterdir():
        if _DISTRIBUTED.match(entry.name):
            raise BackboneError(
                f"{entry} is a part of a distributed checkpoint: save the model again as {SINGLE}, with save_pretrained"
            )
    if (directory / SINGLE).exists():
        return _header(directory / SINGLE)
    if not index.exists():
        raise BackboneError(
            f"{directory} has neither {SINGLE} nor {INDEX}, only {', '.join(unindexed(directory)[:4])}: {AGAIN}"
        )
    stored: dict[str, Stored] = {}
    for shard in _shards(index):
        for name, one in _header(directory / shard).items():
            if name in stored:
                raise BackboneError(f"{name} is both in {stored[name].file} and in {shard}: {AGAIN}")
            stored[name] = one
    for name, shard in _weight_map(index).items():
        if name not in stored or stored[name].file.name != shard:
            raise BackboneError(f"{index} names {name}, which {shard} does not hold: {AGAIN}")
    return stored


def unindexed(directory: Path) -> list[str]:
    """Names of safetensors in the folder that none of `read_weights` comes from."""
    if (directory / SINGLE).exists() or not (directory / INDEX).exists():
        used = [SINGLE]
    else:
        used = _shards(directory / INDEX)
    return sorted(path.name for path in directory.glob("*.safetensors") if path.name not in used)


def read_small_json(path: Path) -> dict[str, Any]:
    """The JSON object in one of a model's small files. Raises BackboneError."""
    if path.is_file() and path.stat().st_size > _MAX_JSON_BYTES:
        raise BackboneError(f"{path} has {path.stat().st_size} bytes, more than {_MAX_JSON_BYTES}: {AGAIN}")
    try:
        return read_json(path, remedy=AGAIN)
    except PilotageError as error:
        raise BackboneError(str(error)) from None


def _described(value: Any) -> Any:
    """`value` without the loader's fields, at any depth; a name may also be written with an underscore before it."""
    if isinstance(value, Mapping):
        return {
            name: _described(inner)
            for name, inner in value.items()
            if str(name).lstrip("_").removesuffix("_internal") not in _LOADER_FIELDS
        }
    return [_described(inner) for inner in value] if isinstance(value, list) else value


def _weight_map(index: Path) -> dict[str, str]:
    content = read_small_json(index)
    for field in ("metadata", "weight_map"):
        if not isinstance(content.get(field), dict):
            raise BackboneError(f"{index} is damaged (it has no {field}): {AGAIN}")
    weight_map = content["weight_map"]
    for name, shard in weight_map.items():
        plain = isinstance(shard, str) and shard == Path(shard).name and "\\" not in shard
        if not plain or not shard.endswith(".safetensors"):
            raise BackboneError(
                f"{index} keeps {name} in {shard!r}; only *.safetensors in the folder itself are read: save the model "
                "again with save_pretrained"
            )
    return weight_map


def _shards(index: Path) -> list[str]:
    return sorted(set(_weight_map(index).values()))


def _header(file: Path) -> dict[str, Stored]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise BackboneError(f"{file} is not there: {AGAIN}")
    with file.open("rb") as raw:
        if raw.read(23) == b"version https://git-lfs":
            raise BackboneError(
                f"{file} is a Git LFS pointer in place of the weights: run `git lfs pull` in its folder"
            )
    try:
        with safe_open(file, framework="pt") as weights:
            views = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            stored = {
                name: Stored(file=file, dtype=view.get_dtype(), shape=tuple(view.get_shape()))
                for name, view in views.items()
            }
    except SafetensorError as error:
        raise BackboneError(f"{file} is cut or damaged ({_shortened(error)}): {AGAIN}") from error
    return stored


def refuse_integers(stored: Mapping[str, Stored]) -> None:
    """Raises BackboneError for parameters in less than 16 bits: they are quantised, with scales apart from them."""
    for name, one in stored.items():
        if one.dtype not in _FLOATS:
            raise BackboneError(
                f"{one.file} holds {name} as {one.dtype}, which is quantised: give the model in bfloat16 or float32"
            )


def refuse_unequal(pairs: Mapping[str, tuple[Any, Any]], directory: Path) -> None:
    """Raises BackboneError for the first (processor's, config.json's) of these values that differ."""
    for name, (given, wanted) in pairs.items():
        if given != wanted:
            raise BackboneError(
                f"{directory}: its processor has {name} {given}, config.json {wanted}: {FROM_BASE}"
            )


def _refuse_adapter(directory: Path, name: str) -> None:
    if (directory / "adapter_config.json").exists():
        raise BackboneError(
            f"{name} holds an adapter (adapter_config.json), not a model: merge it into its base (merge_and_unload and "
            "save_pretrained of peft) and give that directory; a run keeps the merged one in `model`, beside `adapter`"
        )


def _found(directory: Path) -> str:
    if directory.is_dir():
        names = sorted(entry.name for entry in directory.iterdir())
        return f"it holds {', '.join(names[:8]) or 'nothing'}"
    return "it is a file" if directory.exists() else "no such directory"


def _download(hub_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"]
            )
        )
    except Exception as error:  # of a server, a network or a disk
        raise BackboneError(
            f"{hub_id} is no directory here and cannot be had from the hub ({_shortened(error)}): look at its name "
            "and the network (HF_TOKEN opens a gated model), or give a model directory"
        ) from error


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
