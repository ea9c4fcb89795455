"""MGSD's neighbours with their papers' settings, on the paper levels of our tasks.

What is not known is taken from the nearest method and said so. All begin with the base itself: none of them has
MGSD's first stage.
"""

from __future__ import annotations

from dataclasses import replace

from pilotage.backbones.load import LoraSettings
from pilotage.distill.divergences import ForwardKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.recipes.methods import (
    answers_stage,
    dense_rl_stage,
    gkd_stage,
    grpo_stage,
    opsd_stage,
    sampled_by,
    two_stages,
    vigos_stage,
    with_teacher,
)
from pilotage.recipes.mgsd import mgsd
from pilotage.rollouts.sources import Sampling
from pilotage.runs.measurement import DRIVING, OPSD, VIGOS
from pilotage.runs.recipe import Form, QuestionForm, Recipe
from pilotage.train.distill_config import AdapterOff, DistillConfig, FrozenCopy
from pilotage.train.optimisers import AdamW

_NUM_EXAMPLES = 18_000
_LORA = LoraSettings(rank=64, alpha=128, dropout=0.05)
"""ViGOS's adapter."""


def vigos(seed: int = 0, *, backbone: str) -> Recipe:
    """ViGOS (arXiv 2606.19120), paper form: three teachers of the initial weights share the rollout.

    LoRA 64/128 with dropout 0.05, learning rate 5e-6 down a line, clip 0.1, batch 32, one epoch; rollouts at
    temperature 1.1, top-p 0.95, top-k 20, at most 4,096 tokens; forward KL on the state (picture alone) and on route
    and answer (plan added), reverse KL twice as heavy on invalid rows; tokens above 0.05 nats are dropped.
    Departures: planning tasks and their answer format in place of 47 K visual questions and ViGOS's tags.
    """
    return _vigos(seed, backbone, name="vigos", form="paper")


def vigos_released(seed: int = 0, *, backbone: str) -> Recipe:
    """ViGOS as its released code does it: the reasoning teacher is shown only the tokens that it teaches.

    All else is as in `vigos`, departures included; the release's looser check of the format has no counterpart here.
    """
    return _vigos(seed, backbone, name="vigos_released", form="released")


def _vigos(seed: int, backbone: str, *, name: str, form: Form) -> Recipe:
    stage = _adapter_stage(seed, backbone, max_new_tokens=VIGOS.max_new_tokens, max_grad_norm=0.1)
    stage = vigos_stage(stage, form=form, weights=AdapterOff())
    sampling = Sampling(temperature=1.1, top_p=0.95, top_k=20)
    return _recipe(name, seed, backbone, sampled_by(stage, sampling), questions=form)


def opsd(seed: int = 0, *, backbone: str) -> Recipe:
    """OPSD (arXiv 2601.18734), version 3: the initial model that sees the solution; forward KL cut at 0.05 per entry.

    Learning rate 5e-6, at most 1,024 tokens. Departures: the reference plan is the solution; adapter, batch and
    epochs are ViGOS's, because OPSD's own are not known here.
    """
    stage = _adapter_stage(seed, backbone, max_new_tokens=OPSD.max_new_tokens, max_grad_norm=1.0)
    stage = opsd_stage(stage, version=3, weights=AdapterOff())
    return _recipe("opsd", seed, backbone, stage, questions="solution")


def opsd_v1(seed: int = 0, *, backbone: str) -> Recipe:
    """OPSD's earlier code: JSD 0.5 without a cap. All else is as in `opsd`, departures included."""
    stage = _adapter_stage(seed, backbone, max_new_tokens=OPSD.max_new_tokens, max_grad_norm=1.0)
    return _recipe("opsd_v1", seed, backbone, opsd_stage(stage, version=1, weights=AdapterOff()))


def gkd(seed: int = 0, *, backbone: str, teacher: str | None = None) -> Recipe:
    """GKD as for driving (arXiv 2604.07944): JSD 0.5 to a larger model, half the rows from the data set.

    Learning rate 5e-5, batch 8, at most 512 tokens, five epochs, a token mean per sequence. `teacher` is the larger
    model, fine-tuned on the task; without one it is the base itself. Departures: the data, and that default.
    """
    stage = replace(
        _stage(seed, backbone, max_new_tokens=DRIVING.max_new_tokens),
        lr=5e-5,
        prompts_per_step=8,
        micro_batch_size=4,
        steps=5 * _NUM_EXAMPLES // 8,
    )
    weights = FrozenCopy(source=teacher or backbone)
    return _recipe("gkd", seed, backbone, gkd_stage(stage, weights=weights))


def dense_rl(seed: int = 0, *, backbone: str, teacher: str | None = None) -> Recipe:
    """Dense-feedback RL, the baseline of arXiv 2604.07944: the teacher's log-ratio as each token's advantage.

    Budget, rate and teacher are those of `gkd`, departures included; all rows are the student's own.
    """
    whole = gkd(seed, backbone=backbone, teacher=teacher)
    (stage,) = whole.stages
    assert isinstance(stage, DistillConfig)
    stage = replace(sampled_by(stage, Sampling()), reduction="token")
    weights = FrozenCopy(source=teacher or backbone)
    return replace(whole, name="dense_rl", stages=(dense_rl_stage(stage, weights=weights, view="student"),))


def visual_sft(seed: int = 0, *, backbone: str) -> Recipe:
    """Supervised fine-tuning on the reference answers to pictures, after MGSD's first stage: the visual baseline.

    As many rows as `mgsd` has rollouts, with the first stage's adapter and schedule, departures included. The paper's
    own settings of this baseline are not known.
    """
    whole = mgsd(seed, backbone=backbone)
    stage1, stage2 = two_stages(whole)
    return replace(
        whole, name="visual_sft", questions="reference", stages=(stage1, answers_stage(stage1, stage2))
    )


def grpo(seed: int = 0, *, backbone: str) -> Recipe:
    """GRPO (arXiv 2402.03300) after MGSD's first stage, with the judge's verdict as the reward.

    As many rollouts and steps as `mgsd`: 4 groups of 8 in a step, learning rate 1e-6, 0.1 for an answer that can be
    read. Departures from the paper: smaller groups (it has 64), no KL term, and one update per batch. The settings
    of the GRPO baseline in MGSD's tables are not known.
    """
    whole = mgsd(seed, backbone=backbone)
    stage1, stage2 = two_stages(whole)
    samples = 8
    begun = replace(stage2, prompts_per_step=stage2.prompts_per_step // samples, micro_batch_size=8, lr=1e-6)
    stage = grpo_stage(begun, num_samples=samples, format_reward=0.1)
    return replace(whole, name="grpo", questions="reward", stages=(stage1, stage))


def control_no_privilege(seed: int = 0, *, backbone: str) -> Recipe:
    """MGSD whose teacher sees what the student sees: if this helps, privilege was not what helped.

    Forward KL over the full vocabulary to the base; all else is as in `mgsd`, departures included.
    """
    whole = mgsd(seed, backbone=backbone)
    stage1, stage2 = two_stages(whole)
    control = with_teacher(stage2, view="student", estimator=FullVocabulary(divergence=ForwardKL()))
    return replace(whole, name="control_no_privilege", questions=None, stages=(stage1, control))


def _stage(seed: int, backbone: str, *, max_new_tokens: int) -> DistillConfig:
    """MGSD's second stage with another length, as what the methods change."""
    stage = mgsd(seed, backbone=backbone).stages[-1]
    assert isinstance(stage, DistillConfig)
    return replace(stage, max_new_tokens=max_new_tokens, stage="stage2")


def _adapter_stage(seed: int, backbone: str, *, max_new_tokens: int, max_grad_norm: float) -> DistillConfig:
    return replace(
        _stage(seed, backbone, max_new_tokens=max_new_tokens),
        lora=_LORA,
        optimiser=AdamW(),
        lr=5e-6,
        schedule="linear",
        max_grad_norm=max_grad_norm,
        prompts_per_step=32,
        steps=_NUM_EXAMPLES // 32,
    )


def _recipe(
    name: str, seed: int, backbone: str, stage: DistillConfig, *, questions: QuestionForm | None = None
) -> Recipe:
    whole = mgsd(seed, backbone=backbone)
    return replace(
        whole, name=name, questions=questions, max_new_tokens=stage.max_new_tokens, stages=(stage,)
    )
