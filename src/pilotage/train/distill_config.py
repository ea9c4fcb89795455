"""What a distillation run is: its settings, checked before anything heavy begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

from pilotage.distill.credit import Credit, EpisodeReturn
from pilotage.distill.policy_gradient import AdvantageMix, PolicyGradient
from pilotage.distill.reduce import REDUCTIONS, ROUTE_MEANS, Reduction, RouteMeans
from pilotage.distill.routes import Route, Router, Weights
from pilotage.distill.spans import WholeLayout
from pilotage.errors import PilotageError
from pilotage.rollouts.sources import FromStudent, FromTeacher, Mixture, only
from pilotage.train.collapse import CollapseGuard
from pilotage.train.refresh import GatedRefresh
from pilotage.train.route_checks import check_routes
from pilotage.train.settings import (
    LATER,
    as_settings,
    from_settings,
)
from pilotage.train.step.moves import Moves, OwnMoves, TeacherTurns
from pilotage.train.step.turns import EveryTurn, TurnChoice
from pilotage.train.teachers import EMA, Live, Remote
from pilotage.train.updates import Updates
from pilotage.views import PROMPT_SETS, PromptSet, shows_picture, view_names
from pilotage.worlds.score import DESCRIBE

__all__ = [
    "EMA",
    "AdapterOff",
    "CollapseGuard",
    "DistillConfig",
    "FrozenCopy",
    "GatedRefresh",
    "Live",
    "Remote",
    "TeacherWeights",
    "as_settings",
    "from_settings",
]


@dataclass(frozen=True, kw_only=True)
class FrozenCopy(Weights):
    """The teacher has weights of its own that never change."""

    source: str | None = None
    """Model directory, hub id or `nano`; None copies the student as it is when the run begins."""


@dataclass(frozen=True, kw_only=True)
class AdapterOff(Weights):
    """The teacher is the student with its LoRA adapter switched off: no second copy in memory."""


TeacherWeights = FrozenCopy | AdapterOff | Live | EMA | GatedRefresh | Remote
"""Which parameters read a view: what `Route.weights` and `FromTeacher.weights` may be."""

DESCRIPTION = "description"
"""The only span of a rollout that answers the perception question."""
SIGNALS = ("log_ratio", "visual_advantage")
"""Per-token signals that the trainer can give to token weights."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig(Updates):
    """One run of on-policy distillation; each step samples new rollouts with the weights as they are.

    What shapes the result has no default.
    """

    prompts_per_step: int
    """Examples in a step, over all ranks; the tasks take turns, so that each has its share."""
    max_new_tokens: int
    prompts: PromptSet
    router: Router
    """Who teaches which tokens, and how: `one_teacher(...)` in the common case."""
    means: RouteMeans = field(default="pooled", metadata=LATER)
    """Whether each route is a mean over its own tokens, or over those of all routes together."""
    mix: AdvantageMix | None = field(default=None, metadata=LATER)
    """What the advantages of routes with `PolicyGradient` are made of; None for no such route."""

    student_view: str = field(default="student", metadata=LATER)
    """What the student sees."""
    of_roles: tuple[tuple[str, Router], ...] = field(default=(), metadata=LATER)
    """(role, who teaches its turns), for roles of a world that are taught otherwise than by `router`."""
    credit: Credit = field(default=EpisodeReturn(), metadata=LATER)
    """What number a turn gets of its episode, for policy gradients and token weights."""
    max_turns: int = field(default=64, metadata=LATER)
    """Longest episode that is played to train on."""
    turns: TurnChoice = field(default=EveryTurn(), metadata=LATER)
    """Which turns of an episode are taught."""
    moves: Moves = field(default=OwnMoves(), metadata=LATER)
    """Whose moves carry the episodes on."""
    relabel: bool = field(default=False, metadata=LATER)
    """Teach the reference answer from each state that was visited, in place of what was answered there: DAgger."""
    student_prefill: str | None = field(default=None, metadata=LATER)
    """Text that begins the student's turn; None leaves it to the view."""
    sources: Mixture = field(default=only(FromStudent()), metadata=LATER)
    """Where rollouts come from, and how they are drawn: the student alone, one of each prompt, unless it says more."""
    perception_share: float = 0.0
    """Share of the prompts that ask to describe the picture instead, scored by a teacher that describes the state
    from words. MGSD has none (0); without it a small model forgets to describe while it learns to plan."""
    description: Route | None = field(default=None, metadata=LATER)
    """Who teaches the descriptions, where there is a perception share."""
    reduction: Reduction = "token"
    """What counts alike in a step's mean: each token, each rollout, or each task (by its tokens)."""

    max_prompt_tokens: int | None = None
    """A longer prompt is an error that names its example; nothing is ever cut."""

    micro_batch_size: int = 16
    """Rows that go through the student forward and backward at once, sorted by length; the result is the same."""
    teacher_batch_size: int | None = None
    """Rows that the teacher scores at once; None takes `micro_batch_size`."""
    pad_to_multiple: int = 16

    seed: int = 0
    pixel_noise: float = 0.0
    """Standard deviation of Gaussian noise on the normalised pixels of the training forward."""
    gradient_checkpointing: bool = False

    collapse: CollapseGuard = field(default=CollapseGuard(), metadata=LATER)
    """What is taken for a sign that the student collapses, and whether it ends the run."""

    checkpoint_every: int = 50
    """Steps between checkpoints; the last step always has one."""
    num_checkpoints: int = 2
    """Checkpoints kept."""
    rollouts_every: int = 10
    """Steps between those whose rollouts are written to `rollouts.jsonl`; 0 writes none."""
    num_kept_rollouts: int = 8
    """Rollouts written at such a step."""
    palr_every: int = field(default=0, metadata=LATER)
    """Steps between measurements of how much of what is taught hangs on the answer; 0 makes none."""
    palr_examples: int = field(default=24, metadata=LATER)
    """Training examples that it is measured on, the same ones each time."""
    palr_wrong_answers: int = field(default=4, metadata=LATER)
    """Wrong answers to each: K."""
    stage: str = "stage2"
    """Name of the run's part: in `metrics.jsonl`, and of the folder with checkpoints and the model."""

    def __post_init__(self) -> None:
        for name in ("prompts_per_step", "max_new_tokens", "micro_batch_size", "max_turns"):
            if getattr(self, name) < 1:
                raise PilotageError(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 <= self.perception_share < 1:
            raise PilotageError(f"perception_share {self.perception_share} must be at least 0 and below 1")
        for name, legal in (
            ("prompts", PROMPT_SETS),
            ("reduction", REDUCTIONS),
            ("means", ROUTE_MEANS),
        ):
            if getattr(self, name) not in legal:
                raise PilotageError(f"{name} {getattr(self, name)!r} must be one of {', '.join(legal)}")
        if self.perception_share and self.description is None:
            raise PilotageError(
                f"perception_share {self.perception_share} needs a description route, which says who teaches them"
            )
        self._check_parts()
        self.check_updates()
        if self.checkpoint_every < 1 or self.num_checkpoints < 1:
            raise PilotageError("checkpoint_every and num_checkpoints must be at least 1")

    def _check_parts(self) -> None:
        self.notes()
        for what, view in [
            ("student_view", self.student_view),
            *((f"route {route.name!r}: view", route.view) for route in self.routes if route.view is not None),
            *(("the teacher's rollouts: view", source.view) for source in self._writing),
        ]:
            if view not in view_names():
                raise PilotageError(f"{what} {view!r} is not a view: {', '.join(view_names())}")
        for weights in self.all_weights:
            if not isinstance(weights, TeacherWeights):
                raise PilotageError(
                    f"{weights!r} is not what a teacher's weights can be: "
                    f"{', '.join(kind.__name__ for kind in get_args(TeacherWeights))}"
                )
        for route in self.routes:
            if route.view is None:
                continue
            if isinstance(route.weights, Remote) and shows_picture(route.view) and route.images != "none":
                raise PilotageError(
                    f"route {route.name!r}: a remote teacher reads text only, and view {route.view!r} shows the "
                    "picture; use a text view or images='none'"
                )
        if any(isinstance(teacher.weights, Remote) for teacher in self._writing):
            raise PilotageError(
                "a remote teacher scores rollouts and writes none; let it be an engine instead"
            )
        names = [route.name for route in self.routes]
        if len(set(names)) < len(names):
            raise PilotageError(f"routes {', '.join(names)}: two have the same name")
        for route in self.routes:
            if unknown := set(route.signals) - set(SIGNALS):
                raise PilotageError(
                    f"route {route.name!r}: no signal {sorted(unknown)}; there are {', '.join(SIGNALS)}"
                )
        self._check_advantages()

    def _check_advantages(self) -> None:
        by_gradient = [route.name for route in self.routes if isinstance(route.estimator, PolicyGradient)]
        if bool(by_gradient) != (self.mix is not None):
            raise PilotageError(
                f"mix {self.mix} and routes with PolicyGradient ({', '.join(by_gradient) or 'none'}) go together"
            )
        if self.palr_every and not any(route.has_teacher for route in self.routes):
            raise PilotageError(f"palr_every {self.palr_every} has no effect here: no route has a teacher")
        if self.mix is None:
            return
        if self.mix.teacher and (without := [route.name for route in self.routes if not route.has_teacher]):
            raise PilotageError(
                f"route {without[0]!r} has no teacher, and the mix takes {self.mix.teacher:g} of what one says; give "
                "it a view and weights, or AdvantageMix(teacher=0.0, reward=1.0)"
            )
        if "dataset" in self.sources.origins:
            raise PilotageError(
                "a PolicyGradient needs log-probabilities, and a data set's answers have none"
            )
        if isinstance(self.moves, TeacherTurns) or self.relabel:
            raise PilotageError(
                f"a PolicyGradient is for the student's own answers: moves {self.moves} and relabel {self.relabel} "
                "put another's in their place"
            )
        samples = min(source.num_samples for source in self.sources.sources)
        if self.mix.reward and self.mix.reward_baseline == "group" and samples == 1:
            raise PilotageError(
                "reward_baseline 'group' with one sample per prompt cancels the reward; sample more, or use 'batch'"
            )

    # -- what the fields come to --------------------------------------------------------------------------------------

    @cached_property
    def descriptions(self) -> Router | None:
        """Who teaches the rollouts that describe the picture; None when there are none."""
        if self.description is None or not self.perception_share:
            return None
        return Router(layout=WholeLayout(name=DESCRIPTION), routes=(self.description,))

    def router_of(self, role: str) -> Router:
        """Who teaches the turns of a role."""
        if role == DESCRIBE and self.descriptions is not None:
            return self.descriptions
        return dict(self.of_roles).get(role, self.router)

    @cached_property
    def routers(self) -> tuple[Router, ...]:
        own = (self.router,) if self.descriptions is None else (self.router, self.descriptions)
        return (*own, *(router for _, router in self.of_roles))

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes, of all roles."""
        return tuple(route for router in self.routers for route in router.routes)

    @property
    def all_weights(self) -> tuple[TeacherWeights, ...]:
        """Every set of weights that reads or answers, once, in the order of the routes."""
        found = [route.weights for route in self.routes if route.has_teacher]
        found += [source.weights for source in self._writing]
        return tuple(dict.fromkeys(found))  # pyright: ignore[reportReturnType]

    @property
    def _writing(self) -> list[FromTeacher]:
        """The teachers that write: whole rollouts, or turns of the student's episodes."""
        found = [source for source in self.sources.sources if isinstance(source, FromTeacher)]
        return [*found, self.moves.teacher] if isinstance(self.moves, TeacherTurns) else found

    @property
    def origins(self) -> frozenset[str]:
        """Who may have written what is taught."""
        found = self.sources.origins | ({"teacher"} if isinstance(self.moves, TeacherTurns) else set())
        return frozenset(found - {"student"} | {"dataset"} if self.relabel else found)

    def notes(self) -> list[str]:
        """What is worth knowing of routes and sources together; raises PilotageError for what cannot be."""
        return [note for router in self.routers for note in check_routes(router, self.sources, self.origins)]
