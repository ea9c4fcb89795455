"""Options for a model behind an endpoint, and the engine that they make."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pilotage.cli.options import AtLeast, Count, takes
from pilotage.errors import PilotageError

if TYPE_CHECKING:
    from pilotage.rollouts.endpoint import EndpointEngine

USUAL_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """Where and how insistently a model behind an endpoint is asked."""

    endpoint: Annotated[str | None, takes("URL", "a model of this machine")] = None
    """An OpenAI-compatible chat endpoint, as in http://127.0.0.1:8000/v1, in place of RUN|MODEL."""
    model: Annotated[str | None, takes("NAME", "none")] = None
    """With --endpoint: the model's name there."""
    key_env: Annotated[str | None, takes("VARIABLE", USUAL_KEY)] = None
    """Environment variable that holds the key. Keys are never taken from options, never logged, never written."""
    concurrency: Count = 8
    """Requests under way at once."""
    requests_per_minute: Annotated[float | None, takes("N", "no limit")] = None
    """Requests sent in a minute, retries included, evenly spaced."""
    timeout: float = 180.0
    """Seconds for one request, from sending to the last byte."""
    retries: Annotated[int, AtLeast(0)] = 6
    """Further tries after a cut connection, a timeout, a 429 or a 5xx, with growing waits."""
    extra_body: Annotated[str | None, takes("JSON", "nothing")] = None
    """An object to add to every request and row, e.g. '{"chat_template_kwargs": {"enable_thinking": false}}'."""
    price_in: Annotated[float | None, takes("PRICE", "no cost is given")] = None
    """Price of a million prompt tokens, for the cost in the summary."""
    price_out: Annotated[float | None, takes("PRICE", "no cost is given")] = None
    """Price of a million answer tokens."""

    @property
    def served_model(self) -> str:
        """The model's name at --endpoint."""
        if not self.model:
            raise PilotageError("--endpoint needs --model NAME: the model's name at the endpoint")
        return self.model

    def endpoint_engine(self) -> EndpointEngine:
        """The engine for --endpoint. Raises PilotageError for options that do not fit together."""
        assert self.endpoint is not None
        from pilotage.rollouts.endpoint import EndpointConfig, EndpointEngine
        from pilotage.rollouts.endpoint_http import base_url

        for option, price in (("--price-in", self.price_in), ("--price-out", self.price_out)):
            if price is not None and not 0 <= price < math.inf:
                raise PilotageError(f"{option} {price} is no price: give a number from 0")
        return EndpointEngine(
            EndpointConfig(
                url=base_url(self.endpoint),
                model=self.served_model,
                key=self._key(),
                extra_body=self._extra(),
                concurrency=self.concurrency,
                requests_per_minute=self.requests_per_minute,
                timeout_s=self.timeout,
                retries=self.retries,
            )
        )

    def _key(self) -> str:
        key = os.environ.get(self.key_env or USUAL_KEY, "").strip()
        if self.key_env is not None and not key:
            raise PilotageError(
                f"--key-env {self.key_env}: the environment has no such variable, or it is empty"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise PilotageError(f"the key in {self.key_env or USUAL_KEY} holds characters that no key has")
        return key

    def _extra(self) -> dict[str, Any]:
        if self.extra_body is None:
            return {}
        try:
            extra = json.loads(self.extra_body)
        except (ValueError, RecursionError) as error:
            raise PilotageError(f"--extra-body is not JSON: {error}") from None
        try:
            json.dumps(extra, allow_nan=False)
        except ValueError:
            raise PilotageError("--extra-body holds NaN or Infinity, which JSON does not have") from None
        taken = {"model", "messages", "temperature", "max_tokens", "top_p", "seed", "n", "stream"}
        if not isinstance(extra, dict) or taken & extra.keys():
            raise PilotageError(
                f"--extra-body must be a JSON object without {', '.join(sorted(taken))}: these have options, or "
                "are ours to set"
            )
        return extra


def folder_for(model: str) -> Path:
    """`runs/NAME` for a model's name at an endpoint, whatever characters are in it."""
    name = re.sub(r"[^\w.+-]+", "_", model.rpartition("/")[2]).strip("._")
    return Path("runs") / (name or "endpoint")
