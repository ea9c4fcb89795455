"""Engines as part of a recipe: settings that say what a model of this machine answers in, and that make it.

    Recipe(engine=InProcess())                                 the model that is there decodes
    pilotage train RUN --set "engine=InVllm(max_images=4)"     vLLM does, with the weights that each step leaves
    pilotage eval RUN --engine vllm
    pilotage eval RUN --engine my_package.engines:MyEngine     one of your own: a frozen dataclass like those here

Nothing here imports torch before an engine is opened.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Protocol

from pilotage.errors import PilotageError, meant

if TYPE_CHECKING:
    from pilotage.backbones.load import Backbone
    from pilotage.rollouts.engine import Engine


class EngineSettings(Protocol):
    """What answers, before there is a model."""

    @property
    def title(self) -> str:
        """What rows call it behind the model's name, as in `in vLLM`; empty where the model answers by itself."""
        ...

    @property
    def has_own_weights(self) -> bool:
        """Whether it reads the weights itself, by the model's name: then it is opened on a model without them."""
        ...

    @property
    def batch_size(self) -> int:
        """Requests that are worth giving to it at once."""
        ...

    def open(
        self, backbone: Backbone, *, batch_size: int | None = None, max_prompt_tokens: int | None = None
    ) -> Engine:
        """The engine. `batch_size` None leaves it to the settings; a prompt beyond the limit is an error."""
        ...


@dataclass(frozen=True, kw_only=True)
class InProcess:
    """The model that is there decodes: while training, the very weights that are trained."""

    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise PilotageError(f"batch_size {self.batch_size} must be at least 1")

    @property
    def title(self) -> str:
        return ""

    @property
    def has_own_weights(self) -> bool:
        return False

    def open(
        self, backbone: Backbone, *, batch_size: int | None = None, max_prompt_tokens: int | None = None
    ) -> Engine:
        from pilotage.rollouts.transformers_engine import TransformersEngine

        return TransformersEngine(
            backbone, batch_size=batch_size or self.batch_size, max_prompt_tokens=max_prompt_tokens
        )


@dataclass(frozen=True, kw_only=True)
class InVllm:
    """vLLM in this process (extra `vllm`), with weights of its own that are brought up to date before every step."""

    max_images: int = 1
    """Pictures that a prompt may show; memory is set aside for so many."""
    gpu_memory_utilization: float = 0.9
    """Share of the accelerator's memory that it takes; leave room for a model that is trained beside it."""
    max_model_len: int | None = None
    """Tokens of prompt and answer together; None: as many as its memory holds."""
    batch_size: int = 512
    """It makes batches of its own out of what it is given."""

    def __post_init__(self) -> None:
        if self.max_images < 1 or self.batch_size < 1:
            raise PilotageError(
                f"max_images {self.max_images} and batch_size {self.batch_size} must be at least 1"
            )
        if self.max_model_len is not None and self.max_model_len < 1:
            raise PilotageError(f"max_model_len {self.max_model_len} must be at least 1")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise PilotageError(
                f"gpu_memory_utilization {self.gpu_memory_utilization} must be above 0 and at most 1"
            )

    @property
    def title(self) -> str:
        return "vLLM"

    @property
    def has_own_weights(self) -> bool:
        return True

    def open(
        self, backbone: Backbone, *, batch_size: int | None = None, max_prompt_tokens: int | None = None
    ) -> Engine:
        from pilotage.rollouts.vllm_engine import VllmEngine

        return VllmEngine(
            backbone,
            max_images=self.max_images,
            max_prompt_tokens=max_prompt_tokens,
            max_model_len=self.max_model_len,
            gpu_memory_utilization=self.gpu_memory_utilization,
        )


ENGINES: Mapping[str, type[InProcess] | type[InVllm]] = {"transformers": InProcess, "vllm": InVllm}
"""Name on the command line -> its settings."""


def engine_named(name: str) -> EngineSettings:
    """The settings of a name, or of `module:Class` for one's own, as they are by default.

    Raises PilotageError for a name that is none, a module that cannot be imported, and a class that is no engine's.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in ENGINES:
            legal = ", ".join(ENGINES)
            raise PilotageError(
                f"engine {name!r} is none of {legal}, and no module:Class of your own{meant(name, ENGINES)}"
            )
        return ENGINES[name]()
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PilotageError(f"engine {name!r} cannot be imported: {error}") from None
    if not (isinstance(found, type) and is_dataclass(found) and hasattr(found, "open")):
        raise PilotageError(
            f"engine {name!r} is no engine's settings: a frozen dataclass with `open`, as in {__name__}.InProcess"
        )
    return found()  # pyright: ignore[reportReturnType]
