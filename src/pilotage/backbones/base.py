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
from dataclasses import dataclass, field
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
LANGUAGE_LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""As most models name them; the vision tower and its merger stay frozen under LoRA."""


class Processor(Protocol):
    """Turns messages into a prompt's text: a `ProcessorMixin` of transformers (TRL insists)."""

    tokenizer: Any

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


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A view as it was rendered, before its pictures have tokens."""

    name: str
    """For error messages."""
    text: str
    ids: Sequence[int]
    """The text's, with one placeholder for each picture."""
    images: Sequence[bytes | np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedPrompts:
    """Prompts as a forward takes them, unpadded."""

    ids: Sequence[list[int]]
    positions: Sequence[np.ndarray]
    """`position_ids` of each prompt: [length], or [axes, length]."""
    tokens: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    """The family's `token_arguments`, [length] for each prompt; 0 on answers and padding."""
    images: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Arguments for pictures, with the rows of all prompts one after another. `pixel_values` is among them."""
    num_rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """For each argument for pictures, how many of its rows are each prompt's."""


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


def places_of(prompt: Prompt, place_id: int | None, placeholder_ids: frozenset[int]) -> list[int]:
    """Columns of a prompt's pictures. Raises PilotageError unless there is one for each, and nothing else's."""
    places = [column for column, token in enumerate(prompt.ids) if token in placeholder_ids]
    if len(places) != len(prompt.images) or any(prompt.ids[place] != place_id for place in places):
        raise PilotageError(
            f"{prompt.name}: its text has {len(places)} image or video places but the view carries "
            f'{len(prompt.images)} image(s); put one {{"type": "image"}} where each image goes'
        )
    return places


class Family(Protocol):
    """What models of one kind have of their own; a family is derived from this class.

    Its models have weights in safetensors. An answer sees the whole of its prompt and the answer before it, never what
    follows: answers are padded on the right and read without a mask. The forward takes `position_ids`,
    `past_key_values` and `logits_to_keep`.

    Pictures become tokens in one of two ways. `ProcessorFamily` (`backbones/processed.py`) leaves it to the processor
    that transformers has for the model. A family that derives from this class alone says what pictures are
    (`encode_images`) and where they stand (`positions`).
    """

    model_types: tuple[str, ...]
    """`model_type` in config.json of the models that it is for."""
    prompt_only_tokens: tuple[str, ...] = ()
    """Tokens that only a prompt may hold: a sampled one makes the forward look for a picture that is not there."""
    vision_modules: tuple[str, ...] = ()
    """Names of modules that turn pictures into tokens, wherever they stand in a parameter's name."""
    language_linears: str = LANGUAGE_LINEARS
    """A regular expression for the names of the language model's linear layers: what LoRA adapts."""
    token_arguments: tuple[str, ...] = ()
    """Arguments of the forward with one number a token, besides ids, mask and positions."""
    auto_model: str = "AutoModelForImageTextToText"
    """The class of transformers that opens its models."""
    shares_prefixes: bool = True
    """Whether what prompts begin with may be read apart from what follows, once for all of them. Asked only of models
    whose layers all see the whole past: others keep less of it than that needs."""

    def load_processor(self, directory: Path) -> Processor:
        """The processor of a model's directory, of which nothing is run. Raises BackboneError for damaged files."""
        ...

    def refuse_misfit(self, processor: Any, config: Any, directory: Path) -> None:
        """Raises BackboneError where the processor is another model's, with which pictures would be misread."""

    def image_token_id(self, processor: Any) -> int | None:
        """Stands in a prompt's ids once for each token of a picture; in config.json too. None: reads text only."""
        return processor.image_token_id

    def placeholder_ids(self, processor: Any) -> frozenset[int]:
        """`image_token_id`, and other ids that a forward would look for a picture or a video behind."""
        return processor.placeholder_ids

    def encode_prompts(self, backbone: Any, prompts: Sequence[Prompt]) -> EncodedPrompts:
        """Prompts with a token for each part of their pictures, at least one prompt, pictures on the CPU.

        Raises PilotageError that names the prompt whose pictures have no place, or cannot be shown.
        """
        processor = backbone.processor
        shown = [(image, prompt.name) for prompt in prompts for image in prompt.images]
        encoded = self.encode_images(processor, *zip(*shown, strict=True)) if shown else None
        # One iterator over all prompts: pictures stand in the model's arguments in the order in which they are met.
        grids = iter(encoded.grids if encoded is not None else ())
        ids_of, positions_of = [], []
        for prompt in prompts:
            ids, stretches, added = list(prompt.ids), [], 0
            # The template writes one placeholder an image; the model wants one for each merged patch.
            # From the left, so that each place is where the pictures before it have moved it.
            for place in places_of(prompt, backbone.image_token_id, backbone.placeholder_ids):
                start, (rows, columns) = place + added, next(grids)
                stretches.append((start, rows, columns))
                ids[start : start + 1] = [ids[start]] * (rows * columns)
                added += rows * columns - 1
            ids_of.append(ids)
            positions_of.append(self.positions(len(ids), stretches))
        if encoded is None:
            return EncodedPrompts(ids=ids_of, positions=positions_of)
        ends = np.cumsum([len(prompt.images) for prompt in prompts])
        num_rows = {
            name: [
                sum(counts[end - len(prompt.images) : end]) for end, prompt in zip(ends, prompts, strict=True)
            ]
            for name, counts in encoded.num_rows.items()
        }
        return EncodedPrompts(ids=ids_of, positions=positions_of, images=encoded.inputs, num_rows=num_rows)

    def encode_images(
        self, processor: Any, images: Sequence[bytes | np.ndarray], names: Sequence[str]
    ) -> EncodedImages:
        """PNG bytes or uint8 RGB arrays, at least one, as the model takes them.

        Raises PilotageError that tells by `names` whose picture cannot be shown (`pixels_of`).
        """
        raise PilotageError(f"{type(self).__name__} encodes whole prompts only: call `encode_prompts`")

    def num_image_tokens(self, processor: Any, width: int, height: int) -> int:
        """How many tokens stand for a picture of so many pixels, before any resizing: rows are sorted by it."""
        ...

    def num_patches(self, backbone: Any, width: int, height: int) -> tuple[int, int]:
        """(patches that the vision tower is given for such a picture, those of them that see each other).

        The estimate of memory goes by it. As many as tokens, where a family does not say.
        """
        tokens = self.num_image_tokens(backbone.processor, width, height)
        return tokens, tokens

    def positions(self, length: int, images: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """`position_ids` of a sequence with pictures at (start, rows, columns): [length], or [axes, length].

        An answer goes on, on every axis, from one above the largest of its prompt.
        """
        return np.arange(length)

    def is_vision(self, name: str) -> bool:
        """Whether the parameter of this name turns pictures into tokens: stage 1 may leave it as it is."""
        return any(f".{module}." in f".{name}." for module in self.vision_modules)

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
