"""Grid worlds played move by move: the rules of a move, episodes, splits by map, fog, memory, agents."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.data.examples import split_of
from pilotage.data.made import made_examples
from pilotage.errors import BadStateError, ImpossibleRequestError, PilotageError
from pilotage.records import Episode, Example, Moment, Rollout
from pilotage.rollouts.engine import Decoding, Request
from pilotage.rollouts.play import Start, Writer, play
from pilotage.views import make_view, reference_of_view, view_of
from pilotage.worlds import TASKS, Task, drawing, get_task, get_world
from pilotage.worlds.agents import Agent, direct
from pilotage.worlds.grids.agents import follow_on_revisit, follow_plan, sampling_on_revisit
from pilotage.worlds.grids.data.steps import (
    every_start,
    excluded_maps,
    make_step_example,
    step_examples,
)
from pilotage.worlds.grids.minibehaviour import MiniBehaviour
from pilotage.worlds.grids.steps import FOG_RGB, TURNS_PER_LEVEL, StepWorld, in_sight, map_hash
from pilotage.worlds.task import Stepwise, canonical_key, state_hash
from step_states import along

STEP_WORLDS = ("frozenlake_steps", "maze_steps", "minibehaviour_steps")
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
every_world = pytest.mark.parametrize("name", STEP_WORLDS)
seeds = st.integers(0, 2**32 - 1)
GREEDY = Decoding(max_new_tokens=400)


def lake(*rows: str, **options: Any) -> Example:
    return make_step_example(
        "frozenlake_steps", get_task("frozenlake").parse_state({"map": list(rows)}), **options
    )


def block(*plan: str) -> str:
    return f"<answer>{' '.join(plan)}</answer>"


class Scripted:
    """Answers every request with what a function of the request says; remembers the decodings."""

    def __init__(self, says: Callable[[Request], str]) -> None:
        self.says = says
        self.asked: list[tuple[Request, Decoding]] = []

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        self.asked += [(request, decoding) for request in requests]
        return [
            Rollout(example_id=r.example_id, token_ids=(1, 2), text=self.says(r), finished=True)
            for r in requests
        ]

    def sync(self, model: Any) -> None:
        pass


def played(
    examples: Sequence[Example],
    says: Callable[[Moment], str],
    *,
    agent: Agent = direct,
    decodings: dict[str, Decoding] | None = None,
) -> tuple[list[Episode], Scripted]:
    """Episodes whose answers are a function of the moment."""
    texts: dict[str, str] = {}

    def show(moment: Moment) -> Any:
        shown = make_view("student", moment, "brief")
        turn = len(moment.past)
        texts[moment.example.id if turn == 0 else f"{moment.example.id}#{turn}"] = says(moment)
        return shown

    engine = Scripted(lambda request: texts[request.example_id])
    writer = Writer(engine=engine, decoding=GREEDY, decodings=decodings or {})
    starts = [Start(example=example) for example in examples]
    return list(play(starts, writer=writer, show=show, agent=agent)), engine


def expert_says(moment: Moment) -> str:
    return reference_of_view(moment, "student")


# ---------------------------------------------------------------------------------------------- rules of a move


@every_task
@given(seed=seeds)
@settings(max_examples=80)
def test_a_plan_executed_is_its_moves_one_by_one(task: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = task.generate(int(rng.choice(task.levels)), rng)
    first = state
    reference = task.solve(state).plan
    # A part of a right plan, then anything: random moves alone hardly ever pick a printer up.
    plan = [*reference[: int(rng.integers(len(reference) + 1))], *rng.choice(task.actions, size=6).tolist()]
    for strict_edges in (False, True):
        state, cells, reason, num_executed = first, [task.trace(first, ())[0]], "", 0
        for action in plan:
            state, reason = task.after(state, action, strict_edges=strict_edges)
            num_executed += 1
            if reason:
                break
            cells.append(task.trace(state, ())[0])
            assert task.parse_state(task.to_json(state)) == state
        done = task.execute(first, plan, strict_edges=strict_edges)
        assert (done.reason, done.num_executed) == (reason or "not_reached", num_executed)
        assert cells == task.trace(first, plan)[: len(cells)]


@every_task
@given(seed=seeds)
@settings(max_examples=30)
def test_what_is_fixed_stays_and_the_rest_of_a_plan_is_as_good_as_the_whole(task: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = task.generate(int(rng.choice(task.levels)), rng)
    fixed, plan = task.fixed(state), task.solve(state).plan
    for num_left in range(len(plan), 0, -1):
        assert task.solve(state).plan == plan[len(plan) - num_left :]
        assert task.recital(state) == task.recital(task.parse_recital(task.recital(state)))
        assert task.parse_recital(task.recital(state)) == state
        assert task.parse_text(task.to_text(state)) == state
        if not getattr(state, "carrying", False):
            assert task.fixed(state) == fixed
        state, _ = task.after(state, plan[len(plan) - num_left])


ROOM = {
    "level": 5,
    "agent": [0, 1],
    "printer": [0, 2],
    "table": [[2, 0], [2, 1], [2, 2], [3, 0], [3, 1], [3, 2]],
}


def test_a_room_with_the_printer_in_hand_is_told_solved_drawn_and_read_back() -> None:
    task = MiniBehaviour()
    before = task.parse_state(ROOM)
    assert "carrying" not in task.to_json(before)
    assert task.parse_state({**ROOM, "carrying": False}) == before
    picked, reason = task.after(before, "PICK")
    assert reason == ""
    assert task.to_json(picked) == {**ROOM, "printer": [0, 1], "carrying": True}
    assert state_hash(task, picked) != state_hash(task, before)
    facts = task.facts(picked)
    assert (facts["Printer"], facts["Beside printer"]) == ("carried", "none")
    assert facts["Legal"] == "L D R"  # the printer's old cell is free
    plan = task.solve(picked)
    assert plan is not None
    assert plan.plan == ("D", "DROP") and plan.num_optimal == 1
    assert task.execute(picked, plan.plan).success
    assert task.execute(picked, ("PICK",)).reason == "bad_pick"
    beside, _ = task.after(picked, "D")
    assert "DROP" in task.facts(beside)["Legal"].split()
    assert task.after(beside, "DROP") == (beside, "success")
    assert task.route(picked, plan.plan) == "Route: (0,1) (1,1) DROP."
    assert task.to_text(picked).splitlines()[0] == ".C..."
    assert not np.array_equal(
        drawing.draw(task, picked, 32), drawing.draw(task, replace(before, printer=(4, 4)), 32)
    )


def test_the_agent_with_the_printer_brings_no_colour_into_other_rooms_files() -> None:
    for cell_px in (8, 32):
        tiles = MiniBehaviour().tiles(cell_px)
        assert len(tiles.indices) == 5
        others = drawing.tile_set(list(tiles.palette[tiles.indices[:4]]))
        assert (others.palette == tiles.palette).all() and (others.indices == tiles.indices[:4]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"carrying": 1}, "carrying is 1, not true or false"),
        ({"carrying": True}, "cannot be carrying the printer in [0, 2]"),
        ({"carrying": True, "agent": [2, 0], "printer": [2, 0]}, "must not share a cell"),
        ({"printer": [0, 1]}, "must not share a cell"),
    ],
)
def test_a_room_that_contradicts_its_carrying_is_an_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(BadStateError) as caught:
        get_task("minibehaviour").parse_state({**ROOM, **changed})
    assert message in str(caught.value)


def test_a_map_with_two_agents_one_of_them_carrying_is_an_error() -> None:
    with pytest.raises(BadStateError, match="and A or P besides"):
        MiniBehaviour().parse_text("A...C\nTTT..\nTTT..\n.....\n.....")


# ---------------------------------------------------------------------------------------------------- episodes


def test_the_first_move_of_each_plan_is_made_and_the_expert_is_optimal() -> None:
    example = lake("SFF", "FHF", "FFG")
    (episode,), _ = played([example], expert_says)
    assert [turn.seen.privileged.state["map"][0] for turn in episode.turns] == ["SFF", "FFF", "FFF", "FFF"]  # type: ignore[union-attr, index]
    assert [turn.seen.privileged.plan for turn in episode.turns] == [  # type: ignore[union-attr]
        ("D", "D", "R", "R"),
        ("D", "R", "R"),
        ("R", "R"),
        ("R",),
    ]
    assert [turn.reward for turn in episode.turns] == [None, None, None, 1.0]
    assert episode.outcome is not None
    assert episode.outcome.success and episode.outcome.reason == "success"
    assert episode.outcome.measures == {
        "optimal": True,
        "illegal": False,
        "parsed": True,
        "num_executed": 4,
        "circled": False,
        "num_turns": 4,
        "num_revisits": 0,
    }
    assert episode.outcome.right == dict.fromkeys(("Size", "Player", "Goal", "Holes"), True)


def test_a_hole_ends_the_episode_and_words_are_a_wasted_turn() -> None:
    session = get_world("frozenlake_steps").open(lake("SFF", "FHF", "FFG"))
    assert session.act("I would go right.") is None
    before = session.observe()
    assert session.act(block("R")) is None
    assert session.observe() != before
    assert session.act(block("D", "D")) == 0.0
    assert session.observe() is None
    assert session.act(block("D")) is None
    outcome = session.outcome()
    assert (outcome.reason, outcome.is_("illegal"), outcome.is_("parsed")) == ("hole", True, False)
    assert (outcome.measures["num_turns"], outcome.measures["num_executed"]) == (3, 2)


def test_going_back_and_forth_is_a_circle_and_a_bump_is_a_state_seen_again() -> None:
    session = get_world("frozenlake_steps").open(lake("SFF", "FHF", "FFG"))
    rewards = [session.act(block("RL"[i % 2])) for i in range(3 * TURNS_PER_LEVEL)]
    assert rewards == [*[None] * 8, 0.0]
    outcome = session.outcome()
    assert (outcome.reason, outcome.is_("circled"), outcome.is_("illegal")) == ("not_reached", True, False)
    assert outcome.measures["num_revisits"] == 8  # all but the first move
    bump = get_world("frozenlake_steps").open(lake("SFF", "FHF", "FFG"))
    bump.act(block("U"))
    assert bump.outcome().measures["num_revisits"] == 1
    assert not bump.outcome().is_("circled")
    strict = get_world("frozenlake_steps").open(lake("SFF", "FHF", "FFG"), strict=True)
    assert strict.act(block("U")) == 0.0
    assert strict.outcome().reason == "off_board"


def test_a_burst_makes_as_many_moves_of_each_plan() -> None:
    session = get_world("frozenlake_steps").open(lake("SFF", "FHF", "FFG", burst=3))
    assert session.act(block("D", "D", "R", "R")) is None
    assert session.outcome().measures["num_executed"] == 3
    assert session.act(block("R", "R")) == 1.0
    assert session.outcome().measures["num_executed"] == 4
    assert session.outcome().is_("optimal")


def test_a_field_misread_in_one_turn_is_wrong() -> None:
    session = get_world("frozenlake_steps").open(lake("SFF", "FHF", "FFG"))
    session.act(f"Size: 3. Player: (0,0). Goal: (2,2). Holes: (1,1).\n{block('D')}")
    session.act(f"Size: 3. Player: (0,0). Goal: (2,2). Holes: (1,1).\n{block('D')}")
    session.act(f"Size: 3. Player: (2,0). Goal: (2,2). Holes: (1,1).\n{block('R')}")
    session.act(block("R"))
    outcome = session.outcome()
    assert outcome.right == {"Size": True, "Player": False, "Goal": True, "Holes": True}
    assert outcome.fields["Player"] == "(2,0)"


@every_world
def test_the_expert_goes_on_from_wherever_an_episode_is(name: str) -> None:
    world = get_world(name)
    for example in step_examples(name, [world.task.levels[0]], 5, "train", 3):
        session = world.open(example)
        rng = np.random.default_rng(0)
        for _ in range(3):
            legal = [a for a in world.task.actions if world.task.after(session.state, a)[1] == ""]
            session.act(block(str(rng.choice(legal))))
        while (plan := world.expert(session)) is not None:
            session.act(block(*plan))
        assert session.outcome().success
        assert world.expert(session) is None


def test_a_maze_whose_way_is_longer_than_three_sides_has_turns_enough() -> None:
    examples = step_examples("maze_steps", [6], 60, "train", 0)
    longest = max(examples, key=lambda example: example.optimal_length)
    assert longest.optimal_length > TURNS_PER_LEVEL * 6
    (episode,), _ = played([longest], expert_says)
    assert episode.outcome is not None and episode.outcome.is_("optimal")
    wall = next(e for e in examples if e.optimal_length <= 2 * 6)
    session = get_world("maze_steps").open(wall)
    rewards = [session.act("no") for _ in range(TURNS_PER_LEVEL * 6)]
    assert rewards == [*[None] * (TURNS_PER_LEVEL * 6 - 1), 0.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"burst": 0}, "burst is 0; it must be a whole number from 1 on"),
        ({"fog": -1}, "fog is -1"),
        ({"fog": "2"}, "fog is '2'"),
        ({"cell_px": True}, "cell_px is True"),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error(data: dict[str, Any], message: str) -> None:
    example = lake("SFF", "FHF", "FFG")
    with pytest.raises(PilotageError) as caught:
        get_world("frozenlake_steps").open(replace(example, data={**example.data, **data}))
    assert message in str(caught.value)


# ---------------------------------------------------------------------------------------------- splits and starts


@pytest.mark.parametrize("name", [f"{task.name}_steps" for task in TASKS])
def test_maps_of_excluded_levels_are_in_no_example_wherever_they_begin(name: str, tmp_path: Path) -> None:
    task: Any = get_world(name).task  # pyright: ignore[reportAttributeAccessIssue]
    level = task.levels[0]
    some = step_examples(name, [level], 12, "train", 0)
    lines, excluded = [], set()
    for example in some[:4]:
        state = task.parse_state(example.state)
        moved, reason = task.after(state, example.plan[0])
        if reason or task.fixed(moved) != task.fixed(state):
            moved = state
        lines.append(json.dumps({"task": task.name, "state": task.to_json(moved)}))
        excluded.add(example.data["map"])
    path = tmp_path / "published.jsonl"
    path.write_text("\n".join(lines))
    assert excluded_maps([path]) == excluded
    kept = [example.id for example in some if example.data["map"] not in excluded]
    again = step_examples(name, [level], 12, "train", 0, exclude=excluded_maps([path]))
    assert [example.id for example in again][: len(kept)] == kept and len(kept) <= 8
    assert not excluded & {example.data["map"] for example in again}
    options = {"exclude": str(path)}
    made = made_examples(name, [level], 12, "train", 0, options=options)
    assert [example.id for example in made] == [example.id for example in again]
    with pytest.raises(PilotageError, match="no such file"):
        made_examples(name, [level], 1, "train", 0, options={"exclude": str(tmp_path / "gone")})


@every_world
@pytest.mark.parametrize("starts", ["anywhere", "corner"])
def test_all_states_on_the_way_are_of_the_starts_map_and_split(name: str, starts: Any) -> None:
    task = get_world(name).task
    level = task.levels[-1]
    num_visited = num_elsewhere = 0
    for split in ("train", "val", "test"):
        for example in step_examples(name, [level], 8, split, 0, starts=starts):
            assert example.split == split
            for other in (*along(example), *every_start(example)):
                assert (other.split, other.data["map"]) == (split, example.data["map"])
                state = task.parse_state(other.state)
                if not getattr(state, "carrying", False):
                    assert map_hash(task.fixed(state), task.name) == example.data["map"]
                num_visited += 1
                num_elsewhere += split_of(state_hash(task, state)) != split
    # Splits by state would not do.
    assert num_elsewhere > num_visited / 10


@every_world
def test_examples_are_a_function_of_the_arguments_and_more_begin_with_the_same(name: str) -> None:
    level = get_world(name).task.levels[-1]
    few = step_examples(name, [level], 5, "val", 7)
    many = step_examples(name, [level], 20, "val", 7)
    assert many[:5] == few
    assert len({example.id for example in many}) == 20
    assert [e.id for e in step_examples(name, [level], 5, "val", 8)] != [e.id for e in few]
    (fogged,) = step_examples(name, [level], 1, "val", 7, fog=2)
    assert fogged.id == few[0].id + "-fog2"
    assert fogged.start.privileged == few[0].start.privileged


def test_two_starts_of_one_map_have_two_ids_that_begin_alike() -> None:
    here, there = lake("SFF", "FHF", "FFG"), lake("FFS", "FHF", "FFG")
    assert here.id != there.id
    assert here.id.rsplit("-", 1)[0] == there.id.rsplit("-", 1)[0]
    assert here.split == there.split


def test_a_corner_start_is_in_the_corner() -> None:
    for name, mover, goal in (("frozenlake", "Player", "Goal"), ("maze", "Player", "Goal")):
        for example in step_examples(f"{name}_steps", [5], 10, "train", 0, starts="corner"):
            assert (example.facts[mover], example.facts[goal]) == ("(0,0)", "(4,4)")
    for example in step_examples("minibehaviour_steps", [5], 10, "train", 0, starts="corner"):
        assert example.facts["Agent"] == "(0,0)"


def test_more_examples_than_there_are_is_an_impossible_request() -> None:
    with pytest.raises(ImpossibleRequestError, match="level 5 gives [0-9]+ examples of split test"):
        step_examples("minibehaviour_steps", [5], 100, "test", 0, starts="corner")


@every_world
def test_the_way_of_the_expert_is_as_long_as_its_plan(name: str) -> None:
    (example,) = step_examples(name, [5], 1, "train", 0)
    states = along(example)
    assert [len(other.plan) for other in states] == list(range(len(example.plan), 0, -1))
    assert states[0].id == example.id
    assert len({other.id for other in states}) == len(states)
    for other in states:
        session = get_world(name).open(other)
        for action in other.plan:
            session.act(block(action))
        assert session.outcome().success


# ---------------------------------------------------------------------------------------- fog, windows and memory


def test_fog_hides_what_is_more_than_two_kings_moves_away() -> None:
    example = lake("SFFFF", "FFFFF", "FFFFF", "FFFFF", "FFFFG", fog=2, cell_px=16)
    assert in_sight(5, (0, 0), 2).sum() == 9
    pixels = drawing.decode_png(example.image)
    assert (pixels[48:] == FOG_RGB).all() and (pixels[:, 48:] == FOG_RGB).all()
    clear = get_task("frozenlake").draw(get_task("frozenlake").parse_state(example.state or {}), 16)
    assert (pixels[:48, :48] == clear[:48, :48]).all()
    session = get_world("frozenlake_steps").open(example)
    for action in ("D", "D", "R", "R"):
        session.act(block(action))
    seen = drawing.decode_png(session.observe().images[0])
    goal = get_task("frozenlake").draw(session.state, 16)[64:, 64:]
    assert (seen[64:, 64:] == goal).all()
    assert session.observe().privileged.facts["Goal"] == "(4,4)"


def test_a_window_shows_the_last_pictures_and_then_this_turns() -> None:
    episodes, engine = played([lake("SFF", "FHF", "FFG", window=3)], expert_says)
    pictures = [turn.seen.images[0] for turn in episodes[0].turns]
    shown = [request.view for request, _ in engine.asked]
    assert [list(view.images) for view in shown] == [
        pictures[:1],
        pictures[:2],
        pictures[:3],
        pictures[1:4],
    ]
    parts = shown[3].messages[0]["content"]
    assert [part["type"] for part in parts] == ["text", "image", "image", "image"]


def test_a_memory_tells_what_the_student_read_and_a_true_one_where_it_was() -> None:
    misread = "Size: 3. Player: (2,2). Goal: (2,2). Holes: (1,1)."
    moments: list[Moment] = []

    def says(moment: Moment) -> str:
        moments.append(moment)
        return f"{misread}\n{block('D')}"

    played([lake("SFF", "FHF", "FFG")], says)
    assert (
        make_view("memory", moments[0], "full").messages == make_view("student", moments[0], "full").messages
    )
    own = make_view("memory", moments[2], "full")
    assert (
        "Cells that you have been in before this turn, in order: (2,2) (2,2)."
        in own.messages[0]["content"][0]["text"]
    )
    words = make_view("symbolic_memory", moments[2], "full")
    symbolic = make_view("symbolic", moments[2], "full")
    assert words.messages[0]["content"].startswith(symbolic.messages[0]["content"])
    assert words.messages[0]["content"].endswith("in order: (2,2) (2,2). Do not walk in circles.")
    true = make_view("memory_true", moments[2], "full")
    assert "in order: (0,0) (1,0)." in true.messages[0]["content"][0]["text"]
    assert view_of("memory_true", "frozenlake_steps").privileged
    assert not view_of("memory", "frozenlake_steps").privileged


@every_world
def test_views_speak_of_the_state_that_the_turn_is_in(name: str) -> None:
    world = get_world(name)
    (example,) = step_examples(name, [5], 1, "train", 2)
    moments: list[Moment] = []

    def says(moment: Moment) -> str:
        moments.append(moment)
        return expert_says(moment)

    played([example], says)
    for moment, there in zip(moments, along(example), strict=True):
        assert moment.seen == there.start
        for condition in world.conditions:
            if condition.name in ("text", "teacher", "teacher_no_plan", "image"):
                view = condition.views["act"]
                assert make_view(view, moment, "full") == make_view(view, there, "full")
                assert reference_of_view(moment, view) == reference_of_view(there, view)


# ------------------------------------------------------------------------------------------------------- agents


@every_world
def test_a_right_plan_is_followed_with_one_question(name: str) -> None:
    examples = step_examples(name, [5], 4, "train", 1)
    episodes, engine = played(examples, expert_says, agent=follow_plan)
    assert len(engine.asked) == 4
    for episode in episodes:
        assert len(episode.turns) == 1
        assert episode.outcome is not None
        assert episode.outcome.success and episode.outcome.is_("optimal")
        assert episode.turns[0].reward == 1.0


def test_a_plan_is_dropped_behind_a_bump_and_where_it_is_used_up() -> None:
    answers = iter((block("U", "R"), block("R"), block("R", "D", "D")))
    (episode,), _ = played([lake("SFF", "FHF", "FFG")], lambda _: next(answers), agent=follow_plan)
    assert len(episode.turns) == 3
    assert episode.outcome is not None and episode.outcome.success
    assert episode.outcome.measures["num_executed"] == 5


def test_following_on_a_revisit_breaks_a_circle_that_replanning_makes() -> None:
    example = lake("SFF", "FHF", "FFG")

    def turns_back(moment: Moment) -> str:
        state = moment.seen.privileged.state if moment.seen.privileged else None
        assert state is not None
        return block("R") if state["map"][0] == "SFF" else block("L", "D", "D", "R", "R")

    (circling,), _ = played([example], turns_back)
    assert circling.outcome is not None and circling.outcome.is_("circled")
    (episode,), _ = played([example], turns_back, agent=follow_on_revisit)
    assert episode.outcome is not None and episode.outcome.success


def test_an_answer_in_a_state_seen_before_is_written_with_the_other_decoding() -> None:
    warm = Decoding(max_new_tokens=400, temperature=1.0)
    answers = {0: block("R"), 1: block("L"), 2: block("D"), 3: block("D"), 4: block("R"), 5: block("R")}
    (episode,), engine = played(
        [lake("SFF", "FHF", "FFG")],
        lambda moment: answers[len(moment.past)],
        agent=sampling_on_revisit,
        decodings={"revisit": warm},
    )
    assert episode.outcome is not None and episode.outcome.success
    assert [decoding.temperature for _, decoding in engine.asked] == [0, 0, 1.0, 0, 0, 0]
    assert "decoding" not in episode.turns[1].notes and episode.turns[2].notes["decoding"] == "revisit"


def test_other_worlds_examples_are_not_begun_here() -> None:
    world = get_world("maze_steps")
    assert isinstance(world, StepWorld)
    with pytest.raises(PilotageError, match="is an example of frozenlake_steps, not of maze_steps"):
        world.open(lake("SFF", "FHF", "FFG"))


def test_step_worlds_are_no_tasks_of_their_own_and_all_tasks_are_stepwise() -> None:
    assert all(isinstance(task, Stepwise) for task in TASKS)
    assert [task.name for task in TASKS] == ["frozenlake", "maze", "minibehaviour"]
    assert not any(isinstance(get_world(name), Task) for name in STEP_WORLDS)


def test_every_state_has_one_key() -> None:
    task = get_task("minibehaviour")
    assert canonical_key(task, task.parse_state(ROOM)) == canonical_key(
        task, task.parse_state({**ROOM, "carrying": False})
    )


def test_a_mistyped_option_is_one_line_with_a_guess_and_levels_need_not_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pilotage.cli.main import main
    from pilotage.data.made import own_levels

    command = ["eval", "nano", "--world", "maze_steps", "--num", "2", "--out", str(tmp_path)]
    assert main([*command, "--option", "fogg=2"]) != 0
    message = capsys.readouterr().err
    assert (
        "maze_steps has no option 'fogg'" in message
        and "did you mean fog?" in message
        and "Traceback" not in message
    )
    assert own_levels("maze_steps") == own_levels("maze") == tuple(get_world("maze").levels)
