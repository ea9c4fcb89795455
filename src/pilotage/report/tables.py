"""The page's numbers as files: CSV to compute with, Markdown and LaTeX to write with. Every text is escaped.

In CSV an interval is three columns (`success`, `success_low`, `success_high`) of shares in [0, 1]; in Markdown and
LaTeX it is one cell in per cent, `97 [95, 98]`, or in points for differences.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotage.errors import PilotageError
from pilotage.evaluate.bootstrap import Interval
from pilotage.evaluate.summary import Summary, rate_names
from pilotage.files import write_whole
from pilotage.report.conditions import measure_title, measures_of, ordered_tasks, task_title, worlds_of
from pilotage.report.diagnosis import SHOWN_FAULTS, diagnose
from pilotage.report.folder import read_run
from pilotage.report.numbers import MACRO
from pilotage.report.pairs import pair_sources
from pilotage.report.sources import Source, all_rows, make_sources
from pilotage.report.text import figure, points, visible

MAX_TEXT = 200
Cell = str | int | float | Interval | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that is written to files; intervals are shares and shown per cent, but where said otherwise."""

    name: str
    """The file's name, without its ending."""
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    is_difference: frozenset[str] = frozenset()
    """Columns whose intervals are differences: points, signed."""
    is_number: frozenset[str] = frozenset()
    """Columns whose intervals are of plain numbers, not of shares."""

    def holds_intervals(self, column: int) -> bool:
        return any(isinstance(row[column], Interval) for row in self.rows)


def write_tables(
    run_dirs: Sequence[Path], folder: Path, *, stage: str | None = None
) -> tuple[list[Path], list[str]]:
    """Writes every table as `.csv`, `.md` and `.tex` into `folder`; the paths, and what could not be read.

    Which stages are in them is as for the page. Raises PilotageError when no row was evaluated.
    """
    if not run_dirs:
        raise PilotageError("no run to write tables of: give its folder, as in pilotage report runs/demo")
    runs = [read_run(path) for path in run_dirs]
    sources = make_sources(runs, stage=stage)
    tables = make_tables(sources)
    if not tables:
        names = ", ".join(str(path) for path in run_dirs)
        raise PilotageError(f"{names}: no evaluation rows, so there are no tables")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in tables:
        for ending, form in FORMS.items():
            path = folder / f"{table.name}.{ending}"
            write_whole(path, form(table))
            paths.append(path)
    return paths, [visible(problem, 300) for run in runs for problem in run.problems]


def make_tables(sources: Sequence[Source]) -> list[Table]:
    """The tables that the sources have rows for."""
    made = [_rates(sources), _levels(sources), _numbers(sources), _fields(sources), _gaps(sources)]
    made += [_faults(sources), _pairs(sources)]
    return [table for table in made if table.rows]


def as_csv(table: Table) -> str:
    """RFC 4180 with a header. A text that a spreadsheet would take for a formula begins with an apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    spread = [table.holds_intervals(i) for i in range(len(table.columns))]
    header = []
    for name, is_spread in zip(table.columns, spread, strict=True):
        header += [name, f"{name}_low", f"{name}_high"] if is_spread else [name]
    writer.writerow([name.replace(" ", "_") for name in header])
    for row in table.rows:
        cells: list[str | int] = []
        for cell, is_spread in zip(row, spread, strict=True):
            cells += _csv_cells(cell, is_spread)
        writer.writerow(cells)
    return buffer.getvalue()


def _csv_cells(cell: Cell, is_spread: bool) -> list[str | int]:
    if isinstance(cell, Interval):
        return [f"{cell.mean:.6f}", f"{cell.low:.6f}", f"{cell.high:.6f}"]
    if cell is None:
        return ["", "", ""] if is_spread else [""]
    if isinstance(cell, float):
        return [f"{cell:.6g}"]
    return [cell if isinstance(cell, int) else guard_formula(cell).replace("\r", " ")]


_FORMULA = re.compile(r"[ \n]*[=+\-@\t\r|%\uff1d\uff0b\uff0d\uff20]")


def guard_formula(text: str) -> str:
    """`text`, with an apostrophe before what Excel, LibreOffice or Sheets would compute."""
    return f"'{text}" if _FORMULA.match(text) else text


def as_markdown(table: Table) -> str:
    """A pipe table with its caption above; numbers to the right."""
    right = [all(not isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))]
    lines = [
        f"{_markdown(table.caption)}\n",
        "| " + " | ".join(map(_markdown, table.columns)) + " |",
        "| " + " | ".join("---:" if is_right else "---" for is_right in right) + " |",
    ]
    lines += ["| " + " | ".join(_words(table, row, _markdown, str)) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$^:])", r"\\\1", text)


def as_latex(table: Table) -> str:
    """A `tabular` in the style of booktabs, inside a `table` with caption and label."""
    right = [all(not isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))]
    spec = "".join("r" if is_right else "l" for is_right in right)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_latex(table.caption)}}}",
        f"\\label{{tab:{table.name}}}",
        f"\\begin{{tabular}}{{{spec}}}",
        "\\toprule",
        " & ".join(map(_latex, table.columns)) + " \\\\",
        "\\midrule",
        *(" & ".join(_words(table, row, _latex, _latex)) + " \\\\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "⟨": "\\textless{}",
    "⟩": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "−": "$-$",
    "–": "--",
    "×": "$\\times$",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


FORMS: Mapping[str, Callable[[Table], str]] = {"csv": as_csv, "md": as_markdown, "tex": as_latex}


def _words(
    table: Table, row: Sequence[Cell], escape: Callable[[str], str], number: Callable[[str], str]
) -> Iterator[str]:
    """The cells of a row: foreign text through `escape`, our own numbers through `number`."""
    for name, cell in zip(table.columns, row, strict=True):
        if isinstance(cell, Interval):
            form = points if name in table.is_difference else figure if name in table.is_number else _percent
            yield number(f"{form(cell.mean)} [{form(cell.low)}, {form(cell.high)}]")
        elif isinstance(cell, float):
            yield number("< 0.001" if 0 < cell < 0.001 else f"{cell:.3g}")
        else:
            yield escape("–" if cell is None else str(cell))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _text(value: str) -> str:
    return visible(value, MAX_TEXT)


def _rate_names(sources: Sequence[Source]) -> tuple[str, ...]:
    """The rates of all sources together: the columns of a table."""
    return rate_names(
        cell
        for _, summary in _measured(sources)
        for of_condition in summary.conditions.values()
        for cell in of_condition.tasks.values()
    )


def _rates(sources: Sequence[Source]) -> Table:
    names = _rate_names(sources)
    rows: list[tuple[Cell, ...]] = []
    for source, summary in _measured(sources):
        for condition, of_condition in summary.conditions.items():
            for task, rates in of_condition.tasks.items():
                cells = (rates.rates.get(rate) for rate in names)
                rows.append((source, _text(condition), task_title(task), rates.n, rates.num_errors, *cells))
            if len(of_condition.tasks) > 1:
                macros = [of_condition.macro.get(rate) for rate in names]
                n = sum(rates.n for rates in of_condition.tasks.values())
                num_errors = sum(rates.num_errors for rates in of_condition.tasks.values())
                rows.append((source, _text(condition), MACRO, n, num_errors, *macros))
    return Table(
        name="rates",
        caption="Rates in per cent with 95 % bootstrap intervals.",
        columns=("source", "condition", "task", "n", "failed requests", *names),
        rows=tuple(rows),
    )


def _levels(sources: Sequence[Source]) -> Table:
    names = _rate_names(sources)
    rows: list[tuple[Cell, ...]] = []
    for source, summary in _measured(sources):
        for condition, of_condition in summary.conditions.items():
            for task, levels in of_condition.levels.items():
                for level, rates in levels.items():
                    cells = (rates.rates.get(rate) for rate in names)
                    rows.append((source, _text(condition), task_title(task), level, rates.n, *cells))
    return Table(
        name="levels",
        caption="Rates by grid size, in per cent with 95 % bootstrap intervals.",
        columns=("source", "condition", "task", "level", "n", *names),
        rows=tuple(rows),
    )


def _numbers(sources: Sequence[Source]) -> Table:
    """One row a measure: worlds have different ones."""
    measures = measures_of(worlds_of(all_rows(sources)))
    return Table(
        name="numbers",
        caption="Means over episodes with 95 % bootstrap intervals.",
        columns=("source", "condition", "task", "measure", "n", "mean"),
        rows=tuple(
            (source, _text(condition), task_title(task), measure_title(name, measures), mean.n, mean)
            for source, summary in _measured(sources)
            for condition, of_condition in summary.conditions.items()
            for task in ordered_tasks(of_condition.tasks)
            for name, mean in of_condition.tasks[task].numbers.items()
        ),
        is_number=frozenset({"mean"}),
    )


def _fields(sources: Sequence[Source]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for source, summary in _measured(sources):
        for condition, of_condition in summary.conditions.items():
            for task, rates in of_condition.tasks.items():
                for field, right in rates.fields.items():
                    rows.append((source, _text(condition), task_title(task), _text(field), right.n, right))
    return Table(
        name="fields",
        caption="Fields of the state read right, in per cent with 95 % bootstrap intervals.",
        columns=("source", "condition", "task", "field", "n", "right"),
        rows=tuple(rows),
    )


def _gaps(sources: Sequence[Source]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for source, summary in _measured(sources):
        rows += [(source, task_title(task), gap.n, gap) for task, gap in summary.gap.items()]
        if summary.gap_macro is not None and len(summary.gap) > 1:
            rows.append((source, MACRO, summary.gap_macro.n, summary.gap_macro))
    return Table(
        name="gaps",
        caption="Modality gap: success from text less success from the image, in points, paired.",
        columns=("source", "task", "n", "gap"),
        rows=tuple(rows),
        is_difference=frozenset({"gap"}),
    )


def _faults(sources: Sequence[Source]) -> Table:
    diagnosis = diagnose(sources)
    rows: list[tuple[Cell, ...]] = []
    for title, of_task in diagnosis.faults if diagnosis is not None else ():
        for row in of_task:
            for fault, (count, share, _) in zip(SHOWN_FAULTS, row.cells, strict=True):
                rows.append((_text(row.source), title, row.num_answers, fault, count, share))
    return Table(
        name="faults",
        caption="Image answers by fault, in per cent with 95 % bootstrap intervals.",
        columns=("source", "task", "n", "fault", "answers", "share"),
        rows=tuple(rows),
    )


def _pairs(sources: Sequence[Source]) -> Table:
    pairs, _ = pair_sources(sources)
    rows: list[tuple[Cell, ...]] = []
    for pair in pairs:
        for row in pair.rows:
            of = row.pairs
            head = (_text(pair.first), _text(pair.second), _text(pair.condition), row.title, of.a.n)
            counts = (of.num_only_a, of.num_only_b)
            rows.append((*head, of.a, of.b, *counts, of.difference, of.p_value, row.meaning))
    return Table(
        name="pairs",
        caption="Paired differences, second less first, in points; p by McNemar's exact test.",
        columns=(
            *("first", "second", "condition", "task", "n", "success of first", "success of second"),
            *("only first", "only second", "difference", "p", "meaning"),
        ),
        rows=tuple(rows),
        is_difference=frozenset({"difference"}),
    )


def _measured(sources: Sequence[Source]) -> Iterator[tuple[str, Summary]]:
    for source in sources:
        if source.summary is not None:
            yield _text(source.title), source.summary
