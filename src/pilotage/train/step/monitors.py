"""What a distillation step is watched by: one record per rollout, by route and span, summed to a step's figures.

Records are plain numbers, so that those of all ranks can be gathered and summed in one fixed order: the figures do
not depend on how rows were spread over ranks and batches.

T response tokens of one rollout, M of them taught by one route.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pilotage.backbones.load import Backbone
from pilotage.distill.align import split_rows
from pilotage.distill.estimators import TokenLoss
from pilotage.distill.routes import RoutedRow
from pilotage.distill.spans import SpanLayout, Spans, sentence_pieces, token_bytes
from pilotage.records import Example, Outcome, Rollout
from pilotage.worlds.score import DESCRIBE

NUM_PARTS = 4
"""Into how many parts a rollout is cut to tell where along it the divergence lies."""
LEAST_NATS = 1e-5
"""Per token: below it, what is left is rounding, and shares of it say nothing."""
TURN_BINS = ((0, 1), (1, 2), (2, 4), (4, 8), (8, math.inf))
"""Turns that are summed up together."""
NGRAM = 4
"""Length of the runs of ids whose return counts as repetition."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Taught:
    """Figures of the tokens that one route teaches in one rollout, float64 [M]."""

    mask_T: np.ndarray
    """bool: which tokens they are."""
    loss_M: np.ndarray
    nats_M: np.ndarray
    """The uncapped divergence."""
    entropy_M: np.ndarray
    capped_M: np.ndarray
    agreed_M: np.ndarray | None
    """None when the teacher's first choice is not known."""


@dataclass(frozen=True, kw_only=True)
class RowRecord:
    """One rollout of a step. Sums are over its taught tokens, once for each route that teaches them."""

    slot: int
    """Place in the step, over all ranks and samples."""
    task: str
    origin: str
    """Who wrote it: `student`, `dataset` or `teacher`."""
    is_own: bool
    """Whether its episode is the student's, whoever wrote in it."""
    num_tokens: int
    finished: bool
    repetition: float
    vision_attempts: int
    """Times a token that only a prompt may hold would have been sampled, had it not been suppressed."""
    role: str
    prompt: int
    """The example's place in the step; its episodes share it."""
    sample: int
    """Which of the prompt's episodes."""
    number: int
    """Which turn of its episode, from 0."""
    num_turns: int
    """Of its episode, those that are not taught too."""
    credit: float
    """What the turn gets of its episode's reward."""
    is_last: bool
    """Stands for the episode where episodes are counted."""
    outcome: Outcome
    """Of the episode."""
    valid: bool
    """Keeps to the format."""
    loss: float
    """Its part of the step's loss."""
    kl_nats: Mapping[str, float]
    """Sum of the uncapped divergence in each span, and in `all`."""
    span_tokens: Mapping[str, int]
    part_nats: tuple[float, ...]
    """The same by quarter of the rollout, first to last."""
    part_tokens: tuple[int, ...]
    style_nats: float
    """Sum of its size over tokens that hold nothing of the state or the plan: labels, punctuation, words of form."""
    content_nats: float
    """The same over the others. A divergence known by samples alone may be negative, hence the size."""
    style_tokens: int
    route_nats: Mapping[str, float]
    """The same by route."""
    route_tokens: Mapping[str, int]
    num_untaught: int
    entropy_nats: float
    capped: float
    """Tokens that the cap acted on."""
    agreed: float
    """Tokens on which student and teacher have the same first choice."""
    num_compared: int
    """Tokens whose teacher's first choice is known."""


class SpanFinder:
    """The span that owns each token of a rollout."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        tokenizer = backbone.tokenizer
        added = tokenizer.added_tokens_decoder.values()
        self._special = {token.content for token in added if token.special} | set(
            tokenizer.all_special_tokens
        )
        self._added = {token.content for token in added} - self._special
        # Gemma's and Llama 2's kind.
        self._in_sentence_pieces = "<0x0A>" in tokenizer.get_vocab()
        self._bytes: dict[int, bytes] = {}

    def find(self, layout: SpanLayout, token_ids: Sequence[int], *, prefill: str = "") -> Spans:
        """The owners of these ids in a format."""
        pieces, text = self._pieces(token_ids), self._backbone.decode(token_ids)
        if self._in_sentence_pieces and not text.startswith(" "):
            # Some of that kind take the space in front of the first word away.
            first = next((place for place, piece in enumerate(pieces) if piece), 0)
            pieces[first : first + 1] = [piece.removeprefix(b" ") for piece in pieces[first : first + 1]]
        return layout.find(pieces, text, prefill=prefill)

    def holds_content(self, token_ids: Sequence[int], actions: Sequence[str]) -> np.ndarray:
        """bool [T]: tokens with a digit, an action, or a row of one-letter actions; the others are style."""
        letters = {action for action in actions if len(action) == 1}

        def is_content(piece: bytes) -> bool:
            text = piece.decode("utf-8", "ignore").strip()
            return bool(text) and (
                any(map(str.isdigit, text)) or text in actions or set(text.upper()) <= letters
            )

        return np.array([is_content(piece) for piece in self._pieces(token_ids)], dtype=bool)

    def _pieces(self, token_ids: Sequence[int]) -> list[bytes]:
        convert = self._backbone.tokenizer.convert_ids_to_tokens
        if self._in_sentence_pieces:
            return sentence_pieces(convert(list(token_ids)), special=self._special)
        if new := sorted(set(token_ids) - self._bytes.keys()):
            pieces = token_bytes(convert(new), special=self._special, added=self._added)
            self._bytes |= zip(new, pieces, strict=True)
        return [self._bytes[token] for token in token_ids]


def row_record(
    example: Example,
    rollout: Rollout,
    *,
    slot: int,
    origin: str,
    is_own: bool,
    spans: Spans,
    role: str,
    prompt: int,
    sample: int,
    number: int,
    num_turns: int,
    credit: float,
    is_last: bool,
    outcome: Outcome,
    taught: Mapping[str, Taught],
    content_T: np.ndarray,
) -> RowRecord:
    """The record of one rollout from the figures of the routes that teach it; `content_T` is `holds_content`."""
    owner_T = np.array(spans.owners, dtype=object)
    nats_T, times_T = np.zeros(len(owner_T)), np.zeros(len(owner_T), dtype=np.int64)
    for route in taught.values():
        nats_T[route.mask_T] += route.nats_M
        times_T += route.mask_T
    masks = {span: owner_T == span for span in spans.names} | {"all": np.ones(len(owner_T), dtype=bool)}
    part_T = np.arange(len(owner_T)) * NUM_PARTS // max(len(owner_T), 1)
    compared = [route.agreed_M for route in taught.values() if route.agreed_M is not None]
    return RowRecord(
        slot=slot,
        task=example.task,
        origin=origin,
        is_own=is_own,
        num_tokens=len(rollout.token_ids),
        finished=rollout.finished,
        repetition=repetition(rollout.token_ids),
        vision_attempts=int(rollout.meta.get("num_vision_attempts", 0)),
        role=role,
        prompt=prompt,
        sample=sample,
        number=number,
        num_turns=num_turns,
        credit=credit,
        is_last=is_last,
        outcome=outcome,
        valid=spans.valid,
        loss=float(sum(route.loss_M.sum() for route in taught.values())),
        kl_nats={span: float(nats_T[mask_T].sum()) for span, mask_T in masks.items()},
        span_tokens={span: int(times_T[mask_T].sum()) for span, mask_T in masks.items()},
        part_nats=tuple(float(nats_T[part_T == part].sum()) for part in range(NUM_PARTS)),
        part_tokens=tuple(int(times_T[part_T == part].sum()) for part in range(NUM_PARTS)),
        style_nats=float(np.abs(nats_T[~content_T]).sum()),
        content_nats=float(np.abs(nats_T[content_T]).sum()),
        style_tokens=int(times_T[~content_T].sum()),
        route_nats={name: float(route.nats_M.sum()) for name, route in taught.items()},
        route_tokens={name: len(route.nats_M) for name, route in taught.items()},
        num_untaught=int((times_T == 0).sum()),
        entropy_nats=float(sum(route.entropy_M.sum() for route in taught.values())),
        capped=float(sum(route.capped_M.sum() for route in taught.values())),
        agreed=float(sum(agreed_M.sum() for agreed_M in compared)),
        num_compared=sum(len(agreed_M) for agreed_M in compared),
    )


def taught_by_row(loss: TokenLoss, routed: Sequence[RoutedRow]) -> list[Taught]:
    """One route's figures of a micro-batch, row by row."""
    lengths = torch.tensor([row.num_tokens for row in routed])

    def by_row(values_M: Tensor) -> list[np.ndarray]:
        return [part.numpy() for part in split_rows(values_M.detach().double().cpu(), lengths)]

    values, nats, entropies = by_row(loss.value_M), by_row(loss.divergence_M), by_row(loss.entropy_M)
    capped = by_row(loss.capped_M)
    agreed = None if loss.agreement_M is None else by_row(loss.agreement_M)
    return [
        Taught(
            mask_T=row.mask_T,
            loss_M=values[place],
            nats_M=nats[place],
            entropy_M=entropies[place],
            capped_M=capped[place],
            agreed_M=None if agreed is None else agreed[place],
        )
        for place, row in enumerate(routed)
    ]


def repetition(token_ids: Sequence[int]) -> float:
    """Share of a rollout's runs of four ids that stood in it before, in [0, 1]."""
    runs = [tuple(token_ids[start : start + NGRAM]) for start in range(len(token_ids) - NGRAM + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def step_metrics(records: Sequence[RowRecord], *, with_reward: bool = False) -> dict[str, float]:
    """A step's figures from all its rollouts; a figure with nothing to count is left out. Rewards only on demand."""
    everyone = sorted(records, key=lambda record: record.slot)
    metrics = _taught_metrics(everyone)
    # What the student does by itself; other origins only teach it.
    rows = [row for row in everyone if row.origin == "student"]
    for origin in sorted({row.origin for row in everyone} - {"student"}):
        metrics[f"source/{origin}"] = _share(row.origin == origin for row in everyone)
    if rows:
        metrics |= _rollout_metrics(rows)
    if own := [row for row in everyone if row.is_own]:
        metrics |= _episode_metrics(own)
        if with_reward:
            metrics |= _reward_metrics([row for row in own if row.role != DESCRIBE])
    return {name: float(value) for name, value in metrics.items()}


def _taught_metrics(rows: Sequence[RowRecord]) -> dict[str, float]:
    metrics = {"loss": sum(row.loss for row in rows)}
    spans = dict.fromkeys(span for row in rows for span in row.span_tokens if span != "all")
    for span in (*spans, "all"):
        count = sum(row.span_tokens.get(span, 0) for row in rows)
        if count:
            metrics[f"kl/{span}"] = sum(row.kl_nats.get(span, 0.0) for row in rows) / count
    for part in range(NUM_PARTS):
        if count := sum(row.part_tokens[part] for row in rows):
            metrics[f"position/kl_{part + 1}of{NUM_PARTS}"] = sum(row.part_nats[part] for row in rows) / count
    num_taught = sum(row.span_tokens["all"] for row in rows)
    if num_taught:
        metrics["style/token_share"] = sum(row.style_tokens for row in rows) / num_taught
        style, content = sum(row.style_nats for row in rows), sum(row.content_nats for row in rows)
        if style + content > LEAST_NATS * num_taught:
            metrics["style/kl_share"] = style / (style + content)
        metrics["policy/entropy"] = sum(row.entropy_nats for row in rows) / num_taught
        if num_compared := sum(row.num_compared for row in rows):
            metrics["teacher/agreement"] = sum(row.agreed for row in rows) / num_compared
        metrics["loss/cap_rate"] = sum(row.capped for row in rows) / num_taught
    metrics |= _by_turn(rows)
    routes = dict.fromkeys(name for row in rows for name in row.route_tokens)
    for name in routes:
        count = sum(row.route_tokens.get(name, 0) for row in rows)
        metrics[f"route/{name}/tokens"] = count
        if count:
            metrics[f"route/{name}/kl"] = sum(row.route_nats.get(name, 0.0) for row in rows) / count
    if num_tokens := sum(row.num_tokens for row in rows):
        metrics["route/untaught"] = sum(row.num_untaught for row in rows) / num_tokens
    return metrics


def _rollout_metrics(rows: Sequence[RowRecord]) -> dict[str, float]:
    lengths = np.array([row.num_tokens for row in rows], dtype=np.float64)
    low, high = np.quantile(lengths, (0.05, 0.95))
    acted = [row for row in rows if row.role != DESCRIBE]
    metrics = {
        "rollout/length_mean": float(lengths.mean()),
        "rollout/length_p05": float(low),
        "rollout/length_p95": float(high),
        "rollout/truncated": _share(not row.finished for row in rows),
        "rollout/repetition": float(np.mean([row.repetition for row in rows])),
        "rollout/vision_attempts": float(sum(row.vision_attempts for row in rows)),
    }
    return metrics | ({"rollout/valid": _share(row.valid for row in acted)} if acted else {})


def _episode_metrics(rows: Sequence[RowRecord]) -> dict[str, float]:
    metrics = {}
    acted = [row for row in rows if row.role != DESCRIBE]
    ended = [row for row in acted if row.is_last]
    if ended:
        metrics["rollout/parsed"] = _share(row.outcome.is_("parsed") for row in ended)
        metrics["rollout/success"] = _share(row.outcome.success for row in ended)
    for task in sorted({row.task for row in ended}):
        metrics[f"rollout/success/{task}"] = _share(row.outcome.success for row in ended if row.task == task)
    if described := [row.outcome.success for row in rows if row.role == DESCRIBE]:
        metrics["rollout/described"] = _share(described)
    if any(row.num_turns > 1 for row in ended):
        metrics["episode/turns"] = float(np.mean([row.num_turns for row in ended]))
    return metrics


def _reward_metrics(rows: Sequence[RowRecord]) -> dict[str, float]:
    """The mean reward of episodes, its mean spread in groups, and the share of groups that teach nothing.

    An episode's reward is its turns' mean credit; a group in which every turn has one credit teaches nothing.
    """
    groups: dict[int, dict[int, list[float]]] = {}
    for row in rows:
        groups.setdefault(row.prompt, {}).setdefault(row.sample, []).append(row.credit)
    rewards = [[float(np.mean(credits)) for credits in group.values()] for group in groups.values()]
    if not rewards:
        return {}
    metrics = {
        "rollout/reward": float(np.mean(np.concatenate(rewards))),
        "rollout/same_reward": _share(
            np.ptp(np.concatenate(list(group.values()))) < 1e-8 for group in groups.values()
        ),
    }
    if spreads := [np.std(of_group, ddof=1) for of_group in rewards if len(of_group) > 1]:
        metrics["rollout/reward_std"] = float(np.mean(spreads))
    return metrics


def _by_turn(rows: Sequence[RowRecord]) -> dict[str, float]:
    """The mean divergence by turn of the episodes, in bins that double; nothing where all have one turn."""
    if not any(row.number for row in rows):
        return {}
    metrics = {}
    for name, (low, high) in turn_bins().items():
        mine = [row for row in rows if low <= row.number < high]
        if count := sum(row.span_tokens["all"] for row in mine):
            metrics[f"turn/kl_{name}"] = sum(row.kl_nats["all"] for row in mine) / count
    return metrics


def turn_bins() -> dict[str, tuple[float, float]]:
    """Name of the turns that are summed up together, as in `turn/kl_2-3` -> their first number, and the one behind."""
    names = {}
    for low, high in TURN_BINS:
        name = f"{low}" if high == low + 1 else f"{low}+" if high == math.inf else f"{low}-{high - 1}"
        names[name] = (low, high)
    return names


def _share(flags: Any) -> float:
    return float(np.mean([float(flag) for flag in flags]))
