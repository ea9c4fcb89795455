"""Whose fault a failed answer is: the eye's or the planner's.

The plan is judged twice: in the true state, and in the state that the answer recites before it plans.

fault        state read    plan in the true state    plan in the recited state
none         any           succeeds                  any; `lucky` where the state was misread
misread      wrong         fails                     succeeds
misplanned   right         fails                     (the same state)
both         wrong         fails                     fails, or the recital is no state that can be planned in
format       nothing recited, or no plan that can be parsed
error        the engine gave no answer

Where a wrong recital is no state (`no_state`: fields missing, walls that contradict each other) or one without
any way to the goal (`no_way`), only the reading is known to be at fault: the detail of `both` keeps these apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotage.errors import BadStateError, PilotageError
from pilotage.evaluate.bootstrap import Figures, Interval, bootstrap_mean
from pilotage.evaluate.roles import role_of
from pilotage.evaluate.samples import Row, example_means
from pilotage.records import Outcome
from pilotage.worlds.answers import parse_answer
from pilotage.worlds.capabilities import able
from pilotage.worlds.judge import MEASURES, judge_plan
from pilotage.worlds.registry import planning_world
from pilotage.worlds.score import DESCRIBE, score
from pilotage.worlds.task import Recites, Solves

FAULTS = ("none", "misread", "misplanned", "both", "format", "error")
LUCKY = "lucky"
UNREAD = "unread"
NO_STATE = "no_state"
NO_WAY = "no_way"
NOTHING_RECITED = "nothing_recited"
CUT_SHORT = "cut_short"


@dataclass(frozen=True, kw_only=True)
class Attribution(Figures):
    """What one answer failed by. Of an answer that succeeded: what it succeeded in spite of."""

    fault: str
    """One of `FAULTS`."""
    detail: str = ""
    """none: `lucky` after a misread state, `unread` without any recital. misplanned: the judge's reason. both: the
    judge's reason in the recited state, `no_way` or `no_state`. format: `nothing_recited`, `cut_short` at the token
    limit, or why the plan could not be parsed."""
    misread_fields: tuple[str, ...] = ()
    """Fields that were recited wrongly, in the task's order."""
    missing_fields: tuple[str, ...] = ()
    """Fields that were not recited although others were."""
    has_recited: bool = False
    """Whether the answer tells of the state at all; without it nothing is known of how its fields were read."""
    reason_as_read: str = ""
    """The judge's reason for the plan in the recited state; `""` where there is no such state or no plan."""

    @property
    def lucky(self) -> bool:
        return self.detail == LUCKY

    @property
    def unseen_fields(self) -> tuple[str, ...]:
        """Misread or missing."""
        return self.misread_fields + self.missing_fields


def attribute(row: Row) -> Attribution:
    """The fault of one row of a planning view. Needs `task`, `state` and `response`; never raises on any response.

    Raises PilotageError for a row of a view that asks for no plan, of a world that recites nothing, and for one without
    these keys.
    """
    for key in ("task", "state", "response"):
        if key not in row:
            raise PilotageError(f"an evaluation row has no {key!r}; it has {sorted(map(str, row))}")
    if role_of(row) == DESCRIBE:
        raise PilotageError(
            f"row {row.get('id')!r} is of the condition {row.get('condition')!r}, which asks for no plan"
        )
    if row.get("error"):
        return Attribution(fault="error")
    task = planning_world(row["task"], Recites)
    strict_edges = bool((row.get("settings") or {}).get("strict_edges", False))
    scored = _known_score(row)
    if scored is None:
        state = task.parse_state(row["state"])
        scored = score(task, state, row["response"], strict_edges=strict_edges)
    if scored.success and scored.all_right:
        return Attribution(fault="none", has_recited=True, reason_as_read="success")
    as_read = _judge_as_read(task, scored, row["response"], strict_edges)
    fault, detail = _fault(task, scored, as_read, was_cut=row.get("finished") is False)
    return Attribution(
        fault=fault,
        detail=detail,
        misread_fields=tuple(f for f, right in scored.right.items() if not right and f in scored.fields),
        missing_fields=tuple(f for f in scored.right if scored.fields and f not in scored.fields),
        has_recited=bool(scored.fields),
        reason_as_read="" if as_read is None else as_read.reason,
    )


def recited_state(task: Recites[Any], fields: Mapping[str, str]) -> Any | None:
    """The state that recited `fields` tell of, or None where they tell of none."""
    try:
        return task.parse_recital(fields)
    except BadStateError:
        return None


def _known_score(row: Row) -> Outcome | None:
    """The outcome that the row was written with, or None where it holds none that is well formed."""
    outcome, fields, right = (row.get(key) for key in ("outcome", "fields", "right"))
    if not (isinstance(outcome, dict) and isinstance(fields, dict) and isinstance(right, dict) and right):
        return None
    if not all(isinstance(text, str) for text in fields.values()):
        return None
    measures = {name: value for name, value in outcome.items() if name not in ("success", "reason")}
    if not isinstance(outcome.get("success"), bool) or not isinstance(outcome.get("reason"), str):
        return None
    if not {measure.name for measure in MEASURES} - {"optimal"} <= measures.keys():
        return None
    return Outcome(
        success=outcome["success"], reason=outcome["reason"], measures=measures, fields=fields, right=right
    )


def _judge_as_read(task: Recites[Any], scored: Outcome, response: str, strict_edges: bool) -> Outcome | None:
    """The outcome of the plan in the recited state; None without such a state or without a plan."""
    plan = parse_answer(response, task.actions).plan
    believed = None if plan is None else recited_state(task, scored.fields)
    if plan is None or believed is None:
        return None
    return judge_plan(task, believed, plan, strict_edges=strict_edges)


def _fault(task: Recites[Any], scored: Outcome, as_read: Outcome | None, *, was_cut: bool) -> tuple[str, str]:
    if scored.success:
        return "none", "" if scored.all_right else LUCKY if scored.fields else UNREAD
    if not scored.is_("parsed"):
        return "format", CUT_SHORT if was_cut else scored.reason
    if not scored.fields:
        return "format", NOTHING_RECITED
    if scored.all_right:
        return "misplanned", scored.reason
    if as_read is None:
        return "both", NO_STATE
    if as_read.success:
        return "misread", ""
    solving = able(task, Solves)
    is_hopeless = solving is not None and solving.solve(task.parse_recital(scored.fields)) is None
    return "both", NO_WAY if is_hopeless else as_read.reason


@dataclass(frozen=True, kw_only=True)
class FieldFaults(Figures):
    """How one field of the state was read."""

    unseen: Interval | None
    """Share, of the answers that recite a state, in which it was misread or missing; None where none recites."""
    num_in_faults: int
    """Answers with the fault `misread` or `both` in which it was one of the fields read wrongly."""


@dataclass(frozen=True, kw_only=True)
class FaultCounts(Figures):
    """The faults of a group of answers."""

    num_answers: int
    num_recited: int
    """Answers that recite a state; shares of fields are of these."""
    num_lucky: int
    """Successes in spite of a misread state; they are among `none`."""
    counts: Mapping[str, int]
    """Fault -> answers; every one of `FAULTS`, adding up to `num_answers`."""
    shares: Mapping[str, Interval]
    """Fault -> share of all answers, examples resampled."""
    details: Mapping[str, Mapping[str, int]]
    """Fault -> detail -> answers, without those that have no detail."""
    fields: Mapping[str, FieldFaults]
    """Field of the recited state -> how it was read."""


Attributed = tuple[Row, Attribution]


def attribute_all(rows: Iterable[Row]) -> list[Attributed]:
    """Every row beside its attribution: work worth doing once."""
    return [(row, attribute(row)) for row in rows]


def count_faults(attributed: Sequence[Attributed]) -> FaultCounts:
    """Counts and shares of at least one row, all of one task."""
    if not attributed:
        raise PilotageError("no answers whose faults could be counted")
    of_row = {id(row): attribution for row, attribution in attributed}
    rows = [row for row, _ in attributed]
    reciting = [row for row, attribution in attributed if attribution.has_recited]

    def share(holds: Any, among: Sequence[Row] = rows) -> Interval:
        return bootstrap_mean(example_means(among, lambda row: float(holds(of_row[id(row)]))))

    faults = Counter(attribution.fault for _, attribution in attributed)
    details: dict[str, Counter[str]] = {}
    unseen: Counter[str] = Counter()
    for _, attribution in attributed:
        if attribution.detail:
            details.setdefault(attribution.fault, Counter())[attribution.detail] += 1
        if attribution.fault in ("misread", "both"):
            unseen.update(attribution.unseen_fields)
    task = planning_world(rows[0]["task"], Recites)
    names = tuple(task.recital(task.parse_state(rows[0]["state"])))
    return FaultCounts(
        num_answers=len(rows),
        num_recited=len(reciting),
        num_lucky=sum(attribution.lucky for _, attribution in attributed),
        counts={fault: faults[fault] for fault in FAULTS},
        shares={fault: share(lambda a, fault=fault: a.fault == fault) for fault in FAULTS},
        details={fault: dict(sorted(of.items())) for fault, of in details.items()},
        fields={
            name: FieldFaults(
                unseen=share(lambda a, name=name: name in a.unseen_fields, reciting) if reciting else None,
                num_in_faults=unseen[name],
            )
            for name in names
        },
    )
