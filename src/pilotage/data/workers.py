"""Processes that work for a build, and leave when it does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import connection, get_context, parent_process
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Workers(Generic[R]):
    """`num_workers` processes; with one, the work is done here and now.

    Two kinds of work share them: `submit` for what the caller waits for, `hand_out` for what is only collected.
    """

    def __init__(self, num_workers: int, collect: Callable[[R], None]) -> None:
        self.num_workers = num_workers
        self._collect = collect
        self._unfinished: set[Future[R]] = set()
        # Spawned, not forked: the caller may hold threads (torch, a progress bar) that a fork would break.
        self._pool = (
            ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_start)
            if num_workers > 1
            else None
        )

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._pool is not None:
            return self._pool.submit(function, *arguments)
        future: Future[T] = Future()
        future.set_result(function(*arguments))
        return future

    def result(self, future: Future[T]) -> T:
        """Waits for what was submitted; what was handed out is collected meanwhile."""
        while not future.done():
            self._collect_finished({future, *self._unfinished})
        return future.result()

    def hand_out(self, function: Callable[..., R], *arguments: Any) -> None:
        """Its result goes to `collect`, sooner or later. Waits while two such jobs per process are unfinished."""
        self._unfinished.add(self.submit(function, *arguments))
        while len(self._unfinished) >= 2 * self.num_workers:
            self._collect_finished(self._unfinished)

    def _collect_finished(self, futures: set[Future[Any]]) -> None:
        done, _ = wait(futures, return_when=FIRST_COMPLETED)
        for future in done & self._unfinished:
            self._unfinished.remove(future)
            self._collect(future.result())

    def __enter__(self) -> Workers[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._unfinished:
                self._collect_finished(self._unfinished)
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)


def _start() -> None:
    """In each worker: Ctrl-C is the parent's to handle, and a killed parent takes its workers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
