"""A loss over vocabulary logits that never holds more than one chunk of them.

Axis letters: M active tokens, C tokens of one chunk, V vocabulary entries (of one tile, inside a chunk), H hidden.

For each chunk of tokens both heads are projected into two buffers that all chunks share, a *row program* turns the
logits into per-token statistics and, in place, into the gradient with respect to the student's logits, and two
matrix products carry that gradient on to the hidden states and the head. Four products in all, as many as the plain
computation; memory is two [C, V] buffers plus the gradients themselves, whatever M is.

The gradients are made in the forward pass, for the weights the tokens are given there. That is what saves the
recomputation, and it is right whenever every token's value enters the loss with the same factor: `value_M.sum()`
and any multiple of it. Any other use is noticed in backward and recomputed there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Tiles = Sequence[Tensor]
"""One chunk's logits [C, V], cut along V into contiguous tensors, with the vocabulary in order."""

_TILE_ENTRIES, _TILE_BYTES = 2048, 2 * 2**20
"""Width and size of a tile on CPU, so that its temporaries stay in cache. Elsewhere a tile is the whole vocabulary."""
_CPU_BUFFER_BYTES = 80 * 2**20
"""Both logit buffers: 69 tokens at V = 151,936. Larger chunks were measured no more than a tenth faster."""
_ACCELERATOR_BUFFER_BYTES = 2**30


def buffer_bytes(*, on_gpu: bool) -> int:
    """Most bytes of both logit buffers, where nobody says how many tokens to project at once."""
    return _ACCELERATOR_BUFFER_BYTES if on_gpu else _CPU_BUFFER_BYTES


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """Final hidden states and the language-model head that turns them into logits."""

    hidden_MH: Tensor
    """State at the position that predicts each active token."""
    weight_VH: Tensor
    """Head weight; a sharded (DTensor) one is gathered."""
    bias_V: Tensor | None = None

    def __post_init__(self) -> None:
        if (
            self.hidden_MH.ndim != 2
            or self.weight_VH.ndim != 2
            or self.hidden_MH.shape[1] != self.weight_VH.shape[1]
        ):
            raise ValueError(
                f"Head needs hidden_MH [M, H] and weight_VH [V, H], got {tuple(self.hidden_MH.shape)} and "
                f"{tuple(self.weight_VH.shape)}; select the active tokens first: hidden[mask]"
            )

    def first(self, num_entries: int | None) -> Head:
        """The same over so many first entries of the vocabulary; None: over all."""
        if num_entries is None or num_entries == self.weight_VH.shape[0]:
            return self
        bias_V = None if self.bias_V is None else self.bias_V[:num_entries]
        return replace(self, weight_VH=self.weight_VH[:num_entries], bias_V=bias_V)

    def logits(self) -> Tensor:
        """All logits [M, V] at once, differentiable: what the chunked path avoids."""
        logits_MV = self.hidden_MH @ self.weight_VH.t()
        return logits_MV if self.bias_V is None else logits_MV + self.bias_V


@dataclass(frozen=True, kw_only=True, eq=False)
class RowStats:
    """What a row program finds for the tokens of one chunk, all [C] and without weights."""

    value_C: Tensor
    """The token's contribution to the loss."""
    divergence_C: Tensor
    """Nats, uncapped."""
    capped_C: Tensor | None
    """1.0 where a cap acted."""
    entropy_C: Tensor
    """Entropy of the student, nats."""
    agreement_C: Tensor | None
    """1.0 where student and teacher have the same most likely entry."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowTask:
    """One chunk's work, handed to a row program."""

    student: Tiles
    """Logits over temperature. With `with_gradient`, left holding d(weight * value) / d(these)."""
    teacher: Tiles
    """Logits over temperature, free to be overwritten; empty when only `teacher_logp_C` is known."""
    token_ids_C: Tensor | None
    teacher_logp_C: Tensor | None
    weight_C: Tensor
    with_gradient: bool


RowProgram = Callable[[RowTask], RowStats]


@dataclass(frozen=True, kw_only=True)
class ChunkPlan:
    """How rows are projected and cut."""

    program: RowProgram
    temperature: float
    chunk_size: int | None
    """Tokens at once; None chooses by cache and memory: both buffers in 80 MiB (1 GiB on an accelerator)."""
    whole_rows: bool
    """The program wants the vocabulary in one tile."""
    with_gradient: bool

    def num_tokens_at_once(
        self, num_tokens: int, num_entries: int, device: torch.device, dtype: torch.dtype
    ) -> int:
        """Tokens of a chunk: chunks of one call are as equal as can be."""
        limit = self.chunk_size
        if limit is None:
            budget = _CPU_BUFFER_BYTES if device.type == "cpu" else _ACCELERATOR_BUFFER_BYTES
            limit = max(1, budget // (2 * num_entries * dtype.itemsize))
            if device.type == "cpu":
                limit = min(limit, _TILE_BYTES // (min(num_entries, _TILE_ENTRIES) * dtype.itemsize))
        num_chunks = max(1, -(-num_tokens // limit))
        return -(-num_tokens // num_chunks)


def chunked_rows(
    plan: ChunkPlan,
    *,
    student: Head,
    teacher: Head | None,
    token_ids_M: Tensor | None = None,
    teacher_logp_M: Tensor | None = None,
    weight_M: Tensor,
) -> tuple[Tensor, RowStats]:
    """Returns weight * value per token [M], differentiable with respect to the student's head, and its statistics."""
    value_M, divergence_M, capped_M, entropy_M, agreement_M = _ChunkedRows.apply(
        plan,
        student.hidden_MH,
        gathered(student.weight_VH),
        None if student.bias_V is None else gathered(student.bias_V),
        None if teacher is None else teacher.hidden_MH.detach(),
        None if teacher is None else gathered(teacher.weight_VH.detach()),
        None if teacher is None or teacher.bias_V is None else gathered(teacher.bias_V.detach()),
        token_ids_M,
        teacher_logp_M,
        weight_M.detach(),
    )  # type: ignore[misc]
    stats = RowStats(
        value_C=value_M.detach(),
        divergence_C=divergence_M,
        capped_C=capped_M,
        entropy_C=entropy_M,
        agreement_C=agreement_M,
    )
    return value_M, stats


def gathered(weight: Tensor) -> Tensor:
    """The full tensor behind a sharded parameter; its gradient is averaged over the ranks, as FSDP does."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return weight  # spares a process without ranks a slow import
    from torch.distributed.tensor import DTensor, Partial

    if not isinstance(weight, DTensor):
        return weight
    return weight.full_tensor(grad_placements=[Partial("avg")] * weight.device_mesh.ndim)


class _ChunkedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: ChunkPlan, *tensors: Any) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.plan = plan
        # References, no copies: they are for a recomputation, and notice weights that were changed before it.
        ctx.save_for_backward(*tensors)
        needs = tuple(ctx.needs_input_grad[1:4]) if plan.with_gradient else (False, False, False)
        outputs, ctx.gradients = _run(plan, needs, *tensors)
        ctx.mark_non_differentiable(*(output for output in outputs[1:] if output is not None))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_M: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad_M is None:
            return (None,) * 10
        # Handed over, not kept: autograd can then make the buffers the parameters' .grad without a copy.
        gradients, ctx.gradients = ctx.gradients, None
        # `.sum()` expands one number, which strides tell without a look at the values: that would wait for the GPU.
        uniform = all(stride == 0 for stride in grad_M.stride()) or bool((grad_M == grad_M[:1]).all())
        if gradients is None or not uniform:
            tensors: list[Any] = list(ctx.saved_tensors)
            # A loss is linear in a token's weight, so another factor per token is the same as another weight.
            tensors[-1] = tensors[-1] * grad_M  # the weights
            _, gradients = _run(ctx.plan, tuple(ctx.needs_input_grad[1:4]), *tensors)
        # On a GPU even the comparison with 1 would wait, and the product is cheaper.
        elif grad_M.numel() and not (grad_M.device.type == "cpu" and grad_M[0] == 1.0):
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(grad_M[0])
        return None, *gradients, *(None,) * 6


def _run(
    plan: ChunkPlan,
    needs: tuple[bool, ...],
    hidden_MH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    teacher_hidden_MH: Tensor | None,
    teacher_weight_VH: Tensor | None,
    teacher_bias_V: Tensor | None,
    token_ids_M: Tensor | None,
    teacher_logp_M: Tensor | None,
    weight_M: Tensor,
) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]:
    """Outputs (value, divergence, capped, entropy, agreement) and gradients (hidden, weight, bias)."""
    device, (num_tokens, num_entries) = hidden_MH.device, (hidden_MH.shape[0], weight_VH.shape[0])
    # bfloat16 logits would have a step of 1/16 at 10: log-probabilities, and so advantages, need more.
    dtype = torch.float64 if hidden_MH.dtype == torch.float64 else torch.float32
    needs_hidden, needs_weight, needs_bias = needs
    columns = _columns(num_entries, whole=plan.whole_rows or device.type != "cpu")
    size = plan.num_tokens_at_once(num_tokens, num_entries, device, dtype)

    def new(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device, dtype=dtype)

    value_M, divergence_M, entropy_M = new(num_tokens), new(num_tokens), new(num_tokens)
    capped_M, agreement_M = new(num_tokens), None if teacher_hidden_MH is None else new(num_tokens)
    grad_hidden_MH = new(*hidden_MH.shape) if needs_hidden else None
    grad_weight_VH = new(*weight_VH.shape) if needs_weight else None
    grad_bias_V = new(num_entries) if needs_bias else None
    student_buffer = torch.empty(size * num_entries, device=device, dtype=dtype)
    teacher_buffer = torch.empty_like(student_buffer) if teacher_hidden_MH is not None else None

    # Under the trainer's autocast a row program's vecdot would come out in bfloat16.
    with torch.autocast(device.type, enabled=False):
        for start in range(0, num_tokens, max(size, 1)):
            rows = slice(start, min(start + size, num_tokens))
            # With h / T in place of h the head's gradient has its 1 / T already; hidden states and bias get it below.
            hidden_CH = hidden_MH[rows] / plan.temperature
            student = _project(student_buffer, columns, hidden_CH, weight_VH, bias_V, plan.temperature)
            teacher: Tiles = ()
            if teacher_hidden_MH is not None and teacher_weight_VH is not None and teacher_buffer is not None:
                teacher_hidden_CH = teacher_hidden_MH[rows] / plan.temperature
                teacher = _project(
                    teacher_buffer,
                    columns,
                    teacher_hidden_CH,
                    teacher_weight_VH,
                    teacher_bias_V,
                    plan.temperature,
                )
            # Leaves gradients in `student`. The next chunk projects over both buffers: gradients are used up, and
            # statistics copied out, before this turn ends.
            stats = plan.program(
                RowTask(
                    student=student,
                    teacher=teacher,
                    token_ids_C=None if token_ids_M is None else token_ids_M[rows],
                    teacher_logp_C=None if teacher_logp_M is None else teacher_logp_M[rows].to(dtype),
                    weight_C=weight_M[rows].to(dtype),
                    with_gradient=any(needs),
                )
            )
            value_M[rows] = stats.value_C * weight_M[rows]
            divergence_M[rows] = stats.divergence_C
            entropy_M[rows] = stats.entropy_C
            if stats.capped_C is not None:
                capped_M[rows] = stats.capped_C
            if agreement_M is not None and stats.agreement_C is not None:
                agreement_M[rows] = stats.agreement_C
            for (first, last), grad_CV in zip(columns, student, strict=True):
                # Products run in the inputs' precision, sums over tiles and chunks in float32.
                grad_logits_CV = grad_CV.to(hidden_CH.dtype)
                if grad_hidden_MH is not None:
                    _add_product(
                        grad_hidden_MH[rows], grad_logits_CV, weight_VH[first:last].to(hidden_CH.dtype)
                    )
                if grad_weight_VH is not None:
                    _add_product(grad_weight_VH[first:last], grad_logits_CV.t(), hidden_CH)
                if grad_bias_V is not None:
                    grad_bias_V[first:last].add_(grad_CV.sum(0), alpha=1.0 / plan.temperature)
    if grad_hidden_MH is not None:
        grad_hidden_MH = grad_hidden_MH.div_(plan.temperature).to(hidden_MH.dtype)
    if grad_weight_VH is not None:
        grad_weight_VH = grad_weight_VH.to(weight_VH.dtype)
    if grad_bias_V is not None and bias_V is not None:
        grad_bias_V = grad_bias_V.to(bias_V.dtype)
    outputs = (value_M, divergence_M, capped_M, entropy_M, agreement_M)
    return outputs, (grad_hidden_MH, grad_weight_VH, grad_bias_V)


def _columns(num_entries: int, *, whole: bool) -> list[tuple[int, int]]:
    width = num_entries if whole else _TILE_ENTRIES
    return [(first, min(first + width, num_entries)) for first in range(0, num_entries, width)]


def _project(
    buffer: Tensor,
    columns: list[tuple[int, int]],
    hidden_CH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    temperature: float,
) -> list[Tensor]:
    """Logits over temperature of one chunk, as contiguous tiles of `buffer`, in its precision."""
    num_rows, tiles = hidden_CH.shape[0], []
    for first, last in columns:
        # Tiles lie one behind another. As columns of one [C, V] matrix their rows would stand V apart in memory, and
        # in-place passes over a tile would no longer stay in cache.
        tile_CV = buffer[num_rows * first : num_rows * last].view(num_rows, last - first)
        weight_HV = weight_VH[first:last].to(hidden_CH.dtype).t()
        if hidden_CH.dtype == buffer.dtype:
            torch.mm(hidden_CH, weight_HV, out=tile_CV)
        elif buffer.device.type == "cuda":
            torch.mm(hidden_CH, weight_HV, out_dtype=buffer.dtype, out=tile_CV)
        else:
            torch.mm(hidden_CH.to(buffer.dtype), weight_HV.to(buffer.dtype), out=tile_CV)
        if bias_V is not None:
            tile_CV.add_(bias_V[first:last].to(buffer.dtype), alpha=1.0 / temperature)
        tiles.append(tile_CV)
    return tiles


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, not rounded to the factors' precision on the way."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif total.device.type == "cuda":
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))
