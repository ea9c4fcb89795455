"""A stage-2 step of the trainer whose student is sharded over two gloo ranks is the step of one rank.

`fully_shard` itself, because accelerate's FSDP becomes DDP on CPU without a word.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from distill_run import tiny_config, tiny_examples
from pilotage.backbones.load import LoraSettings, QLoraSettings, load_backbone
from pilotage.distill.divergences import ReverseKL
from pilotage.distill.estimators import FullVocabulary, Sampled
from pilotage.errors import PilotageError
from pilotage.train.distill import DistillTrainer
from pilotage.train.distill_config import AdapterOff
from pilotage.train.optimisers import (
    AdamW,
    AdamW8bit,
    AdamWKahan,
    beside,
    prepared,
    refuse_sharing,
    shares_weights,
    trainer_optimiser,
)
from ranks import NUM_RANKS, on_ranks
from tiny import tiny_backbone

SHARDING = (AdamW(), AdamWKahan())
ESTIMATORS = {"full": FullVocabulary(divergence=ReverseKL()), "sampled": Sampled(as_="advantage")}


def trainer_of(estimator: str, run_dir: Path) -> DistillTrainer:
    """Eight rollouts, in micro-batches of two; many ids end a turn, so that rollouts differ in length."""
    config = tiny_config(
        estimator=ESTIMATORS[estimator], prompts_per_step=8, max_new_tokens=24, reduction="task"
    )
    student = tiny_backbone()
    ends = tuple(
        token for token in range(0, len(student.tokenizer), 12) if token not in student.vision_token_ids
    )
    student = replace(student, eos_ids=ends)
    return DistillTrainer(config, student=student, examples=tiny_examples(), run_dir=run_dir)


def adapted_trainer(run_dir: Path) -> DistillTrainer:
    """A student with an adapter that changes it from the start."""
    lora = LoraSettings(rank=2, alpha=4)
    student = prepared(tiny_backbone(), AdamW(), lora, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    config = tiny_config(prompts_per_step=4, max_new_tokens=8, lora=lora, weights=AdapterOff())
    return DistillTrainer(config, student=student, examples=tiny_examples(), run_dir=run_dir)


def step_of(trainer: DistillTrainer) -> dict[str, float]:
    """The step's figures; its gradients are left in the student."""
    trainer.training_step(trainer.model, {"step": 0})
    return {name: value for name, value in trainer._metrics.items() if "time" not in name}


def updated(optimiser: AdamW, *, rank: int | None) -> dict[str, torch.Tensor]:
    """Weights in bfloat16 after three updates by drawn gradients, with what the optimiser keeps of each in float64.

    Shared out by `fully_shard` where there is a rank, whole without one.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor

    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3))
    model.to(torch.float32 if optimiser.has_masters else torch.bfloat16)
    if rank is not None:
        mesh = init_device_mesh("cpu", (NUM_RANKS,))
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    kind: Any
    kind, arguments = trainer_optimiser(optimiser, lr=1e-4, betas=(0.9, 0.98))
    made = kind(model.parameters(), weight_decay=0.0, **arguments)
    generator = torch.Generator().manual_seed(6)
    for _ in range(3):
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            parameter.grad = gradient
        made.step()

    def whole(value: torch.Tensor) -> torch.Tensor:
        return (value.full_tensor() if isinstance(value, DTensor) else value).detach().double()

    weights = {}
    for name, parameter in model.named_parameters():
        held = beside(parameter, optimiser, made.state)
        weights[name] = whole(parameter) + (0 if held is None else whole(held))
    return weights


def run_rank(rank: int, folder: str) -> None:
    """One rank: shards every layer and the rest, makes a step, and writes the gathered gradients."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    results: dict[str, Any] = {
        "updates": {type(kind).__name__: updated(kind, rank=rank) for kind in SHARDING}
    }
    for name in ESTIMATORS:
        trainer = trainer_of(name, Path(folder))
        assert trainer.args.world_size == NUM_RANKS
        model = trainer.student.model
        mesh = init_device_mesh("cpu", (NUM_RANKS,))
        for layer in model.model.language_model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        metrics = step_of(trainer)
        gradients = {}
        for parameter_name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor), parameter_name
            if isinstance(parameter.grad, DTensor):
                gradients[parameter_name] = parameter.grad.full_tensor()
        results[name] = (metrics, gradients)
        trainer._save_student(Path(folder) / name)
    trainer = adapted_trainer(Path(folder))
    mesh = init_device_mesh("cpu", (NUM_RANKS,))
    for layer in trainer.student.model.get_base_model().model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(trainer.student.model, mesh=mesh)
    step_of(trainer)
    trainer._save_student(Path(folder) / "lora" / "model")
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(run_rank, folder)
    return torch.load(folder / "results.pt", weights_only=False) | {"folder": folder}


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_sharded_step_has_the_loss_and_the_gradients_of_one_rank(sharded, name, tmp_path):
    trainer = trainer_of(name, tmp_path)
    expected = step_of(trainer)
    metrics, gradients = sharded[name]
    lines = (tmp_path / "rollouts.jsonl").read_text().splitlines()
    lengths = [json.loads(line)["num_tokens"] for line in lines]
    assert max(lengths[:4]) != max(lengths[4:]), "one rank is done with its rollouts before the other"
    assert metrics == pytest.approx(expected, rel=1e-6, abs=1e-6)
    whole = {key: p.grad for key, p in trainer.student.model.named_parameters() if p.grad is not None}
    assert gradients.keys() == whole.keys() and len(whole) > 20
    for key, gradient in whole.items():
        torch.testing.assert_close(
            gradients[key], gradient, rtol=1e-5, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARDING, ids=lambda kind: type(kind).__name__)
def test_shared_out_weights_are_updated_as_whole_ones_are(sharded, kind):
    whole = updated(kind, rank=None)
    assert len(whole) == 4
    for name, weights in sharded["updates"][type(kind).__name__].items():
        assert torch.equal(weights, whole[name]), name
        assert weights.unique().numel() > 2


@pytest.mark.parametrize(
    ("optimiser", "lora", "remedy"),
    [
        (AdamW8bit(), None, "AdamW8bit keeps its moments in blocks .* take AdamW or AdamWKahan"),
        (AdamW(), QLoraSettings(rank=4, alpha=8), "4 bits .* take lora without 4 bits"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_where_ranks_share(optimiser, lora, remedy):
    with pytest.raises(PilotageError, match=remedy):
        refuse_sharing(optimiser, lora)
    refuse_sharing(AdamWKahan(), LoraSettings(rank=4, alpha=8))


def test_ranks_share_weights_with_fsdp_and_with_the_third_stage_of_zero():
    def deepspeed(stage: int) -> SimpleNamespace:
        state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage))
        return SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, state=state)

    assert shares_weights(SimpleNamespace(distributed_type=DistributedType.FSDP)) and shares_weights(
        deepspeed(3)
    )
    assert not shares_weights(SimpleNamespace(distributed_type=DistributedType.MULTI_CPU))
    assert not shares_weights(deepspeed(2))


@pytest.mark.slow
def test_a_sharded_student_is_saved_whole(sharded):
    saved = load_backbone(sharded["folder"] / "full").model.state_dict()
    for key, weight in tiny_backbone().model.state_dict().items():
        assert torch.equal(saved[key], weight), key


@pytest.mark.slow
def test_a_sharded_adapter_is_saved_whole_merged_and_beside(sharded, tmp_path):
    adapted_trainer(tmp_path)._save_student(tmp_path / "lora" / "model")
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        saved, whole = (load_file(folder / "lora" / name) for folder in (sharded["folder"], tmp_path))
        assert saved.keys() == whole.keys()
        assert all(torch.equal(saved[key], whole[key]) for key in whole)
