"""BabyAI's bot as an expert that goes on from wherever the student has led it: plan, sub-goals, and what comes next.

The bot goes along with the student's own actions. What it would do from here is played on a copy, and kept as long as
the student does the same. Where it breaks (it asserts, gives up behind an opened box, or turns in circles), one that is
begun anew from this state is tried; where that breaks too, no expert knows a way on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pilotage.worlds.household.missions import ACTIONS

MAX_PLAN = 512
"""Actions after which a plan that has not arrived is none."""
MAX_CHANGES = 400
"""Changes of the bot's sub-goals in one replanning; above, it turns in circles. 30 is the most seen on the way."""
FREE_CELL = "free cell"


class GivesUp(Exception):
    """The bot knows no way on."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One action of the bot's continuation, and what it is good for."""

    action: str
    query: str
    """What a scheduler asks for here: `explore(red ball)`, `do(open blue door)`."""
    direction: str
    """Where the bot explores: `ahead`, `left`, `right`, `behind`; `""` where it does not."""
    goals: tuple[str, ...]
    """The bot's sub-goals, the present one first."""
    key: tuple[Any, ...]
    """Equal as long as the sub-goal is the same."""


class Expert:
    """Goes along with an environment's episode."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._bot: Any = None
        self._next: Any = None
        """What the bot would do here, a number of Minigrid's."""
        self._coming: tuple[Step, ...] | None = None
        """What it would do to the end; None where that is not known."""
        self._begin()

    def taken(self, action: str) -> None:
        """The student's action, the environment being where it led."""
        coming = self._coming
        self._coming = coming[1:] if coming and coming[0].action == action else None
        if self._bot is not None:
            self._replan(ACTIONS.index(action))

    def coming(self) -> tuple[Step, ...]:
        """The bot's continuation to success; empty where it knows none."""
        if self._coming is None:
            self._coming = self._play_on()
            if not self._coming:
                mask = None if self._bot is None else self._bot.vis_mask
                self._begin(mask)
                self._coming = self._play_on()
        return self._coming

    def _begin(self, seen: Any = None) -> None:
        """A new bot in this state; `seen` is the map of what was seen before."""
        from minigrid.utils.baby_ai_bot import BabyAIBot

        try:
            self._bot = BabyAIBot(self._env)
        except Exception:  # noqa: BLE001 - missions that the bot does not understand
            self._bot = None
            return
        if seen is not None:
            self._bot.vis_mask |= seen
        self._bot.stack = _Counted(self._bot.stack)
        self._replan(None)

    def _replan(self, taken: int | None) -> None:
        try:
            self._next = _replanned(self._bot, taken)
        except GivesUp:
            self._bot = None

    def _play_on(self) -> tuple[Step, ...]:
        if self._bot is None:
            return ()
        try:
            return tuple(_continued(_copied(self._bot), self._next))
        except Exception:  # noqa: BLE001 - a program of others, in states that it was not made for
            return ()


def _continued(bot: Any, action: int) -> list[Step]:
    """What the bot does to the end, in its own environment. Raises GivesUp, or whatever the bot raises."""
    steps: list[Step] = []
    top: Any = None
    while len(steps) < MAX_PLAN and action < len(
        ACTIONS
    ):  # a bot that has done all, as it thinks, says `done`
        # A sub-goal that is still there is called as before: to find what it leads to is a search each time.
        steps.append(_step(bot, action, steps[-1] if top is bot.stack[-1] else None))
        top = bot.stack[-1]
        _, reward, over, _, _ = bot.mission.step(action)
        if over and reward:
            return steps
        if over:
            break
        action = _replanned(bot, action)
    raise GivesUp


class _Counted(list):
    """A stack of sub-goals that gives up when one replanning changes it without end."""

    num_changes = 0

    def append(self, goal: Any) -> None:
        self._count()
        super().append(goal)

    def pop(self, *place: Any) -> Any:
        self._count()
        return super().pop(*place)

    def _count(self) -> None:
        self.num_changes += 1
        if self.num_changes > MAX_CHANGES:
            raise GivesUp


def _replanned(bot: Any, taken: int | None) -> int:
    """What the bot does next. Raises GivesUp where it fails, however it does."""
    bot.stack.num_changes = 0
    try:
        return int(bot.replan(None if taken is None else bot.mission.actions(taken)))
    except Exception as failure:
        raise GivesUp from failure


def _copied(bot: Any) -> Any:
    """A copy of the bot with its environment. What neither changes is shared: half of the copy's time."""
    env = bot.mission
    shared = (
        *(cell for cell in env.grid.grid if cell is not None and cell.type == "wall"),
        *(getattr(env, name, None) for name in ("_np_random", "action_space", "observation_space", "spec")),
    )
    return copy.deepcopy(bot, {id(each): each for each in shared if each is not None})


def _step(bot: Any, action: int, before: Step | None) -> Step:
    """The bot's next action. `before` is the last one where the sub-goal is still the same."""
    if before is not None:
        return replace(before, action=ACTIONS[action])
    top = bot.stack[-1]
    told, direction = _told(bot, top), ""
    if _is_exploring(top):
        query, direction = f"explore({_sought(bot)})", _bearing(bot, top.datum)
        key: tuple[Any, ...] = (query,)
    else:
        query = f"do({told})"
        key = (query, tuple(map(int, top.datum)) if _is_place(getattr(top, "datum", None)) else ())
    goals = (told, *(_told(bot, goal) for goal in reversed(bot.stack[:-1])))
    return Step(action=ACTIONS[action], query=query, direction=direction, goals=goals, key=key)


def _told(bot: Any, goal: Any) -> str:
    """A sub-goal in words. Of those below the top, what they will act upon may not be known yet."""
    kind = type(goal).__name__
    on_top = goal is bot.stack[-1]
    env = bot.mission
    if kind == "GoNextToSubgoal":
        if _is_exploring(goal):
            return f"explore for {_sought(bot)}"
        return f"{'go next to' if goal.reason == 'PutNext' else 'go to'} {_target(bot, goal, search=on_top)}"
    if kind == "DropSubgoal":
        return "put down" + (f" {_name(env.carrying)}" if on_top and env.carrying else "")
    verb = {"OpenSubgoal": "open", "CloseSubgoal": "close", "PickupSubgoal": "pick up"}.get(kind, "explore")
    front = env.grid.get(*env.front_pos) if on_top else None
    return verb + (f" {_name(front)}" if front is not None else "")


def _target(bot: Any, goal: Any, *, search: bool) -> str:
    """The name of what a sub-goal leads to. `search` finds which thing is meant by `a ball` or `a red object`."""
    datum = goal.datum
    if hasattr(datum, "obj_set"):
        if search and not (datum.color and datum.type) and (found := bot._find_obj_pos(datum)[0]) is not None:
            return _name(found)
        return " ".join(filter(None, (datum.color, datum.type or "object")))
    if _is_place(datum):
        there = bot.mission.grid.get(*datum)
        return FREE_CELL if there is None or there.can_overlap() else _name(there)
    return _name(datum)


def _sought(bot: Any) -> str:
    """What an exploration is for: the first sub-goal below that explores nothing."""
    below = (goal for goal in reversed(bot.stack) if not goal.is_exploratory())
    goal = next((goal for goal in below if type(goal).__name__ == "GoNextToSubgoal"), None)
    return "object" if goal is None else _target(bot, goal, search=False)


def _bearing(bot: Any, place: Iterable[int]) -> str:
    """Where a place lies, seen from the agent."""
    env = bot.mission
    away = [there - here for there, here in zip(place, env.agent_pos, strict=True)]
    forward = int(away[0] * env.dir_vec[0] + away[1] * env.dir_vec[1])
    right = int(away[0] * env.right_vec[0] + away[1] * env.right_vec[1])
    if abs(right) > abs(forward):
        return "right" if right > 0 else "left"
    return "ahead" if forward >= 0 else "behind"


def _is_exploring(goal: Any) -> bool:
    return type(goal).__name__ == "GoNextToSubgoal" and goal.reason == "Explore"


def _is_place(datum: Any) -> bool:
    return datum is not None and not hasattr(datum, "obj_set") and not hasattr(datum, "can_pickup")


def _name(thing: Any) -> str:
    return thing.type if thing.type == "wall" else f"{thing.color} {thing.type}"
