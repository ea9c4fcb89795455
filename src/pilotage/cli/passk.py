"""The table of pass@k, for answers that were sampled several times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pilotage.cli.tables import make_table, points, table_console

if TYPE_CHECKING:
    from pilotage.evaluate.passk import PassK


def print_passk(estimates: Mapping[str, PassK]) -> None:
    """One line for every condition and task: avg@k and pass@k in per cent, with their intervals."""
    console = table_console()
    for condition, estimate in estimates.items():
        few, many = estimate.num_samples
        temperatures = ", ".join(f"{temperature:g}" for temperature in estimate.temperatures) or "not given"
        sizes = str(few) if few == many else f"{few} to {many}"
        ks = list(estimate.macro)
        table = make_table(
            f"{sizes} answers to each level at temperature {temperatures}; pass@k unbiased, 95 % intervals",
            *("condition", "task", f"avg@{sizes}", *(f"pass@{k}" for k in ks)),
        )
        for task, by_k in estimate.tasks.items():
            table.add_row(condition, task, points(estimate.average[task]), *(points(by_k[k]) for k in ks))
        if len(estimate.tasks) > 1:
            macro = (points(estimate.macro_average), *(points(estimate.macro[k]) for k in ks))
            table.add_row(condition, "macro", *macro)
        console.print(table)
