"""Agents of grid worlds: they know what a model at inference knows, and are chosen by name."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotage.errors import PilotageError
from pilotage.evaluate import evaluate, rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.records import Episode, Example, Moment, Observation, Outcome, Rollout, View
from pilotage.rollouts.engine import Decoding, Request
from pilotage.rollouts.play import Start, Writer, open_in_process, play
from pilotage.views import make_view
from pilotage.worlds import get_task, get_world
from pilotage.worlds.agents import Ask, agents_of
from pilotage.worlds.grids.data.steps import make_step_example, step_examples
from pilotage.worlds.grids.steps import StepWorld, picture
from pilotage.worlds.remote import RemoteWorlds
from pilotage.worlds.task import canonical_key

STEP_WORLDS = ("frozenlake_steps", "maze_steps", "minibehaviour_steps")
every_world = pytest.mark.parametrize("name", STEP_WORLDS)
every_agent = pytest.mark.parametrize("agent", [*agents_of(get_world("maze_steps"))])
Says = Callable[[Moment], str]


class AtInference:
    """A session that shows and tells what there is without a simulator's help: no state, nothing privileged."""

    def __init__(self, start: Start) -> None:
        self._session = open_in_process(start)

    def observe(self) -> Observation | None:
        seen = self._session.observe()
        return None if seen is None else seen.public()

    def act(self, text: str) -> float | None:
        return self._session.act(text)

    def outcome(self) -> Outcome:
        return self._session.outcome()

    def close(self) -> None:
        self._session.close()


class Talker:
    """An engine that answers each view with what a function of its moment says."""

    def __init__(self, says: Says) -> None:
        self.says = says
        self.texts: dict[str, str] = {}
        self.temperatures: list[float] = []

    def show(self, moment: Moment) -> View:
        turn = len(moment.past)
        key = moment.example.id if turn == 0 else f"{moment.example.id}#{turn}"
        self.texts[key] = self.says(moment)
        return make_view("student", moment, "brief")

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        self.temperatures += [decoding.temperature] * len(requests)
        return [
            Rollout(example_id=r.example_id, token_ids=(1,), text=self.texts[r.example_id], finished=True)
            for r in requests
        ]

    def sync(self, model: Any) -> None:
        pass


def played(examples: Sequence[Example], says: Says, agent: str, **how: Any) -> list[Episode]:
    talker = Talker(says)
    writer = Writer(engine=talker, decoding=Decoding(max_new_tokens=9))
    starts = [Start(example=example) for example in examples]
    return list(play(starts, writer=writer, show=talker.show, agent=agent, **how))


def reachable(task: Any, first: Any) -> list[Any]:
    """The states that harmless moves lead to."""
    found, waiting = {canonical_key(task, first): first}, [first]
    while waiting:
        state = waiting.pop()
        for action in task.actions:
            after, reason = task.after(state, action)
            if not reason and canonical_key(task, after) not in found:
                found[canonical_key(task, after)] = after
                waiting.append(after)
    return list(found.values())


def wanders(examples: Sequence[Example], fog: int) -> Says:
    """Plans of harmless moves that follow from the picture alone."""
    plans = {}
    for example in examples:
        task = get_world(example.world).task
        for state in reachable(task, task.parse_state(example.state)):
            seen = picture(task, state, 32, fog)
            rng = np.random.default_rng(zlib.crc32(seen))
            plan: list[str] = []
            for action in rng.permutation(np.repeat(task.actions, 3)).tolist():
                after, reason = task.after(state, action)
                if not reason and len(plan) < 4:
                    state, plan = after, [*plan, action]
            plans[seen] = block(*plan)
    return lambda moment: plans[moment.seen.images[0]]


def block(*plan: str) -> str:
    return f"<answer>{' '.join(plan)}</answer>"


def lake(*rows: str, **options: Any) -> Example:
    state = get_task("frozenlake").parse_state({"map": list(rows)})
    return make_step_example("frozenlake_steps", state, **options)


@pytest.fixture(scope="module")
def far() -> Iterator[RemoteWorlds]:
    with RemoteWorlds(num_processes=1, timeout_s=60) as worlds:
        yield worlds


@every_world
@every_agent
@pytest.mark.parametrize("fog", [0, 1])
def test_agents_play_the_same_where_nothing_privileged_is_there(
    name: str, agent: str, fog: int, far: RemoteWorlds
) -> None:
    examples = step_examples(name, [5], 3, "train", 3, fog=fog)
    played_here = played(examples, wanders(examples, fog), agent)
    blind = played(examples, wanders(examples, fog), agent, open_session=AtInference)

    def made(episodes: list[Episode]) -> list[Any]:
        ordered = sorted(episodes, key=lambda episode: episode.example.id)
        return [([turn.text for turn in episode.turns], episode.outcome) for episode in ordered]

    assert made(played_here) == made(blind)
    assert made(played_here) == made(
        played(examples, wanders(examples, fog), agent, open_session=far.open_session)
    )
    assert all(turn.seen.privileged is None for episode in blind for turn in episode.turns[1:])
    if agent != "one_plan":
        assert any(outcome.measures["num_revisits"] for _, outcome in made(blind))


@every_world
def test_within_an_episode_no_two_states_look_the_same_even_in_fog(name: str) -> None:
    (example,) = step_examples(name, [4 if name != "minibehaviour_steps" else 5], 1, "train", 0)
    task = get_world(name).task
    found = reachable(task, task.parse_state(example.state))
    assert len(found) > 4
    assert len({picture(task, state, 16, fog=1) for state in found}) == len(found)


def test_a_plan_followed_on_a_revisit_is_followed_through_a_bump_and_one_until_a_surprise_is_not() -> None:
    example = lake("SFF", "FHF", "FFG")
    # The player bumps at once and is where it was: the plan would succeed, were it not begun anew behind each bump.
    bumps = block("U", "D", "D", "R", "R")
    (episode,) = played([example], lambda _: bumps, "follow_on_revisit")
    assert len(episode.turns) == 2
    assert episode.outcome is not None and episode.outcome.success
    assert episode.outcome.measures["num_executed"] == 6
    (surprised,) = played([example], lambda _: bumps, "follow_plan")
    assert surprised.outcome is not None and surprised.outcome.is_("circled")


def test_one_plan_is_asked_once_and_the_episode_ends_with_it() -> None:
    example = lake("SFF", "FHF", "FFG")
    (right,) = played([example], lambda _: block("D", "D", "R", "R"), "one_plan")
    assert right.outcome is not None and right.outcome.success and len(right.turns) == 1
    (short,) = played([example], lambda _: block("D", "D"), "one_plan")
    assert short.outcome is not None and short.outcome.reason == "not_reached" and len(short.turns) == 1
    assert not short.outcome.is_("circled") and short.outcome.measures["num_executed"] == 2
    (wet,) = played([example], lambda _: block("D", "R", "R"), "one_plan")
    assert wet.outcome is not None and wet.outcome.reason == "hole"


@pytest.mark.parametrize("num_asked", [0, 1])
def test_an_agents_own_fault_is_not_the_worlds(num_asked: int) -> None:
    def faulty(session: Any, role: str) -> Any:
        for _ in range(num_asked):
            session.act((yield Ask(role=role, seen=session.observe())))
        yield session.nowhere

    with pytest.raises(
        PilotageError, match=rf"agent failed after {num_asked} turns, at .*AttributeError: .*nowhere"
    ):
        played([lake("SFF", "FHF", "FFG")], lambda _: block("R"), faulty)  # pyright: ignore[reportArgumentType]


def test_a_worlds_failure_is_the_worlds_however_an_agent_hands_it_on() -> None:
    def wrapping(session: Any, role: str) -> Any:
        try:
            session.act((yield Ask(role=role, seen=session.observe())))
        except ZeroDivisionError as failure:
            raise ValueError("it broke") from failure

    class Breaking(AtInference):
        def act(self, text: str) -> float | None:
            raise ZeroDivisionError

    (episode,) = played([lake("SFF", "FHF", "FFG")], lambda _: block("R"), wrapping, open_session=Breaking)  # pyright: ignore[reportArgumentType]
    assert episode.end == "world_failed" and episode.num_tries == 3


@pytest.mark.parametrize("agent", ["follow_plan", "follow_on_revisit", "sampling_on_revisit"])
def test_an_agent_that_is_shown_nothing_says_so(agent: str) -> None:
    with pytest.raises(PilotageError, match=r"was shown nothing: draw pictures \(cell_px 32\)"):
        played([lake("SFF", "FHF", "FFG", cell_px=0)], lambda _: block("R"), agent)


def test_evaluation_plays_the_named_agent_and_keeps_its_rows_apart(tmp_path: Path) -> None:
    answers = ("R", "L", "D", "D", "R", "R")

    class Counting(Talker):
        def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
            turn = int((requests[0].example_id.split("#") + ["0"])[1])
            self.texts[requests[0].example_id] = block(answers[turn])
            return super().generate(requests, decoding)

    talker = Counting(lambda _: "")
    shared: dict[str, Any] = {"stage": "base", "prompts": "brief", "max_new_tokens": 9, "out": tmp_path}
    examples = [lake("SFF", "FHF", "FFG")]
    evaluate(talker, examples, conditions=("image",), agent="sampling_on_revisit", **shared)
    assert talker.temperatures == [0, 0, 1.0, 0, 0, 0]
    (row,) = read_jsonl(rows_path(tmp_path, "base", "image")).rows
    assert row["settings"]["agent"] == "sampling_on_revisit" and row["outcome"]["success"]
    with pytest.raises(PilotageError, match="evaluate into another folder or stage"):
        evaluate(talker, examples, conditions=("image",), **shared)


def test_an_agent_that_is_not_there_is_one_line_with_a_guess(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pilotage.cli.main import main

    command = ["eval", "nano", "--world", "maze_steps", "--num", "2", "--out", str(tmp_path)]
    assert main([*command, "--agent", "folow_plan"]) != 0
    message = capsys.readouterr().err
    assert "maze_steps has no agent 'folow_plan'" in message and "did you mean follow_plan?" in message
    assert "Traceback" not in message and not list(tmp_path.iterdir())
    assert list(agents_of(get_world("maze"))) == ["direct"]
    assert isinstance(get_world("maze_steps"), StepWorld)


FORBIDDEN = (
    "outcome",
    "state",
    "over",
    "reason",
    "privileged",
    "at_end",
    "close",
    "_session",
    "_example",
    "_seen",
)


@every_world
def test_an_agent_cannot_reach_the_judge_nor_what_is_privileged(name: str) -> None:
    reached: list[str] = []

    def spy(session: Any, role: str) -> Any:
        while (seen := session.observe()) is not None:
            reached.extend(word for word in FORBIDDEN if hasattr(session, word))
            reached.extend(["privileged part"] if seen.privileged is not None else [])
            assert session.burst == 1 and session.actions == get_world(name).task.actions  # pyright: ignore[reportAttributeAccessIssue]
            session.act((yield Ask(role=role, seen=seen)))

    (example,) = step_examples(name, [get_world(name).task.levels[0]], 1, "train", 0)  # pyright: ignore[reportAttributeAccessIssue]
    talker = Talker(lambda moment: block(*moment.seen.privileged.plan[:1]))  # pyright: ignore[reportOptionalMemberAccess]
    writer = Writer(engine=talker, decoding=Decoding(max_new_tokens=9))
    (episode,) = play([Start(example=example)], writer=writer, show=talker.show, agent=spy)
    assert reached == [] and episode.error is None
    # What it asked about has the privileged part again, for teachers, and the outcome is the world's.
    assert all(turn.seen.privileged is not None for turn in episode.turns)
    assert episode.outcome is not None and episode.outcome.success


def test_what_an_agent_changes_of_what_it_saw_keeps_its_privileged_part() -> None:
    def writes(session: Any, role: str) -> Any:
        while (seen := session.observe()) is not None:
            session.act((yield Ask(role=role, seen=replace(seen, text="Look."))))

    (example,) = step_examples("maze_steps", [3], 1, "train", 0)
    talker = Talker(lambda moment: block(*moment.seen.privileged.plan[:1]))  # pyright: ignore[reportOptionalMemberAccess]
    writer = Writer(engine=talker, decoding=Decoding(max_new_tokens=9))
    (episode,) = play([Start(example=example)], writer=writer, show=talker.show, agent=writes)
    assert [turn.seen.text for turn in episode.turns] == ["Look."] * len(episode.turns)
    privileged = [turn.seen.privileged for turn in episode.turns]
    assert [each and each.plan for each in privileged] == [
        example.plan[at:] for at in range(len(example.plan))
    ]
