"""What docs/ says of the tests is so."""

import re
from pathlib import Path

from relaytest.core.reloading import FIXED

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


def test_what_the_log_says_of_a_fault_is_what_the_program_logs():
    code = "".join(file.read_text() for file in (ROOT / "relaytest").rglob("*.py"))
    _, table = (ROOT / "docs" / "operate.md").read_text().split("## What breaks")
    said = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(said) > 10
    assert [words for words in said if f'"{words}"' not in code] == []


def test_what_changes_with_a_restart_only_is_named():
    text = (ROOT / "docs" / "operate.md").read_text()
    told = text[text.index("## Reload") : text.index("change with a restart only. ")]
    assert set(re.findall(r"`([a-z]+\.[a-z_]+)`", told)) == set(FIXED)


def test_each_sqlstate_that_a_request_is_refused_with_is_explained():
    raised = {
        code
        for file in (ROOT / "sql").glob("*.sql")
        for code in re.findall(r"ERRCODE = '(\w{5})'", file.read_text())
    }
    table = re.findall(r"^\| `(\w{5})` \|", (ROOT / "docs" / "sql.md").read_text(), re.MULTILINE)
    assert sorted(raised) == table
