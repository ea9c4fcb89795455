"""Settings that are written and read again are what they were."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from typing import get_args, get_type_hints

import pytest

from pilotage.errors import PilotageError
from pilotage.recipes import RECIPES
from pilotage.train.distill_config import PARTS, DistillConfig, as_settings, from_settings


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipes_stages_come_back_as_they_were(name: str) -> None:
    for stage in RECIPES[name](3, backbone="nano").stages:
        if isinstance(stage, DistillConfig):
            assert from_settings(json.loads(json.dumps(as_settings(stage))), PARTS) == stage


def test_what_a_configuration_may_hold_is_known_by_name() -> None:
    """Every dataclass that the types of a configuration's fields name, at whatever depth."""
    seen: set[type] = set()

    def walk(hint: object) -> None:
        for part in get_args(hint):
            walk(part)
        if isinstance(hint, type) and is_dataclass(hint) and hint not in seen:
            seen.add(hint)
            for part in get_type_hints(hint).values():
                walk(part)

    walk(DistillConfig)
    assert len(seen) > 15
    assert {kind.__name__ for kind in seen} <= set(PARTS)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"class": "Popen", "args": ["true"]}, "name the class 'Popen'"),
        ({"class": "JSD", "alpha": 1}, "give a JSD the fields"),
        ({"class": "DistillConfig", "steps": 1}, "of a DistillConfig are not whole"),
    ],
)
def test_what_is_no_configuration_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(PilotageError, match=says):
        from_settings(settings, PARTS)
