"""Files that survive being killed: the old content or the new, never half of either."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""Ending of what is not whole yet."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces `path`, text as UTF-8; its folder must exist."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    os.replace(partial, path)


def write_json(path: Path, data: Any) -> None:
    """Replaces `path` with indented JSON, whose keys stay in their order."""
    write_whole(path, json.dumps(data, indent=1) + "\n")
