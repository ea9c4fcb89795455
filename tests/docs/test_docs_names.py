"""Files, commands and options that pages and docstrings name are there."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pilotage.cli.main import COMMANDS, Entry, main
from pilotage.studies.catalogue import STUDIES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks" / "results").glob("*.md")]
)
CODE = sorted(file for folder in ("src", "benchmarks", "examples") for file in (ROOT / folder).rglob("*.py"))
FILES = [pytest.param([page], id=page.relative_to(ROOT).as_posix()) for page in PAGES]
FILES += [pytest.param(CODE, id="code")]

FOLDERS = ("src", "tests", "benchmarks", "docs", "examples")
ROOTED = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w")
"""A path from the root."""
PARTIAL = re.compile(r"`([\w-]+(?:/[\w-]+)*/[\w-]+\.py)`")
"""The end of a module's path, as in `worlds/registry.py`."""
MADE_UP = {"backbones/families/llava.py"}
"""A file that a reader would write."""
TITLE = re.compile(r'^```\w+ title="(.+)"$', re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINE = re.compile(r"^ *(?:echo .+ \| )?((?:pilotage|python) .+|make [a-z-]+(?: [A-Z]+=.+)?)$", re.MULTILINE)
TYPED = re.compile(r"(?:pilotage|make|python)\s+[^\s|].*", re.DOTALL)
PLACEHOLDER = re.compile(r"[A-Z_]+|…|\$.+|\{.+\}")


@cache
def there() -> frozenset[str]:
    """Files and folders that a page may name."""
    found = (path for folder in FOLDERS for path in (ROOT / folder, *(ROOT / folder).rglob("*")))
    return frozenset(path.relative_to(ROOT).as_posix() for path in found)


def missing(text: str) -> set[str]:
    """Paths that the text names and that are not there. What it has its reader write is none of them."""
    made = {*MADE_UP, *TITLE.findall(text)}
    rooted = {path for path in ROOTED.findall(text) if not {path, f"{path}.md"} & there()}
    ends = {
        end for end in PARTIAL.findall(text) if not any(f"/{path}".endswith(f"/{end}") for path in there())
    }
    return (rooted | ends) - made


@pytest.mark.parametrize("files", FILES)
def test_every_path_that_is_named_exists(files: list[Path]) -> None:
    faults = {file: missing(file.read_text(encoding="utf-8")) for file in files}
    assert not {file.name: paths for file, paths in faults.items() if paths}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`src/pilotage/nano/pretrain.py`, `worlds/registry.py`, tests/golden.py.", set()),
        ("(`src/pilotage/train/nano_pretrain.py`)", {"src/pilotage/train/nano_pretrain.py"}),
        ("`worlds/register.py`", {"worlds/register.py"}),
        ('```python title="src/pilotage/mine.py"\n```\n`src/pilotage/mine.py`', set()),
    ],
)
def test_a_planted_path_is_judged(text: str, found: set[str]) -> None:
    assert missing(text) == found


def typed(text: str) -> Iterator[list[str]]:
    """The words of every command that the text tells to type: in spans of code, and as lines of their own."""
    joined = text.replace("\\\n", " ")
    for said in (*SPAN.findall(FENCE.sub("", joined)), *LINE.findall(joined)):
        if TYPED.fullmatch(said):
            yield re.split(r"\s#|\s\||[;&)]", said)[0].split()


def entry_of(words: list[str]) -> Entry | None:
    for entry in COMMANDS:
        plain, target_first = tuple(words[: len(entry.words)]), (*words[:1], *words[2:3])
        if entry.words == plain or (entry.after_target and entry.words == target_first):
            return entry
    return None


@cache
def help_of(entry: Entry) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        main([*entry.words, "--help"])
    return printed.getvalue()


def wrong(words: list[str]) -> str:
    """What of a command does not exist; "" for one that does."""
    program, *rest = words
    if program == "make":
        target = re.search(rf"^{re.escape(rest[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return "" if target or PLACEHOLDER.fullmatch(rest[0]) else rest[0]
    if program == "python":
        script = ROOT / rest[0]
        if not rest[0].startswith(("benchmarks/", "examples/")):
            return ""
        known = script.read_text(encoding="utf-8") if script.is_file() else ""
    else:
        if rest[0] in ("--help", "version") or PLACEHOLDER.fullmatch(rest[0]):
            return ""
        entry = entry_of(rest)
        if entry is None:
            group = [entry for entry in COMMANDS if entry.words[0] == rest[0]]
            names = rest[2:3] if group and group[0].after_target else rest[1:2]
            is_whole = bool(group) and all(PLACEHOLDER.fullmatch(name) for name in names)
            return "" if is_whole else " ".join(rest[:3])
        if (
            entry.words == ("study",)
            and re.fullmatch(r"[a-z]\w*", " ".join(rest[1:2]))
            and rest[1] not in STUDIES
        ):
            return rest[1]
        known = help_of(entry)
    options = [option for word in rest for option in re.findall(r"^--[a-z][a-z-]*", word)]
    return " ".join(option for option in options if not re.search(rf"{option}(?![\w-])", known))


@pytest.mark.parametrize("files", FILES)
def test_every_command_that_is_named_exists_with_its_options(files: list[Path]) -> None:
    commands = (words for file in files for words in typed(file.read_text(encoding="utf-8")))
    assert not [" ".join(words) for words in commands if wrong(words)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("pilotage data build --out x", ""),
        ("pilotage data biuld x", "data biuld x"),
        ("pilotage diagnose RUN gap --rows-only", ""),
        ("pilotage diagnose RUN gab", "diagnose RUN gab"),
        ("pilotage report RUN --pages", "--pages"),
        ("pilotage study nothing OUT", "nothing"),
        ("make nothing", "nothing"),
        ("python benchmarks/loss.py --tokens 4 --rows 3", "--rows"),
    ],
)
def test_a_planted_command_is_judged(words: str, found: str) -> None:
    assert wrong(words.split()) == found
