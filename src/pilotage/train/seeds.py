"""Seeds made of several numbers, so that every draw of a run is a function of what it is for."""

from __future__ import annotations

import numpy as np


def mixed(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
