"""A model behind an OpenAI-compatible chat endpoint as an engine: many requests at once, patient with failures."""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pilotage.errors import PilotageError
from pilotage.records import Rollout, View
from pilotage.rollouts.engine import Decoding, Request, sampling_seed
from pilotage.rollouts.stream import Answer

try:
    from pilotage.rollouts.endpoint_client import Client, Dialect, EndpointConfig, TroubleError
    from pilotage.rollouts.endpoint_http import Completion
    from pilotage.rollouts.endpoint_probe import probe
except ImportError as _missing:
    raise PilotageError(
        f"asking an endpoint needs the openai client ({_missing}): pip install 'pilotage[endpoint]'"
    ) from _missing

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BACK_OFF_S = 30.0
MAX_ASKED_WAIT_S = 300.0
"""A server that asks to wait longer than this is not waited for."""


class EndpointEngine:
    """Asks `config.model` at `config.url`. Rollouts have text and no token ids: endpoints do not give any."""

    def __init__(self, config: EndpointConfig) -> None:
        if config.concurrency < 1 or not 0 < config.timeout_s < math.inf or config.retries < 0:
            raise PilotageError(
                f"cannot ask with concurrency {config.concurrency}, timeout {config.timeout_s} s, "
                f"{config.retries} retries: the first is at least 1, the second a number above 0, the third at least 0"
            )
        if config.requests_per_minute is not None and not 0 < config.requests_per_minute < math.inf:
            raise PilotageError(f"{config.requests_per_minute} requests per minute: give a number above 0")
        self.config = config
        self.dialect = Dialect()

    def probe(self, view: View, *, temperature: float = 0.0, top_p: float = 1.0) -> None:
        """One request, to learn whether the others can succeed. Raises PilotageError that says why they cannot."""
        self.dialect = _run(probe(self.config, view, temperature=temperature, top_p=top_p))

    def stream(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
    ) -> Iterator[Answer]:
        """Every request's answer when it is there; see `StreamingEngine`.

        Raises PilotageError when the key is refused or its credit used up on the way.
        """
        asking = _Asking(self.config, self.dialect, decoding, requests)
        thread = threading.Thread(target=asking.run, name="endpoint", daemon=True)
        thread.start()
        try:
            while (item := asking.finished.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            asking.stop()
            thread.join()

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        """One rollout for each request, in their order; see `Engine`.

        Raises PilotageError when a request fails: `stream` is for those who can use the rest.
        """
        rollouts: dict[int, Rollout] = {}
        for answer in self.stream(requests, decoding):
            if answer.error or answer.rollout is None:
                raise PilotageError(f"example {requests[answer.index].example_id}: {answer.error}")
            rollouts[answer.index] = answer.rollout
        return [rollouts[index] for index in range(len(requests))]

    def sync(self, model: Any) -> None:
        """Raises PilotageError: nobody can set the weights behind an endpoint."""
        raise PilotageError(
            f"{self.config.url} keeps its own weights: rollouts from it would be of another model than the one that "
            "is trained; sample with transformers or vllm"
        )


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class _Asking:
    """All requests of one `stream`, on an event loop in a thread of its own."""

    def __init__(
        self, config: EndpointConfig, dialect: Dialect, decoding: Decoding, requests: Sequence[Request]
    ) -> None:
        self.config, self.dialect, self.decoding, self.requests = config, dialect, decoding, requests
        self.finished: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()
        """Answers as they come; then None, or what ended the asking before."""
        self.pace = Pace(config.requests_per_minute)
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._ask_all())
        except asyncio.CancelledError:
            self.finished.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for answers
            self.finished.put(error)
        else:
            self.finished.put(None)

    def stop(self) -> None:
        """Drops what is under way. May be called from another thread, at any time, more than once."""
        self._stopped.set()
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:  # closed in between
                return

    async def _ask_all(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._stopped.is_set():
            return
        waiting = iter(range(len(self.requests)))
        async with Client(self.config) as client:

            async def work() -> None:
                for index in waiting:
                    self.finished.put(await self._ask(client, index))

            tasks = [
                asyncio.create_task(work()) for _ in range(min(self.config.concurrency, len(self.requests)))
            ]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, client: Client, index: int) -> Answer:
        request = self.requests[index]
        seed = sampling_seed(request)
        attempt = 0
        while True:
            await self.pace.turn()
            began_s = time.monotonic()
            attempt += 1
            try:
                completion = await client.ask(request.view, self.decoding, self.dialect, seed=seed)
            except TroubleError as trouble:
                if trouble.is_final:
                    raise PilotageError(
                        f"{self.config.url} takes no further request: {trouble}. The rows so far are kept; run "
                        "the same command again once this is mended"
                    ) from None
                wait_s = self._wait_s(trouble, attempt)
                if wait_s is None:
                    return self._failed(index, trouble, attempt, time.monotonic() - began_s)
                logger.debug("%s: %s; again in %.1f s", request.example_id, trouble, wait_s)
                await asyncio.sleep(wait_s)
                continue
            return Answer(
                index=index,
                rollout=_rollout(request, completion.text, finished=not completion.is_cut),
                seconds=time.monotonic() - began_s,
                notes=_notes(attempt, completion),
            )

    def _wait_s(self, trouble: TroubleError, attempt: int) -> float | None:
        """Seconds until the next try, or None when there is to be none."""
        if not trouble.again or attempt > self.config.retries:
            return None
        back_off_s = min(MAX_BACK_OFF_S, self.config.first_wait_s * 2 ** (attempt - 1))
        back_off_s *= random.uniform(0.5, 1.0)
        if trouble.wait_s is None:
            return back_off_s
        if trouble.wait_s > MAX_ASKED_WAIT_S:
            return None
        self.pace.hold(trouble.wait_s)
        # A little more than asked, and not all at the same instant.
        return trouble.wait_s + 0.1 * back_off_s

    def _failed(self, index: int, trouble: TroubleError, attempts: int, seconds: float) -> Answer:
        request = self.requests[index]
        tries = f" (after {attempts} tries)" if attempts > 1 else ""
        logger.warning("example %s got no answer%s: %s", request.example_id, tries, trouble)
        completion = trouble.completion
        partial = "" if completion is None else completion.text
        return Answer(
            index=index,
            rollout=_rollout(request, partial, finished=False) if partial else None,
            error=f"{trouble}{tries}",
            error_kind=trouble.kind,
            seconds=seconds,
            notes=_notes(attempts, completion),
        )


def _rollout(request: Request, text: str, *, finished: bool) -> Rollout:
    return Rollout(
        example_id=request.example_id, token_ids=(), text=text, finished=finished, origin="endpoint"
    )


def _notes(attempts: int, completion: Completion | None) -> dict[str, Any]:
    """What a row holds of the asking and of what the server reported; nothing of what it did not report."""
    notes: dict[str, Any] = {"attempts": attempts}
    if completion is None:
        return notes
    notes["usage"] = dict(completion.usage)
    if "completion_tokens" in completion.usage:
        notes["num_tokens"] = completion.usage["completion_tokens"]
    if completion.model:
        notes["served_model"] = completion.model
    if completion.finish_reason not in ("", "stop"):
        notes["finish_reason"] = completion.finish_reason
    return notes


class Pace:
    """Spaces requests evenly, and holds all of them back while the server asks for it."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._gap_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_s = 0.0
        self._held_until_s = 0.0

    async def turn(self) -> None:
        """Returns when a request may be sent."""
        now_s = time.monotonic()
        self._next_s = max(self._next_s, now_s) + self._gap_s
        turn_s = self._next_s - self._gap_s
        while (now_s := time.monotonic()) < max(turn_s, self._held_until_s):
            await asyncio.sleep(max(turn_s, self._held_until_s) - now_s)

    def hold(self, seconds: float) -> None:
        self._held_until_s = max(self._held_until_s, time.monotonic() + seconds)
