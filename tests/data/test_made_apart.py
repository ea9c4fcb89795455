"""Examples made in a process of their own: the same ones, and a world that fails there costs one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import misbehaving_world
from misbehaving_world import example
from pilotage.cli.main import main
from pilotage.data.made import made_examples, makes_examples, own_levels
from pilotage.data.made_apart import MadeApart
from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.recipes import RECIPES
from pilotage.records import Split
from pilotage.rollouts.sessions import SessionsApart, SessionsHere, sessions_named
from pilotage.runs.measurement import examples_of
from pilotage.worlds import world_names

APART = MadeApart(timeout_s=60.0, open_timeout_s=120.0)
QUICK = MadeApart(timeout_s=0.5, open_timeout_s=60.0)


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the misbehaving world is installed, for this process and those that it starts."""
    with misbehaving_world.installed(tmp_path_factory.mktemp("installed")) as folder:
        yield folder


def made(how: MadeApart, count: int = 4) -> list[str]:
    return [one.id for one in how("misbehaving", (0,), count, "test", 0)]


@pytest.mark.parametrize("name", [name for name in world_names() if makes_examples(name)])
def test_examples_are_the_same_here_and_apart(name):
    levels = own_levels(name)[:2]
    cases: list[tuple[Split, int, dict[str, Any]]] = [("train", 3, {}), ("test", 0, {"cell_px": None})]
    for split, seed, how in cases:
        # To the last bit: 1 and 1.0 are equal.
        apart = [repr(one) for one in APART(name, levels, 7, split, seed, **how)]
        assert apart == [repr(one) for one in made_examples(name, levels, 7, split, seed, **how)]
        assert len(apart) >= 7


def test_so_are_those_of_a_world_in_a_package_however_many_messages_they_take():
    assert APART("misbehaving", (0,), 3000, "val", 0) == made_examples("misbehaving", (0,), 3000, "val", 0)


def test_what_is_asked_wrong_is_said_as_it_is_here():
    for ask in (made_examples, APART):
        with pytest.raises(
            PilotageError, match="levels \\[3, 3\\] must name at least one level, and none twice"
        ):
            ask("frozenlake", (3, 3), 4, "train", 0)
        with pytest.raises(PilotageError, match="'nowhere'"):
            ask("nowhere", (0,), 4, "train", 0)


@pytest.mark.parametrize(
    ("misdeed", "message"),
    [
        ("hang", "no answer to examples within 0.5 s; where it is only slow, give it more"),
        ("exit", "its process ended with status 3 during examples"),
        ("kill", "its process was ended by SIGKILL during examples"),
        ("garbage", "its process broke the protocol during examples: what came is no message"),
        ("false_answer", "its process broke the protocol during examples: it answered something else"),
        ("raise", "RuntimeError: the simulator lost its level"),
    ],
)
def test_a_world_that_fails_while_it_makes_examples_is_asked_again_and_costs_one_line(
    misdeed, message, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("MAKING", misdeed)
    with pytest.raises(PilotageError) as refused:
        made(QUICK)
    line = "the world misbehaving broke off 3 times while it made its examples, when 1 of 4 were there: "
    assert str(refused.value).startswith(line + message)
    assert sum("beginning again" in logged for logged in caplog.messages) == 2
    monkeypatch.setenv("MAKING_MARKER", str(tmp_path / "marker"))
    assert made(QUICK) == [example(number).id for number in range(4)]


def test_what_a_world_prints_meanwhile_goes_to_standard_error(monkeypatch, capfd):
    monkeypatch.setenv("MAKING", "chatter")
    assert len(made(APART)) == 4
    out, err = capfd.readouterr()
    assert not out and "from a process of its own" in err


def test_recipes_and_commands_make_theirs_where_their_episodes_live(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = RECIPES.measurement("nano")
    assert examples_of(recipe, "val", SessionsApart(num_processes=1)) == examples_of(recipe, "val")
    assert SessionsHere().make is made_examples
    assert sessions_named("2:300").make == MadeApart(timeout_s=300.0, open_timeout_s=300.0)
    monkeypatch.setenv("MAKING", "exit")
    words = ["eval", "nano", "--world", "misbehaving", "--num", "4", "--max-new-tokens", "4", "--out", "out"]
    assert main([*words, "--worlds-apart", "2"]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("pilotage: error: the world misbehaving broke off 3 times while it made its examples")
    )
    levels = ["--set", 'levels=[["misbehaving", [0]]]', "--set", "num_train=4"]
    train = ["train", "run", "--recipe", "nano", "--stage", "stage2", "--from", "nano", *levels]
    assert main([*train, "--worlds-apart", "2"]) == 2
    assert "broke off 3 times while it made its examples" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("run").exists()
    monkeypatch.setenv("MAKING_MARKER", str(tmp_path / "marker"))
    assert main([*words, "--worlds-apart", "2"]) == 0
    rows = read_jsonl(Path("out") / "eval" / "base.image.jsonl").rows
    assert sorted(row["id"] for row in rows) == [example(number).id for number in range(4)]
