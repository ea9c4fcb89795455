"""The command line as a user meets it: help pages, errors, exit statuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import get_type_hints

import pytest
import tyro

from pilotage import __version__
from pilotage.cli import main as cli
from pilotage.cli.main import COMMANDS, Entry, main
from pilotage.data.store import load_examples
from pilotage.errors import PilotageError
from pilotage.worlds.questions.data.store import load_questions


def option_names(entry: Entry) -> list[str]:
    """`--name` of every field that is not positional."""
    hints = get_type_hints(entry.load(), include_extras=True)
    command_fields = fields(entry.load())  # pyright: ignore[reportArgumentType]
    names = [
        own_name(hints[field.name]) or field.name
        for field in command_fields
        if tyro.conf.Positional not in marks(hints[field.name])
    ]
    return ["--" + name.replace("_", "-") for name in names]


def own_name(hint: object) -> str | None:
    """What an option is called that cannot be called as its field is: `from`, `set`."""
    return next((name for mark in marks(hint) if (name := getattr(mark, "name", None))), None)


def marks(hint: object) -> tuple[object, ...]:
    positional = tyro.conf.Positional[int].__metadata__  # pyright: ignore[reportAttributeAccessIssue]
    own = getattr(hint, "__metadata__", ())
    return tuple(tyro.conf.Positional if mark in positional else mark for mark in own)


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: "-".join(entry.words))
def test_every_help_page_names_its_options_and_fits_100_columns(entry, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        main([*entry.words, "--help"])
    page = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"usage: pilotage {' '.join(entry.words)}" in page
    assert max(map(len, page.splitlines())) <= 100
    for name in option_names(entry):
        assert f"{name} " in page or f"{name}," in page
    # A field without its docstring would show an empty help text before its default.
    assert not re.search(r"│\s+(--[a-z-]+ [A-Z{].*?)\s{2,}\((default|required)", page)


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: "-".join(entry.words))
def test_the_overview_lists_every_command(entry, capsys):
    assert main(["--help"]) == 0
    assert f"pilotage {entry.usage} " in capsys.readouterr().out


def test_without_a_command_the_overview_is_shown_and_the_status_is_2(capsys):
    assert main([]) == 2
    assert "pilotage judge" in capsys.readouterr().out


def test_version_is_the_package_version(capsys):
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"pilotage {__version__}\n"


def test_an_unknown_command_is_one_line_that_names_the_known_ones(capsys):
    assert main(["jugde"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotage: error: no command 'jugde'; there are ")
    assert all(entry.usage in err for entry in COMMANDS)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "guess"),
    [
        ("evla nano", "eval"),
        ("nano pretrian", "nano pretrain"),
        ("pretrain", "train"),
        ("eval nano --conditionz text", "--conditions"),
        ("eval nano --conditions imege", "image"),
        ("eval nano --split trian", "train"),
        ("train RUN --recipe nano_vigo", "nano_vigos"),
        ("train RUN --set stage2.lrr=1", "lr"),
        ("train RUN --set stag1.steps=1", "stage1"),
        ("train RUN --set lr=1", "stage1.lr or stage2.lr"),
        ("train RUN --set stage2.schedule=cosin", "cosine"),
        ("train RUN --set stage2.router.routes.plan.weights=FrozenCpy()", "FrozenCopy"),
        ("train RUN --set stage2.router.routes.plan.weights=FrozenCopy(sorce=nano)", "source"),
        ("train RUN --stage stage4", "stage2"),
        ("diagnose RUN gpa", "gap"),
        ("recipes mgds", "mgsd"),
        ("study mgds RUN", "mgsd"),
        ("data build --out RUN --tasks mase", "maze"),
    ],
)
def test_a_mistyped_name_is_one_line_with_a_guess(typed, guess, tmp_path, capsys):
    assert main(typed.replace("RUN", str(tmp_path / "run")).split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotage: error: ") and err.count("\n") == 1
    assert f"; did you mean {guess}?" in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("judge", "Missing from pilotage judge: FILE.jsonl (pilotage judge --help)"),
        ("judge a b", "Unrecognized options: b (pilotage judge --help)"),
        ("eval nano --out", "Missing value for argument '--out'. Expected 1 values (pilotage eval --help)"),
        (
            "eval nano --num 1.5",
            "Error parsing --num: invalid literal for int() with base 10: '1.5' (pilotage eval --help)",
        ),
        ("report", "name the folder of a run: pilotage report RUN"),
        (
            "diagnose RUN",
            "diagnose RUN what? there are diagnose RUN gap, diagnose RUN prior, diagnose RUN palr (pilotage diagnose "
            "--help)",
        ),
    ],
)
def test_options_that_cannot_be_read_are_one_line(typed, message, capsys):
    assert main(typed.split()) == 2
    assert capsys.readouterr().err == f"pilotage: error: {message}\n"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("eval nano --temperature nan", "--temperature nan is no number that can be worked with"),
        ("serve nano --port 8000000000", "--port 8000000000 is too large; the largest is 4294967295"),
        ("study mgsd OUT --seeds 0 9999999999", "--seeds 9999999999 is too large"),
        ("eval nano --threads 0", "threads 0 must be at least 1"),
        ("demo OUT --seed -1", "seed -1 must lie between 0 and 4294967295"),
        ("nano pretrain OUT --seed -1", "seed -1 must lie between 0 and 4294967295"),
        ("nano pretrain OUT --peak-lr -1", "peak_lr -1.0 is no learning rate"),
        (
            "train OUT --set stage1.lora=LoraSettings(rank=-1,alpha=1)",
            "the rank -1 of a LoRA adapter must be",
        ),
        ("train OUT --set stage2.lr=abc", "--set stage2.lr=abc: 'abc' must be a number"),
        ("train OUT --set stage1.seed=1.5", "--set stage1.seed=1.5: '1.5' must be a whole number"),
        (
            "train OUT --set stage2.router.routes.plan.estimator.divergence=3",
            "'3' must be ForwardKL(), ",
        ),
        ("train OUT --set stage1.lora.rank=4", "give that whole: LoraSettings(rank=..., "),
        ("train OUT --set levels.7=3", "there is no 7; there are 0, 1, 2"),
        ("train OUT --set stage2", "--set stage2: give a path and a value, as in --set stage2.seed=3"),
        ("train OUT --set seed=3", "--seed changes it everywhere"),
        (
            "train OUT --set stage1.seed=1 --set stage1.seed=2",
            "--set stage1.seed=2: stage1.seed is given twice",
        ),
        ("nano pretrain BYTES", "is no name in UTF-8, and no model can be saved there"),
        ("data questions --out OUT --cell-px 0", "cell_px is 0: a whole number of px per cell from 4 to 512"),
        ("judge --out OUT/below OUT", "OUT: No such file or directory"),
    ],
)
def test_an_option_that_cannot_be_worked_with_is_one_line_and_nothing_is_written(
    typed, message, tmp_path, capsys
):
    places = {"OUT": str(tmp_path / "out"), "BYTES": os.fsdecode(bytes(tmp_path) + b"/\xff")}
    words = [places[word] if word in places else word.replace("OUT", places["OUT"]) for word in typed.split()]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotage: error: ") and err.count("\n") == 1
    assert message.replace("OUT", places["OUT"]) in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"%s [x] {y}"])
def test_a_data_set_may_have_any_name_that_a_file_system_takes(name, tmp_path, capsys):
    few = ["--num-train", "2", "--num-val", "1", "--num-test", "1", "--tasks", "frozenlake"]
    folder = os.fsdecode(bytes(tmp_path) + b"/" + name)
    assert (
        main(["data", "build", "--out", folder, "--workers", "1", "--levels", "frozenlake", "3", *few]) == 0
    )
    assert len(load_examples(folder)) == 4
    assert main(["data", "questions", "--out", folder + "-asked", *few]) == 0
    assert len(load_questions(folder + "-asked")) == 4


def run_failing(monkeypatch, error: BaseException) -> int:
    @dataclass(frozen=True, kw_only=True)
    class Failing:
        """Ends as it was told to."""

        def run(self) -> int:
            raise error

    monkeypatch.setattr(Entry, "load", lambda self: Failing)
    monkeypatch.setattr(cli, "COMMANDS", (Entry(words=("fail",), module="", name="", summary=""),))
    return main(["fail"])


def test_a_users_mistake_is_one_clean_line_and_status_2(monkeypatch, capsys):
    assert run_failing(monkeypatch, PilotageError("level 99\n is too big")) == 2
    assert capsys.readouterr().err == "pilotage: error: level 99 is too big\n"


def test_ctrl_c_is_one_line_and_status_130(monkeypatch, capsys):
    assert run_failing(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "pilotage: interrupted\n"


def test_a_bug_of_ours_is_a_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_failing(monkeypatch, ZeroDivisionError())


def test_help_and_every_command_class_load_without_torch():
    code = (
        "import sys\n"
        "from pilotage.cli.main import COMMANDS, main\n"
        "main(['--help'])\n"
        "for entry in COMMANDS: entry.load()\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_openmp_threads_wait_passively_before_a_command_runs(monkeypatch, capsys):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    main(["version"])
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_nano_export_copies_an_ordinary_directory_once(tmp_path, capsys):
    folder = tmp_path / "nano"
    assert main(["nano", "export", str(folder)]) == 0
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert main(["nano", "export", str(folder)]) == 2
    assert f"{folder} exists already" in capsys.readouterr().err


@dataclass(frozen=True, kw_only=True)
class OnRanks:
    """A command that begins a launch's process group, of one rank."""

    def run(self) -> int:
        import torch

        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
        return 0


def test_a_command_leaves_no_process_group_behind(monkeypatch):
    import torch

    entry = Entry(words=("ranks",), module="none", name="OnRanks", summary="")
    monkeypatch.setattr(Entry, "load", lambda self: OnRanks)
    monkeypatch.setattr(cli, "COMMANDS", (entry,))
    assert main(["ranks"]) == 0
    assert not torch.distributed.is_initialized()


def test_the_help_of_study_names_every_study_and_no_other(capsys):
    from pilotage.studies.catalogue import STUDIES

    with pytest.raises(SystemExit):
        main(["study", "--help"])
    page = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert {name for name in STUDIES if not re.search(rf"\b{name}: ", page)} == set()
