"""Each world against a second implementation of its rules, written from their description alone.

The simulators below read JSON forms, share no code with the package and know nothing of its solvers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.errors import BadStateError, ImpossibleRequestError, PilotageError
from pilotage.worlds import get_task
from pilotage.worlds.grid import MAX_LEVEL
from pilotage.worlds.grids.frozenlake import FrozenLake
from pilotage.worlds.task import difficulty_by_length, state_text

Json = dict[str, Any]
Step = Callable[[Json, Any, str], tuple[Any, str]]
STEPS = {"L": (0, -1), "D": (1, 0), "R": (0, 1), "U": (-1, 0)}
seeds = st.integers(0, 2**32 - 1)


def lake_start(data: Json) -> Any:
    return next((r, row.index("S")) for r, row in enumerate(data["map"]) if "S" in row)


def lake_step(data: Json, where: Any, action: str) -> tuple[Any, str]:
    last = len(data["map"]) - 1
    r = min(max(where[0] + STEPS[action][0], 0), last)
    c = min(max(where[1] + STEPS[action][1], 0), last)
    return (r, c), {"H": "hole", "G": "success"}.get(data["map"][r][c], "")


def maze_start(data: Json) -> Any:
    return tuple(data["start"])


def maze_step(data: Json, where: Any, action: str) -> tuple[Any, str]:
    r, c = where
    bit = {"U": 0, "D": 1, "L": 2, "R": 3}[action]
    if data["walls"][r][c] >> bit & 1:
        return where, "wall"
    there = (r + STEPS[action][0], c + STEPS[action][1])
    return there, "success" if list(there) == data["target"] else ""


def room_start(data: Json) -> Any:
    return (*data["agent"], False)


def room_step(data: Json, where: Any, action: str) -> tuple[Any, str]:
    r, c, carries = where
    around = [[r + dr, c + dc] for dr, dc in STEPS.values()]
    if action == "PICK":
        return ((r, c, True), "") if not carries and data["printer"] in around else (where, "bad_pick")
    if action == "DROP":
        return where, "success" if carries and any(cell in around for cell in data["table"]) else "bad_drop"
    there = [r + STEPS[action][0], c + STEPS[action][1]]
    if not all(0 <= x < data["level"] for x in there):
        return where, "off_board"
    if there in data["table"] or (there == data["printer"] and not carries):
        return where, "object"
    return (*there, carries), ""


SIMULATORS: dict[str, tuple[Callable[[Json], Any], Step]] = {
    "frozenlake": (lake_start, lake_step),
    "maze": (maze_start, maze_step),
    "minibehaviour": (room_start, room_step),
}
every_world = pytest.mark.parametrize("name", SIMULATORS)


def run_plan(name: str, data: Json, plan: list[str]) -> tuple[str, int]:
    start, step = SIMULATORS[name]
    where = start(data)
    for executed, action in enumerate(plan, start=1):
        where, reason = step(data, where, action)
        if reason:
            return reason, executed
    return "not_reached", len(plan)


def count_shortest(name: str, data: Json) -> tuple[int, int]:
    """Length and number of shortest plans by breadth-first search over the simulator; (0, 0) without any."""
    start, step = SIMULATORS[name]
    layer, seen, length = {start(data): 1}, {start(data)}, 0
    while layer:
        length += 1
        following: dict[Any, int] = {}
        successes = 0
        for where, ways in layer.items():
            for action in get_task(name).actions:
                there, reason = step(data, where, action)
                if reason == "success":
                    successes += ways
                elif not reason and there not in seen:
                    following[there] = following.get(there, 0) + ways
        if successes:
            return length, successes
        seen |= set(following)
        layer = following
    return 0, 0


@every_world
@given(seed=seeds, level=st.integers(3, 12))
@settings(max_examples=150)
def test_reference_plans_are_optimal_and_counted_at_every_level(name: str, seed: int, level: int) -> None:
    task = get_task(name)
    state = task.generate(level, np.random.default_rng(seed))
    solution = task.solve(state)
    assert solution is not None
    assert (len(solution.plan), solution.num_optimal) == count_shortest(name, task.to_json(state))


@every_world
@given(seed=seeds)
@settings(max_examples=150)
def test_random_plans_end_as_the_second_implementation_says(name: str, seed: int) -> None:
    task, rng = get_task(name), np.random.default_rng(seed)
    state = task.generate(int(rng.integers(3, 9)), rng)
    data = task.to_json(state)
    solution = task.solve(state)
    assert solution is not None
    for _ in range(20):
        noise = [task.actions[i] for i in rng.integers(len(task.actions), size=25)]
        plan = [*solution.plan[: rng.integers(len(solution.plan) + 1)], *noise]
        outcome = task.execute(state, plan)
        assert (outcome.reason, outcome.num_executed) == run_plan(name, data, plan)


def every_lake(level: int) -> Iterator[Json]:
    for letters in product("FH", repeat=level * level - 2):
        for player, goal in permutations(range(level * level), 2):
            rest = iter(letters)
            cells = ["S" if i == player else "G" if i == goal else next(rest) for i in range(level * level)]
            yield {"map": ["".join(cells[r * level : (r + 1) * level]) for r in range(level)]}


def test_every_solvable_lake_of_level_2_and_3_is_listed() -> None:
    task = get_task("frozenlake")
    for level in (2, 3):
        solvable = {str(data) for data in every_lake(level) if count_shortest("frozenlake", data)[0]}
        assert {str(task.to_json(state)) for state in task.enumerate_states(level)} == solvable
        assert task.num_states(level) == len(solvable)
    assert task.num_states(2) == 44  # 8 touching pairs x 4 fillings, 4 diagonal pairs x 3
    assert task.num_states(4) is None


def test_a_grid_has_as_many_mazes_as_the_matrix_tree_theorem_says() -> None:
    for level in (2, 3):
        n = level * level
        laplacian = np.zeros((n, n))
        cells = list(product(range(level), repeat=2))
        for (i, a), (j, b) in combinations(enumerate(cells), 2):
            if abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1:
                laplacian[[i, j], [j, i]] = -1
                laplacian[[i, j], [i, j]] += 1
        num_trees = round(np.linalg.det(laplacian[1:, 1:]))
        assert get_task("maze").num_states(level) == num_trees * n * (n - 1)
    assert get_task("maze").num_states(3) == 192 * 72
    assert get_task("maze").num_states(4) is None


@given(seed=seeds, level=st.integers(2, 20))
@settings(max_examples=60)
def test_generated_mazes_are_spanning_trees(seed: int, level: int) -> None:
    task = get_task("maze")
    data = task.to_json(task.generate(level, np.random.default_rng(seed)))
    passages = sum(bin(15 & ~mask).count("1") for row in data["walls"] for mask in row) / 2
    assert passages == level**2 - 1
    reached, frontier = {maze_start(data)}, [maze_start(data)]
    while frontier:
        where = frontier.pop()
        for action in STEPS:
            there, reason = maze_step(data, where, action)
            if reason != "wall" and there not in reached:
                reached.add(there)
                frontier.append(there)
    assert len(reached) == level**2


def every_room(level: int) -> Iterator[Json]:
    cells = [list(cell) for cell in product(range(level), repeat=2)]
    for r, c in product(range(level - 1), range(level - 2)):
        table = [[r + i, c + j] for i in range(2) for j in range(3)]
        for printer, agent in permutations([cell for cell in cells if cell not in table], 2):
            yield {"level": level, "agent": agent, "printer": printer, "table": table}


def test_every_solvable_room_of_level_3_to_5_is_listed() -> None:
    task = get_task("minibehaviour")
    for level in (3, 4, 5):
        solvable = {str(data) for data in every_room(level) if count_shortest("minibehaviour", data)[0]}
        assert {str(task.to_json(state)) for state in task.enumerate_states(level)} == solvable
        assert task.num_states(level) == len(solvable)
    assert task.num_states(5) == 4104
    assert task.num_states(6) == 17_400 == sum(1 for _ in task.enumerate_states(6))
    assert task.num_states(10) == 72 * 94 * 93
    assert task.num_states(11) is None


def read_state(name: str, text: str) -> Json:
    """The JSON form that a recital tells, read by someone who knows only the recital's form."""
    fields = dict(re.findall(r"([A-Z][a-z]+): (.*?)\.(?= |$)", text))

    def cells(field: str) -> list[list[int]]:
        return [[int(r), int(c)] for r, c in re.findall(r"\((\d+),(\d+)\)", fields[field])]

    level = int(fields["Size"])
    if name == "minibehaviour":
        return {
            "level": level,
            "agent": cells("Agent")[0],
            "printer": cells("Printer")[0],
            "table": cells("Table"),
        }
    if name == "maze":
        sides = re.findall(r"\(\d+,\d+\) ([LDRU]+)", fields["Open"])
        masks = [sum(bit for a, bit in zip("UDLR", (1, 2, 4, 8), strict=True) if a not in s) for s in sides]
        walls = [masks[r * level : (r + 1) * level] for r in range(level)]
        return {"start": cells("Player")[0], "target": cells("Goal")[0], "walls": walls}
    rows = [["F"] * level for _ in range(level)]
    for mark, field in (("H", "Holes"), ("S", "Player"), ("G", "Goal")):
        for r, c in cells(field):
            rows[r][c] = mark
    return {"map": ["".join(row) for row in rows]}


@every_world
@given(seed=seeds, level=st.integers(3, 12))
@settings(max_examples=60)
def test_the_recital_can_be_read_back_into_the_state(name: str, seed: int, level: int) -> None:
    task = get_task(name)
    state = task.generate(level, np.random.default_rng(seed))
    assert read_state(name, state_text(task.recital(state))) == task.to_json(state)


def test_frozenlake_is_told_in_its_fixed_words() -> None:
    task = get_task("frozenlake")
    state = task.parse_state({"map": ["FHFF", "FFFG", "SFFF", "FFHF"]})
    assert state_text(task.facts(state)) == "Size: 4. Player: (2,0). Goal: (1,3). Holes: (0,1) (3,2)."
    assert task.recital(state) == task.facts(state)
    assert task.route(state, ["U", "R"]) == "Route: (2,0) (1,0) (1,1)."
    assert task.trace(state, ["L", "D", "R", "R", "R"]) == [(2, 0), (2, 0), (3, 0), (3, 1), (3, 2)]
    solution = task.solve(state)
    assert solution is not None
    assert solution.plan == ("R", "R", "R", "U")
    assert solution.num_optimal == 4  # one U among three Rs, no hole in the way
    free = task.parse_state({"map": ["SG", "FF"]})
    assert state_text(task.facts(free)) == "Size: 2. Player: (0,0). Goal: (0,1). Holes: none."


def test_maze_is_told_in_its_fixed_words() -> None:
    task = get_task("maze")
    # (0,0)-(0,1)  (0,2)      the wall masks are N 1, S 2, W 4, E 8
    #          |     |
    # (1,0)-(1,1)-(1,2)
    #   |
    # (2,0)-(2,1)-(2,2)
    walls = [[7, 9, 13], [5, 2, 10], [6, 3, 11]]
    state = task.parse_state({"start": [0, 0], "target": [2, 2], "walls": walls})
    assert state_text(task.facts(state)) == (
        "Size: 3. Player: (0,0). Goal: (2,2). Open: (0,0) R (0,1) LD (0,2) D (1,0) DR (1,1) LRU (1,2) LU "
        "(2,0) RU (2,1) LR (2,2) L. Legal: R."
    )
    assert list(task.facts(state)) == [*task.recital(state), "Legal"]
    plan = ["R", "D", "L", "D", "R", "R"]
    solution = task.solve(state)
    assert solution is not None
    assert (list(solution.plan), solution.num_optimal) == (plan, 1)
    assert task.route(state, plan) == (
        "Route: back (2,2) (2,1) (2,0) (1,0) (1,1) (1,2) (0,2) (1,2) (1,1) (0,1) (0,0), "
        "so (0,0) (0,1) (1,1) (1,0) (2,0) (2,1) (2,2)."
    )
    assert task.trace(state, ["R", "R"]) == [(0, 0), (0, 1)]


def test_minibehaviour_is_told_in_its_fixed_words() -> None:
    task = get_task("minibehaviour")
    table = [[3, 0], [3, 1], [3, 2], [4, 0], [4, 1], [4, 2]]
    state = task.parse_state({"level": 5, "agent": [0, 1], "printer": [2, 2], "table": table})
    assert state_text(task.facts(state)) == (
        "Size: 5. Agent: (0,1). Printer: (2,2). Table: (3,0) (3,1) (3,2) (4,0) (4,1) (4,2). "
        "Beside printer: (1,2) (2,1) (2,3). Beside table: (2,0) (2,1) (3,3) (4,3). Legal: L D R."
    )
    assert list(task.facts(state))[:4] == list(task.recital(state))
    solution = task.solve(state)
    assert solution is not None
    assert solution.plan == ("D", "D", "PICK", "DROP")
    assert solution.num_optimal == 1
    assert task.route(state, solution.plan) == "Route: (0,1) (1,1) (2,1) PICK DROP."
    # The printer's cell is free once it was picked.
    assert task.trace(state, ["D", "D", "PICK", "R", "DROP"])[3:] == [(2, 1), (2, 2), (2, 2)]


def test_difficulty_follows_the_published_thresholds() -> None:
    by_length = [difficulty_by_length(5, length) for length in range(1, 8)]
    assert by_length == ["easy", "easy", "medium", "medium", "medium", "hard", "hard"]
    assert difficulty_by_length(3, 1) == "easy" and difficulty_by_length(3, 2) == "medium"
    task = get_task("minibehaviour")
    state = task.generate(5, np.random.default_rng(0))
    assert [task.difficulty(state, length) for length in (3, 4, 5, 6, 7)] == [
        "easy",
        "easy",
        "medium",
        "medium",
        "hard",
    ]


TABLE = [[3, 0], [3, 1], [3, 2], [4, 0], [4, 1], [4, 2]]
ROOM = {"level": 5, "agent": [0, 1], "printer": [2, 2], "table": TABLE}
WALLS = [[5, 9], [6, 10]]
MAZE = {"start": [0, 0], "target": [1, 1], "walls": WALLS}
MALFORMED = [
    ("frozenlake", [], "a state is a JSON object, not list"),
    ("frozenlake", {"map": "SFG"}, "map is 'SFG', not a list of strings"),
    ("frozenlake", {"map": [["S", "G"]]}, "map is"),
    ("frozenlake", {"map": []}, "map with 0 rows: the level is a whole number from 2 to 64"),
    ("frozenlake", {"map": ["S"] * (MAX_LEVEL + 1)}, "map with 65 rows"),
    ("frozenlake", {"map": ["SF", "G"]}, "map row 1 has 1 cells in a map of 2 rows"),
    ("frozenlake", {"map": ["SF", "GX"]}, "map row 1 column 1 is 'X', not one of S F H G"),
    ("frozenlake", {"map": ["sF", "GF"]}, "map row 0 column 0 is 's'"),
    ("frozenlake", {"map": ["SS", "GF"]}, "map has 2 player cells"),
    ("frozenlake", {"map": ["SF", "FF"]}, "map has 0 goal cells"),
    ("maze", MAZE | {"walls": 3}, "walls is 3, not a list of rows"),
    ("maze", MAZE | {"walls": [[15]]}, "walls with 1 rows"),
    ("maze", MAZE | {"walls": [[5, 9], [6]]}, "walls row 1 has 1 masks"),
    ("maze", MAZE | {"walls": [[5, 9], [6, 16]]}, "walls[1][1] is 16, not a mask from 0 to 15"),
    ("maze", MAZE | {"walls": [[5, 9], [6, True]]}, "walls[1][1] is True"),
    ("maze", MAZE | {"walls": [[5, 9], [6, "10"]]}, "walls[1][1] is '10'"),
    ("maze", MAZE | {"walls": [[4, 9], [6, 10]]}, "walls[0][0] leaves the border open towards U"),
    ("maze", MAZE | {"walls": [[13, 9], [6, 10]]}, "walls[0][0] and walls[0][1] disagree"),
    ("maze", MAZE | {"start": [0, 2]}, "start [0, 2] lies outside the 2x2 grid"),
    ("maze", MAZE | {"start": [0, -1]}, "start [0, -1] lies outside"),
    ("maze", MAZE | {"target": [0]}, "target is [0], not a [row, col] pair"),
    ("maze", MAZE | {"target": "11"}, "target is '11', not a [row, col] pair"),
    ("maze", MAZE | {"target": [1.0, 1]}, "target is [1.0, 1], not a [row, col] pair"),
    ("maze", MAZE | {"target": [0, 0]}, "start and target are both [0, 0]"),
    ("minibehaviour", ROOM | {"level": "5"}, "level '5': the level is a whole number from 3 to 64"),
    ("minibehaviour", ROOM | {"level": 5.0}, "level 5.0"),
    ("minibehaviour", ROOM | {"level": 2}, "level 2"),
    ("minibehaviour", ROOM | {"agent": [5, 0]}, "agent [5, 0] lies outside the 5x5 grid"),
    ("minibehaviour", ROOM | {"agent": [True, 0]}, "agent is [True, 0]"),
    ("minibehaviour", ROOM | {"agent": [2, 2]}, "must not share a cell"),
    ("minibehaviour", ROOM | {"printer": [3, 1]}, "must not share a cell"),
    ("minibehaviour", ROOM | {"printer": None}, "printer is None"),
    ("minibehaviour", ROOM | {"table": 3}, "table is 3, not a list"),
    ("minibehaviour", ROOM | {"table": []}, "table [] is not a block of 2 rows x 3 columns"),
    ("minibehaviour", ROOM | {"table": TABLE[:5]}, "is not a block of 2 rows x 3 columns"),
    ("minibehaviour", ROOM | {"table": [*TABLE, TABLE[0]]}, "is not a block of 2 rows x 3 columns"),
    ("minibehaviour", ROOM | {"table": [*TABLE[:5], [9, 9]]}, "table[5] [9, 9] lies outside"),
]


@pytest.mark.parametrize(("name", "data", "message"), MALFORMED, ids=[m for _, _, m in MALFORMED])
def test_a_malformed_state_is_an_error_that_names_the_field(name: str, data: Any, message: str) -> None:
    with pytest.raises(BadStateError) as caught:
        get_task(name).parse_state(data)
    assert str(caught.value).startswith(f"{name}: ")
    assert message in str(caught.value)


def test_a_state_without_a_way_is_a_state_without_a_solution() -> None:
    lake = get_task("frozenlake")
    assert lake.solve(lake.parse_state({"map": ["SH", "HG"]})) is None
    maze = get_task("maze")
    closed = {"start": [0, 0], "target": [1, 1], "walls": [[15, 15], [15, 15]]}
    assert maze.solve(maze.parse_state(closed)) is None


def test_a_lake_of_holes_only_is_generated_where_player_and_goal_touch() -> None:
    state = FrozenLake(hole_share=(1.0, 1.0)).generate(4, np.random.default_rng(0))
    (r, c), (goal_r, goal_c) = state.player, state.goal
    assert abs(r - goal_r) + abs(c - goal_c) == 1
    assert len(state.holes) == 14


def test_a_lake_that_cannot_be_crossed_is_an_impossible_request() -> None:
    class Corners(np.random.Generator):
        """Player and goal always in opposite corners."""

        def choice(self, *args: Any, **kwargs: Any) -> Any:
            return np.array([0, 63])

    with pytest.raises(
        ImpossibleRequestError, match=r"no solvable level-8 map in 10000 tries.*lower hole_share"
    ):
        FrozenLake(hole_share=(1.0, 1.0)).generate(8, Corners(np.random.PCG64(0)))


@pytest.mark.parametrize("share", [(-0.1, 0.5), (0.5, 0.2), (0.0, 1.5), (float("nan"), 1.0)])
def test_a_share_of_holes_outside_0_and_1_is_an_error(share: tuple[float, float]) -> None:
    with pytest.raises(PilotageError, match="hole_share"):
        FrozenLake(hole_share=share)
