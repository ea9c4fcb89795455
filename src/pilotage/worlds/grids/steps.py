"""Grid worlds played move by move: of each answer the first moves are made, then the model looks again.

An example's `data` may shape its episode; nothing in it is privileged:

    map       hash of what the episode cannot change, which its split was made of (`pilotage.worlds.grids.data.steps`)
    starts    how it was drawn: `anywhere`, `corner`, `every`, `moved`
    burst     moves made of each answer; 1 by default
    fog       cells farther than this from the player are hidden in the picture; 0, the default, hides none
    cell_px   pixels a cell of the pictures of later turns; 0 draws none, by default 32
    window    pictures that a view shows, the last of the past and this turn's; 1 by default (a view's business)

Distance in fog is that of a king's move: what is seen is the square of 2*fog+1 cells a side, as in MiniGrid. A goal out
of sight is hidden as everything is: it has to be found. The privileged state stays whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from pilotage.errors import BadStateError, PilotageError
from pilotage.records import Condition, Example, Measure, Observation, Outcome, Privileged
from pilotage.worlds import drawing
from pilotage.worlds.answers import parse_answer
from pilotage.worlds.grid import Cell, shorten
from pilotage.worlds.grids.agents import AGENTS, TEMPERATURES
from pilotage.worlds.grids.frozenlake import FrozenLake
from pilotage.worlds.grids.maze import Maze
from pilotage.worlds.grids.minibehaviour import MiniBehaviour
from pilotage.worlds.judge import MEASURES, REASONS
from pilotage.worlds.planning import CONDITIONS
from pilotage.worlds.score import PLAN, compared_recital
from pilotage.worlds.task import Stepwise, Task, canonical_key

ACT = "act"
TURNS_PER_LEVEL = 3
"""Turns that an episode has, for each cell of the map's side. Where the expert needs so many that fewer than a side
would be left over, as in long mazes, an episode has a side's more than the expert needs."""
UNREADABLE = ("no_answer_block", "empty_answer", "unknown_token")
"""Reasons of a plan's judge that end no episode here: such an answer is a wasted turn."""
FOG_RGB = (128, 128, 128)
"""The colour of no thing in any grid world."""
OPTIONS: Mapping[str, tuple[int, int]] = {
    "burst": (1, 1),
    "fog": (0, 0),
    "cell_px": (32, 0),
    "window": (1, 1),
}
"""Option -> (its default, the least that it may be)."""

STEP_CONDITIONS = (
    *(replace(each, views={ACT: each.views[PLAN]}) for each in CONDITIONS if PLAN in each.views),
    Condition(name="memory", title="from the picture, its own past told", views={ACT: "memory"}),
    Condition(name="text_memory", title="from words, its own past told", views={ACT: "symbolic_memory"}),
)
"""Those of one plan, asked at each turn, and two more."""

STEP_MEASURES = (
    *MEASURES,
    Measure(name="circled", title="went in circles", better="lower"),
    Measure(name="num_turns", title="turns", better="lower", unit="turns", bounds=None, is_flag=False),
    Measure(
        name="num_revisits",
        title="states seen again",
        better="lower",
        unit="moves",
        bounds=None,
        is_flag=False,
    ),
)
"""Of an episode, in the words of a plan's measures. `parsed`: every turn could be read. `illegal`: a move failed.
`optimal`: success with as few moves as the expert from the start. `num_executed`: moves made, the failing one counted.
`num_revisits`: moves that led to a state seen before, bumps among them. `circled`: all turns were used up, and a state
was seen again."""


class StepTask(Task[Any], Stepwise[Any], Protocol):
    """A task that can be played move by move."""


class StepWorld:
    """A planning task, played move by move."""

    roles = (ACT,)
    reasons = tuple(reason for reason in REASONS if reason not in UNREADABLE)
    measures = STEP_MEASURES
    conditions = STEP_CONDITIONS
    usual = ("image", "text")
    """What is measured when nothing else is asked for."""
    answer_form = "block"
    agents = AGENTS
    """By name, those that may play in place of `direct`."""
    temperatures = TEMPERATURES
    """Of the decodings that these agents name."""

    def __init__(self, task: StepTask) -> None:
        self.task = task
        self.name = f"{task.name}_steps"
        self.actions = task.actions
        self.title = f"{task.title}, step by step"

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> StepSession:
        """Raises PilotageError for an example of another world or with bad options, BadStateError for a bad state."""
        return StepSession(self, example, role or ACT, strict)

    def agent_info(self, example: Example) -> Mapping[str, Any]:
        return {
            "actions": self.actions,
            "burst": checked_options(example.id, example.data)["burst"],
        }

    def expert(self, session: Any) -> tuple[str, ...] | None:
        """A shortest plan from where the session is; None where there is no way on, or where it is over."""
        if session.over:
            return None
        solution = self.task.solve(session.state)
        return None if solution is None else solution.plan


class FrozenLakeSteps(StepWorld):
    def __init__(self) -> None:
        super().__init__(FrozenLake())


class MazeSteps(StepWorld):
    def __init__(self) -> None:
        super().__init__(Maze())


class MiniBehaviourSteps(StepWorld):
    def __init__(self) -> None:
        super().__init__(MiniBehaviour())


class StepSession:
    """One episode. `task`, `state`, `over` and `burst` are for experts and studies."""

    def __init__(self, world: StepWorld, example: Example, role: str, strict: bool) -> None:
        if example.world != world.name:
            raise PilotageError(f"{example.id} is an example of {example.world}, not of {world.name}")
        if role not in world.roles:
            raise PilotageError(f"{world.name} has no role {role!r}; there is {', '.join(world.roles)}")
        if not example.state:
            raise PilotageError(f"{example.id} has no state of {world.name} to begin with")
        self.task = world.task
        self.state = self._last_drawn = world.task.parse_state(example.state)
        self.reason = ""
        """Why the episode is over; `""` while it is not."""
        self._example, self._strict = example, strict
        options = checked_options(example.id, example.data)
        self.burst, self._fog, self._cell_px = options["burst"], options["fog"], options["cell_px"]
        solution = world.task.solve(self.state)
        if solution is None:
            raise BadStateError(f"{example.id}: no plan reaches the goal of this state")
        self._optimal_length = len(solution.plan)
        level = world.task.level_of(self.state)
        self._budget = max(TURNS_PER_LEVEL * level, self._optimal_length + level)
        self._seen_states = {canonical_key(self.task, self.state)}
        self._now: Observation | None = example.start
        self._num_turns = self._num_unread = self._num_executed = self._num_revisits = 0
        self._fields: dict[str, str] = {}
        self._right: dict[str, bool] = {}

    @property
    def over(self) -> bool:
        return bool(self.reason)

    def observe(self) -> Observation | None:
        if self.over:
            return None
        if self._now is None:
            pictures = (
                () if not self._cell_px else (picture(self.task, self.state, self._cell_px, self._fog),)
            )
            self._now = Observation(images=pictures, privileged=self.privileged())
        return self._now

    def at_end(self) -> Observation | None:
        """The last state in the picture, with the player where the last move led: on the goal, in a hole."""
        if not self._cell_px:
            return None
        return Observation(images=(picture(self.task, self._last_drawn, self._cell_px, self._fog),))

    def privileged(self) -> Privileged:
        return privileged_of_state(self.task, self.state)

    def act(self, text: str) -> float | None:
        """Makes the first moves of the plan in `text`. 1.0 for success, 0.0 for other ends, None where it goes on."""
        if self.over:
            return None
        self._num_turns += 1
        self._read(text)
        answer = parse_answer(text, self.task.actions)
        if answer.plan is None:
            self._num_unread += 1
        for action in (answer.plan or ())[: self.burst]:
            self._move(action)
            if self.over:
                break
        if not self.over and self._num_turns >= self._budget:
            self.reason = "not_reached"
        return float(self.reason == "success") if self.over else None

    def outcome(self) -> Outcome:
        """`fields` are those of the last answer that recited a state; `right` is of all of them."""
        success = self.reason == "success"
        illegal = self.over and not success and self.reason != "not_reached"
        return Outcome(
            success=success,
            reason=self.reason or "not_reached",
            measures={
                "optimal": success and self._num_executed == self._optimal_length,
                "illegal": illegal,
                "parsed": self._num_turns > 0 and not self._num_unread,
                "num_executed": self._num_executed,
                "circled": self.reason == "not_reached" and self._num_revisits > 0,
                "num_turns": self._num_turns,
                "num_revisits": self._num_revisits,
            },
            fields=self._fields,
            right=self._right or dict.fromkeys(self.task.recital(self.state), False),
        )

    def close(self) -> None:
        pass

    def _move(self, action: str) -> None:
        before = self.state
        self.state, self.reason = self.task.after(before, action, strict_edges=self._strict)
        self._last_drawn = self.task.ended(before, action) if self.over else self.state
        self._num_executed += 1
        self._now = None
        if not self.over:
            key = canonical_key(self.task, self.state)
            self._num_revisits += key in self._seen_states
            self._seen_states.add(key)

    def _read(self, text: str) -> None:
        """What the answer recites, against the state that it was given in."""
        fields, right = compared_recital(self.task, self.state, text)
        if fields:
            # An answer without a word of the state is a move of an agent's, not a misreading.
            self._fields = fields
            self._right = {name: is_right and self._right.get(name, True) for name, is_right in right.items()}


def checked_options(id_: str, data: Mapping[str, Any]) -> dict[str, int]:
    """The options of an example's `data` that are numbers. Raises PilotageError that names a bad one."""
    options = {name: data.get(name, default) for name, (default, _) in OPTIONS.items()}
    for name, value in options.items():
        minimum = OPTIONS[name][1]
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise PilotageError(
                f"{id_}: {name} is {shorten(value)}; it must be a whole number from {minimum} on"
            )
    return options


def map_hash(fixed: Mapping[str, Any], task_name: str) -> str:
    """The identity of a map, in hex, as `pilotage.worlds.task.state_hash` is a state's."""
    text = json.dumps(fixed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{task_name} map:{text}".encode()).hexdigest()[:32]


def privileged_of_state(task: Task[Any], state: Any) -> Privileged:
    """State, facts and a shortest plan; the plan is empty where the goal cannot be reached."""
    solution = task.solve(state)
    return Privileged(
        state=task.to_json(state),
        facts=task.facts(state),
        plan=() if solution is None else solution.plan,
    )


def picture(task: Task[Any], state: Any, cell_px: int, fog: int = 0) -> bytes:
    """PNG bytes; with fog, only cells within `fog` king's moves of the player are drawn."""
    if not fog:
        return drawing.render_png(task, state, cell_px=cell_px)
    pixels = task.draw(state, cell_px).copy()
    hidden = np.kron(
        ~in_sight(task.level_of(state), task.trace(state, ())[0], fog), np.ones((cell_px, cell_px))
    )
    pixels[hidden.astype(bool)] = FOG_RGB
    return drawing.encode_png(pixels)


def in_sight(level: int, player: Cell, fog: int) -> np.ndarray:
    """bool [level, level]: the cells within `fog` king's moves of the player."""
    rows, columns = np.indices((level, level))
    return np.maximum(abs(rows - player[0]), abs(columns - player[1])) <= fog
