"""Household missions for tests: examples of a family, and who answers every role with its label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from pilotage.records import Episode, Example, Moment, Rollout, View
from pilotage.rollouts.play import Start, Writer, play
from pilotage.views import make_view, reference_of_view
from pilotage.worlds.household.data import drawn_examples


def missions(family: str, num: int, **shape: int) -> list[Example]:
    """Training examples of a family."""
    return list(islice(drawn_examples(family, "train", 0, **shape), num))


def labelled(moment: Moment, view: View) -> Rollout:
    """The right answer of whatever role is asked."""
    return Rollout(
        example_id=moment.example.id,
        token_ids=(),
        text=reference_of_view(moment, view.name),
        finished=True,
    )


def always(text: str) -> Callable[[Moment, View], Rollout]:
    """Who answers everything with one text."""

    def write(moment: Moment, view: View) -> Rollout:
        return Rollout(example_id=moment.example.id, token_ids=(), text=text, finished=True)

    return write


def played(
    examples: Sequence[Example],
    role: str,
    *,
    write: object = labelled,
    agent: object = None,
    prompts: str = "brief",
) -> list[Episode]:
    """The episodes of these examples, in their order."""

    def show(moment: Moment) -> View:
        return make_view("student", moment, prompts)  # pyright: ignore[reportArgumentType]

    starts = [Start(example=example, role=role) for example in examples]
    found = play(starts, writer=Writer(write=write), show=show, agent=agent)  # pyright: ignore[reportArgumentType]
    by_id = {episode.example.id: episode for episode in found}
    return [by_id[example.id] for example in examples]
