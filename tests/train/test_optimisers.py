"""Every optimiser moves the weights of a model in bfloat16 at a learning rate of 1e-6, and goes on after a kill."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

import sft_run
from distill_run import references, tiny_config, tiny_examples
from pilotage.backbones.load import Backbone, LoraSettings, load_backbone
from pilotage.errors import PilotageError
from pilotage.recipes import RECIPES
from pilotage.runs.changes import changed
from pilotage.runs.runner import load_student
from pilotage.train.distill import distill
from pilotage.train.optimisers import AdamW, AdamW8bit, AdamWKahan, prepared
from pilotage.train.settings import as_settings
from pilotage.train.sft import run_sft
from tiny import tiny_backbone


def _offered(kind: AdamW) -> Any:
    missing = kind.library is not None and importlib.util.find_spec(kind.library) is None
    marks = pytest.mark.skipif(missing, reason=f"{kind.library} is not installed")
    return pytest.param(kind, id=type(kind).__name__, marks=marks)


OFFERED = [_offered(kind) for kind in (AdamW(), AdamWKahan(), AdamW8bit())]
NEEDS_KAHAN = _offered(AdamWKahan()).marks


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def student_of(stage: str, dtype: torch.dtype) -> Backbone:
    """The same numbers in either precision."""
    backbone = tiny_backbone() if stage == "distill" else sft_run.fresh()
    backbone.model.to(torch.bfloat16).to(dtype)
    return backbone


def trained_model(stage: str, run_dir: Path, student: Backbone, optimiser: AdamW, **more: Any) -> Path:
    settings = {"steps": 12, "optimiser": optimiser} | more
    if stage == "sft":
        rate = {"lr": 1e-6, "schedule": "constant"}
        return run_sft(replace(sft_run.CONFIG, **(rate | settings)), student, sft_run.EXAMPLES, run_dir)
    return distill(
        tiny_config(**({"lr": 1e-6, "max_new_tokens": 200} | settings)),
        student=student,
        examples=tiny_examples(),
        run_dir=run_dir,
        engine=references(tiny_backbone()),
    )


def movement(stage: str, directory: Path) -> torch.Tensor:
    """[weights] float64: the saved model less the student as it was at first."""
    before = student_of(stage, torch.float32).model.state_dict()
    after = load_file(directory / "model.safetensors")
    return torch.cat([(after[name].double() - before[name].double()).flatten() for name in sorted(after)])


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory: pytest.TempPathFactory):
    """Stage -> the movement that every other is held to."""
    made: dict[str, torch.Tensor] = {}

    def of(stage: str) -> torch.Tensor:
        if stage not in made:
            student = student_of(stage, torch.float32)
            made[stage] = movement(
                stage, trained_model(stage, tmp_path_factory.mktemp(stage), student, AdamW())
            )
        return made[stage]

    return of


@pytest.mark.parametrize("stage", ["distill", "sft"])
@pytest.mark.parametrize("optimiser", OFFERED)
def test_it_moves_the_weights_as_float32_does(
    tmp_path: Path, in_float32: Any, caplog: pytest.LogCaptureFixture, optimiser: AdamW, stage: str
) -> None:
    expected = in_float32(stage)
    student = student_of(stage, torch.bfloat16)
    moved = movement(stage, trained_model(stage, tmp_path, student, optimiser))
    assert float(torch.nn.functional.cosine_similarity(moved, expected, dim=0)) > 0.95
    assert float(moved.norm() / expected.norm()) == pytest.approx(1.0, abs=0.05)
    assert not [record for record in caplog.records if "weights" in record.message]


@dataclass(frozen=True, kw_only=True)
class InSixteenBits(AdamW):
    """One's own, which rounds its updates away."""

    has_masters: ClassVar[bool] = False


def test_an_optimiser_of_ones_own_that_hardly_moves_the_weights_is_told_of_before_and_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student = student_of("distill", torch.bfloat16)
    trained_model("distill", tmp_path, student, InSixteenBits(), steps=2)
    before, after = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "updates of" in before and "are rounded away" in before and "AdamWKahan()" in before
    assert "after 2 steps" in after and "of the trained weights have changed" in after


@pytest.mark.parametrize("stage", ["distill", "sft"])
@pytest.mark.parametrize("optimiser", OFFERED)
def test_gone_on_with_it_ends_as_if_it_had_not_been_stopped(
    tmp_path: Path, optimiser: AdamW, stage: str
) -> None:
    rate = {"lr": 1e-5} if stage == "distill" else {"lr": 1e-5}
    settings = {"steps": 4, "checkpoint_every": 2} | rate
    for name, kill in (("whole", False), ("stopped", True)):
        run_dir = tmp_path / name
        trained_model(stage, run_dir, student_of(stage, torch.bfloat16), optimiser, **settings)
        if kill:
            folder = run_dir / ("stage2" if stage == "distill" else "stage1")
            for gone in (folder / "model", folder / "checkpoint-4"):
                gone.rename(gone.with_name(f"was-{gone.name}"))
            trained_model(stage, run_dir, student_of(stage, torch.bfloat16), optimiser, **settings)
    assert torch.equal(
        *(movement(stage, next((tmp_path / name).glob("stage*/model"))) for name in ("whole", "stopped"))
    )


def test_masters_are_of_what_trains_and_say_what_the_model_computes_in() -> None:
    student = prepared(student_of("distill", torch.bfloat16), AdamW(), None, seed=0)
    assert student.model.dtype == torch.float32 and student.computes_in == torch.bfloat16
    adapted = prepared(student_of("distill", torch.bfloat16), AdamW(), LoraSettings(rank=2, alpha=4), seed=0)
    dtypes = {(p.requires_grad, p.dtype) for p in adapted.model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)} and adapted.computes_in is None
    assert prepared(student_of("distill", torch.float32), AdamW(), None, seed=0).computes_in is None


def test_a_stage_after_a_stage_reads_masters_as_they_were_written(tmp_path: Path) -> None:
    directory = trained_model("distill", tmp_path, student_of("distill", torch.bfloat16), AdamW(), steps=2)
    recipe = replace(RECIPES["nano"](0, backbone="nano"), dtype="bfloat16")
    student = load_student(recipe, recipe.stages[-1], str(directory))
    stored = load_file(directory / "model.safetensors")
    held = dict(student.model.named_parameters())
    assert student.computes_in == torch.bfloat16
    assert all(torch.equal(held[name], stored[name]) for name in held if name in stored)
    assert load_backbone(directory, dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_run_of_before_in_16_bits_is_not_gone_on_with_in_silence(tmp_path: Path) -> None:
    trained_model("distill", tmp_path, student_of("distill", torch.bfloat16), InSixteenBits(), steps=1)
    path = tmp_path / "stage2" / "settings.json"
    kept = json.loads(path.read_text())
    del kept["optimiser"]  # as it was written before there were others
    path.write_text(json.dumps(kept))
    with pytest.raises(PilotageError, match='masters nothing, now "float32"'):
        trained_model("distill", tmp_path, student_of("distill", torch.bfloat16), AdamW(), steps=1)


def test_the_recipe_says_which_and_the_command_line_changes_it() -> None:
    recipe = RECIPES["mgsd"](0, backbone="nano")
    assert [type(stage.optimiser).__name__ for stage in recipe.stages] == ["AdamW", "AdamWKahan"]
    other = changed(recipe, ["stage2.optimiser=AdamW8bit(eps=1e-6)", "stage1.optimiser=AdamWKahan()"])
    assert [stage.optimiser for stage in other.stages] == [AdamWKahan(), AdamW8bit(eps=1e-6)]
    assert "optimiser" not in as_settings(recipe.stages[0])
    with pytest.raises(PilotageError, match="AdamWKahan"):
        changed(recipe, ["stage2.optimiser=Adam()"])


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PilotageError, match=r"needs bitsandbytes.*pilotage\[bnb\]"):
        AdamW8bit().check()
    AdamW().check()
