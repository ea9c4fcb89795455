"""The page in a real browser: every part is visible, the filter filters, nothing is logged or fetched."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pages import CONTRAST, drawn, until
from pilotage.report import write_report
from pilotage.report.study_page import StudyTable, render_study
from pilotage.worlds import get_task
from pilotage.worlds.drawing import decode_png
from report_parts import variant
from synthetic_run import write_question_run, write_run, write_step_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    write_run(folder, num_per_task=8)
    return folder


@pytest.fixture(scope="module")
def report(run_dir: Path) -> str:
    return write_report(run_dir).as_uri()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page whose every console message, error and request is kept, and must be harmless at the end."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    noise: list[str] = []
    page.on("console", lambda message: noise.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: noise.append(f"error: {error}"))
    page.on("request", lambda request: None if _local(request.url) else noise.append(request.url[:200]))
    page.on("dialog", lambda dialog: (noise.append("dialog"), dialog.dismiss()))
    yield page
    page.close()
    assert noise == []


def _local(url: str) -> bool:
    return url.startswith(("file://", "data:"))


def opened(page: Any, url: str) -> None:
    """Goes there and waits for the gallery's first levels."""
    page.goto("about:blank")
    page.goto(url)
    until(page, "document.documentElement.dataset.ready === '1'")


def choose(page: Any, **filters: str) -> None:
    """Sets filters by what their options are called, and waits for the levels."""
    for name, label in filters.items():
        before = page.locator("#cards").get_attribute("data-ready")
        page.select_option(f"#f-{name}", label=label)
        until(page, f"document.getElementById('cards').dataset.ready > {before}")


def shown_answers(page: Any) -> list[tuple[str, str, str]]:
    """(task, source, verdict) of every answer on the gallery's page."""
    script = """() => [...document.querySelectorAll('.answer')].filter(a => a.checkVisibility())
        .map(a => [a.closest('.level-card').dataset.task, a.dataset.source, a.dataset.verdict])"""
    return [tuple(answer) for answer in page.evaluate(script)]


def test_every_part_is_visible(page: Any, report: str) -> None:
    opened(page, report)
    for part in (
        "#tiles",
        "#gap svg",
        "#diagnostic svg",
        "#pairs table",
        "#curves svg",
        "#table table",
        ".level-card .level",
        "#waffle",
    ):
        assert page.locator(part).first.is_visible(), part
    assert page.locator(".level-card").count() == 12


def test_no_panel_is_empty_where_it_is_not_scrolled_to(page: Any, report: str) -> None:
    opened(page, report)
    hidden = """() => [...document.querySelectorAll('figure.card')].filter(f => !f.closest('details:not([open])'))
        .filter(f => getComputedStyle(f).contentVisibility !== 'visible' || !f.querySelector('svg *')).length"""
    assert page.evaluate(hidden) == 0


def test_the_picture_is_the_one_that_the_task_draws(page: Any, report: str, run_dir: Path) -> None:
    opened(page, report)
    choose(page, task="FrozenLake")
    id_ = page.locator(".level-card code").first.inner_text()
    rows = map(json.loads, (run_dir / "eval" / "base.image.jsonl").read_text().splitlines())
    state = next(row["state"] for row in rows if row["id"] == id_)
    task = get_task("frozenlake")
    data = page.evaluate("document.querySelector('.level canvas').toDataURL('image/png')")
    drawn = decode_png(base64.b64decode(data.partition(",")[2])).astype(int)
    level = len(state["map"])
    wanted = task.draw(task.parse_state(state), drawn.shape[0] // level).astype(int)
    # The browser shrinks the tiles in its own way: edges differ a little, a wrong tile by far more.
    cells = abs(drawn - wanted).reshape(level, drawn.shape[0] // level, level, -1, 3).mean(axis=(1, 3, 4))
    assert drawn.shape == wanted.shape and cells.max() < 12


def test_the_filters_leave_what_was_asked_for(page: Any, report: str) -> None:
    opened(page, report)
    before = shown_answers(page)
    assert {task for task, *_ in before} == {"0", "1", "2"}
    choose(page, task="Maze")
    assert {task for task, *_ in shown_answers(page)} == {"1"}
    choose(page, source="Stage 2")
    assert {(task, source) for task, source, _ in shown_answers(page)} == {("1", "2")}
    choose(page, verdict="optimal")
    found = shown_answers(page)
    assert found and set(found) == {("1", "2", "optimal")}
    assert page.locator("#f-count").inner_text() == f"{len(found)} of 24 levels, {len(found)} answers"
    page.fill("#f-id", "no-such-level")
    assert page.locator("#f-count").inner_text() == "nothing like that here"
    page.click("#f-reset")
    until(page, "document.querySelectorAll('.level-card').length === 12")
    assert shown_answers(page) == before


def test_right_here_and_wrong_there_are_the_levels_of_the_paired_table(page: Any, report: str) -> None:
    opened(page, report)
    cell = page.locator("#pairs tbody").first.locator("tr").first.locator("td a").last
    count = int(cell.inner_text())
    cell.click()
    until(page, f"document.getElementById('f-count').value.startsWith('{count} of')")
    won = {"optimal", "success"}
    answers = shown_answers(page)
    assert len(answers) == 3 * count
    assert all(verdict not in won for _, source, verdict in answers if source == "0")
    assert {source for _, source, verdict in answers if verdict in won} >= {"1"}
    # The address holds the filters: opened again, it shows the same.
    opened(page, page.url)
    assert shown_answers(page) == answers


def test_whose_fault_it_is_can_be_asked_for(page: Any, report: str) -> None:
    opened(page, report)
    choose(page, fault="misread and misplanned")
    assert page.locator(".answer").count() > 0
    faults = page.evaluate("[...document.querySelectorAll('.answer')].map(a => a.dataset.fault)")
    assert set(faults) == {"both"}
    # Whatever is recited and not so is marked, in words or on the picture.
    assert page.locator(".answer .recital .wrong").count() >= len(faults)


def test_pages_turn_and_hold_every_level_once(page: Any, report: str) -> None:
    opened(page, report)
    ids = page.locator(".level-card code").all_inner_texts()
    assert page.locator("#previous").is_disabled()
    page.click("#next")
    until(page, "document.getElementById('page').value === '2'")
    ids += page.locator(".level-card code").all_inner_texts()
    assert len(ids) == len(set(ids)) == 24
    assert page.locator("#next").is_disabled()


def test_a_square_of_the_overview_leads_to_its_level(page: Any, report: str) -> None:
    opened(page, report)
    columns, side = page.evaluate(
        "(({columns, side}) => [+columns, +side])(document.getElementById('waffle').dataset)"
    )
    assert columns >= 24
    page.locator("#waffle").click(position={"x": 20 * side + 2, "y": 2})
    until(page, "document.getElementById('page').value === '2'")


LAKE = {
    "task": "frozenlake",
    "condition": "image",
    "level": 3,
    "state": {"map": ["SFF", "FHF", "FFG"]},
    "error": None,
    "finished": True,
}


def one_answer(folder: Path, response: str, verdict: dict[str, Any], **more: Any) -> str:
    """The page of a run with a single answer."""
    folder.joinpath("eval").mkdir()
    row = LAKE | {"id": "lake", "response": response, "outcome": verdict, "right": {}} | more
    (folder / "eval" / "base.image.jsonl").write_text(json.dumps(row) + "\n")
    return write_report(folder).as_uri()


def verdict(reason: str, num_executed: int) -> dict[str, Any]:
    success, legal = reason == "success", reason in ("success", "not_reached")
    return {
        "parsed": True,
        "illegal": not legal,
        "success": success,
        "optimal": success,
        "num_executed": num_executed,
        "reason": reason,
    }


def test_the_plan_is_drawn_step_by_step(page: Any, tmp_path: Path) -> None:
    opened(page, one_answer(tmp_path, "<answer>R R D D L</answer>", verdict("success", 4)))
    assert drawn(page) == ["M0.5 0.5L1.5 0.5L2.5 0.5L2.5 1.5L2.5 2.5"]
    slider = page.locator(".steps input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert drawn(page) == ["M0.5 0.5L1.5 0.5L2.5 0.5"]
    assert page.locator(".status").inner_text() == "step 2 of 4: right"
    assert page.locator(".moves .now").inner_text() == "→"
    page.keyboard.press("Home")
    assert drawn(page) == ["M0.5 0.5"]
    page.get_by_role("button", name="play the plan").click()
    until(page, "document.querySelector('.status').value === '4 steps'")
    assert drawn(page) == ["M0.5 0.5L1.5 0.5L2.5 0.5L2.5 1.5L2.5 2.5"]
    assert page.locator(".rest").inner_text() == "1 more actions were not executed"


def test_a_forbidden_move_ends_in_a_cross_where_it_happened(page: Any, tmp_path: Path) -> None:
    opened(page, one_answer(tmp_path, "<answer>R D R</answer>", verdict("hole", 2)))
    assert drawn(page) == ["M0.5 0.5L1.5 0.5L1.5 1.5"]
    assert drawn(page, "cross") == ["M1.35 1.35L1.65 1.65M1.35 1.65L1.65 1.35"]
    page.locator(".steps input[type=range]").press("ArrowLeft")
    assert drawn(page, "cross") == []


def test_a_move_into_a_wall_is_drawn_towards_the_wall(page: Any, tmp_path: Path) -> None:
    state = {"start": [0, 0], "target": [0, 1], "walls": [[13, 13], [6, 10]]}
    url = one_answer(tmp_path, "<answer>R</answer>", verdict("wall", 1), task="maze", level=2, state=state)
    opened(page, url)
    assert drawn(page, "route failed") == ["M0.5 0.5L0.92 0.5"]


def test_a_misread_state_stands_beside_the_true_one_with_its_wrong_cells_marked(
    page: Any, tmp_path: Path
) -> None:
    # The goal at (2,2) is read at (0,2), and the plan goes there.
    text = "Size: 3. Player: (0,0). Goal: (0,2). Holes: (1,1).\nRoute: x.\n<answer>R R</answer>"
    opened(page, one_answer(tmp_path, text, verdict("not_reached", 2)))
    assert page.locator(".pictures figcaption").all_inner_texts() == [
        "as it is",
        "as recited, the plan arrives",
    ]
    frames = [
        [
            (mark.get_attribute("x"), mark.get_attribute("y"))
            for mark in picture.locator(".misread rect").all()
        ]
        for picture in page.locator(".pictures .level").all()
    ]
    assert frames == [[("2.06", "0.06"), ("2.06", "2.06")]] * 2
    assert drawn(page) == ["M0.5 0.5L1.5 0.5L2.5 0.5"] * 2
    assert page.locator(".recital del").inner_text() == "(0,2)"
    assert page.locator(".recital ins").inner_text() == "(2,2)"
    assert "misread" in page.locator(".fault").inner_text()


def test_a_curve_can_be_read_with_the_pointer(page: Any, report: str) -> None:
    page.goto(report)
    chart = page.locator(".curve-card svg").first
    chart.scroll_into_view_if_needed()
    chart.hover()
    tip = page.locator("#tip").inner_text()
    # The picture's middle, 210 of 420, lies 164/362 of the way along a plot that spans steps 0 to 149.
    assert tip.startswith(("step 67", "step 68")) and "loss" in tip


def test_the_button_turns_light_to_dark_and_back(page: Any, report: str) -> None:
    page.goto(report)
    colours = []
    for _ in range(3):
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.click("#theme")
    assert colours[0] == colours[2] != colours[1]


def test_text_stands_out_from_its_ground(page: Any, report: str) -> None:
    opened(page, report)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        contrasts = page.evaluate(CONTRAST)
        assert min(contrasts.values()) >= 4.5, (scheme, contrasts)


def test_nothing_sticks_out_sideways(page: Any, report: str) -> None:
    opened(page, report)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for width in (1280, 768, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_prints(page: Any, report: str) -> None:
    opened(page, report)
    assert page.pdf(format="A4").startswith(b"%PDF")


HOSTILE = (
    "</pre></script><script>window.hurt=1</script><img src=//x.invalid/a onerror='window.hurt=1'>"
    "<svg onload='window.hurt=1'><style>*{display:none}</style><a href='javascript:window.hurt=1'>x</a>"
    "\u202etxet thgir\u2066\u200b\u0000{{7*7}}${7*7}"
)


def test_hostile_answers_run_nothing_and_are_shown_as_text(page: Any, tmp_path: Path) -> None:
    write_run(tmp_path, num_per_task=1)
    for path in (tmp_path / "eval").iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        changed = {
            "response": HOSTILE + "A" * 10**6 + HOSTILE,
            "messages": [{"role": HOSTILE, "content": HOSTILE}],
            "fields": {"Size": HOSTILE, "Player": HOSTILE},
            "error": HOSTILE if "text" in path.name else None,
            "difficulty": HOSTILE,
        }
        path.write_text("".join(json.dumps(row | changed) + "\n" for row in rows))
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"stage": HOSTILE, "step": 0, f"kl/{HOSTILE}": 1.0}) + "\n"
    )
    opened(page, write_report(tmp_path).as_uri())
    page.select_option("#f-condition", "")
    until(page, "document.querySelectorAll('.answer').length === 27")
    for summary in page.locator(".answer summary").all():
        summary.click()
    assert page.evaluate("window.hurt") is None
    assert page.locator("img, .answer a, .answer script, .answer style").count() == 0
    shown = page.locator(".answer pre.response").first.inner_text()
    assert "<script>window.hurt=1</script>" in shown and shown.endswith("{{7*7}}${7*7}")
    assert "⟨U+202E⟩txet thgir⟨U+2066⟩⟨U+200B⟩⟨U+0000⟩" in shown
    assert f"{10**6 + 2 * len(HOSTILE) - 4000:,} more characters are not shown" in shown
    text = page.evaluate("document.documentElement.textContent")
    assert not set("\u202e\u2066\u200b\u0000") & set(text)


def test_a_task_that_is_not_known_and_a_state_that_is_none_still_show_their_answers(
    page: Any, tmp_path: Path
) -> None:
    opened(page, one_answer(tmp_path, "hello", verdict("not_reached", 0), task="sokoban", id="s"))
    assert page.locator(".nopicture").inner_text() == "This state cannot be drawn."
    page.locator(".answer summary").click()
    assert page.locator(".answer pre.response").inner_text() == "hello"


def test_an_empty_run_has_a_page_too(page: Any, tmp_path: Path) -> None:
    page.goto(write_report(tmp_path).as_uri())
    assert page.locator("#missing li").count() == 4


SHADES = """() => [...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility()).map(e => [
    e.scrollWidth > e.clientWidth, getComputedStyle(e).backgroundAttachment])"""


FILMS = """() => [...document.querySelectorAll('.film')].map(film => {
    const frames = [...film.querySelectorAll('li')];
    return { first: frames.findIndex(f => f.classList.contains('first')),
        marked: frames.map(f => f.querySelectorAll('.mark').length > 0),
        drawn: frames.map(f => f.querySelectorAll('.plan .route').length > 0),
        widths: frames.map(f => { const level = f.querySelector('.level');
            return level ? getComputedStyle(level).outlineWidth : ''; }) };
})"""


def test_a_film_frames_the_first_mistake_thicker_and_draws_its_moves(page: Any, tmp_path: Path) -> None:
    write_step_run(tmp_path / "steps", num_per_level=4)
    opened(page, write_report(tmp_path / "steps").as_uri())
    films = page.evaluate(FILMS)
    assert len(films) == 2 * 12
    wrong = [film for film in films if film["first"] >= 0]
    assert wrong and any(sum(film["marked"]) > 1 for film in wrong)
    for film in films:
        marked = [number for number, is_marked in enumerate(film["marked"]) if is_marked]
        # A frame is marked before the first mistake only where nothing went wrong at all, and then none is.
        assert film["first"] == (marked[0] if marked else -1)
        for number, width in enumerate(film["widths"]):
            assert width == ("3px" if number == film["first"] else "1px" if number in marked else width)
    assert any(all(film["drawn"]) for film in films)
    fits(page)


def fits(page: Any) -> None:
    """Nothing sticks out sideways, on a screen or a phone."""
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for width in (1100, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_questions_are_read_above_their_answers_and_filtered_by_success(page: Any, tmp_path: Path) -> None:
    write_question_run(tmp_path / "asked", num_each=1)
    opened(page, write_report(tmp_path / "asked").as_uri())
    assert page.locator(".asked").count() == page.locator(".level-card").count() == 12
    assert page.locator("#gap svg").first.is_visible() and page.locator("#table table").first.is_visible()
    assert page.locator("#waffle-legend").inner_text().split("\n")[0].startswith("success")
    choose(page, verdict="any failure")
    assert {verdict for *_, verdict in shown_answers(page)} == {"failed"}
    fits(page)


def test_on_a_phone_tables_that_are_cut_lie_in_a_shade(page: Any, report: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    opened(page, report)
    found = page.evaluate(SHADES)
    assert any(is_cut for is_cut, _ in found)
    assert {attachment for _, attachment in found} == {"local, local, scroll, scroll, scroll"}
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # The right edge is darker than the middle, until the table has been moved to its end.
    table = page.locator("#pairs .scroll").first
    table.scroll_into_view_if_needed()
    assert edge_shade(table.screenshot()) > 20
    table.evaluate("e => { e.scrollLeft = e.scrollWidth }")
    assert edge_shade(table.screenshot()) < 5


def edge_shade(png: bytes) -> float:
    """How much darker the right edge of the picture is than its surface, in the lightest rows of its middle."""
    pixels = decode_png(png).astype(float).mean(axis=2)
    rows = pixels[40:-40]
    return float(rows.max() - rows[:, -6:-3].max())


def test_the_study_page_fits_a_phone_and_shades_what_it_cuts(page: Any, tmp_path: Path) -> None:
    shown = [variant(f"a variant with a long name {i}", 0.4, 0.6) for i in range(3)]
    table = StudyTable(
        title="T", head=["variant", *"abcdef"], rows=[["x" * 20, *["50.0 [40, 60]"] * 6]], note=""
    )
    html = render_study(name="s", what="W", facts=[], variants=shown, tables=[table], goal=None)
    (tmp_path / "study.html").write_text(html)
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto((tmp_path / "study.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert all(is_cut and "local" in attachment for is_cut, attachment in page.evaluate(SHADES))
