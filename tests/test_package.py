"""The wheel is complete: installed elsewhere, it imports every module and finds its data."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "pilotage"

DATA_FOLDERS = (
    "nano/base",
    "play/templates",
    "report/templates",
    "worlds/driving/pack",
    *(
        f"{of}/prompts/{form}"
        for of in ("views", "worlds/driving", "worlds/grids", "worlds/household", "worlds/questions")
        for form in ("brief", "full")
    ),
)
"""Folders of the package that hold what is no module."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a release would build it, without the network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that has the wheel, and these site-packages for its dependencies."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        + ["--target", str(site), str(wheel)],
        check=True,
        capture_output=True,
    )
    # Appended, so that the wheel's own files come first. A plain path line, so that no .pth file over
    # there (the one of an editable install) is followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def package_files() -> list[str]:
    """What version control would keep of the package, relative to `src`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/pilotage"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        files = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        files = [f for f in PACKAGE.rglob("*") if "__pycache__" not in f.parts]
    return [str(f.relative_to(ROOT / "src")) for f in files if f.is_file()]


def run_elsewhere(python: Path, code: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if not n.split("/")[0].endswith(".dist-info")}
    assert names == set(package_files())


def test_the_wheel_has_the_licence_and_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
    assert "pilotage = pilotage.cli.main:main" in archive.read(entry_points).decode()
    assert any(n.endswith("licenses/LICENSE") for n in archive.namelist())


def test_the_data_folders_that_are_listed_are_all_that_there_are():
    files = [Path(name) for name in package_files() if not name.endswith(".py")]
    assert {str(file.parent.relative_to("pilotage")) for file in files} == {*DATA_FOLDERS}


@pytest.mark.parametrize("folder", DATA_FOLDERS)
def test_package_data_is_inside(wheel, folder):
    assert any(n.startswith(f"pilotage/{folder}/") for n in zipfile.ZipFile(wheel).namelist())


def test_every_module_imports_from_the_wheel(wheel, elsewhere, tmp_path):
    files = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files]
    code = (
        "import importlib, pathlib, pilotage\n"
        f"for name in {[name for name in names if not name.endswith('__main__')]!r}:\n"
        "    importlib.import_module(name)\n"
        "print(pathlib.Path(pilotage.__file__).parent)\n"
    )
    place = run_elsewhere(elsewhere, code, tmp_path).strip()
    assert not Path(place).is_relative_to(ROOT), "the wheel was not what was imported"


def test_every_folder_with_modules_is_a_package():
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
