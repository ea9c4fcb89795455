"""A mission's environment as content: what everyone sees, and the privileged part apart from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pilotage.records import Observation, Privileged
from pilotage.worlds.drawing import encode_png
from pilotage.worlds.household import sight
from pilotage.worlds.household.expert import Step
from pilotage.worlds.household.labels import state_of

LAST = "Last actions: "
"""How an observation tells, in its last line, what was done since the one before."""


def observation_of(
    env: Any,
    view: tuple[str, ...],
    *,
    tile_px: int,
    log: Sequence[str] = (),
    privileged: Privileged | None = None,
) -> Observation:
    """Mission, last actions and picture; `view` are the rows of what is seen, `log` what was done."""
    return Observation(
        text=f"Mission: {env.mission}.\n{LAST}{', '.join(log) or 'none'}.",
        images=(picture(view, tile_px),),
        privileged=privileged,
    )


@lru_cache(maxsize=256)
def picture(view: tuple[str, ...], tile_px: int) -> bytes:
    """PNG bytes of what is seen. To write the file takes twenty times as long as to draw: a view often stays."""
    return encode_png(sight.draw(view, tile_px))


def privileged_of(env: Any, view: Sequence[str], coming: Sequence[Step], *, longest: int) -> Privileged:
    """State, words and the expert's plan; `coming` is what the expert does from here."""
    state = state_of(
        grid=_grid(env),
        agent=(*map(int, env.agent_pos), int(env.agent_dir)),
        view=view,
        coming=coming,
        longest=longest,
    )
    return Privileged(state=state, facts=sight.facts_of(view), plan=tuple(step.action for step in coming))


def view_of(env: Any) -> tuple[str, ...]:
    """The rows of what the agent sees."""
    return sight.rows_of(env.gen_obs()["image"])


def _grid(env: Any) -> list[str]:
    cells = [sight.EMPTY if cell is None else sight.code_of(cell.encode()) for cell in env.grid.grid]
    return ["".join(cells[place : place + env.width]) for place in range(0, len(cells), env.width)]
