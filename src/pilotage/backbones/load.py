"""Loads any Qwen3-VL or Qwen2.5-VL directory (or hub id) and says what is wrong when it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from pilotage.backbones.checkpoint import (
    ADAPTER,
    BackboneError,
    check_attention,
    check_loading,
    check_parameters,
    read_config,
    weight_files,
)
from pilotage.backbones.processor import ImageTextProcessor
from pilotage.errors import PilotageError

NANO_DIRECTORY = Path(__file__).parent / "nano_base"
"""Where the shipped base weights of `nano` are."""

_CLASS_OF = {
    "qwen3_vl": Qwen3VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}
MODEL_TYPES = tuple(_CLASS_OF)

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


def load_without_weights(path_or_id: str | Path, *, trust_remote_code: bool = False) -> Backbone:
    """Processor, tokenizer and ids alone, `model` None: for an engine that loads the weights itself.

    `name` is the directory or hub id that such an engine can load. Raises BackboneError as `load_backbone` does.
    """
    return _without_weights(path_or_id, trust_remote_code=trust_remote_code)[0]


def load_shape(path_or_id: str | Path, *, dtype: torch.dtype | str = torch.float32) -> Backbone:
    """A backbone whose parameters have shapes and no numbers: to count and to render with. Raises BackboneError."""
    shape, config = _without_weights(path_or_id)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="eager")
    return replace(shape, model=model)


def _without_weights(path_or_id: str | Path, *, trust_remote_code: bool = False) -> tuple[Backbone, Any]:
    """The backbone and its configuration."""
    from types import SimpleNamespace

    directory = resolve(path_or_id, with_weights=False)
    config, processor, generation = _read_small_files(directory, trust_remote_code=trust_remote_code)
    stand_in = SimpleNamespace(modules=list, generation_config=generation)
    name = str(directory) if Path(path_or_id).is_dir() or str(path_or_id) == "nano" else str(path_or_id)
    return replace(make_backbone(stand_in, processor, name=name), model=None), config


def _read_small_files(directory: Path, *, trust_remote_code: bool) -> tuple[Any, ImageTextProcessor, Any]:
    """Configuration, processor and generation settings of a directory. Raises BackboneError, and nothing else."""
    kind = read_config(directory)["model_type"]
    if kind not in MODEL_TYPES:
        raise BackboneError(
            f"{directory} is a {kind!r} model; backbones are {' or '.join(map(repr, MODEL_TYPES))}"
        )
    with _as_backbone_error(directory, "config.json"):
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    with _as_backbone_error(directory, "its tokenizer and preprocessor_config.json"):
        processor = ImageTextProcessor.load(str(directory), trust_remote_code=trust_remote_code)
    generation = None
    if (directory / "generation_config.json").is_file():
        with _as_backbone_error(directory, "generation_config.json"):
            generation = GenerationConfig.from_pretrained(directory)
    return config, processor, generation


@contextmanager
def _as_backbone_error(directory: Path, what: str) -> Iterator[None]:
    """A border: what the libraries raise on files of strangers, and on libraries that are not there, in one line."""
    try:
        yield
    except BackboneError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise BackboneError(f"{directory} cannot be loaded: {what}: {told}") from error


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


def resolve(path_or_id: str | Path, *, with_weights: bool = True) -> Path:
    """The directory behind a name; `nano` is the base that ships with the package, a hub id is downloaded first.

    Raises BackboneError where there is none, or none with safetensors weights.
    """
    name = str(path_or_id)
    if name == "nano":
        if not (NANO_DIRECTORY / "config.json").is_file():
            raise BackboneError(
                f"the weights of `nano` are not in {NANO_DIRECTORY}; make them with `pilotage nano pretrain`"
            )
        return NANO_DIRECTORY
    looks_like_path = isinstance(path_or_id, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1
    directory = Path(name).expanduser()
    if not (directory.exists() or looks_like_path):
        directory = _downloaded(name, with_weights=with_weights)
    if (directory / ADAPTER).is_file():
        weight_files(directory)  # which says what it is
    if not (directory / "config.json").is_file():
        known = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else None
        found = "no such directory" if known is None else f"it holds {', '.join(known[:8]) or 'nothing'}"
        found = "it is a file" if directory.is_file() else found
        raise BackboneError(
            f"{name} is not a model directory ({found}); give a directory with config.json and safetensors, a "
            "hub id such as Qwen/Qwen3-VL-4B-Instruct, or `nano`"
        )
    return directory


def _downloaded(hub_id: str, *, with_weights: bool) -> Path:
    """A snapshot of what is read of a model: small files of text and, if wanted, safetensors. Never a pickle."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.jinja", "*.txt", *(["*.safetensors"] if with_weights else [])]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except Exception as error:  # noqa: BLE001 - a border: the hub's client raises a dozen kinds
        told = " ".join(str(error).split())[:300]
        raise BackboneError(
            f"{hub_id} is not a directory here, and the hub does not give it ({type(error).__name__}: {told})"
        ) from None


def load_backbone(
    path_or_id: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    attn_implementation: str = "sdpa",
    device: torch.device | str = "cpu",
    lora: LoraSettings | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """A backbone in eval mode on `device`. Only safetensors weights are read, and every parameter is among them.

    Raises BackboneError, which names file and remedy, for anything else.
    """
    check_attention(attn_implementation, "attn_implementation")
    directory = resolve(path_or_id)
    files = weight_files(directory)
    config, processor, _ = _read_small_files(directory, trust_remote_code=trust_remote_code)
    with _as_backbone_error(directory, "its weights"):
        # Quantised weights have names of their own, which only their own loader knows.
        if getattr(config, "quantization_config", None) is None:
            check_parameters(_CLASS_OF[config.model_type], config, files)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
        model, info = loaded
        check_loading(info, directory)
    backbone = make_backbone(model.to(device).eval(), processor, name=str(path_or_id))
    return backbone if lora is None else with_lora(backbone, lora)
