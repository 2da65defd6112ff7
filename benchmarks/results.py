"""Figures as tables: printed, and kept as JSON, markdown and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from callboard_runtime.load import svg

Value = str | int | float | None
Row = Mapping[str, Value]


@dataclass(frozen=True)
class Table:
    """Rows with the same columns, in order; a missing value is None."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Bars:
    """A plot: one value per name."""

    title: str
    unit: str
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Result:
    """What one workload found; `notes` say how to read it."""

    name: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    plots: tuple[Bars, ...] = ()


def markdown(result: Result) -> str:
    """The tables of a workload as markdown."""
    parts = [f"## {result.name}", *result.notes, *(f"**{t.title}**\n\n{_table(t.rows)}" for t in result.tables)]
    return "\n\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    header = [f"| {' | '.join(columns)} |", f"|{'|'.join('---' if i == 0 else '---:' for i in range(len(columns)))}|"]
    return "\n".join(header + [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows])


def _cell(value: Value) -> str:
    if value is None:
        return "–"
    return svg.number(value) if isinstance(value, float) else str(value)


BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def publish(page: Path, results: Iterable[Result], machine: Mapping[str, object], command: str) -> None:
    """Put the tables into `page`, in place of those that it has between its markers."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    about = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    tables = "\n\n".join(markdown(result) for result in results)
    body = f"Made by `{command}` on:\n\n{about}\n\n{tables}".replace("\n## ", "\n### ")
    page.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}")


def save(folder: Path, results: Iterable[Result], machine: Mapping[str, object]) -> Path:
    """Write `results.json`, `results.md` and one SVG per plot; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = list(results)
    whole = {"machine": dict(machine), "results": [asdict(result) for result in kept]}
    (folder / "results.json").write_text(json.dumps(whole, indent=1) + "\n")
    about = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    page = "\n\n".join(["# Benchmark results", about, *map(markdown, kept)])
    (folder / "results.md").write_text(page + "\n")
    for result in kept:
        for number, plot in enumerate(result.plots, 1):
            drawn = svg.bars(plot.title, plot.unit, plot.values)
            (folder / f"{result.name}-{number}.svg").write_text(drawn + "\n")
    return folder
