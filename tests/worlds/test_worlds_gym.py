"""Gymnasium both ways: its environments as worlds, our worlds as its environments."""

from __future__ import annotations

import ast
import importlib.util
import io
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pilotage.errors import PilotageError
from pilotage.evaluate import evaluate
from pilotage.records import Rollout, View
from pilotage.rollouts.play import Start, Writer, play
from pilotage.views import make_view, reference_of_view
from pilotage.worlds import TASKS
from pilotage.worlds.registry import forget_world, get_world
from pilotage.worlds.world import HasExpert, World, check_outcome

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("pygame")
pytest.importorskip("minigrid")
warnings.filterwarnings("ignore", category=UserWarning, module="pygame")

FILE = Path(__file__).parents[2] / "examples" / "gym_worlds.py"
NAMES = ("taxi", "cliff", "room")


@pytest.fixture(scope="module")
def worlds() -> Any:
    spec = importlib.util.spec_from_file_location("gym_worlds", FILE)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["gym_worlds"] = module
    spec.loader.exec_module(module)
    yield module
    for name in NAMES:
        forget_world(name)


def examples_of(name: str, count: int = 4) -> list[Any]:
    return get_world(name).examples(1 if name == "cliff" else count, "train")


def show(moment: Any) -> View:
    return make_view("student", moment, "brief")


def expert(moment: Any, view: View) -> Rollout:
    text = reference_of_view(moment, view.name)
    return Rollout(example_id=moment.example.id, token_ids=(), text=text, finished=True)


def test_each_world_is_defined_in_under_twenty_lines() -> None:
    for node in ast.parse(FILE.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("GymWorld"):
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 20


@pytest.mark.parametrize("name", NAMES)
def test_the_expert_s_words_win_every_episode(worlds: ModuleType, name: str) -> None:
    starts = [Start(example=example) for example in examples_of(name)]
    for episode in play(starts, writer=Writer(write=expert), show=show):
        assert episode.outcome is not None and episode.outcome.success and episode.end == "done"
        privileged = episode.turns[0].seen.privileged
        assert privileged is not None and len(episode.turns) == len(privileged.plan)
        check_outcome(get_world(name), episode.outcome)


@pytest.mark.parametrize("name", NAMES)
def test_a_world_has_the_capability_of_an_expert_where_there_is_one(worlds: ModuleType, name: str) -> None:
    assert isinstance(get_world(name), HasExpert)
    world: Any = get_world(name)
    session = world.open(examples_of(name)[0])
    while (plan := world.expert(session)) is not None:
        seen = session.observe()
        assert seen is not None and seen.privileged is not None and seen.privileged.plan == plan
        session.act(f"<answer>{plan[0]}</answer>")
    assert session.outcome().success and session.observe() is None
    session.close()
    without = replace(world, expert_of_env=None)
    assert isinstance(without, World) and not isinstance(without, HasExpert)


@pytest.mark.parametrize("name", NAMES)
def test_words_that_are_no_action_are_wasted_turns_and_no_errors(worlds: ModuleType, name: str) -> None:
    session = get_world(name).open(examples_of(name)[0])
    for text in ("", "<answer></answer>", "<answer>FLY</answer>", "no block", "\ud800"):
        session.act(text)
    outcome = session.outcome()
    assert not outcome.success and not outcome.is_("parsed") and outcome.measures["num_turns"] == 5
    session.close()
    session.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_student_is_shown_nothing_privileged(worlds: ModuleType, name: str) -> None:
    example = examples_of(name)[0]
    seen = make_view("student", example, "full")
    assert seen == make_view("student", example.public(), "full") and len(seen.images) == 1
    assert "expert" in str(make_view("teacher", example, "full").messages)


def test_examples_are_a_function_of_their_arguments_and_no_start_is_in_two_splits(worlds: ModuleType) -> None:
    taxi = get_world("taxi")
    train, test = taxi.examples(12, "train"), taxi.examples(6, "test")
    assert [e.id for e in train] == [e.id for e in taxi.examples(12, "train")]
    assert not {e.id for e in train} & {e.id for e in test}
    assert len({e.id for e in train}) == 12


def test_an_environment_that_begins_otherwise_than_it_did_is_an_error(worlds: ModuleType) -> None:
    example = examples_of("taxi")[0]
    changed = replace(example, data={**example.data, "seed": example.data["seed"] + 1})
    with pytest.raises(PilotageError, match="does not begin as it did"):
        get_world("taxi").open(changed)


def test_a_start_that_is_known_by_its_picture_is_the_same_however_it_is_compressed(
    worlds: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = replace(worlds.taxi, state=None, facts=None, expert_of_env=None)

    def uncompressed(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()

    found = unread.examples(3, "train")
    monkeypatch.setattr("pilotage.worlds.gym.encode_png", uncompressed)
    again = unread.examples(3, "train")
    assert [e.id for e in again] == [e.id for e in found]
    assert [len(e.image) for e in again] > [len(e.image) for e in found]
    assert unread.open(found[0]).digest == found[0].data["start"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_measured_as_every_world_is(worlds: ModuleType, name: str, tmp_path: Path) -> None:
    class ByChance:
        def generate(self, requests: Any, decoding: Any) -> list[Rollout]:
            rng = np.random.default_rng(len(requests))
            words = get_world(name).actions
            return [
                Rollout(
                    example_id=request.example_id,
                    token_ids=(1,),
                    text=f"<answer>{words[int(rng.integers(len(words)))]}</answer>",
                    finished=True,
                )
                for request in requests
            ]

    summary = evaluate(
        ByChance(),  # pyright: ignore[reportArgumentType]
        examples_of(name, 2),
        stage="base",
        prompts="brief",
        max_new_tokens=8,
        out=tmp_path,
        conditions=get_world(name).usual,
    )
    for condition in get_world(name).usual:
        cell = summary.conditions[condition].tasks[name]
        assert cell.rates["parsed"].mean == 1.0 and cell.numbers["num_turns"].mean > 1


@pytest.mark.parametrize("suffix", ["", "_steps"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_our_worlds_pass_gymnasium_s_own_checker(task: Any, suffix: str) -> None:
    from gymnasium.utils.env_checker import check_env

    from pilotage.data.gym_env import register_gym

    [name] = register_gym(task.name + suffix)
    env = gymnasium.make(name).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
    observation, _ = env.reset(seed=5)
    assert set(observation) == {"image", "text"}
    _, reward, terminated, _, _ = env.step(0 if suffix else "no plan at all")
    assert reward == 0.0 and (suffix or terminated)


@pytest.mark.parametrize("name", [*(task.name for task in TASKS), "maze_steps", "room"])
def test_a_world_is_an_environment_with_the_examples_that_it_makes(worlds: ModuleType, name: str) -> None:
    from pilotage.data.gym_env import WorldEnv, default_examples

    examples = default_examples(name, count=4)
    env = WorldEnv(name, examples)
    _, info = env.reset(options={"example": examples[1].id})
    assert info == {"example": examples[1].id} and {example.split for example in examples} == {"train"}
    shown = [env.reset(options={"example": example.id})[0]["image"].shape for example in examples]
    assert len(set(shown)) == 1


@pytest.mark.parametrize("name", [f"{task.name}_steps" for task in TASKS])
def test_at_the_end_the_picture_is_that_behind_the_last_move(name: str) -> None:
    from pilotage.data.gym_env import WorldEnv, default_examples
    from pilotage.worlds.drawing import decode_png
    from pilotage.worlds.grids.steps import picture

    [example] = default_examples(name, count=1)
    task: Any = get_world(name).task  # pyright: ignore[reportAttributeAccessIssue]
    env = WorldEnv(name, [example])
    env.reset()
    state = was = task.parse_state(example.state)
    terminated, observation = False, {}
    for word in example.plan:
        observation, _, terminated, _, _ = env.step(task.actions.index(word))
        state, was = task.after(state, word)[0], state
    assert terminated
    end = task.ended(was, example.plan[-1])
    np.testing.assert_array_equal(observation["image"], decode_png(picture(task, end, 32)))
    assert not np.array_equal(observation["image"], decode_png(picture(task, was, 32)))


def test_at_the_end_of_a_gymnasium_episode_its_last_frame_is_seen(worlds: ModuleType) -> None:
    from pilotage.data.gym_env import WorldEnv

    [example] = examples_of("cliff", 1)
    assert example.start.privileged is not None
    env = WorldEnv("cliff", [example])
    env.reset()
    frames = [env.render()]
    for word in example.start.privileged.plan:
        observation, _, terminated, _, _ = env.step(get_world("cliff").actions.index(word))
        frames.append(observation["image"])
    assert terminated and not np.array_equal(frames[-1], frames[-2])
