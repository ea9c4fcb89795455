"""The worlds of docs/add-a-world.md, taken from the page and installed in a folder outside the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-world.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's module and what an installation of its package leaves there."""
    folder = tmp_path_factory.mktemp("elsewhere")
    [module] = re.findall(r'^```python title="lamps.py"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    (folder / "lamps.py").write_text(module)
    [points] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    info_dir = folder / "lamps-1.0.dist-info"
    info_dir.mkdir()
    (info_dir / "METADATA").write_text("Metadata-Version: 2.1\nName: lamps\nVersion: 1.0\n")
    lines = [line for line in points.splitlines() if "=" in line]
    entries = [line.replace('"', "") for line in lines]
    (info_dir / "entry_points.txt").write_text("[pilotage.worlds]\n" + "\n".join(entries) + "\n")
    return folder


def run(installed: Path, *command: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(installed)]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    done = subprocess.run(
        command, cwd=installed, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_it_keeps_the_contract_and_its_expert_wins(installed: Path) -> None:
    code = """
from pilotage.records import Rollout
from pilotage.rollouts.play import Start, Writer, play
from pilotage.views import first_moment, make_view, reference_of_view
from pilotage.worlds import get_world, world_names
from pilotage.worlds.world import World, check_outcome

assert "lamps" in world_names()
world = get_world("lamps")
assert isinstance(world, World)
train, test = world.examples(12, "train"), world.examples(4, "test")
assert not {e.id for e in train} & {e.id for e in test}
show = lambda moment: make_view("student", moment, "brief")
expert = lambda moment, view: Rollout(
    example_id=moment.example.id, token_ids=(), text=reference_of_view(moment, view.name), finished=True
)
for episode in play([Start(example=e) for e in train], writer=Writer(write=expert), show=show):
    assert check_outcome(world, episode.outcome).success and len(episode.turns) == len(episode.example.plan)
    assert episode.turns[-1].reward == 1.0
session = world.open(test[0])
for text in ("", "lights!", "<answer>Z</answer>", "\\ud800"):
    session.act(text)
assert not session.outcome().is_("parsed") and not session.outcome().success
assert show(first_moment(test[0])) == make_view("student", test[0].public(), "brief")
print("kept")
"""
    assert run(installed, sys.executable, "-c", code) == "kept\n"


def test_it_is_held_to_the_contract_of_all_worlds(installed: Path) -> None:
    contract = [
        str(ROOT / "tests" / "contracts" / f"test_{of}_contract.py") for of in ("worlds", "capabilities")
    ]
    options = ["-q", "-k", "lamps", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    printed = run(
        installed,
        sys.executable,
        "-m",
        "pytest",
        *options,
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *contract,
    )
    assert int(re.findall(r"(\d+) passed", printed)[0]) > 10
    assert "skipped" not in printed


def test_the_page_s_commands_measure_it_here_and_apart(installed: Path) -> None:
    commands = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for command, name in zip(commands, ("lamps", "lamps_apart"), strict=True):
        printed = run(
            installed, "bash", "-ec", command.strip() + " --conditions image --max-new-tokens 8 --threads 1"
        )
        assert "lamps" in printed and "parsed" in printed
        assert (installed / "runs" / name / "eval" / "base.image.jsonl").is_file()


def test_the_gymnasium_world_of_the_page_is_one(installed: Path) -> None:
    pytest.importorskip("pygame")
    [code] = re.findall(r"^```python\n(import gymnasium.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) < 20
    code += "\nworld = Cliff()\n[example] = world.examples(1, 'train')\nsession = world.open(example)\n"
    code += "session.act('<answer>UP</answer>')\nprint(session.observe().privileged.state)\n"
    assert run(installed, sys.executable, "-c", code).strip().endswith("{'row': 2, 'column': 0}")
