"""`relaytest up`, started as a user starts it, with a PostgreSQL of its own."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import dns.message
import dns.query
import dns.rcode
import pytest

from relaytest.core.config import split_endpoint
from relaytest.store.cluster import Cluster
from tests.cli.program import LONGEST, ROOT, Up, environment, relaytest, temporary_home
from tests.mta.process import fresh_address

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOBODY = 65534
WITH_A_SINK = 'sink.domains = ["sink.example"]'


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


@pytest.fixture(scope="module")
def served() -> Iterator[Up]:
    """One that runs in a narrow window, for tests that leave it as it is."""
    with temporary_home() as folder, Up(folder, COLUMNS="40") as program:
        yield program.start().ready()


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A home with data that all tests share, since initdb is slow: not in use between tests."""
    with temporary_home() as folder, Up(folder) as program:
        program.start().ready().signal(signal.SIGTERM)
        assert program.end() == 0, program.told("did not end well")
        yield folder


async def fetch(program: Up, sql: str) -> object:
    connection = await asyncpg.connect(Cluster(program.data / "pg").dsn())
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def ask(program: Up, sql: str) -> object:
    return asyncio.run(fetch(program, sql))


def ended_well(program: Up) -> bool:
    """It came to its end by itself, and nothing of it is left."""
    status, left = program.end(), program.left()
    assert status == 0, program.told(f"ended with status {status}")
    assert not left, program.told(f"left behind: {left}")
    assert "Traceback" not in program.output, program.told("has a bug")
    assert "Exception ignored" not in program.output, program.told("has left something open")
    return True


def initdb_runs(program: Up) -> bool:
    return any(program.data.glob("pg.new-*/PG_VERSION"))


# --- It serves


def test_it_prints_where_everything_is(served):
    shown = dict(line.split("  ", 1) for line in served.output.splitlines() if "  " in line)
    found = {name.strip(): where.strip() for name, where in shown.items()}
    assert found["web"] == f"http://{served.web}/"
    assert found["sink"].startswith(served.sink)
    assert found["dns"] == f"{served.dns}  zone relays.example"
    assert found["zone files"] == str(served.data / "zone")
    assert found["data"] == str(served.data)
    assert found["database"].startswith(Cluster(served.data / "pg").dsn())
    assert "sink.domains" in found["worker"]


@pytest.mark.parametrize("transport", [dns.query.udp, dns.query.tcp], ids=["udp", "tcp"])
@pytest.mark.parametrize(
    ("name", "answer"), [("2.0.0.127", "127.0.0.2"), ("1.0.0.127", None)], ids=["listed", "never"]
)
def test_dns_answers_the_test_entries(served, transport, name, answer):
    host, port = split_endpoint(served.dns)
    question = dns.message.make_query(f"{name}.relays.example", "A")
    response = transport(question, host, port=port, timeout=LONGEST)
    found = [rdata.to_text() for rrset in response.answer for rdata in rrset]
    expected = dns.rcode.NOERROR if answer else dns.rcode.NXDOMAIN
    assert (response.rcode(), found) == (expected, [answer] if answer else [])


def test_the_sink_greets(served):
    with (
        socket.create_connection(split_endpoint(served.sink), timeout=LONGEST) as peer,
        peer.makefile("rb") as replies,
    ):
        assert replies.readline().startswith(b"220 ")
        peer.sendall(b"QUIT\r\n")
        assert replies.readline().startswith(b"221 ")


def test_the_other_commands_find_its_database_by_the_data_folder(served):
    done = relaytest("status", "--json", "--data", served.data)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["listed"] == 0


def test_the_other_commands_find_its_database_by_the_environment(served):
    done = relaytest("db", "status", "--json", RELAYTEST_DATA=str(served.data))
    assert json.loads(done.stdout)["pending"] == []


def test_a_second_start_on_the_same_data_is_refused_and_harms_nobody(served):
    before = (served.data / "up.lock").read_text()
    done = relaytest("up", "--data", served.data, "--config", served.config)
    assert done.returncode == 69
    assert f"already running here: process {before} uses {served.data}" in done.stderr
    assert (served.data / "up.lock").read_text() == before
    assert served.answers()


def test_a_start_on_other_data_but_the_same_ports_names_the_key_and_the_address(served, home):
    done = relaytest("up", "--data", home / "data", "--config", served.config)
    assert done.returncode == 78
    assert f"sink.listen: cannot listen on {served.sink}: Address already in use" in done.stderr
    assert not (home / "data" / "pg").exists()
    assert served.answers()


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("sink", socket.SOCK_STREAM),
        ("web", socket.SOCK_STREAM),
        ("answer", socket.SOCK_STREAM),
        ("answer", socket.SOCK_DGRAM),
    ],
    ids=["sink", "web", "answer-tcp", "answer-udp"],
)
def test_every_place_that_is_taken_is_named(home, key, kind):
    host = fresh_address()
    with socket.socket(type=kind) as taken, Up(home) as program:
        taken.bind((host, 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        place = f"{host}:{taken.getsockname()[1]}"
        setattr(program, "dns" if key == "answer" else key, place)
        program.write_config()
        assert program.start().end() == 78
        assert f"{key}.listen: cannot listen on {place}: Address already" in program.output


def test_an_address_of_another_machine_is_named(home):
    with Up(home) as program:
        program.web = "192.0.2.1:80"
        program.write_config()
        assert program.start().end() == 78
        assert "web.listen: cannot listen on 192.0.2.1:80: Cannot assign" in program.output


def test_a_configured_database_is_used_and_none_started(home, dsn):
    with Up(home, RELAYTEST_DATABASE__DSN=dsn) as program:
        program.start().ready()
        assert "as configured" in program.output
        assert not (program.data / "pg").exists()
        program.signal(signal.SIGINT)
        assert ended_well(program)


def test_a_database_of_a_newer_program_is_left_alone(home, dsn):
    asyncio.run(make_newer(dsn))
    with Up(home, RELAYTEST_DATABASE__DSN=dsn) as program:
        assert program.start().end() == 78
        assert "install the newer relaytest" in program.output


async def make_newer(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO relaytest.schema_version VALUES (999, '0999_x', 'x')")
    await connection.close()


def test_a_data_folder_that_is_a_file_is_told(home):
    (home / "data").touch()
    with Up(home) as program:
        assert program.start().end() == 69
        assert f"relaytest: [Errno 17] File exists: '{program.data}'" in program.output


# --- It ends


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_it_and_leaves_nothing(made, number):
    with Up(made) as program:
        program.start().ready().signal(number)
        assert ended_well(program)


def test_ctrl_c_on_a_terminal_ends_it_and_leaves_nothing(made):
    with Up(made) as program:
        program.start_on_terminal().ready().press(b"\x03")
        assert ended_well(program)


def test_a_terminal_that_hangs_up_ends_it_and_leaves_nothing(made):
    with Up(made) as program:
        program.start_on_terminal().ready().hang_up()
        program.end()
        assert program.left() == []


def test_a_terminal_that_hangs_up_during_the_first_start_leaves_nothing(home):
    with Up(home) as program:
        program.start_on_terminal().until(
            lambda: [*program.data.glob("pg.new-*/PG_VERSION")], "initdb"
        )
        program.hang_up()
        program.end()
        assert program.left() == []


def test_a_signal_during_the_first_start_ends_it_and_leaves_nothing(home):
    with Up(home) as program:
        program.start().until(lambda: initdb_runs(program), "initdb")
        program.signal(signal.SIGINT)
        assert ended_well(program)


def test_a_second_signal_breaks_off_a_stop_that_takes_long(made):
    """The worker cannot sign off: somebody has locked its table."""
    with Up(made, settings=f'{WITH_A_SINK}\ndatabase.timeout = "1h"') as program:
        program.start().ready()
        asyncio.run(lock_the_workers_and_signal_twice(program))
        status = program.end()
        assert status == 130, program.told(f"ended with status {status}")
        assert program.left() == []
        assert "Traceback" not in program.output, program.told("has a bug")


async def lock_the_workers_and_signal_twice(program: Up) -> None:
    joined = "SELECT count(*) FROM relaytest.worker"
    blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    while not await fetch(program, joined):  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.02)
    connection = await asyncpg.connect(Cluster(program.data / "pg").dsn())
    await connection.execute("BEGIN; LOCK TABLE relaytest.worker")
    program.signal(signal.SIGINT)
    while program.answers() or not await fetch(program, blocked):
        assert not program.ended, program.told("did not wait for its worker")
        await asyncio.sleep(0.02)
    program.signal(signal.SIGINT)
    await asyncio.to_thread(program.end)
    connection.terminate()


# --- It starts again


def test_the_data_outlives_a_stop(made):
    with Up(made) as program:
        program.start().ready()
        target = ask(
            program,
            "INSERT INTO relaytest.retest (target, reason) VALUES ('8.8.8.8', 'operator')"
            " RETURNING target",
        )
        program.signal(signal.SIGINT)
        assert ended_well(program)
    with Up(made) as again:
        again.start().ready()
        assert ask(again, "SELECT target FROM relaytest.retest") == target == "8.8.8.8"


def test_a_killed_one_is_followed_by_another_on_its_data(made):
    with Up(made) as program:
        program.start().ready()
        ask(program, "CREATE TABLE IF NOT EXISTS kept AS SELECT 7 AS v")
        program.kill()
        with Up(made) as again:
            again.start().ready()
            assert ask(again, "SELECT v FROM kept") == 7
            again.signal(signal.SIGINT)
            assert ended_well(again)


def test_of_two_starts_at_once_on_one_data_folder_exactly_one_serves(home):
    with Up(home) as one, Up(home) as two:
        one.start()
        two.start()
        one.until(lambda: two.ended or one.ended, "the end of one of them", may_end=True)
        loser, winner = (one, two) if one.ended else (two, one)
        assert loser.end() == 69, loser.told("ended")
        assert "already running" in loser.output
        winner.ready().signal(signal.SIGINT)
        assert ended_well(winner)


# --- The demo


@pytest.fixture
def alone() -> Iterator[None]:
    """The demo's servers have fixed addresses: one at a time."""
    lock = Path(tempfile.gettempdir(), f"relaytest-demo-{os.geteuid()}.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


STORY = (
    "127.0.66.2 (mail.closed.example) is tested  closed: ",
    "127.0.66.1 (mail.open.example) is tested  open: The server relays: ",
    "DNS answers for 1.66.0.127.relays.example  A 127.0.0.2",
    "127.0.66.1 is tested again  closed: ",
    "127.0.66.1 is off the list; DNS says NXDOMAIN  NXDOMAIN",
)


def test_the_demo_shows_the_main_job_and_ends(home, alone):
    with Up(home, "--demo", "--once") as program:
        program.start()
        assert ended_well(program)
        places = [program.output.find(line) for line in STORY]
        assert -1 not in places, program.told("does not tell all")
        assert places == sorted(places)


def test_the_demo_can_be_watched_twice(home, alone):
    with Up(home, "--demo", "--once") as program:
        program.start()
        assert ended_well(program)
        program.start()
        assert ended_well(program)
        assert all(program.output.count(line) == 2 for line in STORY), program.told("differs")


def test_the_demo_stays_until_ctrl_c(home, alone):
    with Up(home, "--demo") as program:
        program.start_on_terminal().until(lambda: "Look around" in program.output, "its end")
        assert program.answers()
        program.press(b"\x03")
        assert ended_well(program)


def test_ctrl_c_in_the_middle_of_the_demo_ends_it(home, alone):
    with Up(home, "--demo") as program:
        program.start_on_terminal().until(lambda: "is tested" in program.output, "its middle")
        program.press(b"\x03")
        assert ended_well(program)


def test_a_terminal_that_hangs_up_in_the_middle_of_the_demo_ends_it(home, alone):
    with Up(home, "--demo") as program:
        program.start_on_terminal().until(lambda: "is tested" in program.output, "its middle")
        program.hang_up()
        program.end()
        assert program.left() == []


# --- As another user


def python_of(user: int) -> list[str] | None:
    """A Python that `user` may run with our packages: ours, or the system's of our version."""
    libraries = sysconfig.get_paths()["purelib"]
    for python in (sys.executable, f"/usr/bin/python{sysconfig.get_python_version()}"):
        command = [python, "-W", "error", "-m", "relaytest"]
        try:
            subprocess.run(
                [*command, "version"],
                cwd="/",
                env=environment(PYTHONPATH=f"{ROOT}:{libraries}"),
                user=user,
                group=user,
                extra_groups=[],
                capture_output=True,
                timeout=LONGEST,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are run by a user already")
def test_it_needs_no_root(home):
    command = python_of(NOBODY)
    if command is None:
        pytest.skip("another user may not enter the folder of this Python or of relaytest")
    os.chown(home, NOBODY, NOBODY)
    libraries = sysconfig.get_paths()["purelib"]
    with Up(home, PYTHONPATH=f"{ROOT}:{libraries}", HOME=str(home)) as program:
        program.start([*command, *program.arguments], user=NOBODY).ready()
        assert (program.data / "pg").stat().st_uid == NOBODY
        program.signal(signal.SIGINT)
        assert ended_well(program)
