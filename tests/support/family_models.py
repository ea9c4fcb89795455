"""Tiny random models of every family, as directories that transformers saves: real classes, processors and layouts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

from pilotage.backbones.base import family_of
from pilotage.backbones.families.qwen_vl import ImageTextProcessor
from pilotage.backbones.families.text import TextProcessor
from pilotage.backbones.parameters import opener
from pilotage.backbones.processed import still_pictures
from pilotage.nano.tokenizer import CHAT_TEMPLATE
from sentence_piece import sentence_piece_tokenizer
from tiny import tiny_tokenizer

HIDDEN, SIDE_PX, PATCH_PX = 32, 32, 8
MARKS = "<|vision_start|><|image_pad|><|vision_end|>"
"""A picture in nano's chat template."""
TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIDE_PX,
    "patch_size": PATCH_PX,
}
PATCHES: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": PATCH_PX,
    "out_hidden_size": HIDDEN,
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
PIXELS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
PATCH_PIXELS = PIXELS | {
    "patch_size": PATCH_PX,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64 * 2},
}
SQUARES = PIXELS | {"size": {"height": SIDE_PX, "width": SIDE_PX}}


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """What one family's model is made of."""

    model_type: str
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    place: str = MARKS
    """A picture in the chat template."""
    named: dict[str, str] = field(default_factory=dict)
    """Special tokens that the tokenizer knows by a name."""
    tokens: tuple[str, ...] = ()
    """Other special tokens."""
    image_token: str = "<|image_pad|>"
    image_processor: str = ""
    pixels: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the processor."""
    is_byte_level: bool = True
    """What the tokenizer is; else of SentencePiece's kind."""

    @property
    def sees(self) -> bool:
        return self.vision is not None


QWEN_IDS = {
    f"{name}_token_id": tiny_tokenizer().convert_tokens_to_ids(f"<|{token}|>")
    for name, token in (
        ("image", "image_pad"),
        ("video", "video_pad"),
        ("vision_start", "vision_start"),
        ("vision_end", "vision_end"),
    )
}


def _qwen(model_type: str, *, text: dict[str, Any], vision: dict[str, Any]) -> Tiny:
    return Tiny(
        model_type=model_type,
        text={"rope_parameters": MROPE} | text,
        vision=PATCHES | vision,
        config=QWEN_IDS,
        image_processor="Qwen2VLImageProcessorPil",
        pixels=PATCH_PIXELS,
    )


_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": MROPE | {"partial_rotary_factor": 1.0},
}
_EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
_TILES = Tiny(
    model_type="idefics3",
    text={"model_type": "llama"},
    vision=VISION,
    config={"scale_factor": 2},
    place="<image>",
    tokens=("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    + tuple(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
    image_token="<image>",
    image_processor="Idefics3ImageProcessorPil",
    pixels=PIXELS | {"size": {"longest_edge": 2 * SIDE_PX}, "max_image_size": {"longest_edge": SIDE_PX}},
    settings={"image_seq_len": 4},
)
_GLM = Tiny(
    model_type="glm4v",
    text={"rope_parameters": MROPE},
    vision=PATCHES | {"image_size": SIDE_PX, "out_hidden_size": HIDDEN},
    place="<|begin_of_image|><|image|><|end_of_image|>",
    named={"image_token": "<|image|>", "video_token": "<|video|>"},
    tokens=("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    image_token="<|image|>",
    image_processor="Glm4vImageProcessorPil",
    pixels=PATCH_PIXELS,
)


_GLM_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    # Half of each head turns.
    "rope_parameters": MROPE | {"mrope_section": [2, 1, 1]},
}

_ALL = (
    _qwen("qwen2_vl", text={}, vision={"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 1}),
    _qwen("qwen2_5_vl", text={}, vision={"fullatt_block_indexes": [0]}),
    _qwen("qwen3_vl", text={}, vision={"deepstack_visual_indexes": [0]}),
    _qwen("qwen3_vl_moe", text=_EXPERTS, vision={"deepstack_visual_indexes": [0]}),
    _qwen("qwen3_5", text=_LINEAR, vision={}),
    Tiny(
        model_type="gemma3",
        text={"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
        vision=VISION,
        config={"mm_tokens_per_image": 4},
        place="<start_of_image>",
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        image_token="<image_soft_token>",
        image_processor="Gemma3ImageProcessorPil",
        pixels=SQUARES,
        settings={"image_seq_length": 4},
        is_byte_level=False,
    ),
    _TILES,
    replace(_TILES, model_type="smolvlm", image_processor="SmolVLMImageProcessorPil"),
    Tiny(
        model_type="internvl",
        text={"model_type": "qwen3"},
        vision=VISION,
        config={"image_seq_length": 4, "downsample_ratio": 0.5},
        place="<IMG_CONTEXT>",
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        image_token="<IMG_CONTEXT>",
        image_processor="GotOcr2ImageProcessorPil",
        pixels=SQUARES | {"crop_to_patches": True, "min_patches": 1, "max_patches": 4},
        settings={"image_seq_length": 4},
    ),
    _GLM,
    replace(
        _GLM,
        model_type="glm46v",
        image_processor="Glm46VImageProcessorPil",
    ),
    replace(_GLM, model_type="glm4v_moe", text=_GLM.text | _GLM_EXPERTS),
    Tiny(
        model_type="llava_onevision",
        text={"model_type": "qwen2"},
        vision=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        config={"image_grid_pinpoints": [[SIDE_PX, SIDE_PX], [SIDE_PX, 2 * SIDE_PX], [2 * SIDE_PX, SIDE_PX]]},
        place="<image>",
        named={"image_token": "<image>", "video_token": "<video>"},
        image_token="<image>",
        image_processor="LlavaOnevisionImageProcessorPil",
        pixels=SQUARES
        | {"image_grid_pinpoints": [[SIDE_PX, SIDE_PX], [SIDE_PX, 2 * SIDE_PX], [2 * SIDE_PX, SIDE_PX]]},
        settings={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    Tiny(model_type="qwen3"),
    Tiny(model_type="llama"),
    Tiny(model_type="qwen2"),
)
TINIES = {tiny.model_type: tiny for tiny in _ALL}


def _tokenizer(tiny: Tiny) -> PreTrainedTokenizerFast:
    backend = tiny_tokenizer().backend_tokenizer
    if tiny.is_byte_level:
        backend = type(backend).from_str(backend.to_str())
    else:
        backend = sentence_piece_tokenizer(tiny_tokenizer().all_special_tokens)
    tokens = (*tiny.tokens, *tiny.named.values())
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=tiny.named or list(tiny.tokens),
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=4096,
    )
    assert MARKS in CHAT_TEMPLATE
    tokenizer.chat_template = CHAT_TEMPLATE.replace(MARKS, tiny.place)
    return tokenizer


def _processor(tiny: Tiny, tokenizer: Any) -> Any:
    if not tiny.sees:
        return TextProcessor(tokenizer)
    images = getattr(transformers, tiny.image_processor)(**tiny.pixels)
    if tiny.image_processor == "Qwen2VLImageProcessorPil":
        return ImageTextProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    family: Any = family_of(tiny.model_type)
    kind = still_pictures(family.processor_class, family.processor_base)
    return kind(images, tokenizer, chat_template=tokenizer.chat_template, **tiny.settings)


def _lively(model: Any) -> None:
    """Scales random weights until context, position and picture decide the next token (see `tiny.enliven`)."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "projection" in name and not value.any():
                torch.nn.init.normal_(value, std=0.1)  # Gemma 3 begins with a projector of zeros
            if value.ndim >= 2 and (
                "layers." in name or "blocks" in name or "merger" in name or "proj" in name
            ):
                value.mul_(6.0)
        model.get_output_embeddings().weight.mul_(12.0)


def save_tiny(tiny: Tiny, directory: Path) -> None:
    """A random model of the family with its processor, as transformers saves them."""
    tokenizer = _tokenizer(tiny)
    text = TEXT | tiny.text | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if tiny.sees:
        ids = {"image_token_id": tokenizer.convert_tokens_to_ids(tiny.image_token)}
        config = AutoConfig.for_model(
            tiny.model_type,
            text_config=text,
            vision_config=tiny.vision,
            **(ids | tiny.config),
        )
    else:
        config = AutoConfig.for_model(tiny.model_type, **text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = opener(family_of(tiny.model_type)).from_config(config)
        _lively(model)
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])
    model.save_pretrained(directory)
    _processor(tiny, tokenizer).save_pretrained(directory)
