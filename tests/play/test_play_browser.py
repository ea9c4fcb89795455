"""The page for planning by hand in a real browser: keys, verdicts step by step, one's own map, a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pages import CONTRAST, drawn, until
from pilotage.play import PlayServer
from pilotage.play.game import ask_model
from scripted import Scripted

HOSTILE = "</script><script>window.hurt=1</script><img src=//x.invalid/a onerror='window.hurt=1'>\u202e"
MISREAD = "Size: 3. Player: (0,0). Goal: (0,2). Holes: (1,1).\n<answer>R R</answer>"


@pytest.fixture(scope="module")
def server() -> Iterator[PlayServer]:
    with PlayServer(port=0, answerer=Scripted()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def page(chromium: Any, server: PlayServer) -> Iterator[Any]:
    """The page, opened; nothing may be logged and nothing may leave for another place."""
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    noise: list[str] = []
    page.on("console", lambda message: noise.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: noise.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith((server.url, "data:")) else noise.append(request.url),
    )
    page.on("dialog", lambda dialog: (noise.append("dialog"), dialog.dismiss()))
    page.goto(server.url)
    wait(page, 1)
    yield page
    page.close()
    # A refused question is logged by the browser itself.
    assert [line for line in noise if "status of 400" not in line] == []


def wait(page: Any, count: int | None = None) -> None:
    """Until the page has done `count` things, or the one that was just begun."""
    ready = "Number(document.documentElement.dataset.ready || 0)"
    wanted = page.evaluate(ready) + 1 if count is None else count
    until(page, f"{ready} >= {wanted}")


def done(page: Any, do: Any) -> None:
    before = page.evaluate("Number(document.documentElement.dataset.ready || 0)")
    do()
    wait(page, before + 1)


def paste(page: Any, text: str) -> None:
    page.fill("#map", text)
    done(page, lambda: page.click("#own button"))


def badge(page: Any) -> str:
    return page.locator(".result.mine .badge").inner_text()


def test_a_level_is_planned_and_judged_with_keys_alone(page: Any) -> None:
    paste(page, "SFF\nFHF\nFFG")
    page.evaluate("document.activeElement.blur()")
    for key in ("ArrowRight", "ArrowDown", "Backspace", "ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    assert page.input_value("#plan") == "R R D D"
    done(page, lambda: page.keyboard.press("Enter"))
    assert "optimal" in badge(page)
    until(page, "document.querySelector('.status').value === '4 steps'")
    assert drawn(page) == ["M0.5 0.5L1.5 0.5L2.5 0.5L2.5 1.5L2.5 2.5"]
    page.locator(".mine input[type=range]").press("ArrowLeft")
    assert drawn(page) == ["M0.5 0.5L1.5 0.5L2.5 0.5L2.5 1.5"]
    assert page.locator("#tally tr").inner_text().split() == ["You", "1", "1", "1"]
    done(page, lambda: page.keyboard.press("n"))
    assert page.input_value("#plan") == "" and page.locator(".result").count() == 0


def test_a_failed_plan_shows_where_and_a_best_plan_on_demand(page: Any) -> None:
    paste(page, "SFF\nFHF\nFFG")
    page.fill("#plan", "right down right")
    done(page, lambda: page.press("#plan", "Enter"))
    assert "illegal move: hole" in badge(page)
    until(page, "document.querySelectorAll(\".plan path[class='cross']\").length === 1")
    assert drawn(page) == ["M0.5 0.5L1.5 0.5L1.5 1.5"]
    page.get_by_role("button", name="Show a best plan, 4 steps").click()
    until(page, "document.querySelector('.status').value === '4 steps'")
    assert drawn(page) == ["M0.5 0.5L0.5 1.5L0.5 2.5L1.5 2.5L2.5 2.5"]


def test_other_actions_have_keys_and_buttons(page: Any) -> None:
    done(page, lambda: page.select_option("#task", "minibehaviour"))
    assert page.locator("#title").inner_text() == "MiniBehaviour"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("1")
    page.get_by_role("button", name="drop").click()
    assert page.input_value("#plan") == "PICK DROP"
    page.get_by_role("button", name="take the last action back").click()
    assert page.input_value("#plan") == "PICK"


def test_ones_own_maze_can_be_pasted_and_a_bad_one_is_explained(page: Any) -> None:
    done(page, lambda: page.select_option("#task", "maze"))
    paste(page, "#####\n#S G#\n# # #\n#   #\n#####")
    assert "2×2" in page.locator("#about").inner_text()
    # Open sides of the four cells, in row-major order.
    words = page.locator("#words dd").all_text_contents()
    assert words == ["2", "(0,0)", "(0,1)", "(0,0) DR (0,1) LD (1,0) RU (1,1) LU"]
    paste(page, "#####\n#S X#")
    assert page.locator("#problem").is_visible() and page.locator("#problem").inner_text()
    # The level that was there stays.
    assert "2×2" in page.locator("#about").inner_text()


def test_the_same_seed_shows_the_same_level(page: Any) -> None:
    page.fill("#seed", "12345")
    done(page, lambda: page.locator("#seed").blur())
    first = page.locator("#about").inner_text()
    done(page, lambda: page.click("#new"))
    assert page.locator("#about").inner_text() != first
    page.fill("#seed", "12345")
    done(page, lambda: page.locator("#seed").blur())
    assert page.locator("#about").inner_text() == first


def test_a_model_is_asked_and_its_misreading_is_shown(page: Any, server: PlayServer) -> None:
    paste(page, "SFF\nFHF\nFFG")
    answerer = Scripted(MISREAD)
    original = server.endpoints["/api/model"]
    server.endpoints["/api/model"] = lambda request: ask_model(request, answerer)
    try:
        done(page, lambda: page.click("#ask button"))
        assert page.locator(".pictures figcaption").all_inner_texts() == [
            "as it is",
            "as recited, the plan arrives",
        ]
        assert page.locator(".recital del").inner_text() == "(0,2)"
        answerer.text = HOSTILE + "A" * 10**6
        done(page, lambda: page.click("#ask button"))
        page.locator(".result summary").last.click()
        assert "<script>window.hurt=1</script>" in page.locator("pre.response").last.inner_text()
        assert "more characters are not shown" in page.locator("pre.response").last.inner_text()
    finally:
        server.endpoints["/api/model"] = original
    assert page.evaluate("window.hurt") is None
    assert page.locator("main img").count() == 0
    assert "\u202e" not in page.evaluate("document.documentElement.textContent")


def test_text_stands_out_and_nothing_sticks_out(page: Any) -> None:
    paste(page, "SFF\nFHF\nFFG")
    page.fill("#plan", "R D")
    done(page, lambda: page.press("#plan", "Enter"))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        contrasts = page.evaluate(CONTRAST)
        assert contrasts and min(contrasts.values()) >= 4.5, (scheme, contrasts)
    for width in (1280, 768, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(page: Any) -> None:
    nameless = page.evaluate("""() => [...document.querySelectorAll('input, select, textarea, button')].filter((e) =>
        !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)""")
    assert nameless == []
