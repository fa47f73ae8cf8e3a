"""Where things stand: each module has its tests, each import is declared."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The clock and the reading of our own files: whoever uses them tests them.
TRIFLES = {"clock", "shipped"}


def modules(package: str) -> set[str]:
    """Names of the modules and packages in a package of ours."""
    folder = ROOT / "relaytest" / package
    inside = {path.parent.name for path in folder.glob("*/__init__.py")}
    return {path.stem for path in folder.glob("*.py")} - {"__init__"} | inside


def with_tests(package: str) -> set[str]:
    """Names of the modules that a test file of a package is about."""
    folder = ROOT / "tests" / package
    return {path.stem.removeprefix("test_") for path in folder.glob("test_*.py")}


def test_each_module_of_the_core_has_its_test_file():
    assert modules("core") - with_tests("core") == set()


def test_each_test_file_of_the_core_is_about_a_module():
    assert with_tests("core") - modules("core") == set()


def test_each_daemon_has_its_test_file():
    assert modules("daemons") - TRIFLES - with_tests("daemons") == set()


def distribution(requirement: str) -> str:
    """Name of what a requirement asks for, in one spelling."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return spelling(name[0])


def spelling(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(file: Path) -> set[str]:
    """Top-level names of what a file imports, whether it is at its top or not."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"relaytest"}


IMPORTS = {
    name: file.relative_to(ROOT)
    for file in sorted((ROOT / "relaytest").rglob("*.py"))
    for name in imported(file)
}
OPTIONAL = {"uvloop": "speed"}  # tried, and done without
PARTS = {"pydantic_core": "pydantic"}  # one cannot be had without the other


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_every_import_is_declared(name):
    extra = OPTIONAL.get(name)
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    declared = {distribution(requirement) for requirement in wanted}
    whole = PARTS.get(name, name)
    provided_by = {spelling(one) for one in packages_distributions().get(whole, [])}
    assert provided_by & declared, f"{IMPORTS[name]} imports {name}: {provided_by or 'unknown'}"
