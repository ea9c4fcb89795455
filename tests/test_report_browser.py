"""The page in a real browser: every part is visible, the filter filters, nothing is logged or fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilotage.report import write_report
from synthetic_run import write_run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    write_run(folder, num_per_task=8)
    return write_report(folder).as_uri()


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


def visible_answers(page: Any) -> list[tuple[str, str, str]]:
    """(task, stage, verdict) of every answer that can be seen."""
    script = """() => [...document.querySelectorAll('.answer')].filter(a => a.checkVisibility())
        .map(a => [a.closest('.level-card').dataset.task, a.dataset.stage, a.dataset.verdict])"""
    return [tuple(answer) for answer in page.evaluate(script)]


def test_every_part_is_visible(page: Any, report: str) -> None:
    page.goto(report)
    for part in (
        "#tiles",
        "#gap svg",
        "#diagnostic svg",
        "#curves svg",
        "#table table",
        ".level-card .level",
    ):
        assert page.locator(part).first.is_visible(), part
    assert page.locator(".level-card:not([hidden])").count() == 12
    # The pictures behind the plans are there: drawn once, used by every stage.
    box = page.locator(".level use").first.bounding_box()
    assert box["width"] > 100 and box["height"] > 100


def test_the_filter_leaves_what_was_asked_for(page: Any, report: str) -> None:
    page.goto(report)
    before = visible_answers(page)
    assert {task for task, *_ in before} == {"frozenlake", "maze", "minibehaviour"}
    page.select_option("#f-task", "maze")
    assert {task for task, *_ in visible_answers(page)} == {"maze"}
    page.select_option("#f-stage", "stage2")
    assert {(task, stage) for task, stage, _ in visible_answers(page)} == {("maze", "stage2")}
    page.select_option("#f-verdict", "optimal")
    found = visible_answers(page)
    assert found and set(found) == {("maze", "stage2", "optimal")}
    assert f"{len(found)} of {len(found)} levels" in page.locator("#f-count").inner_text()
    page.select_option("#f-verdict", "error")
    assert visible_answers(page) == []
    assert page.locator("#f-count").inner_text() == "nothing like that here"
    for select in ("#f-task", "#f-stage", "#f-verdict"):
        page.select_option(select, "")
    assert visible_answers(page) == before


def test_more_levels_come_on_demand(page: Any, report: str) -> None:
    page.goto(report)
    page.click("#more")
    assert page.locator(".level-card:not([hidden])").count() == 24
    assert page.locator("#more").is_hidden()


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
    page.goto(report)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        contrasts = page.evaluate(CONTRAST)
        assert min(contrasts.values()) >= 4.5, (scheme, contrasts)


CONTRAST = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const found = {};
  for (const s of ['.headline', '.facts dt', '.lead', 'figcaption small', '.ci', '.badge.v-optimal', '.badge.v-illegal',
      '.badge.v-not_reached', '.badge.v-unparsed', '.recital del', '.recital ins', 'summary', 'footer']) {
    const e = document.querySelector(s);
    if (!e) continue;
    const ink = light(parse(getComputedStyle(e).color));
    const [a, b] = [ink, light(ground(e))].sort((x, y) => y - x);
    found[s] = (a + 0.05) / (b + 0.05);
  }
  return found;
}"""


def test_nothing_sticks_out_sideways(page: Any, report: str) -> None:
    page.goto(report)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for width in (1280, 768, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_prints(page: Any, report: str) -> None:
    page.goto(report)
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_hostile_answers_run_nothing(page: Any, tmp_path: Path) -> None:
    write_run(tmp_path, num_per_task=1)
    hostile = (
        "</pre></script><script>window.hurt=1</script><img src=//x.invalid/a onerror='window.hurt=1'>\u202e"
    )
    for path in (tmp_path / "eval").iterdir():
        rows = [
            json.loads(line) | {"response": hostile + "A" * 10**6} for line in path.read_text().splitlines()
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"stage": hostile, "step": 0, f"kl/{hostile}": 1.0}) + "\n"
    )
    page.goto(write_report(tmp_path).as_uri())
    assert page.evaluate("window.hurt") is None
    assert page.locator("img").count() == 0
    page.locator(".answer summary").first.click()
    assert "<script>window.hurt=1</script>" in page.locator(".answer pre").first.inner_text()


def test_an_empty_run_has_a_page_too(page: Any, tmp_path: Path) -> None:
    page.goto(write_report(tmp_path).as_uri())
    assert page.locator("#missing li").count() == 4
