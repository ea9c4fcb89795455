"""Loads any Qwen3-VL or Qwen2.5-VL directory (or hub id) and says what is wrong when it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerBase

from pilotage.backbones.processor import ImageTextProcessor
from pilotage.errors import PilotageError

NANO_DIRECTORY = Path(__file__).parent / "nano_base"
"""Where the shipped base weights of `nano` are."""

MODEL_TYPES = ("qwen3_vl", "qwen2_5_vl")

VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
"""Tokens that only a prompt may hold; a sampled one makes the forward look for an image that is not there."""

LANGUAGE_LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The language model's linear layers; the vision tower and its merger stay frozen under LoRA."""


class BackboneError(PilotageError):
    """A model directory cannot be used; the message says what is missing and how to get it."""


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


def load_without_weights(path_or_id: str | Path, *, trust_remote_code: bool = False) -> Backbone:
    """Processor, tokenizer and ids alone, `model` None: for an engine that loads the weights itself.

    `name` is the directory or hub id that such an engine can load. Raises BackboneError as `load_backbone` does.
    """
    from types import SimpleNamespace

    from transformers import GenerationConfig

    path = resolve(path_or_id)
    try:
        generation = GenerationConfig.from_pretrained(path)
    except OSError:
        generation = None
    processor = ImageTextProcessor.load(path, trust_remote_code=trust_remote_code)
    stand_in = SimpleNamespace(modules=list, generation_config=generation)
    return replace(make_backbone(stand_in, processor, name=path), model=None)


def load_shape(path_or_id: str | Path, *, dtype: torch.dtype | str = torch.float32) -> Backbone:
    """A backbone whose parameters have shapes and no numbers: to count and to render with. Raises BackboneError."""
    shape = load_without_weights(path_or_id)
    config = AutoConfig.from_pretrained(shape.name)
    if config.model_type not in MODEL_TYPES:
        raise BackboneError(
            f"{shape.name} is a {config.model_type!r} model; backbones are {' or '.join(map(repr, MODEL_TYPES))}"
        )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return replace(shape, model=model)


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
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


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
        if not (directory / "config.json").is_file():
            known = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else None
            found = (
                f"it holds {', '.join(known[:8]) or 'nothing'}" if known is not None else "no such directory"
            )
            raise BackboneError(
                f"{name} is not a model directory ({found}); give a directory with config.json and safetensors, a "
                "hub id such as Qwen/Qwen3-VL-4B-Instruct, or `nano`"
            )
        weights = list(directory.glob("*.safetensors"))
        if not weights:
            pickled = [entry.name for entry in directory.iterdir() if entry.suffix in (".bin", ".pt", ".pth")]
            found = f"; {', '.join(sorted(pickled))} are pickle files, which can run code" if pickled else ""
            raise BackboneError(
                f"{name} has no *.safetensors weights{found}. Save the model again with save_pretrained"
            )
        return str(directory)
    return name


def load_backbone(
    path_or_id: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | str = "sdpa",
    device: torch.device | str = "cpu",
    lora: LoraSettings | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """A backbone in eval mode on `device`. Only safetensors weights are read.

    Raises BackboneError for a missing directory, another architecture, or pickle weights.
    """
    path = resolve(path_or_id)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise BackboneError(f"{path} cannot be loaded as a directory or from the hub: {error}") from error
    if config.model_type not in MODEL_TYPES:
        raise BackboneError(
            f"{path} is a {config.model_type!r} model; backbones are {' or '.join(map(repr, MODEL_TYPES))}"
        )
    processor = ImageTextProcessor.load(path, trust_remote_code=trust_remote_code)
    model: Any = AutoModelForImageTextToText.from_pretrained(
        path,
        dtype=dtype,
        attn_implementation=attn_implementation,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
    )
    backbone = make_backbone(model.to(device).eval(), processor, name=str(path_or_id))
    return backbone if lora is None else with_lora(backbone, lora)
