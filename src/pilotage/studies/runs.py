"""Runs a study's variants, several at a time, and writes what came out."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError
from pilotage.files import locked, write_whole
from pilotage.runs.runner import run_recipe
from pilotage.studies.page import study_page
from pilotage.studies.study import Study
from pilotage.studies.tables import success_table

ORPHANED_STATUS = 143
"""Exit status of a part whose study has ended before it."""
_RUNNING: set[subprocess.Popen[bytes]] = set()
"""The parts of this process's studies, to be ended when it is interrupted."""


def run_study(
    study: Study,
    out: Path,
    seeds: Sequence[int],
    *,
    jobs: int,
    report: Callable[[str], None],
    threads: int = 1,
) -> str:
    """Runs what is missing in `out`, `jobs` processes at a time of `threads` each; returns the tables in Markdown.

    Every run resumes by itself: a study that was killed trains only what is missing.
    """
    if not seeds or jobs < 1 or threads < 1:
        raise PilotageError(
            f"seeds {list(seeds)}, jobs {jobs} and threads {threads}: give at least one of each"
        )
    base = study.base_run(seeds[0]).backbone
    if study.base_made_by and not Path(base).is_dir():
        raise PilotageError(
            f"the study {study.name} begins with {base}, which is not here: {study.base_made_by}"
        )
    busy = f"another command is running this study in {out}: wait for it to end, or name another folder"
    with locked(out / f".{study.name}.lock", busy=busy):
        return _run(study, out, seeds, jobs=jobs, report=report, threads=threads)


def _run(
    study: Study, out: Path, seeds: Sequence[int], *, jobs: int, report: Callable[[str], None], threads: int
) -> str:
    spawn = partial(_spawn, threads=threads)
    branches = dict.fromkeys(variant.folder for variant in study.variants if variant.make is not None)
    parts: dict[tuple[int, str], Future[int]] = {}
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            # First come, first served: when a branch's turn comes, its base run runs already, or is there.
            own = seeds[:1] if study.one_base_run else seeds
            base_runs = {seed: [pool.submit(spawn, study, out, seed, study.base_run_folder)] for seed in own}
            parts |= {(seed, study.base_run_folder): base_run for seed, (base_run,) in base_runs.items()}
            for seed in seeds:
                base_runs.setdefault(seed, base_runs[own[0]])
            for one in study.shared:
                needed = [*base_runs[own[0]]]
                shared = pool.submit(_after, needed, spawn, study, out, own[0], one.folder)
                parts[own[0], one.folder] = shared
                base_runs[own[0]].append(shared)
            for folder in branches:
                for seed in seeds:
                    parts[seed, folder] = pool.submit(
                        _after, base_runs[seed], spawn, study, out, seed, folder
                    )
            for (seed, folder), part in parts.items():
                if part.result():
                    failed.append(f"seed {seed}, {folder}: see {study.folder(out, seed, folder) / 'log.txt'}")
                report(f"seed {seed}: {folder} {'failed' if part.result() else 'is there'}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_RUNNING):
                process.kill()
            raise
    text = write_tables(study, out, seeds)
    if failed:
        raise PilotageError(f"{len(failed)} of {len(parts)} runs failed: {'; '.join(failed)}")
    return text


def write_tables(study: Study, out: Path, seeds: Sequence[int]) -> str:
    """The tables of what is there, also in `<study>.md` and on the page `<study>.html`; returns them."""
    main = study.main_table or success_table
    tables = [table(study, out, seeds) for table in (main, *study.tables)]
    text = "\n".join(table.as_markdown() for table in tables)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"{study.name}.md", text)
    write_whole(out / f"{study.name}.html", study_page(study, out, seeds, tables))
    return text


def run_part(study: Study, out: Path, seed: int, folder: str, *, threads: int = 1) -> None:
    """One run of the study, in this process."""
    base_run = study.folder(out, seed, study.base_run_folder)
    branches = (*study.shared, *study.variants)
    makers = {variant.folder: variant.make for variant in branches if variant.make is not None}
    if folder == study.base_run_folder:
        recipe = study.base_run(seed)
    elif folder in makers:
        recipe = makers[folder](seed, base_run)
    else:
        raise PilotageError(f"no part {folder!r}; there are {', '.join((study.base_run_folder, *makers))}")
    recipe = replace(recipe, num_threads=threads)
    home = study.folder(out, seed, folder)
    run_recipe(recipe, home)
    for extra in study.extras:
        extra(recipe, home)


def _after(needed: Sequence[Future[int]], spawn: Callable[..., int], *part: object) -> int:
    """Runs a part once what it needs is there; without that it has failed too."""
    return next((status for one in needed if (status := one.result())), 0) or spawn(*part)


def _spawn(study: Study, out: Path, seed: int, folder: str, *, threads: int) -> int:
    """Runs one part in a process of its own, which ends when this one does; its exit status."""
    target = study.folder(out, seed, folder)
    target.mkdir(parents=True, exist_ok=True)
    part = [study.name, str(out), str(seed), folder, str(threads)]
    command = [sys.executable, "-m", "pilotage.studies.runs", *part]
    with (target / "log.txt").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        # Nothing is ever written to this pipe. It closes when this process ends, whatever ends it.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
        ) as process:
            _RUNNING.add(process)
            try:
                return process.wait()
            finally:
                _RUNNING.discard(process)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone: it would train on where nobody knows of it."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(ORPHANED_STATUS)  # as a kill would: what is there is whole, and the next one goes on from it

    threading.Thread(target=wait, name="parent", daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    logging.basicConfig(level=logging.INFO)
    studies: Any = importlib.import_module("pilotage.studies.catalogue")
    name, out, seed, folder, threads = sys.argv[1:]
    run_part(studies.STUDIES[name], Path(out), int(seed), folder, threads=int(threads))
