"""States on the way of a world that is played move by move."""

from __future__ import annotations

from pilotage.records import Example
from pilotage.worlds import get_world
from pilotage.worlds.grids.data.steps import make_step_example


def along(example: Example) -> list[Example]:
    """One example for each state of the expert's episode, the start first and the goal not among them."""
    task = get_world(example.world).task
    state = task.parse_state(example.state)
    options = {name: value for name, value in example.data.items() if name not in ("map", "starts")}
    found = []
    for action in example.plan:
        found.append(make_step_example(example.world, state, map_=str(example.data["map"]), **options))
        state, _ = task.after(state, action)
    return found
