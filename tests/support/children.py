"""Processes for tests: each is forked from a server that has imported torch and the trainers once.

A process that imports them by itself takes five seconds before it does anything.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["torch", "transformers", "pilotage.train.distill", "pilotage.train.sft", "pilotage.nano.model"]
)


def run_child(target: Callable[..., object], *arguments: Any, folder: Path) -> tuple[int, str]:
    """The exit code of a process that calls `target(*arguments)`, minus the signal where one ended it, and its output.

    `target` is a function of a module, which the child imports; `folder` takes what the child prints.
    """
    log = folder / "child.log"
    child = context.Process(target=_call, args=(log, target, arguments))
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode, log.read_text(encoding="utf-8")


def _call(log: Path, target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)
    target(*arguments)
