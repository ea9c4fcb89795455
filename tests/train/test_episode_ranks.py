"""Ranks whose episodes are of unequal lengths train the weights of one process, with whole and with sharded parameters.

Rank 0 has episodes of one turn, rank 1 of four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from counted_world import counted, known
from distill_run import rows_of, tiny_config
from pilotage.backbones.load import Backbone
from pilotage.distill.divergences import ForwardKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.distill.routes import Route, Router
from pilotage.distill.spans import MgsdLayout
from pilotage.distill.token_weights import ImportanceCap
from pilotage.errors import PilotageError
from pilotage.recipes.methods import grpo_stage
from pilotage.records import Example
from pilotage.rollouts.engine import Decoding
from pilotage.rollouts.sources import FromDataSet, FromStudent, FromTeacher, Mixture
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train.distill import DistillTrainer
from pilotage.train.distill_config import DistillConfig, Live
from pilotage.train.distill_setup import check_sharing
from pilotage.train.step.order import ExampleOrder
from ranks import NUM_RANKS, on_ranks, shard
from tiny import tiny_backbone

STEPS, PROMPTS = 2, 4
LEARNING_RATE = 0.02
SHARDED = [("layers", name) for name in ("distilled", "rewarded", "broken", "some pictures", "mixed")]
SHARDED += [("root", "mixed")]
"""(how the parameters are shared out, what is trained)"""


def student() -> Backbone:
    """Many ids end a turn, so that answers differ in length."""
    backbone = tiny_backbone()
    ends = range(0, len(backbone.tokenizer), 12)
    return replace(backbone, eos_ids=tuple(token for token in ends if token not in backbone.vision_token_ids))


def examples(*, pictures: str = "all", breaks: bool = False) -> list[Example]:
    """Dealt so that rank 0 has the short episodes of every step; with `breaks` they break off, all of them."""
    num = STEPS * PROMPTS
    blank = [counted(number, turns=1) for number in range(num)]
    order = ExampleOrder(blank, prompts_per_step=PROMPTS, seed=0)
    found = {}
    for step in range(STEPS):
        for slot in order.slots(step):
            number = int(slot.example.data["number"])
            is_first = slot.index < PROMPTS // NUM_RANKS
            found[number] = counted(
                number,
                turns=1 if is_first else 4,
                pictures="all" if is_first else pictures,
                fails=breaks and is_first,
            )
    return [found[number] for number in range(num)]


def config(**changes: Any) -> DistillConfig:
    settings: dict[str, Any] = {"steps": STEPS, "prompts_per_step": PROMPTS, "max_new_tokens": 8, "seed": 0}
    return tiny_config(**settings | changes)


def mixed() -> DistillConfig:
    """Two routes of the student's own weights over some rows each, one of them with a signal; three sources."""
    forward = FullVocabulary(divergence=ForwardKL())
    with_state = Route(name="told", view="teacher", weights=Live(), estimator=forward, rows="valid")
    seen = Route(
        name="seen",
        view="student",
        weights=Live(),
        estimator=forward,
        images="none",
        rows="invalid",
        token_weights=(ImportanceCap(cap=2.0),),
    )
    sources = Mixture(
        parts=(
            (0.4, FromStudent()),
            (0.3, FromDataSet()),
            (0.3, FromTeacher(view="teacher", weights=Live())),
        )
    )
    return config(
        router=Router(layout=MgsdLayout(), routes=(with_state, seen)),
        sources=sources,
        max_new_tokens=40,
    )


CASES: dict[str, Callable[[], tuple[DistillConfig, list[Example]]]] = {
    "distilled": lambda: (config(), examples()),
    "rewarded": lambda: (grpo_stage(config(), num_samples=3, kl_coef=0.1), examples()),
    "broken": lambda: (config(), examples(breaks=True)),
    "some pictures": lambda: (config(micro_batch_size=1), examples(pictures="some")),
    "mixed": lambda: (mixed(), examples(pictures="some")),
}
every_case = pytest.mark.parametrize("name", CASES)


def trainer_of(name: str, run_dir: Path) -> DistillTrainer:
    stage, dealt = CASES[name]()
    trainer = DistillTrainer(stage, student=student(), examples=dealt, run_dir=run_dir)
    # A step along the gradient itself: Adam's first ones are of one size however small the gradient is.
    trainer.optimizer = torch.optim.SGD(trainer.student.model.parameters(), lr=LEARNING_RATE)
    return trainer


def weights_of(trainer: DistillTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.student.model.named_parameters()}


def trained(name: str, run_dir: Path) -> dict[str, torch.Tensor]:
    trainer = trainer_of(name, run_dir)
    trainer.run()
    return weights_of(trainer)


def trained_by_steps(name: str, run_dir: Path, layout: str | None) -> tuple[dict[str, torch.Tensor], list]:
    """The steps one by one, without the trainer's loop: accelerate would not shard on a CPU."""
    trainer = trainer_of(name, run_dir)
    model = trainer.student.model
    if layout is not None:
        shard(model, layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    rows = []
    for step in range(STEPS):
        trainer.training_step(trainer.model, {"step": step})
        optimizer.step()
        optimizer.zero_grad()
        trainer.state.global_step += 1
        rows.append({key: value for key, value in trainer._metrics.items() if "time" not in key})
    weights = weights_of(trainer)
    if layout is not None:
        weights = {key: weight.full_tensor() for key, weight in weights.items()}  # pyright: ignore[reportAttributeAccessIssue]
    return weights, rows


def on_a_rank(rank: int, folder: str) -> None:
    with known():
        for name in CASES:
            weights = trained(name, Path(folder) / name)
            layouts = [layout for layout, sharded in SHARDED if sharded == name]
            found = {
                layout: trained_by_steps(name, Path(folder) / layout / name, layout) for layout in layouts
            }
            if rank == 0:
                torch.save({"whole": weights, **found}, Path(folder) / f"{name}.pt")


def check_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    begun = dict(student().model.named_parameters())
    moved = sum(not torch.allclose(begun[key], weight, atol=1e-5) for key, weight in expected.items())
    assert moved > len(begun) // 2
    for key, weight in expected.items():
        torch.testing.assert_close(
            found[key], weight, rtol=1e-4, atol=2e-6, msg=lambda message, key=key: f"{key}: {message}"
        )


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    torch.set_num_threads(1)
    with known():
        for name in CASES:
            found = {
                "whole": trained(name, folder / name),
                "steps": trained_by_steps(name, folder / "steps" / name, None),
            }
            torch.save(found, folder / f"{name}.pt")
    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    on_ranks(on_a_rank, folder)
    return folder


def of_case(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / f"{name}.pt", weights_only=False)


@pytest.mark.slow
@every_case
def test_ranks_with_unequal_episodes_train_the_weights_of_one_process(two_ranks, one_process, name):
    check_weights(of_case(two_ranks, name)["whole"], of_case(one_process, name)["whole"])


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "name"), SHARDED)
def test_so_they_do_with_sharded_parameters(two_ranks, one_process, layout, name):
    weights, rows = of_case(two_ranks, name)[layout]
    expected, expected_rows = of_case(one_process, name)["steps"]
    check_weights(weights, expected)
    for row, other in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.slow
@every_case
def test_figures_are_counted_over_all_ranks(two_ranks, one_process, name):
    rows, expected = rows_of(two_ranks / name), rows_of(one_process / name)
    assert len(rows) == STEPS
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        assert {k: v for k, v in row.items() if k != "stage"} == pytest.approx(
            {k: v for k, v in other.items() if k != "stage"}, rel=1e-3, abs=1e-5
        )
        # Two episodes of one turn and two of four; the short ones are rank 0's.
        assert row.get("episode/world_failed", 0.0) == (2.0 if name == "broken" else 0.0)
        if name == "mixed":
            assert row["route/told/tokens"] > 0 and row["route/seen/tokens"] > 0
        else:
            assert row["episode/turns"] == (4.0 if name == "broken" else 2.5)
            assert {"turn/kl_0", "turn/kl_1", "turn/kl_2-3"} <= row.keys()


def test_a_step_whose_worlds_all_break_off_teaches_nothing_and_goes_on(tmp_path, caplog):
    broken = [counted(number, turns=2, fails=True) for number in range(PROMPTS)]
    with known():
        trainer = DistillTrainer(config(), student=student(), examples=broken, run_dir=tmp_path)
        trainer.run()
    assert [row["episode/world_failed"] for row in rows_of(tmp_path)] == [PROMPTS] * STEPS
    assert "the worlds broke off every episode" in caplog.text
    begun = dict(student().model.named_parameters())
    assert all(torch.equal(begun[name], weight) for name, weight in weights_of(trainer).items())


@pytest.mark.parametrize(
    ("accelerator", "remedy"),
    [
        (SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=False), "set fsdp_version to 2"),
        (
            SimpleNamespace(
                distributed_type=DistributedType.DEEPSPEED,
                state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3)),
            ),
            "zero_stage 3 .* set it to 2",
        ),
    ],
)
def test_ways_of_sharing_that_would_hang_are_refused(accelerator, remedy):
    with pytest.raises(PilotageError, match=remedy):
        check_sharing(accelerator)
    check_sharing(SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=True))


def test_an_engine_with_whole_parameters_has_nobody_to_join():
    engine = TransformersEngine(student())
    engine.join(Decoding(max_new_tokens=4))
    assert engine.num_forwards == 0
