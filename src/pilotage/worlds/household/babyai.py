"""BabyAI's missions as episodes of many turns: see seven cells by seven, be told a mission, act (extra `household`).

An example's `data` shapes its episode; the seed, from which the whole mission follows, is hidden:

    family     the mission family
    layout     hash of the rooms and things at the start, which its split was made of
    tile_px    pixels a cell of the pictures; 32 makes them 224 x 224
    steps      actions that an episode may take; 0, the default, is three times the expert's and eight more
    longest    actions of one answer of `decode` that are right at most; 16 by default

Two forms of one session. An episode that begins with the role `act` is acted in directly: each answer's first action
is made. One that begins with `schedule` is played by an agent that asks several roles: it makes their actions one by
one, and reports every answer (`report`), which the session judges against the state in which it was given. Any other
role is asked once and judged.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from pilotage.errors import PilotageError, require
from pilotage.records import Condition, Example, Measure, Observation, Outcome, Privileged
from pilotage.worlds.agents import AgentSession, Ask, direct
from pilotage.worlds.household import sight
from pilotage.worlds.household.agents import AGENTS, TEMPERATURES, capabilities
from pilotage.worlds.household.expert import Expert
from pilotage.worlds.household.grammar import ACT, CAPABILITIES, ROLES, read_moves
from pilotage.worlds.household.labels import LONGEST, usual_query, verdict_on
from pilotage.worlds.household.missions import ACTIONS, goals_met, layout_hash, make_mission
from pilotage.worlds.household.observing import observation_of, privileged_of, view_of
from pilotage.worlds.household.reports import read_report

OPTIONS: Mapping[str, tuple[int, int, int]] = {
    "tile_px": (32, sight.MIN_TILE_PX, sight.MAX_TILE_PX),
    "steps": (0, 0, 10_000),
    "longest": (LONGEST, 1, 64),
}
"""Option -> (its default, the least and the most that it may be)."""
CALLS_PER_STEP = 4
"""Answers that an episode may take for each of its actions, before it is over."""
SPARE = 8


def _number(name: str, title: str, better: Any = "lower", unit: str = "actions") -> Measure:
    return Measure(name=name, title=title, better=better, unit=unit, bounds=None, is_flag=False)


MEASURES = (
    Measure(name="parsed", title="parsed"),
    Measure(name="optimal", title="as few actions as the expert"),
    Measure(name="lost", title="no expert knew a way on", better="lower"),
    Measure(name="goals_met", title="goal conditions met", is_flag=False),
    _number("num_steps", "actions"),
    _number("num_illegal", "illegal actions"),
    _number("num_ineffective", "ineffective moves"),
    _number("num_turns", "answers", unit="answers"),
    _number("num_malformed", "malformed answers", unit="answers"),
    _number("num_wrong", "capability errors", unit="answers"),
    *(_number(f"num_wrong_{role}", f"errors of {role}", unit="answers") for role in ROLES),
)
"""`goals_met`: share of the mission's parts. `num_illegal`: picked up, put down or toggled what cannot be.
`num_ineffective`: steps ahead that led nowhere. `num_malformed`: answers that could not be read. `num_wrong`: answers
of roles that are not the expert's, malformed ones among them; `num_wrong_<role>`: those of one role, where it was
asked. `lost`: from a state of the episode the expert knew no way on."""


def _condition(name: str, title: str, view: str, roles: tuple[str, ...] = (ACT,)) -> Condition:
    return Condition(name=name, title=title, views=dict.fromkeys(roles, view))


def household_agent(session: AgentSession, role: str) -> Generator[Ask, str, None]:
    """`direct` for `act` and for roles that are asked once; the scheduler with its capabilities for `schedule`."""
    return (capabilities if role == ROLES[0] else direct)(session, role)


class BabyAI:
    name, title = "babyai", "BabyAI"
    roles = (ACT, *ROLES)
    reasons = ("success", "failed", "not_reached", "misread")
    measures = MEASURES
    conditions = (
        _condition("image", "from the picture", "student"),
        _condition("text", "from words", "symbolic"),
        _condition("teacher", "teacher: words and plan", "teacher"),
        _condition("capabilities", "scheduler and capabilities, from the picture", "student", ROLES),
        _condition("capabilities_text", "scheduler and capabilities, from words", "symbolic", ROLES),
        _condition("capabilities_released", "as released: three roles see the picture", "released", ROLES),
        _condition(
            "capabilities_teacher", "scheduler and capabilities, told their answers", "teacher", ROLES
        ),
        _condition("perception", "what is in the picture", "student", ("describe",)),
    )
    usual = ("image", "text")
    answer_form = "block"
    actions = ACTIONS
    agents = AGENTS
    temperatures = TEMPERATURES
    max_turns = 4096
    """More than any episode's own limits allow."""
    needs = ("minigrid", "gymnasium")
    """Libraries of the extra."""
    agent = staticmethod(household_agent)

    def check(self, examples: list[Example]) -> None:
        """Raises PilotageError where the simulator is not installed."""
        require(*self.needs)

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> MissionSession:
        """Raises PilotageError for an example of another world, a damaged one, or one of another Minigrid."""
        return MissionSession(example, role or ACT)

    def agent_info(self, example: Example) -> Mapping[str, Any]:
        return {"actions": self.actions}

    def expert(self, session: Any) -> tuple[str, ...] | None:
        """The bot's actions from where the session is, whatever led there; None where it is over or knows no way."""
        return session.plan() or None


class MissionSession:
    """One episode. `env`, `over` and `plan` are for experts and studies."""

    def __init__(self, example: Example, role: str) -> None:
        if example.world != BabyAI.name:
            raise PilotageError(f"{example.id} is an example of {example.world}, not of {BabyAI.name}")
        if role not in BabyAI.roles:
            raise PilotageError(f"{BabyAI.name} has no role {role!r}; there is {', '.join(BabyAI.roles)}")
        if "grid" not in example.state or "seed" not in example.hidden:
            raise PilotageError(f"{example.id} has no state of {BabyAI.name} to begin with")
        options = checked_options(example.id, example.data)
        self.tile_px, self._longest = options["tile_px"], options["longest"]
        self.env = make_mission(str(example.data["family"]), int(example.hidden["seed"]))
        if layout_hash(self.env) != example.data["layout"]:
            raise PilotageError(
                f"{example.id} does not begin as it did: it was made with another version of minigrid"
            )
        self.reason = ""
        """Why the episode is over; `""` while it is not."""
        self._role, self._start, self._now = role, example.start, example.start
        self._optimal_length = len(example.plan)
        self._budget = options["steps"] or 3 * self._optimal_length + SPARE
        self._expert: Expert | None = None
        self._view = view_of(self.env)
        self._feedback: list[str] = []
        """What each action since the last look led to."""
        self._goals = goals_met(self.env)
        self._counts = dict.fromkeys(("steps", "illegal", "ineffective", "turns", "malformed"), 0)
        self._wrong: dict[str, int] = {}
        self._lost = False

    @property
    def over(self) -> bool:
        return bool(self.reason)

    def observe(self) -> Observation | None:
        if self.over:
            return None
        if self._now is None:
            self._now = self._look(privileged=self.privileged())
        return self._now

    def at_end(self) -> Observation | None:
        return self._look()

    def privileged(self) -> Privileged:
        """State, words and the expert's plan from here."""
        coming = self._knowing().coming()
        self._lost = self._lost or not coming
        return privileged_of(self.env, self._view, coming, longest=self._longest)

    def plan(self) -> tuple[str, ...]:
        """The expert's actions from here; empty where the episode is over or no way on is known."""
        return () if self.over else tuple(step.action for step in self._knowing().coming())

    def act(self, text: str) -> float | None:
        """A report of a role's answer, or an answer with actions, of which the first is made.

        1.0 for success, 0.0 for other ends, None where it goes on.
        """
        if self.over:
            return None
        report = read_report(text) if self._role == ROLES[0] else None
        if report is not None:
            self._judge(report.role, report.query, report.answer)
        elif self._role in CAPABILITIES:
            self._judge(self._role, "", text)
            self.reason = "misread" if self._wrong[self._role] else "success"
        else:
            self._make(text)
        if not self.over and (
            self._counts["steps"] >= self._budget or self._counts["turns"] >= CALLS_PER_STEP * self._budget
        ):
            self.reason = "not_reached"
        return float(self.reason == "success") if self.over else None

    def outcome(self) -> Outcome:
        success = self.reason == "success"
        met, num = self._goals
        counts, plays = self._counts, self._role not in CAPABILITIES
        measures: dict[str, float] = {
            "parsed": counts["turns"] > 0 and not counts["malformed"],
            "num_turns": counts["turns"],
            "num_malformed": counts["malformed"],
        }
        if plays:
            measures |= {
                "optimal": success and counts["steps"] <= self._optimal_length,
                "lost": self._lost,
                "goals_met": 1.0 if success else met / num,
                **{f"num_{name}": counts[name] for name in ("steps", "illegal", "ineffective")},
            }
        if self._wrong:
            measures |= {
                "num_wrong": sum(self._wrong.values()),
                **{f"num_wrong_{role}": num for role, num in self._wrong.items()},
            }
        return Outcome(success=success, reason=self.reason or "not_reached", measures=measures)

    def close(self) -> None:
        pass

    def _judge(self, role: str, query: str, answer: str) -> None:
        state = (self.privileged() if self._now is None else self._now.privileged or self.privileged()).state
        assert state is not None
        verdict = verdict_on(role, answer, state, query or usual_query(role, state), tile_px=self.tile_px)
        self._counts["turns"] += 1
        self._counts["malformed"] += verdict == "malformed"
        self._wrong[role] = self._wrong.get(role, 0) + (verdict != "right")

    def _make(self, text: str) -> None:
        """Makes the first action of an answer; one that cannot be read is a wasted turn."""
        actions = read_moves(text).value
        reports = self._role == ROLES[0]
        if not reports or actions is None:
            self._counts["turns"] += 1
        if self._now is not None:
            self._feedback, self._now = [], None
        if actions is None:
            self._counts["malformed"] += 1
            self._feedback.append("an answer that could not be read")
            return
        action, expert = actions[0], self._knowing()
        before = _what_may_change(self.env, action)
        seen, reward, ended, _, _ = self.env.step(ACTIONS.index(action))
        self._view = sight.rows_of(seen["image"])
        has_changed = before != _what_may_change(self.env, action)
        self._feedback.append(action if has_changed else f"{action} (nothing changed)")
        self._counts["steps"] += 1
        if not has_changed:
            self._counts["ineffective" if action == "FORWARD" else "illegal"] += 1
        self._goals = max(self._goals, goals_met(self.env))
        if ended:
            self.reason = "success" if reward else "failed"
        else:
            expert.taken(action)

    def _knowing(self) -> Expert:
        """The expert, who goes along from the start: what was seen on the way is what it knows."""
        if self._expert is None:
            self._expert = Expert(self.env)
        return self._expert

    def _look(self, privileged: Privileged | None = None) -> Observation:
        return observation_of(
            self.env, self._view, tile_px=self.tile_px, log=self._feedback, privileged=privileged
        )


def checked_options(id_: str, data: Mapping[str, Any]) -> dict[str, int]:
    """The options of an example's `data` that are numbers. Raises PilotageError that names a bad one."""
    options = {}
    for name, (default, least, most) in OPTIONS.items():
        value = data.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise PilotageError(
                f"{id_}: {name} is {str(value)[:40]}; it must be a whole number from {least} to {most}"
            )
        options[name] = value
    return options


def _what_may_change(env: Any, action: str) -> Any:
    """What an action is for: equal before and after, it had no effect."""
    if action in ("LEFT", "RIGHT", "FORWARD"):
        return (*map(int, env.agent_pos), int(env.agent_dir))
    front = env.grid.get(*env.front_pos)
    return id(env.carrying), None if front is None else (id(front), front.encode())
