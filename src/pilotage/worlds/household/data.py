"""Examples of BabyAI's missions: a family and a seed.

The split of a seed and that of the layout that it makes must agree, so that neither a seed nor a layout (the rooms and
things at the start, whatever the mission) is ever on two sides, of whatever family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pilotage.data.options import refuse_unknown
from pilotage.errors import ImpossibleRequestError, PilotageError
from pilotage.records import SPLITS, Example, Split
from pilotage.worlds.household.babyai import OPTIONS, BabyAI, checked_options
from pilotage.worlds.household.expert import Expert
from pilotage.worlds.household.missions import FAMILIES, MAX_SEED, family_named, layout_hash, make_mission
from pilotage.worlds.household.observing import observation_of, privileged_of, view_of
from pilotage.worlds.split import ID_DIGITS, split_of

KNOWN_OPTIONS = ("family", *OPTIONS)
PATIENCE = 2_000
"""Seeds of a split, one after the other, without a new example, after which there is taken to be none."""


def examples(
    world: str,
    levels: Sequence[int],
    count: int,
    split: Split,
    seed: int,
    *,
    cell_px: int,
    options: Mapping[str, Any],
) -> list[Example]:
    """`count` examples in all, spread evenly over the families: `family=GoToLocal,PickupLoc`, by default the first.

    A function of the arguments; more of them begin with the same ones. `all` are the eight that are measured.
    """
    refuse_unknown(world, options, KNOWN_OPTIONS)
    if split not in SPLITS:
        raise PilotageError(f"split {split!r} must be one of {', '.join(SPLITS)}")
    shape = {"tile_px": cell_px, **options}
    named = str(shape.pop("family", FAMILIES[0]))
    families = list(dict.fromkeys(map(family_named, FAMILIES if named == "all" else named.split(","))))
    shares = [len(range(place, count, len(families))) for place in range(len(families))]
    found = []
    for family, share in zip(families, shares, strict=True):
        drawn = drawn_examples(family, split, seed, **shape)
        found += [next(drawn) for _ in range(share)]
    return found


def drawn_examples(family: str, split: Split, seed: int, **shape: int) -> Iterator[Example]:
    """Examples of a family, each once. Raises ImpossibleRequestError where there are no more."""
    rng = np.random.default_rng([seed & (2**64 - 1), *family.encode()])
    seen: set[str] = set()
    num_tries = 0
    while num_tries < PATIENCE:
        number = int(rng.integers(MAX_SEED))
        if split_of(hashlib.sha256(f"babyai seed:{number}".encode()).hexdigest()) != split:
            continue
        num_tries += 1
        made = mission_example(family, number, split=split, **shape)
        if made is not None and made.id not in seen:
            seen.add(made.id)
            num_tries = 0
            yield made
    raise ImpossibleRequestError(
        f"babyai: {family} gives {len(seen)} examples of split {split} and no more in {PATIENCE} seeds; its bot may "
        "not solve this family, or ask for fewer"
    )


def mission_example(family: str, seed: int, *, split: Split | None = None, **shape: int) -> Example | None:
    """The example of a seed. None for a layout of another split, and for a mission that the expert cannot solve."""
    env = make_mission(family, seed)
    layout = layout_hash(env)
    if split is not None and split_of(layout) != split:
        return None
    data = {"family": family, "layout": layout, **shape}
    id_ = f"babyai-{family}-{layout[:ID_DIGITS]}-{seed}"
    options = checked_options(id_, data)
    view, coming = view_of(env), Expert(env).coming()
    if not coming:
        return None
    told = privileged_of(env, view, coming, longest=options["longest"])
    return Example(
        id=id_,
        world=BabyAI.name,
        split=split_of(layout),
        axes={"task": family},
        start=observation_of(env, view, tile_px=options["tile_px"], privileged=told),
        data=data,
        hidden={"seed": seed},
    )
