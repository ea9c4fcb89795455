"""What an example of the world `questions` is: a question about a picture, with its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotage.errors import PilotageError
from pilotage.records import Example, Observation, Privileged, Split

WORLD = "questions"
FOREIGN = "vqa"
"""What results of questions from elsewhere are grouped by, and the kind of them."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The content of an example."""

    text: str
    options: tuple[str, ...] = ()
    """Texts to choose from, lettered A, B, …; empty for a free answer."""
    answer: str
    """The reference answer; with options, the letter of the right one. `""` where it is withheld."""
    accepted: tuple[str, ...] = ()
    """What is right besides `answer`: other shortest first moves, other words for the same."""
    solution: str = ""
    """A worked solution where there is one; `""` where not."""
    kind: str = FOREIGN
    """What is asked: of our own worlds one of `pilotage.worlds.questions.asked.QUESTION_KINDS`, else `vqa`."""


def question_of(example: Example) -> Question:
    """The question of an example of this world; without its answer, where that is withheld."""
    if example.world != WORLD:
        raise PilotageError(f"{example.id} is an example of the world {example.world!r}, not a question")
    hidden = example.hidden
    return Question(
        text=example.start.text,
        options=tuple(example.data.get("options", ())),
        answer=hidden.get("answer", ""),
        accepted=tuple(hidden.get("accepted", ())),
        solution=hidden.get("solution", ""),
        kind=str(example.axes.get("kind", FOREIGN)),
    )


def make_question(
    *,
    id: str,
    task: str = FOREIGN,
    level: int = 0,
    split: Split,
    kind: str = FOREIGN,
    question: str,
    options: tuple[str, ...] = (),
    answer: str,
    accepted: tuple[str, ...] = (),
    solution: str = "",
    state: Mapping[str, Any] | None = None,
    image: bytes,
) -> Example:
    """The example of a question. `task` and `state` are those of the world that the picture is of, where it is ours."""
    return Example(
        id=id,
        world=WORLD,
        split=split,
        axes={"task": task, "level": level, "kind": kind},
        start=Observation(
            text=question, images=(image,) if image else (), privileged=Privileged(state=state)
        ),
        data={"options": options},
        hidden={"answer": answer, "accepted": accepted, "solution": solution},
    )
