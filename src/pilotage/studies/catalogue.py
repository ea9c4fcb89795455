"""The studies that `pilotage study` knows."""

from __future__ import annotations

from collections.abc import Mapping

from pilotage.studies.ablation import ABLATION
from pilotage.studies.circles import CIRCLES
from pilotage.studies.comparison import ESTIMATORS, METHODS, PRIOR, VIGOS_PARTS
from pilotage.studies.drift import DRIFT
from pilotage.studies.episodes import EPISODES, EPISODES_ANYWHERE, EPISODES_FOG
from pilotage.studies.questions import QUESTIONS, SMOLVL_QUESTIONS
from pilotage.studies.smolvl import SMOLVL
from pilotage.studies.study import Study

STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        *(ABLATION, METHODS, ESTIMATORS, VIGOS_PARTS, PRIOR),
        *(EPISODES, EPISODES_ANYWHERE, EPISODES_FOG, DRIFT, CIRCLES, SMOLVL, QUESTIONS, SMOLVL_QUESTIONS),
    )
}
