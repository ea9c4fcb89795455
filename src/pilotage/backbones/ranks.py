"""Ranks that go through a model together: what they agree on, and how one takes part that has nothing to ask of it.

With sharded parameters every forward is a meeting, and each rank has to make as many as the others, over pictures where
the others do: the encoder of pictures is sharded too.
"""

from __future__ import annotations

import io
from functools import lru_cache

import torch
from PIL import Image

from pilotage.backbones.load import Backbone
from pilotage.records import Rollout, View

JOINING = "joining"
"""Name of the view and the rollout of a row that only takes part: nothing is taught on it."""
SIDE_PX = 64
"""Of its picture: a few tokens in any family."""


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
