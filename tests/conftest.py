"""What every test shares: a quiet, offline environment, a hypothesis profile, a browser."""

from __future__ import annotations

import os

# Before anything imports torch: spinning OpenMP threads starve each other on a small machine,
# and no test may reach for the network.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from pages import CHROMIUM, CHROMIUM_ARGS

# No deadline: the first example of a test may pay for an import or a compilation. The same cases every time: what was
# green stays green until something changes.
settings.register_profile(
    "pilotage",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# To look for trouble: HYPOTHESIS_PROFILE=search makes other cases in every run.
settings.register_profile("search", settings.get_profile("pilotage"), derandomize=False)
# For `make fuzz`: as many cases as a release is tried with, in the tests that leave their number to the profile.
settings.register_profile("deep", settings.get_profile("search"), max_examples=100_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "pilotage"))


@pytest.fixture(autouse=True, scope="module")
def _imports_are_no_garbage() -> None:
    """Every training run ends in a full garbage collection, which took 0.2 s of its 0.3 over what is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Of torch's, while a module's models train: what they come to depends on the number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium (`playwright.sync_api.Browser`); the test is skipped where there is none."""
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM} (apt-get install chromium, or set PILOTAGE_CHROMIUM)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def same_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands set the process's thread count; other tests want theirs back."""
    import torch

    monkeypatch.setattr(torch, "set_num_threads", lambda num_threads: None)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, same_threads: None) -> dict[str, Any]:
    """What the trainer was last asked to do; nothing is loaded, drawn or trained, and a stage ends at once.

    `asked["refuses"]`, where it is set, is raised in place of the beginning, and `asked["killed"]` after it.
    """
    from pilotage.runs import measurement, runner
    from pilotage.train import distill, sft

    asked: dict[str, Any] = {}

    def train(config: Any, backbone: Any, examples: Any, run_dir: Path, on_begin: Any) -> Path:
        if "refuses" in asked:
            raise asked["refuses"]
        on_begin()
        if "killed" in asked:
            (run_dir / config.stage).mkdir(exist_ok=True)
            raise asked["killed"]
        asked.update(config=config, backbone=backbone, examples=examples)
        model = run_dir / config.stage / "model"
        model.mkdir(parents=True, exist_ok=True)
        (model / "config.json").write_text("{}")
        return model

    def run_trl(
        config: Any,
        backbone: Any,
        examples: Any,
        run_dir: Path,
        on_step: Any,
        *,
        on_begin: Any,
        validate: Any,
    ) -> Path:
        model = train(config, backbone, examples, run_dir, on_begin)
        on_step(1, 2, {"loss": 0.5})
        return model

    def run_distill(
        config: Any,
        *,
        student: Any,
        examples: Any,
        run_dir: Path,
        answers: Any,
        open_session: Any,
        on_step: Any,
        on_begin: Any,
        validate: Any,
    ) -> Path:
        model = train(config, student, examples, run_dir, on_begin)
        on_step({"step": 1, "loss": 0.5})
        return model

    def examples_of(recipe: Any, split: str, sessions: Any = None) -> str:
        asked["recipe"] = recipe
        return f"{split} levels"

    monkeypatch.setattr("pilotage.backbones.load.load_shape", lambda path, **_: path)
    monkeypatch.setattr("pilotage.cli.train.Train._check_room", lambda *_: None)
    monkeypatch.setattr(sft, "run_sft", run_trl)
    monkeypatch.setattr(distill, "distill", run_distill)
    monkeypatch.setattr(runner, "examples_of", examples_of)
    monkeypatch.setattr(measurement, "examples_of", examples_of)
    monkeypatch.setattr(runner, "load_student", lambda recipe, stage, weights: weights)
    return asked
