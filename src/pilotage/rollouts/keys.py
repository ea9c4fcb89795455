"""Keeps an API key out of what a server says: servers repeat it in errors, headers and answers."""

from __future__ import annotations

import html
import logging
import re

KEY_PLACE = "[key]"
"""Stands where a key was."""


def is_secret(key: str) -> bool:
    """Whether `key` must not be shown, or is a placeholder such as a local server is content with.

    A secret has at least six different characters, and at least 8 in all with letters and digits among them or at
    least 20. `none`, `EMPTY`, `dummy`, `sk-no-key-required` and `sk-00000000` are none: cut out of answers, words
    would change what is judged.
    """
    is_mixed = any(c.isalpha() for c in key) and any(c.isdigit() for c in key)
    return len(set(key)) >= 6 and len(key) >= (8 if is_mixed else 20)


class Scrubber(logging.Filter):
    """Cuts a secret key out of text, as it is and as JSON, percent encoding, HTML and `repr` spell it.

    To be called before anything is shortened, or the half of a key may stay. As a logging filter it does the same
    to messages. A key that is no secret stays where it is.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self._pattern = re.compile("".join(map(_spelled, key))) if is_secret(key) else None

    def scrub(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(KEY_PLACE, text)

    def scrub_bytes(self, data: bytes) -> bytes:
        """The same for bytes in any encoding that keeps ASCII, JSON's among them."""
        return data if self._pattern is None else self.scrub(data.decode("latin-1")).encode("latin-1")

    def filter(self, record: logging.LogRecord) -> bool:
        if self._pattern is not None:
            record.msg, record.args = self.scrub(record.getMessage()), ()
        return True


def _spelled(character: str) -> str:
    """A pattern for one character of a key in any spelling."""
    code = "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in f"{ord(character):02x}")
    plain = {re.escape(character), re.escape(html.escape(character))}
    escaped = [
        *sorted(plain),
        f"u00{code}",
        f"x{code}",
        f"%(?:25)*{code}",
        f"&#0*{ord(character)};",
        f"&#[xX]0*{code};",
    ]
    # JSON within JSON doubles its backslashes. Not any number of them: a body of backslashes would take for ever.
    return rf"(?:\\{{0,8}}(?:{'|'.join(escaped)}))"
