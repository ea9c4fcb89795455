"""The records that flow between layers. Plain data: no torch, no I/O.

An episode is judged, a turn is taught: a world gives observations, a view shows a part of one, a rollout answers it,
and the three together are a turn. A task that is answered once is an episode of one turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Privileged:
    """What the simulator knows of a moment and the student must not: what teachers are made of."""

    state: Mapping[str, Any] | None = None
    """The canonical symbolic state in its JSON form; None where there is none."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Ordered perception fields -> their exact text, e.g. `{"Size": "4", "Player": "(2,0)"}`."""
    plan: tuple[str, ...] = ()
    """The expert's continuation from here, in the world's action names; empty where no expert is asked."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What there is at one turn. It never says how it is to be shown: that is a view's business."""

    text: str = ""
    """What the world says: a question, a mission, an event."""
    images: tuple[bytes, ...] = ()
    """PNG bytes of each picture."""
    privileged: Privileged | None = None

    def public(self) -> Observation:
        """The same without its privileged part."""
        return self if self.privileged is None else replace(self, privileged=None)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One episode that may be begun: a level, a question, a mission and its seed."""

    id: str
    """Stable across builds, e.g. `task-level-hash`: the hash is that of the canonical state."""
    world: str
    """Name of the world, as `pilotage.worlds.get_world` knows it."""
    split: Split
    axes: Mapping[str, int | str] = field(default_factory=dict)
    """What results can be broken down by: `level`, `difficulty`, …; `task` where that is not the world's name."""
    start: Observation
    """What there is before the first turn."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What else the world needs to begin and to show the episode, e.g. a question's options. Nothing privileged."""
    hidden: Mapping[str, Any] = field(default_factory=dict)
    """What only the judge and privileged views may show besides, e.g. a question's answer."""

    def public(self) -> Example:
        """The same without anything privileged."""
        return replace(self, start=self.start.public(), hidden={})

    @property
    def task(self) -> str:
        """What results are grouped by: the axis `task`, or the world."""
        return str(self.axes.get("task", self.world))

    @property
    def level(self) -> int:
        """The axis `level`; 0 where there is none."""
        return int(self.axes.get("level", 0))

    @property
    def difficulty(self) -> str:
        """The axis `difficulty`: `easy`, `medium` or `hard` by the world's own rule, `""` where it has none."""
        return str(self.axes.get("difficulty", ""))

    @property
    def image(self) -> bytes:
        """The first picture of the start; `b""` without one."""
        return self.start.images[0] if self.start.images else b""

    @property
    def state(self) -> Mapping[str, Any]:
        """The symbolic state at the start in its JSON form; empty where there is none or it is withheld."""
        return {} if self.start.privileged is None else self.start.privileged.state or {}

    @property
    def facts(self) -> Mapping[str, str]:
        """The perception fields at the start."""
        return {} if self.start.privileged is None else self.start.privileged.facts

    @property
    def plan(self) -> tuple[str, ...]:
        """The expert's plan from the start."""
        return () if self.start.privileged is None else self.start.privileged.plan

    def with_plan(self, plan: tuple[str, ...]) -> Example:
        """The same, told another plan from the start."""
        privileged = self.start.privileged or Privileged()
        return replace(self, start=replace(self.start, privileged=replace(privileged, plan=plan)))

    def with_images(self, images: tuple[bytes, ...]) -> Example:
        """The same with other pictures at the start."""
        return replace(self, start=replace(self.start, images=images))

    @property
    def optimal_length(self) -> int:
        """Actions of the expert's plan."""
        return len(self.plan)


@dataclass(frozen=True, kw_only=True)
class View:
    """What the model or a teacher is shown of an example."""

    name: str
    """`student`, `symbolic`, `teacher`, `teacher_no_plan`, `perception`, …"""
    messages: Sequence[Mapping[str, Any]]
    """Chat messages in the transformers form; an image is `{"type": "image"}` inside a content list."""
    images: tuple[bytes, ...] = ()
    """PNG bytes of each picture, in the order of the `{"type": "image"}` parts; none for a text-only view."""
    prefill: str = ""
    """Text that already begins the assistant's turn."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Token ids that a policy produced for a view."""

    example_id: str
    token_ids: tuple[int, ...]
    """Response ids only, the end-of-turn id included when the policy emitted it."""
    text: str
    """`token_ids` decoded without special tokens."""
    finished: bool
    """The policy ended its turn itself; False means cut at the length limit."""
    logprobs: tuple[float, ...] = ()
    """log-probability, in nats, of each id under the policy at sampling temperature; empty when not recorded."""
    origin: str = "student"
    """Who produced it: `student`, `dataset`, `teacher`, `replay`."""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One thing asked of the model and its answer: a complete snapshot, of which nothing has to be reconstructed."""

    role: str
    """Which part the model played: `plan`, `describe`, `act`, …"""
    seen: Observation
    """What there was; its privileged part is that of this very turn."""
    view: View
    """What the model was shown of it."""
    rollout: Rollout | None
    """None, or what there is of an answer, where the asking failed."""
    reward: float | None = None
    """What the world gave for the answer; None where it gives nothing by turns."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else is kept of it: `seconds`, the agent's own notes, …"""

    @property
    def text(self) -> str:
        """The whole answer, the view's prefill included."""
        return self.view.prefill + ("" if self.rollout is None else self.rollout.text)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """All that a view can be made of: the one argument of every view maker."""

    example: Example
    role: str
    seen: Observation
    past: tuple[Turn, ...] = ()
    """The turns before this one, the oldest first."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the agent tells the view, e.g. how many pictures of the past to show."""

    def public(self) -> Moment:
        """The same without anything privileged, in the past either."""
        example = self.example.public()
        return replace(
            self,
            example=example,
            seen=example.start if self.seen is self.example.start else self.seen.public(),
            past=tuple(replace(turn, seen=turn.seen.public()) for turn in self.past),
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the world says of an episode. A bad answer is data, never an exception."""

    success: bool
    reason: str
    """One of the world's reasons, e.g. `success`, `no_answer_block`, `hole`."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """The world's measures by name; one that does not apply is absent. Flags are True or False."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """What was read out of the answer by field: the recited state, the facts of a description, the answer in a box."""
    right: Mapping[str, bool] = field(default_factory=dict)
    """Field -> whether what was read is the truth; a field that was not found is wrong."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What else the judge found, in words, e.g. what a right answer was recognised by."""

    @property
    def all_right(self) -> bool:
        """Every field is right."""
        return all(self.right.values())

    def is_(self, measure: str) -> bool:
        """Whether a flag is set; False where it does not apply."""
        return bool(self.measures.get(measure, False))

    def as_dict(self) -> dict[str, Any]:
        """Success, reason, measures and notes in one flat object, as rows hold them."""
        return {"success": self.success, "reason": self.reason, **self.measures, **self.notes}


End = Literal["done", "max_turns", "max_tokens", "timeout", "world_failed", "engine_failed"]
WORLD_ENDS: frozenset[End] = frozenset({"timeout", "world_failed"})
"""Ends that are the world's fault: asked again and counted apart, never a failure of the model."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """An example's turns, its end and what the world says of it."""

    example: Example
    sample: int = 0
    """Which of the episodes from this example."""
    turns: tuple[Turn, ...]
    outcome: Outcome | None
    """None where the episode failed before it could be judged: see `error`."""
    end: End = "done"
    """`max_turns` and `max_tokens` are the model's, and judged; the last three have an error."""
    error: str | None = None
    """One line."""
    error_kind: str | None = None
    """Of an engine: `transport`, `engine`, `refused`, …; of a world: `world` or `timeout`."""
    num_tries: int = 1
    """How often it was begun: more than once where the world broke it off."""

    def moment(self, number: int) -> Moment:
        """What there was at one of its turns, for views of it."""
        turn = self.turns[number]
        return Moment(
            example=self.example,
            role=turn.role,
            seen=turn.seen,
            past=self.turns[:number],
            notes=turn.notes,
        )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that a world gives an episode, as tables and pages need to know it."""

    name: str
    title: str
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    """`""` for a share."""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    is_flag: bool = True
    """True or False of each episode, so that its mean is a rate; else a number."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way to measure a model in a world: which view each role is shown."""

    name: str
    """As the command line, rows and tables have it: `image`, `text`, `corrected`, …"""
    title: str
    views: Mapping[str, str]
    """Role -> name of the view. The first role is the one that the episode begins with."""

    @property
    def role(self) -> str:
        """The role that an episode begins with."""
        return next(iter(self.views))
