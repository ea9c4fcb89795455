"""The process that a world makes its examples in: `python -m pilotage.data.maker`, started by `made_apart` alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pilotage.data.made import making
from pilotage.records import Example
from pilotage.worlds import wire
from pilotage.worlds.host import Host, main

ANSWER_S, ANSWER_BYTES = 0.2, 2**20
"""After so long, or with more bytes of pictures, what there is of examples is sent: a few of them in any message."""


class Maker(Host):
    """Makes examples besides: the first time `examples` is asked for it is said which, and then for the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self._examples: Iterator[Example] = iter(())
        self.commands = {**self.commands, "examples": self._next}

    def _next(self, content: Mapping[str, Any]) -> wire.Message:
        """The next examples, at least one, and their pictures one after the other; none when all are made.

        The first comes by itself: it may take longer, with all that its world loads.
        """
        if (what := content["what"]) is not None:
            self._examples = making(**what)
        began_s = time.monotonic()
        packed_examples: list[dict[str, Any]] = []
        pictures: list[bytes] = []
        num_bytes = 0
        for example in self._examples:
            packed, own = wire.pack_example(example)
            packed_examples.append({**packed, "num_pictures": len(own)})
            pictures += own
            num_bytes += sum(map(len, own))
            is_late = time.monotonic() - began_s > ANSWER_S
            if what is not None or is_late or num_bytes > ANSWER_BYTES:
                break
        return {"examples": packed_examples}, tuple(pictures)


if __name__ == "__main__":
    sys.exit(main(Maker()))
