"""A full disk, a limit, a place that cannot be written to, a folder that goes away: one line, and nothing is lost."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotage.cli.main import main
from pilotage.cli.progress import Bar
from pilotage.errors import disk_message

SMALL_BUILD = (
    *("--tasks", "frozenlake", "--levels", "frozenlake", "3", "--workers", "1"),
    *("--num-train", "8", "--num-val", "2", "--num-test", "2"),
)
SMALL_QUESTIONS = ("--num-train", "8", "--num-val", "2", "--num-test", "2")
ROOM = "make room and run the same command again"
LIMIT = "raise the limit on the size of files (ulimit -f) and run the same command again"


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Every write beyond that fails in this process and in those that it starts, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """What `mount` makes of these; its last argument is the place. Skips the test where that is not permitted."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: a writer that failed may still hold its file.
        subprocess.run(["umount", "-l", arguments[-1]], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below the folder can be written; root, whom permissions do not hold, is given a read-only mount."""
    if os.geteuid():
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        try:
            yield
        finally:
            for path in folders:
                path.chmod(0o755)
        return
    with mounted("--bind", folder, folder):
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", place):
        yield place


def refused(arguments: Sequence[str | Path], capsys: Any) -> str:
    """The one line on standard error of a command that must end with status 2."""
    capsys.readouterr()
    status = main(list(map(str, arguments)))
    err = capsys.readouterr().err
    refusals = [line for line in err.splitlines() if line.startswith("pilotage: error: ")]
    assert status == 2
    assert len(refusals) == 1 and err.splitlines()[-1] == refusals[0], err
    return refusals[0]


LEVELS = '{"task": "frozenlake", "state": {"map": ["SFF", "FHF", "FFG"]}}\n'
ANSWERS = '{"id": 1, "task": "frozenlake", "state": {"map": ["SFF", "FHF", "FFG"]}, "response": ""}\n' * 50
FEW_STEPS = ("--steps", "1", "--data", "DATA")


def few(stage: str, **fields: int) -> tuple[str, ...]:
    """Changes that make a stage's steps small."""
    return tuple(
        word
        for name, value in {"micro_batch_size": 2, **fields}.items()
        for word in ("--set", f"{stage}.{name}={value}")
    )


FEW_ROWS = few("stage1", batch_size=2)
STAGE_2 = ("--stage", "stage2", "--from", "nano")
GRPO = ("--recipe", "nano_grpo", "--stage", "grpo", "--from", "nano")
TWO_EACH = {"sources.parts.0.1.sampling.num_samples": 2}
FEW_PLANS = {"prompts_per_step": 2, "max_new_tokens": 4}
EVAL = ("eval", "nano", "--data", "DATA", "--split", "train", "--num", "3", "--max-new-tokens", "4")

FAULTS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "data build": (
        3000,
        ("data", "build", "--out", "OUT", *SMALL_BUILD),
        "OUT/train/frozenlake-3-00000.parquet",
    ),
    "data import": (
        3000,
        ("data", "import", "json", "--root", "LEVELS", "--out", "OUT", "--json", "ROWS"),
        "OUT/test/frozenlake-3-00000.parquet",
    ),
    "data questions": (
        3000,
        ("data", "questions", "--out", "OUT", *SMALL_QUESTIONS),
        "OUT/train/questions-00000.parquet",
    ),
    "sft": (1_000_000, ("train", "OUT", *FEW_STEPS, *FEW_ROWS), "safetensors"),
    "distill": (
        1_000_000,
        *(("train", "OUT", *FEW_STEPS, *STAGE_2, *few("stage2", **FEW_PLANS)), "safetensors"),
    ),
    "grpo": (
        1_000_000,
        ("train", "OUT", *FEW_STEPS, *GRPO, *few("grpo", **FEW_PLANS, **TWO_EACH)),
        "safetensors",
    ),
    "eval": (2000, (*EVAL, "--conditions", "text", "--out", "OUT"), "OUT/eval/base.text.jsonl"),
    "judge": (2000, ("judge", "ANSWERS", "--out", "OUT"), "OUT"),
    "report": (9000, ("report", "RUN", "--out", "OUT"), "OUT"),
    "gap": (1000, ("diagnose", "RUN", "gap", "--rows-only"), "RUN/eval/base.gap.json"),
    "study": (1000, ("study", "mgsd", "OUT", "--tables-only"), "OUT/mgsd.md"),
    "nano export": (1_000_000, ("nano", "export", "OUT"), "OUT"),
}
"""Command -> (largest file in bytes, its words, what the line begins with)."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the commands read: a data set, published levels, answers, a run that was measured."""
    folder = tmp_path_factory.mktemp("read")
    found = {name: folder / name.lower() for name in ("DATA", "LEVELS", "ANSWERS", "RUN")}
    found["LEVELS"].write_text(LEVELS)
    found["ANSWERS"].write_text(ANSWERS)
    assert main(["data", "build", "--out", str(found["DATA"]), *SMALL_BUILD]) == 0
    words = placed((*EVAL, "--conditions", "text", "image", "--out", "RUN"), found)
    assert main(words) == 0
    return found


def placed(words: Sequence[str], places: Mapping[str, Path]) -> list[str]:
    """The words, with the place for its name, which may have the rest of a path behind it."""
    return [re.sub(r"^[A-Z]+(?=/|$)", lambda name: str(places[name[0]]), word) for word in words]


def content(place: Path) -> dict[str, Any]:
    """Every file: of rows, whose times differ, their number; of what is always the same, the bytes; else just True."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    found: dict[str, Any] = {}
    for path in files:
        held = path.read_bytes()
        found[str(path.relative_to(place))] = {
            ".jsonl": held.count(b"\n"),
            ".parquet": held,
            ".safetensors": held,
            ".md": held,
        }.get(path.suffix, True)
    return found


@pytest.mark.parametrize("command", FAULTS)
def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(command, places, tmp_path, capsys):
    limit, words, begins = FAULTS[command]
    twice, once = (
        {**places, "OUT": tmp_path / name, "ROWS": tmp_path / "rows" / name} for name in ("a", "b")
    )
    with files_of_at_most(limit):
        message = refused(placed(words, twice), capsys)
    (where,) = placed([begins], twice)
    assert message == f"pilotage: error: {where}: File too large: {LIMIT}"
    assert main(placed(words, twice)) == main(placed(words, once)) == 0
    assert content(twice["OUT"]) == content(once["OUT"])


def test_a_full_disk_is_one_line_whatever_library_writes(small_disk, places, capsys, monkeypatch):
    """A library may abort the process (datasets), or wrap what the system says (safetensors, torch)."""
    # A disk that fills up later: one that is too small at the start is refused.
    monkeypatch.setattr("pilotage.train.disk.check_room", lambda *_: None)
    for words in (
        ("data", "build", "--out", "DISK/levels", *SMALL_BUILD, "--num-train", "400"),
        ("nano", "export", "DISK/nano"),
        ("train", "DISK/run", *FEW_STEPS, *FEW_ROWS),
    ):
        message = refused(placed(words, {**places, "DISK": small_disk}), capsys)
        assert message.endswith(f"No space left on device: {ROOM}"), message
    with pytest.raises(RuntimeError) as caught:
        torch.save({"weights": torch.zeros(100_000)}, small_disk / "optimizer.pt")
    assert disk_message(caught.value) == f"a file of torch could not be written to its end: {ROOM}"


READING: dict[str, tuple[str, ...]] = {
    "eval": (*EVAL, "--conditions", "text", "image", "--out", "RUN"),
    "gap": ("diagnose", "gap", *EVAL[1:], "--conditions", "text", "image", "--out", "RUN"),
    "gap of rows": ("diagnose", "RUN", "gap", "--rows-only"),
    "compare": ("compare", "RUN", "RUN"),
    "report": ("report", "RUN", "--out", "OUT"),
}


@pytest.mark.parametrize("command", READING)
def test_what_was_measured_is_read_where_nothing_can_be_written(command, places, tmp_path, capsys, caplog):
    run = tmp_path / "run"
    shutil.copytree(places["RUN"], run)
    before = content(run)
    words = placed(READING[command], {**places, "RUN": run, "OUT": tmp_path / "page.html"})
    assert main(words) == 0
    figures = [line for line in capsys.readouterr().out.splitlines() if str(run / "eval") not in line]
    shutil.rmtree(run)
    shutil.copytree(places["RUN"], run)
    with read_only(run):
        assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == figures
    assert content(run) == before
    assert ("is not written: " in caplog.text) == (command in ("eval", "gap", "gap of rows"))


def test_a_place_that_cannot_be_written_to_is_one_line(places, tmp_path, capsys):
    folder = tmp_path / "closed"
    folder.mkdir()
    with read_only(folder):
        for words in (words for _, words, _ in FAULTS.values() if "OUT" in words):
            message = refused(
                placed(words, {**places, "OUT": folder / "new", "ROWS": folder / "rows"}), capsys
            )
            assert "that can be written to" in message or "that you may use" in message, message
            assert str(folder) in message
    assert not any(folder.iterdir())


def test_a_folder_that_goes_away_under_a_command_is_one_line(places, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    call_before = Bar.__call__

    def call_and_remove(bar: Bar, *arguments: Any) -> None:
        call_before(bar, *arguments)
        shutil.rmtree(run, ignore_errors=True)

    monkeypatch.setattr(Bar, "__call__", call_and_remove)
    for words in (
        (*EVAL, "--conditions", "text", "--out", "RUN"),
        ("train", "RUN", *FEW_STEPS[2:], *FEW_ROWS, "--steps", "2"),
    ):
        message = refused(placed(words, {**places, "RUN": run}), capsys)
        assert str(run) in message and "it was removed or never there" in message, message


def test_output_that_cannot_be_printed_is_one_line():
    command = [sys.executable, "-m", "pilotage.cli", "judge", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        f"pilotage: error: No space left on device: {ROOM}\n",
    )
