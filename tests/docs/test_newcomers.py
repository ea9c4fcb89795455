"""Rows of the README's table "Add your own", each done from outside the package with the files that it names alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from outside import ROOT, installed, run_in
from pilotage.backbones.base import forget_family, model_types, register_family
from pilotage.backbones.encode import encode_views, encode_with_response, images_of_rows
from pilotage.backbones.load import BackboneError, load_backbone
from pilotage.distill.align import predicting_positions
from pilotage.errors import PilotageError
from pilotage.nano.tokenizer import build_nano_tokenizer
from pilotage.recipes.methods import with_teacher
from pilotage.recipes.nano import nano_mgsd
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.runs.runner import run_recipe
from pilotage.train.distill_config import DistillConfig, FrozenCopy
from tiny import TEXTS, generate, image_view, mixed_views, picture, png, text_view
from toy_family import FAMILY, save_toy

PARTS = '''
"""A divergence, an estimator and a token weight."""

from dataclasses import dataclass, replace

from pilotage.distill.divergences import Divergence, ForwardKL
from pilotage.distill.estimators import FullVocabulary


@dataclass(frozen=True, kw_only=True)
class HalfForwardKL:
    """KL(teacher || student) / 2, nats per token."""

    def __call__(self, student_logp_MV, teacher_logp_MV):
        return self.summands(student_logp_MV, teacher_logp_MV).sum(-1)

    def summands(self, student_logp_MV, teacher_logp_MV):
        return ForwardKL().summands(student_logp_MV, teacher_logp_MV) / 2

    def summands_and_slopes(self, student_logp, teacher_logp, student_p, teacher_p):
        summands, slopes = ForwardKL().summands_and_slopes(student_logp, teacher_logp, student_p, teacher_p)
        return summands / 2, slopes / 2


@dataclass(frozen=True, kw_only=True)
class Cooled:
    """The whole vocabulary at temperature 2, times its square."""

    divergence: Divergence
    temperature: float = 2.0

    def __call__(self, *, student, teacher, token_ids_M=None, weight_M=None):
        whole = FullVocabulary(divergence=self.divergence, temperature=self.temperature)
        loss = whole(student=student, teacher=teacher, token_ids_M=token_ids_M, weight_M=weight_M)
        return replace(loss, value_M=loss.value_M * self.temperature**2)


@dataclass(frozen=True, kw_only=True)
class Short:
    """Tokens of answers that are not longer than this."""

    most: int
    signals: tuple[str, ...] = ()

    def __call__(self, row):
        return float(row.num_tokens <= self.most)
'''

RUN = """
from dataclasses import replace
from pathlib import Path
import own_parts
from pilotage.distill.routes import Route, Router
from pilotage.distill.spans import WholeLayout
from pilotage.recipes.methods import routed_stage
from pilotage.recipes.nano import nano_mgsd
from pilotage.runs import run_recipe
from pilotage.train.distill_config import FrozenCopy

whole = nano_mgsd()
route = Route(
    name="halved",
    view="teacher",
    weights=FrozenCopy(source="nano"),
    estimator=own_parts.Cooled(divergence=own_parts.HalfForwardKL()),
    token_weights=(own_parts.Short(most=6),),
)
stage = routed_stage(whole.stages[1], router=Router(layout=WholeLayout(), routes=(route,)))
stage = replace(stage, steps=2, warmup_share=0.0, prompts_per_step=2, micro_batch_size=2, max_new_tokens=6)
stage = replace(stage, perception_share=0.0, description=None, checkpoint_every=1)
small = dict(levels=(("frozenlake", (3,)),), num_train=6, num_test=2, num_threads=1, measure_base=False)
recipe = replace(whole, name="own", stages=(stage,), max_new_tokens=6, **small)
run_recipe(recipe, Path("runs/own"))
"""


# -- a divergence, an estimator, a token weight ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    installed(folder, "own_parts", PARTS, "pilotage.parts", "own_parts = own_parts")
    run_in(folder, "-c", RUN)
    return folder


def test_parts_of_one_s_own_are_recorded_by_their_module(trained: Path) -> None:
    recorded = json.loads((trained / "runs" / "own" / "config.json").read_text())["recipe"]
    [route] = recorded["stages"][0]["router"]["routes"]
    assert route["estimator"]["class"] == "own_parts.Cooled" and route["estimator"]["temperature"] == 2.0
    assert route["estimator"]["divergence"] == {"class": "own_parts.HalfForwardKL"}
    assert route["token_weights"] == [{"class": "own_parts.Short", "most": 6, "signals": []}]


def test_a_run_with_parts_of_one_s_own_goes_on_and_is_measured_by_the_commands(trained: Path) -> None:
    run_dir = trained / "runs" / "own"
    before = (run_dir / "config.json").read_text()
    again = ("-m", "pilotage.cli", "train", "runs/own")
    changed = ("--set", "stage2.router.routes.halved.estimator.divergence=own_parts.HalfForwardKL()")
    assert "holds every stage" in run_in(trained, *again)
    run_in(
        trained,
        "-m",
        "pilotage.cli",
        "eval",
        "runs/own",
        "--conditions",
        "text",
        "--num",
        "2",
        "--max-new-tokens",
        "6",
    )
    assert (run_dir / "eval" / "stage2.text.jsonl").is_file()
    assert "own_parts.HalfForwardKL" in run_in(trained, *again, *changed, "--stage", "stage2", "--dry-run")
    assert (run_dir / "config.json").read_text() == before


def test_a_half_finished_run_with_parts_of_one_s_own_goes_on_where_it_stood(trained: Path) -> None:
    stage = trained / "runs" / "own" / "stage2"
    weights = load_file(stage / "model" / "model.safetensors")
    shutil.rmtree(stage / "model")
    shutil.rmtree(stage / "checkpoint-2")
    assert (stage / "checkpoint-1").is_dir()
    run_in(trained, "-m", "pilotage.cli", "train", "runs/own")
    again = load_file(stage / "model" / "model.safetensors")
    assert weights.keys() == again.keys() and all(torch.equal(weights[name], again[name]) for name in weights)
    steps = [json.loads(line)["step"] for line in (stage.parent / "metrics.jsonl").read_text().splitlines()]
    assert sorted(steps) == [1, 2]


def test_its_route_is_drawn_on_the_page(trained: Path) -> None:
    page = trained / "runs" / "own" / "report.html"
    page.unlink()
    run_in(trained, "-m", "pilotage.cli", "report", "runs/own")
    text = page.read_text()
    assert "Divergence by route" in text and "halved" in text


# -- a measured condition -------------------------------------------------------------------------------------------

LINE = '        Condition(name="whispered", title="its plan whispered", views={"act": "teacher"}),\n'


def test_a_condition_is_a_line_of_its_world(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "add-a-world.md").read_text(encoding="utf-8")
    [world] = re.findall(r'^```python title="lamps.py"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    before = 'views={"act": "symbolic"}),\n'
    assert world.count(before) == 1
    world = world.replace(before, before + LINE)
    installed(tmp_path, "lamps", world, "pilotage.worlds", "lamps = lamps:Lamps")
    measure = ["-m", "pilotage.cli", "eval", "nano", "--world", "lamps", "--num", "2"]
    run_in(tmp_path, *measure, "--conditions", "whispered", "--max-new-tokens", "8", "--out", "runs/lamps")
    rows = (tmp_path / "runs" / "lamps" / "eval" / "base.whispered.jsonl").read_text().splitlines()
    assert {json.loads(row)["condition"] for row in rows} == {"whispered"}
    run_in(tmp_path, "-m", "pilotage.cli", "report", "runs/lamps")
    assert "its plan whispered" in (tmp_path / "runs" / "lamps" / "report.html").read_text()


# -- a family of backbones ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model directory of a family that is registered while its tests run."""
    directory = tmp_path_factory.mktemp("toy") / "model"
    save_toy(directory, build_nano_tokenizer(TEXTS, min_count=1))
    with pytest.raises(BackboneError, match="is a 'llava' model; backbones are gemma3, "):
        load_backbone(directory)
    register_family(FAMILY)
    yield directory
    forget_family(FAMILY)
    assert "llava" not in model_types()


def test_its_pictures_reach_the_model_and_the_answer_follows_the_prompt(toy: Path) -> None:
    backbone = load_backbone(toy)
    views = [
        image_view(png(picture(3, seed=1))),
        text_view("Size: 4."),
        image_view(png(picture(2, 4, seed=2))),
    ]
    encoded = encode_with_response(backbone, views, [[20, 21]] * 3)
    inputs = encoded["inputs"]
    assert (inputs["input_ids"] == backbone.image_token_id).sum(1).tolist() == [9, 0, 9]
    assert [len(values) for values in images_of_rows(encoded)] == [1, 0, 1]
    last = (encoded["prompt_lengths"] + encoded["response_lengths"] - 1).tolist()
    assert [inputs["position_ids"][row, column].item() for row, column in enumerate(last)] == last
    rows, columns = predicting_positions(encoded["response_mask"])
    with torch.no_grad():
        together = backbone.model(**inputs).logits[rows, columns].view(3, 2, -1)
        for row, view in enumerate(views):
            alone = encode_with_response(backbone, [view], [[20, 21]])
            at = predicting_positions(alone["response_mask"])
            torch.testing.assert_close(
                backbone.model(**alone["inputs"]).logits[at], together[row], rtol=1e-4, atol=1e-4
            )
    other = encode_views(backbone, [image_view(png(picture(3, seed=9)))])
    assert not torch.equal(other["pixel_values"], inputs["pixel_values"][:1])


def test_it_decodes_what_its_plain_forward_says(toy: Path) -> None:
    """Greedy rollouts, with beginnings read once and a cache, are those of forwards over the whole."""
    backbone = load_backbone(toy)
    views = mixed_views()
    rollouts = generate(
        TransformersEngine(backbone),
        views,
        example_ids=[str(at) for at in range(len(views))],
        max_new_tokens=5,
    )
    forbidden = list(backbone.vision_token_ids)
    assert backbone.tokenizer.convert_ids_to_tokens(forbidden) == ["<|image_pad|>"]
    for view, rollout in zip(views, rollouts, strict=True):
        encoded = encode_with_response(backbone, [view], [rollout.token_ids])
        with torch.no_grad():
            logits = backbone.model(**encoded["inputs"]).logits
        logits[..., forbidden] = -torch.inf
        assert (
            tuple(logits[predicting_positions(encoded["response_mask"])].argmax(-1).tolist())
            == rollout.token_ids
        )


def test_both_stages_train_it_and_what_they_save_is_of_the_family(toy: Path, tmp_path: Path) -> None:
    whole = nano_mgsd(backbone=str(toy))
    stage1, stage2 = whole.stages
    assert isinstance(stage2, DistillConfig)
    small: Any = replace(
        whole,
        levels=(("frozenlake", (3,)),),
        num_train=12,
        num_test=2,
        num_threads=1,
        max_new_tokens=6,
        stages=(
            replace(stage1, steps=1, batch_size=3, micro_batch_size=3, bf16=False),
            replace(
                with_teacher(stage2, weights=FrozenCopy(source=str(toy))),
                steps=1,
                warmup_share=0.0,
                prompts_per_step=3,
                micro_batch_size=3,
                max_new_tokens=6,
                bf16=False,
            ),
        ),
    )
    summary = run_recipe(small, tmp_path / "run")
    assert list(summary["stages"]) == ["base", "stage1", "stage2"]
    first, last = load_backbone(toy).model, load_backbone(tmp_path / "run" / "stage2" / "model").model
    moved = [
        name
        for (name, before), after in zip(first.named_parameters(), last.parameters(), strict=True)
        if not torch.equal(before, after)
    ]
    assert any(FAMILY.is_vision(name) for name in moved) and any("language_model" in name for name in moved)


def test_a_family_is_known_to_the_commands_through_an_entry_point(toy: Path, tmp_path: Path) -> None:
    support = ROOT / "tests" / "support"
    module = f"import sys\nsys.path.insert(0, {str(support)!r})\nfrom toy_family import FAMILY\n"
    installed(tmp_path, "own_family", module, "pilotage.backbones", "llava = own_family:FAMILY")
    measure = [
        "-m",
        "pilotage.cli",
        "eval",
        str(toy),
        "--recipe",
        "nano",
        "--num",
        "1",
        "--conditions",
        "image",
    ]
    run_in(tmp_path, *measure, "--max-new-tokens", "4", "--out", "runs/toy")
    assert (tmp_path / "runs" / "toy" / "eval" / "base.image.jsonl").is_file()


def test_a_family_s_models_have_no_other(toy: Path) -> None:
    class Another(type(FAMILY)):
        model_types = ("qwen3_vl",)

    with pytest.raises(PilotageError, match="there is a family of 'qwen3_vl' models already"):
        register_family(Another())
