"""The command line of the soak."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.bench.report import Report, Row, as_json, as_table, machine
from tests.soak.run import Ledger, soak


def reports(ledger: Ledger, targets: int) -> list[Report]:
    """Lay out what was counted."""
    faults: list[Row] = [(what, f"{seconds:.1f}") for what, seconds in ledger.faults]
    checks: list[Row] = [
        (what, str(found), "right" if right else "WRONG") for what, found, right in ledger.checks
    ]
    return [
        Report("soak: faults", ("fault", "seconds until the next verdict"), faults),
        Report(f"soak: counts, two towns of {targets}", ("what", "found", ""), checks),
    ]


def main() -> int:
    """Run it; return 0 if every count is as it must be."""
    parser = argparse.ArgumentParser(
        "python -m tests.soak", description="The whole system, shaken."
    )
    parser.add_argument("--targets", type=int, default=1000, metavar="N", help="in each town")
    parser.add_argument("--minutes", type=float, default=2.0, metavar="N", help="of faults, about")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables there, too")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    for key, value in machine().items():
        console.print(f"{key:>9}: {value}")
    begun = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - begun:6.0f} s  {text}", style="dim")

    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # rbldnsd is another user
        ledger = asyncio.run(soak(folder, options.targets, options.minutes, say))
    found = reports(ledger, options.targets)
    for report in found:
        console.print()
        console.print(as_table(report))
    if options.json:
        options.json.write_text(json.dumps([as_json(report) for report in found], indent=1))
    return 0 if ledger.right else 1


if __name__ == "__main__":
    sys.exit(main())
