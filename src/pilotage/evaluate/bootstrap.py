"""Percentile bootstrap intervals of means and of macro means. Seeded, vectorised, no torch.

A resample of n values with K distinct ones is a multinomial draw of K counts. For yes-or-no data (K = 2) it
is binomial, so that the percentiles of infinitely many resamples are known and nothing need be drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pilotage.errors import PilotageError

UNBOUNDED = (-np.inf, np.inf)
NUM_RESAMPLES = 10_000
ALPHA = 1.0 - 0.95
"""Of 95 % intervals: the share of resamples that lies outside them, half at each end."""
_CHUNK_NUMBERS = 4_000_000


class Figures:
    """A dataclass of figures, which JSON holds by the names of its fields."""

    def as_dict(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Figures):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, kw_only=True)
class Interval(Figures):
    """A mean and the range that a resampling of its rows leaves it in."""

    mean: float
    low: float
    high: float
    n: int
    """Rows behind the mean."""


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """The mean of `values` with its percentile bootstrap interval.

    Where n yes-or-no values all agree, resampling sees no spread at all; the far end is then the exact
    binomial (Clopper-Pearson) bound, 1 - (α/2)^(1/n) away: 300 of 300 is [98.8 %, 100 %]. `bounds` are the
    ends of the scale: (0, 1) for shares, (-1, 1) for differences of shares, UNBOUNDED for numbers that are no shares,
    of which agreeing ones have no spread that could be told.
    """
    return bootstrap_macro_mean([values], seed=seed, num_resamples=num_resamples, bounds=bounds)


def bootstrap_macro_mean(
    strata: Sequence[Sequence[float] | np.ndarray],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """The plain mean of the strata's means; every stratum (task) is resampled by itself.

    Where all rows of all strata agree on -1, 0 or 1, the exact bound of the smallest stratum stands in.
    """
    arrays = [np.asarray(values, dtype=np.float64).ravel() for values in strata]
    if not arrays or any(array.size == 0 for array in arrays):
        raise PilotageError("an interval needs at least one value in every stratum")
    if not all(np.isfinite(array).all() for array in arrays):
        raise PilotageError("an interval needs finite values; leave NaN and infinity out before")
    mean = float(np.mean([array.mean() for array in arrays]))
    num_rows = sum(array.size for array in arrays)
    is_share = bounds != UNBOUNDED
    if is_share and mean in (-1.0, 0.0, 1.0) and all((array == mean).all() for array in arrays):
        reach = 1.0 - (ALPHA / 2) ** (1 / min(array.size for array in arrays))
        low, high = max(bounds[0], mean - reach), min(bounds[1], mean + reach)
        return Interval(mean=mean, low=low, high=high, n=num_rows)
    if len(arrays) == 1 and np.unique(arrays[0]).size == 2:
        low, high = _two_valued_percentiles(arrays[0], (ALPHA / 2, 1.0 - ALPHA / 2))
        return Interval(mean=mean, low=low, high=high, n=num_rows)
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(array, rng, num_resamples) for array in arrays], axis=0)
    low, high = np.quantile(means, [ALPHA / 2, 1.0 - ALPHA / 2])
    return Interval(mean=mean, low=float(low), high=float(high), n=num_rows)


def _two_valued_percentiles(values: np.ndarray, levels: tuple[float, float]) -> tuple[float, float]:
    """Percentiles of the resampled mean, exactly: the number of larger values is Binomial(n, share)."""
    smaller, larger = float(values.min()), float(values.max())
    n = values.size
    share = np.count_nonzero(values == larger) / n
    k = np.arange(n + 1)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(k[1:]))))
    log_choose = log_factorial[n] - log_factorial - log_factorial[::-1]
    cdf = np.cumsum(np.exp(log_choose + k * np.log(share) + (n - k) * np.log1p(-share)))
    low, high = (smaller + (larger - smaller) * int(np.searchsorted(cdf, level)) / n for level in levels)
    return low, high


def _resampled_means(values: np.ndarray, rng: np.random.Generator, num_resamples: int) -> np.ndarray:
    """Means of `num_resamples` resamples, float [num_resamples]."""
    distinct, counts = np.unique(values, return_counts=True)
    rows = max(1, _CHUNK_NUMBERS // distinct.size)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, rows):
        stop = min(start + rows, num_resamples)
        drawn = rng.multinomial(values.size, counts / values.size, size=stop - start)
        # Not a matrix product: BLAS would wake its threads, which cost more than this sum on a busy machine.
        means[start:stop] = np.einsum("rk,k->r", drawn, distinct) / values.size
    return means
