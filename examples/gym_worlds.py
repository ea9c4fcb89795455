"""Three Gymnasium environments as worlds, each in under twenty lines: Taxi, CliffWalking and a MiniGrid room.

python examples/gym_worlds.py          # plays each by its expert and by chance, without a model
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym

from pilotage.worlds.gym import GymWorld
from pilotage.worlds.registry import register_world


def shortest(env: Any, words: dict[str, int], is_goal: Any) -> list[str]:
    """Words of a shortest way through a toy-text environment's own table of transitions."""
    queue, seen = deque([(env.s, [])]), {env.s}
    while queue:
        state, plan = queue.popleft()
        for word, action in words.items():
            _, following, reward, done = env.P[state][action][0]
            if is_goal(reward, done):
                return [*plan, word]
            if following not in seen and not done:
                seen.add(int(following))
                queue.append((int(following), [*plan, word]))
    return []


# -- Taxi
TAXI = {"SOUTH": 0, "NORTH": 1, "EAST": 2, "WEST": 3, "PICK": 4, "DROP": 5}
PLACES = ("red", "green", "yellow", "blue", "in the taxi")


def taxi_facts(env: Any) -> dict[str, str]:
    row, column, passenger, goal = env.decode(env.s)
    return {"Taxi": f"({row},{column})", "Passenger": PLACES[passenger], "Goal": PLACES[goal]}


taxi = GymWorld(
    name="taxi",
    title="Taxi",
    make=lambda: gym.make("Taxi-v4", render_mode="rgb_array"),
    actions_of=TAXI,
    rules="Drive the taxi to the passenger, PICK, drive to the goal, DROP. Walls cannot be crossed.",
    state=lambda env: {"s": int(env.s)},
    facts=taxi_facts,
    expert_of_env=lambda env: shortest(env, TAXI, lambda reward, done: reward == 20),
    success=lambda total, terminated: terminated,
)

# -- CliffWalking
CLIFF = {"UP": 0, "RIGHT": 1, "DOWN": 2, "LEFT": 3}

cliff = GymWorld(
    name="cliff",
    title="CliffWalking",
    make=lambda: gym.make("CliffWalking-v1", render_mode="rgb_array"),
    actions_of=CLIFF,
    rules="Walk from the lower left to the lower right. The cliff between them sends you back to the start.",
    state=lambda env: {"row": int(env.s) // 12, "column": int(env.s) % 12},
    expert_of_env=lambda env: shortest(env, CLIFF, lambda reward, done: done),
    success=lambda total, terminated: terminated,
)

# -- MiniGrid
ROOM = {"LEFT": 0, "RIGHT": 1, "FORWARD": 2}
FACING = ((1, 0), (0, 1), (-1, 0), (0, -1))


def make_room() -> Any:
    import minigrid  # noqa: F401 - registers its environments

    return gym.make("MiniGrid-Empty-Random-6x6-v0", render_mode="rgb_array")


def room_expert(env: Any) -> list[str]:
    """Breadth first over place and direction; the room is empty."""
    cells = [(x, y) for x in range(env.width) for y in range(env.height)]
    goal = next(cell for cell in cells if getattr(env.grid.get(*cell), "type", "") == "goal")
    queue, seen = deque([((*env.agent_pos, env.agent_dir), [])]), set()
    while queue:
        (x, y, facing), plan = queue.popleft()
        if (x, y) == goal:
            return plan
        ahead = (x + FACING[facing][0], y + FACING[facing][1])
        ahead = ahead if env.grid.get(*ahead) is None or ahead == goal else (x, y)
        turned = {"RIGHT": (x, y, (facing + 1) % 4), "LEFT": (x, y, (facing - 1) % 4)}
        for word, after in {"FORWARD": (*ahead, facing), **turned}.items():
            if after not in seen:
                seen.add(after)
                queue.append((after, [*plan, word]))
    return []


room = GymWorld(
    name="room",
    title="an empty room",
    make=make_room,
    actions_of=ROOM,
    rules="Go to the green square: LEFT and RIGHT turn you, FORWARD moves you.",
    state=lambda env: {"x": int(env.agent_pos[0]), "y": int(env.agent_pos[1]), "facing": int(env.agent_dir)},
    expert_of_env=room_expert,
)

WORLDS = (taxi, cliff, room)
for world in WORLDS:
    register_world(world)


def main() -> None:
    from pilotage.records import Moment, Rollout, View
    from pilotage.rollouts.play import Start, Writer, play
    from pilotage.views import make_view, reference_of_view

    def expert(moment: Moment, view: View) -> Rollout:
        text = reference_of_view(moment, view.name)
        return Rollout(example_id=moment.example.id, token_ids=(), text=text, finished=True)

    def show(moment: Moment) -> View:
        return make_view("student", moment, "brief")

    for each in WORLDS:
        # CliffWalking has one start, so one split has it.
        starts = [Start(example=example) for example in each.examples(1 if each is cliff else 10, "train")]
        episodes = list(play(starts, writer=Writer(write=expert), show=show))
        won = sum(episode.outcome is not None and episode.outcome.success for episode in episodes)
        print(f"{each.title}: the expert wins {won} of {len(episodes)}")


if __name__ == "__main__":
    main()
