"""Causal models that read text only: teachers of words, and students of worlds without pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.processing_utils import ProcessorMixin

from pilotage.backbones.base import EncodedPrompts, Family, Prompt
from pilotage.backbones.processed import checked_processor


class TextProcessor(ProcessorMixin):
    """A tokenizer and its chat template, in which a message is a text rather than a list of parts."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, chat_template=tokenizer.chat_template)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        plain = [{**message, "content": _text_of(message["content"])} for message in conversation]
        return self.tokenizer.apply_chat_template(plain, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        return self.tokenizer.save_pretrained(save_directory)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


class Text(Family):
    model_types = ("qwen3", "llama", "qwen2")
    auto_model = "AutoModelForCausalLM"
    language_linears = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

    def load_processor(self, directory: Path) -> TextProcessor:
        def build() -> TextProcessor:
            return TextProcessor(AutoTokenizer.from_pretrained(directory, trust_remote_code=False))

        return checked_processor(directory, build, sees=False)

    def image_token_id(self, processor: Any) -> None:
        return None

    def placeholder_ids(self, processor: Any) -> frozenset[int]:
        return frozenset()

    def num_image_tokens(self, processor: Any, width: int, height: int) -> int:
        return 0

    def num_patches(self, backbone: Any, width: int, height: int) -> tuple[int, int]:
        return 0, 0

    def encode_prompts(self, backbone: Any, prompts: Sequence[Prompt]) -> EncodedPrompts:
        ids_of = [list(prompt.ids) for prompt in prompts]
        return EncodedPrompts(ids=ids_of, positions=[self.positions(len(ids), ()) for ids in ids_of])


FAMILY = Text()
