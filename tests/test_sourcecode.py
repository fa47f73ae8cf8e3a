"""The source code as a whole: what linters and types say, and what no file may hold."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "relaytest").rglob("*.py"))
LONGEST = 400  # lines of a module
# Each is an exception that a reader has to think about. These numbers may only fall.
TYPE_IGNORES = 1
NOQAS = 14

TOOLS = {
    "ruff check": [sys.executable, "-m", "ruff", "check", "--no-fix"],
    "ruff format": [sys.executable, "-m", "ruff", "format", "--diff", "relaytest", "tests"],
    "mypy": [sys.executable, "-m", "mypy"],
    "lint-imports": [str(Path(sysconfig.get_path("scripts"), "lint-imports"))],
}
# What belongs to somebody's machine: not for others to read, and wrong on theirs.
MACHINES_OWN = re.compile(
    r"/(?:root|work)/"
    r"|/home/(?!user/|me/)[a-z]"
    r"|/Users/[A-Za-z]"
    r"|pypi[.]org|pythonhosted[.]org|registry[.]npmjs|/opt/(?:pypi|wheels)"
    r"|index[-]url"
)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_finds_nothing(tool):
    done = subprocess.run(
        TOOLS[tool], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{tool} says:\n{done.stdout}{done.stderr}"


def tracked() -> list[Path]:
    """Files that git knows, as far as they are there."""
    try:
        said = subprocess.check_output(
            ["git", "ls-files", "-z"], cwd=ROOT, text=True, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [file for name in said.split("\0") if name and (file := ROOT / name).is_file()]


def test_no_file_tells_of_the_machine_it_was_written_on():
    found = []
    for file in tracked():
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            if match := MACHINES_OWN.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


@pytest.mark.parametrize(
    ("sign", "most"),
    [(r"#\s*type:\s*ignore", TYPE_IGNORES), (r"#\s*noqa", NOQAS)],
    ids=["type-ignore", "noqa"],
)
def test_exceptions_become_no_more(sign, most):
    found = [
        f"{module.relative_to(ROOT)}:{number}: {line.strip()}"
        for module in MODULES
        for number, line in enumerate(module.read_text().splitlines(), 1)
        if re.search(sign, line)
    ]
    assert len(found) <= most, "\n".join(["do without:", *found])


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_can_be_read_at_one_sitting(module):
    assert len(module.read_text().splitlines()) <= LONGEST
