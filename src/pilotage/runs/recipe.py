"""A recipe is the whole typed configuration of a run: which model, which levels, which stages, how measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pilotage.errors import PilotageError
from pilotage.rollouts.engines import EngineSettings, InProcess
from pilotage.rollouts.sessions import SessionSettings, SessionsHere
from pilotage.runs.measurement import Measurement
from pilotage.train.distill_config import DistillConfig
from pilotage.train.settings import LATER
from pilotage.train.sft import SftConfig

Stage = SftConfig | DistillConfig
Form = Literal["paper", "released"]
"""Of ViGOS: what its paper says, or what its released code does."""
QuestionForm = Form | Literal["solution", "symbolic", "reward", "reference"]
"""How a recipe teaches on questions: ViGOS in one of its forms, by a teacher that sees the worked solution (OPSD) or
reads the state in place of the picture (MGSD), by the grader's reward, or by reference answers."""

PLACES = ("num_threads", "sessions")
"""Fields of a recipe that say where it is carried out, not what it is: a run may go on with others."""

BASE_STAGE = "base"
"""Name under which the untrained model is measured."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Measurement):
    """Everything that decides a run's numbers. A variant is made with `dataclasses.replace`."""

    name: str
    backbone: str
    """Model directory, hub id or `nano`; the student's first weights and, in MGSD, the teacher's."""
    stages: tuple[Stage, ...]
    """Run in this order, each from the weights that the one before left; their `stage` names differ."""
    engine: EngineSettings = field(default=InProcess(), metadata=LATER)
    """What the model answers in, while it is trained and when it is measured."""
    sessions: SessionSettings = field(default=SessionsHere(), metadata=LATER)
    """Where episodes live, while the model is trained, validated and measured."""
    questions: QuestionForm | None = field(default=None, metadata=LATER)
    """How its stages teach on questions about pictures (`pilotage.worlds.questions.recipes`); None: levels alone."""
    dtype: str = "float32"
    attention: str = "sdpa"
    validate_every: int = 0
    """Steps between measurements on unseen pictures of the split `val`, in every stage, over however many processes; 0
    makes none."""
    measure_base: bool = True
    """Measure the backbone before the first stage."""
    num_threads: int = 2
    """CPU threads; ignored on an accelerator."""

    def __post_init__(self) -> None:
        names = [BASE_STAGE, *(stage.stage for stage in self.stages)]
        if len(set(names)) < len(names):
            raise PilotageError(f"recipe {self.name}: stages {names} must have different names")
        if not 0 <= self.seed < 2**32:
            raise PilotageError(f"seed {self.seed} must lie between 0 and {2**32 - 1}")
        if self.num_threads < 1:
            raise PilotageError(f"threads {self.num_threads} must be at least 1")
