"""Teachers whose weights move, or live elsewhere: a running mean, a copy refreshed when it is safe, a server.

A moving teacher keeps a second set of the parameters that train; what is frozen is shared with the student. While it
reads, the student's model stands in for it with the other set inside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pilotage.backbones.load import Backbone
from pilotage.backbones.render import render
from pilotage.distill.routes import Weights
from pilotage.errors import PilotageError
from pilotage.records import Rollout, View
from pilotage.rollouts.remote_scores import RemoteScorer, Style
from pilotage.train.refresh import Decision, GatedRefresh, RefreshGate
from pilotage.train.settings import as_settings


@dataclass(frozen=True, kw_only=True)
class Live(Weights):
    """The teacher is the student as it is at each step, adapter and all; it differs by what it sees."""


@dataclass(frozen=True, kw_only=True)
class EMA(Weights):
    """The teacher is a running mean of the student: after each update, mean += rate * (student - mean)."""

    rate: float
    """The student's share in each update, in (0, 1]; 1 - rate is often called the decay."""

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise PilotageError(
                f"EMA rate {self.rate} must be above 0 and at most 1, e.g. 0.001; 0 is FrozenCopy()"
            )


@dataclass(frozen=True, kw_only=True)
class Remote(Weights):
    """The teacher is a model behind an OpenAI-compatible completions endpoint; it reads text-only views.

    All that comes back is the log-probability of the sampled token, at temperature 1.
    """

    url: str
    model: str
    style: Style = "prompt_logprobs"
    api_key_variable: str | None = None
    """Environment variable with the key: a key itself would end up in the run's settings."""
    num_parallel: int = 8
    timeout_s: float = 120.0

    def scorer(self) -> RemoteScorer:
        """The client. Raises PilotageError for an address that is none and for a variable that is not set."""
        key = None
        if self.api_key_variable is not None:
            key = os.environ.get(self.api_key_variable)
            if not key:
                raise PilotageError(
                    f"the environment variable {self.api_key_variable} with the key of {self.url} is not set"
                )
        return RemoteScorer(
            url=self.url,
            model=self.model,
            style=self.style,
            api_key=key,
            num_parallel=self.num_parallel,
            timeout_s=self.timeout_s,
        )


def remote_logprobs(
    scorer: RemoteScorer, backbone: Backbone, views: Sequence[View], rollouts: Sequence[Rollout]
) -> list[Tensor]:
    """[T] float32 per rollout: log-probabilities, in nats, of its ids behind the view's prompt, from the server.

    `backbone` renders and tokenises the prompts, so the server's model must share its tokenizer and chat template.
    Raises PilotageError for a view with a picture.
    """
    for view, rollout in zip(views, rollouts, strict=True):
        if view.images:
            raise PilotageError(
                f"{rollout.example_id}, view {view.name!r}: a remote teacher reads text only; use images='none' or a "
                "text view"
            )
    texts = [render(backbone, view) for view in views]
    prompts = backbone.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    scores = scorer.score(prompts, [rollout.token_ids for rollout in rollouts])  # pyright: ignore[reportArgumentType]
    return [torch.tensor(of_row, dtype=torch.float32) for of_row in scores]


class ShadowWeights:
    """A second set of a model's trained parameters, at least in float32, so that small updates are not rounded away."""

    def __init__(self, model: Any) -> None:
        self._of: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if type(parameter.data) is not Tensor:
                raise PilotageError(
                    f"parameter {name} is a {type(parameter.data).__name__}: a moving teacher needs whole parameters "
                    "on each rank; use FrozenCopy(), or run without sharding"
                )
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            self._of[name] = parameter.detach().to(dtype, copy=True)
            self._names[id(parameter)] = name
        if not self._of:
            raise PilotageError("the model has no parameter that trains, so its teacher could not move")

    def mix(self, model: Any, rate: float) -> None:
        """shadow += rate * (model - shadow); a rate of 1 copies exactly."""
        for name, parameter in self._trained(model):
            shadow = self._of[name]
            if rate == 1.0:
                shadow.copy_(parameter.detach())
            else:
                shadow.lerp_(parameter.detach().to(shadow.dtype), rate)

    @contextmanager
    def inside(self, model: Any) -> Iterator[None]:
        """The model reads with these weights; no update may run meanwhile."""
        own = [(parameter, parameter.data) for _, parameter in self._trained(model)]
        try:
            for name, parameter in self._trained(model):
                parameter.data = self._of[name].to(parameter.dtype)
            yield
        finally:
            for parameter, data in own:
                parameter.data = data

    def of(self, parameter: Tensor) -> Tensor:
        """The shadow of one of the model's parameters, such as its head; the parameter itself if it does not train."""
        name = self._names.get(id(parameter))
        return parameter.detach() if name is None else self._of[name].to(parameter.dtype)

    def _trained(self, model: Any) -> list[tuple[str, Any]]:
        found = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert [name for name, _ in found] == list(self._of), (
            "the model trains the parameters that it began with"
        )
        return found

    def state(self) -> dict[str, Tensor]:
        """The weights by name, not copied."""
        return dict(self._of)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights of `state()`; raises PilotageError when they are of another model."""
        if state.keys() != self._of.keys() or any(
            state[name].shape != self._of[name].shape for name in state
        ):
            raise PilotageError("the teacher's checkpoint holds other parameters than the model trains")
        for name, value in state.items():
            self._of[name].copy_(value)


class MovingTeacher:
    """An EMA or a gated refresh over a run: reads, is brought up to date after every update, and is checkpointed."""

    def __init__(self, weights: EMA | GatedRefresh, model: Any) -> None:
        self.weights = weights
        self.shadow = ShadowWeights(model)
        self.gate = RefreshGate(weights) if isinstance(weights, GatedRefresh) else None

    def after_step(self, model: Any, step: int, metrics: Mapping[str, float]) -> Decision | None:
        """Call after the optimiser's update of a step (counted from 1), with its metrics, the same on every rank.

        Returns what a gate decided, or None for an EMA and between a gate's checks.
        """
        if self.gate is None:
            assert isinstance(self.weights, EMA)
            self.shadow.mix(model, self.weights.rate)
            return None
        decision = self.gate.after_step(step, metrics)
        if decision is not None and decision.refresh:
            self.shadow.mix(model, 1.0)
        return decision

    def save(self, directory: Path) -> None:
        """Writes `teacher.safetensors` and `teacher.json`, from which `load` goes on bit for bit."""
        directory.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous().cpu() for name, value in self.shadow.state().items()}
        save_file(state, directory / "teacher.safetensors")
        gate = None if self.gate is None else self.gate.state()
        (directory / "teacher.json").write_text(
            json.dumps({"weights": as_settings(self.weights), "gate": gate}), encoding="utf-8"
        )

    def load(self, directory: Path) -> None:
        """Raises PilotageError when the directory holds no teacher, or another one."""
        path = directory / "teacher.json"
        if not path.exists():
            raise PilotageError(
                f"{directory} holds no teacher.json: the checkpoint was made with other teacher weights"
            )
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["weights"] != as_settings(self.weights):
            raise PilotageError(
                f"{directory} holds a teacher {kept['weights']}, not {as_settings(self.weights)}"
            )
        self.shadow.load(load_file(directory / "teacher.safetensors"))
        if self.gate is not None:
            self.gate.load(kept["gate"])
