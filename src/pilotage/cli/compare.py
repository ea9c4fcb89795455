"""`pilotage compare`: is B better than A, on the same levels?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from pilotage.cli.evaluation_rows import find_rows
from pilotage.cli.tables import make_table, say, signed, table_console

if TYPE_CHECKING:
    from pilotage.evaluate.bootstrap import Interval
    from pilotage.evaluate.compare import Comparison, Pairs


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two measurements, paired by example: is the difference more than chance?

    A and B are run folders (their last stage), RUN/STAGE, or JSONL files of rows of `pilotage eval`.
    For each task: success of both, B less A with its 95 % interval, how many levels only one of
    them solved, and McNemar's exact p, which decides. The line of all tasks holds plain means, and
    the levels of all tasks pooled in one such test. With several answers to a level, McNemar's test
    does not apply: the pairs are means, and the interval decides. Different levels are refused.
    """

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """The first: RUN, RUN/STAGE or FILE.jsonl."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """The second."""
    conditions: Annotated[
        tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: all that both have)")
    ] = ()
    """What is compared."""
    rate: str = "success"
    """Which rate: success, optimal, parsed or another flag that the rows have; state is the true state
    recited, for every field."""
    common: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compare on the levels that both have instead of refusing."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON instead of tables."""

    def run(self) -> int:
        from pilotage.evaluate.compare import compare

        a, b = find_rows(self.a), find_rows(self.b)
        comparison = compare(
            a.rows, b.rows, conditions=self.conditions or None, rate=self.rate, common=self.common
        )
        if self.json:
            print(json.dumps({"a": a.name, "b": b.name, **comparison.as_dict()}, indent=1))
        else:
            print_comparison(comparison, a.name, b.name)
        return 0


def print_comparison(comparison: Comparison, a: str, b: str) -> None:
    """A line for every condition and task; then, in words, what can be said."""
    console = table_console()
    table = make_table(
        f"{comparison.rate}, per cent; B - A with its 95 % interval; only A, only B: levels on which "
        f"{'one alone succeeded' if comparison.rate == 'success' else 'its rate is higher'}",
        *("condition", "task", "n", "A", "B", "B - A", "only A", "only B", "McNemar p"),
    )
    verdicts = []
    for condition, compared in comparison.conditions.items():
        lines = [*compared.tasks.items(), *([("macro", compared.macro)] if len(compared.tasks) > 1 else [])]
        for task, pairs in lines:
            table.add_row(
                *(
                    condition,
                    task,
                    str(pairs.a.n),
                    _percent(pairs.a),
                    _percent(pairs.b),
                    signed(pairs.difference),
                ),
                *(str(pairs.num_only_a), str(pairs.num_only_b), p_text(pairs.p_value)),
                end_section=task == "macro",
            )
            verdicts.append(
                _sentence(f"{condition}, {task}", pairs, lower_is_better=comparison.lower_is_better)
            )
        if compared.pooling_note:
            verdicts.append(f"note: {condition}: {compared.pooling_note}")
    say(console, f"A: {a}\nB: {b}")
    console.print(table)
    say(console, *verdicts)
    for condition, compared in comparison.conditions.items():
        if compared.num_only_in_a or compared.num_only_in_b:
            say(
                console,
                f"note: {condition} is compared on the {compared.num_examples} levels that both have; left out are "
                f"{compared.num_only_in_a} of A's and {compared.num_only_in_b} of B's",
            )
    say(console, *(f"warning: {warning}" for warning in comparison.warnings))


def _sentence(what: str, pairs: Pairs, *, lower_is_better: bool) -> str:
    if not pairs.distinguishable:
        return f"{what}: the difference is not distinguishable from zero"
    better = "B is better" if (pairs.direction > 0) != lower_is_better else "A is better"
    return f"{what}: {better} by {100 * abs(pairs.difference.mean):.1f} points"


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f}"


def p_text(p_value: float | None) -> str:
    """`0.031`, `<0.001`; a dash where the test does not apply."""
    if p_value is None:
        return "-"
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
