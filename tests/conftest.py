"""What every test shares: a quiet, offline environment, a hypothesis profile, a browser."""

from __future__ import annotations

import os

# Before anything imports torch: spinning OpenMP threads starve each other on a small machine,
# and no test may reach for the network.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

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

CHROMIUM = Path(os.environ.get("PILOTAGE_CHROMIUM", "/usr/bin/chromium"))
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


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
