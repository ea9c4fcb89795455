"""Imports: every level is accounted for, every plan judged, and the folder is a data set like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotage.cli.main import main
from pilotage.data.build import BuildConfig, build
from pilotage.data.examples import split_of
from pilotage.data.exclude import load_exclusions
from pilotage.data.store import load_examples, read_manifest
from pilotage.errors import PilotageError
from pilotage.worlds import TASKS, get_task
from pilotage.worlds.drawing import render_png
from pilotage.worlds.grids.data import Json, Text, VisualPlanning, Vsp, importing
from pilotage.worlds.grids.data.importing import import_levels, write_import, write_rows
from pilotage.worlds.grids.data.plain import level_row
from pilotage.worlds.task import TextMaps, state_hash, worked_state
from published_forms import VISUALPLANNING, png, visualplanning_row, write_lines, write_vsp_map

ROWS = ("FSF", "FHF", "FFG")
WALLED_IN = ("SHF", "HHF", "FFG")


def states(name: str, level: int, count: int) -> list[Any]:
    """The first distinct states of a fixed stream."""
    task, rng = get_task(name), np.random.default_rng(5)
    found: dict[str, Any] = {}
    while len(found) < count:
        state = task.generate(level, rng)
        found.setdefault(state_hash(task, state), state)
    return list(found.values())


def rooms(root: Path, held: list[Any], *extra: Any) -> Path:
    rows = [visualplanning_row("minibehaviour", state) for state in held]
    write_lines(root / VISUALPLANNING.format("minibehaviour"), [*rows, *extra])
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["data", "import", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# What an import finds


def test_every_level_is_imported_repeated_unsolvable_or_malformed(tmp_path: Path) -> None:
    for number, rows in enumerate([ROWS, WALLED_IN, ROWS, ("FSF", "FFF", "FFG")]):
        write_vsp_map(tmp_path, number, rows)
    folder = write_vsp_map(tmp_path, 7, ("SF", "FG"))
    (folder / "pure_text" / "7.txt").write_text("This is a 2x2 map.")
    report = import_levels(Vsp(), tmp_path).report
    assert (report.num_read, report.num_imported) == (5, 2)
    assert report.counts == {"frozenlake": {"3": 2}}
    places = {
        kind: [(n.file.split("maps/")[1], n.note) for n in getattr(report, kind)] for kind in importing.LISTS
    }
    assert places == {
        "malformed": [("level2/pure_text/7.txt", "nothing is said of goal, hole, player: cut short?")],
        "unsolvable": [("level3/table/1.txt", "no plan reaches the goal")],
        "duplicates": [
            ("level3/table/2.txt", "the same level as VSP-main/maze/task-main/maps/level3/table/0.txt")
        ],
        "plans": [],
        "pictures": [],
    }
    assert report.remarks == ("frozenlake: 4 levels were read, the release has 600",)
    assert not report.is_clean


def test_the_set_s_own_pictures_are_the_examples_unless_they_do_not_fit_or_ours_are_asked_for(
    tmp_path: Path,
) -> None:
    folder = write_vsp_map(tmp_path, 0, ROWS)
    write_vsp_map(tmp_path, 1, ("FSF", "FFF", "FFG"))
    (folder / "img" / "1.png").write_bytes(png(100))
    task = get_task("frozenlake")
    imported = import_levels(Vsp(), tmp_path, cell_px=16)
    first, second = imported.examples
    assert first.image == png(192, 0)
    assert second.image == render_png(task, task.parse_state(dict(second.state)), cell_px=16)
    [note] = imported.report.pictures
    assert (note.place, note.note) == (
        "VSP-main/maze/task-main/maps/level3/table/1.txt",
        "level3/img/1.png: 100x100 px instead of 192x192",
    )
    redrawn = import_levels(Vsp(), tmp_path, side_px=60, redraw=True).examples[0]
    assert redrawn.image == render_png(task, task.parse_state(dict(first.state)), side_px=60)


LAKE = get_task("frozenlake").parse_state({"map": list(ROWS)})  # R D D is the one shortest plan


@pytest.mark.parametrize(
    ("path", "claimed", "note"),
    [
        ([1, 2, 5, 8], 3, ""),
        ([1, 0, 1, 2, 5, 8], 3, "the reference plan takes 5 steps where 3 are enough"),
        ([1, 4, 7, 8], 3, "the reference plan fails at step 1: hole"),
        ([1, 2, 5], 3, "the reference plan fails at step 2: not_reached"),
        ([1, 2, 5, 8, 7], 3, "the reference plan takes 4 steps where 3 are enough"),
        ([1], 3, "the reference plan fails at step 0: not_reached"),
        ([1, 8], 3, "no action leads from input_state[0] (0, 1) to input_state[1] (2, 2)"),
        ([1, 2, 5, 8], 5, "the set says that 5 steps are needed; 3 are"),
    ],
)
def test_a_reference_plan_is_a_shortest_one_or_listed_and_ours_stands_in(
    tmp_path: Path, path: list[int], claimed: int, note: str
) -> None:
    row = visualplanning_row("frozenlake", LAKE)
    row["input_state"] = path
    row["meta"]["distance_map"]["1"] = claimed
    imported = import_levels(VisualPlanning(), write_lines(tmp_path / "x.jsonl", [row]))
    [example] = imported.examples
    assert (example.plan, example.optimal_length) == (("R", "D", "D"), 3)
    assert [(n.place, n.note) for n in imported.report.plans] == ([("x.jsonl line 1", note)] if note else [])


def test_the_set_s_plan_is_kept_where_several_are_shortest(tmp_path: Path) -> None:
    task = get_task("frozenlake")
    row = visualplanning_row("frozenlake", task.parse_state({"map": ["SF", "FG"]}))
    plans = []
    for path in ([0, 1, 3], [0, 2, 3]):
        row["input_state"] = path
        plans.append(
            import_levels(VisualPlanning(), write_lines(tmp_path / "x.jsonl", [row])).examples[0].plan
        )
    assert plans == [("R", "D"), ("D", "R")]


def test_repeated_levels_can_be_kept_under_ids_of_their_own(tmp_path: Path) -> None:
    row = visualplanning_row("frozenlake", LAKE)
    path = write_lines(tmp_path / "x.jsonl", [row, row, row])
    once = import_levels(VisualPlanning(), path)
    kept = import_levels(VisualPlanning(), path, keep_duplicates=True)
    [example] = once.examples
    assert [e.id for e in kept.examples] == [example.id, f"{example.id}-2", f"{example.id}-3"]
    assert len(kept.report.duplicates) == len(once.report.duplicates) == 2
    assert kept.report.num_imported == 3


def test_hashes_that_our_train_split_owns_are_counted_and_the_split_is_test(tmp_path: Path) -> None:
    held = states("minibehaviour", 5, 30)
    imported = import_levels(VisualPlanning(), rooms(tmp_path, held))
    task = get_task("minibehaviour")
    owners = [split_of(state_hash(task, state)) for state in held]
    assert imported.report.hash_splits == {split: owners.count(split) for split in ("train", "val", "test")}
    assert owners.count("train") > 15
    assert {example.split for example in imported.examples} == {"test"}


def test_the_prompts_own_example_is_remarked_on(tmp_path: Path) -> None:
    task = get_task("maze")
    shown = {"task": "maze", "state": task.to_json(worked_state(task))}
    report = import_levels(Json(), write_lines(tmp_path / "x.jsonl", [shown])).report
    assert report.remarks == ("x.jsonl line 1 is the level that the prompts show as their worked example",)


def test_more_levels_than_any_set_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "MAX_LEVELS", 3)
    path = write_lines(tmp_path / "x.jsonl", ["nonsense"] * 4)
    with pytest.raises(PilotageError, match="more than 3 levels"):
        import_levels(Json(), path)


# Plain files


def test_maps_of_text_are_read_by_their_folder_s_task_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "frozenlake" / "more").mkdir(parents=True)
    (tmp_path / "frozenlake" / "more" / "a.txt").write_text("\nSF\nFG\n\n  \nSX\nFG\n\nSFF\nFHF\nFFG")
    (tmp_path / "b.txt").write_text("SF\nFG")
    (tmp_path / "maze").mkdir()
    (tmp_path / "maze" / "c.txt").write_text("#####\r\n#S#G#\r\n# # #\r\n#   #\r\n#####\r\n")
    imported = import_levels(Text(), tmp_path)
    assert imported.report.counts == {"frozenlake": {"2": 1, "3": 1}, "maze": {"2": 1}}
    assert [(n.place, n.note[:30]) for n in imported.report.malformed] == [
        ("b.txt", "no folder above it is named af"),
        ("frozenlake/more/a.txt line 6", "frozenlake: map row 0 column 1"),
    ]
    alone = import_levels(Text(get_task("frozenlake")), tmp_path / "b.txt")
    assert alone.examples[0].state == {"map": ["SF", "FG"]}


@pytest.mark.parametrize(
    ("row", "kind", "complaint"),
    [
        ({"task": "maze"}, "malformed", 'expected an object with "task"'),
        ({"task": "chess", "state": {}}, "malformed", "unknown task 'chess'"),
        ({"source": ["x"]}, "malformed", "source is ['x']"),
        ({"plan": "RDD"}, "plans", "plan is 'RDD', not a list of actions"),
        ({"plan": ["R", "PICK"]}, "plans", "plan has 'PICK', no action of frozenlake: L D R U"),
        ({"plan": ["R", "D"]}, "plans", "fails at step 2: not_reached"),
        ({"plan": []}, "plans", "fails at step 0: not_reached"),
        ({"image": 7}, "pictures", "image is 7, not a PNG file in base64"),
        ({"image": "!"}, "pictures", "not base64"),
        ({"image": "R0lG"}, "pictures", "image: not a PNG picture"),
    ],
)
def test_what_is_wrong_with_a_line_of_ours_is_listed(
    tmp_path: Path, row: Any, kind: str, complaint: str
) -> None:
    good = {"task": "frozenlake", "state": {"map": list(ROWS)}}
    spoilt = row if "task" in row else good | row
    other = {"task": "frozenlake", "state": {"map": ["SF", "FG"]}}
    report = import_levels(Json(), write_lines(tmp_path / "x.jsonl", [other, spoilt])).report
    assert [note.place for note in getattr(report, kind)] == ["x.jsonl line 2"]
    assert complaint in getattr(report, kind)[0].note
    assert sum(len(getattr(report, name)) for name in importing.LISTS) == 1
    assert report.num_imported == (1 if kind == "malformed" else 2)


def test_states_nested_as_deeply_as_json_allows_are_malformed(tmp_path: Path) -> None:
    good = '{"task": "frozenlake", "state": {"map": ["SF", "FG"]}}'
    deep = [f'{{"task": "frozenlake", "state": {{"map": {"[" * d}{"]" * d}}}}}' for d in range(700, 1000)]
    plans = [f'{{"task": "frozenlake", "state": {{"map": ["SF", "FG"]}}, "plan": {"[" * 900}{"]" * 900}}}']
    rows = [f'{{"input_state": {"[" * d}{"]" * d}, "meta": {"[" * d}{"]" * d}}}' for d in range(700, 1000)]
    report = import_levels(Json(), write_lines(tmp_path / "x.jsonl", [good, *deep, *plans])).report
    assert len(report.malformed) == 300
    assert len(list(VisualPlanning().read(write_lines(tmp_path / "y.jsonl", rows)))) == 300


@given(
    picks=st.lists(
        st.tuples(st.sampled_from(TASKS), st.integers(0, 10**6 - 1), st.booleans()), min_size=1, max_size=6
    ),
    redraw=st.booleans(),
)
@settings(max_examples=25)
def test_an_import_written_as_json_and_imported_again_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, picks: list[tuple[Any, int, bool]], redraw: bool
) -> None:
    """Whatever the form it came in first: VisualPlanning's, VSP's, text, or JSON."""
    root = tmp_path_factory.mktemp("round")
    loader: Any = VisualPlanning()
    rows = []
    for task, seed, _ in picks:
        state = task.generate(task.levels[0], np.random.default_rng(seed))
        rows.append(visualplanning_row(task.name, state))
        drawer: Any = task
        if isinstance(drawer, TextMaps):
            (root / "text" / task.name).mkdir(parents=True, exist_ok=True)
            (root / "text" / task.name / f"{seed}.txt").write_text(drawer.to_text(state))
        if task.name == "frozenlake":
            write_vsp_map(root / "vsp", seed, task.to_json(state)["map"])
    write_lines(root / "vp.jsonl", rows)
    sources = [(loader, root / "vp.jsonl"), (Text(), root / "text")]
    if (root / "vsp").exists():
        sources.append((Vsp(), root / "vsp"))
    for number, (loader, source) in enumerate(sources):
        first = import_levels(loader, source, cell_px=8, redraw=redraw)
        written = root / f"{number}.jsonl"
        write_rows(first, written)
        second = import_levels(Json(), written, cell_px=32)
        assert second.examples == first.examples
        assert second.origins == first.origins
        assert second.report.is_clean and not second.report.duplicates
        write_rows(second, root / "again.jsonl")
        assert (root / "again.jsonl").read_bytes() == written.read_bytes()


def test_lines_of_ours_keep_the_licence_of_the_set_they_came_from(tmp_path: Path) -> None:
    write_vsp_map(tmp_path / "vsp", 0, ROWS)
    write_rows(import_levels(Vsp(), tmp_path / "vsp"), tmp_path / "a.jsonl")
    write_lines(
        tmp_path / "b.jsonl", [{"task": "maze", "state": get_task("maze").to_json(states("maze", 3, 1)[0])}]
    )
    write_lines(
        tmp_path / "c.jsonl", [{"task": "frozenlake", "state": {"map": ["SF", "FG"]}, "source": "my own"}]
    )
    imported = import_levels(Json(), tmp_path)
    assert imported.origins == ("vsp", "", "my own")
    assert [(source.name, source.license) for source in imported.report.sources] == [
        ("vsp", "MIT"),
        ("my own", "unknown"),
    ]


# The folder


def test_the_folder_is_a_data_set_with_its_report_and_its_source_s_rules(tmp_path: Path) -> None:
    held = states("minibehaviour", 5, 4)
    imported = import_levels(VisualPlanning(), rooms(tmp_path / "set", held, "nonsense"))
    manifest = write_import(imported, tmp_path / "out")
    assert manifest["num_examples"] == 4
    loaded = load_examples(tmp_path / "out", "test")
    assert {example.id for example in loaded} == {example.id for example in imported.examples}
    assert sorted(loaded, key=lambda e: e.id) == sorted(imported.examples, key=lambda e: e.id)
    [source] = read_manifest(tmp_path / "out")["published"]["sources"]
    assert (source["license"], source["scorer"]["accuracy"]) == ("MIT", "optimal")
    assert source["scorer"]["strict_edges"] is False
    assert "2505.11409" in source["citation"]
    report = json.loads((tmp_path / "out" / "import.json").read_text())
    assert (report["num_read"], report["num_imported"], report["num_malformed"]) == (5, 4, 1)
    assert report["malformed"][0]["line"] == 5
    assert manifest["published"]["num_malformed"] == 1 and "malformed" not in manifest["published"]


def test_the_folder_is_written_once_and_never_over_something_else(tmp_path: Path) -> None:
    held = states("minibehaviour", 5, 4)
    first = import_levels(VisualPlanning(), rooms(tmp_path / "a", held[:3]))
    other = import_levels(VisualPlanning(), rooms(tmp_path / "b", held))
    sha256 = write_import(first, tmp_path / "out")["sha256"]
    assert write_import(first, tmp_path / "out")["sha256"] == sha256
    with pytest.raises(PilotageError, match="of other arguments"):
        write_import(other, tmp_path / "out")
    assert len(load_examples(tmp_path / "out")) == 3
    write_import(other, tmp_path / "out", overwrite=True)
    assert len(load_examples(tmp_path / "out")) == 4


# Exclusion


def vsp_folder(root: Path) -> Path:
    for number, state in enumerate(states("frozenlake", 3, 40)):
        write_vsp_map(root, number, get_task("frozenlake").to_json(state)["map"])
    return root


@pytest.mark.parametrize("form", ["import", "clone", "file", "json"])
def test_no_excluded_state_nor_its_picture_is_in_any_split(tmp_path: Path, form: str) -> None:
    task, held = get_task("minibehaviour"), states("minibehaviour", 5, 400)
    clone = rooms(tmp_path / "clone", held)
    imported = import_levels(VisualPlanning(), clone)
    write_import(imported, tmp_path / "import")
    write_rows(imported, tmp_path / "json")
    (tmp_path / "json").rename(tmp_path / "levels.jsonl")
    source = {
        "import": tmp_path / "import",
        "clone": clone,
        "file": clone / VISUALPLANNING.format("minibehaviour"),
        "json": tmp_path / "levels.jsonl",
    }[form]
    config: dict[str, Any] = {"tasks": ("minibehaviour",), "levels": {"minibehaviour": (5,)}, "workers": 1}
    counts: dict[str, Any] = {"num_train": 700, "num_val": 60, "num_test": 60}
    pictures = {render_png(task, state, cell_px=32) for state in held}
    hashes = {state_hash(task, state) for state in held}
    met = {}
    for name, exclude in (("with", (source,)), ("without", ())):
        if name == "without" and form != "import":
            continue
        manifest = build(BuildConfig(out=tmp_path / name, exclude=exclude, **config, **counts))
        examples = load_examples(tmp_path / name)
        assert len(examples) == 820 and {example.split for example in examples} == {"train", "val", "test"}
        met[name] = (
            sum(state_hash(task, task.parse_state(dict(example.state))) in hashes for example in examples),
            sum(example.image in pictures for example in examples),
            {example.split for example in examples if example.image in pictures},
        )
        if exclude:
            assert manifest["excluded"]["num_states"] == 400
            [file] = manifest["excluded"]["files"]
            kind = {"import": "import visualplanning", "json": "json"}.get(form, "visualplanning")
            assert (file["name"], file["kind"], file["num_rows"], file["num_states"]) == (
                source.name,
                kind,
                400,
                400,
            )
            assert len(file["sha256"]) == 64
    assert met["with"] == (0, 0, set())
    if "without" in met:
        assert met["without"][0] == met["without"][1] > 40
        assert met["without"][2] == {"train", "val", "test"}


def test_vsp_is_excluded_from_its_clone_as_from_its_import(tmp_path: Path) -> None:
    clone = vsp_folder(tmp_path / "clone")
    write_import(import_levels(Vsp(), clone), tmp_path / "import")
    direct, imported = load_exclusions([clone]), load_exclusions([tmp_path / "import"])
    assert direct.hashes == imported.hashes and len(direct.hashes) == 40
    assert direct.digest == imported.digest
    assert direct.files[0].sha256 == imported.files[0].sha256
    assert [file.kind for file in (*direct.files, *imported.files)] == ["vsp", "import vsp"]
    both = load_exclusions([clone, tmp_path / "import"])
    assert both.counts == (("frozenlake", 3, 40),)


def test_nothing_is_excluded_by_halves(tmp_path: Path) -> None:
    clone = rooms(tmp_path, states("minibehaviour", 5, 2), "nonsense")
    with pytest.raises(
        PilotageError, match=r"test_dataset\.jsonl line 3: not JSON.*nothing is excluded by halves"
    ):
        load_exclusions([clone])


# The command


def test_the_command_reports_writes_and_says_whether_all_was_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = states("minibehaviour", 5, 3)
    root = rooms(tmp_path / "set", held)
    status, out, _ = run(
        capsys, "visualplanning", "--root", root, "--out", tmp_path / "out", "--json", tmp_path / "j"
    )
    assert status == 0
    assert "read 3: imported 3, duplicates 0 (left out), unsolvable 0, malformed 0" in out
    assert "licence MIT" in out and "its accuracy is our optimal" in out
    assert len((tmp_path / "j").read_text().splitlines()) == len(load_examples(tmp_path / "out", "test")) == 3
    rooms(tmp_path / "set", held, "nonsense", visualplanning_row("minibehaviour", held[0]))
    status, out, _ = run(capsys, "visualplanning", "--root", root)
    assert status == 1
    assert "read 5: imported 3, duplicates 1 (left out), unsolvable 0, malformed 1" in out
    assert f"malformed: {VISUALPLANNING.format('minibehaviour')} line 4: not JSON" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("vsp", "--root", "nowhere"), "nowhere does not exist"),
        (("vsp", "--root", "."), "holds no VSP maps"),
        (("visualplanning", "--root", "."), "holds no VisualPlanning levels"),
        (("json", "--root", "."), "holds no .jsonl file"),
        (("text", "--root", "."), "holds no .txt file"),
        (("text", "--root", "one.map", "--task", "chess"), "unknown task 'chess'"),
        (("vsp", "--root", ".", "--task", "maze"), "--task maze is for text"),
        (
            ("json", "--root", "one.map"),
            "no level that can be imported: 2 were read, none is good; the first: one.map",
        ),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.map").write_text("SF\nFG\n")
    status, _, err = run(capsys, *arguments)
    assert status == 2
    line = err.splitlines()[-1]
    assert line.startswith("pilotage: error: ") and complaint in line
    assert "Traceback" not in err


def test_hostile_text_in_a_set_does_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = level_row(
        import_levels(
            Json(),
            write_lines(tmp_path / "g.jsonl", [{"task": "frozenlake", "state": {"map": ["SF", "FG"]}}]),
        ).examples[0]
    )
    hostile = {"task": "\x1b[31m\u202emaze\n\n" + "x" * 1000, "state": {}}
    status, out, _ = run(capsys, "json", "--root", write_lines(tmp_path / "x.jsonl", [good, *[hostile] * 30]))
    assert status == 1
    assert "\x1b" not in out and "\u202e" not in out
    assert max(map(len, out.splitlines())) <= 300
    assert "malformed: and 20 more, all in import.json of --out" in out
