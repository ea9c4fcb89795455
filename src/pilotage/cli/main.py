"""`pilotage`: which command is meant, and how it ends.

A user's mistake is one line on standard error and exit status 2. A bug of ours is a traceback.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pilotage import __version__
from pilotage.cli.options import check_counts
from pilotage.errors import PilotageError, disk_message, meant, missing_message

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130
BROKEN_PIPE_STATUS = 141


class Command(Protocol):
    """A frozen dataclass whose fields are the options and whose docstring is the help page."""

    def run(self) -> int:
        """Does the work; the exit status."""
        ...


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A command: how it is typed, and where its class is."""

    words: tuple[str, ...]
    """What the user types after `pilotage`."""
    module: str
    """Module of this package, imported when the command is meant; heavy layers wait until it runs."""
    name: str
    """The command's class in it."""
    summary: str
    after_target: bool = False
    """Its last word may come after what it is about, as in `diagnose RUN gap`."""

    @property
    def usage(self) -> str:
        return " ".join((*self.words[:-1], "RUN", self.words[-1]) if self.after_target else self.words)

    def load(self) -> type[Command]:
        return getattr(importlib.import_module(f"pilotage.cli.{self.module}"), self.name)


def _entry(typed: str, place: str, summary: str, *, after_target: bool = False) -> Entry:
    module, _, name = place.partition(":")
    return Entry(
        words=tuple(typed.split()), module=module, name=name, summary=summary, after_target=after_target
    )


COMMANDS: tuple[Entry, ...] = (
    _entry("demo", "demo:Demo", "the whole method on the nano model"),
    _entry("data build", "data:Build", "write a data set of levels"),
    # Before `data import`, whose words they begin with.
    _entry("data import vqa", "data:ImportVqa", "read visual questions"),
    _entry("data import driving", "driving:ImportScenes", "read frames of drives"),
    _entry("data import", "data:Import", "read published levels"),
    _entry("data questions", "data:Questions", "ask about our own levels"),
    _entry("data driving", "driving:BuildLogs", "record drives in a simulator"),
    _entry("nano pretrain", "nano:Pretrain", "train the nano base"),
    _entry("nano export", "nano:Export", "copy the shipped nano base"),
    _entry("models make", "models:Make", "give a language model eyes"),
    _entry("train", "train:Train", "the stages of a recipe, one after the other"),
    _entry("recipes", "recipes:Recipes", "the methods that there are"),
    _entry("worlds", "worlds:Worlds", "the simulators that there are"),
    _entry("eval", "evaluate:Eval", "measure a model or a run"),
    _entry("serve", "serve:Serve", "a model behind a chat endpoint"),
    _entry("diagnose gap", "gap:GapCommand", "where a model loses: seeing or planning", after_target=True),
    _entry("diagnose prior", "prior:PriorCommand", "does a model plan by habit?", after_target=True),
    _entry("diagnose palr", "palr:PalrCommand", "how much is taught by the answer", after_target=True),
    _entry("openloop", "driving:OpenLoop", "planners beside what was driven"),
    _entry("compare", "compare:Compare", "two measurements, paired by level"),
    _entry("judge", "judge:Judge", "score answers without any model"),
    _entry("report", "report:Report", "write the page of a run"),
    _entry("play", "play:Play", "plan by hand, beside a model"),
    _entry("study", "study:StudyCommand", "variants with several seeds, one table"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in `argv` (default: the process's arguments); the exit status."""
    # Before torch is imported: two spinning OpenMP threads starve each other on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Our commands show one bar of their own; the libraries' bars would tear it.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_output()
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except PilotageError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("pilotage: interrupted", file=sys.stderr)
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        # The reader went away (`| head`).
        _drop_output()
        return BROKEN_PIPE_STATUS
    except Exception as error:
        message = disk_message(error) or missing_message(error)
        if message is None:
            raise
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return _refuse(message)


def _open_output() -> None:
    """Makes what is printed reach whatever is there: a closed stream takes all of it, and a name may hold no text."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Sends what is still to be printed nowhere: the interpreter would try again while closing, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str) -> int:
    print(f"pilotage: error: {' '.join(message.split())}", file=sys.stderr)
    return USAGE_STATUS


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(COMMANDS))
        return 0 if arguments else USAGE_STATUS
    if arguments[0] in ("version", "--version"):
        print(f"pilotage {__version__}")
        return 0
    # A run may itself be named like a diagnosis: what is in the usual place counts first.
    for entry in (entry for entry in COMMANDS if entry.after_target):
        if (arguments[0], *arguments[2:3]) == entry.words and not arguments[1].startswith("-"):
            return _run(entry, [arguments[1], *arguments[3:]])
    for entry in COMMANDS:
        if tuple(arguments[: len(entry.words)]) == entry.words:
            return _run(entry, arguments[len(entry.words) :])
    group = tuple(entry for entry in COMMANDS if entry.words[0] == arguments[0])
    if group and arguments[1:2] in ([], ["-h"], ["--help"]):
        print(_overview(group))
        return 0 if arguments[1:] else USAGE_STATUS
    known = [entry.usage for entry in group or COMMANDS]
    if group and group[0].after_target:
        given = arguments[2] if arguments[2:] else ""
        last = [entry.words[-1] for entry in group]
        raise PilotageError(
            f"{arguments[0]} {arguments[1]} {given or 'what'}? there are {', '.join(known)} (pilotage {arguments[0]} "
            f"--help){meant(given, last)}"
        )
    typed = " ".join(arguments[:2] if group else arguments[:1])
    raise PilotageError(
        f"no command {typed!r}; there are {', '.join(known)} (pilotage --help){meant(typed, known)}"
    )


def _run(entry: Entry, arguments: list[str]) -> int:
    from pilotage.cli.parsing import parse

    command = parse(entry.load(), " ".join(("pilotage", *entry.words)), arguments)
    check_counts(command)
    # Notices to the authors of the libraries' callers; a user can do nothing about them.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("pilotage").setLevel(logging.INFO)
    # Peft, which transformers imports, imports bitsandbytes wherever that is installed, which warns that it has no fast
    # kernel for 4 bits on a CPU. Its errors are still shown.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    status = command.run()
    _leave_ranks()
    return status


def _leave_ranks() -> None:
    """Closes what a launch on several ranks opened; left to the interpreter's own end, a rank may be aborted there."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _overview(entries: Sequence[Entry]) -> str:
    width = max(len(entry.usage) for entry in entries)
    lines = [f"  pilotage {entry.usage:<{width}}  {entry.summary}" for entry in entries]
    whole = entries is COMMANDS
    head = ["Pilotage teaches vision-language models to plan from pixels.", ""] if whole else []
    tail = ["", "Every command explains itself: pilotage COMMAND --help. pilotage version tells the version."]
    return "\n".join([*head, *lines, *(tail if whole else [])])
