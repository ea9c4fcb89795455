"""The page of a study, from figures made up here."""

from __future__ import annotations

from pathlib import Path

from pilotage.report.study_page import ShownVariant, StudyTable, render_study, ways_chart
from report_parts import share, variant


def page(*variants: ShownVariant, lines: list[list[str]] | None = None) -> str:
    table = StudyTable(title="T", head=["variant", "figure"], rows=lines or [], note="")
    return render_study(name="s", what="W", facts=[], variants=variants, tables=[table], goal=0.76)


def test_what_was_not_run_is_named_and_drawn_nowhere() -> None:
    html = page(variant("here", 0.6), ShownVariant(title="absent", shares={}))
    assert html.count("absent") == 1 and "<li>absent</li>" in html
    assert "Dashed: 76 %" in html


def test_titles_and_cells_are_text_whatever_they_hold() -> None:
    html = page(variant("<script>x</script>", 0.6), lines=[["<img src=x>", "1"]])
    assert "<script" not in html and "<img" not in html
    assert "&lt;script&gt;" in html and "&lt;img" in html


def test_a_way_is_the_mean_of_its_seeds_before_the_others() -> None:
    own, other = variant("own", 0.4, 0.6), variant("other", 0.9)
    drawn = str(ways_chart(own, [own, other], most=200, goal=None))
    assert 'aria-label="own: 50 % after 200 rollouts"' in drawn
    assert drawn.count('class="seed"') == 2 and drawn.count('class="other"') == 1 and "goal" not in drawn


def test_the_legend_names_what_was_measured_and_no_more() -> None:
    html = page(variant("here", 0.6), ShownVariant(title="words", shares={"text": share(0.9)}))
    legend = html.partition('<p class="legend">')[2].partition("</p>")[0]
    assert legend.count("<span") == 2
    assert "from the picture" in legend and "from words" in legend and "describing" not in legend


def test_variants_that_are_asked_by_another_condition_are_drawn_by_it() -> None:
    html = page(ShownVariant(title="asked", shares={"question": share(0.4)}))
    assert "from the picture and the question by variant. asked 40 %" in html
    assert "success from the picture and the question." in html


def test_a_study_of_nothing_is_a_page_too() -> None:
    html = page(ShownVariant(title="absent", shares={}))
    assert "Where each ends" not in html and "Numbers" in html


def test_the_page_names_the_levels_that_the_variants_are_measured_on(tmp_path: Path) -> None:
    from pilotage.studies.episodes import EPISODES
    from pilotage.studies.page import study_page

    page = study_page(EPISODES, tmp_path, [0], [])
    assert "frozenlake_steps 4, 5, 6" in page and "minibehaviour 5" not in page
