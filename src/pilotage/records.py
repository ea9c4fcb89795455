"""The records that flow between layers. Plain data: no torch, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge says of one answer. A bad answer is data, never an exception."""

    parsed: bool
    """An answer block was found and every token in it is an action of the task."""
    legal: bool
    """Parsed, and no executed action was illegal (hole, wall, edge, object, misplaced PICK or DROP)."""
    success: bool
    """Parsed, and executing the plan reached the task's goal before any failure."""
    optimal: bool
    """Success with as few executed actions as any plan."""
    num_executed: int
    """Actions executed until success, failure or the end of the plan; the failing one is counted."""
    reason: str
    """One of the task-independent reasons in `pilotage.worlds.judge.REASONS`."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "parsed": self.parsed,
            "legal": self.legal,
            "success": self.success,
            "optimal": self.optimal,
            "num_executed": self.num_executed,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class Example:
    """One planning instance with everything a view may show of it."""

    id: str
    """`task-level-hash`, stable across builds: the hash is that of the canonical state."""
    task: str
    level: int
    split: Split
    difficulty: str
    """`easy`, `medium` or `hard`, by the task's own rule."""
    state: Mapping[str, Any]
    """The canonical symbolic state in its JSON form (see the task's docstring)."""
    facts: Mapping[str, str]
    """Ordered perception fields -> their exact text, e.g. `{"Size": "4", "Player": "(2,0)"}`."""
    plan: tuple[str, ...]
    """The reference plan: one shortest plan, in the task's action names."""
    optimal_length: int
    image: bytes
    """PNG bytes of the picture; `b""` when the example was made without a picture."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What one reader is shown of an example."""

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
class Question:
    """A question about one picture, with its answer: what visual question answering learns from and is measured by.

    `id`, `task`, `level`, `split` and `image` mean what they mean in `Example`.
    """

    id: str
    task: str
    """Name of the task that the picture is of; `vqa` for questions from elsewhere."""
    level: int
    """0 for questions from elsewhere."""
    split: Split
    kind: str
    """What is asked: of our own tasks one of `pilotage.worlds.asked.KINDS`, else `vqa`."""
    question: str
    options: tuple[str, ...] = ()
    """Texts to choose from, lettered A, B, …; empty for a free answer."""
    answer: str
    """The reference answer; with options, the letter of the right one."""
    accepted: tuple[str, ...] = ()
    """What is right besides `answer`: other shortest first moves, other words for the same."""
    solution: str = ""
    """A worked solution where there is one; `""` where not."""
    state: Mapping[str, Any] | None = None
    """The task's symbolic state in its JSON form, where there is one."""
    image: bytes
    """PNG bytes of the picture; `b""` when the question was made without one."""


Prompted = Example | Question
"""What a model can be asked about: both have an id, a task, a level, a split and a picture."""


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What the grader says of one answer to a question. A bad answer is data, never an exception."""

    parsed: bool
    """The response has a box, and something is in it."""
    success: bool
    """The box holds the right answer."""
    reason: str
    """One of `pilotage.worlds.questions.grading.GRADE_REASONS`."""
    matched: str = ""
    """What the right answer was recognised by: `text`, `letter`, `number`, `tuple` or `math`; `""` for a wrong one."""
    read: str = ""
    """What was read in the box, cut after `pilotage.worlds.questions.grading.MAX_READ` characters."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "parsed": self.parsed,
            "success": self.success,
            "reason": self.reason,
            "matched": self.matched,
            "read": self.read,
        }
