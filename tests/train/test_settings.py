"""Settings that are written and read again are what they were."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, get_args, get_type_hints

import pytest

from pilotage.distill.divergences import JSD, ForwardKL
from pilotage.distill.estimators import FullVocabulary, Sampled, TopK
from pilotage.errors import PilotageError
from pilotage.recipes import RECIPES
from pilotage.runs.changes import changed
from pilotage.runs.recipe import Recipe
from pilotage.train.distill_config import AdapterOff, DistillConfig, FrozenCopy, as_settings, from_settings
from pilotage.train.parts import parts_of

PARTS = parts_of(Recipe)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_as_it_was(name: str) -> None:
    recipe = RECIPES[name](3, backbone="nano")
    assert from_settings(json.loads(json.dumps(as_settings(recipe))), PARTS) == recipe


def test_what_a_configuration_may_hold_is_known_by_name() -> None:
    """Every dataclass that the types of a configuration's fields name, at whatever depth, and what protocols ask."""
    seen: set[type] = set()

    def walk(hint: object) -> None:
        for part in get_args(hint):
            walk(part)
        if isinstance(hint, type) and is_dataclass(hint) and hint not in seen:
            seen.add(hint)
            for part in get_type_hints(hint).values():
                walk(part)

    walk(DistillConfig)
    assert len(seen) > 10
    assert {kind.__name__ for kind in seen} <= set(PARTS)
    of_protocols = {
        "FrozenCopy",
        "AdapterOff",
        "EMA",
        "JSD",
        "ReverseKL",
        "VigosLayout",
        "WholeLayout",
        "RewardGate",
        "Discounted",
    }
    assert of_protocols <= set(PARTS)


@dataclass(frozen=True, kw_only=True)
class Halved:
    """A divergence of one's own, which no module of the package knows."""

    whole: ForwardKL

    def __call__(self, student_logp_MV: Any, teacher_logp_MV: Any) -> Any:
        return 0.5 * self.whole(student_logp_MV, teacher_logp_MV)

    def summands(self, student_logp_MV: Any, teacher_logp_MV: Any) -> Any:
        return 0.5 * self.whole.summands(student_logp_MV, teacher_logp_MV)

    def summands_and_slopes(
        self, student_logp: Any, teacher_logp: Any, student_p: Any, teacher_p: Any
    ) -> Any:
        both = self.whole.summands_and_slopes(student_logp, teacher_logp, student_p, teacher_p)
        return tuple(0.5 * each for each in both)


@dataclass(frozen=True, kw_only=True)
class Firm(FullVocabulary):
    """An estimator of one's own."""


@dataclass(frozen=True, kw_only=True)
class Tilted:
    """A token weight of one's own."""

    signals: tuple[str, ...] = ()

    def __call__(self, row: Any) -> float:
        return 0.5


@dataclass(frozen=True, kw_only=True)
class Unlike:
    """Callable, and no divergence, estimator or token weight."""

    def __call__(self, student_logp_MV: Any) -> Any:
        return student_logp_MV


def test_parts_of_ones_own_are_part_of_a_record_without_being_registered() -> None:
    stage = RECIPES["nano_vigos"](3, backbone="nano").stages[-1]
    assert isinstance(stage, DistillConfig) and stage.router is not None
    route = replace(
        stage.router.routes[0],
        estimator=Firm(divergence=Halved(whole=ForwardKL())),
        token_weights=(Tilted(),),
    )
    own = replace(stage, router=replace(stage.router, routes=(route, *stage.router.routes[1:])))
    settings = json.loads(json.dumps(as_settings(own)))
    assert settings["router"]["routes"][0]["estimator"]["divergence"]["class"] == "test_settings.Halved"
    assert from_settings(settings, parts_of(Recipe)) == own
    assert Unlike not in parts_of(Recipe).values()


def test_a_record_opens_where_no_extra_but_training_is_installed() -> None:
    """The second command on a run called its record damaged where the client for endpoints was not installed."""
    code = """
        import sys
        for name in ("openai", "starlette", "uvicorn", "vllm", "gymnasium", "bitsandbytes", "gguf"):
            sys.modules[name] = None
        from pilotage.errors import PilotageError
        from pilotage.recipes import RECIPES
        from pilotage.runs.recipe import Recipe
        from pilotage.train.distill_config import as_settings, from_settings
        from pilotage.train.parts import parts_of
        recipe = RECIPES["nano"](0, backbone="nano")
        assert from_settings(as_settings(recipe), parts_of(Recipe)) == recipe
        try:
            from_settings({"class": "Distant"}, parts_of(Recipe))
        except PilotageError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'pilotage[endpoint]'" in done.stdout


def test_a_change_may_name_a_part_of_ones_own() -> None:
    recipe = changed(
        RECIPES["nano"](0, backbone="nano"),
        ["stage2.router.routes.plan.estimator.divergence=Halved(whole=ForwardKL())"],
    )
    (route,) = recipe.stages[1].router.routes  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(route.estimator, FullVocabulary)
    assert route.estimator.divergence == Halved(whole=ForwardKL())


def test_a_part_whose_module_is_not_imported_says_so() -> None:
    with pytest.raises(
        PilotageError, match=r"name the class 'coach.Firm'; .*; if it is your own, import coach first"
    ):
        from_settings({"class": "coach.Firm"}, PARTS)


def stage_after(*changes: str, recipe: str = "nano", stage: int = 1) -> Any:
    return changed(RECIPES[recipe](0, backbone="nano"), changes).stages[stage]


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("stage2.lr=1e-6", 1e-6),
        ("stage2.lr=1", 1.0),
        ("stage2.betas=0.9,0.5", (0.9, 0.5)),
        ("stage2.betas=[0.9, 0.5]", (0.9, 0.5)),
        ("stage2.bf16=False", False),
        ("stage2.bf16=false", False),
        ("stage2.schedule=linear", "linear"),
        ("stage2.schedule='linear'", "linear"),
        ("stage2.student_prefill=7", "7"),
        ("stage2.student_prefill=a = b", "a = b"),
        ("stage2.max_prompt_tokens=None", None),
        ("stage2.max_prompt_tokens=null", None),
    ],
)
def test_a_text_becomes_what_its_field_holds(change: str, value: Any) -> None:
    found = getattr(stage_after(change), change.partition("=")[0].removeprefix("stage2."))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("weights=AdapterOff()", AdapterOff()),
        ('weights={"class": "AdapterOff"}', AdapterOff()),
        ("weights=FrozenCopy(source='/models/7B')", FrozenCopy(source="/models/7B")),
        ("estimator=Sampled(as_=advantage)", Sampled(as_="advantage")),
        ("estimator=TopK(k=5, divergence=JSD(beta=0.1))", TopK(k=5, divergence=JSD(beta=0.1))),
    ],
)
def test_a_text_becomes_what_a_route_s_field_holds(change: str, value: Any) -> None:
    recipe = changed(
        RECIPES["nano"](0, backbone="nano"),
        [f"stage2.router.routes.plan.{change}", "stage2.lora=LoraSettings(rank=2, alpha=4)"],
    )
    (route,) = recipe.stages[1].router.routes  # pyright: ignore[reportAttributeAccessIssue]
    assert getattr(route, change.partition("=")[0]) == value


def test_a_path_leads_through_tuples_by_name_and_by_number() -> None:
    by_name = stage_after("stage2.router.routes.reference.scale=3", recipe="nano_vigos")
    assert by_name == stage_after("stage2.router.routes.2.scale=3", recipe="nano_vigos")
    assert [route.scale for route in by_name.router.routes] == [1.0, 1.0, 3.0]
    recipe = changed(RECIPES["nano"](0, backbone="nano"), ["levels.1.1=3,"])
    assert recipe.levels[1] == ("maze", (3,))


def test_changes_of_one_part_are_made_at_once_whatever_their_order() -> None:
    few = ("stage2.steps=3", "stage2.warmup_share=0.5")
    assert stage_after(*few) == stage_after(*reversed(few))
    whole_first = stage_after(
        "stage2.router.routes.plan.estimator.divergence.beta=0.25",
        "stage2.router.routes.plan.estimator.divergence=JSD(beta=0.5)",
    )
    assert whole_first.router.routes[0].estimator.divergence == JSD(beta=0.25)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"class": "Popen", "args": ["true"]}, "name the class 'Popen'"),
        ({"class": "JSD", "alpha": 1}, "give a JSD the fields"),
        ({"class": "DistillConfig", "steps": 1}, "of a DistillConfig are not whole"),
    ],
)
def test_what_is_no_configuration_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(PilotageError, match=says):
        from_settings(settings, PARTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage1.optimiser=AdamW(eps=-1.0)", "eps -1.0 of AdamW must be above 0"),
        ("stage2.lora=LoraSettings(rank=4, alpha=-1)", "alpha -1 and dropout 0.0: alpha must be above 0"),
        ("stage2.lora=LoraSettings(rank=4, alpha=8, dropout=2.0)", "dropout 2.0: .* below 1"),
        (
            "stage2.lora=LoraSettings(rank=4, alpha=8, target_modules='(')",
            r"target_modules '\(' are no regular expression",
        ),
    ],
)
def test_settings_that_no_training_could_take_are_refused_at_once(change: str, message: str) -> None:
    with pytest.raises(PilotageError, match=message):
        changed(RECIPES["nano"](0, backbone="nano"), [change])
