"""The same view with another picture, with none, with a part of it, or with another beginning of the answer.

Views of one text that differ in the picture: a teacher without the image, or with the image of another example.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.pictures import read_rgb
from pilotage.records import Example, View

Images = Literal["same", "none", "crop", "other"]
IMAGES: tuple[Images, ...] = ("same", "none", "crop", "other")


def varied(
    view: View,
    *,
    images: Images = "same",
    other: tuple[bytes, ...] | None = None,
    crop_share: float = 0.5,
    seed: int = 0,
    prefill: str | None = None,
) -> View:
    """The view as another teacher gets it.

    `none` takes the picture and its place in the text away; `crop` shows a part of it, `crop_share` of each side, at a
    place that the seed and the picture decide, enlarged to the picture's own size, so that it takes as many tokens;
    `other` shows the pictures `other`, as many as there are. All pictures of a view are treated alike; one without a
    picture stays without. `prefill` None keeps the view's own. Raises PilotageError for settings that make no sense.
    """
    if images not in IMAGES:
        raise PilotageError(f"images {images!r} must be one of {', '.join(IMAGES)}")
    if prefill is not None:
        view = replace(view, prefill=prefill)
    if not view.images or images == "same":
        return view
    if images == "none":
        return replace(view, images=(), messages=[_without_image(message) for message in view.messages])
    if images == "crop":
        parts = tuple(cropped(image, share=crop_share, seed=seed) for image in view.images)
        return replace(view, images=parts)
    if other is None or len(other) != len(view.images):
        raise PilotageError(
            f"view {view.name!r}: images 'other' needs {len(view.images)} other picture(s) (see OtherImages), got "
            f"{0 if other is None else len(other)}"
        )
    return replace(view, images=other)


def cropped(image: bytes, *, share: float, seed: int) -> bytes:
    """PNG bytes of a part of a picture, enlarged to its size; `share` of each side, in (0, 1]."""
    if not 0.0 < share <= 1.0:
        raise PilotageError(f"crop_share {share} must be above 0 and at most 1")
    picture = read_rgb(image)
    width, height = picture.size
    part = max(1, round(width * share)), max(1, round(height * share))
    rng = np.random.default_rng([seed & (2**64 - 1), zlib.crc32(image)])
    left, top = (int(rng.integers(whole - cut + 1)) for whole, cut in zip((width, height), part, strict=True))
    shown = picture.crop((left, top, left + part[0], top + part[1])).resize(
        (width, height), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()


def _without_image(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message
    return {**message, "content": [part for part in content if part.get("type") != "image"]}


class OtherImages:
    """Pictures of other examples: of the same task and level where there are any, else of the same task."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._of: dict[tuple[str, int | None], list[Example]] = {}
        for example in examples:
            if example.image:
                self._of.setdefault((example.task, example.level), []).append(example)
                self._of.setdefault((example.task, None), []).append(example)

    def pick(self, example: Example, *, seed: int) -> tuple[bytes, ...]:
        """Pictures that are not the example's, by the seed and the example's id.

        Raises ImpossibleRequestError where there are none.
        """
        rng = np.random.default_rng([seed & (2**64 - 1), zlib.crc32(example.id.encode())])
        for level in (example.level, None):
            pool = self._of.get((example.task, level), [])
            start = int(rng.integers(len(pool))) if pool else 0
            for step in range(len(pool)):
                found = pool[(start + step) % len(pool)]
                if found.id != example.id and found.image != example.image:
                    return (found.image,)
        raise ImpossibleRequestError(
            f"{example.id}: no other example of {example.task!r} has another picture to show: give more examples of it"
        )
