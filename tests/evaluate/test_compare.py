"""Comparisons against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judged_rows import row
from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.evaluate.bootstrap import bootstrap_mean
from pilotage.evaluate.compare import compare, excludes_zero, mcnemar_p
from pilotage.evaluate.jsonl import write_jsonl

MAZE = {"start": [1, 0], "target": [2, 0], "walls": [[7, 3, 9], [7, 9, 12], [7, 2, 10]]}


def rows(marks: str, **more: Any) -> list[Any]:
    """`+-+`: three examples, the second a failure."""
    return [row(f"e{i}", mark == "+", **more) for i, mark in enumerate(marks)]


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 6, 2 / 2**6),
        (6, 0, 2 / 2**6),
        # 2 (1 + 10 + 45) / 1024
        (2, 8, 112 / 1024),
        (5, 5, 1.0),
        # 2 (1 + 12 + 66) / 4096, the p of a textbook's 2 against 10
        (2, 10, 158 / 4096),
    ],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_p(only_a, only_b) == pytest.approx(p)


def test_mcnemar_agrees_with_the_whole_binomial_sum_and_holds_for_thousands_of_pairs() -> None:
    for n in (7, 40):
        for k in range(n // 2 + 1):
            tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
            assert mcnemar_p(k, n - k) == pytest.approx(min(1.0, 2 * tail))
    # Normal approximation with continuity: z = (|5150-4850| - 1) / 100 = 2.99, p = 0.0028.
    assert mcnemar_p(4850, 5150) == pytest.approx(0.0028, abs=1e-4)


def test_pairs_by_hand() -> None:
    #                                 both, only A, only B x 3, neither
    comparison = compare(rows("++---+-"), rows("+-+++--"))
    pairs = comparison.conditions["image"].tasks["frozenlake"]
    assert (pairs.num_only_a, pairs.num_only_b) == (2, 3)
    assert (pairs.a.mean, pairs.b.mean) == (pytest.approx(3 / 7), pytest.approx(4 / 7))
    assert pairs.difference == bootstrap_mean([0, -1, 1, 1, 1, -1, 0], bounds=(-1.0, 1.0))
    assert pairs.difference.mean == pytest.approx(1 / 7)
    assert pairs.p_value == 1.0
    assert not pairs.distinguishable
    assert comparison.warnings == ()


def test_pairing_sees_what_two_separate_intervals_would_not() -> None:
    a, b = "+" * 50 + "-" * 50, "+" * 60 + "-" * 40
    pairs = compare(rows(a), rows(b)).conditions["image"].tasks["frozenlake"]
    assert pairs.a.high > pairs.b.low, "the two intervals overlap"
    assert pairs.p_value == pytest.approx(2 / 2**10)
    assert pairs.distinguishable and excludes_zero(pairs.difference)


def test_the_order_of_rows_means_nothing() -> None:
    a, b = rows("++-+-"), rows("-++++")
    assert compare(a, b).conditions["image"].tasks["frozenlake"].difference.mean == pytest.approx(0.2)
    assert compare(a, b[::-1]).conditions["image"].tasks["frozenlake"].difference.mean == pytest.approx(0.2)


def test_equal_models_are_told_apart_about_one_time_in_twenty_at_most() -> None:
    rng = np.random.default_rng(0)
    num_distinguished = 0
    for _ in range(200):
        a, b = (["+" if x else "-" for x in rng.random(60) < 0.6] for _ in range(2))
        pairs = compare(rows("".join(a)), rows("".join(b)))
        num_distinguished += pairs.conditions["image"].tasks["frozenlake"].distinguishable
    # McNemar's exact test errs on the safe side.
    assert num_distinguished / 200 <= 0.06


def test_macro_is_the_plain_mean_of_the_tasks_differences() -> None:
    a = rows("----") + [row(f"m{i}", False, task="maze") for i in range(40)]
    b = rows("++++") + [row(f"m{i}", False, task="maze") for i in range(40)]
    compared = compare(a, b).conditions["image"]
    assert compared.macro.difference.mean == pytest.approx(0.5)
    assert (compared.macro.a.mean, compared.macro.b.mean) == (0.0, pytest.approx(0.5))
    assert compared.num_examples == 44
    assert list(compared.tasks) == ["frozenlake", "maze"]


def lake_and_maze(lake: str, maze: str) -> list[Any]:
    return rows(lake) + [
        row(f"m{i}", mark == "+", task="maze", level=3, state=MAZE) for i, mark in enumerate(maze)
    ]


def test_all_tasks_are_pooled_in_one_exact_test_and_a_verdict_of_their_own_is_explained() -> None:
    # 0 against 4 in each task: p 0.125 each, and 2 / 2^8 for the 0 against 8 of both.
    compared = compare(lake_and_maze("----++", "----+-"), lake_and_maze("++++++", "+++++-")).conditions[
        "image"
    ]
    assert [pairs.p_value for pairs in compared.tasks.values()] == [0.125, 0.125]
    assert compared.macro.p_value == pytest.approx(2 / 2**8)
    assert (compared.macro.num_only_a, compared.macro.num_only_b, compared.macro.a.n) == (0, 8, 12)
    assert compared.macro.distinguishable and not any(p.distinguishable for p in compared.tasks.values())
    assert compared.pooling_note == (
        "the 12 examples of all tasks together tell what those of no task tell by themselves: "
        "A's rate is higher on 0, B's on 8"
    )


def test_the_verdict_over_all_tasks_is_that_of_the_exact_test_and_not_of_the_interval() -> None:
    # 0 against 2 and 0 against 3: the interval of the mean is off zero, p is 2 / 2^5.
    compared = compare(lake_and_maze("--++", "---+"), lake_and_maze("++++", "++++")).conditions["image"]
    assert excludes_zero(compared.macro.difference)
    assert compared.macro.p_value == pytest.approx(2 / 2**5)
    assert not compared.macro.distinguishable and compared.pooling_note == ""


def test_examples_and_tasks_that_disagree_tell_nothing_apart() -> None:
    # 12 of 100 levels of one task for A, all 2 of the other for B: the examples say A, the mean of the tasks says B.
    a, b = lake_and_maze("+" * 12 + "-" * 88, "--"), lake_and_maze("-" * 100, "++")
    compared = compare(a, b).conditions["image"]
    assert compared.macro.difference.mean == pytest.approx((1 - 0.12) / 2)
    assert compared.macro.p_value is not None and compared.macro.p_value < 0.05
    assert compared.macro.direction == 0 and compared.pooling_note == ""


def test_an_id_is_one_example_of_each_task() -> None:
    a = [row("1", True), row("1", False, task="maze")]
    b = [row("1", True), row("1", True, task="maze")]
    compared = compare(a, b).conditions["image"]
    assert compared.num_examples == 2
    assert {task: pairs.num_only_b for task, pairs in compared.tasks.items()} == {"frozenlake": 0, "maze": 1}


def test_several_answers_are_compared_by_their_mean_and_without_mcnemar() -> None:
    def sampled(marks: Sequence[str]) -> list[Any]:
        return [
            row(f"e{i}", mark == "+", sample=sample)
            for i, of in enumerate(marks)
            for sample, mark in enumerate(of)
        ]

    pairs = (
        compare(sampled(["++--", "----"]), sampled(["++++", "+---"])).conditions["image"].tasks["frozenlake"]
    )
    assert pairs.difference == bootstrap_mean([0.5, 0.25], bounds=(-1.0, 1.0))
    assert pairs.p_value is None
    assert pairs.distinguishable, "both pairs point the same way, so every resample does"
    assert (pairs.num_only_a, pairs.num_only_b) == (0, 2)


def test_different_example_sets_are_refused_with_their_numbers_and_the_remedy() -> None:
    a, b = rows("++--"), rows("++--++")[1:]
    with pytest.raises(PilotageError, match="1 examples are only in A, 2 only in B, 3 in both.*--common"):
        compare(a, b)
    compared = compare(a, b, common=True).conditions["image"]
    assert (compared.num_examples, compared.num_only_in_a, compared.num_only_in_b) == (3, 1, 2)


def test_nothing_in_common_is_an_error_even_with_common() -> None:
    with pytest.raises(PilotageError, match="no example in common"):
        compare(rows("+"), [row("other", True)], common=True)
    with pytest.raises(PilotageError, match="A has rows of image, B of text"):
        compare(rows("+"), rows("+", condition="text"))
    with pytest.raises(PilotageError, match="B has no rows of the condition 'text'; it has image"):
        compare(rows("+") + rows("+", condition="text"), rows("+"), conditions=("text",))


def test_one_id_for_two_states_is_refused() -> None:
    with pytest.raises(PilotageError, match="'e0' is another state in B"):
        compare(rows("+"), rows("+", state={"map": ["FS", "FG"]}))


def test_unfair_settings_and_failed_rows_are_warned_of() -> None:
    settings = {"prompts": "brief", "temperature": 0.0, "seed": 1}
    a = rows("+-", settings=settings)
    b = rows("+-", settings=settings | {"temperature": 0.7, "seed": 2})
    b[1]["error"] = "TimeoutError"
    warnings = compare(a, b).warnings
    assert warnings == (
        "temperature differs: 0.0 in A, 0.7 in B",
        "image: 1 rows of B got no answer from the engine and count as failures",
    )


def test_another_rate_can_be_compared() -> None:
    a, b = rows("++"), rows("++")
    a[0]["outcome"] = a[0]["outcome"] | {"optimal": False}
    pairs = compare(a, b, rate="optimal").conditions["image"].tasks["frozenlake"]
    assert pairs.difference.mean == pytest.approx(0.5)
    assert compare(a, b).conditions["image"].tasks["frozenlake"].difference.mean == 0.0


def test_a_flag_of_a_world_s_own_is_compared_and_less_of_it_may_be_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, circled in (("a", "+" * 8), ("b", "-" * 8)):
        judged = {"success": False, "reason": "not_reached", "parsed": True, "num_turns": 9}
        outcomes = (judged | {"circled": mark == "+"} for mark in circled)
        write_jsonl(
            tmp_path / f"{name}.jsonl",
            [row(f"e{i}", False, task="maze_steps", outcome=each) for i, each in enumerate(outcomes)],
        )
    command = ["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--rate"]
    assert main([*command, "circled"]) == 0
    assert "image, maze_steps: B is better by 100.0 points" in capsys.readouterr().out
    assert main([*command, "circeld"]) == 2
    printed = capsys.readouterr().err
    assert "no rate 'circeld' in the rows of image; there are success, parsed, circled, state" in printed
    assert "did you mean circled?" in printed and len(printed.splitlines()) == 1


def test_conditions_without_the_rate_are_left_out_unless_they_are_named() -> None:
    both = rows("++") + rows("++", condition="perception", outcome={"success": True})
    assert list(compare(both, both, rate="optimal").conditions) == ["image"]
    with pytest.raises(PilotageError, match="no rate 'optimal' in the rows of perception; there are success"):
        compare(both, both, rate="optimal", conditions=("perception",))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name, marks in (("one", "+" * 12 + "-" * 8), ("two", "+" * 20)):
        for stage in ("stage1", "stage2"):
            shown = "-" * 20 if stage == "stage1" else marks
            write_jsonl(tmp_path / name / "eval" / f"{stage}.image.jsonl", rows(shown))
    return tmp_path / "one", tmp_path / "two"


def test_the_command_compares_last_stages_and_says_what_can_be_said(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = map(str, folders)
    assert main(["compare", one, two]) == 0
    printed = capsys.readouterr().out
    assert "image, frozenlake: B is better by 40.0 points" in printed
    assert "60.0" in printed and "100.0" in printed and "0.008" in printed
    assert main(["compare", f"{one}/stage1", f"{two}/stage1"]) == 0
    assert "image, frozenlake: the difference is not distinguishable from zero" in capsys.readouterr().out


def test_the_command_prints_the_pooled_p_and_why_its_verdict_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", lake_and_maze("----++", "----+-"))
    write_jsonl(tmp_path / "b.jsonl", lake_and_maze("++++++", "+++++-"))
    assert main(["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]) == 0
    printed = capsys.readouterr().out
    (line,) = [line.split() for line in printed.splitlines() if " macro " in line and "0.008" in line]
    assert line[:5] == ["image", "macro", "12", "25.0", "91.7"] and line[-3:] == ["0", "8", "0.008"]
    assert "image, macro: B is better by 66.7 points" in printed
    assert "note: image: the 12 examples of all tasks together tell what those of no task tell" in printed


def test_the_command_gives_json_and_takes_files(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = folders
    assert main(["compare", str(one / "eval/stage2.image.jsonl"), str(two), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    pairs = printed["conditions"]["image"]["tasks"]["frozenlake"]
    assert (pairs["num_only_a"], pairs["num_only_b"], pairs["distinguishable"]) == (0, 8, True)
    assert pairs["p_value"] == pytest.approx(2 / 2**8)


def test_the_command_refuses_other_levels_in_one_line(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = folders
    write_jsonl(tmp_path / "less.jsonl", rows("+++"))
    assert main(["compare", str(one), str(tmp_path / "less.jsonl")]) == 2
    assert "17 examples are only in A, 0 only in B" in capsys.readouterr().err
    assert main(["compare", str(one), str(tmp_path / "less.jsonl"), "--common"]) == 0
    assert "left out are 17 of A's and 0 of B's" in " ".join(capsys.readouterr().out.split())
    assert main(["compare", str(one), str(tmp_path / "none")]) == 2
    assert "holds no rows" in capsys.readouterr().err
    assert main(["compare", str(one), f"{one}/stage9"]) == 2


def test_a_damaged_line_costs_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows("+-+"))
    with path.open("a") as file:
        file.write('{"id": "e9", "condition": "image"}\n{"id": ')
    assert main(["compare", str(path), str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conditions"]["image"]["num_examples"] == 3
