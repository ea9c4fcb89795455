"""One request before the work: what would make every request fail is said in one line, and nothing runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pilotage.errors import PilotageError
from pilotage.records import View
from pilotage.rollouts.endpoint_client import Client, Dialect, EndpointConfig, TroubleError
from pilotage.rollouts.engine import Decoding

NUM_TOKENS = 16
NUM_TRIES = 3
"""For troubles that may pass. The work itself is more patient."""


class EndpointError(PilotageError):
    """The endpoint cannot be used as it was named."""


async def probe(config: EndpointConfig, view: View, *, temperature: float, top_p: float) -> Dialect:
    """How the server wants to be asked. Raises EndpointError when it does not answer `view`.

    One request where all is well. After a failure the server may be asked again, in another dialect, without the
    picture, or for its models, to find out what is wrong.
    """
    decoding = Decoding(max_new_tokens=NUM_TOKENS, temperature=temperature, top_p=top_p)
    async with Client(config) as client:
        dialect = Dialect()
        # Every remedy is tried at most once, so this ends.
        for _ in range(3):
            trouble = await _trouble(client, view, decoding, dialect)
            if trouble is None:
                return dialect
            other = _other_dialect(dialect, trouble)
            if other is None:
                break
            dialect = other
        assert trouble is not None
        raise EndpointError(await _explained(config, client, view, decoding, dialect, trouble)) from None


async def _trouble(client: Client, view: View, decoding: Decoding, dialect: Dialect) -> TroubleError | None:
    """What is wrong with the answer to `view`, or None. An answer without text is an answer: it was cut short."""
    for attempt in range(1, NUM_TRIES + 1):
        try:
            await client.ask(view, decoding, dialect, seed=0)
        except TroubleError as trouble:
            cut_short = trouble.status == 400 and "output limit was reached" in str(trouble)
            if trouble.kind in ("empty", "too_large") or cut_short:
                return None
            if not trouble.again or attempt == NUM_TRIES or _is_dead(trouble):
                return trouble
            await asyncio.sleep(min(10.0, trouble.wait_s if trouble.wait_s is not None else 0.5 * attempt))
        else:
            return None
    raise AssertionError("the last try returns")


def _is_dead(trouble: TroubleError) -> bool:
    return str(trouble).startswith(("ConnectError", "ConnectTimeout", "gaierror", "UnsupportedProtocol"))


def _other_dialect(dialect: Dialect, trouble: TroubleError) -> Dialect | None:
    """The dialect that the trouble asks for, if it does."""
    if trouble.status not in (400, 422):
        return None
    if "max_completion_tokens" in str(trouble) and dialect.token_limit == "max_tokens":
        return replace(dialect, token_limit="max_completion_tokens")
    if "seed" in str(trouble).lower() and dialect.takes_seed:
        return replace(dialect, takes_seed=False)
    return None


async def _explained(
    config: EndpointConfig,
    client: Client,
    view: View,
    decoding: Decoding,
    dialect: Dialect,
    trouble: TroubleError,
) -> str:
    if _is_dead(trouble):
        return (
            f"nothing answers at {config.url} ({trouble}): is the server running, and is the address right?"
        )
    if trouble.status in (401, 403):
        remedy = (
            "check the key" if config.key else "give one in OPENAI_API_KEY, or name its variable (--key-env)"
        )
        sent = "refused the key" if config.key else "wants a key"
        return f"{config.url} {sent} ({trouble}): {remedy}"
    if trouble.status in (400, 404, 422):
        names = await client.model_names()
        if names is not None and config.model not in names:
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            return f"{config.url} has no model {config.model!r} ({trouble}); it serves {shown or 'none'}"
        if names is None and trouble.status == 404:
            return (
                f"{config.url} is no chat endpoint or has no model {config.model!r} ({trouble}): the address "
                "usually ends in /v1"
            )
    if view.images and not trouble.is_final:
        words = View(name="probe", messages=[{"role": "user", "content": "Say yes."}])
        if await _trouble(client, words, decoding, dialect) is None:
            return f"{config.model} at {config.url} answers text but takes no images ({trouble})"
    return f"{config.model} at {config.url} did not answer the probe: {trouble}"
