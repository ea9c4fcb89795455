"""A small network on the car's state, its goal and the path: the baseline that a planner with eyes must beat.

Two hidden layers, in numpy, trained on the mean distance to what was driven. It predicts what is to be added to
constant velocity. The same scenes and seed give the same weights on one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pilotage.errors import PilotageError
from pilotage.worlds.driving.baselines import Planner, constant_velocity
from pilotage.worlds.driving.roads import PATH_STEP_M
from pilotage.worlds.driving.scene import GOALS, NUM_FUTURE, Scene

PATH_POINTS = 10
"""Points of the path that it is told, every four metres."""
_EPS = 1e-3


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """How the network is trained."""

    width: int = 96
    num_epochs: int = 60
    batch_size: int = 64
    lr: float = 2e-3
    """At the beginning; falls to 0 in a cosine."""
    weight_decay: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Mlp:
    """The trained network."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Weights and biases."""
    mean: np.ndarray = field(repr=False)
    spread: np.ndarray = field(repr=False)
    """Of the inputs, over the scenes that it was trained on."""

    def plan(self, scene: Scene) -> np.ndarray:
        """float [T, D]."""
        inputs = (features(scene)[None] - self.mean) / self.spread
        added, _ = _forward(self.layers, inputs)
        return constant_velocity(scene) + added[0].reshape(NUM_FUTURE, 2)


def features(scene: Scene) -> np.ndarray:
    """Everything that it is told: speed, yaw rate, acceleration, past, goal, points of the path."""
    ego = scene.ego
    path = scene.path[:: int(4 / PATH_STEP_M)][:PATH_POINTS] or ((0.0, 0.0),)
    path = (*path, *(path[-1],) * (PATH_POINTS - len(path)))
    goal = [float(scene.goal == each) for each in GOALS]
    numbers = [ego.speed, ego.yaw_rate, ego.acceleration, *goal]
    return np.array([*numbers, *np.ravel(ego.past), *np.ravel(path)])


def train_mlp(scenes: Sequence[Scene], config: MlpConfig | None = None) -> Mlp:
    """The network after its training. Raises PilotageError without scenes."""
    config = config or MlpConfig()
    if not scenes:
        raise PilotageError("the MLP baseline needs scenes of the training split; this set has none")
    inputs = np.stack([features(scene) for scene in scenes])
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    inputs = (inputs - mean) / spread
    wanted = np.stack([np.ravel(np.array(scene.future) - constant_velocity(scene)) for scene in scenes])
    masks = np.stack([np.repeat(scene.mask, 2) for scene in scenes]).astype(float)
    rng = np.random.default_rng(config.seed)
    sizes = (inputs.shape[1], config.width, config.width, wanted.shape[1])
    layers = [
        (rng.standard_normal((below, above)) * np.sqrt(2 / below), np.zeros(above))
        for below, above in zip(sizes, sizes[1:], strict=False)
    ]
    layers[-1] = layers[-1][0] * 0.1, layers[-1][1]
    adam = _Adam([part for layer in layers for part in layer])
    num_batches = max(1, len(inputs) // config.batch_size)
    num_steps = config.num_epochs * num_batches
    for step in range(num_steps):
        if step % num_batches == 0:
            order = rng.permutation(len(inputs))
        rows = order[(step % num_batches) * config.batch_size :][: config.batch_size]
        gradients = _gradients(layers, inputs[rows], wanted[rows], masks[rows])
        rate = config.lr * 0.5 * (1 + np.cos(np.pi * step / num_steps))
        adam.step([part for layer in gradients for part in layer], rate, config.weight_decay)
    return Mlp(layers=tuple(layers), mean=mean, spread=spread)


def mlp_planner(scenes: Sequence[Scene], seed: int = 0) -> Planner:
    """A planner trained on these scenes."""
    return train_mlp(scenes, MlpConfig(seed=seed)).plan


def _forward(
    layers: Sequence[tuple[np.ndarray, np.ndarray]], inputs: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(outputs, what each layer was given)."""
    given = [inputs]
    for weights, bias in layers[:-1]:
        given.append(np.maximum(given[-1] @ weights + bias, 0.0))
    weights, bias = layers[-1]
    return given[-1] @ weights + bias, given


def _gradients(
    layers: Sequence[tuple[np.ndarray, np.ndarray]], inputs: np.ndarray, wanted: np.ndarray, masks: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of the mean distance over rows and steps, by hand."""
    outputs, given = _forward(layers, inputs)
    off = ((outputs - wanted) * masks).reshape(len(inputs), NUM_FUTURE, 2)
    distances = np.sqrt((off**2).sum(axis=2, keepdims=True) + _EPS)
    back = (off / distances).reshape(outputs.shape) / (len(inputs) * NUM_FUTURE)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for (weights, _), below in zip(reversed(layers), reversed(given), strict=True):
        found.append((below.T @ back, back.sum(axis=0)))
        back = (back @ weights.T) * (below > 0)
    return found[::-1]


class _Adam:
    """Adam with decoupled weight decay, in place."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self._parts = parts
        self._first = [np.zeros_like(part) for part in parts]
        self._second = [np.zeros_like(part) for part in parts]
        self._num_steps = 0

    def step(self, gradients: Sequence[np.ndarray], lr: float, decay: float) -> None:
        self._num_steps += 1
        for part, gradient, first, second in zip(
            self._parts, gradients, self._first, self._second, strict=True
        ):
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            unbiased = first / (1 - 0.9**self._num_steps)
            scale = np.sqrt(second / (1 - 0.999**self._num_steps)) + 1e-8
            part -= lr * (unbiased / scale + decay * part)
