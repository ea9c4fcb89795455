"""BabyAI's missions as a world: what is seen, what is drawn, what is known besides, what an action leads to."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("minigrid")

from household import always, missions, played
from pilotage.cli.main import main
from pilotage.data.made import made_examples
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.worlds import get_world
from pilotage.worlds.drawing import decode_png
from pilotage.worlds.household import expert, sight
from pilotage.worlds.household.data import KNOWN_OPTIONS, drawn_examples, mission_example
from pilotage.worlds.household.missions import ACTIONS, FAMILIES, goals_met, layout_hash, make_mission
from pilotage.worlds.split import split_of

SIZES_PX = (4, 8, 13, 32)


def wandered(family: str, seed: int, num: int) -> Iterator[Any]:
    """An environment, again and again, after each of `num` random actions."""
    env = make_mission(family, seed)
    rng = np.random.default_rng(seed)
    for _ in range(num):
        yield env
        env.step(int(rng.choice(6, p=(0.2, 0.2, 0.35, 0.1, 0.05, 0.1))))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_is_bit_for_bit_what_minigrid_draws(family: str) -> None:
    for number, env in enumerate(wandered(family, 3, 24)):
        symbols = env.gen_obs()["image"]
        view = sight.rows_of(symbols)
        assert np.array_equal(sight.symbols_of(view), symbols) and symbols.nbytes == 147
        tile_px = SIZES_PX[number % len(SIZES_PX)]
        # What the wrapper RGBImgPartialObsWrapper gives.
        assert np.array_equal(sight.draw(view, tile_px), env.get_frame(tile_size=tile_px, agent_pov=True))


def test_every_cell_is_drawn_as_minigrid_draws_it_held_or_not() -> None:
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import WorldObj

    for code in sight.every_code():
        view = [sight.UNSEEN * 7] * 6 + [sight.UNSEEN * 2 + code * 2 + sight.UNSEEN * 3]
        seen = sight.draw(view, 32)[6 * 32 :, 2 * 32 : 4 * 32]
        thing = WorldObj.decode(*map(int, sight.symbols_of([code])[0, 0]))
        for place, agent in ((0, None), (32, 3)):
            tile = Grid.render_tile(thing, agent_dir=agent, highlight=code != sight.UNSEEN, tile_size=32)
            assert np.array_equal(seen[:, place : place + 32], tile.astype(np.uint8))


def test_thirty_two_pixels_a_cell_make_the_picture_224_wide() -> None:
    [example] = missions("GoToLocal", 1)
    assert decode_png(example.image).shape == (224, 224, 3)
    [small] = missions("GoToLocal", 1, tile_px=8)
    assert decode_png(small.image).shape == (56, 56, 3) and small.state == example.state


def test_what_is_seen_in_words_and_boxes() -> None:
    rows = ["??" * 7] * 3 + ["??ew......ew??", "??ew..rb..bc??", "....rb........", "......yk......"]
    described = [thing.words() for thing in sight.things(rows)]
    assert described == [
        "yellow key held",
        "red ball 1 ahead 1 left",
        "red ball 2 ahead",
        "blue door 2 ahead 2 right closed",
    ]
    assert sight.boxes(rows, "ball", 32) == [(64, 160, 96, 192), (96, 128, 128, 160)]
    assert sight.boxes(rows, "yellow key", 32) == [] == sight.boxes(rows, "", 32)
    facts = sight.facts_of(rows)
    assert facts["Held"] == "yellow key" and facts["Ahead"] == "free" and "?? ew .. rb" in facts["View"]


@pytest.mark.parametrize(
    ("name", "wanted", "is_it"),
    [
        ("red ball", "red ball", True),
        ("red ball", "ball", True),
        ("red ball", "red object", True),
        ("red ball", "object", True),
        ("red ball", "blue ball", False),
        ("red ball", "red", True),
        ("red ball", "", False),
        ("wall", "object", False),
    ],
)
def test_a_name_may_leave_something_open(name: str, wanted: str, is_it: bool) -> None:
    assert sight.matches(name, wanted) == is_it


def test_a_mission_follows_from_its_family_and_seed_and_replays_bit_for_bit() -> None:
    world = get_world("babyai")
    for family in ("PutNextLocal", "Synth"):
        example = missions(family, 1)[0]
        again = mission_example(family, int(example.hidden["seed"]))
        assert again == example
        actions = np.random.default_rng(0).choice(ACTIONS, size=40)
        runs = []
        for _ in range(2):
            session = world.open(example)
            seen = []
            for action in actions:
                session.act(f"<answer>{action}</answer>")
                seen.append(session.observe())
            runs.append((seen, session.outcome()))
        assert runs[0] == runs[1]


def test_no_seed_and_no_layout_is_in_two_splits_of_whatever_family() -> None:
    of: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        for family in ("GoToLocal", "PickupLoc"):
            for _, example in zip(range(6), drawn_examples(family, split, 0), strict=False):
                assert example.split == split == split_of(example.data["layout"])
                of.setdefault(split, set()).update((example.data["layout"], f"seed {example.hidden['seed']}"))
    assert not of["train"] & of["val"] and not of["train"] & of["test"] and not of["val"] & of["test"]


def test_a_layout_does_not_hang_on_where_the_agent_stands() -> None:
    env = make_mission("GoToLocal", 0)
    before = layout_hash(env)
    env.step(0)
    assert layout_hash(env) == before
    assert before != layout_hash(make_mission("GoToLocal", 1))


def test_nothing_is_printed_where_minigrid_draws_a_mission_again() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for seed in range(60):
            make_mission("PutNextLocal", seed)
    assert printed.getvalue() == ""


def test_options_shape_examples_and_a_bad_one_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    two = made_examples(
        "babyai", (0,), 4, "test", 0, cell_px=8, options={"family": "GoToLocal,BabyAI-Unlock-v0"}
    )
    assert [example.task for example in two] == ["GoToLocal", "GoToLocal", "Unlock", "Unlock"]
    for options, message in (
        (
            {"family": "GoToLocl"},
            r"no mission family 'GoToLocl'; there are GoToLocal, .*did you mean GoToLoc",
        ),
        ({"famly": "GoTo"}, rf"no option 'famly'; there are {', '.join(KNOWN_OPTIONS)}; did you mean family"),
        ({"tile_px": 3}, "tile_px is 3; it must be a whole number from 4 to 128"),
        ({"steps": "x"}, "steps is x; it must be a whole number"),
    ):
        with pytest.raises(PilotageError, match=message) as caught:
            made_examples("babyai", (0,), 1, "test", 0, options=options)
        assert "\n" not in str(caught.value)
    assert main(["eval", "nano", "--world", "babyai", "--option", "family=GoToLocl", "--num", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_family_that_the_bot_cannot_solve_has_no_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotage.worlds.household.data.PATIENCE", 5)
    with pytest.raises(ImpossibleRequestError, match="its bot may not solve this family"):
        next(drawn_examples("PutNextS5N2Carrying", "train", 0))


def test_an_example_of_another_minigrid_is_refused() -> None:
    [example] = missions("GoToLocal", 1)
    with pytest.raises(PilotageError, match="made with another version of minigrid"):
        get_world("babyai").open(replace(example, data={**example.data, "layout": "0" * 32}))


def test_what_an_action_leads_to_is_told_and_counted() -> None:
    """The room's size bounds the steps ahead; there is nothing to pick up at a wall, and nothing to put down."""
    [example] = missions("GoToLocal", 1, steps=60)
    session = get_world("babyai").open(example)
    seen = None
    for action in ("LEFT", "PICKUP", "DROP", "LEFT"):
        session.act(f"<answer>{action}</answer>")
        seen = session.observe()
        assert seen is not None
        is_turn = action == "LEFT"
        assert seen.text.endswith(f"Last actions: {action}{'' if is_turn else ' (nothing changed)'}.")
    session.act("no action")
    assert session.observe().text.endswith("Last actions: an answer that could not be read.")
    measures = session.outcome().measures
    assert measures["num_steps"] == 4 and measures["num_illegal"] == 2 and measures["num_ineffective"] == 0
    assert measures["num_turns"] == 5 and measures["num_malformed"] == 1 and not measures["parsed"]
    for _ in range(12):
        session.act("<answer>FORWARD</answer>")
    assert session.outcome().measures["num_ineffective"] > 0


def test_the_parts_of_a_mission_that_are_met_are_counted() -> None:
    for example in missions("OpenDoorsOrderN2", 12):
        session = get_world("babyai").open(example)
        met, num = goals_met(session.env)
        assert met == 0 and num in (1, 2)
        if num == 1:
            continue
        shares = [session.outcome().measures["goals_met"]]
        while (plan := get_world("babyai").expert(session)) is not None:
            session.act(f"<answer>{plan[0]}</answer>")
            shares.append(session.outcome().measures["goals_met"])
        assert sorted(set(shares)) == [0.0, 0.5, 1.0] and shares == sorted(shares)
        return
    pytest.fail("no mission of two doors was drawn")


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=30), st.sampled_from(FAMILIES[:5]))
def test_the_expert_arrives_after_whatever_the_student_did(actions: list[str], family: str) -> None:
    world = get_world("babyai")
    [example] = missions(family, 1, steps=600)
    session = world.open(example)
    for action in actions:
        session.act(f"<answer>{action}</answer>")
    while (plan := world.expert(session)) is not None:
        session.act(f"<answer>{plan[0]}</answer>")
    assert session.outcome().success or (session.plan() == () and not session.over)


def test_a_bot_that_raises_is_no_expert_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    from minigrid.utils.baby_ai_bot import BabyAIBot

    examples = missions("GoToLocal", 2)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("nothing left to explore")

    monkeypatch.setattr(BabyAIBot, "replan", fail)
    world = get_world("babyai")
    session = world.open(examples[0])
    session.act("<answer>LEFT</answer>")
    seen = session.observe()
    assert world.expert(session) is None
    assert seen is not None and seen.privileged is not None and seen.privileged.plan == ()
    assert session.outcome().measures["lost"]

    for role, text in (("act", "<answer>LEFT</answer>"), ("schedule", "Query: do(go to ball)")):
        [episode] = played(examples[1:], role, write=always(text))
        # Nobody can tell the scheduler what to ask for: it is wrong, whatever it says.
        assert episode.end == "done" and episode.outcome is not None and not episode.outcome.success
        assert episode.outcome.is_("lost") == (role == "act")


def test_a_bot_that_turns_in_circles_gives_up() -> None:
    stack = expert._Counted([1])
    with pytest.raises(expert.GivesUp):
        while True:
            stack.append(1)
            stack.pop()
