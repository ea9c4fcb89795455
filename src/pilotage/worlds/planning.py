"""What makes a planning task a world: its whole answer is one plan, so its episodes have one turn."""

from __future__ import annotations

from typing import Any

from pilotage.errors import PilotageError
from pilotage.records import Condition, Example, Measure, Outcome
from pilotage.worlds.capabilities import able
from pilotage.worlds.judge import MEASURES, REASONS
from pilotage.worlds.score import DESCRIBE, PLAN, READING_REASONS, score
from pilotage.worlds.task import Recites, Solves
from pilotage.worlds.world import OneAnswer
from pilotage.worlds.wrong_plans import wrong_plans

CONDITIONS = (
    Condition(name="image", title="from the picture", views={PLAN: "student"}),
    Condition(name="text", title="from words", views={PLAN: "symbolic"}),
    Condition(name="corrected", title="from the picture, its state told", views={PLAN: "student_with_state"}),
    Condition(name="perception", title="describing the picture", views={DESCRIBE: "perception"}),
    Condition(name="description", title="describing from words", views={DESCRIBE: "description"}),
    Condition(name="teacher", title="teacher: words and plan", views={PLAN: "teacher"}),
    Condition(name="teacher_no_plan", title="teacher: words", views={PLAN: "teacher_no_plan"}),
    Condition(
        name="teacher_with_picture", title="teacher: picture and plan", views={PLAN: "student_with_plan"}
    ),
)
"""`image` and `text` make the modality gap; `corrected` is the image with its state told: what planning alone would
reach; the teachers show what there is to be learnt from them."""
USUAL = ("image", "text", "perception")
"""What is measured when nothing else is asked for."""
_RECITED = {"student_with_state", "perception", "description"}
"""Views that tell a state, or ask for it, in the words of its recital."""
_UNRECITED = tuple(each for each in CONDITIONS if not _RECITED & set(each.views.values()))
_UNSOLVED = tuple(measure for measure in MEASURES if measure.name != "optimal")


class PlanningWorld:
    """Inherited by a planning world (`Plans`): what it has as a world, whatever its states are.

    Who recites nothing has no role `describe` and no conditions that need a recital; who solves nothing has no measure
    `optimal`.
    """

    answer_form = "block"

    @property
    def roles(self) -> tuple[str, ...]:
        return (PLAN, DESCRIBE) if able(self, Recites) else (PLAN,)

    @property
    def reasons(self) -> tuple[str, ...]:
        return (*REASONS, READING_REASONS[1]) if able(self, Recites) else REASONS

    @property
    def measures(self) -> tuple[Measure, ...]:
        return MEASURES if able(self, Solves) else _UNSOLVED

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return CONDITIONS if able(self, Recites) else _UNRECITED

    @property
    def usual(self) -> tuple[str, ...]:
        known = {condition.name for condition in self.conditions}
        return tuple(name for name in USUAL if name in known)

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> PlanSession:
        """An episode of one turn. Raises PilotageError for another world's example, BadStateError for a bad state."""
        return PlanSession(self, example, role or PLAN, strict)

    def wrong(self, example: Example, num: int, *, seed: int) -> tuple[Example, ...]:
        """The example told `num` plans of its plan's length that fail (see `wrong_plans`)."""
        task: Any = self
        state = task.parse_state(example.state)
        plans = wrong_plans(task, state, num, num_actions=len(example.plan), seed=seed)
        return tuple(example.with_plan(plan) for plan in plans)


class PlanSession(OneAnswer):
    """One question, one answer."""

    def __init__(self, task: Any, example: Example, role: str, strict: bool) -> None:
        if example.world != task.name:
            raise PilotageError(f"{example.id} is an example of {example.world}, not of {task.name}")
        if role not in task.roles:
            raise PilotageError(f"{task.name} has no role {role!r}; there are {', '.join(task.roles)}")
        if not example.state:
            raise PilotageError(f"{example.id} has no state of {task.name} to be judged on")
        super().__init__(example)
        self._task, self._role, self._strict = task, role, strict
        self._state = task.parse_state(example.state)

    def outcome(self) -> Outcome:
        return score(self._task, self._state, self._text or "", role=self._role, strict_edges=self._strict)
