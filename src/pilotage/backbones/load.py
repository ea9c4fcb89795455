"""Loads a model directory (or hub id) of any family and says what is wrong when it cannot."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.utils import is_flash_attn_2_available

from pilotage.backbones import checkpoint
from pilotage.backbones.base import LANGUAGE_LINEARS, Family, Processor, family_of
from pilotage.backbones.checkpoint import BackboneError, refuse_unequal, refusing
from pilotage.backbones.four_bits import quantise
from pilotage.backbones.parameters import opener, refuse_misfits, refuse_not_finite
from pilotage.backbones.template import templated
from pilotage.errors import PilotageError, require

logger = logging.getLogger(__name__)

NANO_DIRECTORY = Path(__file__).parent.parent / "nano" / "base"
"""Where the shipped base weights of `nano` are."""

Attention = Literal["sdpa", "eager", "flash_attention_2"]
"""Implementations that need no code from elsewhere; any other name makes transformers look on the hub."""


_BEHIND_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Fields of a text model's configuration; None or 1 changes nothing."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """A peft LoRA adapter on top of frozen weights."""

    rank: int
    alpha: float
    dropout: float = 0.0
    target_modules: str = LANGUAGE_LINEARS
    """A regular expression that whole module names must match. The default stands for the family's `language_linears`:
    it is what older runs have recorded."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise PilotageError(f"the rank {self.rank} of a LoRA adapter must be at least 1")
        if not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise PilotageError(
                f"a LoRA adapter has alpha {self.alpha} and dropout {self.dropout}: alpha must be above 0, dropout at "
                "least 0 and below 1"
            )
        try:
            re.compile(self.target_modules)
        except re.error as error:
            raise PilotageError(
                f"LoRA target_modules {self.target_modules!r} are no regular expression ({error})"
            ) from None

    def check(self) -> None:
        """Raises PilotageError where what it takes is not installed."""


@dataclass(frozen=True, kw_only=True)
class QLoraSettings(LoraSettings):
    """The same with the layers that it adapts in 4 bits (QLoRA, arXiv 2305.14314), which takes the extra `bnb`."""

    form: Literal["nf4", "fp4"] = "nf4"

    def check(self) -> None:
        require("bitsandbytes")


@dataclass(frozen=True, kw_only=True, eq=False)
class Backbone:
    """A model with everything needed to turn views into its inputs and its outputs into text."""

    name: str
    """The path or hub id it came from."""
    model: Any
    """The transformers model, or the peft model around it."""
    family: Family
    processor: Any
    """A `Processor`, with what its family reads besides."""
    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]
    """Ids that end the model's turn."""
    pad_id: int
    image_token_id: int | None
    """Stands in a prompt once for each token of a picture; None for a model that reads text only."""
    vision_token_ids: tuple[int, ...]
    """Ids that must never be sampled."""
    placeholder_ids: frozenset[int]
    """Image and video placeholders: in a prompt each needs an image behind it, in a response none may stand."""
    computes_in: torch.dtype | None = None
    """Precision of matrix products where the weights are finer, as masters are; None: that of the weights."""
    text_cache: dict[str, str] = field(default_factory=dict, repr=False)
    """Rendered messages; the views of one task share theirs."""

    @property
    def supports_images(self) -> bool:
        return self.image_token_id is not None

    @cached_property
    def wordless_ids(self) -> tuple[int, ...]:
        """Ids that no token has: the head is often larger than the tokenizer. None of a model without weights."""
        if self.model is None:
            return ()
        num_entries = self.model.get_output_embeddings().weight.shape[0]
        return tuple(sorted(set(range(num_entries)) - set(self.tokenizer.get_vocab().values())))

    @cached_property
    def end_id(self) -> int:
        """What ends an answer that the model is taught: the end of turn of its chat template, else the tokenizer's end.

        Gemma 3's tokenizer names `<eos>`, and the model ends its turns with `<end_of_turn>`.
        """
        asked = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        said = {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}
        try:
            behind = templated(self.processor, [asked, said], name=self.name).rpartition("Yes.")[2]
        except BackboneError:
            behind = ""
        ids: Any = self.tokenizer(behind, add_special_tokens=False)["input_ids"]
        usual = self.tokenizer.eos_token_id
        last: Any = self.eos_ids[-1] if usual is None else usual
        # An end that is text as well, as a new line may be, would be read back as part of the answer.
        return next((token for token in ids if token in self.eos_ids and not self.decode((token,))), last)

    @cached_property
    def sees_whole_past(self) -> bool:
        """Whether all layers attend to all columns before them: then one cache of columns serves all."""
        layers = DynamicCache(config=self.model.config.get_text_config()).layers
        return all(type(layer) is DynamicLayer for layer in layers)

    @property
    def shares_prefixes(self) -> bool:
        """Whether beginnings of prompts, before any picture, may be read once for all that have them."""
        return self.sees_whole_past and self.family.shares_prefixes

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def decode(self, token_ids: Any) -> str:
        """Text of response ids without special tokens, exactly as the tokens spell it."""
        return self.tokenizer.decode(  # pyright: ignore[reportReturnType]
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def make_backbone(model: Any, processor: Processor, *, name: str) -> Backbone:
    """Wraps a model that is already in memory. Raises BackboneError where its logits are not its head's."""
    family = _family(model.config.model_type)
    text_config = model.config.get_text_config()
    for field_name in _BEHIND_HEAD:
        if (value := getattr(text_config, field_name, None)) not in (None, 1.0):
            raise BackboneError(
                f"{name} changes its logits behind the head ({field_name} {value}), and scores are read from the head: "
                "take another model"
            )
    family.prepare(model)
    return _wrapped(model, getattr(model, "generation_config", None), family, processor, name)


def _wrapped(
    model: Any, generation: GenerationConfig | None, family: Family, processor: Processor, name: str
) -> Backbone:
    tokenizer = processor.tokenizer
    vocab = tokenizer.get_vocab()
    eos = generation.eos_token_id if generation is not None else None
    eos_ids = set(eos if isinstance(eos, list | tuple) else [] if eos is None else [eos])
    if tokenizer.eos_token_id is not None:
        eos_ids.add(tokenizer.eos_token_id)
    if not eos_ids:
        raise BackboneError(f"{name} names no end-of-turn token in generation_config.json or its tokenizer")
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos_ids)
    return Backbone(
        name=name,
        model=model,
        family=family,
        processor=processor,
        tokenizer=tokenizer,
        eos_ids=tuple(sorted(eos_ids)),
        pad_id=pad_id,
        image_token_id=family.image_token_id(processor),
        vision_token_ids=tuple(sorted(vocab[token] for token in family.prompt_only_tokens if token in vocab)),
        placeholder_ids=family.placeholder_ids(processor),
    )


def load_without_weights(path_or_id: str | Path) -> Backbone:
    """Processor, tokenizer and ids alone, `model` None: for an engine that loads the weights itself.

    `name` is the directory that such an engine can load; its weights are whole. Raises BackboneError as
    `load_backbone` does, but for quantised weights.
    """
    name = resolve(path_or_id)
    directory = checkpoint.fetch(name)
    described = checkpoint.read_config(directory)
    config = None if checkpoint.quantisation(described) is not None else _config_of(directory)
    family = _family(described["model_type"])
    processor = _processor_of(directory, config) if config else family.load_processor(directory)
    checkpoint.fetch_weights(name, directory)
    stored = checkpoint.read_weights(directory)
    if config is not None:
        refuse_misfits(config, stored, directory)
    return _stand_in(directory, family, processor)


def load_shape(
    path_or_id: str | Path, *, dtype: torch.dtype | str = torch.float32, from_config: bool = False
) -> Backbone:
    """A backbone whose parameters have shapes and no numbers: to count and to render with.

    With `from_config` a directory need not hold more than config.json: without a tokenizer `processor` and `tokenizer`
    are None. Raises BackboneError as `load_backbone` does, but for the weights of a hub model, which are not fetched.
    """
    _check_request(dtype, "sdpa")
    if from_config and checkpoint.holds_no_weights(place := Path(path_or_id).expanduser()):
        return _from_config(place, dtype)
    name = resolve(path_or_id)
    directory = checkpoint.fetch(name)
    config = _config_of(directory)
    if directory == Path(name):
        refuse_misfits(config, checkpoint.read_weights(directory), directory)
    family = _family(config.model_type)
    model = _on_meta(config, directory, dtype)
    return replace(_stand_in(directory, family, _processor_of(directory, config)), model=model)


def _on_meta(config: PreTrainedConfig, directory: Path, dtype: torch.dtype | str) -> Any:
    opened = opener(_family(config.model_type))
    with torch.device("meta"), refusing(directory / "config.json", remedy=checkpoint.AGAIN):
        return opened.from_config(config, dtype=dtype, attn_implementation="sdpa")


def _from_config(directory: Path, dtype: torch.dtype | str) -> Backbone:
    config = _config_of(directory)
    family, model = _family(config.model_type), _on_meta(config, directory, dtype)
    if (directory / "tokenizer_config.json").exists() or (directory / "tokenizer.json").exists():
        return replace(_stand_in(directory, family, _processor_of(directory, config)), model=model)
    nothing: Any = None
    image_token_id = getattr(config, "image_token_id", None)
    return Backbone(
        name=str(directory),
        model=model,
        family=family,
        processor=nothing,
        tokenizer=nothing,
        eos_ids=(),
        pad_id=0,
        image_token_id=image_token_id,
        vision_token_ids=(),
        placeholder_ids=frozenset(() if image_token_id is None else (image_token_id,)),
    )


def with_lora(backbone: Backbone, lora: LoraSettings, *, device: str | None = None) -> Backbone:
    """The same backbone with a fresh LoRA adapter, in float32; only the adapter's parameters train.

    With a `device` the model ends there, what is to be in 4 bits layer by layer. Says which layers have one. Raises
    BackboneError where none would, PilotageError for an adapter on 4 bits where bitsandbytes is not installed.
    """
    from peft import LoraConfig, get_peft_model

    is_default = lora.target_modules == LANGUAGE_LINEARS
    pattern = backbone.family.language_linears if is_default else lora.target_modules
    linears = [name for name, module in backbone.model.named_modules() if isinstance(module, torch.nn.Linear)]
    matched = [name for name in linears if re.fullmatch(pattern, name)]
    if not matched:
        raise BackboneError(
            f"LoRA target_modules {pattern!r} match no linear layer of {backbone.name}; there are {kinds_of(linears)}"
        )
    head = backbone.model.get_output_embeddings()
    if name := next((name for name in matched if backbone.model.get_submodule(name) is head), None):
        raise BackboneError(
            f"LoRA target_modules {pattern!r} match {name}, the head of {backbone.name}, and scores are read from its "
            "weights alone: name other layers"
        )
    if isinstance(lora, QLoraSettings):
        quantise(backbone.model, pattern, form=lora.form, device=device)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        target_modules=pattern,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(backbone.model if device is None else backbone.model.to(device), config)
    # Asked of the model: in some with experts, peft takes others than those that match.
    adapted = [name for name, module in model.get_base_model().named_modules() if hasattr(module, "lora_A")]
    logger.info("LoRA of rank %d on %d linear layers: %s", lora.rank, len(adapted), kinds_of(adapted))
    return replace(backbone, model=model)


def freeze_vision(backbone: Backbone) -> None:
    """Keeps what turns pictures into tokens as it is, and says what that is. Raises BackboneError for nothing."""
    named = backbone.model.named_parameters()
    vision = {name: parameter for name, parameter in named if backbone.family.is_vision(name)}
    if not vision:
        raise BackboneError(
            f"freeze_vision matches no parameter of {backbone.name}, a {backbone.model.config.model_type!r} model: "
            "leave it False, or name the vision modules in the family's `vision_modules`"
        )
    for parameter in vision.values():
        parameter.requires_grad_(False)
    modules = dict.fromkeys(
        ".".join(name.removeprefix("base_model.model.").split(".")[:2]) for name in vision
    )
    num_numbers = sum(parameter.numel() for parameter in vision.values())
    logger.info("vision is frozen: %d numbers in %s", num_numbers, ", ".join(modules))


def kinds_of(names: Sequence[str]) -> str:
    """Names, those that differ in numbers alone together: `model.layers.*.mlp.up_proj x 28`."""
    kinds = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    return ", ".join(f"{kind} x {number}" if number > 1 else kind for kind, number in kinds.items())


def is_sharded(model: Any) -> bool:
    """Whether `fully_shard` has spread the model's parameters over ranks: then every forward is a meeting of all."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False  # spares a process without ranks a slow import
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    # Between a forward and what follows it, parameters may be whole for a while.
    return any(isinstance(module, FSDPModule) for module in model.modules()) or any(
        isinstance(parameter, DTensor) for parameter in model.parameters()
    )


def resolve(path_or_id: str | Path) -> str:
    """The directory or hub id behind a name; `nano` is the base that ships with the package."""
    name = str(path_or_id)
    if name == "nano":
        if not (NANO_DIRECTORY / "config.json").is_file():
            raise BackboneError(
                f"the weights of `nano` are not in {NANO_DIRECTORY}; make them with `pilotage nano pretrain`"
            )
        return str(NANO_DIRECTORY)
    looks_like_path = isinstance(path_or_id, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1
    directory = Path(name).expanduser()
    if directory.exists() or looks_like_path:
        checkpoint.look_at(directory, name)
        return str(directory)
    return name


def load_backbone(
    path_or_id: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    attn_implementation: Attention | str = "sdpa",
    device: torch.device | str = "cpu",
    lora: LoraSettings | None = None,
    masters: bool = False,
) -> Backbone:
    """A backbone in eval mode on `device`. Only safetensors weights are read, and nothing of the model's is run.

    With `masters` the weights are float32 and `dtype` is what the model computes in.
    Raises BackboneError for a missing directory, another architecture, pickle or quantised weights, a file that is
    missing or damaged, and parameters that the weights lack, hold beside the model's or hold in another shape.
    """
    _check_request(dtype, attn_implementation)
    name = resolve(path_or_id)
    directory = checkpoint.fetch(name)
    config = _config_of(directory)
    _generation_config(directory)  # transformers would go on without a damaged one
    processor = _processor_of(directory, config)
    checkpoint.fetch_weights(name, directory)
    refuse_misfits(config, checkpoint.read_weights(directory), directory)
    model: Any = opener(_family(config.model_type)).from_pretrained(
        directory,
        config=config,
        dtype=torch.float32 if masters else dtype,
        attn_implementation=attn_implementation,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model.name_or_path = model.config.name_or_path = name
    model = model.to(device).eval()
    refuse_not_finite(model, directory)
    backbone = make_backbone(model, processor, name=str(path_or_id))
    computes_in = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if masters and computes_in not in (None, model.dtype):
        backbone = replace(backbone, computes_in=computes_in)
    return backbone if lora is None else with_lora(backbone, lora)


def _check_request(dtype: torch.dtype | str, attn_implementation: str) -> None:
    """Both may come from a run that somebody else made."""
    if attn_implementation not in get_args(Attention):
        known = ", ".join(get_args(Attention))
        raise BackboneError(f"unknown attention {attn_implementation!r}; there are {known}")
    # Without the library, transformers would fetch a kernel in its place.
    if attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
        raise BackboneError(
            "attention 'flash_attention_2' needs flash-attn: pip install flash-attn, or take 'sdpa'"
        )
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype != "auto" and not (isinstance(known, torch.dtype) and known.is_floating_point):
        raise BackboneError(f"unknown dtype {dtype!r}; weights are float32, bfloat16 or float16")


def _config_of(directory: Path) -> PreTrainedConfig:
    described = checkpoint.read_config(directory)
    path = directory / "config.json"
    if (quantised := checkpoint.quantisation(described)) is not None:
        raise BackboneError(
            f"{path} says that the weights are quantised ({quantised}), which can be neither trained nor checked: give "
            "the model in bfloat16, or measure this one with --engine vllm or at an endpoint"
        )
    with refusing(path, remedy=checkpoint.AGAIN):
        return AutoConfig.for_model(**described)


def _generation_config(directory: Path) -> GenerationConfig | None:
    path = directory / "generation_config.json"
    if not path.exists():
        return None
    with refusing(path, remedy=checkpoint.AGAIN):
        generation = GenerationConfig.from_dict(checkpoint.read_small_json(path))
    ends = generation.eos_token_id
    if not all(isinstance(end, int) for end in (ends if isinstance(ends, list) else [ends or 0])):
        raise BackboneError(f"{path} has eos_token_id {ends!r}, not token ids: {checkpoint.AGAIN}")
    return generation


def _family(model_type: str) -> Family:
    family = family_of(model_type)
    assert family is not None, "read_config refuses models of no family"
    return family


def _processor_of(directory: Path, config: PreTrainedConfig) -> Processor:
    """Raises BackboneError for a processor of another model, with which pictures or words would be misread."""
    family = _family(config.model_type)
    processor = family.load_processor(directory)
    family.refuse_misfit(processor, config, directory)
    if (image_token_id := family.image_token_id(processor)) is not None:
        refuse_unequal({"image_token_id": (image_token_id, config.image_token_id)}, directory)
    known, embedded = len(processor.tokenizer), config.get_text_config().vocab_size
    if known > embedded:
        raise BackboneError(
            f"{directory}: its tokenizer has {known} tokens, config.json a vocab_size of {embedded}: "
            f"{checkpoint.FROM_BASE}"
        )
    return processor


def _stand_in(directory: Path, family: Family, processor: Processor) -> Backbone:
    return _wrapped(None, _generation_config(directory), family, processor, str(directory))
