"""The studies that `pilotage study` knows."""

from __future__ import annotations

from collections.abc import Mapping

from pilotage.recipes.ablation import ABLATION
from pilotage.recipes.comparison import ESTIMATORS, METHODS, PRIOR, VIGOS_PARTS
from pilotage.recipes.study import Study

STUDIES: Mapping[str, Study] = {
    study.name: study for study in (ABLATION, METHODS, ESTIMATORS, VIGOS_PARTS, PRIOR)
}
