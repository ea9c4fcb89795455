"""A chat template is a program from a model's directory: run with a limit, and any failure of it is one line."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jinja2.exceptions import TemplateError

from pilotage.backbones.checkpoint import BackboneError

T = TypeVar("T")

TEMPLATE_LIMIT_S = 10.0
"""A template that takes longer than this does not end."""


def templated(processor: Any, messages: Sequence[Mapping[str, Any]], *, name: str) -> str:
    """The messages in the words of the processor's chat template, the model's turn begun.

    Raises BackboneError, which names the model `name`, for a template that fails or does not end.
    """

    def apply() -> str:
        return processor.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
        )

    try:
        return _WATCHDOG.within(TEMPLATE_LIMIT_S, apply)
    except TimeoutError:
        reason = f"did not end in {TEMPLATE_LIMIT_S:g} s"
    except (TemplateError, TypeError, ValueError, ArithmeticError, MemoryError, RecursionError) as error:
        reason = f"failed on the messages ({' '.join(str(error).split())[:200] or type(error).__name__})"
    raise BackboneError(f"the chat template of {name} {reason}; take another template")


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
