"""The prompt files: every prompt is one file under `prompts/<set>/`, filled with the task's own content.

Placeholders: `$rules`, `$title`, `$actions`, `$fields`, `$worked_example`, `$worked_perception` come from the
task alone; `$state` and `$plan` from the example, and only the files of readers that may see them hold these. In the
files of visual questions, `vqa_*.md`, `$question` is the question with its options and `$reference` what is
privileged.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from string import Template
from typing import Literal, get_args

from pilotage.errors import PilotageError
from pilotage.worlds import get_task
from pilotage.worlds.task import reference_response, worked_state

PromptSet = Literal["full", "brief"]
PROMPT_SETS: tuple[PromptSet, ...] = get_args(PromptSet)


@lru_cache(maxsize=64)
def prompt_template(prompts: PromptSet, name: str) -> Template:
    """The text of `prompts/<prompts>/<name>.md`."""
    if prompts not in PROMPT_SETS:
        raise PilotageError(f"unknown prompt set {prompts!r}; there are {', '.join(PROMPT_SETS)}")
    path = files("pilotage.views") / "prompts" / prompts / f"{name}.md"
    return Template(path.read_text(encoding="utf-8").rstrip("\n"))


@lru_cache(maxsize=64)
def task_content(task_name: str, prompts: PromptSet) -> dict[str, str]:
    """What a prompt may say of a task whatever the example: a function of the task and the prompt set."""
    task = get_task(task_name)
    state = worked_state(task)
    solution = task.solve(state)
    assert solution is not None, "generators only give solvable states"
    fields = task.facts(state)
    return {
        "title": task.title,
        "rules": task.rules[prompts],
        "actions": ", ".join(task.actions),
        "fields": "\n".join(f"{i}. {name}" for i, name in enumerate(fields, start=1)),
        "worked_example": reference_response(task, state, solution.plan),
        "worked_perception": numbered(fields),
    }


def numbered(facts: dict[str, str]) -> str:
    """Facts as a perception answer: `1. Size: 4.` and so on, one a line."""
    return "\n".join(f"{i}. {name}: {text}." for i, (name, text) in enumerate(facts.items(), start=1))
