"""The protocols of planning worlds: what each must be able to do, and what it may besides. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from pilotage.worlds.drawing import TileSet

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)

ENUMERATION_LIMIT = 20_000
"""Levels with at most this many states are enumerated rather than sampled, so that no request can loop."""

COUNTING_LIMIT = 1_000_000
"""Levels with more states are not counted: no request comes near, and listing them would take minutes."""

WORKED_EXAMPLE_SEED = 20_260_606


@dataclass(frozen=True, kw_only=True)
class Solution:
    """How a state is solved best."""

    plan: tuple[str, ...]
    """One shortest plan; ties are broken by the task's action order, so it is a function of the state."""
    num_optimal: int | None
    """Number of shortest plans, or None where counting is not cheap."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What happened when a plan was executed."""

    success: bool
    legal: bool
    num_executed: int
    """The action that ended the episode is counted."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Swatch:
    """How a thing is drawn, so that prompts and pixels cannot disagree."""

    colour: str
    """The colour's name as prompts say it."""
    rgb: tuple[int, int, int]


@runtime_checkable
class Plans(Protocol[S]):
    """A planning world: its whole answer is one plan. States are frozen dataclasses of its own; their JSON form is
    `to_json`.

    What else such a world can do is a capability of its own below; whoever needs one asks for it
    (`pilotage.worlds.capabilities`). The world itself can be hashed, as a frozen dataclass can.
    """

    @property
    def name(self) -> str:
        """Lower case, one word: file name, JSON field and plot label alike."""
        ...

    @property
    def title(self) -> str:
        """As a prompt or a page names it."""
        ...

    @property
    def actions(self) -> tuple[str, ...]:
        """Action names, upper case, in the order that breaks ties."""
        ...

    @property
    def rules(self) -> Mapping[str, str]:
        """The rules as each prompt set tells them: keys `full` and `brief`."""
        ...

    @property
    def state_form(self) -> str:
        """The JSON form of a state in one line, as `pilotage judge --help` shows it."""
        ...

    def parse_state(self, data: Mapping[str, Any]) -> S:
        """The state in `data`, the JSON form. Raises BadStateError that names the field."""
        ...

    def to_json(self, state: S) -> dict[str, Any]: ...

    def level_of(self, state: S) -> int:
        """How large the state is: what results are grouped by. Of a grid the side; 0 where a world has no sizes."""
        ...

    def execute(self, state: S, plan: Sequence[str], *, strict_edges: bool = False) -> Execution:
        """Runs `plan` until success, failure or its end. `strict_edges` makes a harmless bump a failure."""
        ...


@runtime_checkable
class Generates(Plans[S], Protocol[S]):
    """A planning world whose states can be drawn at random: prompts then show a worked example."""

    @property
    def levels(self) -> range:
        """Levels used for training by default; any level that `generate` accepts is legal."""
        ...

    def generate(self, level: int, rng: np.random.Generator) -> S:
        """One random solvable state. Raises ImpossibleRequestError when a set number of tries finds none."""
        ...

    def num_states(self, level: int) -> int | None:
        """The number of distinct solvable states, or None beyond `COUNTING_LIMIT`."""
        ...

    def enumerate_states(self, level: int) -> Iterator[S]:
        """Every solvable state once, in a fixed order. Only meant for levels with `num_states` in reach."""
        ...


@runtime_checkable
class Solves(Plans[S], Protocol[S]):
    """A planning world that knows the best plans: teachers have one, and a judge says whether a plan is `optimal`."""

    def solve(self, state: S, *, rng: np.random.Generator | None = None) -> Solution | None:
        """A shortest plan, or None when the goal cannot be reached. `rng` breaks ties at random instead."""
        ...

    def difficulty(self, state: S, optimal_length: int) -> str: ...


@runtime_checkable
class Recites(Plans[S], Protocol[S]):
    """A planning world that tells its states in words and reads them back: descriptions of pictures are asked for and
    scored, the state recited before a plan is compared, and a failure is laid to the eye or to the planner.

    Without it a state is told as its JSON form.
    """

    def recital(self, state: S) -> dict[str, str]:
        """Ordered fields -> texts that determine the state: recited in responses, shown in symbolic views."""
        ...

    def parse_recital(self, fields: Mapping[str, str]) -> S:
        """The state in recited `fields`, the inverse of `recital`; fields that it does not need are ignored.

        Meets what models wrote (`pilotage.worlds.recital` reads sizes and cells out of it). Texts that hold the
        same items as a state's recital give that state. Raises BadStateError, and nothing else, on any text.
        """
        ...

    def facts(self, state: S) -> dict[str, str]:
        """Ordered perception fields -> texts: the recital's fields, then what follows from them."""
        ...

    def route(self, state: S, plan: Sequence[str]) -> str:
        """One sentence that traces `plan`, starting with `Route: `."""
        ...


@runtime_checkable
class Draws(Plans[S], Protocol[S]):
    """A planning world that draws its states: examples have pictures, and pages show them."""

    def draw(self, state: S, cell_px: int) -> np.ndarray:
        """The picture, uint8 [height, width, 3]; of a grid [level*cell_px, level*cell_px, 3]."""
        ...


@runtime_checkable
class DrawsTiles(Draws[S], Protocol[S]):
    """A planning world on a square grid whose pictures are made of tiles: pages draw levels and plans themselves, cell
    by cell, and show what was misread in its place."""

    @property
    def legend(self) -> Mapping[str, Swatch]:
        """What is drawn -> its colour, for every thing whose colour a prompt names."""
        ...

    def tiles(self, cell_px: int) -> TileSet:
        """The picture of every kind of cell at this size; the first kind is the empty cell."""
        ...

    def tile_kinds(self, state: S) -> np.ndarray:
        """[level, level] of whole numbers: which tile stands in each cell."""
        ...

    def trace(self, state: S, plan: Sequence[str]) -> list[tuple[int, int]]:
        """Cells visited by `plan`, the start first, until it ends or fails: for drawing it on the picture."""
        ...


@runtime_checkable
class Sampled(Generates[S], Solves[S], Protocol[S]):
    """What data sets are built of: states that are drawn, with their best plans."""


@runtime_checkable
class Task(Sampled[S], Recites[S], DrawsTiles[S], Protocol[S]):
    """A planning world with all of this, as grid worlds are: their prompts show a worked example with its recital and
    its route, questions are asked about their cells, and nano was brought up on them."""


@runtime_checkable
class TextMaps(Protocol[S]):
    """What a task has besides when its states can be drawn as maps of characters. A task need not have it."""

    @property
    def text_form(self) -> str:
        """One line that says which character stands for what."""
        ...

    def parse_text(self, text: str) -> S:
        """The state drawn in `text`; white space around lines and empty lines do not matter.

        Raises BadStateError, and nothing else, that names row and column, on any text.
        """
        ...

    def to_text(self, state: S) -> str:
        """The map, lines joined by `\n`; `parse_text` reads it back as the same state."""
        ...


@runtime_checkable
class HasPrior(Protocol[S_contra]):
    """What a task has besides when its levels mostly follow a regularity that a model may plan by out of habit."""

    @property
    def prior(self) -> str:
        """The regularity in words: `the goal lies to the lower right of the player`."""
        ...

    def follows_prior(self, state: S_contra) -> bool | None:
        """True where it holds, False where it is reversed, None where it says nothing.

        Reversal must not change how hard a state is: for every state that follows, a mirrored one is reversed.
        """
        ...


@runtime_checkable
class Stepwise(Protocol[S]):
    """What a task has besides when it can be played move by move. `execute` and `after` tell the same rules."""

    def after(self, state: S, action: str, *, strict_edges: bool = False) -> tuple[S, str]:
        """The state behind one action, and why the episode ends there: `""` where it goes on.

        Where it ends (`success` or one of the judge's failures), the state is the one that the action was made in:
        a player in a hole or on the goal is no state.
        """
        ...

    def ended(self, state: S, action: str) -> S:
        """What is to be drawn where the action ends the episode; no state to go on from, see `after`."""
        ...

    def fixed(self, state: S) -> dict[str, Any]:
        """What no episode from here can change, in JSON: the map without the player, which splits are made of."""
        ...

    def placed(self, state: S, cell: tuple[int, int]) -> S | None:
        """The same with the player in `cell`; None where it cannot stand there. The goal may be out of reach."""
        ...

    def cornered(self, state: S) -> S | None:
        """The same as a start from a corner, the player at the upper left; None where the map allows none."""
        ...


def worked_state(task: Generates[S]) -> S:
    """The fixed state whose answer the prompts show as an example; data sets leave it out."""
    return task.generate(task.levels[0], np.random.default_rng(WORKED_EXAMPLE_SEED))


def canonical_key(task: Plans[S], state: S) -> str:
    """A text that two states share exactly when they are the same state."""
    return f"{task.name}:" + _CANONICAL_JSON(task.to_json(state))


_CANONICAL_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode
"""Made once: `json.dumps` with these arguments makes an encoder a call, half the cost of a hash."""


def state_hash(task: Plans[S], state: S) -> str:
    """128 bits of SHA-256 over the canonical key, in hex: the identity that splits and ids are made of."""
    return hashlib.sha256(canonical_key(task, state).encode()).hexdigest()[:32]


def difficulty_by_length(level: int, optimal_length: int) -> str:
    """easy up to max(1, N//2) steps, medium up to N, else hard (the paper's rule for Maze)."""
    if optimal_length <= max(1, level // 2):
        return "easy"
    return "medium" if optimal_length <= level else "hard"


def state_text(fields: Mapping[str, str]) -> str:
    """Fields as one line: `Size: 4. Player: (2,0). …`, the form that views show and responses recite."""
    return " ".join(f"{name}: {text}." for name, text in fields.items())


def told_facts(facts: Mapping[str, str], state: Mapping[str, Any] | None) -> str:
    """A state in words: its facts as one line, or its JSON form where the world tells none."""
    return state_text(facts) if facts or not state else _CANONICAL_JSON(dict(state))


def reference_response(task: Recites[S], state: S, plan: Sequence[str]) -> str:
    """The whole answer in the output format that every prompt asks for: state, route, one answer block."""
    return f"{state_text(task.recital(state))}\n{task.route(state, plan)}\n<answer>{' '.join(plan)}</answer>"
