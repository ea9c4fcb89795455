"""FrozenLake against Gymnasium's `FrozenLake-v1` without slipping: the rules' origin is the oracle."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from pilotage.worlds import get_task

NUM_MAPS = 500
PLANS_PER_MAP = 20
ACTION = {"L": 0, "D": 1, "R": 2, "U": 3}
TASK: Any = get_task("frozenlake")


def random_plan(rng: np.random.Generator, state: Any) -> list[str]:
    """Noise, often after a part of the reference plan, so that success is as frequent as failure."""
    plan = list(TASK.solve(state).plan)
    noise = [TASK.actions[i] for i in rng.integers(4, size=int(rng.integers(0, 24)))]
    return plan[: int(rng.integers(len(plan) + 1))] + noise


def make_env(state: Any) -> Any:
    return gymnasium.make("FrozenLake-v1", desc=TASK.to_json(state)["map"], is_slippery=False)


def ending(state: Any, cell: int, terminated: bool, reward: float) -> str:
    if not terminated:
        return "not_reached"
    assert (divmod(cell, state.level) == state.goal) == (reward == 1)
    return "success" if reward == 1 else "hole"


def walk_table(table: Any, cell: int, plan: list[str]) -> tuple[int, bool, float, int]:
    """Follows Gymnasium's own transition table, as its `step` does."""
    for executed, action in enumerate(plan, start=1):
        [(probability, cell, reward, terminated)] = table[cell][ACTION[action]]
        assert probability == 1.0
        if terminated:
            return cell, True, reward, executed
    return cell, False, 0.0, len(plan)


def walk_env(env: Any, plan: list[str]) -> tuple[int, bool, float, int]:
    cell, _ = env.reset(seed=0)
    for executed, action in enumerate(plan, start=1):
        cell, reward, terminated, _, _ = env.step(ACTION[action])
        if terminated:
            return int(cell), True, float(reward), executed
    return int(cell), False, 0.0, len(plan)


def test_ten_thousand_plans_end_as_in_gymnasium() -> None:
    rng = np.random.default_rng(20_260)
    endings = {"success": 0, "hole": 0, "not_reached": 0}
    for number in range(NUM_MAPS):
        state = TASK.generate(3 + number % 6, rng)
        env = make_env(state)
        start = state.player[0] * state.level + state.player[1]
        for repeat in range(PLANS_PER_MAP):
            plan = random_plan(rng, state)
            cell, terminated, reward, executed = walk_table(env.unwrapped.P, start, plan)
            if repeat < 2:
                assert walk_env(env, plan) == (cell, terminated, reward, executed)
            expected = ending(state, cell, terminated, reward)
            outcome = TASK.execute(state, plan)
            assert (outcome.reason, outcome.num_executed) == (expected, executed)
            assert outcome.success == (expected == "success")
            assert outcome.legal == (expected != "hole")
            assert TASK.trace(state, plan)[-1] == divmod(cell, state.level)
            endings[expected] += 1
    assert sum(endings.values()) == 10_000
    assert min(endings.values()) > 1000, f"the plans are too alike: {endings}"
