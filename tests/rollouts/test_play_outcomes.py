"""An outcome that is not in its world's own words is the world's failure, and no failure of the model's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from counted_world import Counted, CountedSession, counted, known
from pilotage.records import Example, Measure, Moment, Outcome, Rollout, View
from pilotage.rollouts.play import Start, Writer, play
from pilotage.views import make_view

GOOD = {"steps": 1.0}


class Misspoken(Counted):
    """Says its outcome in other words than it declares, and counts how often it is begun."""

    reasons = ("success", "not_reached")
    measures: Any = (Measure(name="steps", title="steps", bounds=None, is_flag=False),)

    def __init__(self, **said: Any) -> None:
        self.said, self.num_opened = said, 0

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> Any:
        self.num_opened += 1
        session, said = CountedSession(example), self.said

        class Session(CountedSession):
            def outcome(self) -> Outcome:
                return replace(super().outcome(), **said)

        session.__class__ = Session
        return session


def played(world: Misspoken) -> Any:
    def write(moment: Moment, view: View) -> Rollout:
        return Rollout(example_id=moment.example.id, token_ids=(1,), text="on", finished=True)

    with known(world):
        starts = [Start(example=counted(0, turns=1))]
        [episode] = play(
            starts, writer=Writer(write=write), show=lambda moment: make_view("student", moment, "full")
        )
    return episode


def test_an_outcome_in_the_worlds_words_is_taken_as_it_is() -> None:
    episode = played(Misspoken(measures=GOOD))
    assert episode.end == "done" and episode.outcome is not None and episode.outcome.measures == GOOD


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"reason": "sideways"}, "counted: reason 'sideways' is not one of success, not_reached"),
        (
            {"measures": {"speed": 2.0}},
            "counted: speed of its outcome is no measure that it declares (steps)",
        ),
    ],
    ids=["reason", "measure"],
)
def test_an_outcome_in_other_words_breaks_the_episode_off(said: dict[str, Any], message: str) -> None:
    world = Misspoken(**said)
    episode = played(world)
    assert (episode.end, episode.outcome, episode.error_kind) == ("world_failed", None, "world")
    assert episode.error == message and world.num_opened == episode.num_tries == 3
