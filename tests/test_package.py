"""The wheel: built, installed with what it needs, and run far from the checkout."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from relaytest import __version__
from relaytest.daemons import shipped
from relaytest.store import migrations

ROOT = Path(__file__).parents[1]
ALL = [migration.name for migration in migrations.shipped()]
OFFLINE = re.compile(r"NewConnectionError|name resolution|Network is unreachable|NameResolution")
_number = itertools.count()


def run(*command: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this process: not its path, not its settings."""
    bare = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "RELAYTEST_", "VIRTUAL_ENV"))
    }
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=bare | more,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built with what is installed here: nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = run(sys.executable, "-m", "build", *words, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of programs of a fresh environment that has the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    programs = folder / "venv" / "bin"
    words = ["install", "--quiet", "--disable-pip-version-check", wheel]
    done = run(programs / "python", "-m", "pip", *words, cwd=folder)
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip("what the wheel needs cannot be fetched: no network")
    assert done.returncode == 0, done.stdout + done.stderr
    return programs


@pytest.fixture
def empty(cluster) -> Iterator[dict[str, str]]:
    """Settings that name a new database without our schema."""
    name = f"package_{next(_number)}"
    asyncio.run(administer(cluster.dsn("postgres"), f"CREATE DATABASE {name} TEMPLATE template0"))
    yield {"RELAYTEST_DATABASE__DSN": cluster.dsn(name), "RELAYTEST_CONFIG": os.devnull}
    asyncio.run(administer(cluster.dsn("postgres"), f"DROP DATABASE {name} WITH (FORCE)"))


async def administer(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


def test_the_wheel_holds_every_file_of_the_program(wheel):
    package = ROOT / "relaytest"
    wanted = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {f"relaytest/_sql/{path.name}" for path in (ROOT / "sql").glob("*.sql")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert {"relaytest/py.typed", "relaytest/core/battery.toml"} < held
    assert "relaytest/daemons/web/templates/base.html" in held
    assert f"relaytest/_sql/{ALL[0]}.sql" in held


def test_the_installed_program_is_the_one_of_the_wheel(installed, tmp_path):
    code = "import relaytest; print(relaytest.__file__)"
    done = run(installed / "python", "-c", code, cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent), done.stderr


def test_it_runs_as_a_program_and_as_a_module(installed, tmp_path):
    for command in ([installed / "relaytest"], [installed / "python", "-m", "relaytest"]):
        done = run(*command, "version", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{__version__}\n"), done.stderr


def test_its_battery_is_complete(installed, tmp_path):
    done = run(installed / "relaytest", "battery", "--json", cwd=tmp_path)
    ids = [form["id"] for form in json.loads(done.stdout)]
    assert ids == [form.id for form in shipped.battery().forms], done.stderr


def test_it_makes_its_schema(installed, tmp_path, empty):
    relaytest = installed / "relaytest"
    before = run(relaytest, "db", "status", cwd=tmp_path, **empty)
    assert before.returncode == 1, before.stderr
    done = run(relaytest, "db", "upgrade", "--json", cwd=tmp_path, **empty)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"version": len(ALL), "applied": ALL}
    after = run(relaytest, "db", "status", cwd=tmp_path, **empty)
    assert (after.returncode, after.stdout) == (0, f"schema {len(ALL)}; up to date\n")


def test_its_pages_find_their_templates(installed, tmp_path):
    code = "import jinja2; print(*jinja2.PackageLoader('relaytest.daemons.web').list_templates())"
    done = run(installed / "python", "-c", code, cwd=tmp_path)
    templates = sorted((ROOT / "relaytest/daemons/web/templates").glob("*"))
    assert done.stdout.split() == [path.name for path in templates], done.stderr
