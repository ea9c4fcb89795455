"""Anything at all goes through the grammar and the judge, and nothing raises.

HYPOTHESIS_PROFILE=deep python -m pytest tests/worlds/test_judge_cases.py      # 100,000 cases, as `make fuzz`
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pilotage.cli import judge as judge_command
from pilotage.worlds import TASKS, Task
from pilotage.worlds.answers import last_answer_block, parse_answer
from pilotage.worlds.judge import REASONS, StateJudge, judge
from pilotage.worlds.task import canonical_key

pieces = st.sampled_from(
    [
        *("<answer>", "</answer>", "<ANSWER>", "</Answer>", "<answer", "answer>", "</", "<", ">", "&lt;"),
        *("L", "R", "u", "Down", "right", "PICK", "pick_up", "PICKUP", "DROP", "N", "→", "↓", "➡️", "\ufe0f"),
        *(
            " ",
            "\n",
            "\t",
            ",",
            ".",
            ";",
            "->",
            "=>",
            "-",
            "*",
            "[",
            "(0,1)",
            "3",
            "and",
            "Route:",
            "\\boxed{R}",
        ),
        *("\x00", "\u202e", "\u200b", "\ud800", "ſ", "İ", "🙂", "x" * 300),
    ]
)
texts = (
    st.lists(pieces, max_size=24).map("".join)
    | st.text(max_size=60)
    | st.builds(
        "{}<answer>{}</answer>{}".format,
        st.text(max_size=8),
        st.lists(pieces, max_size=12).map("".join),
        pieces,
    )
    | st.builds("<answer>{}</answer>".format, st.lists(st.sampled_from("LDRU"), max_size=12).map(" ".join))
    | st.builds(
        "<answer>{}</answer>".format,
        st.lists(st.sampled_from(["L", "D", "R", "U", "PICK", "DROP"]), max_size=12).map(", ".join),
    )
)
STATES = [
    (task, task.generate(int(level), np.random.default_rng([i, level])))
    for task in TASKS
    for level in task.levels
    for i in range(25)
]


def block_by_definition(text: str) -> str | None:
    """The last of the shortest stretches from an opening tag to a closing one, found by trying all tags."""
    blocks = re.findall(r"(?ias)<answer>((?:(?!</?answer>).)*)</answer>", text)
    return blocks[-1] if blocks else None


@given(instance=st.sampled_from(STATES), text=texts, strict_edges=st.booleans())
def test_every_text_has_a_verdict_and_the_command_gives_the_same(
    instance: tuple[Task[Any], Any], text: str, strict_edges: bool
) -> None:
    task, state = instance
    assert last_answer_block(text) == block_by_definition(text)
    verdict = judge(task, state, text, strict_edges=strict_edges)
    assert verdict.reason in REASONS
    assert verdict.is_("optimal") <= verdict.success <= (not verdict.is_("illegal"))
    assert verdict.success + verdict.is_("illegal") <= verdict.is_("parsed")
    plan = parse_answer(text, task.actions).plan
    assert verdict.is_("parsed") == (plan is not None)
    if plan is not None:
        outcome = task.execute(state, plan, strict_edges=strict_edges)
        assert (
            verdict.success,
            verdict.is_("parsed") and not verdict.is_("illegal"),
            verdict.measures["num_executed"],
        ) == (
            outcome.success,
            outcome.legal,
            outcome.num_executed,
        )
        assert parse_answer(text, list(task.actions)).plan == plan, (
            "a plan is read alike with and without memory"
        )
    row = {"id": text[:9], "task": task.name, "state": task.to_json(state), "response": text}
    line = judge_command._judge_line(1, json.dumps(row).encode(), TALLY, strict_edges, KNOWN)
    printed = json.loads(line)
    assert printed.pop("legal") == (verdict.is_("parsed") and not verdict.is_("illegal"))
    assert printed | {"illegal": verdict.is_("illegal")} == {"id": text[:9], **verdict.as_dict()}


TALLY = judge_command.Tally()
KNOWN = judge_command.KnownStates(max_bytes=20_000)
"""Small, so that states are forgotten and met again."""


def test_what_is_kept_of_a_state_does_not_depend_on_the_answers_before() -> None:
    for task, state in STATES[::40]:
        solution = task.solve(state)
        assert solution is not None
        known = StateJudge(task, state)
        right = f"<answer>{' '.join(solution.plan)}</answer>"
        for text in (right, "<answer>L</answer>", "no", right, f"<answer>{task.actions[0]}</answer>", right):
            for strict_edges in (False, True):
                assert known.judge(text, strict_edges=strict_edges) == judge(
                    task, state, text, strict_edges=strict_edges
                )


def test_known_states_are_bounded_in_bytes_and_a_state_met_again_stays() -> None:
    known = judge_command.KnownStates(max_bytes=2_000)
    task = TASKS[0]
    states = [task.generate(5, np.random.default_rng(i)) for i in range(200)]
    favourite = known.get(task.name, task.to_json(states[0]))
    for state in states:
        found = known.get(task.name, task.to_json(state))
        assert canonical_key(task, found.state) == canonical_key(task, state)
        assert known.get(task.name, task.to_json(state)) is found
        assert known.get(task.name, task.to_json(states[0])) is favourite
        kept = [sum(len(key) for _, key in half) for half in (known._newer, known._older)]
        assert kept[0] == known._num_bytes and max(kept) <= 1_000
    assert 10 < len(known._newer) + len(known._older) < 60


def test_a_state_too_large_to_keep_is_judged_and_forgotten() -> None:
    known = judge_command.KnownStates(max_bytes=20)
    task = TASKS[0]
    data = task.to_json(task.generate(5, np.random.default_rng(0)))
    assert known.get(task.name, data) is not known.get(task.name, data)
    assert known._num_bytes == 0
