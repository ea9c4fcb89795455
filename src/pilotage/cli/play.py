"""`pilotage play`: plan by hand on a local page, beside a model if there is one."""

from __future__ import annotations

import time
import webbrowser
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pilotage.cli.choose import RecipeOptions, choose_model, use_threads
from pilotage.cli.options import RecipeCount, given, takes

if TYPE_CHECKING:
    from pilotage.play import Reply
    from pilotage.records import Example

_MODEL = takes("RUN|MODEL", "none, you play alone")
_PROMPTS = takes("{full,brief}", "the recipe's")


@dataclass(frozen=True, kw_only=True)
class Play(RecipeOptions):
    """Plan by hand: a page in your browser gives a level and shows the verdict on your plan, step by step.

    The judge is the one that models meet. With --model, a model can be asked the same level, from the
    picture or from words. Your own map can be pasted. The page answers to this machine only; Ctrl-C
    ends it.
    """

    model: Annotated[str | None, _MODEL] = None
    """A run folder (its last finished stage), a model directory, a hub id, or nano."""
    port: int = 8420
    """Port of the page; 0 takes any that is free."""
    no_browser: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print the address."""
    prompts: Annotated[Literal["full", "brief"] | None, _PROMPTS] = None
    """Prompt set for the model."""
    max_new_tokens: RecipeCount = None
    """The model's longest answer, in tokens."""

    def run(self) -> int:
        from pilotage.play import PlayServer

        answerer = None if self.model is None else self._load(self.model)
        with PlayServer(port=self.port, answerer=answerer) as server:
            print(f"{server.url} (Ctrl-C ends it)", flush=True)
            if not self.no_browser:
                webbrowser.open(server.url)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print()
        return 0

    def _load(self, target: str) -> ModelAnswerer:
        from pilotage.rollouts.transformers_engine import TransformersEngine
        from pilotage.runs.runner import load

        _, weights, recipe = choose_model(target, None, self)
        recipe = replace(recipe, **given(prompts=self.prompts, max_new_tokens=self.max_new_tokens))
        use_threads(recipe)
        engine = TransformersEngine(load(recipe, weights), batch_size=1)
        return ModelAnswerer(
            name=target, engine=engine, prompts=recipe.prompts, max_new_tokens=recipe.max_new_tokens
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelAnswerer:
    """A local model, greedy."""

    name: str
    engine: Any
    prompts: Literal["full", "brief"]
    max_new_tokens: int

    def answer(self, example: Example, view: Literal["image", "text"]) -> Reply:
        from pilotage.play import Reply
        from pilotage.rollouts import Decoding
        from pilotage.rollouts.play import Start, Writer, play
        from pilotage.views import make_view
        from pilotage.worlds.registry import get_world
        from pilotage.worlds.world import condition_of

        began_s = time.monotonic()
        condition = condition_of(get_world(example.world), view)
        assert condition is not None, "planning worlds have both"
        (episode,) = play(
            [Start(example=example, role=condition.role)],
            writer=Writer(
                engine=self.engine, decoding=Decoding(max_new_tokens=self.max_new_tokens), raises=True
            ),
            show=lambda moment: make_view(condition.views[moment.role], moment, self.prompts),
        )
        (turn,) = episode.turns
        assert turn.rollout is not None, "an engine that fails raises"
        return Reply(text=turn.text, finished=turn.rollout.finished, seconds=time.monotonic() - began_s)
