"""What a turn is worth of its episode: returns, discounted ones, the expert's advantage, all by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pilotage.distill.credit import Credit, Discounted, EpisodeReturn, ExpertAdvantage, episode_return
from pilotage.errors import PilotageError
from pilotage.records import Episode, Rollout, View
from pilotage.rollouts.play import Limits, Start, Writer, play
from pilotage.worlds import get_task
from pilotage.worlds.grids.data.steps import make_step_example, map_hash

MAP = ["SFF", "FHF", "FFG"]
BACK_AND_ON = ["R", "L", "R", "R", "D", "D"]
"""One step on, one back, and then the way: two turns more than the four that it takes."""


def played(moves: Sequence[str], max_turns: int = 20) -> Episode:
    """An episode on the lake in which the answers are these moves."""
    task = get_task("frozenlake")
    state = task.parse_state({"map": MAP})
    map_ = map_hash({"map": MAP}, task.name)
    example = make_step_example("frozenlake_steps", state, map_=map_, starts="corner")
    said = iter(moves)

    def write(moment: Any, view: View) -> Rollout:
        return Rollout(
            example_id=example.id, token_ids=(1,), text=f"<answer>{next(said)}</answer>", finished=True
        )

    [episode] = play(
        [Start(example=example)],
        writer=Writer(write=write),
        show=lambda moment: View(name="none", messages=[]),
        limits=Limits(max_turns=max_turns),
    )
    return episode


def with_rewards(episode: Episode, rewards: Sequence[float | None]) -> Episode:
    turns = tuple(replace(turn, reward=given) for turn, given in zip(episode.turns, rewards, strict=True))
    return replace(episode, turns=turns)


WON = played(BACK_AND_ON)
LOST = played(["R", "D"])
"""Into the hole, in the second move."""
CUT = played(["R", "L", "R"], max_turns=3)


def test_the_episodes_are_what_they_are_taken_for() -> None:
    assert [episode.outcome and episode.outcome.success for episode in (WON, LOST, CUT)] == [
        True,
        False,
        False,
    ]
    assert [len(episode.turns) for episode in (WON, LOST, CUT)] == [6, 2, 3]


@pytest.mark.parametrize(
    ("credit", "won", "lost"),
    [
        (EpisodeReturn(), [1, 1, 1, 1, 1, 1], [0, 0]),
        (EpisodeReturn(parsed=0.1), [1.1] * 6, [0.1, 0.1]),
        (Discounted(gamma=0.5), [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1], [0, 0]),
        (Discounted(gamma=1.0), [1] * 6, [0, 0]),
        # On, back, on, on, on, and at the end the one move that was left of the plan.
        (ExpertAdvantage(), [1, -1, 1, 1, 1, 1], [1, -1]),
        (ExpertAdvantage(failure=3.0), [1, -1, 1, 1, 1, 1], [1, -3]),
    ],
    ids=str,
)
def test_worlds_without_rewards_are_credited_by_their_end(
    credit: Credit, won: list[float], lost: list[float]
) -> None:
    assert credit(WON) == pytest.approx(won) and credit(LOST) == pytest.approx(lost)


def test_rewards_of_a_world_are_summed_and_what_it_does_not_say_is_nothing() -> None:
    episode = with_rewards(CUT, [1.0, None, 2.0])
    assert episode_return(episode) == 3.0
    assert EpisodeReturn()(episode) == [3.0, 3.0, 3.0]
    assert Discounted(gamma=0.5)(episode) == [1.0 + 0.0 + 0.5, 1.0, 2.0]


def test_without_an_expert_there_is_no_advantage() -> None:
    blind = replace(WON, turns=tuple(replace(turn, seen=turn.seen.public()) for turn in WON.turns))
    assert ExpertAdvantage()(blind) == [0.0] * 6


def test_an_episode_that_was_never_judged_is_worth_nothing() -> None:
    broken = replace(LOST, outcome=None, end="world_failed", error="gone")
    for credit in (EpisodeReturn(parsed=0.5), Discounted(gamma=0.9)):
        assert credit(broken) == [0.0, 0.0]
        assert credit(replace(broken, turns=())) == []


@pytest.mark.parametrize(
    "wrong", [lambda: Discounted(gamma=0.0), lambda: Discounted(gamma=1.5), lambda: EpisodeReturn(parsed=-1)]
)
def test_what_is_no_credit_is_refused(wrong: Any) -> None:
    with pytest.raises(PilotageError, match="must be|at least 0"):
        wrong()
