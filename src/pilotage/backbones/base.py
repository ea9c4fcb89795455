"""What a family of models must offer, and which families there are: `model_type` in config.json -> its family.

Each module of `pilotage.backbones.families` is a family and holds it as `FAMILY`. Whoever brings a family of their own
registers it as an entry point of the group `pilotage.backbones`, under the `model_type` that it is for:

    [project.entry-points."pilotage.backbones"]
    llava = "my_package.llava:FAMILY"

B rows, S columns.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pilotage.errors import PilotageError
from pilotage.pictures import BadPictureError, check_size, read_rgb

if TYPE_CHECKING:
    import torch  # commands that only look at a folder do without it

GROUP = "pilotage.backbones"


class Processor(Protocol):
    """Turns messages into a prompt's text: a `ProcessorMixin` of transformers (TRL insists), with these ids."""

    tokenizer: Any
    image_token_id: int
    """Stands in a prompt's ids once for each token of a picture; in config.json too, under this name."""
    placeholder_ids: frozenset[int]
    """`image_token_id`, and other ids that a forward would look for a picture or a video behind."""

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """The messages as text, with one image token where each picture goes."""

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Writes all that `Family.load_processor` reads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedImages:
    """Pictures as a forward takes them."""

    inputs: Mapping[str, torch.Tensor]
    """Arguments of the forward; each has the rows of all pictures one after another. `pixel_values` is among them."""
    num_rows: Mapping[str, Sequence[int]]
    """For each argument, how many of its rows are each picture's."""
    grids: Sequence[tuple[int, int]]
    """Rows and columns of the tokens that stand for each picture in a prompt."""


def pixels_of(image: bytes | np.ndarray, name: str) -> np.ndarray:
    """[height, width, 3] uint8. Raises PilotageError that tells by `name` whose picture cannot be shown."""
    if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3):
        raise PilotageError(
            f"an image array must be uint8 [height, width, 3], got {image.dtype} {image.shape}"
        )
    try:
        pixels = image if isinstance(image, np.ndarray) else np.asarray(read_rgb(image))
        check_size(pixels.shape[1], pixels.shape[0])
    except BadPictureError as error:
        raise PilotageError(f"{name}: {error}") from None
    return pixels


class Family(Protocol):
    """What models of one kind have of their own; a family is derived from this class.

    A model of a family is one of transformers' `AutoModelForImageTextToText` (a class of one's own is registered there
    when the family's module is imported), with weights in safetensors. Its text part is causal and sees its whole past,
    pictures too: prompts and answers are padded on the right and read without a mask. It takes `position_ids`,
    `past_key_values` and `logits_to_keep`.
    """

    model_types: tuple[str, ...]
    """`model_type` in config.json of the models that it is for."""
    prompt_only_tokens: tuple[str, ...]
    """Tokens that only a prompt may hold: a sampled one makes the forward look for a picture that is not there."""

    def load_processor(self, directory: Path) -> Processor:
        """The processor of a model's directory, of which nothing is run. Raises BackboneError for damaged files."""
        ...

    def refuse_misfit(self, processor: Any, config: Any, directory: Path) -> None:
        """Raises BackboneError where the processor is another model's, with which pictures would be misread."""

    def encode_images(
        self, processor: Any, images: Sequence[bytes | np.ndarray], names: Sequence[str]
    ) -> EncodedImages:
        """PNG bytes or uint8 RGB arrays, at least one, as the model takes them.

        Raises PilotageError that tells by `names` whose picture cannot be shown (`pixels_of`).
        """
        ...

    def num_image_tokens(self, processor: Any, width: int, height: int) -> int:
        """How many tokens stand for a picture of so many pixels, before any resizing: rows are sorted by it."""
        ...

    def positions(self, length: int, images: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """`position_ids` of a sequence with pictures at (start, rows, columns): [length], or [axes, length].

        An answer goes on, on every axis, from one above the largest of its prompt.
        """
        return np.arange(length)

    def is_vision(self, name: str) -> bool:
        """Whether the parameter of this name turns pictures into tokens: stage 1 may give it a rate of its own."""
        ...

    def prepare(self, model: Any) -> None:
        """Changes a loaded model in place where that makes it faster; what it computes stays the same."""


_GIVEN: dict[str, Family] = {}
"""Families that this process was given as they are (`register_family`)."""


def register_family(family: Family) -> None:
    """Makes a family known in this process alone. Raises PilotageError for a `model_type` that is taken."""
    for model_type in family.model_types:
        if _GIVEN.get(model_type, family) is not family or (
            model_type in model_types() and model_type not in _GIVEN
        ):
            raise PilotageError(
                f"there is a family of {model_type!r} models already; take its entry point or file away first"
            )
    _GIVEN.update(dict.fromkeys(family.model_types, family))


def forget_family(family: Family) -> None:
    """Takes a registered family back."""
    for model_type in family.model_types:
        _GIVEN.pop(model_type, None)


def model_types() -> tuple[str, ...]:
    """Every `model_type` that there is a family for."""
    return tuple(dict.fromkeys((*_ours(), *_points(), *_GIVEN)))


def family_of(model_type: Any) -> Family | None:
    """The family of models that config.json calls so; None where there is none.

    Raises PilotageError for a family that cannot be imported.
    """
    if not isinstance(model_type, str):
        return None
    if model_type in _GIVEN:
        return _GIVEN[model_type]
    return _ours().get(model_type) or (_opened(model_type) if model_type in _points() else None)


@cache
def _ours() -> dict[str, Family]:
    package = importlib.import_module("pilotage.backbones.families")
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    families = [importlib.import_module(f"{package.__name__}.{name}").FAMILY for name in names]
    return {model_type: family for family in families for model_type in family.model_types}


@cache
def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def _opened(model_type: str) -> Family:
    point = _points()[model_type]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise PilotageError(
            f"the family of {model_type!r} models cannot be opened at {point.value}: {error}; mend or remove it"
        ) from error
