"""What the nano base is brought up on: planning from words, following a plan, reading pictures of other things."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pilotage.data.examples import split_of
from pilotage.data.sampling import DIFFICULTIES
from pilotage.errors import PilotageError
from pilotage.nano.pictures import sample_question
from pilotage.records import Example, Observation, Privileged, Split, View
from pilotage.views import PromptSet, make_view, reference_of_view
from pilotage.worlds import TASKS, Task
from pilotage.worlds.drawing import encode_png
from pilotage.worlds.task import reference_response, state_hash

PROMPTS: PromptSet = "brief"

VOCABULARY_VIEWS = ("student", "symbolic", "teacher", "teacher_no_plan", "perception")
"""Views whose words make the vocabulary. Fixed: another view would give the shipped weights' tokens other ids."""

HARDEST = DIFFICULTIES[-1]
MAX_DRAWS = 10_000
"""Every split has a tenth of the states or more: so many draws without one of them are a bug."""

TEXT_VIEWS = ("symbolic", "teacher", "teacher_no_plan")
TEXT_VIEW_SHARES = (0.5, 0.3, 0.2)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A view and the answer that the base should give to it."""

    view: View
    answer: str
    cells: tuple[tuple[str, ...], ...] = ()
    """For pictures: words that are true of each cell, row-major."""


def planning_lesson(task: Task[Any], level: int, rng: np.random.Generator, split: Split = "train") -> Lesson:
    """A random state of a split in words, with or without a plan to follow.

    The plan to follow is any shortest plan, not the one that the model would choose, so that it must be read.
    """
    return _planning_lesson(task, _draw(task, level, rng, split), rng)


def hard_planning_lesson(
    task: Task[Any], level: int, rng: np.random.Generator, split: Split = "train"
) -> Lesson:
    """The same on a state of the highest difficulty: long ways round are rare among random states."""
    for _ in range(MAX_DRAWS):
        state = _draw(task, level, rng, split)
        solution = task.solve(state)
        assert solution is not None, "generators only give solvable states"
        if task.difficulty(state, len(solution.plan)) == HARDEST:
            return _planning_lesson(task, state, rng)
    raise PilotageError(f"{task.name}: none of {MAX_DRAWS} states of level {level} is {HARDEST}")


def _planning_lesson(task: Task[Any], state: Any, rng: np.random.Generator) -> Lesson:
    view_name = str(rng.choice(TEXT_VIEWS, p=TEXT_VIEW_SHARES))
    solution = task.solve(state, rng=rng if view_name == "teacher" else None)
    assert solution is not None, "generators only give solvable states"
    view = make_view(view_name, _example(task, state, solution.plan), PROMPTS)
    return Lesson(view=view, answer=reference_response(task, state, solution.plan))


def description_lesson(
    task: Task[Any], level: int, rng: np.random.Generator, split: Split = "train"
) -> Lesson:
    """A random state in words, to be described part by part: what follows from a state needs no picture."""
    state = _draw(task, level, rng, split)
    example = _example(task, state, ())
    return Lesson(
        view=make_view("description", example, PROMPTS), answer=reference_of_view(example, "description")
    )


def derivation_lesson(
    task: Task[Any], level: int, rng: np.random.Generator, split: Split = "train"
) -> Lesson:
    """The perception question without a picture, its parts that name the state already written: the rest follows.

    Who describes a picture reads the state off it once, and must work from its own words after that.
    """
    state = _draw(task, level, rng, split)
    example = _example(task, state, ())
    shown = make_view("perception", example, PROMPTS).messages[0]["content"]
    lines = reference_of_view(example, "perception").splitlines(keepends=True)
    num_read = len(task.recital(state))
    view = View(
        name="derivation",
        messages=[{"role": "user", "content": shown[0]["text"]}],
        prefill="".join(lines[:num_read]),
    )
    return Lesson(view=view, answer="".join(lines[num_read:]))


def picture_lesson(rng: np.random.Generator, levels: tuple[int, ...]) -> Lesson:
    """A picture of no task, with a question about what stands where."""
    asked = sample_question(rng, levels)
    content = [{"type": "text", "text": asked.question}, {"type": "image"}]
    view = View(
        name="other_picture",
        messages=[{"role": "user", "content": content}],
        images=(encode_png(asked.pixels),),
    )
    return Lesson(view=view, answer=asked.answer, cells=asked.cells)


def vocabulary_texts(seed: int, num_each: int = 400) -> Iterator[str]:
    """Texts whose words become the nano tokenizer's tokens: every prompt, answer and question the base will meet."""
    rng = np.random.default_rng(seed)
    for task in TASKS:
        for level in task.levels:
            for _ in range(num_each // len(task.levels)):
                state = task.generate(level, rng)
                solution = task.solve(state)
                assert solution is not None, "generators only give solvable states"
                example = _example(task, state, solution.plan)
                for name in VOCABULARY_VIEWS:
                    for message in make_view(name, example, PROMPTS).messages:
                        content = message["content"]
                        yield content if isinstance(content, str) else content[0]["text"]
                    yield reference_of_view(example, name)
        for name in VOCABULARY_VIEWS:
            state = task.generate(task.levels[0], rng)
            solution = task.solve(state)
            assert solution is not None, "generators only give solvable states"
            for message in make_view(name, _example(task, state, solution.plan), "full").messages:
                content = message["content"]
                yield content if isinstance(content, str) else content[0]["text"]
    for _ in range(num_each * 4):
        asked = sample_question(rng)
        yield asked.question
        yield asked.answer


def _draw(task: Task[Any], level: int, rng: np.random.Generator, split: Split) -> Any:
    """A random state of the split. The base, too, must not have met in words what it will be measured on."""
    for _ in range(MAX_DRAWS):
        state = task.generate(level, rng)
        if split_of(state_hash(task, state)) == split:
            return state
    raise PilotageError(
        f"{task.name}: none of {MAX_DRAWS} states of level {level} belongs to the split {split}"
    )


def _example(task: Task[Any], state: Any, plan: tuple[str, ...]) -> Example:
    level = task.level_of(state)
    return Example(
        id=f"{task.name}-{level}-lesson",
        world=task.name,
        split="train",
        axes={"level": level, "difficulty": task.difficulty(state, len(plan))},
        start=Observation(
            images=(b"no picture is needed",),
            privileged=Privileged(state=task.to_json(state), facts=task.facts(state), plan=plan),
        ),
    )
