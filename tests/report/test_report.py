"""The page of a run: its parts, its figures' geometry, and what it makes of hostile or missing files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.report import write_report
from pilotage.report.charts import MAX_RADIUS, Share, gap_chart, perception_planning
from pilotage.report.conditions import condition_titles
from pilotage.report.curves import MAX_POINTS, notes, panels
from pilotage.report.folder import read_run
from pilotage.report.pairs import pair_sources
from pilotage.report.sources import make_sources
from pilotage.report.svg import nice_ticks, tag
from pilotage.report.text import duration, p_value, percent, points, visible, visible_ends
from report_parts import chunks_of
from synthetic_run import write_run

CONDITIONS = condition_titles(["image", "text", "perception"])
SECTIONS = (
    "gap",
    "diagnostic",
    "pairs",
    "faults",
    "strata",
    "heat",
    "curves",
    "table",
    "gallery",
    "settings",
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    write_run(folder, num_per_task=4)
    return folder


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    """A run folder to damage."""
    return Path(shutil.copytree(run_dir, tmp_path / "copy"))


class Reader(HTMLParser):
    """Elements, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skip = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data

    @property
    def ids(self) -> set[str | None]:
        return {attrs.get("id") for _, attrs in self.tags}


def repr_short(content: bytes) -> str:
    return repr(content[:12])


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_page_has_every_part_and_nothing_missing(run_dir: Path) -> None:
    reader = Reader(page_of(run_dir))
    assert set(SECTIONS) <= reader.ids
    assert "missing" not in reader.ids
    assert "pilotage demo --out runs/demo" in reader.text
    assert "12 levels a condition, greedy" in reader.text
    charts = [attrs for name, attrs in reader.tags if name == "svg" and "chart" in (attrs.get("class") or "")]
    # Three tasks and their mean; three diagnostics; faults of three tasks, three axes each; 3 + 9 panels of curves.
    assert len(charts) == 4 + 3 + 3 + 9 + 12
    assert all(attrs["aria-label"] for attrs in charts)


def test_the_page_needs_no_network(run_dir: Path) -> None:
    page = page_of(run_dir)
    assert set(re.findall(r"https?://[\w./]+", page)) <= {"http://www.w3.org/2000/svg"}
    for name, attrs in Reader(page).tags:
        for key in ("src", "href", "action", "srcset"):
            value = attrs.get(key)
            assert value is None or value.startswith(("#", "data:")), (name, key, value)
    assert "default-src 'none'" in page


def test_the_page_is_made_without_torch() -> None:
    code = "import sys, pilotage.report, pilotage.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_stage_stands_against_the_first_one_and_against_the_one_before(run_dir: Path) -> None:
    pairs, notes = pair_sources(make_sources([read_run(run_dir)]))
    image = [(pair.second, pair.first) for pair in pairs if pair.condition == "image"]
    assert image == [("Stage 1", "Base"), ("Stage 2", "Base"), ("Stage 2", "Stage 1")]
    assert notes == []
    page = page_of(run_dir)
    assert "<b>Stage 2</b> against Stage 1" in page
    # What only one of them solves is led to: stage 2 is source 2, stage 1 is source 1.
    assert "condition=0&amp;right=2&amp;wrong=1" in page


def test_runs_side_by_side_stand_against_the_first_alone(run_dir: Path, copy: Path) -> None:
    third = copy.parent / "third"
    shutil.copytree(run_dir, third)
    pairs, _ = pair_sources(make_sources([read_run(path) for path in (run_dir, copy, third)]))
    assert {(pair.second, pair.first) for pair in pairs} == {("copy", "demo"), ("third", "demo")}


def test_a_pooled_verdict_is_explained_beside_it(copy: Path) -> None:
    # Stage 1 fails on every level, stage 2 solves four of each task: p 0.125 in each, and 2 / 2^12 in all.
    for stage, success in (("stage1", False), ("stage2", True)):
        rewrite(
            copy / "eval" / f"{stage}.image.jsonl",
            lambda row, success=success: (
                row | {"error": None, "outcome": row["outcome"] | {"parsed": True, "success": success}}
            ),
        )
    pairs, _ = pair_sources(make_sources([read_run(copy)]))
    (pair,) = [p for p in pairs if (p.second, p.first, p.condition) == ("Stage 2", "Stage 1", "image")]
    assert [(row.pairs.p_value, row.meaning) for row in pair.rows[:-1]] == [
        (0.125, "not distinguishable from zero")
    ] * 3
    assert pair.rows[-1].pairs.p_value == pytest.approx(2 / 2**12)
    assert pair.rows[-1].meaning == "second is better"
    assert "All tasks: the 12 examples of all tasks together tell what those of no task tell" in page_of(copy)


@pytest.mark.parametrize("num_runs", [2, 5, 8])
def test_as_many_runs_as_one_likes_stand_side_by_side(run_dir: Path, tmp_path: Path, num_runs: int) -> None:
    runs = [tmp_path / f"a-run-with-a-long-name-{i}" for i in range(num_runs)]
    for run in runs:
        shutil.copytree(run_dir / "eval", run / "eval")
    page = write_report(*runs, out=tmp_path / "all.html").read_text()
    # Every run is in every chart of bars, whatever their number.
    for chart in re.findall(r'class="chart bars".*?</svg>', page, re.DOTALL):
        assert all(f"{run.name}, from the picture: " in chart for run in runs)
    undrawn = [run.name for run in runs[1:-3]] if num_runs > 4 else []
    assert ("Not drawn, for want of room" in page) == bool(undrawn)
    assert not undrawn or f"Not drawn, for want of room: {', '.join(undrawn)};" in page


@pytest.mark.parametrize("num_stages", [1, 2, 5, 8])
def test_as_many_stages_as_one_likes_are_one_page(run_dir: Path, tmp_path: Path, num_stages: int) -> None:
    names = ["base", "stage1", "stage2", *(f"stage{i}" for i in range(3, 9))][:num_stages]
    (tmp_path / "eval").mkdir()
    for name in names:
        for condition in ("image", "text", "perception"):
            shutil.copy(
                run_dir / "eval" / f"base.{condition}.jsonl", tmp_path / "eval" / f"{name}.{condition}.jsonl"
            )
    reader = Reader(page_of(tmp_path))
    assert {"gap", "diagnostic", "faults", "strata", "heat", "table", "gallery"} <= reader.ids
    assert ("pairs" in reader.ids) == (num_stages > 1)


def test_what_was_not_measured_has_no_column_and_no_colour(copy: Path) -> None:
    for path in (copy / "eval").iterdir():
        if not path.name.endswith(".image.jsonl"):
            path.unlink()
    (copy / "summary.json").unlink()
    page = page_of(copy)
    assert "</i>from the picture</span>" in page and "</i>from words</span>" not in page
    head = page.partition('<section id="table"')[2].partition("</thead>")[0]
    assert ">from the picture</th>" in head and "from words" not in head and "Gap" not in head


def test_two_reports_at_once_leave_one_whole_page(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    command = [sys.executable, "-m", "pilotage.cli", "report", str(run_dir), "--out", str(out)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[1] for process in both] == [b"", b""]
    assert [process.returncode for process in both] == [0, 0]
    assert out.read_text().rstrip().endswith("</html>") and [path.name for path in tmp_path.iterdir()] == [
        "page.html"
    ]


def test_a_page_that_goes_elsewhere_leaves_the_run_as_it_was(run_dir: Path, tmp_path: Path) -> None:
    def content() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in run_dir.rglob("*")}

    before = content()
    write_report(run_dir, out=tmp_path / "new" / "page.html")
    assert content() == before


def test_a_run_that_cannot_be_written_to_is_told_of_with_the_remedy(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Stands for a read-only place: tests may run as a user who may write everywhere.
    (copy / "report.html").unlink(missing_ok=True)
    (copy / "report.html").mkdir()
    assert main(["report", str(copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "report.html cannot be written" in line and line.endswith("give --out FILE")


def test_a_report_of_nothing_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--tables", "t"], ["--out", "page.html"]):
        assert main(["report", *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "name the folder of a run: pilotage report RUN" in line


def test_a_gallery_of_less_than_nothing_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run_dir), "--max-levels", "-1"]) == 2
    assert "--max-levels -1 must be at least" in capsys.readouterr().err


def test_levels_are_called_unseen_only_when_every_row_says_so(copy: Path) -> None:
    assert "of unseen levels of 3 tasks" in Reader(page_of(copy)).text
    rewrite(copy / "eval" / "base.text.jsonl", lambda row: row | {"split": "train"})
    assert "of unseen levels" not in Reader(page_of(copy)).text


HOSTILE = (
    "</script><script>window.hurt = 1</script><img src=x onerror=alert(1)>\"'&{{7*7}}\u202egnorw\x00\ud800"
)


def test_model_text_is_escaped_wherever_it_stands(copy: Path) -> None:
    for path in (copy / "eval").glob("*.jsonl"):
        rewrite(path, lambda row: row | {"response": HOSTILE, "error": HOSTILE, "fields": {"Size": HOSTILE}})
    config = {"recipe": HOSTILE, HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}}
    (copy / "config.json").write_text(json.dumps(config))
    line = {"stage": HOSTILE, "step": 1, f"{HOSTILE}/x": 0.5, f"{HOSTILE}/y": 0.5}
    (copy / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    page = page_of(copy)
    reader = Reader(page)
    # Two blocks of JSON, one chunk of levels, and the page's own script.
    assert [name for name, _ in reader.tags].count("script") == 4
    assert not any(name == "img" for name, _ in reader.tags)
    assert not any(key.startswith("on") for _, attrs in reader.tags for key in attrs)
    assert "window.hurt = 1</script>" not in page
    assert "{{7*7}}" in reader.text
    for character in "\u202e\x00":
        assert character not in page
    assert "⟨U+202E⟩gnorw⟨U+0000⟩⟨U+D800⟩" in reader.text
    (chunk,) = chunks_of(page)
    answer = chunk["levels"][0]["a"][0]
    assert answer["r"].endswith("⟨U+202E⟩gnorw⟨U+0000⟩⟨U+D800⟩")


def test_a_megabyte_answer_is_cut_visibly(copy: Path) -> None:
    rewrite(copy / "eval" / "stage2.image.jsonl", lambda row: row | {"response": "<answer>" + "R " * 10**6})
    page = page_of(copy)
    answers = [answer for chunk in chunks_of(page) for level in chunk["levels"] for answer in level["a"]]
    cut = [answer["r"] for answer in answers if "1,996,008 more characters are not shown" in answer["r"]]
    assert len(cut) == 12
    assert cut[0].startswith("<answer>R R") and cut[0].endswith("R R ")
    assert len(page) < 2_000_000


@pytest.mark.parametrize(
    ("lost", "said", "gone"),
    [
        ("config.json", "config.json is not there", "settings"),
        ("metrics.jsonl", "no training curves", "curves"),
        ("summary.json", "summary.json is not there", None),
        ("eval/stage2.image.jsonl", "Stage 2 was not evaluated on: image", None),
        ("eval", "no gallery", "gallery"),
    ],
)
def test_what_is_missing_is_named_and_the_rest_is_shown(
    copy: Path, lost: str, said: str, gone: str | None
) -> None:
    target = copy / lost
    if target.is_dir():
        for path in target.iterdir():
            path.unlink()
    else:
        target.unlink()
    reader = Reader(page_of(copy))
    assert said in reader.text
    assert "missing" in reader.ids
    assert "gap" in reader.ids
    assert gone is None or gone not in reader.ids


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"stages": 3}', b"[" * 10**5], ids=repr_short
)
def test_a_broken_object_never_stops_the_page(copy: Path, content: bytes) -> None:
    for name in ("config.json", "summary.json"):
        (copy / name).write_bytes(content)
    assert "gallery" in Reader(page_of(copy)).ids


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "config.json cannot be read (Is a directory): the run's settings cannot be shown"),
        ("summary.json", "summary.json cannot be read (Is a directory)"),
        ("metrics.jsonl", "metrics.jsonl cannot be read (Is a directory) and is left out"),
        ("rollouts.jsonl", "rollouts.jsonl cannot be read (Is a directory) and is left out"),
        ("eval/base.image.jsonl", "base.image.jsonl cannot be read (Is a directory) and is left out"),
    ],
)
def test_a_folder_in_place_of_a_file_is_named(copy: Path, name: str, said: str) -> None:
    (copy / name).unlink(missing_ok=True)
    (copy / name).mkdir()
    reader = Reader(page_of(copy))
    assert said in reader.text
    assert {"gap", "gallery"} <= reader.ids


def test_damage_is_told_once_with_how_often(copy: Path) -> None:
    rewrite(copy / "eval" / "base.image.jsonl", lambda row: row | {"level": "3"})
    text = copy / "eval" / "base.text.jsonl"
    text.write_text(text.read_text() * 2)
    (copy / "rollouts.jsonl").write_text('{"step": 1}\n{"step": \n')
    problems = read_run(copy).problems
    assert "base.image.jsonl: a row has no level and is left out (12 such)" in problems
    assert (
        "base.text.jsonl: a row answers again what an earlier one answers and is left out (12 such)"
        in problems
    )
    assert "rollouts.jsonl line 2 is not JSON and is left out" in problems


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({"stages": 3}, "its stages are no object"),
        ({"stages": {"base": 3}}, "base is no object"),
        ({"stages": {"base": {"seconds": "long"}}}, "base has no seconds that are a time"),
        ({"stages": {"base": {"tasks": 3}}}, "base, tasks is no success rate"),
        ({"stages": {"base": {"tasks": {"maze": 3}}}}, "base, maze is no success rate"),
        (
            {"stages": {"base": {"tasks": {"maze": {"image": {"success": 2}}}}}},
            "base, maze image is no success rate",
        ),
        ({"stages": {"base": {"seconds": 10**400}}}, "base has no seconds that are a time"),
    ],
)
def test_what_a_damaged_summary_holds_is_named(copy: Path, summary: Any, said: str) -> None:
    (copy / "summary.json").write_text(json.dumps(summary))
    reader = Reader(page_of(copy))
    assert f"summary.json is damaged: {said}" in reader.text
    assert "gap" in reader.ids


def test_steps_and_stages_that_are_none_are_named(copy: Path) -> None:
    lines = [
        {"step": 10**400, "loss": 1},
        {"step": True, "loss": 1},
        {"stage": None, "step": 1},
        {"step": 1, "loss": 1},
    ]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(copy)
    assert list(run.metrics) == ["train"] and len(run.metrics["train"]) == 1
    assert "metrics.jsonl: a line has no step and is left out (2 such)" in run.problems
    assert "metrics.jsonl: a line has no stage and is left out" in run.problems


def test_a_state_that_the_diagnosis_leaves_out_is_named(copy: Path) -> None:
    rewrite(copy / "eval" / "base.image.jsonl", lambda row: row | {"level": row["level"] + 1})
    problems = [problem for problem in read_run(copy).problems if "cannot be judged" in problem]
    assert "it is of level 3, and the row says 4; it is no part of whose fault" in problems[0]


def test_one_id_is_a_level_of_each_task(copy: Path) -> None:
    paths = [copy / "eval" / f"{stage}.image.jsonl" for stage in ("base", "stage1", "stage2")]
    for path in (copy / "eval").iterdir():
        if path not in paths:
            path.unlink()
    for path in paths:
        numbers: dict[str, int] = {}

        def number(row: dict[str, Any], numbers: dict[str, int] = numbers) -> dict[str, Any]:
            numbers[row["task"]] = numbers.get(row["task"], -1) + 1
            return row | {"id": str(numbers[row["task"]])}

        rewrite(path, number)
    page = page_of(copy)
    levels = [level for chunk in chunks_of(page) for level in chunk["levels"]]
    assert len(levels) == 12 and all(len(level["a"]) == 3 for level in levels)
    assert not any("answers again" in problem for problem in read_run(copy).problems)
    pairs, notes = pair_sources(make_sources([read_run(copy)]))
    assert [row.pairs.a.n for row in pairs[0].rows] == [4, 4, 4, 12] and notes == []


def test_one_id_of_two_states_is_two_levels(copy: Path) -> None:
    rows = [json.loads(line) for line in (copy / "eval" / "base.image.jsonl").read_text().splitlines()]
    lake = [row["state"] for row in rows if row["task"] == "frozenlake" and row["level"] == 3]
    path = copy / "eval" / "stage2.image.jsonl"
    rewrite(path, lambda row: row | ({"state": lake[0]} if row["state"] == lake[1] else {}))
    levels = [level for chunk in chunks_of(page_of(copy)) for level in chunk["levels"]]
    assert len(levels) == 13
    assert sum(len(level["a"]) for level in levels) == 9 * 12


def test_broken_lines_never_stop_the_page(copy: Path) -> None:
    lines = b'null\n\xff\xfe\n[]\n{"stages": 3}\n{"step": "x"}\n\n' + b"[" * 10**5 + b'\n{"step": 1}\n{'
    for name in ("metrics.jsonl", "eval/base.text.jsonl"):
        (copy / name).write_bytes(lines)
    reader = Reader(page_of(copy))
    assert "gallery" in reader.ids
    for number, what in ((1, "is not a JSON object"), (2, "is not JSON"), (9, "was cut short")):
        assert f"metrics.jsonl line {number} {what}" in reader.text


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    reader = Reader(page_of(tmp_path))
    assert "missing" in reader.ids
    assert not reader.ids & set(SECTIONS)


@pytest.mark.parametrize("condition", ["corrected", "description", "teacher", "teacher_with_picture"])
def test_a_condition_without_a_bar_of_its_own_is_shown_in_the_gallery(copy: Path, condition: str) -> None:
    rows = [json.loads(line) for line in (copy / "eval" / "stage2.image.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | {"condition": condition}) + "\n" for row in rows]
    (copy / "eval" / f"stage2.{condition}.jsonl").write_text("".join(lines))
    page = write_report(copy).read_text()
    assert page.count("<figure") > 0 and "Traceback" not in page


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PilotageError, match="no run folder"):
        write_report(tmp_path / "nothing")


def test_a_line_cut_short_is_left_out_and_named(copy: Path) -> None:
    path = copy / "eval" / "base.image.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    run = read_run(copy)
    assert len(run.rows["base"]["image"]) == 11
    assert any("base.image.jsonl line 12 was cut short" in problem for problem in run.problems)


@pytest.mark.parametrize(
    "damage",
    [
        {"level": "3"},
        {"state": None},
        {"outcome": {"parsed": True}},
        {"outcome": {"num_executed": "x"}},
        {"right": [1]},
        {"difficulty": ["hard"]},
        {"optimal_length": {}},
        {"settings": [1]},
        {"split": []},
        {"sample": "first"},
        {"condition": "text"},
        {"id": 7},
    ],
)
def test_a_malformed_row_is_left_out_and_named(copy: Path, damage: dict[str, Any]) -> None:
    rewrite(copy / "eval" / "base.image.jsonl", lambda row: row | damage)
    page = Reader(page_of(copy))
    assert "base.image.jsonl: a row" in page.text
    assert "gallery" in page.ids


def test_a_state_or_task_that_cannot_be_drawn_still_shows_its_answer(copy: Path) -> None:
    rewrite(copy / "eval" / "stage2.image.jsonl", lambda row: row | {"state": {"map": ["XX"]}})
    for condition in ("image", "text", "perception"):
        rewrite(
            copy / "eval" / f"base.{condition}.jsonl",
            lambda row: row | {"task": "sokoban", "id": "s" + row["id"]},
        )
    levels = [level for chunk in chunks_of(page_of(copy)) for level in chunk["levels"]]
    assert len(levels) == 24
    assert all(answer["r"] for level in levels for answer in level["a"])
    assert sum(level["k"] is None for level in levels) == 12


def test_summary_alone_still_gives_the_bars(copy: Path) -> None:
    for path in (copy / "eval").iterdir():
        path.unlink()
    summary = {
        "stages": {"base": {"tasks": {"maze": {"image": {"success": 0.1, "low": 0, "high": 0.2, "n": 9}}}}}
    }
    (copy / "summary.json").write_text(json.dumps(summary))
    assert "Maze. Base: from the picture 10 %" in page_of(copy)


def share(success: float, n: int = 100) -> Share:
    return Share(success=success, low=max(0.0, success - 0.05), high=min(1.0, success + 0.05), n=n)


def test_bars_are_as_high_as_the_success_they_show() -> None:
    cells = {"base": {"text": share(1.0), "image": share(0.25), "perception": share(0.5)}}
    svg = gap_chart("Maze", cells, {"base": "Base"}, CONDITIONS)
    heights = dict(re.findall(r"<title>Base, ([a-z ]+): .*?height=\"([\d.]+)\"", svg))
    full = float(heights["from words"])
    assert float(heights["from the picture"]) == pytest.approx(full / 4, abs=0.01)
    assert float(heights["describing the picture"]) == pytest.approx(full / 2, abs=0.01)
    assert "gap +75" in svg
    assert "from the picture: 25 % [20–30], n = 100" in svg


def test_bars_lie_down_and_are_as_high_as_their_conditions_are_many() -> None:
    conditions = {f"k{i}": f"condition {i}" for i in range(6)}
    cells = {"base": {condition: share(0.5) for condition in conditions}}
    svg = gap_chart("Maze", cells, {"base": "Base"}, conditions | {"unmeasured": "not there"})
    (height,) = re.findall(r'viewBox="0 0 420 (\d+)"', svg)
    lowest = max(float(y) + 11 for y in re.findall(r'<rect x="2" y="([\d.]+)"', svg))
    assert svg.count("<rect") == 6 and lowest <= float(height) and "not there" not in svg


def test_bars_lie_down_where_names_are_long_and_keep_n_and_the_paired_gap() -> None:
    name = "a-run-with-quite-a-long-name-0"
    cells = {str(i): {"text": share(1.0), "image": share(0.25, n=50)} for i in range(3)}
    svg = gap_chart("Maze", cells, {str(i): f"{name}{i}" for i in range(3)}, CONDITIONS, {"0": 0.5})
    assert "gap +50 · n = 50–100" in svg and svg.count("gap +75 · n = 50–100") == 2
    widths = re.findall(r'<rect x="2" y="[\d.]+" width="([\d.]+)"', svg)
    assert [float(width) for width in widths[:2]] == [94.5, 378.0]


def test_lying_bars_leave_no_room_for_what_a_stage_was_not_measured_by() -> None:
    few, many = {"image": share(0.5)}, {"image": share(0.5), "text": share(0.5), "perception": share(0.5)}
    titles = {"a": "a" * 60, "b": "b" * 60}
    rects = re.findall(
        r'<rect x="2" y="([\d.]+)"', gap_chart("Maze", {"a": few, "b": many}, titles, CONDITIONS)
    )
    first, *others = map(float, rects)
    assert [y - first for y in others] == [40, 54, 68]


def test_the_area_of_a_bubble_is_the_success_from_the_image() -> None:
    cells = {
        "base": {"text": share(0.9), "image": share(0.25), "perception": share(0.1)},
        "stage2": {"text": share(0.9), "image": share(1.0), "perception": share(0.9)},
    }
    svg = perception_planning("Maze", 0, cells, {"base": "Base", "stage2": "Stage 2"})
    circles = re.findall(r'</title><circle cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', svg)
    assert sorted(float(r) for *_, r in circles) == [MAX_RADIUS / 2, MAX_RADIUS]
    by_size = sorted(circles, key=lambda circle: float(circle[2]))
    assert float(by_size[0][0]) < float(by_size[1][0])
    assert by_size[0][1] == by_size[1][1]
    assert svg.count('class="way"') == 1


def test_curves_pass_through_their_points() -> None:
    rows = [{"stage": "stage1", "step": step, "loss": loss} for step, loss in ((0, 2.0), (5, 1.0), (10, 0.0))]
    (panel,) = panels(rows)
    # The plot is 46..408 wide and 180 (0) .. 12 (2) high.
    assert 'd="M46.0 12.0L227.0 96.0L408.0 180.0" class="line c-0"' in panel.chart
    assert panel.data["x"] == [0, 5, 10]
    assert panel.data["series"][0]["y"] == [2.0, 1.0, 0.0]


def test_a_loss_over_decades_is_drawn_on_a_log_axis() -> None:
    (panel,) = panels([{"step": step, "loss": loss} for step, loss in ((0, 10.0), (1, 1.0), (2, 0.1))])
    assert panel.unit == "log scale"
    # Equal factors are equal steps: 12, 96 and 180 pixels down.
    assert 'd="M46.0 12.0L227.0 96.0L408.0 180.0" class="line c-0"' in panel.chart
    (linear,) = panels([{"step": step, "loss": loss} for step, loss in ((0, 10.0), (1, 0.0))])
    assert linear.unit == ""


def test_known_metrics_share_panels_and_unknown_ones_get_their_own() -> None:
    row = {
        "stage": "stage2",
        "step": 1,
        "time_s": 3.0,
        "kl/state": 0.1,
        "kl/all": 0.2,
        "new/a": 1,
        "new/b": 2,
        "z": 3,
    }
    made = {panel.title: [s.label for s in panel.series] for panel in panels([row])}
    assert made == {"Divergence by span": ["state", "all"], "new": ["a", "b"], "z": ["z"]}


def test_tokens_and_nats_do_not_share_an_axis() -> None:
    row = {
        "step": 1,
        "route/plan/tokens": 900,
        "route/plan/kl": 0.4,
        "route/facts/tokens": 300,
        "route/facts/kl": 0.2,
    }
    row |= {"palr/all": 0.3, "palr/all_tokens": 900, "palr/num_valid": 12, "privilege_gap/all": 0.1}
    made = {panel.title: (panel.unit, [s.label for s in panel.series]) for panel in panels([row])}
    assert made == {
        "Divergence by route": ("nats/token", ["plan", "facts"]),
        "Tokens by route": ("tokens/step", ["plan", "facts"]),
        "Tokens behind PALR": ("tokens", ["all tokens"]),
        "Rollouts behind PALR": ("", ["num valid"]),
        "Taught by the answer (PALR)": ("%", ["all"]),
        "Privilege gap": ("nats/token", ["all"]),
    }


def test_unknown_metrics_share_an_axis_only_with_their_unit_and_magnitude() -> None:
    row = {"step": 1, "new/a": 1.0, "new/b": 2.0, "new/big": 5000.0, "new/a_tokens": 3.0, "new/wait_s": 2.0}
    made = [(panel.title, panel.unit, [s.label for s in panel.series]) for panel in panels([row])]
    assert made == [
        ("new", "", ["a", "b"]),
        ("new/big", "", ["big"]),
        ("new/a_tokens", "tokens", ["a tokens"]),
        ("new/wait_s", "seconds", ["wait s"]),
    ]


def test_what_no_curve_shows_is_told() -> None:
    rows = [
        {"step": step, "loss": loss, "route/untaught": 0.0, "lr": 1e-3}
        for step, loss in ((1, 1.0), (2, float("nan")), (3, 10**400), (4, 2.0))
    ]
    assert [panel.title for panel in panels(rows)] == ["Loss", "Learning rate"]
    assert notes(rows) == [
        "loss is no finite number at 2 of 4 steps, first at step 2",
        "0 at every step: route/untaught",
    ]


def test_a_single_step_is_a_mark_and_steps_are_whole_numbers() -> None:
    (panel,) = panels([{"step": 1, "loss": 2.0}])
    assert panel.chart.count("<circle") == 1
    (panel,) = panels([{"step": step, "loss": 1.0} for step in range(1, 13)])
    assert re.findall(r'text-anchor="middle">([^<]+)<', panel.chart) == ["5", "10"]


def test_a_total_is_drawn_apart_from_its_parts() -> None:
    row = {
        "stage": "s",
        "step": 1,
        "rollout/success": 0.5,
        "rollout/success/maze": 0.4,
        "rollout/success/lake": 0.6,
    }
    (panel,) = panels([row])
    assert [(s.label, s.colour) for s in panel.series] == [("maze", "0"), ("lake", "1"), ("all", "all")]


def test_what_is_no_number_leaves_a_hole_in_the_curve() -> None:
    losses = [1.0, float("nan"), "x", None, True, 10**400, float("inf"), 2.0]
    (panel,) = panels([{"step": i, "loss": loss} for i, loss in enumerate(losses)])
    assert panel.data["series"][0]["y"] == [1.0, 2.0]
    assert panel.data["x"] == [0, 7]


def test_long_curves_are_thinned_and_keep_their_mean() -> None:
    rows = [{"step": step, "loss": float(step % 2)} for step in range(10 * MAX_POINTS)]
    (panel,) = panels(rows)
    values = panel.data["series"][0]["y"]
    assert len(values) == MAX_POINTS
    assert set(values) == {0.5}


def test_steps_repeated_by_a_resumed_run_count_once(copy: Path) -> None:
    lines = [
        {"stage": "stage1", "step": step, "loss": loss}
        for step, loss in ((1, 9.0), (2, 9.0), (2, 1.0), (3, 1.0))
    ]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row["loss"] for row in read_run(copy).metrics["stage1"]] == [9.0, 1.0, 1.0]


def test_words_for_numbers() -> None:
    assert [percent(x) for x in (0.0, 0.001, 0.00001, 0.5, 0.994, 0.997, 0.99999, 1.0)] == [
        "0",
        "0.1",
        "0.1",
        "50",
        "99",
        "99.7",
        "99.9",
        "100",
    ]
    assert [points(x) for x in (0.931, -0.02, 0.001, -0.001)] == ["+93", "−2", "0", "0"]
    assert [duration(x) for x in (0.4, 41.2, 163.5, 3900)] == ["0 s", "41 s", "2 min 44 s", "1 h 05 min"]


def test_ticks_are_round_and_enclose_the_values() -> None:
    assert nice_ticks(0.0, 0.83) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert nice_ticks(0.0, 47.0) == pytest.approx([0, 20, 40, 60])
    assert len(nice_ticks(3.0, 3.0)) >= 2


def test_visible_text_keeps_letters_and_spells_out_the_rest() -> None:
    assert visible("Zoë → 日本\n\t") == "Zoë → 日本\n\t"
    assert visible("a\u200bb\u2028") == "a⟨U+200B⟩b⟨U+2028⟩"
    # Drawn as nothing, though neither control nor format: joiner, filler, variation selector, tag, blank.
    for blank in ("\u034f", "\u3164", "\ufe0f", "\U000e0100", "\u2800"):
        assert visible(f"a{blank}b") == f"a⟨U+{ord(blank):04X}⟩b"
    assert visible_ends("abcdefgh", 4) == "ab\n[… 4 more characters are not shown …]\ngh"
    assert visible_ends("\u202eabc", 4) == "⟨U+202E⟩abc"
    assert [p_value(p) for p in (0.0004, 0.0391, 0.39, 1.0)] == ["< 0.001", "0.039", "0.39", "1.00"]
    assert visible("x" * 12, 10) == "x" * 10 + " […2 more characters are not shown]"


def test_svg_attributes_and_children_are_escaped() -> None:
    assert tag("text", '<b>"', class_='"x', x=1.0) == '<text class="&#34;x" x="1">&lt;b&gt;&#34;</text>'


@pytest.mark.parametrize("num_stages", [1, 4, 5, 9])
def test_a_chart_of_any_number_of_stages_shows_each(num_stages: int) -> None:
    cells = {f"s{i}": {"text": share(0.9), "image": share(0.1 * i)} for i in range(num_stages)}
    titles = {f"s{i}": f"Stage with a long name {i}" for i in range(num_stages)}
    svg = gap_chart("Maze", cells, titles, CONDITIONS)
    assert all(f"Stage with a long name {i}" in svg for i in range(num_stages))
    assert svg.count("from the picture: ") == num_stages
