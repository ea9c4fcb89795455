"""The sampled token as in PPO: ratio against the sampling policy, clipping, truncated importance, baselines, reward.

Axis letters: M active tokens (row by row), R rows, C tokens of one chunk, V vocabulary entries.

Two steps. Advantages are made once per optimiser step from log-probabilities that were recorded or scored then, never
from the parameters as they move:

    A_t = a * [what the teacher says of y_t] + b * [the task's reward of the row], each less its baseline

and `PolicyGradient` is the loss of given advantages, called like any estimator with `Advantages` as its teacher. With
r_t = p_now(y_t) / p_sampling(y_t) it has the gradient

    -A_t * min(r_t, cap) * grad log p_now(y_t),    0 where the clip acts (A > 0 and r > 1 + high, A < 0 and r < 1 - low)

so at r = 1 it is the plain policy gradient, `Sampled(as_="advantage")`.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from pilotage.distill.advantage import teacher_advantage
from pilotage.distill.chunked import ChunkPlan, Head, RowStats, RowTask, chunked_rows
from pilotage.distill.divergences import Divergence, ReverseKL
from pilotage.distill.estimators import Logits, TokenLoss
from pilotage.distill.reduce import Reduced

Baseline = Literal["none", "batch", "group"]
"""What is subtracted: nothing, the mean over the whole step, or the mean over the samples of one prompt. A mean that
holds the token itself shrinks the expected gradient by 1 / (number averaged), and changes nothing else."""

# exp(60) is 1e26: far above any bound, and finite in float32 when an advantage multiplies it, as exp(88) is not.
_MAX_LOG_RATIO = 60.0


@dataclass(frozen=True, kw_only=True)
class AdvantageMix:
    """How advantages are made: teacher * (its advantage - baseline) + reward * (the row's reward - baseline).

    A row is a turn, and its reward is its credit (`pilotage.distill.credit`). The baseline of rewards counts episodes,
    each once, by the mean of its turns' credits: otherwise long episodes would set what short ones are held against.
    Every turn then has its own credit less that baseline. A prompt whose first episode succeeds in three turns and
    whose second fails in one:

        credits          1, 1, 1 | 0    baseline (1 + 0) / 2 = 0.5    advantages  0.5, 0.5, 0.5 | -0.5
        discounted by 1/2
                  0.25, 0.5, 1   | 0    (0.5833 + 0) / 2 = 0.2917     -0.0417, 0.2083, 0.7083 | -0.2917

    With `scale_by_spread` these are divided by the standard deviation of 1 and 0, which is 0.7071, plus 1e-4.
    """

    teacher: float = 1.0
    reward: float = 0.0
    divergence: Divergence = field(default_factory=ReverseKL)
    """What the teacher's part lowers."""
    teacher_baseline: Baseline = "none"
    reward_baseline: Baseline = "group"
    scale_by_spread: bool = field(default=False, metadata={"left_out_at_default": True})
    """Whether a group's reward advantages are divided by the standard deviation of its episodes' rewards, as in GRPO's
    paper (arXiv 2402.03300)."""

    def __post_init__(self) -> None:
        for name in ("teacher_baseline", "reward_baseline"):
            if getattr(self, name) not in get_args(Baseline):
                raise ValueError(
                    f"AdvantageMix({name}={getattr(self, name)!r}): one of {', '.join(get_args(Baseline))}"
                )
        if self.teacher == 0.0 and self.reward == 0.0:
            raise ValueError("AdvantageMix: teacher and reward are both 0, so nothing would be learnt")
        if self.scale_by_spread and not (self.reward and self.reward_baseline == "group"):
            raise ValueError(
                "AdvantageMix(scale_by_spread=True): it divides rewards less their group's mean; set reward, and "
                "reward_baseline='group'"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class AdvantageParts:
    """The two parts of the rows of one rank, before baselines and factors."""

    teacher_M: Tensor
    """float64."""
    reward_R: Tensor
    """float64."""
    num_tokens_R: Sequence[int]
    """Active tokens of each row."""
    groups_R: Sequence[Hashable]
    """The prompt of each row; all samples of a prompt are on one rank."""
    episodes_R: Sequence[Hashable]
    """The episode of each row, among all prompts'."""

    @property
    def episode_rewards(self) -> dict[Hashable, float]:
        """Episode -> the mean of its turns' credits."""
        found: dict[Hashable, list[float]] = {}
        for episode, reward in zip(self.episodes_R, self.reward_R.tolist(), strict=True):
            found.setdefault(episode, []).append(reward)
        return {episode: sum(rewards) / len(rewards) for episode, rewards in found.items()}

    def sums(self) -> dict[str, Reduced]:
        """Sums and counts of both parts; over ranks by `pilotage.distill.reduce.global_reduced`."""
        rewards = torch.tensor(list(self.episode_rewards.values()), dtype=torch.float64)
        return {"teacher": Reduced.of(self.teacher_M), "reward": Reduced.of(rewards)}


def advantage_parts(
    mix: AdvantageMix,
    *,
    teacher_logp_M: Tensor | None,
    sampled_logp_M: Tensor,
    rewards_R: Sequence[float],
    num_tokens_R: Sequence[int],
    groups_R: Sequence[Hashable],
    episodes_R: Sequence[Hashable] | None = None,
) -> AdvantageParts:
    """Both parts from log-probabilities and rewards; raises ValueError when lengths do not agree.

    Without a teacher its part is 0. `episodes_R` None: each row is an episode.
    """
    if teacher_logp_M is None:
        if mix.teacher:
            raise ValueError(f"AdvantageMix(teacher={mix.teacher}), but no teacher has scored the tokens")
        teacher_logp_M = sampled_logp_M
    num_tokens = sum(num_tokens_R)
    if not len(teacher_logp_M) == len(sampled_logp_M) == num_tokens:
        raise ValueError(
            f"{len(teacher_logp_M)} log-probs of the teacher and {len(sampled_logp_M)} of the sampling policy for "
            f"{num_tokens} tokens"
        )
    if not len(rewards_R) == len(num_tokens_R) == len(groups_R):
        raise ValueError(f"{len(rewards_R)} rewards and {len(groups_R)} groups for {len(num_tokens_R)} rows")
    return AdvantageParts(
        teacher_M=teacher_advantage(teacher_logp_M, sampled_logp_M, mix.divergence),
        reward_R=torch.tensor(list(rewards_R), dtype=torch.float64),
        num_tokens_R=list(num_tokens_R),
        groups_R=list(groups_R),
        episodes_R=list(range(len(groups_R)) if episodes_R is None else episodes_R),
    )


def advantages(mix: AdvantageMix, parts: AdvantageParts, sums: Mapping[str, Reduced] | None = None) -> Tensor:
    """The advantage of each active token [M], float64.

    `sums` are those of all ranks; None takes these rows for the whole step. A group of one episode, such as is left
    where a world broke the others off, cancels its reward.
    """
    sums = parts.sums() if sums is None else sums
    lengths_R = torch.tensor(parts.num_tokens_R, dtype=torch.long)
    places = {group: place for place, group in enumerate(dict.fromkeys(parts.groups_R))}
    group_R = torch.tensor([places[group] for group in parts.groups_R], dtype=torch.long)
    device = parts.teacher_M.device
    group_M = group_R.repeat_interleave(lengths_R).to(device)
    teacher_M = parts.teacher_M - _baseline(mix.teacher_baseline, parts.teacher_M, group_M, sums["teacher"])
    reward_R = _held_against(mix, parts, sums["reward"])
    return mix.teacher * teacher_M + mix.reward * reward_R.repeat_interleave(lengths_R).to(device)


_LEAST_SPREAD = 1e-4
"""Added to a standard deviation before it divides, as TRL does."""


def _held_against(mix: AdvantageMix, parts: AdvantageParts, everyone: Reduced) -> Tensor:
    """[R]: each turn's credit less its baseline, over its group's spread where that is asked for."""
    if mix.reward_baseline == "none" or not len(parts.reward_R):
        return parts.reward_R
    if mix.reward_baseline == "batch":
        return parts.reward_R - everyone.mean
    # No sum over ranks: all samples of a prompt are on one.
    prompt_of = dict(zip(parts.episodes_R, parts.groups_R, strict=True))
    of_group: dict[Hashable, list[float]] = {}
    for episode, reward in parts.episode_rewards.items():
        of_group.setdefault(prompt_of[episode], []).append(reward)
    mean_of = {group: statistics.fmean(rewards) for group, rewards in of_group.items()}
    less_R = parts.reward_R - torch.tensor([mean_of[group] for group in parts.groups_R], dtype=torch.float64)
    if not mix.scale_by_spread:
        return less_R
    # With n - 1 below the line, as TRL's torch.std.
    spread_of = {
        group: statistics.stdev(rewards) if len(rewards) > 1 else 0.0 for group, rewards in of_group.items()
    }
    spread_R = torch.tensor([spread_of[group] for group in parts.groups_R], dtype=torch.float64)
    return less_R / (spread_R + _LEAST_SPREAD)


def _baseline(kind: Baseline, values: Tensor, groups: Tensor, everyone: Reduced) -> Tensor | float:
    if kind == "none" or not values.numel():
        return 0.0
    if kind == "batch":
        return everyone.mean
    # Weighted by tokens, unlike the rewards' baseline: the teacher speaks of tokens, the judge of episodes.
    num_groups = int(groups.max()) + 1
    sums = values.new_zeros(num_groups).index_add(0, groups, values)
    counts = values.new_zeros(num_groups).index_add(0, groups, torch.ones_like(values))
    return (sums / counts)[groups]


@dataclass(frozen=True, kw_only=True, eq=False)
class Advantages:
    """What `PolicyGradient` is called with in place of a teacher."""

    advantage_M: Tensor
    sampled_logp_M: Tensor
    """log p of the policy that drew the tokens, nats, at the loss's temperature."""


@dataclass(frozen=True, kw_only=True)
class ClipRange:
    """PPO's bounds on the ratio, 1 - low to 1 + high."""

    low: float = 0.2
    high: float = 0.2

    def __post_init__(self) -> None:
        if not (0.0 < self.low <= 1.0 and self.high > 0.0):
            raise ValueError(f"ClipRange(low={self.low}, high={self.high}): low in (0, 1], high above 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyTokens:
    """The loss of sampled tokens at given log-probabilities, all [M]."""

    value_M: Tensor
    slope_M: Tensor
    """d value / d log p_now."""
    bounded_M: Tensor
    """1.0 where the clip or the cap acted."""


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """The loss of advantages that are given. See the head of this file for its gradient."""

    clip: ClipRange | None = None
    """None: the ratio is not clipped."""
    cap: float | None = None
    """Truncates the importance weight: above it the token's gradient is bounded, not dropped. None: no bound."""
    temperature: float = 1.0
    """The temperature that the rollout was sampled at."""
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if self.cap is not None and not self.cap >= 1.0:
            raise ValueError(f"PolicyGradient(cap={self.cap}): a bound on the ratio, at least 1, or None")
        if not self.temperature > 0.0:
            raise ValueError(f"temperature={self.temperature}: must be above 0")

    def on_tokens(self, logp_M: Tensor, teacher: Advantages) -> PolicyTokens:
        """Values and slopes from the current log-probabilities; no autograd needed."""
        logp_M = logp_M.detach()
        advantage_M = teacher.advantage_M.detach().to(logp_M)
        # Not the teacher's: the ratio is to the policy that drew the token, at the temperature it was drawn at.
        log_ratio_M = logp_M - teacher.sampled_logp_M.detach().to(logp_M)
        ratio_M = log_ratio_M.clamp(max=_MAX_LOG_RATIO).exp()
        weight_M, bound_M = ratio_M, ratio_M
        bounded_M = torch.zeros_like(ratio_M)
        if self.cap is not None:
            bounded_M = (ratio_M > self.cap).to(ratio_M.dtype)
            # Here slope and value part: the value stands still above the cap, the slope -A * cap does not become 0. A
            # truncated importance weight is a constant factor of grad log p, and the token goes on teaching.
            weight_M = bound_M = ratio_M.clamp(max=self.cap)
        if self.clip is not None:
            low, high = 1.0 - self.clip.low, 1.0 + self.clip.high
            clipped_M = ((advantage_M > 0) & (ratio_M > high)) | ((advantage_M < 0) & (ratio_M < low))
            # One-sided: a token whose ratio has gone astray against its advantage must still be brought back.
            weight_M = weight_M.masked_fill(clipped_M, 0.0)
            bound_M = torch.where(clipped_M, ratio_M.clamp(low, high), bound_M)
            bounded_M = torch.maximum(bounded_M, clipped_M.to(bounded_M.dtype))
        return PolicyTokens(
            value_M=-advantage_M * bound_M, slope_M=-advantage_M * weight_M, bounded_M=bounded_M
        )

    def __call__(
        self,
        *,
        student: Head | Logits,
        teacher: Advantages,
        token_ids_M: Tensor,
        weight_M: Tensor | None = None,
    ) -> TokenLoss:
        """Loss of M tokens. The monitor `divergence_M` is log p_now - log p_sampling; 0 on the policy's own samples."""
        if isinstance(student, Head):
            return self._chunked(student, teacher, token_ids_M, weight_M)
        logits_MV = student.logits_MV
        logits_MV = logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()
        logp_MV = (logits_MV / self.temperature).log_softmax(-1)
        logp_M = logp_MV.gather(-1, token_ids_M[:, None]).squeeze(-1)
        tokens = self.on_tokens(logp_M, teacher)
        # Adds 0 with the slope as its gradient, since autograd of the value would be wrong where the cap acts.
        value_M = tokens.value_M + tokens.slope_M * (logp_M - logp_M.detach())
        logp_MV = logp_MV.detach()
        return TokenLoss(
            value_M=value_M if weight_M is None else value_M * weight_M.detach(),
            divergence_M=logp_M.detach() - teacher.sampled_logp_M.detach().to(logp_M),
            capped_M=tokens.bounded_M,
            entropy_M=-(logp_MV.exp() * logp_MV).sum(-1),
            agreement_M=None,
        )

    def _chunked(
        self, student: Head, teacher: Advantages, token_ids_M: Tensor, weight_M: Tensor | None
    ) -> TokenLoss:
        plan = ChunkPlan(
            program=self._rows,
            temperature=self.temperature,
            chunk_size=self.chunk_size,
            whole_rows=False,
            with_gradient=torch.is_grad_enabled(),
        )
        if weight_M is None:
            weight_M = torch.ones(student.hidden_MH.shape[0], device=student.hidden_MH.device)
        # Two numbers per token travel where a remote teacher's log-probability does.
        dtype = torch.promote_types(teacher.advantage_M.dtype, teacher.sampled_logp_M.dtype)
        known_M2 = torch.stack([teacher.advantage_M.to(dtype), teacher.sampled_logp_M.to(dtype)], dim=-1)
        value_M, stats = chunked_rows(
            plan,
            student=student,
            teacher=None,
            token_ids_M=token_ids_M,
            teacher_logp_M=known_M2.detach(),
            weight_M=weight_M,
        )
        assert stats.capped_C is not None
        return TokenLoss(
            value_M=value_M,
            divergence_M=stats.divergence_C,
            capped_M=stats.capped_C,
            entropy_M=stats.entropy_C,
            agreement_M=None,
        )

    def _rows(self, task: RowTask) -> RowStats:
        ids_C, known_C2 = task.token_ids_C, task.teacher_logp_C
        assert ids_C is not None and known_C2 is not None
        # Log-probabilities first: the loop below turns each tile into its gradient, slope * ([v = y] - p_v).
        total_C = torch.stack([tile_CV.logsumexp(-1) for tile_CV in task.student]).logsumexp(0)
        places, logp_C, first = [], -total_C, 0
        for tile_CV in task.student:
            inside_C = (ids_C >= first) & (ids_C < first + tile_CV.shape[1])
            columns_C1 = (ids_C - first).clamp(0, tile_CV.shape[1] - 1)[:, None]
            places.append((columns_C1, inside_C))
            logp_C = logp_C + tile_CV.gather(1, columns_C1).squeeze(1) * inside_C
            first += tile_CV.shape[1]
        given = Advantages(advantage_M=known_C2[:, 0], sampled_logp_M=known_C2[:, 1])
        tokens = self.on_tokens(logp_C, given)
        slope_C = tokens.slope_M * task.weight_C
        entropy_C = torch.zeros_like(logp_C)
        for tile_CV, (columns_C1, inside_C) in zip(task.student, places, strict=True):
            tile_CV.sub_(total_C[:, None])
            p_CV = tile_CV.exp()
            entropy_C -= torch.linalg.vecdot(p_CV, tile_CV)
            if task.with_gradient:
                torch.mul(p_CV, -slope_C[:, None], out=tile_CV)
                tile_CV.scatter_add_(1, columns_C1, (slope_C * inside_C)[:, None])
        return RowStats(
            value_C=tokens.value_M,
            divergence_C=logp_C - given.sampled_logp_M,
            capped_C=tokens.bounded_M,
            entropy_C=entropy_C,
            agreement_C=None,
        )
