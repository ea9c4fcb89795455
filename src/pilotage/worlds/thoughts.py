"""Where a response's thoughts end: what stands in a thought is no answer, whatever it looks like."""

from __future__ import annotations

import re

_TAG = re.compile(r"<(/?)think>", re.IGNORECASE)


def after_thoughts(response: str) -> str | None:
    """The text behind the last closed thought, or None while a thought is open. Linear in the text's length.

    A `</think>` closes whatever was thought before it, with or without a `<think>`: chat templates often write the
    opening themselves. A thought that is open at the end was cut off before it could answer.
    """
    tags = list(_TAG.finditer(response)) if "think>" in response or "THINK>" in response.upper() else []
    if not tags:
        return response
    if not tags[-1][1]:
        return None
    return response[tags[-1].end() :]
