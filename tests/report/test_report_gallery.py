"""What the gallery packs: levels in a fair order, plans as they ran, states as they were recited, whose fault."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from pilotage.errors import PilotageError
from pilotage.report import write_report
from pilotage.report.folder import read_run
from pilotage.report.gallery import LEVELS_A_CHUNK, MAX_STEPS, make_gallery, prompt_text
from pilotage.report.pairs import pair_sources
from pilotage.report.sources import Source, make_sources, run_names
from pilotage.report.tiles import ALPHABET, tile_kinds_text
from pilotage.report.verdicts import verdict_class
from pilotage.worlds import TASKS, get_task
from report_parts import levels_of, run_of
from synthetic_run import write_many_rows


def lake_row(response: str, verdict: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    base = {
        "id": "frozenlake-3-a",
        "condition": "image",
        "task": "frozenlake",
        "level": 3,
        "state": {"map": ["SFF", "FHF", "FFG"]},
        "response": response,
        "outcome": verdict,
        "right": {},
        "error": None,
    }
    return base | more


def verdict(
    success: bool, num_executed: int, *, legal: bool = True, optimal: bool = False, reason: str = ""
) -> Any:
    return {
        "parsed": True,
        "illegal": not legal,
        "success": success,
        "optimal": optimal,
        "num_executed": num_executed,
        "reason": reason or ("success" if success else "not_reached"),
    }


def sources_of(**stages: list[dict[str, Any]]) -> list[Source]:
    return make_sources([run_of({stage: {"image": rows} for stage, rows in stages.items()})])


def packed(row: dict[str, Any]) -> dict[str, Any]:
    (level,) = levels_of(make_gallery(sources_of(base=[row])))
    (answer,) = level["a"]
    return answer


def test_the_plan_is_kept_from_cell_to_cell_until_it_arrives() -> None:
    answer = packed(lake_row("<answer>R R D D L</answer>", verdict(True, 4, optimal=True)))
    assert (answer["p"], answer["c"], answer["t"]) == (["R", "R", "D", "D"], [0, 1, 2, 5, 8], 5)
    assert answer["b"] == "optimal"


def test_a_forbidden_move_has_no_cell_of_its_own() -> None:
    state = {"start": [0, 0], "target": [0, 1], "walls": [[13, 13], [6, 10]]}
    wall = verdict(False, 1, legal=False, reason="wall")
    answer = packed(lake_row("<answer>R D</answer>", wall, task="maze", level=2, state=state))
    assert (answer["p"], answer["c"], answer["t"]) == (["R"], [0], 2)
    assert answer["b"] == "illegal move: wall"


def test_a_plan_of_a_million_actions_is_not_drawn_and_a_long_one_in_part() -> None:
    rounds = "R L " * MAX_STEPS
    answer = packed(lake_row(f"<answer>{rounds}</answer>", verdict(False, 2 * MAX_STEPS)))
    assert (len(answer["p"]), len(answer["c"]), answer["t"], answer["all"]) == (400, 401, 800, 0)
    assert "p" not in packed(lake_row(f"<answer>{'R L ' * 10**5}</answer>", verdict(False, 2 * 10**5)))


def test_recited_cells_that_are_not_so_are_marked() -> None:
    text = "Size: 3. Player: (1,0). Goal: (2,2). Holes: (1,1) (0,2).\nRoute: x.\n<answer>D</answer>"
    gallery = make_gallery(sources_of(base=[lake_row(text, verdict(False, 1))]))
    (answer,) = levels_of(gallery)[0]["a"]
    names = gallery.index["tasks"][0]["fields"]
    fields = {names[number]: rest for number, *rest in answer["f"]}
    assert [name for name, (right, *_) in fields.items() if not right] == ["Player", "Holes"]
    assert fields["Player"][1:3] == [[["(1,0)", 0]], "(0,0)"]
    assert fields["Holes"][1:] == [[["(1,1)", 1], ["(0,2)", 0]], "", 1, 1]
    # Bits of Player (1) and Holes (3) in Size, Player, Goal, Holes.
    assert gallery.index["wrong"] == [0b1010]


def test_a_misread_state_is_kept_with_what_its_plan_does_there() -> None:
    # True: S F F / F H F / F F G. Read: the goal at (0,2), where R R arrives.
    text = "Size: 3. Player: (0,0). Goal: (0,2). Holes: (1,1).\nRoute: x.\n<answer>R R</answer>"
    right = {"Size": True, "Player": True, "Goal": False, "Holes": True}
    fields = {"Size": "3", "Player": "(0,0)", "Goal": "(0,2)", "Holes": "(1,1)"}
    row = lake_row(text, verdict(False, 2), right=right, fields=fields)
    gallery = make_gallery(sources_of(base=[row]))
    seen = levels_of(gallery)[0]["a"][0]["q"]
    # Conditions: ice 0, hole 1, player 2, goal 3.
    assert (seen["n"], seen["k"]) == (3, "203010000")
    assert (seen["c"], seen["ok"], seen["bad"]) == ([0, 1, 2], 1, 0)
    assert gallery.index["faults"][gallery.index["fault"][0]][0] == "misread"
    assert levels_of(gallery)[0]["k"] == "200010003"


def test_a_state_read_right_is_not_kept_twice() -> None:
    text = "Size: 3. Player: (0,0). Goal: (2,2). Holes: (1,1).\n<answer>R R</answer>"
    assert "q" not in packed(lake_row(text, verdict(False, 2)))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (lake_row("", verdict(True, 4, optimal=True)), "optimal"),
        (lake_row("", verdict(True, 6)), "success"),
        (lake_row("", verdict(False, 2)), "not_reached"),
        (lake_row("", verdict(False, 2, legal=False)), "illegal"),
        (lake_row("", verdict(False, 0) | {"parsed": False, "illegal": True}), "unparsed"),
        (lake_row("", {}, error="down"), "error"),
        (lake_row("", None, condition="perception", right={"Size": True}), "read"),
        (lake_row("", None, condition="perception", right={"Size": False}), "misread"),
    ],
)
def test_every_answer_has_one_verdict_class(row: dict[str, Any], expected: str) -> None:
    assert verdict_class(row) == expected


def test_the_order_does_not_depend_on_the_answers() -> None:
    def rows(good: bool) -> list[dict[str, Any]]:
        return [lake_row("", verdict(good, 4), id=f"frozenlake-3-{i}") for i in range(30)]

    all_good = make_gallery(sources_of(base=rows(True)))
    all_bad = make_gallery(sources_of(base=rows(False)), max_levels=5)
    assert all_good.num_levels == 30
    assert all_bad.index["ids"] == all_good.index["ids"][:5]


def test_tasks_and_grid_sizes_take_turns() -> None:
    maze = {"start": [0, 0], "target": [0, 1], "walls": [[13, 13], [6, 10]]}
    rows = [lake_row("", verdict(True, 4), id=f"frozenlake-{n}-{i}", level=n) for n in (3, 4) for i in "abc"]
    rows += [lake_row("", verdict(True, 1), id=f"maze-2-{i}", level=2, task="maze", state=maze) for i in "ab"]
    ids = make_gallery(sources_of(base=rows)).index["ids"]
    assert [id_.rpartition("-")[0] for id_ in ids[:5]] == [
        "frozenlake-3",
        "maze-2",
        "frozenlake-4",
        "maze-2",
        "frozenlake-3",
    ]


def test_the_answers_of_a_level_stand_together_in_the_order_of_the_sources() -> None:
    ids = [f"frozenlake-3-{i}" for i in range(2 * LEVELS_A_CHUNK + 1)]
    first = [lake_row(f"first {id_}", verdict(False, 1), id=id_) for id_ in ids]
    second = [lake_row(f"second {id_}", verdict(True, 4), id=id_) for id_ in reversed(ids[1:])]
    gallery = make_gallery(sources_of(base=first, stage2=second))
    levels = levels_of(gallery)
    assert len(gallery.chunks) == 3
    index = gallery.index
    for i, (id_, level) in enumerate(zip(index["ids"], levels, strict=True)):
        wanted = ["first", "second"] if id_ != ids[0] else ["first"]
        assert [answer["r"] for answer in level["a"]] == [f"{word} {id_}" for word in wanted]
        assert index["source"][index["start"][i] : index["start"][i + 1]] == list(range(len(wanted)))


def test_the_prompt_is_kept_once_a_chunk_with_a_mark_for_the_picture() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Plan."}, {"type": "image"}]}]
    rows = [lake_row("", verdict(True, 4), id=f"frozenlake-3-{i}", messages=messages) for i in range(3)]
    gallery = make_gallery(sources_of(base=rows))
    chunk = json.loads(zlib.decompress(base64.b64decode(gallery.chunks[0])))
    assert chunk["prompts"] == ["user: Plan.\n[picture]"]
    assert {level["a"][0]["m"] for level in chunk["levels"]} == {0}


@pytest.mark.parametrize(
    "messages", [None, 3, ["x"], [{"role": 1, "content": {"a": 1}}], [{"content": [[], {}]}]]
)
def test_a_malformed_prompt_is_no_stumbling_block(messages: Any) -> None:
    assert isinstance(prompt_text(messages), str)


def test_every_kind_of_cell_has_a_character_that_means_nothing_in_html() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET)
    assert not set(ALPHABET) & set("<>&'\"\\`")
    task = get_task("maze")
    state = task.parse_state({"start": [0, 0], "target": [0, 1], "walls": [[13, 13], [6, 10]]})
    # 13 + 16 with the player, 13 + 32 with the goal, 6 and 10 alone.
    assert tile_kinds_text(task, state) == ALPHABET[29] + ALPHABET[45] + ALPHABET[6] + ALPHABET[10]


def test_several_runs_show_their_last_stage_or_the_one_that_is_asked_for() -> None:
    row = [lake_row("", verdict(True, 4))]
    a = run_of({"base": {"image": row}, "stage2": {"image": row}}, "runs/seed0/mgsd")
    b = run_of({"base": {"image": row}}, "runs/seed1/mgsd")
    assert [s.title for s in make_sources([a, b])] == ["seed0/mgsd · Stage 2", "seed1/mgsd · Base"]
    assert [s.title for s in make_sources([a, b], stage="base")] == ["seed0/mgsd", "seed1/mgsd"]
    assert [s.key for s in make_sources([a])] == ["base", "stage2"]
    assert len(make_sources([a, b], stage="all")) == 3
    with pytest.raises(PilotageError, match="no run has a stage 'stage9'; there are base, stage2"):
        make_sources([a, b], stage="stage9")


def test_runs_are_named_by_what_tells_them_apart() -> None:
    paths = [Path("/x/seed0/mgsd"), Path("/x/seed1/mgsd"), Path("/x/seed1/no_plan")]
    assert run_names(paths) == ["seed0/mgsd", "seed1/mgsd", "no_plan"]
    with pytest.raises(PilotageError, match="named twice"):
        run_names([Path("/x/a"), Path("/x/a")])


def test_paired_differences_count_the_levels_that_only_one_solves() -> None:
    # 20 levels: both solve 8, only the first 1, only the second 9, neither 2; one more is in the first alone.
    won = [(True, True)] * 8 + [(True, False)] + [(False, True)] * 9 + [(False, False)] * 2
    first = [lake_row("", verdict(a, 4), id=f"l{i}") for i, (a, _) in enumerate(won)]
    second = [lake_row("", verdict(b, 4), id=f"l{i}") for i, (_, b) in enumerate(won)]
    alone = [lake_row("", verdict(True, 4), id="alone")]
    (pair,), notes = pair_sources(sources_of(base=first + alone, stage2=second))
    (row,) = pair.rows
    assert (row.pairs.a.n, row.pairs.num_only_a, row.pairs.num_only_b, pair.num_unpaired) == (20, 1, 9, 1)
    assert row.pairs.a and row.pairs.b and (row.pairs.a.mean, row.pairs.b.mean) == (9 / 20, 17 / 20)
    assert notes == []
    assert row.pairs.difference.mean == pytest.approx(8 / 20)
    # 2 (1 + 10) / 2^10
    assert row.pairs.p_value == pytest.approx(22 / 1024)
    assert row.meaning == "second is better"


def test_a_difference_that_may_be_chance_is_told_as_such() -> None:
    won = [(True, False), (False, True), (False, True), (True, True)]
    first = [lake_row("", verdict(a, 4), id=f"l{i}") for i, (a, _) in enumerate(won)]
    second = [lake_row("", verdict(b, 4), id=f"l{i}") for i, (_, b) in enumerate(won)]
    (pair,), _ = pair_sources(sources_of(base=first, stage2=second))
    assert pair.rows[0].meaning == "not distinguishable from zero"


def test_what_cannot_be_compared_fairly_is_said() -> None:
    row = lake_row("", verdict(True, 4), settings={"max_new_tokens": 10})
    longer = row | {"settings": {"max_new_tokens": 20}}
    other = row | {"state": {"map": ["SFF", "FFF", "FFG"]}}
    _, notes = pair_sources(sources_of(base=[row], stage2=[longer]))
    assert notes == ["A is Base, B is Stage 2: max_new_tokens differs: 10 in A, 20 in B"]
    pairs, notes = pair_sources(sources_of(base=[row], stage2=[other]))
    assert pairs == [] and "another state" in notes[0]


def test_every_answer_to_a_level_is_kept_when_there_are_several(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    rows = [lake_row(f"answer {i}", verdict(i == 1, 4), sample=i) for i in (1, 0, 1)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "eval" / "base.image.jsonl").write_text(lines)
    gallery = make_gallery(make_sources([read_run(tmp_path)]))
    (level,) = levels_of(gallery)
    assert [(answer["r"], answer.get("s", 0)) for answer in level["a"]] == [("answer 0", 0), ("answer 1", 1)]


def test_many_rows_share_one_strip_of_tiles_a_task(tmp_path: Path) -> None:
    write_many_rows(tmp_path, 300)
    page = write_report(tmp_path).read_text()
    assert page.count("data:image/png") == len(TASKS)
    assert page.count('id="chunk-') == -(-300 // LEVELS_A_CHUNK)
    # Nothing of a level but its numbers stands in the document itself.
    assert page.count("<article") == 0
    (index,) = re.findall(r'id="gallery-index">([^<]*)</script>', page)
    assert len(json.loads(index)["ids"]) == 300
