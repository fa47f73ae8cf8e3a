"""The daemons as a service manager has them: ready, alive, ending; its sockets and its secrets."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from relaytest.cli.settings import load
from relaytest.core.errors import ConfigError
from tests.cli.program import LONGEST, Up, environment, temporary_home
from tests.mta.packages import require_installed
from tests.mta.process import fresh_address, fresh_port

ROOT = Path(__file__).parents[2]
UNITS = sorted(path.name for path in (ROOT / "systemd").glob("relaytest-*.service"))
# A manager's sockets begin at descriptor 3, and are for the process that it names.
_HELD = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "relaytest", *sys.argv[2:]])"""


def heard_until(manager: socket.socket, wanted: bytes) -> list[bytes]:
    manager.settimeout(LONGEST)
    said = []
    while wanted not in said:
        said += manager.recv(4096).split(b"\n")
    return said


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as place:
        place.bind(str(tmp_path / "notify"))
        yield place


def start(dsn: str, tmp_path, *words: str, fd: int | None = None, **more: str):
    front = [sys.executable, "-m", "relaytest"]
    if fd is not None:
        front = [sys.executable, "-c", _HELD, str(fd)]
    return subprocess.Popen(
        [*front, *words],
        cwd=tmp_path,
        env=environment(
            RELAYTEST_DATABASE__DSN=dsn,
            RELAYTEST_DATA=str(tmp_path),
            RELAYTEST_SINK__DOMAINS='["sink.example"]',
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            **more,
        ),
        stderr=subprocess.PIPE,
        pass_fds=() if fd is None else (fd,),
        start_new_session=True,  # without a terminal, as a service is
    )


@pytest.mark.parametrize("daemon", ["worker", "scheduler", "publisher", "notifier", "web", "sink"])
def test_a_daemon_is_ready_lives_and_ends(dsn, tmp_path, manager, daemon):
    with start(dsn, tmp_path, daemon, WATCHDOG_USEC="300000") as process:
        said = heard_until(manager, b"READY=1")
        heard_until(manager, b"WATCHDOG=1")
        heard_until(manager, b"WATCHDOG=1")
        assert b"STOPPING=1" not in said
        process.send_signal(signal.SIGTERM)
        heard_until(manager, b"STOPPING=1")
        _, complaint = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, complaint


def greeting(place: tuple[str, int]) -> bytes:
    with socket.create_connection(place, timeout=LONGEST) as client:
        return client.recv(100)


def test_the_sink_takes_the_manager_s_socket_and_refuses_nobody_while_it_restarts(
    dsn, tmp_path, manager
):
    with socket.create_server((fresh_address(), 0), backlog=50) as held:
        place = held.getsockname()[:2]
        listen = f'["{place[0]}:{place[1]}"]'
        for _ in range(2):
            with start(
                dsn,
                tmp_path,
                "sink",
                fd=held.fileno(),
                LISTEN_FDS="1",
                RELAYTEST_SINK__LISTEN=listen,
            ) as process:
                heard_until(manager, b"READY=1")
                assert greeting(place).startswith(b"220 ")
                process.send_signal(signal.SIGTERM)
                _, complaint = process.communicate(timeout=LONGEST)
            assert process.returncode == 0, complaint
            socket.create_connection(place, timeout=5).close()  # between the two it is taken


def test_a_socket_that_nobody_would_listen_to_is_refused(dsn, tmp_path, manager):
    with (
        socket.create_server((fresh_address(), 0)) as held,
        start(dsn, tmp_path, "sink", fd=held.fileno(), LISTEN_FDS="1") as process,
    ):
        _, complaint = process.communicate(timeout=LONGEST)
    assert (process.returncode, b"which is not in sink.listen" in complaint) == (78, True)


# --- reload


class Reloaded:
    """A daemon whose configuration changes; as a context it runs."""

    def __init__(self, dsn: str, tmp_path: Path, manager: socket.socket, daemon: str) -> None:
        self.file, self._manager = tmp_path / "relaytest.toml", manager
        self._start = dsn, tmp_path, daemon
        self.place = f"{(host := fresh_address())}:{fresh_port(host)}"
        self.write("")

    def write(self, more: str) -> None:
        self.file.write_text(
            f'sink.listen = ["{self.place}"]\nweb.listen = "{self.place}"\n'
            f'identity.contact = "x"\n{more}\n'
        )

    def __enter__(self) -> "Reloaded":
        dsn, tmp_path, daemon = self._start
        self.process = start(dsn, tmp_path, daemon, RELAYTEST_CONFIG=str(self.file))
        heard_until(self._manager, b"READY=1")
        return self

    def reload(self, more: str) -> None:
        self.write(more)
        self.process.send_signal(signal.SIGHUP)

    def until_reloaded(self) -> None:
        heard_until(self._manager, b"RELOADING=1")
        heard_until(self._manager, b"READY=1")

    def until_said(self, wanted: str) -> str:
        assert self.process.stderr is not None
        said = ""
        while wanted not in said:
            line = self.process.stderr.readline().decode()
            assert line, said
            said += line
        return said

    def connect(self) -> bytes:
        host, _, port = self.place.rpartition(":")
        return greeting((host, int(port)))

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=LONGEST)
        assert self.process.returncode == 0


def test_a_reload_changes_what_it_can_and_refuses_no_connection(dsn, tmp_path, manager):
    with Reloaded(dsn, tmp_path, manager, "sink") as sink:
        assert sink.connect().startswith(b"220 sink.example ")
        sink.reload('identity.ehlo_name = "second.example"')
        while not (said := sink.connect()).startswith(b"220 second.example "):
            assert said.startswith((b"220 sink.example ", b"421 "))
        sink.until_reloaded()
        sink.reload("")
        sink.until_reloaded()
        assert sink.connect().startswith(b"220 sink.example ")


def test_the_web_keeps_its_socket_through_a_reload(dsn, tmp_path, manager):
    with Reloaded(dsn, tmp_path, manager, "web") as web:
        for zone in ("second.example", "third.example"):
            web.reload(f'publish.zone = "{zone}"')
            while zone not in urllib.request.urlopen(f"http://{web.place}/").read().decode():
                pass
            web.until_reloaded()


def test_a_broken_file_is_refused_and_the_old_configuration_stays(dsn, tmp_path, manager):
    with Reloaded(dsn, tmp_path, manager, "sink") as sink:
        sink.reload("sink.idle = 'for ever'")
        assert "sink.idle" in sink.until_said("configuration not reloaded")
        assert sink.connect().startswith(b"220 sink.example ")
        sink.reload("sink.idle = '9min'")
        sink.until_reloaded()


def test_what_needs_a_restart_is_named_and_stays(dsn, tmp_path, manager):
    with Reloaded(dsn, tmp_path, manager, "sink") as sink:
        sink.reload("database.pool = 3\nlog.level = 'debug'")
        assert "database.pool" in sink.until_said("change with a restart only")
        assert "log.level" in sink.until_said("configuration reloaded")
        sink.until_reloaded()


def test_who_cannot_begin_with_the_new_configuration_goes_back(dsn, tmp_path, manager):
    with Reloaded(dsn, tmp_path, manager, "publisher") as publisher:
        publisher.reload("publish.signing_key = '/nowhere'")
        assert "publish.signing_key" in publisher.until_said("back to the configuration before")
        heard_until(manager, b"READY=1")
        publisher.reload("publish.ttl = '9min'")
        publisher.until_said("configuration reloaded")
        publisher.until_reloaded()


def test_a_daemon_on_a_terminal_ends_when_that_hangs_up():
    with temporary_home() as home, Up(home, command="sink") as sink:
        dsn = f"postgresql://nobody@/nowhere?host={home}"
        sink.config.write_text(f'{sink.config.read_text()}\ndatabase.dsn = "{dsn}"\n')
        sink.start_on_terminal().until(lambda: "database is away" in sink.output, "its wait")
        sink.hang_up()
        assert sink.end() == 0


# --- upgrade


async def test_a_daemon_ends_when_the_database_is_for_a_newer_program(
    dsn, connection, tmp_path, manager
):
    with start(dsn, tmp_path, "worker") as process:
        heard_until(manager, b"READY=1")
        newer = "INSERT INTO relaytest.schema_version VALUES (9000, '9000_newer', 'x')"
        await connection.execute(newer)
        _, complaint = process.communicate(timeout=LONGEST)
    assert (process.returncode, b"install the newer relaytest" in complaint) == (78, True)


# --- secrets


def test_a_credential_is_the_value_of_the_option_that_it_is_named_after(monkeypatch, tmp_path):
    (tmp_path / "database.dsn").write_text("postgresql://u:secret@h/d\n")
    (tmp_path / "something-else").write_text("x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("RELAYTEST_CONFIG", os.devnull)
    assert load(None).database.dsn == "postgresql://u:secret@h/d"
    monkeypatch.setenv("RELAYTEST_DATABASE__DSN", "postgresql://other/d")
    assert load(None).database.dsn == "postgresql://other/d"


def test_a_credential_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    (tmp_path / "database.dsn").write_bytes(b"\xff")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("RELAYTEST_CONFIG", os.devnull)
    with pytest.raises(ConfigError, match=r"credential database\.dsn: cannot be read"):
        load(None)


# --- units


@pytest.fixture
def analyze(tmp_path):
    """Run systemd-analyze on the units as they are installed."""
    program_path = require_installed("systemd-analyze", package="systemd")
    target = tmp_path / "etc/systemd/system"
    shutil.copytree(ROOT / "systemd", target)
    for program in (tmp_path / "usr/local/bin/relaytest", tmp_path / "bin/sh"):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [program_path, "--no-pager", f"--root={tmp_path}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_there_is_a_unit_for_each_daemon():
    names = ("notifier", "publisher", "scheduler", "sink", "web", "worker@")
    assert [f"relaytest-{name}.service" for name in names] == UNITS


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_may_do_little(analyze, unit):
    done = analyze("security", "--offline=true", "--threshold=15", unit.replace("@.", "@1."))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_systemd_finds_nothing_wrong_with_the_units(analyze):
    units = [unit.replace("@.", "@1.") for unit in UNITS]
    units += ["relaytest-sink.socket", "relaytest.target"]
    done = analyze("verify", "--man=no", "--recursive-errors=no", *units)
    wrong = [line for line in done.stderr.splitlines() if "relaytest" in line]
    assert wrong == []
