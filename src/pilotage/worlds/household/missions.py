"""BabyAI's mission families in Minigrid: made silently, by family and seed (extra `household`).

minigrid and gymnasium are imported when a mission is made, so that worlds are listed without them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pilotage.errors import PilotageError, meant, require

FAMILIES = (
    "GoToLocal",
    "PickupLoc",
    "OpenDoorsOrderN2",
    "PutNextLocal",
    "UnlockPickup",
    "GoTo",
    "Synth",
    "BossLevel",
)
"""Those that are measured; every other registered one may be named as well."""
ACTIONS = ("LEFT", "RIGHT", "FORWARD", "PICKUP", "DROP", "TOGGLE")
"""In the order of Minigrid's own numbers. Its seventh, which ends nothing, is left out."""
MAX_SEED = 2**31


def make_mission(family: str, seed: int) -> Any:
    """The environment of a family, begun: a function of both. Raises PilotageError for an unknown family."""
    env = _makers()[family_named(family)]()
    env.reset(seed=seed)
    return env


def family_named(name: str) -> str:
    """The family of a name or a registered id (`BabyAI-GoToLocal-v0`). Raises PilotageError for any other."""
    known = _makers()
    short = _short(name)
    if short not in known:
        raise PilotageError(
            f"babyai has no mission family {str(name)[:60]!r}; there are {', '.join(FAMILIES)} and "
            f"{len(known) - len(FAMILIES)} more of BabyAI's{meant(short, known)}"
        )
    return short


def layout_hash(env: Any) -> str:
    """The identity, in hex, of a mission's rooms and things at its start, wherever the agent stands and whatever it is
    told to do: what no episode can change."""
    cells = env.grid.encode()
    return hashlib.sha256(repr(cells.shape).encode() + cells.tobytes()).hexdigest()[:32]


def goals_met(env: Any) -> tuple[int, int]:
    """(parts of the mission that are met, parts): of `go to a and open b` there are two."""
    return _met(env.instrs)


def _met(instr: Any, *, whole: bool = False) -> tuple[int, int]:
    parts = [getattr(instr, name) for name in ("instr_a", "instr_b") if hasattr(instr, name)]
    if not parts:
        return int(whole), 1
    met, num = 0, 0
    for part, flag in zip(parts, ("a_done", "b_done"), strict=True):
        done, all_ = _met(part, whole=whole or getattr(instr, flag, False) == "success")
        met, num = met + done, num + all_
    return met, num


@cache
def _makers() -> Mapping[str, Any]:
    """Family -> what makes its environment."""
    require("minigrid", "gymnasium")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import minigrid  # noqa: F401 - registers its environments
    from gymnasium.envs.registration import load_env_creator, registry
    from minigrid.envs.babyai.core import roomgrid_level

    # It prints each mission that it draws again. A name of the module hides the builtin from it and from nobody else.
    roomgrid_level.print = _say_nothing  # pyright: ignore[reportAttributeAccessIssue]

    def maker(spec: Any) -> Any:
        # Without gymnasium's wrappers, which check each step and take longer than the step.
        create, kwargs = load_env_creator(spec.entry_point), dict(spec.kwargs)
        return lambda: create(**kwargs)

    return {_short(spec.id): maker(spec) for spec in _registered(registry)}


def _registered(registry: Mapping[str, Any]) -> Iterator[Any]:
    return (spec for name, spec in registry.items() if name.startswith("BabyAI-"))


def _short(name: object) -> str:
    return str(name).removeprefix("BabyAI-").rpartition("-v")[0] or str(name).removeprefix("BabyAI-")


def _say_nothing(*_: object, **__: object) -> None:
    pass
