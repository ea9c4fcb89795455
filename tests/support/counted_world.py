"""A world whose examples say how long their episodes are, what they show and whether they break: for tests of ranks."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pilotage.records import Example, Moment, Observation, Outcome, Privileged, View
from pilotage.views.registry import ViewSpec
from pilotage.worlds.agents import AgentSession, Ask
from pilotage.worlds.registry import forget_world, register_world
from tiny import picture, png

NAME = "counted"
PICTURES = tuple(png(picture(2, seed=seed)) for seed in range(4))


def counted(number: int, *, turns: int, pictures: str = "all", fails: bool = False) -> Example:
    """An example of `turns` turns; `pictures` are shown at `all` of them, at `some` (not the odd ones), at `none`."""
    data = {"number": number, "turns": turns, "pictures": pictures, "fails": fails}
    return Example(id=f"{NAME}-{number}", world=NAME, split="train", start=_seen(data, 0), data=data)


def _seen(data: Mapping[str, Any], turn: int) -> Observation:
    shows = data["pictures"] == "all" or (data["pictures"] == "some" and turn % 2 == 0)
    return Observation(
        text=f"Turn {turn} of {data['number']}.",
        images=(PICTURES[(data["number"] + turn) % len(PICTURES)],) if shows else (),
        privileged=Privileged(plan=("R", "D") * (1 + data["number"] % 3)),
    )


class Counted:
    name = title = NAME
    roles = ("act",)
    reasons = ("success", "not_reached")
    measures = conditions = ()
    answer_form = "text"
    views_module = __name__

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> CountedSession:
        return CountedSession(example)


class TwoRoles(Counted):
    """Before each act the model is asked what it sees, in a turn of its own."""

    roles = ("look", "act")

    @staticmethod
    def agent(session: AgentSession, role: str) -> Generator[Ask, str, None]:
        while (seen := session.observe()) is not None:
            yield Ask(role="look", seen=seen)
            session.act((yield Ask(role="act", seen=seen)))


class CountedSession:
    """Success hangs on what was said, so that samples of one example differ."""

    def __init__(self, example: Example) -> None:
        self.data, self.turn, self.said = example.data, 0, 0

    def observe(self) -> Observation | None:
        return _seen(self.data, self.turn) if self.turn < self.data["turns"] else None

    def act(self, text: str) -> float | None:
        if self.data["fails"]:
            raise RuntimeError("the world is broken")
        self.turn, self.said = self.turn + 1, self.said + sum(map(ord, text))
        return None if self.turn < self.data["turns"] else float(self.said % 2)

    def outcome(self) -> Outcome:
        success = bool(self.said % 2)
        return Outcome(success=success, reason="success" if success else "not_reached")

    def close(self) -> None:
        pass


def _view(name: str, text: str, images: Sequence[bytes]) -> View:
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    return View(name=name, messages=[{"role": "user", "content": content}], images=tuple(images))


def _student(moment: Moment, prompts: str) -> View:
    return _view("student", moment.seen.text, moment.seen.images)


def _teacher(moment: Moment, prompts: str) -> View:
    assert moment.seen.privileged is not None
    return _view("teacher", f"{moment.seen.text} Plan: {' '.join(moment.seen.privileged.plan)}.", ())


def _reference(moment: Moment) -> str:
    """Keeps to the format of `MgsdLayout`, as hardly anything does that a random model writes."""
    return f"Size: 4.\nRoute: (2,0) (1,0).\n<answer>{'U' if moment.past else 'R'}</answer>"


VIEWS = {
    "student": ViewSpec(name="student", make=_student, shows_picture=True, reference=_reference),
    "teacher": ViewSpec(name="teacher", make=_teacher, privileged=True),
}


@contextmanager
def known(world: Counted | None = None) -> Iterator[None]:
    """The world, or a variant of it, is known in this process."""
    register_world(world or Counted())
    try:
        yield
    finally:
        forget_world(NAME)
