"""`pilotage worlds` tells what a world can be asked for, and every world that is registered."""

from __future__ import annotations

import pytest

from pilotage.cli.main import main
from pilotage.worlds.registry import get_world, world_names


def test_every_world_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(world_names())
    [steps] = [line for line in lines if line.startswith("maze_steps ")]
    assert "image, text" in steps and steps.endswith("has an expert")


@pytest.mark.parametrize("name", world_names())
def test_all_that_a_world_declares_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    world = get_world(name)
    assert main(["worlds", name]) == 0
    facts = {
        line.split("  ")[0]: line.partition("  ")[2].strip() for line in capsys.readouterr().out.splitlines()
    }
    assert facts["title"] == world.title and facts["measures"] == ", ".join(m.name for m in world.measures)
    assert {f"condition {condition.name}" for condition in world.conditions} <= facts.keys()
    assert set(facts["ends"].split(", ")) == set(world.reasons)
    assert ("options" in facts) == (name.endswith("_steps") or name in ("questions", "driving", "babyai"))


def test_what_is_told_of_options_is_what_eval_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds", "frozenlake_steps"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("options")]
    options = line.removeprefix("options").strip()
    assert main(["eval", "nano", "--world", "frozenlake_steps", "--option", "nonsense=1", "--num", "1"]) == 2
    assert f"there are {options}" in capsys.readouterr().err


def test_an_unknown_world_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds", "mazes"]) == 2
    assert "unknown world 'mazes'" in capsys.readouterr().err
