"""The command line of the benchmarks."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from relaytest.core.errors import ClusterError
from tests.bench import (
    accuracy,
    answering,
    battery,
    capacity,
    caps,
    claiming,
    delay,
    exporting,
    mix,
    pages,
    queueing,
    queues,
    receiving,
    servers,
    sessions,
)
from tests.bench.report import Report, as_json, as_table, machine, missing

BENCHMARKS: dict[str, Callable[[], Report]] = {
    "accuracy": accuracy.run,
    "battery": battery.run,
    "delay": delay.run,
    "servers": servers.run,
    "mix": mix.run,
    "sessions": sessions.run,
    "claim": claiming.run,
    "queue": queueing.run,
    "queues": queues.run,
    "caps": caps.run,
    "capacity": capacity.run,
    "dns": answering.run,
    "export": exporting.run,
    "sink": receiving.run,
    "web": pages.run,
}


def main() -> int:
    """Run the benchmarks that were named, or all; return the exit status."""
    arguments = _parser().parse_args()
    unknown = sorted(set(arguments.names) - set(BENCHMARKS))
    if unknown:
        sys.stderr.write(f"No benchmark {unknown[0]}. Known: {', '.join(BENCHMARKS)}\n")
        return 2
    # A table in a file or a pipe must not be squeezed into the 80 columns of no terminal.
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    head = machine()
    for key, value in head.items():
        console.print(f"{key:>9}: {value}")
    found = {}
    for name in arguments.names or BENCHMARKS:
        begun = time.monotonic()
        found[name] = _run(name)
        console.print()
        console.print(as_table(found[name]))
        for note in (*found[name].notes, f"({name} took {time.monotonic() - begun:.0f} s)"):
            console.print(note, style="dim")
    if arguments.json:
        tables = {name: as_json(report) for name, report in found.items()}
        arguments.json.write_text(json.dumps({"machine": head, "benchmarks": tables}, indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.bench", description="Measure relaytest.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables there, too")
    return parser


def _run(name: str) -> Report:
    """Run one; a machine without PostgreSQL can still run the others."""
    try:
        return BENCHMARKS[name]()
    except ClusterError as error:
        return Report(name, ("what", "why"), [missing(name, str(error).splitlines()[0])])


if __name__ == "__main__":
    sys.exit(main())
