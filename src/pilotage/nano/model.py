"""`nano`: a real Qwen3-VL of a few million parameters that plans small grids on one CPU core."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pilotage.backbones.families.qwen_vl import ImageTextProcessor


@dataclass(frozen=True, kw_only=True)
class NanoConfig:
    """Sizes of a nano model. The defaults have about 1.4 million parameters with a vocabulary of 1,024."""

    hidden: int = 128
    """Width of the text model; the embedding is tied to the output layer."""
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 32
    mlp: int = 384
    rope_theta: float = 1000.0
    """Base of the rotary wavelengths; the longest is about 2 pi x theta positions, contexts are a few hundred."""
    mrope_section: tuple[int, int, int] = (6, 5, 5)
    """Rotary frequencies for time, height and width, interleaved; they add up to head_dim / 2."""
    max_positions: int = 2048
    vision_hidden: int = 96
    vision_depth: int = 2
    vision_heads: int = 4
    vision_mlp: int = 192
    patch: int = 16
    """Pixels per patch side; with spatial_merge 2 one visual token covers 32 x 32 pixels."""
    temporal_patch: int = 1
    """Frames per patch. Qwen3-VL has 2 and repeats a still image; 1 halves that work."""
    spatial_merge: int = 2
    vision_positions: int = 256
    """Learned position embeddings, a 16 x 16 grid that is interpolated to the image's grid."""
    deepstack_layers: tuple[int, ...] = (0,)
    """Vision layers whose features are also added to the first text layers."""
    max_image_pixels: int = 1024 * 1024

    def __post_init__(self) -> None:
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ValueError(
                f"mrope_section {self.mrope_section} must add up to head_dim / 2 = {self.head_dim / 2:g}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.vision_hidden % (4 * self.vision_heads):
            raise ValueError(
                f"vision_hidden {self.vision_hidden} must be a multiple of 4 x vision_heads {self.vision_heads}"
            )


def build_nano(
    config: NanoConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> tuple[Qwen3VLForConditionalGeneration, ImageTextProcessor]:
    """A freshly initialised nano model (float32, on the CPU) and its processor; the global RNG is left as it was."""
    processor = ImageTextProcessor(
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=config.patch,
            temporal_patch_size=config.temporal_patch,
            merge_size=config.spatial_merge,
            size={
                "shortest_edge": (config.patch * config.spatial_merge) ** 2,
                "longest_edge": config.max_image_pixels,
            },
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,  # pyright: ignore[reportArgumentType]
    )
    pad_id, eos_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model_config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": config.hidden,
            "intermediate_size": config.mlp,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "max_position_embeddings": config.max_positions,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": config.rope_theta,
                "mrope_section": list(config.mrope_section),
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": pad_id,
            "eos_token_id": eos_id,
        },
        vision_config={
            "depth": config.vision_depth,
            "hidden_size": config.vision_hidden,
            "intermediate_size": config.vision_mlp,
            "num_heads": config.vision_heads,
            "patch_size": config.patch,
            "temporal_patch_size": config.temporal_patch,
            "spatial_merge_size": config.spatial_merge,
            "out_hidden_size": config.hidden,
            "num_position_embeddings": config.vision_positions,
            "deepstack_visual_indexes": list(config.deepstack_layers),
        },
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        vision_start_token_id=processor.vision_start_token_id,
        vision_end_token_id=processor.vision_end_token_id,
        tie_word_embeddings=True,
        # What was made from it is measured by the same recipe: the key stays in every model trained on.
        pilotage_recipe="nano",  # pyright: ignore[reportCallIssue]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(model_config)
    with torch.no_grad():
        positions = model.model.visual.pos_embed.weight
        positions.copy_(place_waves(*positions.shape))
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=[eos_id, pad_id], pad_token_id=pad_id, bos_token_id=pad_id
    )
    return model.eval(), processor


def place_waves(num_places: int, width: int, amplitude: float = 0.3) -> torch.Tensor:
    """First vision position embeddings [num_places, width]: waves over rows, then over columns of a square grid.

    Half a period to eight periods across the picture, as strong as what the pixels give: from small random
    embeddings, telling one place from another takes several times as many pictures to learn.
    """
    side = math.isqrt(num_places)
    if side * side != num_places or width % 4:
        raise ValueError(f"{num_places} places of width {width}: need a square number and a multiple of 4")
    frequency = torch.logspace(math.log2(0.5), 3, width // 4, base=2) * math.pi
    phase = torch.linspace(0, 1, side)[:, None] * frequency
    waves = amplitude * torch.cat([phase.sin(), phase.cos()], dim=1)
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(num_places, width)
