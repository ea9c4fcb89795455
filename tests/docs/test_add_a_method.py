"""`docs/add-a-method.md` does what it says: its code, as it stands, is a method like any other."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distill_run import other_weights, references, rows_of, tiny_examples
from pilotage.errors import PilotageError
from pilotage.runs.runner import run_recipe
from pilotage.train.distill import distill
from pilotage.train.distill_config import FrozenCopy
from pilotage.views import ViewSpec, forget_view, register_view, view_names, view_of
from pilotage.worlds.grids.views import VIEWS
from tiny import tiny_backbone

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"


@pytest.fixture(scope="module")
def coach(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The page's file, imported; its view is forgotten again."""
    [text] = re.findall(
        r'^```python title="coach.py"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    path = tmp_path_factory.mktemp("page") / "coach.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("coach", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    forget_view("hint")
    assert "hint" not in view_names()


def test_it_is_short(coach: ModuleType) -> None:
    assert len(Path(str(coach.__file__)).read_text().splitlines()) < 60


def test_its_teacher_knows_state_and_first_move_and_no_more(coach: ModuleType) -> None:
    example = tiny_examples()[0]
    hint_of = view_of("hint", example.world)
    hint, without_plan = hint_of(example, "brief"), VIEWS["teacher_no_plan"](example, "brief")
    assert not hint.images and hint.name == "hint"
    assert (
        hint.messages[-1]["content"]
        == f"{without_plan.messages[-1]['content']}\nA shortest plan begins with {example.plan[0]}."
    )
    assert hint.messages[:-1] == without_plan.messages[:-1]
    other = example.with_plan((example.plan[0], "L", "L"))
    assert hint_of(other, "brief").messages == hint.messages


def test_it_teaches_what_it_says(coach: ModuleType, tmp_path: Path) -> None:
    """What is seen on every row; route and answer on failures alone."""
    stage = coach.coach().stages[1]
    here = replace(
        stage,
        steps=1,
        warmup_share=0.0,
        prompts_per_step=4,
        perception_share=0.0,
        description=None,
        router=replace(
            stage.router, routes=tuple(replace(route, weights=FrozenCopy()) for route in stage.router.routes)
        ),
    )
    figures = {}
    for name, cut in (("right", False), ("one cut", True)):
        engine = references(tiny_backbone(), break_first=cut)
        distill(
            here,
            student=tiny_backbone(),
            teacher=other_weights(),
            examples=tiny_examples(4 if cut else 5)[:4],
            run_dir=tmp_path / name,
            engine=engine,
        )
        [figures[name]] = rows_of(tmp_path / name)
    assert figures["right"]["rollout/success"] == 1.0 and figures["one cut"]["rollout/success"] == 0.75
    assert figures["right"]["route/coached/tokens"] == 0 < figures["right"]["route/seen/tokens"]
    assert figures["one cut"]["route/coached/tokens"] > 0


def test_the_whole_recipe_runs(coach: ModuleType, tmp_path: Path) -> None:
    whole = coach.coach()
    stage1, stage2 = whole.stages
    small: Any = replace(
        whole,
        levels=(("frozenlake", (3,)),),
        num_train=12,
        num_test=2,
        num_threads=1,
        stages=(
            replace(stage1, steps=1, batch_size=3, micro_batch_size=3),
            replace(stage2, steps=1, warmup_share=0.0, prompts_per_step=3, micro_batch_size=3),
        ),
    )
    summary = run_recipe(small, tmp_path)
    assert list(summary["stages"]) == ["base", "stage1", "stage2"]


def test_a_view_has_a_name_of_its_own() -> None:
    with pytest.raises(PilotageError, match="there is a view 'teacher' already"):
        register_view(ViewSpec(name="teacher", make=VIEWS["student"].make))
    with pytest.raises(PilotageError, match="without_plan 'tea' is not a view"):
        register_view(ViewSpec(name="hinted", make=VIEWS["student"].make, without_plan="tea"))
    assert "hinted" not in view_names()
