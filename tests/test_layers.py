"""Imports point downward, heavy libraries stay where they are needed, tasks alone know their names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"

# A layer may import its own and every layer on an earlier line; layers on one line are siblings.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__", "errors", "files", "pictures", "records"),
    ("worlds",),
    ("data",),
    ("views",),
    ("backbones",),
    ("rollouts",),
    ("distill",),
    ("train", "evaluate"),
    ("report",),
    ("play",),
    ("nano",),
    ("smolvl",),
    ("runs",),
    ("recipes",),
    ("studies",),
    ("cli",),
)
RANK = {layer: rank for rank, layers in enumerate(LAYERS) for layer in layers}
LEAVES = ("__init__", "errors", "files", "pictures", "records")
"""The first line's modules may import each other."""

MAY_SPAN = ("studies", "cli")
"""Layers of the core that may name a pack: studies, and the commands that import what strangers published. A pack's own
modules of these names may not name another pack."""
PACKS = {folder.parent.name for folder in (SOURCE / "pilotage" / "worlds").glob("*/__init__.py")}
DYNAMIC_IMPORTS = ("importlib.import_module", "import_module", "__import__")
TASK_NAMES = {"frozenlake", "maze", "minibehaviour"}
NO_TORCH = ("worlds", "data", "views", "report", "play", "cli")


def modules(source: Path) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the package under `source`."""
    for file in sorted((source / "pilotage").rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imported_names(name: str, file: Path) -> Iterator[tuple[str, int]]:
    """(absolute dotted name, line) of everything that the file imports, anywhere in it.

    `from a import b` yields `a.b`: b may be a module. Names under TYPE_CHECKING count too.
    """
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in DYNAMIC_IMPORTS:
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value, node.lineno


def pack_of(dotted: str) -> str:
    """The pack that a module belongs to; "" for the core."""
    parts = dotted.split(".")
    return parts[2] if len(parts) > 2 and parts[1] == "worlds" and parts[2] in PACKS else ""


def layer_of(dotted: str) -> str:
    """`worlds/<pack>/views.py` and `worlds/<pack>/data/x.py` have the rank of the layer that they are named after."""
    parts = dotted.split(".")
    if pack_of(dotted) and len(parts) > 3 and parts[3] in RANK:
        return parts[3]
    return parts[1] if len(parts) > 1 and parts[1] in RANK else "__init__"


def upward_imports(source: Path) -> list[str]:
    found = []
    for name, file in modules(source):
        here = layer_of(name)
        for target, line in imported_names(name, file):
            if target.split(".")[0] != "pilotage":
                continue
            there = layer_of(target)
            allowed = there == here or RANK[there] < RANK[here] or (here in LEAVES and there in LEAVES)
            if not allowed:
                found.append(f"{file.relative_to(source)}:{line}: {here} imports {there} ({target})")
    return found


def test_imports_point_downward():
    assert upward_imports(SOURCE) == []


def test_every_part_of_the_package_has_its_layer():
    parts = {file.relative_to(SOURCE / "pilotage").parts[0] for _, file in modules(SOURCE)}
    assert {part.removesuffix(".py") for part in parts} <= set(RANK)


@pytest.mark.parametrize(
    ("file", "code", "caught"),
    [
        ("worlds/x.py", "from pilotage.views import student", "worlds imports views"),
        ("worlds/x.py", "import pilotage.cli.main", "worlds imports cli"),
        ("worlds/x.py", "from pilotage import data", "worlds imports data"),
        ("worlds/deep/x.py", "from ...data import build", "worlds imports data"),
        ("worlds/__init__.py", "from ..data import build", "worlds imports data"),
        ("distill/x.py", "def f():\n    from ..train import trainer", "distill imports train"),
        ("distill/x.py", "import importlib\nimportlib.import_module('pilotage.cli')", "distill imports cli"),
        ("train/x.py", "from pilotage.evaluate import score", "train imports evaluate"),
        ("evaluate/x.py", "from pilotage.train import trainer", "evaluate imports train"),
        ("errors.py", "from pilotage.worlds import judge", "errors imports worlds"),
        ("cli/x.py", "from pilotage.worlds import judge", None),
        ("worlds/grids/recipes.py", "from pilotage.train import trainer", None),
        ("worlds/grids/recipes.py", "from pilotage.studies import runs", "recipes imports studies"),
        ("worlds/grids/maze.py", "from pilotage.worlds.grids.recipes import x", "worlds imports recipes"),
        ("train/x.py", "from pilotage.worlds.grids.recipes import x", "train imports recipes"),
        ("worlds/x.py", "from . import y\nfrom .. import errors\nfrom ..records import Verdict", None),
        ("train/x.py", "from pilotage.distill import align\nimport torch", None),
    ],
)
def test_a_planted_import_is_judged(tmp_path, file, code, caught):
    planted = tmp_path / "pilotage" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(code)
    found = upward_imports(tmp_path)
    assert len(found) == (caught is not None)
    assert caught is None or caught in found[0]


def pack_imports(source: Path) -> list[str]:
    """Imports of a pack from the core or from another pack. Studies and commands of the core may span packs."""
    return [
        f"{file.relative_to(source)}:{line}: {pack_of(name) or 'the core'} imports {pack_of(target)} ({target})"
        for name, file in modules(source)
        for target, line in imported_names(name, file)
        if pack_of(target)
        and pack_of(target) != pack_of(name)
        and (pack_of(name) or layer_of(name) not in MAY_SPAN)
    ]


def test_the_core_imports_no_pack_and_no_pack_another():
    assert pack_imports(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "code", "num_found"),
    [
        ("views/x.py", "from pilotage.worlds.grids.maze import Maze", 1),
        ("worlds/questions/x.py", "from pilotage.worlds.grids import maze", 1),
        ("worlds/grids/x.py", "from pilotage.worlds.grids.maze import Maze", 0),
        ("worlds/grids/views.py", "from pilotage.worlds.judge import judge", 0),
        ("recipes/x.py", "from pilotage.worlds.questions.recipes import for_world", 1),
        ("nano/x.py", "from pilotage.worlds.grids.views import VIEWS", 1),
        ("studies/x.py", "from pilotage.worlds.questions.recipes import for_world", 0),
        ("worlds/questions/recipes.py", "from pilotage.recipes.methods import routed_stage", 0),
        ("worlds/questions/recipes.py", "from pilotage.worlds.grids.maze import Maze", 1),
        ("worlds/grids/studies.py", "from pilotage.worlds.questions import grading", 1),
    ],
)
def test_a_planted_import_of_a_pack_is_judged(tmp_path, file, code, num_found):
    planted = tmp_path / "pilotage" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(code)
    assert len(pack_imports(tmp_path)) == num_found


def forbidden_imports(source: Path, forbidden: str) -> list[str]:
    return [
        f"{file.relative_to(source)}:{line}"
        for name, file in modules(source)
        for target, line in imported_names(name, file)
        if target.split(".")[0] == forbidden
    ]


def test_nothing_imports_torchvision(tmp_path):
    assert forbidden_imports(SOURCE, "torchvision") == []
    (tmp_path / "pilotage").mkdir()
    (tmp_path / "pilotage" / "x.py").write_text("def f():\n    from torchvision.transforms import v2")
    assert forbidden_imports(tmp_path, "torchvision") == ["pilotage/x.py:2"]


def task_name_tests(source: Path) -> list[str]:
    """Comparisons with a task's name, `x == "maze"` or `x in ("maze", ...)`, and `.name ==` on a task."""
    found = []
    for name, file in modules(source):
        if layer_of(name) in ("worlds", "recipes", "runs", "studies"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            sides: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
            elif isinstance(node, ast.match_case) and isinstance(node.pattern, ast.MatchValue):
                sides = [node.pattern.value]
            constants = {c.value for side in sides for c in ast.walk(side) if isinstance(c, ast.Constant)}
            named = any(ast.unparse(side) in ("task.name", "task_name") for side in sides)
            if constants & TASK_NAMES or (named and constants):
                found.append(f"{file.relative_to(source)}:{sides[0].lineno}: {ast.unparse(node)}")
    return found


def test_no_file_outside_tasks_asks_which_task_it_is():
    assert task_name_tests(SOURCE) == []


@pytest.mark.parametrize(
    ("code", "num_found"),
    [
        ('if task.name == "sokoban": pass', 1),
        ('x = 1 if name == "maze" else 2', 1),
        ('if name in ("maze", "frozenlake"): pass', 1),
        ('match name:\n    case "maze":\n        pass', 1),
        ('TASKS = ("maze", "frozenlake")', 0),
        ("if task.name == other.name: pass", 0),
    ],
)
def test_a_planted_question_for_the_task_is_judged(tmp_path, code, num_found):
    for layer, expected in (("views", num_found), ("worlds", 0)):
        planted = tmp_path / layer / "pilotage" / layer / "x.py"
        planted.parent.mkdir(parents=True)
        planted.write_text(code)
        assert len(task_name_tests(tmp_path / layer)) == expected


def test_tasks_data_views_judge_report_and_the_command_line_import_without_torch():
    names = [name for name, _ in modules(SOURCE) if layer_of(name) in NO_TORCH and name != "pilotage"]
    names = [name for name in names if not name.endswith("__main__")]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
