"""`pilotage judge`: good rows get verdicts, bad rows get a reason, nothing ends the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.cli import judge as judge_command
from pilotage.cli.main import main
from pilotage.worlds import TASKS

LAKE = {"map": ["SFF", "FHF", "FFG"]}
# A U-shaped corridor: (0,0) opens down, (1,0) up and right, (1,1) left and up, (0,1) down.
MAZE = {"start": [0, 0], "target": [0, 1], "walls": [[13, 13], [6, 10]]}
ROOM = {"level": 5, "agent": [0, 1], "printer": [2, 2], "table": [[r, c] for r in (3, 4) for c in (0, 1, 2)]}


def row(**changes: object) -> dict[str, object]:
    good = {"id": "x", "task": "frozenlake", "state": LAKE, "response": "<answer>R R D D</answer>"}
    return good | changes


def run_judge(tmp_path: Path, content: bytes | str, *flags: str) -> tuple[int, list[dict[str, object]]]:
    source, out = tmp_path / "rows.jsonl", tmp_path / "verdicts.jsonl"
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    status = main(["judge", str(source), "--out", str(out), *flags])
    return status, [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize(
    ("task", "state", "moves", "expected"),
    [
        ("frozenlake", LAKE, "R R D D", (True, True, True, True, 4, "success")),
        ("frozenlake", LAKE, "R D", (True, False, False, False, 2, "hole")),
        ("frozenlake", LAKE, "U R R D D", (True, True, True, False, 5, "success")),
        ("maze", MAZE, "D R U", (True, True, True, True, 3, "success")),
        ("maze", MAZE, "R", (True, False, False, False, 1, "wall")),
        ("maze", MAZE, "D", (True, True, False, False, 1, "not_reached")),
        ("minibehaviour", ROOM, "D D PICK DROP", (True, True, True, True, 4, "success")),
        ("minibehaviour", ROOM, "D R PICK D DROP", (True, True, True, False, 5, "success")),
        ("minibehaviour", ROOM, "PICK", (True, False, False, False, 1, "bad_pick")),
    ],
)
def test_verdicts_worked_out_by_hand(tmp_path, task, state, moves, expected):
    line = json.dumps(row(task=task, state=state, response=f"<answer>{moves}</answer>"))
    status, verdicts = run_judge(tmp_path, line)
    names = ("parsed", "legal", "success", "optimal", "num_executed", "reason")
    assert status == 0
    assert verdicts == [{"id": "x", **dict(zip(names, expected, strict=True))}]


def test_strict_edges_makes_a_bump_a_failure(tmp_path):
    line = json.dumps(row(response="<answer>U R R D D</answer>"))
    _, verdicts = run_judge(tmp_path, line, "--strict-edges")
    assert (verdicts[0]["success"], verdicts[0]["reason"]) == (False, "off_board")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"nonsense", "not JSON"),
        (b'{"id": "x", "task"', "not JSON"),
        (b"[1, 2]", "a row is a JSON object, not an array"),
        (b"null", "not null"),
        (json.dumps(row()).replace('"x"', "NaN").encode(), "NaN is no JSON number"),
        (b'{"id": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (json.dumps({"id": "x", "task": "maze", "state": MAZE}).encode(), "the field 'response' is missing"),
        (json.dumps(row(id=None)).encode(), "id is null"),
        (json.dumps(row(id=True)).encode(), "id is true"),
        (json.dumps(row(id=[1])).encode(), "id is an array"),
        (json.dumps(row(response=None)).encode(), "response is null, not a string"),
        (json.dumps(row(response=["R"])).encode(), "response is an array"),
        (json.dumps(row(task=7)).encode(), "task is a number"),
        (json.dumps(row(task="FrozenLake")).encode(), "unknown task 'FrozenLake'"),
        (json.dumps(row(task="sokoban" * 1000)).encode(), "unknown task"),
        (json.dumps(row(state="SFF")).encode(), "state is a string, not an object"),
        (json.dumps(row(state={})).encode(), "no field 'map'"),
        (json.dumps(row(state={"map": ["SF", "FH"]})).encode(), "goal"),
        (json.dumps(row(state={"map": "SFFG"})).encode(), "map"),
        (json.dumps(row(task="maze", state=MAZE | {"start": [0, 9]})).encode(), "start"),
        (json.dumps(row(task="maze", state=MAZE | {"walls": [[13, 1e400]] * 2})).encode(), "Infinity"),
    ],
)
def test_a_bad_row_is_a_line_with_its_number_and_its_error(tmp_path, line, complaint):
    good = json.dumps(row()).encode()
    status, verdicts = run_judge(tmp_path, good + b"\n\n" + line + b"\n" + good)
    assert status == 1
    assert [v.get("success") for v in verdicts] == [True, None, True]
    assert verdicts[1]["line"] == 3
    assert complaint in str(verdicts[1]["error"])
    assert len(str(verdicts[1]["error"])) <= 300


def test_a_bad_row_keeps_its_id_when_it_has_one(tmp_path):
    _, verdicts = run_judge(tmp_path, json.dumps(row(id=17, task="nope")))
    assert verdicts[0]["id"] == 17


def test_an_enormous_line_is_a_bad_row_and_is_never_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(judge_command, "MAX_LINE_BYTES", 1000)
    enormous = json.dumps(row(response="a" * 5000))
    status, verdicts = run_judge(tmp_path, f"{enormous}\n{json.dumps(row())}\n{enormous}")
    assert status == 1
    assert [v.get("line") for v in verdicts] == [1, None, 3]
    assert verdicts[0]["error"] == "the line is longer than 1000 bytes"


def test_a_line_of_exactly_the_limit_is_judged(tmp_path, monkeypatch):
    line = json.dumps(row())
    monkeypatch.setattr(judge_command, "MAX_LINE_BYTES", len(line) + 1)
    status, verdicts = run_judge(tmp_path, f"{line}\n{line}")
    assert (status, len(verdicts)) == (0, 2)


def test_an_empty_file_has_no_verdicts_and_status_0(tmp_path, capsys):
    assert run_judge(tmp_path, b"") == (0, [])
    assert "judged 0 rows" in capsys.readouterr().err


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    assert run_judge(tmp_path, b"\xef\xbb\xbf" + json.dumps(row()).encode())[0] == 0


def test_windows_line_ends_and_a_lone_surrogate_are_accepted(tmp_path):
    line = (
        b'{"id": "\\ud800", "task": "frozenlake", "state": {"map": ["SG", "FF"]}, "response": "\\ud800"}\r\n'
    )
    status, verdicts = run_judge(tmp_path, line)
    assert status == 0
    assert (verdicts[0]["id"], verdicts[0]["reason"]) == ("\ud800", "no_answer_block")


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_status_2(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["judge", name]) == 2
    assert capsys.readouterr().err.startswith(f"pilotage: error: cannot read {name}: ")


def test_an_out_that_cannot_be_written_is_status_2(tmp_path, capsys):
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(row()))
    assert main(["judge", str(source), "--out", str(tmp_path / "no" / "such" / "dir.jsonl")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"pilotage: error: {tmp_path / 'no' / 'such' / 'dir.jsonl'}: No such file")


def test_out_never_overwrites_the_rows_that_are_read(tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(row()))
    assert main(["judge", str(source), "--out", str(source)]) == 2
    assert json.loads(source.read_text()) == row()


def test_standard_input_and_output_are_a_pipe(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pilotage.cli", "judge", "-"],
        input=json.dumps(row()).encode(),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["success"] is True
    assert b"judged 1 rows" in done.stderr
    assert b"frozenlake" in done.stderr


def test_a_closed_pipe_ends_quietly(tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text((json.dumps(row()) + "\n") * 20_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "pilotage.cli", "judge", str(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@given(st.binary(max_size=200))
def test_no_line_can_end_the_run(line):
    tally = judge_command.Tally()
    json.loads(judge_command._judge_line(1, line, tally, False, judge_command.KnownStates()))
    assert tally.num_bad == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
hostile_cells = st.lists(st.integers(-1, 3) | st.just(True) | st.none(), max_size=3)


@given(
    st.sampled_from(["frozenlake", "maze", "minibehaviour"]),
    st.dictionaries(
        st.sampled_from(["map", "start", "target", "walls", "level", "agent", "printer", "table"]),
        json_values
        | hostile_cells
        | st.lists(hostile_cells, max_size=6)
        | st.lists(st.text("SFHG", max_size=3)),
    ),
    st.text(),
)
def test_no_state_can_end_the_run(task, state, response):
    line = json.dumps(row(task=task, state=state, response=response)).encode()
    json.loads(judge_command._judge_line(1, line, judge_command.Tally(), False, judge_command.KnownStates()))


def test_a_state_that_only_looks_like_a_known_one_is_judged_on_its_own(tmp_path):
    room = json.dumps(row(task="minibehaviour", state=ROOM, response="<answer>D D PICK DROP</answer>"))
    doubtful = [room.replace('"level": 5', f'"level": {level}') for level in ("5.0", "true", '"5"')]
    status, verdicts = run_judge(tmp_path, "\n".join([room, *doubtful, room]))
    assert status == 1
    assert [verdict.get("success") for verdict in verdicts] == [True, None, None, None, True]


def test_the_help_page_names_every_task_s_form(capsys):
    with pytest.raises(SystemExit):
        main(["judge", "--help"])
    page = capsys.readouterr().out
    for task in TASKS:
        words = f"{task.name} {task.state_form}".split()
        assert all(word in page for word in words)


def test_a_state_is_nested_as_deeply_as_json_allows_and_is_a_bad_row():
    """A value can be read that is too deep to be shown: somewhere near the limit lies the trouble."""
    for depth in range(700, 1000, 3):
        for field in ("map", "id"):
            deep = json.dumps(row(state={"map": "?"}) if field == "map" else row(id="?"))
            line = deep.replace('"?"', "[" * depth + "]" * depth).encode()
            tally = judge_command.Tally()
            json.loads(judge_command._judge_line(1, line, tally, False, judge_command.KnownStates()))
            assert tally.num_bad == 1
