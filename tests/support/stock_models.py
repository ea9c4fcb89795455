"""Small model directories laid out as published checkpoints are."""

from __future__ import annotations

import json
from typing import Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tiny import tiny_tokenizer

TEXT = {
    "vocab_size": len(tiny_tokenizer()),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
}


HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}


def stock_directory(path, model_type: str):
    """A directory laid out as the published checkpoints are: no processor_config.json, a 28- or 32-pixel grid."""
    tokenizer = tiny_tokenizer()
    ids: dict[str, Any] = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in [
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        ]
    }
    patch = 16 if model_type == "qwen3_vl" else 14
    if model_type == "qwen3_vl":
        model = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(
                text_config={**TEXT, **HEADS, "head_dim": 16, "rope_parameters": ROPE},
                vision_config={**VISION, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
                **ids,
            )
        )
    else:
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config={**TEXT, **HEADS, "rope_parameters": ROPE},
                vision_config={**VISION, "out_hidden_size": 32, "fullatt_block_indexes": [0]},
                **ids,
            )
        )
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    settings = {
        "size": {"shortest_edge": 3136, "longest_edge": 12845056},
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return path
