"""Where an extra is not installed, every command that needs it says so in one line, and writes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

EXTRAS = (
    *(
        "accelerate",
        "bitsandbytes",
        "datasets",
        "huggingface_hub",
        "httpx2",
        "latex2sympy2_extended",
        "math_verify",
        "openai",
        "optimi",
    ),
    *(
        "pandas",
        "peft",
        "pyarrow",
        "safetensors",
        "starlette",
        "tokenizers",
        "torch",
        "transformers",
        "trl",
        "uvicorn",
    ),
)
"""What the extras bring."""


@pytest.fixture(scope="module")
def site_without(tmp_path_factory: pytest.TempPathFactory):
    """Makes a folder of these site-packages in which some libraries are not there."""

    def make(gone: Sequence[str]) -> Path:
        folder = tmp_path_factory.mktemp("site")
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if entry.name.split("-")[0].split(".")[0] not in gone and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
        return folder

    return make


def run_all(commands: Sequence[str], site: Path, cwd: Path) -> list[tuple[int, str]]:
    """(status, standard error) of each command, all in one process that has no other libraries."""
    source = Path(__file__).parents[2] / "src"
    code = (
        "import contextlib, io, json, sys\n"
        f"sys.path[:0] = [{str(source)!r}, {str(site)!r}]\n"
        "from pilotage.cli.main import main\n"
        f"for words in {list(commands)!r}:\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):\n"
        "        status = main(words.split())\n"
        "    print(json.dumps([status, err.getvalue()]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


NO_TORCH = "pilotage: error: this needs torch, which is not installed: pip install 'pilotage[train]'\n"
NO_TRL = "pilotage: error: this needs trl, which is not installed: pip install 'pilotage[train]'\n"
NO_DATASETS = "pilotage: error: this needs datasets, which is not installed: pip install 'pilotage[data]'\n"
NO_PYARROW = "pilotage: error: this needs pyarrow, which is not installed: pip install 'pilotage[data]'\n"

NO_METADRIVE = (
    "pilotage: error: making logs needs MetaDrive, which is not installed: pip install 'pilotage[driving]' with Python "
    "3.11; the shipped logs need no simulator\n"
)

NEEDS = {
    "demo run": NO_TORCH,
    "train run": NO_TORCH,
    "train nano --dry-run": NO_TORCH,
    "train run --all": NO_TORCH,
    "eval nano": NO_TORCH,
    "diagnose nano gap": NO_TORCH,
    "diagnose nano prior": NO_TORCH,
    "serve nano": NO_TORCH,
    "diagnose run palr": NO_TORCH,
    "play --model nano": NO_TORCH,
    "study mgsd run": NO_TORCH,
    "nano pretrain base": NO_TORCH,
    "data build --out levels": NO_DATASETS,
    "data questions --out questions": NO_DATASETS,
    "data import vqa there": NO_PYARROW,
    "data driving --out drives": NO_METADRIVE,
}


def test_a_command_without_its_extra_is_one_line_that_names_it_and_writes_nothing(site_without, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "rows.parquet").touch()
    done = run_all(list(NEEDS), site_without(EXTRAS), tmp_path)
    assert done == [(2, message) for message in NEEDS.values()]
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_recipes_and_the_judge_need_no_extra(site_without, tmp_path):
    (tmp_path / "rows.jsonl").touch()
    done = run_all(["recipes", "recipes mgsd", "judge rows.jsonl"], site_without(EXTRAS), tmp_path)
    assert [status for status, _ in done] == [0, 0, 0]


def test_beside_torch_the_server_and_the_client_are_extras_of_their_own(site_without, tmp_path):
    commands = ["serve nano", "eval --endpoint http://127.0.0.1:1/v1 --model x --recipe nano"]
    done = run_all(commands, site_without(("starlette", "uvicorn", "openai")), tmp_path)
    assert [status for status, _ in done] == [2, 2]
    for (_, err), extra in zip(done, ("serve", "endpoint"), strict=True):
        assert err.startswith("pilotage: error: ") and err.endswith(f"pip install 'pilotage[{extra}]'\n")
        assert err.count("\n") == 1
