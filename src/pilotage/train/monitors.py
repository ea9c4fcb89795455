"""What a distillation step is watched by: one record per rollout, summed to a step's figures.

Records are plain numbers, so that those of all ranks can be gathered and summed in one fixed order: the figures do
not depend on how rows were spread over ranks and batches.

T response tokens of one rollout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pilotage.backbones.load import Backbone
from pilotage.distill.spans import SPANS, find_spans, token_bytes
from pilotage.records import Example, Rollout, Verdict
from pilotage.tasks import get_task
from pilotage.tasks.judge import judge
from pilotage.views import reference_answer

DESCRIPTION = "description"
"""Owner of every token of a rollout that answers the perception question."""
KL_SPANS = (*SPANS, DESCRIPTION)

NGRAM = 4
"""Length of the runs of ids whose return counts as repetition."""


@dataclass(frozen=True, kw_only=True)
class RowRecord:
    """One rollout of a step. Sums are over its response tokens."""

    slot: int
    """Place in the step, over all ranks and samples."""
    task: str
    num_tokens: int
    finished: bool
    repetition: float
    vision_attempts: int
    """Times a token that only a prompt may hold would have been sampled, had it not been suppressed."""
    verdict: Verdict | None
    """None for a rollout that was asked to describe, not to plan."""
    described: bool | None
    """Whether such a rollout is the reference description to the letter; None for a plan."""
    loss: float
    """Its part of the step's loss."""
    kl_nats: Mapping[str, float]
    """Sum of the uncapped divergence in each span, and in `all`."""
    span_tokens: Mapping[str, int]
    entropy_nats: float
    capped: float
    """Tokens that the cap acted on."""
    agreed: float | None
    """Tokens on which student and teacher have the same first choice; None when the teacher's is not known."""


class SpanFinder:
    """The span that owns each token of a rollout."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        added = backbone.tokenizer.added_tokens_decoder.values()
        self._special = {token.content for token in added if token.special}
        self._special.update(backbone.tokenizer.all_special_tokens)
        self._bytes: dict[int, bytes] = {}

    def owners(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """One of `pilotage.distill.spans.SPANS` per id."""
        if new := sorted(set(token_ids) - self._bytes.keys()):
            tokens = self._backbone.tokenizer.convert_ids_to_tokens(new)
            self._bytes |= zip(new, token_bytes(tokens, special=self._special), strict=True)
        pieces = [self._bytes[token] for token in token_ids]
        return find_spans(pieces, self._backbone.decode(token_ids)).owners


def row_record(
    example: Example,
    rollout: Rollout,
    *,
    slot: int,
    owners: Sequence[str] | None,
    loss_T: np.ndarray,
    nats_T: np.ndarray,
    entropy_T: np.ndarray,
    capped_T: np.ndarray,
    agreed_T: np.ndarray | None,
) -> RowRecord:
    """The record of one rollout from the figures of its tokens (float64); the one judge gives the verdict.

    `owners` None means that the rollout answers the perception question.
    """
    task = get_task(example.task)
    plans = owners is not None
    owner_T = np.array(owners if plans else [DESCRIPTION] * len(rollout.token_ids), dtype=object)
    masks = {span: owner_T == span for span in KL_SPANS} | {"all": np.ones(len(owner_T), dtype=bool)}
    return RowRecord(
        slot=slot,
        task=example.task,
        num_tokens=len(rollout.token_ids),
        finished=rollout.finished,
        repetition=repetition(rollout.token_ids),
        vision_attempts=int(rollout.meta.get("num_vision_attempts", 0)),
        verdict=judge(task, task.parse_state(example.state), rollout.text) if plans else None,
        described=None if plans else rollout.text == reference_answer(example, "perception"),
        loss=float(loss_T.sum()),
        kl_nats={span: float(nats_T[mask_T].sum()) for span, mask_T in masks.items()},
        span_tokens={span: int(mask_T.sum()) for span, mask_T in masks.items()},
        entropy_nats=float(entropy_T.sum()),
        capped=float(capped_T.sum()),
        agreed=None if agreed_T is None else float(agreed_T.sum()),
    )


def repetition(token_ids: Sequence[int]) -> float:
    """Share of a rollout's runs of four ids that stood in it before, in [0, 1]."""
    runs = [tuple(token_ids[start : start + NGRAM]) for start in range(len(token_ids) - NGRAM + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def step_metrics(records: Sequence[RowRecord]) -> dict[str, float]:
    """A step's figures from all its rollouts; a figure with nothing to count is left out."""
    rows = sorted(records, key=lambda record: record.slot)
    lengths = np.array([row.num_tokens for row in rows], dtype=np.float64)
    num_tokens = lengths.sum()
    metrics = {"loss": sum(row.loss for row in rows)}
    for span in (*KL_SPANS, "all"):
        count = sum(row.span_tokens.get(span, 0) for row in rows)
        if count:
            metrics[f"kl/{span}"] = sum(row.kl_nats.get(span, 0.0) for row in rows) / count
    if num_tokens:
        metrics["policy/entropy"] = sum(row.entropy_nats for row in rows) / num_tokens
        if agreed := [row.agreed for row in rows if row.agreed is not None]:
            metrics["teacher/agreement"] = sum(agreed) / num_tokens
        metrics["loss/cap_rate"] = sum(row.capped for row in rows) / num_tokens
    low, high = np.quantile(lengths, (0.05, 0.95))
    metrics |= {
        "rollout/length_mean": float(lengths.mean()),
        "rollout/length_p05": float(low),
        "rollout/length_p95": float(high),
        "rollout/truncated": _share(not row.finished for row in rows),
        "rollout/repetition": float(np.mean([row.repetition for row in rows])),
        "rollout/vision_attempts": float(sum(row.vision_attempts for row in rows)),
    }
    verdicts = [(row.task, row.verdict) for row in rows if row.verdict is not None]
    if verdicts:
        metrics["rollout/parsed"] = _share(verdict.parsed for _, verdict in verdicts)
        metrics["rollout/success"] = _share(verdict.success for _, verdict in verdicts)
    for task in sorted({task for task, _ in verdicts}):
        metrics[f"rollout/success/{task}"] = _share(v.success for name, v in verdicts if name == task)
    if described := [row.described for row in rows if row.described is not None]:
        metrics["rollout/described"] = _share(described)
    return {name: float(value) for name, value in metrics.items()}


def _share(flags: Any) -> float:
    return float(np.mean([float(flag) for flag in flags]))
