"""Loads any Qwen3-VL or Qwen2.5-VL directory (or hub id) and says what is wrong when it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any, Literal, get_args

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_flash_attn_2_available

from pilotage.backbones import checkpoint
from pilotage.backbones.checkpoint import BackboneError, refusing
from pilotage.backbones.parameters import refuse_misfits, refuse_not_finite
from pilotage.backbones.processor import ImageTextProcessor
from pilotage.errors import PilotageError

NANO_DIRECTORY = Path(__file__).parent.parent / "nano" / "base"
"""Where the shipped base weights of `nano` are."""

Attention = Literal["sdpa", "eager", "flash_attention_2"]
"""Implementations that need no code from elsewhere; any other name makes transformers look on the hub."""

VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
"""Tokens that only a prompt may hold; a sampled one makes the forward look for an image that is not there."""

LANGUAGE_LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The language model's linear layers; the vision tower and its merger stay frozen under LoRA."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """A peft LoRA adapter on top of frozen weights."""

    rank: int
    alpha: float
    dropout: float = 0.0
    target_modules: str = LANGUAGE_LINEARS
    """A regular expression that whole module names must match."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise PilotageError(f"the rank {self.rank} of a LoRA adapter must be at least 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Backbone:
    """A model with everything needed to turn views into its inputs and its outputs into text."""

    name: str
    """The path or hub id it came from."""
    model: Any
    """The transformers model, or the peft model around it."""
    processor: ImageTextProcessor
    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]
    """Ids that end the model's turn."""
    pad_id: int
    image_token_id: int
    vision_token_ids: tuple[int, ...]
    """Ids that must never be sampled."""
    placeholder_ids: frozenset[int]
    """Image and video placeholders: in a prompt each needs an image behind it, in a response none may stand."""
    supports_images: bool = True
    text_cache: dict[str, str] = field(default_factory=dict, repr=False)
    """Rendered messages; the views of one task share theirs."""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def decode(self, token_ids: Any) -> str:
        """Text of response ids without special tokens, exactly as the tokens spell it."""
        return self.tokenizer.decode(  # pyright: ignore[reportReturnType]
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def multiply_patches(model: Any) -> None:
    """Lets the patch embedding run as a matrix product instead of the three-dimensional convolution that it is.

    A patch is exactly one kernel, so the numbers are the same up to rounding; forward and backward were measured
    three times as fast on the CPU. Parameters and their names stay as they are.
    """
    for module in model.modules():
        if type(module).__name__.endswith("VisionPatchEmbed") and isinstance(module.proj, torch.nn.Conv3d):
            module.forward = MethodType(_patch_product, module)


def _patch_product(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    weight = module.proj.weight
    return torch.nn.functional.linear(hidden_states.to(weight.dtype), weight.flatten(1), module.proj.bias)


def make_backbone(model: Any, processor: ImageTextProcessor, *, name: str) -> Backbone:
    """Wraps a model that is already in memory."""
    multiply_patches(model)
    tokenizer = processor.tokenizer
    vocab = tokenizer.get_vocab()
    generation = getattr(model, "generation_config", None)
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
        processor=processor,
        tokenizer=tokenizer,
        eos_ids=tuple(sorted(eos_ids)),
        pad_id=pad_id,
        image_token_id=processor.image_token_id,
        vision_token_ids=tuple(sorted(vocab[token] for token in VISION_TOKENS if token in vocab)),
        placeholder_ids=frozenset((processor.image_token_id, processor.video_token_id)),
    )


def load_without_weights(path_or_id: str | Path) -> Backbone:
    """Processor, tokenizer and ids alone, `model` None: for an engine that loads the weights itself.

    `name` is the directory that such an engine can load; its weights are whole. Raises BackboneError as
    `load_backbone` does, but for quantised weights.
    """
    name = resolve(path_or_id)
    directory = checkpoint.fetch(name)
    quantised = checkpoint.quantisation(checkpoint.read_config(directory)) is not None
    config = None if quantised else _config_of(directory)
    processor = _processor_of(directory, config) if config else ImageTextProcessor.load(str(directory))
    checkpoint.fetch_weights(name, directory)
    stored = checkpoint.read_weights(directory)
    if config is not None:
        refuse_misfits(config, stored, directory)
    return _stand_in(directory, processor)


def load_shape(path_or_id: str | Path, *, dtype: torch.dtype | str = torch.float32) -> Backbone:
    """A backbone whose parameters have shapes and no numbers: to count and to render with.

    Raises BackboneError as `load_backbone` does, but for the weights of a hub model, which are not fetched.
    """
    name = resolve(path_or_id)
    directory = checkpoint.fetch(name)
    config = _config_of(directory)
    if directory == Path(name):
        refuse_misfits(config, checkpoint.read_weights(directory), directory)
    with torch.device("meta"), refusing(directory / "config.json", remedy=checkpoint.AGAIN):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return replace(_stand_in(directory, _processor_of(directory, config)), model=model)


def with_lora(backbone: Backbone, lora: LoraSettings) -> Backbone:
    """The same backbone with a fresh LoRA adapter; only the adapter's parameters train."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return replace(backbone, model=get_peft_model(backbone.model, config))


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
) -> Backbone:
    """A backbone in eval mode on `device`. Only safetensors weights are read, and nothing of the model's is run.

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
    model: Any = AutoModelForImageTextToText.from_pretrained(
        directory,
        config=config,
        dtype=dtype,
        attn_implementation=attn_implementation,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model.name_or_path = model.config.name_or_path = name
    model = model.to(device).eval()
    refuse_not_finite(model, directory)
    backbone = make_backbone(model, processor, name=str(path_or_id))
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


def _processor_of(directory: Path, config: PreTrainedConfig) -> ImageTextProcessor:
    """Raises BackboneError for a processor of another model, with which pictures or words would be misread."""
    processor = ImageTextProcessor.load(str(directory))
    images, vision = processor.image_processor, config.vision_config
    pairs = {
        "patch_size": (images.patch_size, vision.patch_size),
        "merge_size": (images.merge_size, vision.spatial_merge_size),
        "temporal_patch_size": (images.temporal_patch_size, vision.temporal_patch_size),
        "image_token_id": (processor.image_token_id, config.image_token_id),
    }
    remedy = "copy the processor's and the tokenizer's files from the base model"
    for name, (given, wanted) in pairs.items():
        if given != wanted:
            raise BackboneError(
                f"{directory}: its processor has {name} {given}, config.json {wanted}: {remedy}"
            )
    known, embedded = len(processor.tokenizer), config.get_text_config().vocab_size
    if known > embedded:
        raise BackboneError(
            f"{directory}: its tokenizer has {known} tokens, config.json a vocab_size of {embedded}: {remedy}"
        )
    return processor


def _stand_in(directory: Path, processor: ImageTextProcessor) -> Backbone:
    model = SimpleNamespace(modules=list, generation_config=_generation_config(directory))
    return replace(make_backbone(model, processor, name=str(directory)), model=None)
