"""Requests of many clients for one model: those that wait together are decoded together, by one thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from pilotage.backbones.encode import encode_views
from pilotage.errors import PilotageError
from pilotage.records import Rollout
from pilotage.rollouts.engine import samples_of
from pilotage.rollouts.serve_chat import ChatRequest, RequestError
from pilotage.rollouts.transformers_engine import TransformersEngine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answered:
    rollouts: Sequence[Rollout]
    num_prompt_tokens: int


@dataclass(kw_only=True, eq=False)
class Job:
    """A request that waits or is being decoded."""

    request: ChatRequest
    future: Future[Answered] = field(default_factory=Future)
    num_prompt_tokens: int = 0
    abandoned: bool = False
    """Its client is gone: nobody reads the answer."""

    @property
    def key(self) -> str:
        """What the sampling noise hangs on besides the model: the seed alone, whatever else is in the batch."""
        return f"seed {self.request.seed}"


class Batcher:
    """The engine's only user. Close it when done."""

    def __init__(
        self,
        engine: TransformersEngine,
        *,
        batch_size: int = 16,
        max_waiting: int = 256,
        linger_s: float = 0.005,
    ) -> None:
        """`linger_s` is how long the first request of an idle server waits for company."""
        self._engine = engine
        self._batch_size = batch_size
        self._max_waiting = max_waiting
        self._linger_s = linger_s
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._decoding = False
        config = engine.backbone.model.config.get_text_config()
        self._context: int | None = getattr(config, "max_position_embeddings", None)
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, request: ChatRequest) -> Job:
        """The job whose `future` is the answer to come. Raises RequestError (429) when too many are waiting."""
        job = Job(request=request)
        with self._changed:
            if self._closed:
                raise RequestError("the server is closing", status=503)
            # What an idle engine is about to take does not wait, whether the thread has woken up yet or not.
            num_taken_next = 0 if self._decoding else self._batch_size
            if len(self._waiting) >= self._max_waiting + num_taken_next:
                raise RequestError(
                    f"{self._max_waiting} requests are waiting already; try again", status=429, code="busy"
                )
            self._waiting.append(job)
            self._changed.notify()
        return job

    def abandon(self, job: Job) -> None:
        """Nobody waits for the job any more: it gives up its place, and what is being decoded of it ends there."""
        with self._changed:
            job.abandoned = True
            if job in self._waiting:
                self._waiting.remove(job)
                job.future.cancel()

    def close(self) -> None:
        """Answers what is being decoded, drops what waits."""
        with self._changed:
            self._closed = True
            dropped, self._waiting = self._waiting, []
            self._changed.notify()
        for job in dropped:
            # A client that is just hanging up has cancelled it already.
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(RequestError("the server is closing", status=503))
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                was_idle = not self._waiting
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if was_idle and not self._closed:
                    self._changed.wait_for(
                        lambda: self._closed or len(self._waiting) >= self._batch_size, self._linger_s
                    )
                if self._closed:
                    return
                jobs = self._take()
                self._decoding = True
            self._answer([job for job in jobs if self._fits(job)])
            with self._changed:
                self._decoding = False

    def _take(self) -> list[Job]:
        """The oldest job and those behind it that can share its batch."""
        first = self._waiting[0]
        num_jobs = max(1, self._batch_size // first.request.n)
        taken: dict[str, Job] = {}
        for index, job in enumerate(self._waiting):
            if len(taken) == num_jobs:
                break
            # A seed twice in one batch would be two different draws: the second one waits for its own.
            key = job.key if job.request.decoding.temperature > 0 else str(index)
            if job.request.group == first.request.group and key not in taken:
                taken[key] = job
        jobs = list(taken.values())
        self._waiting = [job for job in self._waiting if job not in jobs]
        return jobs

    def _fits(self, job: Job) -> bool:
        """Whether the prompt can be put before the model; if not, its client is told."""
        if not job.future.set_running_or_notify_cancel():
            return False
        try:
            inputs = encode_views(
                self._engine.backbone, [job.request.view], pad_to_multiple=1, names=["the request"]
            )
            job.num_prompt_tokens = inputs["input_ids"].shape[1]
            num_new = job.request.decoding.max_new_tokens
            num_tokens = job.num_prompt_tokens + num_new
            if self._context is not None and num_tokens > self._context:
                raise RequestError(
                    f"{job.num_prompt_tokens} prompt tokens and {num_new} new ones are more than "
                    f"the {self._context} that the model can hold",
                    code="context_length_exceeded",
                )
        except RequestError as error:
            job.future.set_exception(error)
        except PilotageError as error:
            job.future.set_exception(RequestError(str(error)))
        except Exception as error:
            logger.exception("a request could not be encoded")
            job.future.set_exception(error)
        else:
            return True
        return False

    def _answer(self, jobs: Sequence[Job]) -> None:
        jobs = [job for job in jobs if not job.abandoned]
        if not jobs:
            return
        request = jobs[0].request
        try:
            rollouts = self._engine.generate(
                samples_of([job.request.view for job in jobs], [job.key for job in jobs], num=request.n),
                request.decoding,
                is_wanted=lambda place: not jobs[place // request.n].abandoned,
            )
        except Exception as error:
            if len(jobs) > 1:
                logger.warning("a batch of %d requests failed (%s); one by one", len(jobs), error)
                for job in jobs:
                    self._answer([job])
                return
            logger.exception("a request could not be answered")
            jobs[0].future.set_exception(error)
            return
        for index, job in enumerate(jobs):
            own = rollouts[index * request.n : (index + 1) * request.n]
            job.future.set_result(Answered(rollouts=own, num_prompt_tokens=job.num_prompt_tokens))
