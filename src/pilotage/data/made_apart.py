"""Examples that a world makes in a process of its own: one that hangs or dies costs a try, and at last one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotage.errors import PilotageError
from pilotage.pictures import BadPictureError, check_png
from pilotage.records import Example, Split
from pilotage.worlds import wire
from pilotage.worlds.child import Child
from pilotage.worlds.world import SessionError

logger = logging.getLogger(__name__)

HOST = "pilotage.data.maker"
NUM_TRIES = 3
"""How often a world is asked that breaks off, as episodes are."""


@dataclass(frozen=True, kw_only=True)
class MadeApart:
    """Called as `pilotage.data.made.made_examples`, and gives the same: by a process that ends with the call."""

    timeout_s: float
    """What one example may take that follows another."""
    open_timeout_s: float
    """What the start of the process may take, and the first example with all that a world loads; of a world that makes
    a list, all of it."""
    max_message_bytes: int = wire.MAX_MESSAGE_BYTES
    env: Mapping[str, str] | None = None

    def __call__(
        self,
        name: str,
        levels: Sequence[int],
        count: int,
        split: Split,
        seed: int,
        *,
        cell_px: int | None = 32,
        side_px: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[Example]:
        """Raises PilotageError as `made_examples` does, and for a world that broke off in every try."""
        what = {"name": name, "levels": list(levels), "count": count, "split": split, "seed": seed}
        what |= {"cell_px": cell_px, "side_px": side_px, "options": dict(options or {})}
        for number in range(1, NUM_TRIES + 1):
            found: list[Example] = []
            try:
                for example in self._making(what):
                    found.append(example)
                return found
            except SessionError as failure:
                message = " ".join(str(failure).split())[:500]
                if number < NUM_TRIES:
                    logger.warning(
                        "the world %s broke off while it made its examples (%s); beginning again",
                        name,
                        message,
                    )
                    continue
                is_late = failure.kind == "timeout"
                remedy = "; where it is only slow, give it more (--worlds-apart N:SECONDS)" if is_late else ""
                raise PilotageError(
                    f"the world {name} broke off {number} times while it made its examples, when {len(found)} of "
                    f"{count} were there: {message}{remedy}"
                ) from failure
        raise AssertionError("the last try returns or raises")

    def _making(self, what: Mapping[str, Any]) -> Iterator[Example]:
        child = Child(
            max_bytes=self.max_message_bytes,
            start_timeout_s=self.open_timeout_s,
            env=dict(self.env or {}),
            log=None,
            host=HOST,
        )
        try:
            found = self._next(child, what, self.open_timeout_s)
            while found:
                yield from found
                found = self._next(child, None, self.timeout_s)
        finally:
            # It holds nothing but what it was asked for.
            child.kill()

    def _next(self, child: Child, what: Mapping[str, Any] | None, timeout_s: float) -> list[Example]:
        content, pictures = child.request({"do": "examples", "what": what}, timeout_s=timeout_s)
        try:
            found, place = [], 0
            for packed in content["examples"]:
                num_pictures = packed.pop("num_pictures")
                own = pictures[place : place + num_pictures]
                place += num_pictures
                found.append(wire.unpack_example(packed, own))
            for picture in pictures:
                check_png(picture)
        except (wire.WireError, TypeError, KeyError, AttributeError, BadPictureError) as error:
            raise child.fail(f"what it made are no examples: {error}") from error
        return found
