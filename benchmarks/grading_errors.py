"""How often the grader is wrong, on pairs of reference and response whose grade is known.

    python benchmarks/grading_errors.py

`tests/worlds/grading_pairs.jsonl` holds pairs made by hand, of two dozen kinds and in both directions. A third of them
was put aside before the grader was mended, and what became of it was not looked at while it was. A false success is
a wrong answer that counts, a false failure a right one that does not; with 95 % Wilson intervals.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from pilotage.errors import PilotageError
from pilotage.worlds.questions.data.importing import read_answer
from pilotage.worlds.questions.grading import grade
from pilotage.worlds.questions.question import Question

PAIRS = Path(__file__).parent.parent / "tests" / "worlds" / "grading_pairs.jsonl"


def is_graded_success(pair: dict[str, Any]) -> bool:
    """What becomes of a pair on the way that a data set's row and a model's response take."""
    options = tuple(pair["options"])
    try:
        answer = read_answer(pair["answer"], options)
    except PilotageError:
        return False
    return grade(Question(text="?", options=options, answer=answer), pair["response"]).success


def main() -> None:
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    wrong: Counter[tuple[str, bool]] = Counter()
    count: Counter[tuple[str, bool]] = Counter()
    for pair in pairs:
        is_wrong = is_graded_success(pair) != pair["success"]
        for part in ("all", "held out" if pair["held_out"] else "seen", pair["kind"]):
            count[part, pair["success"]] += 1
            wrong[part, pair["success"]] += is_wrong
    print(f"{'':<18} {'false successes':>34} {'false failures':>34}")
    parts = ["all", "seen", "held out", *sorted({pair["kind"] for pair in pairs})]
    for part in parts:
        print(
            f"{part:<18} {_text(wrong[part, False], count[part, False])} {_text(wrong[part, True], count[part, True])}"
        )


def _text(num_wrong: int, num_all: int) -> str:
    if not num_all:
        return f"{'-':>34}"
    z, share = 1.959964, num_wrong / num_all
    middle = (share + z * z / (2 * num_all)) / (1 + z * z / num_all)
    half = z / (1 + z * z / num_all) * math.sqrt(share * (1 - share) / num_all + z * z / (4 * num_all**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return f"{num_wrong:>5} of {num_all:>4} {100 * share:6.1f} % [{100 * low:4.1f}, {100 * high:4.1f}]"


if __name__ == "__main__":
    main()
