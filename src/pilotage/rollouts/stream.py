"""Answers as they come: one way to ask any engine, whether it answers in batches or one by one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, Protocol, runtime_checkable

from pilotage.records import Rollout
from pilotage.rollouts.engine import Decoding, Engine, Request

logger = logging.getLogger(__name__)

ErrorKind = Literal["transport", "engine", "refused", "empty", "too_large"]
"""`transport`: no usable answer came over the wire, after all retries. `engine`: our own side raised.
`refused`: the server answered that it will not answer this request. `empty`: the answer has no text.
`too_large`: the answer is longer than any that was asked for."""
ASKED_AGAIN: frozenset[str | None] = frozenset({"transport", "engine", "world", "timeout", None})
"""Kinds of failure that say nothing about the model: of the wire, of our own side, of the world. Rows of older files
have errors without a kind."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one request."""

    index: int
    """The request's place in the sequence that was asked."""
    rollout: Rollout | None
    """None, or what there is of an answer, when `error` says why it does not count."""
    error: str | None = None
    """One line."""
    error_kind: ErrorKind | None = None
    seconds: float
    """What the answer took; of a batch, an equal share."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What an evaluation row shall hold of it besides: `num_tokens`, where there are no token ids to count, …"""


@runtime_checkable
class StreamingEngine(Protocol):
    """An engine that hands over each answer when it is there. Others need only be an `Engine`."""

    def stream(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
    ) -> Iterator[Answer]:
        """One answer for every request, in the order in which they finish.

        A request that fails is an answer with an error. Raises PilotageError when no further request could
        succeed; the answers before it have been handed over. Closing the iterator drops what is under way.
        """
        ...


def answers(
    engine: Engine | StreamingEngine, requests: Sequence[Request], decoding: Decoding, *, batch_size: int = 64
) -> Iterator[Answer]:
    """One answer for every request; from an engine without `stream`, batch after batch, each of one seed."""
    if isinstance(engine, StreamingEngine):
        yield from engine.stream(requests, decoding)
        return
    for _, group in groupby(range(len(requests)), key=lambda index: requests[index].seed):
        indices = list(group)
        for start in range(0, len(indices), batch_size):
            yield from _batch(engine, requests, indices[start : start + batch_size], decoding)


def _batch(
    engine: Engine, requests: Sequence[Request], indices: Sequence[int], decoding: Decoding
) -> Iterator[Answer]:
    """Answers of a batch; where the batch fails, row by row, so that one bad row costs only itself."""
    began_s = time.monotonic()
    ids = [requests[index].example_id for index in indices]
    try:
        rollouts = engine.generate([requests[index] for index in indices], decoding)
    except Exception as failure:  # noqa: BLE001 - a server or a device at the other side: record and go on
        if len(indices) > 1:
            logger.warning("a batch of %d rows failed (%s); asking row by row", len(indices), failure)
            for index in indices:
                yield from _batch(engine, requests, [index], decoding)
            return
        error = f"{type(failure).__name__}: {failure}"
        logger.error("example %s got no answer: %s", ids[0], error)
        seconds = time.monotonic() - began_s
        yield Answer(index=indices[0], rollout=None, error=error, error_kind="engine", seconds=seconds)
        return
    assert [rollout.example_id for rollout in rollouts] == ids, "an engine answers every view once, in order"
    seconds = (time.monotonic() - began_s) / len(indices)
    for index, rollout in zip(indices, rollouts, strict=True):
        yield Answer(index=index, rollout=rollout, seconds=seconds)
