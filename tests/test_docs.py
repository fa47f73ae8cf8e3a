"""What docs/ says of the tests is so."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
THERE = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
}


def test_each_threat_names_a_test_that_is_there():
    rows = [
        line
        for line in (ROOT / "docs" / "threats.md").read_text().splitlines()
        if line.startswith("| ") and "`test_" in line
    ]
    assert len(rows) > 25
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    assert named - THERE == set()
