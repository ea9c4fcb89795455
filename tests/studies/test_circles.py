"""The study of circles: which plans of a circling episode were right, and its tables over rows of a scripted model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotage.evaluate import rows_path
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.recipes.nano import nano_mgsd
from pilotage.records import Rollout, View
from pilotage.rollouts.engine import Decoding, Request
from pilotage.studies import circles
from pilotage.studies.circles import (
    CIRCLES,
    FOLDER,
    LEVELS,
    OWN,
    Remembered,
    circles_table,
    measure_circles,
    own_plans,
    own_plans_table,
    ways_of,
)
from pilotage.studies.episodes import EPISODES
from pilotage.train.distill_config import DistillConfig

GREEDY = Decoding(max_new_tokens=144)


class ByView:
    """Writes plans that follow from the view and the decoding alone; counts what it was asked."""

    def __init__(self) -> None:
        self.num_asked = 0

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        self.num_asked += len(requests)
        return [self._answer(request, decoding) for request in requests]

    def sync(self, model: Any) -> None:
        pass

    def _answer(self, request: Request, decoding: Decoding) -> Rollout:
        shown = repr((request.view.messages, request.view.images, decoding.temperature)).encode()
        moves = np.random.default_rng(zlib.crc32(shown)).choice(list("LDRU"), size=4)
        text = f"<answer>{' '.join(moves)}</answer>"
        return Rollout(example_id=request.example_id, token_ids=(1,), text=text, finished=True)


def turn(row: str, *plan: str) -> dict[str, Any]:
    """A turn in a map of one way round a hole, the player in the first row."""
    return {"state": {"map": [row, "FHF", "FFG"]}, "response": f"<answer>{' '.join(plan)}</answer>"}


def test_each_plan_is_followed_from_its_own_state_to_its_end() -> None:
    to_and_fro = [turn("SFF", "R"), turn("FSF", "L", "D", "D", "R", "R"), turn("SFF", "R"), turn("FSF", "L")]
    assert own_plans({"world": "frozenlake_steps", "turns": to_and_fro}) == (False, False, True)
    # The first state is seen again at the third turn; there and at the start the plan is right.
    right = [turn("SFF", "R", "R", "D", "D"), turn("FSF", "L"), turn("SFF", "R", "R", "D", "D")]
    assert own_plans({"world": "frozenlake_steps", "turns": right}) == (True, True, True)
    wrong = [turn("SFF", "R"), turn("FSF", "L", "D", "R"), turn("SFF", "R")]
    assert own_plans({"world": "frozenlake_steps", "turns": wrong}) == (False, False, False)


def test_a_greedy_answer_to_a_view_is_written_once_and_a_sampled_one_each_time() -> None:
    engine = ByView()
    remembered = Remembered(engine)
    views = [View(name="student", messages=[{"role": "user", "content": text}]) for text in ("a", "b", "a")]
    requests = [Request(view=view, example_id=str(place)) for place, view in enumerate(views)]
    first, again = (remembered.generate(requests, GREEDY) for _ in range(2))
    assert engine.num_asked == 2 and first == again == ByView().generate(requests, GREEDY)
    remembered.generate(requests, replace(GREEDY, temperature=1.0))
    remembered.sync(None)
    remembered.generate(requests[:1], GREEDY)
    assert engine.num_asked == 2 + 3 + 1


def test_every_way_plays_the_same_maps_and_is_held_against_asking_before_every_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circles, "engine_of", lambda recipe, weights, batch_size: ByView())
    for variant in CIRCLES.variants:
        if variant.make is not None:
            recipe = variant.make(0, tmp_path / "seed0" / "base_run")
            measure_circles(recipe, tmp_path / "seed0" / variant.folder, num_maps=2)
    table = circles_table(CIRCLES, tmp_path, (0,))
    assert all(len(line) == len(table.head) for line in table.rows)
    own = [line for line in table.rows if line[0] == OWN]
    # Seven ways from pictures and seven from words; a model that learnt with its past in the prompt is played so alone.
    assert len(own) == 14 and len(table.rows) == 14 + 2
    against = {(line[1], line[2]): line[table.head.index("all, against reference")] for line in own}
    assert [seen for (seen, way), difference in against.items() if not difference] == ["pictures", "words"]
    assert [line[:2] for line in own_plans_table(CIRCLES, tmp_path, (0,)).rows] == [
        [OWN, "pictures"],
        [OWN, "words"],
    ]

    folder = tmp_path / "seed0" / "own" / FOLDER
    rows = {
        way.folder: read_jsonl(rows_path(folder / way.folder, "steps", way.conditions[0])).rows
        for way in circles.WAYS
    }
    ids = {name: sorted(row["id"] for row in found) for name, found in rows.items()}
    assert all(found == ids["direct"] for found in ids.values()) and len(ids["direct"]) == 2 * len(LEVELS)
    assert {row["settings"]["agent"] for row in rows["follow_plan"]} == {"follow_plan"}
    assert {row["num_turns"] for row in rows["one_plan"]} == {1}
    assert {row["asked"]["burst"] for row in rows["burst2"]} == {2}


def test_a_study_of_circles_that_has_not_begun_says_so(tmp_path: Path) -> None:
    assert circles_table(CIRCLES, tmp_path, (0,)).rows[0][0] == "not run"
    assert own_plans_table(CIRCLES, tmp_path, (0,)).rows[0][0] == "not run"


def test_the_model_with_a_memory_differs_from_the_one_without_in_its_view_alone() -> None:
    own, memory = (make(3, Path("base_run")) for variant in CIRCLES.variants if (make := variant.make))
    (plain,), (with_memory,) = own.stages, memory.stages
    assert isinstance(with_memory, DistillConfig) and with_memory.student_view == "memory"
    assert replace(with_memory, student_view="student") == plain
    assert replace(memory, name=own.name, stages=own.stages, conditions=own.conditions) == own
    assert [way.folder for way in ways_of(memory)] == ["memory"]
    # So that both studies may share a folder: the run is the same.
    of_episodes = next(variant for variant in EPISODES.variants if variant.folder == "own")
    assert of_episodes.make is not None and of_episodes.make(3, Path("base_run")) == own
    assert ways_of(nano_mgsd(0)) == ways_of(own) == circles.WAYS
