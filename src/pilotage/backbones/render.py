"""A view's prompt as text: the model's own chat template around texts that stay texts."""

from __future__ import annotations

import ctypes
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from pilotage.backbones.load import Backbone
from pilotage.errors import PilotageError
from pilotage.records import View

T = TypeVar("T")

TEMPLATE_LIMIT_S = 10.0
"""A chat template is a program from a model's directory; one that takes longer than this does not end."""
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
        text = _templated(backbone, view.messages)
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


def _templated(backbone: Backbone, messages: Sequence[Mapping[str, Any]]) -> str:
    def apply() -> str:
        return backbone.processor.apply_chat_template(  # pyright: ignore[reportReturnType]
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
        )

    try:
        return _WATCHDOG.within(TEMPLATE_LIMIT_S, apply)
    except TimeoutError:
        told = f"did not end in {TEMPLATE_LIMIT_S:g} s"
    except (TemplateError, TypeError, ValueError, ArithmeticError, MemoryError, RecursionError) as error:
        told = f"failed on the messages ({' '.join(str(error).split())[:200] or type(error).__name__})"
    raise PilotageError(f"the chat template of {backbone.name} {told}; take another template")


class _TooSlowError(BaseException):
    """Ends a call from outside. Not an Exception: nothing inside the call may swallow it."""


class _Watchdog:
    """Ends calls that take too long, in any thread, as long as they run Python code.

    A template compiles to Python, so an exception that is set from another thread ends its loops. One thread for all
    calls: a timer for each was measured to cost five times what rendering does.
    """

    def __init__(self) -> None:
        self._deadline_of: dict[int, float] = {}
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def within(self, limit_s: float, call: Callable[[], T]) -> T:
        """What `call` returns. Raises TimeoutError when it takes longer."""
        me = threading.get_ident()
        with self._guard:
            self._deadline_of[me] = time.monotonic() + limit_s
            # Not alive also after a fork, which copies no thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
        try:
            try:
                return call()
            finally:
                # After this nothing can be set any more; what was set just before is raised within the outer block.
                with self._guard:
                    self._deadline_of.pop(me, None)
        except _TooSlowError:
            raise TimeoutError from None

    def _watch(self) -> None:
        while True:
            time.sleep(0.1)
            with self._guard:
                now_s = time.monotonic()
                for thread_id in [thread for thread, end_s in self._deadline_of.items() if end_s < now_s]:
                    del self._deadline_of[thread_id]
                    raised = ctypes.py_object(_TooSlowError)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), raised)


_WATCHDOG = _Watchdog()
