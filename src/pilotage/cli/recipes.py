"""`pilotage recipes`: the methods that there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from pilotage.cli.choose import known_recipe


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes, or tell all about one: its source, its settings and where it departs.

    Train one with pilotage train RUN --recipe NAME; each stage says the command of the next one.
    Look before with pilotage train NAME --dry-run --all.
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    """One recipe; without it, a line for each."""

    def run(self) -> int:
        from pilotage.recipes import RECIPES

        if self.name is None:
            width = max(map(len, RECIPES))
            for name in RECIPES:
                print(f"{name:<{width}}  {RECIPES.about(name).splitlines()[0]}")
            return 0
        print(RECIPES.about(known_recipe(self.name)))
        return 0
