"""What a benchmark found: a table for people, the same as JSON, and the machine it is true of."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from relaytest.daemons.clock import utcnow

Cell = str | int | float | None
Row = tuple[Cell, ...]
PACKAGES = ("relaytest", "aiosmtplib", "aiosmtpd", "asyncpg", "uvloop")


@dataclass(frozen=True, slots=True)
class Report:
    """One table.

    Attributes:
        rows: May be shorter than `columns`. None is an empty cell.
        notes: What a reader must know to read the numbers right.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[Row]
    notes: tuple[str, ...] = ()


def missing(what: str, why: str) -> Row:
    """Return the row of a contestant that this machine does not have."""
    return (what, f"not available: {why}")


def as_table(report: Report) -> Table:
    """Lay the report out for a terminal."""
    table = Table(title=report.title, title_justify="left", box=box.SIMPLE_HEAD)
    numeric = [any(isinstance(cell, int | float) for cell in column) for column in _turned(report)]
    for name, right in zip(report.columns, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in report.rows:
        table.add_row(*(_text(cell) for cell in row))
    return table


def as_json(report: Report) -> Mapping[str, Any]:
    """Return what `json` can write: numbers in full, one object for each row."""
    rows = [dict(zip(report.columns, row, strict=False)) for row in report.rows]
    return {"title": report.title, "rows": rows, "notes": report.notes}


def machine() -> dict[str, str]:
    """Say when and where: date, processor, cores, Python, versions."""
    return {
        "date": f"{utcnow():%Y-%m-%d %H:%M} UTC",
        "cpu": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()) + " before the start",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    }


def _turned(report: Report) -> list[list[Cell]]:
    width = len(report.columns)
    return [[row[place] for row in report.rows if place < len(row)] for place in range(width)]


def _text(cell: Cell) -> str:
    """Write a number with three figures; more would pretend to a precision there is not."""
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return str(cell)
    figures = 0 if cell >= 100 else 1 if cell >= 10 else 2 if cell >= 1 else 3
    return f"{cell:.{figures}f}"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
