"""Who sees what: the student sees the rules and the picture, the teacher what it is given, nobody more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from string import Template
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.examples import make_example
from pilotage.errors import PilotageError
from pilotage.records import Example, View
from pilotage.views import PROMPT_SETS, reference_of_view
from pilotage.worlds import TASKS, Task
from pilotage.worlds.grids.views import VIEWS, numbered, prompt_template, task_content
from pilotage.worlds.judge import judge
from pilotage.worlds.task import reference_response, state_text, worked_state

every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
every_set = pytest.mark.parametrize("prompts", PROMPT_SETS)
seeds = st.integers(0, 2**32 - 1)
PRIVILEGED = {"state", "plan"}
FILES = (
    "student",
    "symbolic",
    "perception",
    "description",
    "teacher_system",
    "teacher_user",
    "teacher_user_no_plan",
    "student_with_plan",
)


def example_of(task: Task[Any], seed: int, level: int | None = None) -> Example:
    rng = np.random.default_rng(seed)
    return make_example(task, task.generate(level or int(rng.choice(task.levels)), rng), "test")


def texts(view: View) -> str:
    """All text of a view, whoever's turn it is in."""
    parts = []
    for message in view.messages:
        content = message["content"]
        parts += (
            [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
        )
    return "\n".join([*parts, view.prefill])


def placeholders(template: Template) -> set[str]:
    return set(template.get_identifiers())


def images(view: View) -> Iterator[Any]:
    for message in view.messages:
        if not isinstance(message["content"], str):
            yield from (part for part in message["content"] if part["type"] == "image")


@every_task
@every_set
@given(seed=seeds, other=seeds)
@settings(max_examples=25)
def test_no_state_changes_a_word_of_what_the_student_reads(
    task: Task[Any], prompts: Any, seed: int, other: int
) -> None:
    one, two = example_of(task, seed), example_of(task, other)
    for view in (VIEWS["student"], VIEWS["perception"]):
        first, second = view(one, prompts), view(two, prompts)
        assert first.messages == second.messages
        assert first.prefill == second.prefill == ""
        assert first.images == (one.image,) and second.images == (two.image,)


@every_task
@every_set
def test_the_student_s_text_is_the_prompt_file_filled_with_the_task_s_own_content(
    task: Task[Any], prompts: Any
) -> None:
    for name in ("student", "perception"):
        filled = prompt_template("pilotage.worlds.grids", prompts, name).substitute(
            task_content(task.name, prompts)
        )
        assert texts(VIEWS[name](example_of(task, 3), prompts)).strip() == filled.strip()
        assert task.rules[prompts] in filled or prompts == "brief"


@every_set
@pytest.mark.parametrize("name", FILES)
def test_only_views_that_may_show_it_have_a_place_for_state_or_plan(prompts: Any, name: str) -> None:
    allowed = {
        "student": set(),
        "perception": set(),
        "teacher_system": set(),
        "symbolic": {"state"},
        "description": {"state"},
        "teacher_user": {"state", "plan"},
        "teacher_user_no_plan": {"state"},
        "student_with_plan": {"plan"},
    }
    assert placeholders(prompt_template("pilotage.worlds.grids", prompts, name)) & PRIVILEGED == allowed[name]


@every_task
@every_set
@given(seed=seeds)
@settings(max_examples=15)
def test_the_corrected_view_is_the_student_s_with_the_true_state_at_the_head_of_the_answer(
    task: Task[Any], prompts: Any, seed: int
) -> None:
    example = example_of(task, seed)
    seen, corrected = VIEWS["student"](example, prompts), VIEWS["student_with_state"](example, prompts)
    assert (corrected.messages, corrected.images) == (seen.messages, seen.images)
    recital = state_text(task.recital(task.parse_state(example.state)))
    assert corrected.prefill == recital + "\n"
    whole = reference_of_view(example, corrected.name)
    assert whole.startswith(corrected.prefill) and whole == reference_of_view(example, seen.name)


@every_task
@every_set
def test_nothing_about_the_example_is_in_the_student_s_text(task: Task[Any], prompts: Any) -> None:
    """Level 7 states share no cell lists with the level of the worked example, so a leak would show."""
    for seed in range(10):
        example = example_of(task, seed, level=7)
        for view in (VIEWS["student"], VIEWS["perception"]):
            text = texts(view(example, prompts))
            assert example.id not in text and example.difficulty not in text
            assert "Size: 7" not in text
            for field, fact in example.facts.items():
                assert f"{field}: {fact}." not in text or fact in texts_of_worked_example(task), (field, fact)


def texts_of_worked_example(task: Task[Any]) -> str:
    return numbered(task.facts(worked_state(task)))


@every_task
@every_set
@given(seed=seeds)
@settings(max_examples=15)
def test_the_teacher_without_a_plan_sees_the_same_whatever_the_plan(
    task: Task[Any], prompts: Any, seed: int
) -> None:
    example = example_of(task, seed)
    other_plan = example.with_plan(("L",) * 9)
    for view in (VIEWS["symbolic"], VIEWS["teacher_no_plan"]):
        assert view(example, prompts) == view(other_plan, prompts)
    assert VIEWS["teacher"](example, prompts) != VIEWS["teacher"](other_plan, prompts)
    assert "L L L L L L L L L" in texts(VIEWS["teacher"](other_plan, prompts))


@every_task
@every_set
@given(seed=seeds)
@settings(max_examples=15)
def test_text_views_hold_the_recital_and_no_picture(task: Task[Any], prompts: Any, seed: int) -> None:
    example = example_of(task, seed)
    recital = state_text(task.recital(task.parse_state(example.state)))
    for view in (VIEWS["symbolic"], VIEWS["teacher"], VIEWS["teacher_no_plan"]):
        shown = view(example, prompts)
        assert recital in texts(shown)
        assert not shown.images and not list(images(shown))
    assert f"{' '.join(example.plan)}" in texts(VIEWS["teacher"](example, prompts))


@every_task
@every_set
def test_the_view_with_a_plan_shows_the_student_s_words_and_the_plan_alone(
    task: Task[Any], prompts: Any
) -> None:
    example, plan = example_of(task, 3), ("MARKED",)
    seen, with_plan = (texts(VIEWS[name](example, prompts)) for name in ("student", "student_with_plan"))
    marked = texts(VIEWS["student_with_plan"](example.with_plan(plan), prompts))
    assert with_plan.replace(" ".join(example.plan), "MARKED") == marked or len(example.plan) < 2
    assert set(seen.split()) <= set(with_plan.split())


def test_the_picture_view_has_no_word() -> None:
    assert texts(VIEWS["picture"](example_of(TASKS[0], 3), "full")) == ""


@every_task
@every_set
@pytest.mark.parametrize("name", VIEWS)
def test_every_view_is_a_valid_chat(task: Task[Any], prompts: Any, name: str) -> None:
    example = example_of(task, 11)
    view = VIEWS[name](example, prompts)
    assert view.name == name
    roles = [message["role"] for message in view.messages]
    assert roles == (["system", "user"] if name.startswith("teacher") else ["user"])
    for message in view.messages:
        assert set(message) == {"role", "content"}
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            assert part["type"] in ("text", "image")
            if part["type"] == "text":
                assert part["text"].strip() and "$" not in part["text"]
                assert not re.search(r"<\|.*?\|>", part["text"]), "a special token in a prompt"
    assert len(list(images(view))) == (VIEWS[name].shows_picture)
    assert view.images == ((example.image,) if VIEWS[name].shows_picture else ())


@every_task
@every_set
def test_student_and_teacher_are_asked_for_the_same_form(task: Task[Any], prompts: Any) -> None:
    example = example_of(task, 1)
    for view in (VIEWS["student"], VIEWS["symbolic"], VIEWS["teacher"], VIEWS["teacher_no_plan"]):
        text = texts(view(example, prompts))
        assert "<answer>" in text
        assert task.rules[prompts] in text
        if prompts == "full":
            assert "Route:" in text and ", ".join(task.actions) in text
            assert judge(task, worked_state(task), re.findall(r"<answer>[A-Z ]+</answer>", text)[-1]).is_(
                "optimal"
            )


@every_task
def test_brief_prompts_are_a_line_or_two(task: Task[Any]) -> None:
    example = example_of(task, 1)
    for view in (VIEWS["student"], VIEWS["perception"]):
        text = texts(view(example, "brief"))
        assert len(text.splitlines()) <= 2 and len(text) < 160


@every_task
@given(seed=seeds)
@settings(max_examples=25)
def test_the_reference_answer_fits_its_view(task: Task[Any], seed: int) -> None:
    example = example_of(task, seed)
    state = task.parse_state(example.state)
    for name in VIEWS:
        answer = reference_of_view(example, name)
        if name in ("perception", "description"):
            lines = answer.splitlines()
            assert lines == [f"{i}. {n}: {t}." for i, (n, t) in enumerate(example.facts.items(), 1)]
        else:
            assert answer == reference_response(task, state, example.plan)
            assert judge(task, state, answer).is_("optimal")


@every_task
def test_perception_prompts_ask_for_every_fact_in_order(task: Task[Any]) -> None:
    example = example_of(task, 2)
    text = texts(VIEWS["perception"](example, "full"))
    asked = "\n".join(f"{i}. {name}" for i, name in enumerate(example.facts, start=1))
    assert asked in text
    counts = {"frozenlake": 4, "maze": 5, "minibehaviour": 7}
    assert len(example.facts) == counts.get(task.name, len(example.facts))


@every_task
def test_an_example_without_a_picture_is_an_error_for_picture_views_alone(task: Task[Any]) -> None:
    example = make_example(task, worked_state(task), "test", cell_px=None)
    for view in (VIEWS["student"], VIEWS["perception"]):
        with pytest.raises(PilotageError, match=f"{example.id} has no picture"):
            view(example, "brief")
    assert VIEWS["symbolic"](example, "brief").images == ()


def test_unknown_names_are_errors_that_name_the_known_ones() -> None:
    example = example_of(TASKS[0], 0)
    with pytest.raises(PilotageError, match="unknown prompt set 'long'; there are full, brief"):
        VIEWS["student"](example, "long")  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        PilotageError, match="view 'pilot' is not of the world .*; there are student, symbolic"
    ):
        reference_of_view(example, "pilot")
