"""`pilotage serve`: a model behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pilotage.cli.choose import RecipeOptions, choose_model, use_threads
from pilotage.cli.options import Count, takes
from pilotage.errors import PilotageError


@dataclass(frozen=True, kw_only=True)
class Serve(RecipeOptions):
    """Serve a model with OpenAI's chat schema, on this machine alone unless told otherwise.

    POST /v1/chat/completions takes texts and up to 16 pictures as data URLs, and honours
    temperature, top_p, seed, max_tokens and n; GET /v1/models and GET /health are there too.
    Requests that wait together are decoded together. Nothing that a request names is fetched or
    opened. Ctrl-C ends it.
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")]
    """A run folder (its last finished stage), a model directory, a hub id, or nano."""
    stage: Annotated[str | None, takes("NAME", "the last")] = None
    """The stage of the run to serve."""
    host: str = "127.0.0.1"
    """Address to listen on. Anybody who reaches another one than 127.0.0.1 can use the model; see --key-env."""
    port: int = 8000
    """Port to listen on; 0 takes any that is free."""
    name: Annotated[str | None, takes("NAME", "RUN|MODEL's")] = None
    """The model's name in requests."""
    key_env: Annotated[str | None, takes("VARIABLE", "no key is needed")] = None
    """Environment variable with the key that clients must send."""
    batch_size: Count = 16
    """Requests decoded at once."""
    max_new_tokens: Count = 4096
    """The most that a request may ask for."""

    def run(self) -> int:
        key = os.environ.get(self.key_env, "") if self.key_env else ""
        if self.key_env and not key:
            raise PilotageError(
                f"--key-env {self.key_env}: the environment has no such variable, or it is empty"
            )
        _, weights, recipe = choose_model(self.target, self.stage, self)
        from pilotage.rollouts.serve import LOOPBACK, make_app, open_socket, serve
        from pilotage.rollouts.serve_queue import Batcher
        from pilotage.rollouts.transformers_engine import TransformersEngine
        from pilotage.runs.runner import load

        use_threads(recipe)
        with open_socket(self.host, self.port) as bound:
            name = self.name or Path(self.target).name
            engine = TransformersEngine(load(recipe, weights), batch_size=self.batch_size)
            batcher = Batcher(engine, batch_size=self.batch_size)
            app = make_app(
                batcher,
                model=name,
                max_new_tokens=self.max_new_tokens,
                key=key,
                hosts=LOOPBACK if self.host in LOOPBACK else (),
            )
            host = f"[{self.host}]" if ":" in self.host else self.host
            print(f"serving {name} at http://{host}:{bound.getsockname()[1]}/v1", flush=True)
            try:
                serve(app, bound)
            finally:
                batcher.close()
        return 0
