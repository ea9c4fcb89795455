"""`pilotage play`: plan by hand on a local page, beside a model if there is one; or play a world of many turns."""

from __future__ import annotations

import time
import webbrowser
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pilotage.cli.choose import RecipeOptions, choose_model, use_threads
from pilotage.cli.options import RecipeCount, given, key_and_value, takes
from pilotage.errors import PilotageError

if TYPE_CHECKING:
    from pilotage.play import Reply
    from pilotage.play.server import LocalServer
    from pilotage.records import Example

_MODEL = takes("RUN|MODEL", "none, you play alone")
_PROMPTS = takes("{full,brief}", "the recipe's")


@dataclass(frozen=True, kw_only=True)
class Play(RecipeOptions):
    """Plan by hand: a page in your browser gives a level and shows the verdict on your plan, step by step.

    The judge is the one that models meet. With --model, a model can be asked the same level, from the
    picture or from words. Your own map can be pasted. With WORLD, you play its episodes turn by turn
    and are asked whatever a model would be asked. The page answers to this machine only; Ctrl-C
    ends it.
    """

    world: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[WORLD]")] = None
    """A world that is played turn by turn, e.g. babyai; without it, levels of the planning tasks."""
    option: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE", help_behavior_hint="(repeatable)")
    ] = ()
    """With WORLD, what shapes its episodes, e.g. family=PutNextLocal."""
    agent: Annotated[str | None, takes("NAME", "the world's own")] = None
    """With WORLD, which of its agents asks."""
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
        with self._server() as server:
            print(f"{server.url} (Ctrl-C ends it)", flush=True)
            if not self.no_browser:
                webbrowser.open(server.url)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print()
        return 0

    def _server(self) -> LocalServer:
        from pilotage.play import ByHand, EpisodeServer, PlayServer
        from pilotage.worlds.registry import get_world, planning_task

        if self.world is not None and planning_task(self.world) is not get_world(self.world):
            if self.model is not None:
                raise PilotageError(f"--model goes with levels of the planning tasks, not with {self.world}")
            options = dict(map(key_and_value, self.option))
            return EpisodeServer(ByHand(self.world, options, agent=self.agent), port=self.port)
        if self.option or self.agent:
            raise PilotageError("--option and --agent go with a world that is played turn by turn")
        answerer = None if self.model is None else self._load(self.model)
        return PlayServer(port=self.port, answerer=answerer)

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
