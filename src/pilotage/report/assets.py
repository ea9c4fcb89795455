"""Templates, scripts and styles of the pages that this package writes, and how a page is put together."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from pilotage.report.text import figure, p_value, percent, points, signed_tenths, tenths


@lru_cache(maxsize=32)
def asset(name: str, package: str = "pilotage.report") -> str:
    """A file of the package's `templates`."""
    return (files(package) / "templates" / name).read_text(encoding="utf-8")


def script(*names: str) -> tuple[Markup, str]:
    """The named scripts (`package:file`, or a file of this package) as one, and its hash for the page's policy."""
    text = "\n".join(asset(*reversed(name.split(":"))) for name in names)
    return Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def embedded_json(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@lru_cache(maxsize=4)
def environment(package: str = "pilotage.report") -> jinja2.Environment:
    """Everything that a template fills in is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: asset(name, package)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        figure=figure,
        percent=percent,
        points=points,
        p_value=p_value,
        tenths=tenths,
        signed_tenths=signed_tenths,
    )
    return made
