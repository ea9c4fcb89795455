"""What the tests of pages in a browser share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

CHROMIUM = Path(os.environ.get("PILOTAGE_CHROMIUM", "/usr/bin/chromium"))
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

CONTRAST = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const found = {};
  for (const s of ['.headline', '.facts dt', '.lead', 'figcaption small', '.ci', '.badge.v-optimal', '.badge.v-illegal',
      '.badge.v-not_reached', '.badge.v-unparsed', '.recital del', '.recital ins', 'summary', 'footer', '.fault',
      '.status', '.moves .now', '.moves li', '.pairs-table .meaning', '.filters label', '#f-count']) {
    const e = document.querySelector(s);
    if (!e) continue;
    const ink = light(parse(getComputedStyle(e).color));
    const [a, b] = [ink, light(ground(e))].sort((x, y) => y - x);
    found[s] = (a + 0.05) / (b + 0.05);
  }
  return found;
}"""
"""Each kind of text's contrast with its ground, as WCAG counts it: selector -> ratio."""


def until(page: Any, script: str) -> None:
    """Waits until `script` is true. Playwright's own waiting needs `eval`, which the page's policy forbids."""
    for _ in range(300):
        if page.evaluate(script):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"never became true: {script}")


def drawn(page: Any, which: str = "route") -> list[str | None]:
    return [path.get_attribute("d") for path in page.locator(f".plan path[class='{which}']").all()]
