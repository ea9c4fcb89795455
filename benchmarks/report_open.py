"""How fast the page of 10,000 rows opens: in headless Chromium, beside a page with one picture and one text a row.

`python benchmarks/report_open.py [NUM_ROWS]` writes a run with that many image answers (planted faults, levels of
all tasks up to 8 x 8), its page, and a plain page of the same rows; opens each five times in a fresh tab from the
disk, with an empty cache; and prints medians. `first levels` is the time from the start of the navigation until the
first levels are drawn with their plans, `filter` the time of one change of a filter until its levels are drawn.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from pages import CHROMIUM, CHROMIUM_ARGS  # pyright: ignore[reportMissingImports]
from pilotage.report import write_report
from pilotage.report.gallery import parse_row
from pilotage.worlds.capabilities import need
from pilotage.worlds.drawing import render_png
from pilotage.worlds.task import DrawsTiles
from synthetic_run import write_many_rows  # pyright: ignore[reportMissingImports]

NUM_OPENINGS = 5


def main(num_rows: int) -> None:
    if not CHROMIUM.exists():
        print(
            f"no Chromium at {CHROMIUM}: nothing measured (apt-get install chromium, or set PILOTAGE_CHROMIUM)"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        path = write_many_rows(run, num_rows)
        began_s = time.perf_counter()
        page = write_report(run)
        written_s = time.perf_counter() - began_s
        plain = run / "plain.html"
        plain.write_text(plain_page([json.loads(line) for line in path.read_text().splitlines()]))
        print(
            f"{num_rows:,} rows, {path.stat().st_size / 1e6:.1f} MB of JSON lines; page made in {written_s:.1f} s"
        )
        ours = open_pages(page, "document.documentElement.dataset.ready === '1'")
        theirs = open_pages(plain, "document.readyState === 'complete'")
        print(f"{'page':<22}{'size, MB':>10}{'first levels, s':>17}{'slowest, s':>12}{'filter, s':>11}")
        for name, file, times in (("this page", page, ours), ("a picture a row", plain, theirs)):
            filtered = f"{statistics.median(times['filter']):.2f}" if times["filter"] else "none"
            size = file.stat().st_size / 1e6
            opened = times["open"]
            print(
                f"{name:<22}{size:>10.1f}{statistics.median(opened):>17.2f}{max(opened):>12.2f}{filtered:>11}"
            )
        ratio = statistics.median(theirs["open"]) / statistics.median(ours["open"])
        print(f"a picture a row takes {ratio:.1f} times as long")


def plain_page(rows: list[dict[str, Any]]) -> str:
    """What comes to mind first: every row in the document, each with its own picture."""
    parts = []
    for row in rows:
        task, state = parse_row(row)
        assert task is not None
        png = base64.b64encode(render_png(need(task, DrawsTiles), state, cell_px=40)).decode("ascii")
        text = html.escape(row["response"])
        parts.append(
            f'<article><h3>{row["id"]}</h3><img src="data:image/png;base64,{png}"><pre>{text}</pre></article>'
        )
    return "<!doctype html><meta charset=utf-8><title>plain</title>" + "".join(parts)


def open_pages(file: Path, ready: str) -> dict[str, list[float]]:
    """Seconds of every opening, and of a change of the filter where there is one."""
    from playwright.sync_api import sync_playwright

    times: dict[str, list[float]] = {"open": [], "filter": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        for _ in range(NUM_OPENINGS):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(file.as_uri(), wait_until="commit")
            # Two frames after it is ready, so that what is drawn is on the screen.
            script = (
                f"async () => {{ while (!({ready})) await new Promise((r) => setTimeout(r, 5));"
                " await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));"
                " return performance.now() / 1000; }"
            )
            times["open"].append(page.evaluate(script))
            if page.locator("#f-verdict").count():
                times["filter"].append(page.evaluate(FILTER))
            page.context.close()
        browser.close()
    return times


FILTER = """async () => {
  const cards = document.getElementById("cards"), before = cards.dataset.ready, began = performance.now();
  const select = document.getElementById("f-verdict");
  select.value = "bad";
  select.dispatchEvent(new Event("input", { bubbles: true }));
  while (cards.dataset.ready === before) await new Promise((r) => setTimeout(r, 2));
  await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
  return (performance.now() - began) / 1000;
}"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("num_rows", nargs="?", type=int, default=10_000, metavar="NUM_ROWS")
    main(parser.parse_args().num_rows)
