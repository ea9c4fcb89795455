"""Ranks that go through a model together: what they agree on, and how one takes part that has nothing to ask of it.

With sharded parameters every forward is a meeting, and each rank has to make as many as the others, over pictures where
the others do: the encoder of pictures is sharded too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from PIL import Image

from pilotage.backbones.load import Backbone
from pilotage.records import Rollout, View

JOINING = "joining"
"""Name of the view and the rollout of a row that only takes part: nothing is taught on it."""
SIDE_PX = 64
"""Of its picture: a few tokens in any family."""
T = TypeVar("T")


def rank_and_number() -> tuple[int, int]:
    """This process's rank, and how many there are; 0 and 1 where no processes have met."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def joined_over_ranks(items: Sequence[T]) -> list[T]:
    """What all ranks have, rank after rank, on every rank; all ranks must call this."""
    _, num_ranks = rank_and_number()
    if num_ranks == 1:
        return list(items)
    found: list[Sequence[T] | None] = [None] * num_ranks
    torch.distributed.all_gather_object(found, items)
    return [item for of_rank in found if of_rank is not None for item in of_rank]


def most_over_ranks(*numbers: int, device: torch.device) -> tuple[int, ...]:
    """The largest that any rank has of each number; all ranks must call this."""
    most = torch.tensor(numbers, dtype=torch.int64, device=device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    return tuple(most.tolist())


def joining_view(*, with_picture: bool) -> View:
    """A short prompt, with a picture where other ranks may have one."""
    text = {"type": "text", "text": "."}
    if not with_picture:
        return View(name=JOINING, messages=[{"role": "user", "content": [text]}])
    image = _grey_png(SIDE_PX)
    return View(
        name=JOINING, messages=[{"role": "user", "content": [{"type": "image"}, text]}], images=(image,)
    )


def joining_rollout(backbone: Backbone) -> Rollout:
    """The shortest answer to it."""
    return Rollout(example_id=JOINING, token_ids=backbone.eos_ids[:1], text="", finished=True)


@lru_cache
def _grey_png(side_px: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side_px, side_px), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()
