"""`pilotage data driving`, `pilotage data import driving`, `pilotage openloop`: logs, scenes, planners' figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich import box
from rich.table import Table

from pilotage.cli.data import print_notes
from pilotage.cli.evaluation_rows import find_rows
from pilotage.cli.options import Count, takes
from pilotage.cli.progress import Bar
from pilotage.cli.tables import table_console
from pilotage.records import Split
from pilotage.worlds.driving.data.build import LogsConfig, build_logs
from pilotage.worlds.driving.data.scenes import SplitRule, import_scenes

if TYPE_CHECKING:
    from pilotage.evaluate.bootstrap import Interval
    from pilotage.worlds.driving.evaluate import Frame

STEPS: Mapping[str, str] = {f"l2_step_{step}": f"{step / 2:g} s" for step in range(1, 7)}
SHARES: Mapping[str, str] = {
    "collision_stp3": "STP-3",
    "collision_uniad": "UniAD",
    "collided": "turned boxes",
}
"""Figure -> its column."""


@dataclass(frozen=True, kw_only=True)
class BuildLogs(LogsConfig):
    """Record drives in MetaDrive: straight roads, crossings, T-junctions, bends, with traffic.

    An expert drives; only drives that arrive are kept. The same arguments give the same logs,
    whatever the number of workers. The seed of the map decides on which side a drive is, train,
    val or test. Killed and run again with the same arguments, the build goes on where it was.
    Needs pip install 'pilotage[driving]' and Python 3.11; the logs that come with the package
    need neither.
    """

    def run(self) -> int:
        with Bar("data driving", unit="drives") as bar:
            manifest = build_logs(self, bar)
        for split, tally in manifest["counts"].items():
            print(f"{split:<5} {tally['logs']} drives, {tally['frames']} frames")
        failed = ", ".join(f"{num} {reason}" for reason, num in manifest["failed"].items()) or "none"
        again = sum(manifest["asked_again"].values())
        print(f"of {manifest['num_drives']} begun did not arrive: {failed}; chunks asked again: {again}")
        print(f"{self.out} holds {manifest['num_logs']} drives, sha256 {manifest['sha256'][:16]}…")
        return 0


@dataclass(frozen=True, kw_only=True)
class ImportScenes:
    """Read frames of drives from elsewhere, and write them as a set for pilotage eval --data.

    FILE.jsonl (or .jsonl.gz)  lines of scenes in our JSON form: see docs/driving.md
    FILE.pkl                   GPT-Driver's form of nuScenes

    A pickle can run programs when it is opened the usual way. Here it is not: nothing but numbers,
    texts, lists, dictionaries and numpy arrays is read of it, and any other is refused. Every frame
    is counted. The exit status is 1 if any is malformed.
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """What is read."""
    out: Annotated[Path | None, takes("DIR", "only the report")] = None
    """Folder of the set."""
    split: Annotated[SplitRule, tyro.conf.arg(metavar="RULE")] = "group"
    """Where frames go: group is 70/10/20 by the hash of their group; train, val or test is all into one."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace what is in the folder."""

    def run(self) -> int:
        report = import_scenes(self.path, self.out, split=self.split, overwrite=self.overwrite)
        print(
            f"read {report.num_read}: imported {report.num_imported}, duplicates {len(report.duplicates)} (left out), "
            f"malformed {len(report.malformed)}"
        )
        print(", ".join(f"{split} {num}" for split, num in report.splits.items()))
        print_notes("duplicates", report.duplicates)
        print_notes("malformed", report.malformed)
        return 1 if report.malformed else 0


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """How far plans are from what was driven, and what they would hit: baselines, and models beside.

    Rows are those of pilotage eval MODEL --world driving. Every frame of the split is in the
    baselines' figures, a model's are of the frames that it was asked about, and differences of those
    that both have. Intervals resample drives, never frames. Answers that cannot be read count as
    standing still and as collisions; their share has a column of its own.
    """

    rows: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN|FILE ...]")] = ()
    """Measured rows: a run, or a file of it."""
    data: Annotated[Path | None, takes("DIR", "the shipped logs")] = None
    """Logs of pilotage data driving."""
    split: Split = "test"
    """Which drives."""
    mlp_seeds: Count = 3
    """Networks that the MLP baseline's figures are the mean of, trained on the drives of --split train."""
    by_situation: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also the STP-3 error by what happens: turns, a car ahead, changes of speed, steady driving."""

    def run(self) -> int:
        from pilotage.worlds.driving.evaluate import baseline_frames, frames_of_rows

        # Before the baselines, which take a minute.
        found = {spec: frames_of_rows(find_rows(spec).rows) for spec in self.rows}
        with Bar("openloop", unit="planners") as bar:
            planners = baseline_frames(self.data, self.split, num_seeds=self.mlp_seeds, progress=bar)
        short = [Path(spec).name for spec in found]
        # Runs of the same name in two folders are told apart by their whole path.
        names = dict(zip(found, short if len({*short}) == len(short) else found, strict=True))
        planners |= {
            f"{names[spec]} {kind}": frames for spec, kinds in found.items() for kind, frames in kinds.items()
        }
        console = table_console()
        for make in (_distances, _steps, _shares, *((_situations,) if self.by_situation else ())):
            console.print(make(planners))
        return 0


def _distances(planners: Mapping[str, Sequence[Frame]]) -> Table:
    from pilotage.worlds.driving.evaluate import MLP, mean_over_drives, paired_difference

    titles = ("planner", "frames", "drives", "L2 STP-3", f"less {MLP}'s", "L2 UniAD")
    table = _table("metres, with 95 % bootstrap intervals over drives; differences are paired", titles)
    of_mlp = {frame.id for frame in planners[MLP]}
    for planner, frames in planners.items():
        stp3, uniad = (mean_over_drives(frames, name) for name in ("l2_stp3", "l2_uniad"))
        less = ""
        if planner != MLP and {frame.id for frame in frames} & of_mlp:
            less = _metres(paired_difference(frames, planners[MLP], "l2_stp3"), sign="+")
        table.add_row(planner, str(len(frames)), str(stp3.n), _metres(stp3), less, f"{uniad.mean:.2f}")
    return table


def _steps(planners: Mapping[str, Sequence[Frame]]) -> Table:
    from pilotage.worlds.driving.evaluate import mean_over_drives

    table = _table(
        "metres off at each step; per cent of frames", ("planner", *STEPS.values(), "missed", "not readable")
    )
    for planner, frames in planners.items():
        steps = (f"{mean_over_drives(frames, name).mean:.2f}" for name in STEPS)
        missed, parsed = (100 * mean_over_drives(frames, name).mean for name in ("missed", "parsed"))
        table.add_row(planner, *steps, f"{missed:.1f}", f"{100 - parsed:.1f}")
    return table


def _shares(planners: Mapping[str, Sequence[Frame]]) -> Table:
    from pilotage.worlds.driving.evaluate import mean_over_drives

    table = _table("collisions, per cent", ("planner", *SHARES.values()))
    for planner, frames in planners.items():
        shares = (mean_over_drives(frames, name) for name in SHARES)
        cells = (f"{100 * x.mean:.2f} [{100 * x.low:.1f}, {100 * x.high:.1f}]" for x in shares)
        table.add_row(planner, *cells)
    return table


def _situations(planners: Mapping[str, Sequence[Frame]]) -> Table:
    from pilotage.worlds.driving.evaluate import mean_over_drives
    from pilotage.worlds.driving.situations import SITUATIONS

    first = next(iter(planners.values()))
    num = {each: sum(frame.situation == each for frame in first) for each in SITUATIONS}
    titles = ("planner", *(f"{each.replace('_', ' ')} ({num[each]})" for each in SITUATIONS))
    table = _table("L2 by STP-3 by what happens (frames of the baselines), metres", titles)
    for planner, frames in planners.items():
        chosen = ([frame for frame in frames if frame.situation == each] for each in SITUATIONS)
        table.add_row(
            planner, *(_metres(mean_over_drives(some, "l2_stp3")) if some else "" for some in chosen)
        )
    return table


def _table(caption: str, titles: Sequence[str]) -> Table:
    table = Table(caption=caption, box=box.SIMPLE, pad_edge=False, caption_justify="left")
    for title in titles:
        table.add_column(title, justify="left" if title == "planner" else "right", no_wrap=True)
    return table


def _metres(told: Interval, *, sign: str = "") -> str:
    return f"{told.mean:{sign}.2f} [{told.low:{sign}.2f}, {told.high:{sign}.2f}]"
