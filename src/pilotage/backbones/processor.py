"""A Qwen-VL processor for still images that needs pillow and numpy only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from pilotage.backbones.checkpoint import AGAIN, BackboneError, read_small_json, refusing
from pilotage.backbones.template import templated


class ImageTextProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor without its video part.

    The stock class always builds a video processor, which cannot be imported without torchvision. This one has an
    image processor and a tokenizer; otherwise it behaves the same (and serves Qwen2.5-VL, whose image part is alike).
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None):
        def token_and_id(name: str) -> tuple[str, int]:
            token = getattr(tokenizer, f"{name}_token", None) or _TOKENS[name]
            token_id = tokenizer.convert_tokens_to_ids(token)
            if token_id is None or token_id == getattr(tokenizer, "unk_token_id", None):
                raise BackboneError(f"the tokenizer has no {token!r}; a Qwen-VL tokenizer is needed")
            return token, token_id

        self.image_token, self.image_token_id = token_and_id("image")
        self.video_token, self.video_token_id = token_and_id("video")
        self.vision_start_token, self.vision_start_token_id = token_and_id("vision_start")
        self.vision_end_token, self.vision_end_token_id = token_and_id("vision_end")
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def to_dict(self) -> dict[str, Any]:
        # Other programs know the directory's processor by its stock name.
        return {**super().to_dict(), "processor_class": Qwen3VLProcessor.__name__}

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        files = super().save_pretrained(save_directory, *args, **kwargs)
        self.tokenizer._set_processor_class(Qwen3VLProcessor.__name__)
        self.tokenizer.save_pretrained(save_directory)
        return files

    @classmethod
    def load(cls, path: str) -> ImageTextProcessor:
        """The processor of a Qwen-VL directory; only its image and tokenizer files are read.

        Raises BackboneError for a file that is missing or damaged.
        """
        from transformers import AutoTokenizer

        directory = Path(path)
        remedy = f"copy it from the base model, or {AGAIN}"
        for names in (_TOKENIZER_FILES, _IMAGE_FILES):
            if not any((directory / name).exists() for name in names):
                raise BackboneError(f"{directory} has no {names[0]}: {remedy}")
        for name in _SETTINGS:
            if (directory / name).exists():
                read_small_json(directory / name)
        with refusing(f"the tokenizer of {directory}", remedy=remedy):
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        with refusing(f"{directory / _IMAGE_FILES[0]}", remedy=remedy):
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(path)
        template = getattr(tokenizer, "chat_template", None) or cls._chat_template_of(path)
        processor = cls(image_processor=image_processor, tokenizer=tokenizer, chat_template=template)
        with refusing(f"the chat template of {directory}", remedy=remedy):
            templated(processor, _SAMPLE, name=str(directory))
        return processor

    @classmethod
    def _chat_template_of(cls, path: str) -> str:
        """The template kept beside the tokenizer (`chat_template.jinja` or the older `chat_template.json`)."""
        processor_dict, _ = cls.get_processor_dict(path)
        template = processor_dict.get("chat_template")
        if not template:
            raise BackboneError(
                f"{path} has no chat template (chat_template.jinja, or in tokenizer_config.json): copy it from the "
                "base model"
            )
        return template


_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
"""Either may hold the image settings; newer directories have both."""
_SETTINGS = (*_IMAGE_FILES, "tokenizer_config.json", "chat_template.json")
_SAMPLE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]

_TOKENS = {
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}
