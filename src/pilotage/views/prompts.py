"""The prompt files: every prompt is one file `<package of a world>/prompts/<set>/<name>.md`, filled with content.

Which placeholders there are, the world's views say. Texts may be of strangers: they stand in a prompt as they are, and
no placeholder in them is filled.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from string import Template
from typing import Literal, get_args

from pilotage.errors import PilotageError

PromptSet = Literal["full", "brief"]
PROMPT_SETS: tuple[PromptSet, ...] = get_args(PromptSet)


@lru_cache(maxsize=256)
def prompt_template(package: str, prompts: PromptSet, name: str) -> Template:
    """The text of `prompts/<prompts>/<name>.md` in a package."""
    if prompts not in PROMPT_SETS:
        raise PilotageError(f"unknown prompt set {prompts!r}; there are {', '.join(PROMPT_SETS)}")
    path = files(package) / "prompts" / prompts / f"{name}.md"
    return Template(path.read_text(encoding="utf-8").rstrip("\n"))
