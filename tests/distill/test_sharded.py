"""Two gloo ranks with `fully_shard`: the chunked loss has the gradients of one process.

`fully_shard` itself, because accelerate's FSDP becomes DDP on CPU without a word.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pilotage.distill.chunked import Head
from pilotage.distill.divergences import JSD, RescaleCap
from pilotage.distill.estimators import FullVocabulary, Sampled
from pilotage.distill.reduce import count_step, global_route_counts
from ranks import NUM_RANKS, on_ranks
from weights import token_weights

V, H = 37, 8
ESTIMATORS = [
    FullVocabulary(divergence=JSD(beta=0.3), cap=RescaleCap(tau=0.5), chunk_size=3),
    Sampled(as_="advantage", chunk_size=3),
]
# Rows of the step: (tokens, task). Each rank has two micro-batches of one row, of unlike lengths.
ROWS = [(5, "maze"), (2, "frozenlake"), (1, "maze"), (7, "maze")]
TASK_NAMES = ["frozenlake", "maze"]


class Student(nn.Module):
    """Embedding, one mixing layer, head: what a language model is to the loss."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(V, H)
        self.body = nn.Sequential(nn.Linear(H, 2 * H), nn.GELU(), nn.Linear(2 * H, H))
        self.head = nn.Linear(H, V, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids_M: torch.Tensor) -> torch.Tensor:
        hidden_MH = self.embedding(ids_M)
        return hidden_MH + self.body(hidden_MH)


def step_rows() -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "num_tokens": num_tokens,
            "task": task,
            "ids_M": torch.randint(V, (num_tokens,), generator=generator),
            "sampled_M": torch.randint(V, (num_tokens,), generator=generator),
            "teacher_MH": torch.randn(num_tokens, 4, generator=generator),
        }
        for num_tokens, task in ROWS
    ]


def backward_rows(student: Student, estimator, rows: list[dict], counts, num_averaged: int) -> float:
    """One micro-batch per row; returns this process's part of the step's loss."""
    teacher_VH = torch.randn(V, 4, generator=torch.Generator().manual_seed(2))
    total = 0.0
    for row in rows:
        loss = estimator(
            student=Head(hidden_MH=student(row["ids_M"]), weight_VH=student.head.weight),
            teacher=Head(hidden_MH=row["teacher_MH"], weight_VH=teacher_VH),
            token_ids_M=row["sampled_M"],
            weight_M=token_weights("task", [row["num_tokens"]], [row["task"]], counts) * num_averaged,
        )
        loss.value_M.sum().backward()
        total += loss.value_M.sum().item() / num_averaged
    return total


def local_counts(rows: list[dict]):
    return count_step(
        [row["num_tokens"] for row in rows], [row["task"] for row in rows], task_names=TASK_NAMES
    )


def run_rank(rank: int, folder: str) -> None:
    """One rank: shards, runs both estimators for both layouts, and writes its loss and the gathered gradients."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (NUM_RANKS,))

    def all_sum(flat: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(flat)
        return flat

    results = {}
    rows = step_rows()[rank::NUM_RANKS]
    counts = global_route_counts({"one": local_counts(rows)}, all_sum)["one"]
    for layout in ("root", "tied", "head"):
        for index, estimator in enumerate(ESTIMATORS):
            student = Student(tied=layout == "tied")
            fully_shard(student.body, mesh=mesh)
            if layout == "head":
                # The head is never called, so its weight stays sharded and the loss has to gather it.
                fully_shard(student.head, mesh=mesh)
            fully_shard(student, mesh=mesh)
            assert isinstance(student.head.weight, DTensor)
            loss = backward_rows(student, estimator, rows, counts, NUM_RANKS)
            gradients = {}
            for name, parameter in student.named_parameters():
                gradient = parameter.grad
                assert isinstance(gradient, DTensor), name
                gradients[name] = gradient.full_tensor()
            results[layout, index] = (all_sum(torch.tensor([loss])).item(), gradients)
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(run_rank, folder)
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("index", range(len(ESTIMATORS)), ids=[type(e).__name__ for e in ESTIMATORS])
@pytest.mark.parametrize("layout", ["root", "tied", "head"])
def test_sharded_loss_and_gradients_are_those_of_one_process(sharded, layout, index):
    rows, student = step_rows(), Student(tied=layout == "tied")
    expected_loss = backward_rows(student, ESTIMATORS[index], rows, local_counts(rows), 1)
    loss, gradients = sharded[layout, index]
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert set(gradients) == {name for name, _ in student.named_parameters()}
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-3, name
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
