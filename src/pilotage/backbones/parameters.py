"""Whether stored parameters are the model's: none missing, none beside them, none misshapen, every one a number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from pilotage.backbones.base import family_of
from pilotage.backbones.checkpoint import (
    AGAIN,
    INDEX,
    SINGLE,
    BackboneError,
    Stored,
    read_config,
    refuse_integers,
    refusing,
    unindexed,
)

_HEAD = "lm_head.weight"


def opener(family: Any) -> Any:
    """The class of transformers that opens a family's models."""
    return getattr(transformers, family.auto_model)


def refuse_misfits(config: PreTrainedConfig, stored: Mapping[str, Stored], directory: Path) -> None:
    """Raises BackboneError unless names and shapes of the stored parameters are the model's; reads no weight.

    transformers would go on with random numbers, and take the memory for them first.
    """
    refuse_integers(stored)
    described = json.dumps(read_config(directory), sort_keys=True)
    with refusing(directory / "config.json", remedy=AGAIN):
        report = _load_report(described, tuple((name, one.shape) for name, one in stored.items()))
    place = directory / (SINGLE if (directory / SINGLE).exists() else INDEX)
    for name, shape, expected in report.misshapen:
        file = stored[name].file if name in stored else place
        raise BackboneError(
            f"{file} holds {name} with shape {list(shape)}, and config.json says {list(expected)}: give the "
            f"configuration that the weights were saved with, or {AGAIN}"
        )
    faults, remedy = [], AGAIN
    left = unindexed(directory)
    if report.missing:
        faults.append(f"lacks {_first_of(report.missing)}, which would be random")
        if report.missing == [_HEAD] and config.get_text_config().tie_word_embeddings:
            remedy = 'set "tie_word_embeddings": true at the top of config.json, not in text_config alone'
        elif left:
            remedy = f"{', '.join(left)} stands beside it and is not in the index; {remedy}, the index too"
    if report.unexpected:
        faults.append(
            f"holds {_first_of(report.unexpected)}, which a {config.model_type} model does not have"
        )
    if faults:
        raise BackboneError(f"{place} {' and '.join(faults)}: {remedy}")


def refuse_not_finite(model: torch.nn.Module, directory: Path) -> None:
    """Raises BackboneError for a NaN or an infinity among the weights: whatever it would answer is noise."""
    named = [(name, parameter.detach()) for name, parameter in model.named_parameters() if parameter.numel()]
    # Both ends of the range are NaN where any number is; no second copy of the weights is made.
    ends = torch.stack([torch.stack(torch.aminmax(parameter)).float() for _, parameter in named])
    if not (finite := ends.isfinite().all(dim=1)).all():
        name = named[int(finite.int().argmin())][0]
        raise BackboneError(
            f"{directory} holds NaN or infinity in {name}: its training diverged or the file is damaged; give an "
            f"earlier checkpoint, or {AGAIN}"
        )


@dataclass(frozen=True, kw_only=True)
class _LoadReport:
    """What a load would leave random or leave out, in the order of the names."""

    missing: list[str]
    unexpected: list[str]
    misshapen: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    """(name, shape in the file, shape in the model)."""


@lru_cache(maxsize=8)
def _load_report(described: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> _LoadReport:
    """transformers' own report of a load without numbers, as only it knows which names it translates.

    Cached: a study loads dozens of models of the same shape, and with nano this takes half as long as the load.
    """
    config = AutoConfig.for_model(**json.loads(described))
    model_class: Any = opener(family_of(config.model_type))._model_mapping[type(config)]
    with _quiet():
        _, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict={name: torch.empty(shape, device="meta") for name, shape in shapes},
            device_map={"": "meta"},
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    tied = {_HEAD} if config.tie_word_embeddings else set()
    return _LoadReport(
        missing=sorted(info["missing_keys"] - tied),
        unexpected=sorted(info["unexpected_keys"]),
        misshapen=sorted(info["mismatched_keys"]),
    )


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more parameters"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bar, and its table of faulty parameters, which an error of ours tells in one line."""
    verbosity, has_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if has_bar:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bar:
            transformers_logging.enable_progress_bar()
