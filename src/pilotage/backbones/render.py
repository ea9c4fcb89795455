"""A view's prompt as text: the model's own chat template around texts that stay texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from pilotage.backbones.checkpoint import BackboneError
from pilotage.backbones.load import Backbone
from pilotage.backbones.template import templated
from pilotage.errors import PilotageError
from pilotage.records import View

TEMPLATE_ROOM = 2**20
"""Characters that a template may add to the texts that it is given."""


def render(backbone: Backbone, view: View, *, name: str = "the prompt") -> str:
    """The view's prompt text: chat template, generation prompt and prefill. `name` is for error messages.

    Raises PilotageError where a text holds one of the model's special tokens, which would end a turn or open a
    picture in the middle of it, and where the template fails, does not end, writes without end, or leaves a text out.
    """
    key = json.dumps(view.messages, sort_keys=True)
    text = backbone.text_cache.get(key)
    if text is None:
        for content in _texts(view.messages):
            _check_plain(backbone, content, name, view)
        text = _templated_whole(backbone, view.messages)
        if len(backbone.text_cache) > 4096:
            backbone.text_cache.clear()
        backbone.text_cache[key] = text
    if view.prefill:
        _check_plain(backbone, view.prefill, name, view)
    return text + view.prefill


def _templated_whole(backbone: Backbone, messages: Sequence[Mapping[str, Any]]) -> str:
    """The messages in the chat template's words, written in the first way in which it keeps every text.

    Templates that go through the parts of a message make nothing of one that is a plain text, without an error; others
    refuse or leave out a system message. Raises BackboneError where no way does.
    """
    num_given = sum(map(len, _texts(messages)))
    faults: list[BackboneError] = []
    for written in _ways(messages):
        try:
            text = templated(backbone.processor, written, name=backbone.name)
        except BackboneError as error:
            faults.append(error)
            continue
        if len(text) > num_given + TEMPLATE_ROOM:
            raise BackboneError(
                f"the chat template of {backbone.name} makes {len(text)} characters of {num_given}; "
                "take another template"
            )
        # What a model wrote before is not asked for: templates drop its reasoning, as they should.
        given = (part for message in messages if message["role"] != "assistant" for part in _texts([message]))
        lost = next((part for part in given if part.strip() not in text), None)
        if lost is None:
            return text
        faults.append(
            BackboneError(
                f"the chat template of {backbone.name} leaves out {json.dumps(lost[:60])}: take another template"
            )
        )
    raise faults[0]


def _ways(messages: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    """The messages as they are, with all their texts as parts, and with the system's in front of the first question."""
    yield messages
    listed = [{**message, "content": _parts(message["content"])} for message in messages]
    if any(isinstance(message["content"], str) for message in messages):
        yield listed
    if len(listed) > 1 and listed[0]["role"] == "system":
        system, asked, *others = listed
        ahead = [{**part, "text": part["text"] + "\n\n"} for part in system["content"]]
        yield [{**asked, "content": [*ahead, *asked["content"]]}, *others]


def _parts(content: Any) -> list[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


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
