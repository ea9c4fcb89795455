"""A view's prompt as text: the model's own chat template around texts that stay texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from pilotage.backbones.load import Backbone
from pilotage.backbones.template import templated
from pilotage.errors import PilotageError
from pilotage.records import View

TEMPLATE_ROOM = 2**20
"""Characters that a template may add to the texts that it is given."""


def render(backbone: Backbone, view: View, *, name: str = "the prompt") -> str:
    """The view's prompt text: chat template, generation prompt and prefill. `name` is for error messages.

    Raises PilotageError where a text holds one of the model's special tokens, which would end a turn or open a
    picture in the middle of it, and where the template fails, does not end, or writes without end.
    """
    key = json.dumps(view.messages, sort_keys=True)
    text = backbone.text_cache.get(key)
    if text is None:
        texts = list(_texts(view.messages))
        for content in texts:
            _check_plain(backbone, content, name, view)
        text = templated(backbone.processor, view.messages, name=backbone.name)
        if len(text) > sum(map(len, texts)) + TEMPLATE_ROOM:
            raise PilotageError(
                f"the chat template of {backbone.name} makes {len(text)} characters of {sum(map(len, texts))}; "
                "take another template"
            )
        if len(backbone.text_cache) > 4096:
            backbone.text_cache.clear()
        backbone.text_cache[key] = text
    if view.prefill:
        _check_plain(backbone, view.prefill, name, view)
    return text + view.prefill


def _texts(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            yield content
        else:
            yield from (part["text"] for part in content if part["type"] == "text")


def _check_plain(backbone: Backbone, text: str, name: str, view: View) -> None:
    found = _special_tokens(backbone.tokenizer).search(text)
    if found is not None:
        # A picture's place is the case that people meet: they wrote a placeholder where a part belongs.
        raise PilotageError(
            f"{name}, view {view.name!r}: its text holds {found[0]!r}, a special token of {backbone.name}; take it "
            'out (the place of an image is one {"type": "image"} part)'
        )


@lru_cache(maxsize=16)
def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Matches what the tokenizer would read as one of its special tokens wherever it stands."""
    added = tokenizer.added_tokens_decoder.values()
    names = sorted({token.content for token in added if token.special and token.content}, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")
