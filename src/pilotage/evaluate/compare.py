"""Is B better than A, on the same examples? Paired: exact McNemar test, bootstrap of the difference.

Every difference is B's rate less A's. Where both answered every example once, what tells them apart are the
examples that only one of them got right: under equal skill each is a fair coin (McNemar 1947, exact binomial
form). With several answers to an example the pairs are means, and the interval alone decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pilotage.errors import PilotageError
from pilotage.evaluate.bootstrap import NUM_RESAMPLES, Interval, bootstrap_macro_mean, bootstrap_mean
from pilotage.evaluate.run import KIND_VIEWS
from pilotage.evaluate.samples import Row, by_example
from pilotage.evaluate.summary import rate_of

SIGNIFICANCE = 0.05
FAIR_SETTINGS = ("prompts", "max_new_tokens", "temperature", "top_p", "strict_edges")
"""Settings in which two files may not differ without a word; weights and seeds may."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """One kind on one task, pair by pair."""

    a: Interval
    b: Interval
    difference: Interval
    """B less A, examples resampled in pairs."""
    num_only_a: int
    """Examples on which A did better."""
    num_only_b: int
    """Examples on which B did better."""
    p_value: float | None
    """McNemar's exact two-sided p; None with several answers to an example."""

    @property
    def distinguishable(self) -> bool:
        """The difference can be told from zero: by McNemar at 0.05, else by its 95 % interval."""
        if self.p_value is not None:
            return self.p_value < SIGNIFICANCE
        return excludes_zero(self.difference)

    def as_dict(self) -> dict[str, Any]:
        return {
            "a": self.a.as_dict(),
            "b": self.b.as_dict(),
            "difference": self.difference.as_dict(),
            "num_only_a": self.num_only_a,
            "num_only_b": self.num_only_b,
            "p_value": self.p_value,
            "distinguishable": self.distinguishable,
        }


@dataclass(frozen=True, kw_only=True)
class KindComparison:
    num_examples: int
    """Examples compared."""
    num_only_in_a: int
    """Examples that only A was asked, and that are left out (with `common`)."""
    num_only_in_b: int
    tasks: Mapping[str, Pairs]
    macro: Interval
    """Plain mean of the tasks' differences, tasks resampled one by one."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "num_examples": self.num_examples,
            "num_only_in_a": self.num_only_in_a,
            "num_only_in_b": self.num_only_in_b,
            "tasks": {task: pairs.as_dict() for task, pairs in self.tasks.items()},
            "macro": self.macro.as_dict() | {"distinguishable": excludes_zero(self.macro)},
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    rate: str
    kinds: Mapping[str, KindComparison]
    warnings: tuple[str, ...]
    """What makes the comparison less than fair, a sentence each."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "rate": self.rate,
            "kinds": {kind: compared.as_dict() for kind, compared in self.kinds.items()},
            "warnings": list(self.warnings),
        }


def compare(
    a: Iterable[Row],
    b: Iterable[Row],
    *,
    kinds: Sequence[str] | None = None,
    rate: str = "success",
    common: bool = False,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """B against A, per kind and task. `kinds` defaults to those that both have.

    Raises PilotageError where the example sets differ (unless `common`, which compares on what both have), where
    one id stands for different states, and where nothing is left to compare.
    """
    of_a, of_b = _by_kind(a), _by_kind(b)
    chosen = [kind for kind in of_a if kind in of_b] if kinds is None else list(kinds)
    if not chosen:
        raise PilotageError(
            f"A has rows of {', '.join(of_a) or 'no kind'} and B of {', '.join(of_b) or 'no kind'}: nothing in common"
        )
    for kind in chosen:
        for name, of in (("A", of_a), ("B", of_b)):
            if kind not in of:
                raise PilotageError(f"{name} has no rows of the kind {kind!r}; it has {', '.join(of)}")
    compared = {
        kind: _compare_kind(
            of_a[kind], of_b[kind], kind, rate=rate, common=common, seed=seed, num_resamples=num_resamples
        )
        for kind in chosen
    }
    warnings = [note for kind in chosen for note in _unfairness(kind, of_a[kind], of_b[kind])]
    return Comparison(rate=rate, kinds=compared, warnings=tuple(dict.fromkeys(warnings)))


def mcnemar_p(num_only_a: int, num_only_b: int) -> float:
    """Exact two-sided p of `num_only_a` heads in `num_only_a + num_only_b` throws of a fair coin.

    1 pair apart gives 1.0, 0 against 6 gives 2 / 2^6 = 0.03125.
    """
    n = num_only_a + num_only_b
    ways = tail = 1
    for i in range(min(num_only_a, num_only_b)):
        # C(n, i+1) out of C(n, i), in whole numbers: exact, and fast for thousands of pairs.
        ways = ways * (n - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def excludes_zero(difference: Interval) -> bool:
    return difference.low > 0 or difference.high < 0


def _compare_kind(
    a: Sequence[Row],
    b: Sequence[Row],
    kind: str,
    *,
    rate: str,
    common: bool,
    seed: int,
    num_resamples: int,
) -> KindComparison:
    of_a, of_b = by_example(a), by_example(b)
    num_only_in_a, num_only_in_b = len(of_a.keys() - of_b.keys()), len(of_b.keys() - of_a.keys())
    shared = [id_ for id_ in of_a if id_ in of_b]
    if not shared:
        raise PilotageError(f"{kind}: A and B have no example in common; measure both on the same levels")
    if (num_only_in_a or num_only_in_b) and not common:
        raise PilotageError(
            f"{kind}: A and B were not asked the same: {num_only_in_a} examples are only in A, {num_only_in_b} only "
            f"in B, {len(shared)} in both; measure both with the same --data, --split and --num, or give --common "
            "to compare on those that both have"
        )
    _check_states(kind, shared, of_a, of_b)
    once = all(len(of[id_]) == 1 for of in (of_a, of_b) for id_ in shared)
    value = rate_of(rate)
    by_task: dict[str, list[tuple[float, float]]] = {}
    for id_ in shared:
        pair = (fmean(map(value, of_a[id_])), fmean(map(value, of_b[id_])))
        by_task.setdefault(of_a[id_][0]["task"], []).append(pair)
    tasks = {task: _pairs(pairs, once, seed, num_resamples) for task, pairs in by_task.items()}
    return KindComparison(
        num_examples=len(shared),
        num_only_in_a=num_only_in_a,
        num_only_in_b=num_only_in_b,
        tasks=tasks,
        macro=bootstrap_macro_mean(
            [[of_b - of_a for of_a, of_b in pairs] for pairs in by_task.values()],
            seed=seed,
            num_resamples=num_resamples,
            bounds=(-1.0, 1.0),
        ),
    )


def _pairs(pairs: Sequence[tuple[float, float]], once: bool, seed: int, num_resamples: int) -> Pairs:
    num_only_a = sum(of_a > of_b for of_a, of_b in pairs)
    num_only_b = sum(of_b > of_a for of_a, of_b in pairs)
    differences = [of_b - of_a for of_a, of_b in pairs]
    return Pairs(
        a=bootstrap_mean([of_a for of_a, _ in pairs], seed=seed, num_resamples=num_resamples),
        b=bootstrap_mean([of_b for _, of_b in pairs], seed=seed, num_resamples=num_resamples),
        difference=bootstrap_mean(differences, seed=seed, num_resamples=num_resamples, bounds=(-1.0, 1.0)),
        num_only_a=num_only_a,
        num_only_b=num_only_b,
        p_value=mcnemar_p(num_only_a, num_only_b) if once else None,
    )


def _check_states(
    kind: str, shared: Sequence[str], a: Mapping[str, Sequence[Row]], b: Mapping[str, Sequence[Row]]
) -> None:
    for id_ in shared:
        first, second = a[id_][0], b[id_][0]
        if (first["task"], first.get("state")) != (second["task"], second.get("state")):
            raise PilotageError(
                f"{kind}: the example {id_!r} is another state in B than in A; these are not the same levels"
            )


def _unfairness(kind: str, a: Sequence[Row], b: Sequence[Row]) -> list[str]:
    notes = []
    for name in FAIR_SETTINGS:
        of_a, of_b = (
            sorted({str((row.get("settings") or {}).get(name, "not told")) for row in rows})
            for rows in (a, b)
        )
        if of_a != of_b:
            notes.append(f"{name} differs: {', '.join(of_a)} in A, {', '.join(of_b)} in B")
    num_answers = [sorted({len(rows) for rows in by_example(of).values()}) for of in (a, b)]
    if num_answers[0] != num_answers[1]:
        told = [" or ".join(map(str, counts)) for counts in num_answers]
        notes.append(f"{kind}: A has {told[0]} answers to an example, B has {told[1]}")
    for name, rows in (("A", a), ("B", b)):
        num_errors = sum(bool(row.get("error")) for row in rows)
        if num_errors:
            notes.append(
                f"{kind}: {num_errors} rows of {name} got no answer from the engine and count as failures"
            )
    return notes


def _by_kind(rows: Iterable[Row]) -> dict[str, list[Row]]:
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    return {kind: kinds[kind] for kind in (*KIND_VIEWS, *kinds) if kind in kinds}
