"""How many bytes of tensors were alive at once while a piece of code ran, counted storage by storage.

Not the process's memory: allocators round up and keep what was freed, and the libraries' own buffers are no tensors.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """A context in which `peak` grows to the most bytes that were alive at once, beside those known from the start.

    Every operation's results are counted until their storage goes: those saved for a backward as long as that needs
    them. A storage counts once, however many tensors show parts of it; memory that an operation takes and gives back
    within itself is not seen.
    """

    def __init__(self, *known: torch.nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}
        for module in known:
            for tensor in (*module.parameters(), *module.buffers()):
                self._meet(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self._meet(result)
        return results

    def _meet(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or not (size := storage.nbytes()):
            return
        self._known[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._part, key)

    def _part(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)
