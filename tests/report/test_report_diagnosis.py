"""The diagnosis on the page: faults counted and led to, heat maps of what is misread, success by what is hard."""

from __future__ import annotations

import re

import pytest

from pilotage.evaluate.bootstrap import Interval
from pilotage.report.diagnosis import Diagnosis, diagnose
from pilotage.report.fault_charts import fault_bars, heat_map
from pilotage.report.sources import make_sources
from pilotage.report.strata import hard_examples
from report_parts import row, run_of, scored_row

SMALL = {"map": ["SF", "FG"]}
SMALL_RIGHT = "Size: 2. Player: (0,0). Goal: (1,1). Holes: none.\n<answer>R D</answer>"


def diagnosis_of(counts: dict[str, int]) -> Diagnosis:
    faults = [fault for fault, count in counts.items() for _ in range(count)]
    rows = [row(fault, i) for i, fault in enumerate(faults)]
    found = diagnose(make_sources([run_of({"base": {"image": rows}})]))
    assert found is not None
    return found


def test_every_fault_is_counted_and_leads_to_its_levels() -> None:
    counts = {"none": 4, "misread": 3, "misplanned": 2, "both": 1, "format": 5, "error": 1}
    ((task, (of_source,)),) = diagnosis_of(counts).faults
    assert (task, of_source.source, of_source.num_answers) == ("FrozenLake", "Base", 16)
    assert [count for count, *_ in of_source.cells] == list(counts.values())
    assert of_source.cells[1][1].mean == 3 / 16
    # Faults are numbered from 1 in the order of the counts; 0 stands for descriptions.
    assert [address for *_, address in of_source.cells] == [
        f"#gallery?task=0&condition=0&source=0&fault={number}" for number in range(1, 7)
    ]


def test_a_bar_is_as_wide_as_its_share() -> None:
    half = Interval(mean=0.5, low=0.4, high=0.6, n=10)
    svg = fault_bars("Lake", [("Base", [("none", 5, half, "#a"), ("both", 5, half, "#b")], 10)])
    widths = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    assert widths == [("0", "209"), ("210", "209")]
    assert "Base, misread and misplanned: 5 of 10, 50 % [40–60]" in svg


def test_misread_positions_glow_where_they_stand_and_where_they_are_read() -> None:
    # The goal at (2,2) is read there 6 times and at (0,2) twice; the player always right.
    (heat,) = diagnosis_of({"none": 6, "misread": 2}).heat
    (goal,) = heat.maps
    assert (heat.source, goal.title) == ("Base", "FrozenLake, Goal, 3×3")
    assert goal.note == "75 % of 8 read right; 8 answers a cell"
    assert "stands on (2,2) 8 times, read there 75 %" in goal.right
    assert goal.wrong is not None and "wrongly read on (0,2) 2 times" in goal.wrong
    assert "stands on (0,0) 0 times, read there never" in goal.right
    assert heat.always == "FrozenLake, Player, 3×3 (n = 8)" and heat.never == ""


def test_what_no_answer_tells_has_no_map() -> None:
    (heat,) = diagnosis_of({"error": 3}).heat
    assert heat.maps == () and heat.always == ""
    assert heat.never == "FrozenLake, Goal, 3×3 (n = 3); FrozenLake, Player, 3×3 (n = 3)"
    assert heat.title == "Base: nothing told"


def test_a_misread_list_of_cells_is_told_though_it_has_no_map() -> None:
    holes_misread = "Size: 3. Player: (0,0). Goal: (2,2). Holes: (1,0).\n<answer>R R D D</answer>"
    rows = [row("none", i) for i in range(12)] + [scored_row(holes_misread, 12)]
    found = diagnose(make_sources([run_of({"base": {"image": rows}})]))
    assert found is not None
    (heat,) = found.heat
    # 1 of 13, as `pilotage diagnose RUN gap` tells it.
    assert heat.unmapped == "FrozenLake, Holes: 7.7 % (0–23) of 13"
    assert heat.maps == () and heat.title == "Base"
    (right,) = diagnosis_of({"none": 12}).heat
    assert right.title == "Base: nothing misread" and right.unmapped == ""


def test_sparse_bins_tell_their_n_and_join_no_line() -> None:
    rows = [row("none", i, optimal_length=length) for i, length in enumerate([2] * 10 + [3] * 12 + [4] * 9)]
    found = hard_examples(make_sources([run_of({"base": {"image": rows}})]))
    assert found is not None
    ((_, _, chart),) = dict(found.charts)["steps of the best plan"]
    assert re.findall(r'class="n"[^>]*>([^<]+)<', chart) == ["n", "10", "12", "9"]
    (line,) = re.findall(r'd="([^"]*)" class="line"', chart)
    assert line.count("M") == 1, "from 2 to 3 alone"
    assert chart.count('class="few"') == 1 and "n = 9" in chart


def test_more_sources_than_colours_keep_the_first_and_are_named() -> None:
    names = [f"s{i}" for i in range(8)]
    rows = [row("none", 0), row("none", 1, difficulty="easy")]
    found = hard_examples(make_sources([run_of({name: {"image": rows} for name in names})]))
    assert found is not None
    assert [title for _, title in found.legend] == ["s0", *names[3:]]
    assert found.undrawn == "s1, s2"


def test_success_is_told_along_every_axis() -> None:
    easy = {"difficulty": "easy", "optimal_length": 2}
    rows = [row(fault, i) for i, fault in enumerate(["none"] * 6 + ["misread"] * 2)]
    rows += [row("none", 8, **easy), scored_row(SMALL_RIGHT, 9, level=2, state=SMALL, **easy)]
    found = hard_examples(make_sources([run_of({"base": {"image": rows}})]))
    assert found is not None
    charts = dict(found.charts)
    assert list(charts) == ["steps of the best plan", "difficulty", "grid size"]
    ((task, condition, chart),) = charts["difficulty"]
    assert (task, condition) == ("FrozenLake", "from the picture")
    assert "Base, difficulty hard: 75 %" in chart and "n = 8" in chart


def test_what_examples_do_not_have_is_no_axis() -> None:
    nothing = {"difficulty": "", "optimal_length": 0}
    rows = [row("none", 0, **nothing), scored_row(SMALL_RIGHT, 1, level=2, state=SMALL, **nothing)]
    found = hard_examples(make_sources([run_of({"base": {"image": rows}})]))
    assert found is not None and [axis for axis, _ in found.charts] == ["grid size"]
    assert hard_examples(make_sources([run_of({"base": {"image": rows[:1]}})])) is None


def test_no_image_answers_no_diagnosis() -> None:
    text = row("none", 0, condition="text", view="symbolic")
    assert diagnose(make_sources([run_of({"base": {"text": [text]}})])) is None


def test_a_row_that_claims_another_level_than_its_state_has_is_left_out() -> None:
    rows = [row("none", 0), row("none", 1, level=10**6)]
    found = diagnose(make_sources([run_of({"base": {"image": rows}})]))
    assert found is not None and found.faults[0][1][0].num_answers == 1


@pytest.mark.parametrize("name", ["<script>", "a & b"])
def test_names_in_figures_are_escaped(name: str) -> None:
    assert name not in heat_map(name, [[0.5]], [[name]], [[name]])
