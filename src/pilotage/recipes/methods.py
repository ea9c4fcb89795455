"""The neighbours of MGSD as stages of the one trainer: what each says of views, routes, divergences and sources.

A stage here is the method alone, on whatever is taught; what a world changes of it lies beside the world.
`pilotage.recipes.neighbours` gives it its paper's settings, and `pilotage.recipes.nano_methods` those of the nano
model, so that both run the same method.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pilotage.backbones.load import LoraSettings, QLoraSettings
from pilotage.distill.credit import EpisodeReturn
from pilotage.distill.divergences import JSD, DropCap, ElementCap, ForwardKL, NoCap, ReverseKL
from pilotage.distill.estimators import Estimator, FullVocabulary, Sampled
from pilotage.distill.policy_gradient import AdvantageMix, ClipRange, PolicyGradient
from pilotage.distill.routes import Append, Route, Router
from pilotage.distill.spans import MgsdLayout, SpanSpec, WholeLayout
from pilotage.errors import PilotageError
from pilotage.rollouts.sources import FromDataSet, FromStudent, FromTeacher, Sampling, on_policy_share, only
from pilotage.runs.recipe import Form, Recipe, Stage
from pilotage.train.distill_config import AdapterOff, DistillConfig, FrozenCopy, TeacherWeights
from pilotage.train.distill_setup import with_weights
from pilotage.train.sft_config import SftConfig
from pilotage.train.step.moves import TeacherTurns

VIGOS_CAP = 0.05
"""Nats per token, after the sum over the vocabulary; above it ViGOS drops the token."""


def two_stages(whole: Recipe) -> tuple[SftConfig, DistillConfig]:
    """MGSD's stages, which the methods change."""
    first, second = whole.stages
    assert isinstance(first, SftConfig) and isinstance(second, DistillConfig)
    return first, second


def answers_stage(first: SftConfig, second: DistillConfig) -> SftConfig:
    """Supervised fine-tuning on the reference answers to pictures, on as many rows as the second stage has rollouts."""
    return replace(
        first,
        stage="sft_answers",
        image_view="student",
        retention_share=0.0,
        steps=second.steps,
        batch_size=second.prompts_per_step,
    )


def routed_stage(
    stage: DistillConfig, *routes: Route, router: Router | None = None, mix: AdvantageMix | None = None
) -> DistillConfig:
    """A stage whose one teacher gives way to these routes over whole responses, or to a router.

    Descriptions keep their teacher, and every token counts alike.
    """
    router = router or Router(layout=WholeLayout(), routes=routes)
    return replace(stage, router=router, means="pooled", mix=mix)


def with_teacher(
    stage: DistillConfig,
    *,
    view: str | None = None,
    weights: TeacherWeights | None = None,
    estimator: Estimator | None = None,
) -> DistillConfig:
    """A stage of one teacher with another view, weights or estimator; who teaches descriptions changes alike.

    A teacher of plans that sees what the student sees has no privilege, and then the one of descriptions has none
    either.
    """
    (route,) = stage.router.routes
    new: dict[str, Any] = {"weights": weights, "estimator": estimator}
    new = {name: value for name, value in new.items() if value is not None}
    described = stage.description
    if described is not None:
        seen = {} if view is None else {"view": "perception" if view == "student" else "description"}
        described = replace(described, **seen, **new)
    route = replace(route, **({} if view is None else {"view": view}), **new)
    return replace(stage, router=replace(stage.router, routes=(route,)), description=described)


def sampled_by(stage: DistillConfig, sampling: Sampling) -> DistillConfig:
    """All rollouts the student's, drawn in this way."""
    return replace(stage, sources=only(FromStudent(sampling=sampling)))


def sampling_of(stage: DistillConfig) -> Sampling:
    """How one of the student's rollouts is drawn."""
    found = next((each for each in stage.sources.sources if isinstance(each, FromStudent)), FromStudent())
    return replace(found.sampling, num_samples=1)


def taught_by(stage: DistillConfig, weights: FrozenCopy | AdapterOff) -> DistillConfig:
    """A stage with other weights for its teacher: in place of every frozen copy of a model that it names.

    Where it names none, in place of the student's own first weights. Raises PilotageError where neither teaches.
    """
    own = [each for each in stage.all_weights if isinstance(each, FrozenCopy | AdapterOff)]
    replaced = [each for each in own if isinstance(each, FrozenCopy) and each.source is not None] or own
    if not replaced:
        raise PilotageError(f"teacher {weights} has no effect here: the teachers are {stage.all_weights}")
    return with_weights(stage, lambda known: weights if known in replaced else known)


def adapted(stage: Stage, rank: int, *, in_four_bits: bool = False) -> Stage:
    """A stage that trains an adapter of this rank, scaled as its own is or by 2; of rank 0, all weights."""
    if not rank:
        return replace(stage, lora=None)
    own = stage.lora or LoraSettings(rank=1, alpha=2.0)
    kind = QLoraSettings if in_four_bits else LoraSettings
    alpha, target = own.alpha / own.rank * rank, own.target_modules
    return replace(stage, lora=kind(rank=rank, alpha=alpha, dropout=own.dropout, target_modules=target))


def vigos_stage(
    stage: DistillConfig, *, form: Form, weights: TeacherWeights, perception_view: str = "picture"
) -> DistillConfig:
    """ViGOS (arXiv 2606.19120) on the tasks' own format: state, route and answer are description, thought and box.

    A teacher of the picture alone teaches the state; one who also knows the plan teaches route and answer; one who
    knows plan and format teaches rows that break the format, and nothing else. `paper`: the second reads the
    student's whole prefix and the end of the turn has no teacher. `released`: it is shown the taught tokens alone.
    Departures: the format is the task's, so there is no prefill, and the answer's tags are supervised in both forms
    (the release supervises two of ViGOS's delimiters, the paper none).
    """
    append: Append = "full" if form == "paper" else "span_only"
    views = (perception_view, "student_with_plan", "student_with_plan")
    routes = vigos_routes(views, weights, seen="state", planned=("route", "answer"), append=append)
    layout = MgsdLayout(spec=SpanSpec(end_owner="after"))
    return replace(routed_stage(stage, router=Router(layout=layout, routes=routes)), means="apart")


def vigos_routes(
    views: tuple[str, str, str],
    weights: TeacherWeights,
    *,
    seen: str,
    planned: tuple[str, ...],
    append: Append,
    prefill: str = "",
) -> tuple[Route, ...]:
    """The three teachers of ViGOS by what they are shown: of perception, of reasoning, and of rows out of form."""
    forward = FullVocabulary(divergence=ForwardKL(), cap=DropCap(tau=VIGOS_CAP))
    reverse = FullVocabulary(divergence=ReverseKL(), cap=DropCap(tau=VIGOS_CAP))
    perception = Route(
        name="perception",
        view=views[0],
        weights=weights,
        estimator=forward,
        spans=(seen,),
        rows="valid",
        append="upto_span",
    )
    return (
        perception,
        replace(perception, name="reasoning", view=views[1], spans=planned, append=append, prefill=prefill),
        Route(name="reference", view=views[2], weights=weights, estimator=reverse, rows="invalid", scale=2.0),
    )


def teaches_answers(stage: Stage) -> bool:
    """Whether a stage is for answers to a task; else it teaches to describe pictures, or with the plan beside them."""
    return isinstance(stage, DistillConfig) or stage.image_view == "student"


def opsd_stage(stage: DistillConfig, *, version: Literal[1, 3], weights: TeacherWeights) -> DistillConfig:
    """OPSD (arXiv 2601.18734): the initial model that also sees the solution teaches every token.

    Version 3: forward KL, each vocabulary entry's summand cut at 0.05. Version 1: JSD 0.5, nothing cut. Departure:
    the solution is the reference plan, because the tasks have no worked one.
    """
    if version == 3:
        estimator: Estimator = FullVocabulary(divergence=ForwardKL(), cap=ElementCap(tau=0.05))
    else:
        estimator = FullVocabulary(divergence=JSD(beta=0.5), cap=NoCap())
    return routed_stage(
        stage, Route(name="solution", view="student_with_plan", weights=weights, estimator=estimator)
    )


def gkd_stage(
    stage: DistillConfig,
    *,
    weights: TeacherWeights,
    view: str = "student",
    on_policy: float = 0.5,
    estimator: Estimator | None = None,
) -> DistillConfig:
    """GKD (arXiv 2306.13649; for driving 2604.07944): half the rows are the student's own, half the data set's.

    JSD 0.5 over the full vocabulary, a token mean per sequence. `view` is the teacher's: the student's own under a
    larger model's weights, as in the papers, or a privileged one.
    """
    route = Route(
        name="teacher",
        view=view,
        weights=weights,
        estimator=estimator or FullVocabulary(divergence=JSD(beta=0.5)),
    )
    return replace(
        routed_stage(stage, route),
        sources=on_policy_share(on_policy, FromStudent(sampling=sampling_of(stage)), FromDataSet()),
        reduction="sequence",
    )


def grpo_stage(
    stage: DistillConfig,
    *,
    num_samples: int,
    scale_by_spread: bool = True,
    format_reward: float = 0.0,
    kl_coef: float = 0.0,
    weights: TeacherWeights | None = None,
) -> DistillConfig:
    """GRPO (arXiv 2402.03300): the judge's verdict, held against the other answers to the same prompt; no teacher.

    The loss is a mean over answers of their token means, by PPO's clip of 0.2. `format_reward` is added for an answer
    that can be read. Above 0, `kl_coef` is the weight of the KL divergence from the weights at the start, which
    `weights` keeps (a frozen copy by default); it is exact, over the whole vocabulary, where the paper has an
    estimate from the sampled token. Prompts are asked to plan only: nothing judges a description.
    """
    routes = (Route(name="reward", view=None, weights=None, estimator=_clipped(stage)),)
    if kl_coef:
        routes += (
            Route(
                name="start",
                view=stage.student_view,
                weights=weights or FrozenCopy(),
                estimator=FullVocabulary(divergence=ReverseKL()),
                scale=kl_coef,
            ),
        )
    overlapping = (("reward", "start"),) if kl_coef else ()
    stage = replace(stage, perception_share=0.0, description=None)
    stage = sampled_by(stage, replace(sampling_of(stage), num_samples=num_samples))
    return replace(
        routed_stage(
            stage,
            router=Router(layout=WholeLayout(), routes=routes, overlapping=overlapping),
            mix=AdvantageMix(teacher=0.0, reward=1.0, scale_by_spread=scale_by_spread),
        ),
        means="apart",
        reduction="sequence",
        credit=EpisodeReturn(parsed=format_reward),
        stage="grpo",
    )


def sdar_stage(
    stage: DistillConfig,
    *,
    num_samples: int,
    weights: TeacherWeights,
    view: str = "teacher",
    share: float = 0.1,
    gate: float = 10.0,
    format_reward: float = 0.0,
) -> DistillConfig:
    """SDAR (arXiv 2605.15155): GRPO, and beside it a tenth of gated distillation from a privileged teacher.

    Each token's distillation is multiplied by sigmoid(10 * (log q - log p)), so that what the teacher endorses counts
    and what it rejects counts softly. Departure: the distillation is the sampled token's, by reverse KL.
    """
    stage = grpo_stage(stage, num_samples=num_samples, format_reward=format_reward)
    estimator = Sampled(as_="advantage", gate=gate, temperature=sampling_of(stage).temperature)
    endorsed = Route(name="endorsed", view=view, weights=weights, estimator=estimator, scale=share)
    router = replace(
        stage.router, routes=(*stage.router.routes, endorsed), overlapping=(("reward", "endorsed"),)
    )
    return replace(stage, router=router, stage="sdar")


def guided_stage(
    stage: DistillConfig, *, weights: TeacherWeights, view: str = "teacher", until: float = 0.8
) -> DistillConfig:
    """Guided-OPD (arXiv 2606.15912): within an episode teacher and student take turns, the teacher ever fewer.

    The student's turns are taught by reverse KL, those that the teacher wrote by forward KL, both over the whole
    vocabulary and pooled by tokens. For worlds of many turns.
    """
    own = Route(
        name="own",
        view=view,
        weights=weights,
        estimator=FullVocabulary(divergence=ReverseKL()),
        written_by="student",
    )
    theirs = replace(
        own, name="theirs", estimator=FullVocabulary(divergence=ForwardKL()), written_by="teacher"
    )
    guide = FromTeacher(view=view, weights=weights, sampling=sampling_of(stage))
    return replace(routed_stage(stage, own, theirs), moves=TeacherTurns(teacher=guide, until=until))


def _clipped(stage: DistillConfig) -> PolicyGradient:
    return PolicyGradient(clip=ClipRange(), temperature=sampling_of(stage).temperature)


def dense_rl_stage(stage: DistillConfig, *, weights: TeacherWeights, view: str) -> DistillConfig:
    """Dense-feedback RL (the baseline of arXiv 2604.07944): log p_teacher - log p_student as a token's advantage.

    The clip is PPO's 0.2; with one update per batch, as here, the ratio is 1 and it never acts, so that this is
    MGSD's released objective.
    """
    estimator = PolicyGradient(clip=ClipRange())
    feedback = Route(name="feedback", view=view, weights=weights, estimator=estimator)
    return routed_stage(stage, feedback, mix=AdvantageMix())
