"""Engines as part of a recipe: named on the command line and in settings, recorded; one of one's own in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.evaluate.jsonl import read_jsonl
from pilotage.recipes import RECIPES
from pilotage.rollouts.engines import ENGINES, InProcess, InVllm, engine_named
from pilotage.runs.changes import changed
from pilotage.train.parts import parts_of
from pilotage.train.settings import as_settings, from_settings

OWN = '''"""An engine of one's own: says the same whatever it is asked, and counts how often it was synced."""

from __future__ import annotations

from dataclasses import dataclass

from pilotage.records import Rollout

SYNCED = []


@dataclass(frozen=True, kw_only=True)
class Parrot:
    words: str = "<answer>R</answer>"
    batch_size: int = 7

    @property
    def title(self):
        return "a parrot"

    @property
    def has_own_weights(self):
        return False

    def open(self, backbone, *, batch_size=None, max_prompt_tokens=None):
        return Speaking(self.words, backbone)


class Speaking:
    def __init__(self, words, backbone):
        self.words, self.backbone = words, backbone

    def generate(self, requests, decoding):
        text = self.words + str(self.backbone.tokenizer.eos_token)
        ids = tuple(self.backbone.tokenizer(text, add_special_tokens=False)["input_ids"])[: decoding.max_new_tokens]
        return [
            Rollout(
                example_id=request.example_id,
                token_ids=ids,
                text=self.backbone.decode(ids),
                finished=True,
                logprobs=(-1.0,) * len(ids),
            )
            for request in requests
        ]

    def sync(self, model):
        SYNCED.append(model)
'''


@pytest.fixture
def parrots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "parrots.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "parrots"


def test_every_named_engine_is_made_by_its_name() -> None:
    assert {name: type(engine_named(name)) for name in ENGINES} == dict(ENGINES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vlm", "did you mean vllm"),
        ("nowhere.at_all:Engine", "cannot be imported"),
        ("pilotage.records:Nothing", "cannot be imported"),
        ("pilotage.records:Rollout", "no engine's settings"),
    ],
)
def test_what_is_no_engine_is_one_line(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PilotageError, match=message):
        engine_named(name)
    assert main(["eval", "nano", "--num", "1", "--engine", name]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_recipe_holds_its_engine_and_its_record_tells_it() -> None:
    recipe = RECIPES["nano"](0, backbone="nano")
    assert recipe.engine == InProcess()
    # At its default it is left out: records of before are equal.
    assert "engine" not in as_settings(recipe)
    other = changed(recipe, ["engine=InVllm(max_images=4)"])
    assert other.engine == InVllm(max_images=4)
    written: Any = json.loads(json.dumps(as_settings(other)))
    assert from_settings(written, parts_of(type(recipe))) == other
    with pytest.raises(PilotageError, match="gpu_memory_utilization 2.0"):
        changed(recipe, ["engine=InVllm(gpu_memory_utilization=2.0)"])


def test_an_engine_of_ones_own_answers_in_an_evaluation(
    parrots: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_threads: None
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["eval", "nano", "--out", "out", "--num", "2", "--conditions", "image"]
    assert main([*words, "--engine", f"{parrots}:Parrot"]) == 0
    rows = read_jsonl(tmp_path / "out" / "eval" / "base.image.jsonl").rows
    assert {row["response"] for row in rows} == {"<answer>R</answer>"}
    assert {row["settings"]["model"] for row in rows} == {"nano in a parrot"}


def test_an_engine_of_ones_own_answers_in_training_and_is_recorded(
    parrots: str, tmp_path: Path, same_threads: None
) -> None:
    import parrots as module  # pyright: ignore[reportMissingImports]

    run = tmp_path / "run"
    few = [
        "stage2.steps=2",
        "stage2.warmup_share=0.5",
        "stage2.prompts_per_step=3",
        "stage2.perception_share=0",
    ]
    few += [
        "num_train=4",
        "stage2.rollouts_every=1",
        f'engine={{"class": "{parrots}.Parrot", "words": "<answer>L</answer>"}}',
    ]
    words = ["train", str(run), "--recipe", "nano", "--stage", "stage2", "--from", "nano"]
    assert main([*words, *(part for change in few for part in ("--set", change))]) == 0
    rows = read_jsonl(run / "rollouts.jsonl").rows
    assert {row["response"] for row in rows} == {"<answer>L</answer>"}
    # The weights were handed over before each step.
    assert len(module.SYNCED) == 2
    recorded = json.loads((run / "config.json").read_text())
    assert recorded["recipe"]["engine"]["words"] == "<answer>L</answer>"
    # The command that goes on with the run need not name it again.
    assert main(["train", str(run), "--stage", "stage2"]) == 0
