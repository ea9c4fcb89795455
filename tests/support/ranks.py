"""Two gloo ranks in processes of their own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from children import context

NUM_RANKS = 2
PATIENCE_S = 600
"""Many times what the slowest test takes: gloo itself waits for half an hour."""
Rank = Callable[[int, str], None]
"""What a rank does: (rank, folder) -> nothing; it writes what it has to say into the folder."""


def on_ranks(run_rank: Rank, folder: Path) -> None:
    """Runs `run_rank` on every rank; raises if one of them fails, or if they seem to wait for each other for ever."""
    # The ranks meet at a store of this process, on a port that the system chose: no other test can take it in between.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = torch.multiprocessing.start_processes(
        _run,
        args=(run_rank, str(folder), store.port),
        nprocs=NUM_RANKS,
        join=False,
        start_method=context.get_start_method(),
    )
    assert ranks is not None, "they run beside this process"
    deadline_s = time.monotonic() + PATIENCE_S
    while not ranks.join(timeout=1.0):
        if time.monotonic() > deadline_s:
            for process in filter(None, ranks.processes):
                process.kill()
            raise TimeoutError(f"the ranks are not done after {PATIENCE_S} s")


def shard(model: Any, layout: str) -> None:
    """`root`: all parameters together, `layers`: those of each layer, of the encoder of pictures too, by themselves."""
    mesh = init_device_mesh("cpu", (NUM_RANKS,))
    if layout == "layers":
        for layer in (*model.model.language_model.layers, *model.model.visual.blocks):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _run(rank: int, run_rank: Rank, folder: str, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(NUM_RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    torch.set_num_threads(1)
    run_rank(rank, folder)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # gloo's threads may outlive the interpreter's own end, which then aborts a process that has done its work.
    sys.stdout.flush()
    os._exit(0)
