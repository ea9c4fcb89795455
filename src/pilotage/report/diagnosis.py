"""Where a model loses: whose fault its failures are, and what it reads where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pilotage.evaluate.bootstrap import Interval
from pilotage.evaluate.confusion import Confusion
from pilotage.evaluate.gap import Gap, gap
from pilotage.evaluate.roles import is_planning
from pilotage.report.conditions import ordered_conditions, ordered_tasks, recites, task_title
from pilotage.report.fault_charts import fault_bars, heat_map
from pilotage.report.faults import FAULTS
from pilotage.report.folder import Row, state_problem
from pilotage.report.sources import Source, all_rows
from pilotage.report.text import percent, span_text, tenths, visible

SHOWN_FAULTS = ("none", "misread", "misplanned", "both", "format", "error")
MAX_HEAT_LEVEL = 16
"""Larger grids have cells too small to tell apart; the gallery shows their levels."""


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """Whose fault one source's image answers are, on one task."""

    source: str
    num_answers: int
    cells: tuple[tuple[int, Interval, str], ...]
    """Count, share and the gallery's address of every fault in `SHOWN_FAULTS`."""
    num_lucky: int


@dataclass(frozen=True, kw_only=True)
class HeatMaps:
    """One field of one task on grids of one size."""

    title: str
    num_answers: int
    right: Markup
    """By the cell where the thing stands: how often it is read there."""
    wrong: Markup | None
    """By the cell: how often a thing that stands elsewhere is read there; None where that never happens."""
    note: str


@dataclass(frozen=True, kw_only=True)
class HeatOf:
    """What one source misreads, and where."""

    source: str
    maps: tuple[HeatMaps, ...]
    """Of the fields that hold a single cell, where not all answers agree with the truth."""
    always: str
    """Such fields that were always read right."""
    never: str
    """Such fields that no answer tells of."""
    unmapped: str
    """Every other field that was misread or left out, with its share: what holds several cells, or none, has no map."""

    @property
    def title(self) -> str:
        """What stands on the fold."""
        if self.maps or self.unmapped or (self.always and self.never):
            return self.source
        return f"{self.source}: {'nothing told' if self.never else 'nothing misread'}"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the page tells of where the model loses."""

    bars: tuple[tuple[str, Markup], ...]
    """(task, stacked bars, one a source)."""
    faults: tuple[tuple[str, tuple[FaultRow, ...]], ...]
    """(task, the same as a table)."""
    unseen: tuple[tuple[str, list[str], list[tuple[str, list[Interval | None]]]], ...]
    """(task, fields, [(source, share not read right per field)])."""
    heat: tuple[HeatOf, ...]
    """By source, the last one first."""


def diagnose(sources: Sequence[Source]) -> Diagnosis | None:
    """The diagnosis of every source with image answers; None where there is none."""
    there = {row["task"] for row in all_rows(sources)}
    tasks = ordered_tasks(there)
    conditions = ordered_conditions({condition for source in sources for condition in source.rows})
    found: list[tuple[int, Source, Gap]] = []
    for number, source in enumerate(sources):
        rows = [row for row in all_rows([source]) if _is_explained(row)]
        if any(row["condition"] == "image" for row in rows):
            found.append((number, source, gap(rows)))
    if not found:
        return None
    titles = {task: task_title(task) for task in tasks}
    image = conditions.index("image")
    tables = [
        (titles[task], tuple(_fault_rows(found, task, tasks.index(task), image)))
        for task in tasks
        if any(task in diagnosed.tasks for _, _, diagnosed in found)
    ]
    return Diagnosis(
        bars=tuple(
            (
                title,
                fault_bars(
                    title,
                    [
                        (row.source, [(fault, *cell) for fault, cell in _shown(row)], row.num_answers)
                        for row in rows
                    ],
                ),
            )
            for title, rows in tables
        ),
        faults=tuple(tables),
        unseen=tuple(_unseen(found, titles)),
        heat=tuple(_heat(source.title, diagnosed, titles) for _, source, diagnosed in reversed(found)),
    )


def _is_explained(row: Row) -> bool:
    """Whether the answer to the row can be laid to seeing or to planning: its world recites, its state is one."""
    return is_planning(row) and recites([row["task"]]) and not state_problem(row)


def _shown(row: FaultRow) -> list[tuple[str, tuple[int, Interval, str]]]:
    return list(zip(SHOWN_FAULTS, row.cells, strict=True))


def _fault_rows(
    found: Sequence[tuple[int, Source, Gap]], task: str, task_number: int, condition: int
) -> Iterator[FaultRow]:
    for number, source, diagnosed in found:
        cell = diagnosed.tasks.get(task)
        if cell is None or cell.faults is None:
            continue
        address = f"#gallery?task={task_number}&condition={condition}&source={number}&fault="
        yield FaultRow(
            source=source.title,
            num_answers=cell.faults.num_answers,
            num_lucky=cell.faults.num_lucky,
            cells=tuple(
                (
                    cell.faults.counts[fault],
                    cell.faults.shares[fault],
                    f"{address}{list(FAULTS).index(fault)}",
                )
                for fault in SHOWN_FAULTS
            ),
        )


def _unseen(
    found: Sequence[tuple[int, Source, Gap]], titles: dict[str, str]
) -> Iterator[tuple[str, list[str], list[tuple[str, list[Interval | None]]]]]:
    for task, title in titles.items():
        rows: list[tuple[str, list[Interval | None]]] = []
        fields: list[str] = []
        for _, source, diagnosed in found:
            cell = diagnosed.tasks.get(task)
            if cell is not None and cell.faults is not None:
                fields = list(cell.faults.fields)
                rows.append((source.title, [cell.faults.fields[name].unseen for name in fields]))
        if rows:
            yield title, [visible(name, 40) for name in fields], rows


def _heat(source: str, diagnosed: Gap, titles: dict[str, str]) -> HeatOf:
    maps, always, never, unmapped = [], [], [], []
    for confusion in diagnosed.confusions:
        name = (
            f"{titles[confusion.task]}, {visible(confusion.field, 40)}, {confusion.level}×{confusion.level}"
        )
        right = sum(n for (true, read), n in confusion.counts.items() if true == read)
        if right == confusion.num_answers:
            always.append(f"{name} (n = {confusion.num_answers})")
        elif not confusion.counts and not confusion.outside:
            never.append(f"{name} (n = {confusion.num_answers})")
        elif confusion.level <= MAX_HEAT_LEVEL:
            maps.append(_maps(name, confusion, right))
        else:
            unmapped.append(
                f"{name}: {_percent(right / confusion.num_answers)} of {confusion.num_answers} read right"
            )
    return HeatOf(
        source=source,
        maps=tuple(maps),
        always="; ".join(always),
        never="; ".join(never),
        unmapped="; ".join([*_fields_without_map(diagnosed, titles), *unmapped]),
    )


def _fields_without_map(diagnosed: Gap, titles: dict[str, str]) -> Iterator[str]:
    """`Maze, Open: 7.7 % (3–14) of 100` for every field without a single cell that was misread or left out."""
    for task, cell in diagnosed.tasks.items():
        assert cell.faults is not None
        mapped = {confusion.field for confusion in diagnosed.confusions if confusion.task == task}
        for name, field in cell.faults.fields.items():
            if name in mapped or field.unseen is None or not field.unseen.mean:
                continue
            share = field.unseen
            interval = f"{percent(share.low)}–{percent(share.high)}"
            yield f"{titles[task]}, {visible(name, 40)}: {tenths(share.mean)} % ({interval}) of {share.n}"


def _maps(name: str, confusion: Confusion, right: int) -> HeatMaps:
    n, total = confusion.level, confusion.num_answers
    shares = confusion.right_by_cell()
    texts = [
        [
            f"stands on ({r},{c}) {confusion.num_true((r, c))} times, read there {_percent(shares[r][c])}"
            for c in range(n)
        ]
        for r in range(n)
    ]
    wrong = [[0] * n for _ in range(n)]
    for (true, read), count in confusion.counts.items():
        if true != read:
            wrong[read[0]][read[1]] += count
    most = max(map(max, wrong))
    outside, unread = sum(confusion.outside.values()), sum(confusion.unread.values())
    rest = [f"{unread} not read"] if unread else []
    rest += [f"{outside} read outside the grid"] if outside else []
    return HeatMaps(
        title=name,
        num_answers=total,
        right=heat_map(
            f"{name}: share read right by the cell where it stands",
            [[None if share is None else 1 - share for share in row] for row in shares],
            [["" if share is None else percent(share) for share in row] for row in shares],
            texts,
        ),
        wrong=heat_map(
            f"{name}: wrong readings by the cell where it was read",
            [[count / most for count in row] for row in wrong],
            [[str(count) if count else "" for count in row] for row in wrong],
            [[f"wrongly read on ({r},{c}) {wrong[r][c]} times" for c in range(n)] for r in range(n)],
        )
        if most
        else None,
        note=f"{percent(right / total)} % of {total} read right"
        + "".join(f", {what}" for what in rest)
        + f"; {_stood(confusion)} a cell",
    )


def _stood(confusion: Confusion) -> str:
    """`1–4 answers`: how few a cell's share may rest on."""
    side = range(confusion.level)
    counts = [n for n in (confusion.num_true((r, c)) for r in side for c in side) if n]
    return f"{span_text(counts)} answer{'' if max(counts) == 1 else 's'}"


def _percent(share: float | None) -> str:
    return "never" if share is None else f"{percent(share)} %"
