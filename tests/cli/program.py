"""The program as its user has it: another process, its output, its signals, what it leaves."""

import asyncio
import contextlib
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from relaytest.store.cluster import Cluster
from tests.mta.process import fresh_address, fresh_port, session_pids

ROOT = Path(__file__).parents[2]
LONGEST = 90.0  # seconds for anything that must come; only a failure takes so long
_PAUSE = 0.02
_PROGRAM = (sys.executable, "-W", "error", "-m", "relaytest")
# A terminal belongs to the session that first opens it, so the program is started inside one.
_ON_TERMINAL = """import os, sys
os.login_tty(int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])"""


def environment(**more: str) -> dict[str, str]:
    """Return our own environment without settings of relaytest, wide enough not to wrap lines."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("RELAYTEST_") or key == "RELAYTEST_PG_BIN"
    }
    return kept | {
        "RELAYTEST_CONFIG": os.devnull,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "300",
        **more,
    }


def relaytest(
    *arguments: str | Path, stdin: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*_PROGRAM, *map(str, arguments)],
        cwd=tempfile.gettempdir(),
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder with a short name, for a socket; open, as a server of root may be another user."""
    folder = Path(tempfile.mkdtemp(prefix="relaytest-")).resolve()
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def servers_in(folder: Path) -> list[int]:
    """Postmasters and their children work in their data folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(folder):
                found.append(int(link.parts[2]))
    return found


class Up:
    """One `relaytest up`: as a context it is started, and ended with all that it started.

    Attributes:
        web: host:port of the page; `sink` and `dns` likewise.
        session: Number of its session and process group.
    """

    def __init__(
        self, home: Path, *arguments: str, command: str = "up", settings: str = "", **more: str
    ) -> None:
        """Choose free places for it.

        Args:
            home: For the configuration, the output, and below `data` the data.
            arguments: More of them.
            command: Another one, which takes the same.
            settings: More TOML.
            more: Environment variables.
        """
        host = fresh_address()
        self.web, self.sink, self.dns = (f"{host}:{fresh_port(host)}" for _ in range(3))
        self.data = home / "data"
        self.config = home / f"{host}.toml"
        self._output = home / f"{host}.output"
        self._output.touch()
        self._settings, self._more = settings, more
        self.write_config()
        self.arguments = [command, "--data", str(self.data), "--config", str(self.config)]
        self.arguments += arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._hung_up = threading.Event()
        self._terminal = -1
        self.session = 0

    def write_config(self) -> None:
        """Write the configuration; again, if a place has been changed."""
        self.config.write_text(
            f'sink.listen = ["{self.sink}"]\nweb.listen = "{self.web}"\n'
            f'answer.listen = "{self.dns}"\n{self._settings}\n'
        )

    @property
    def output(self) -> str:
        """What it said so far, on both streams."""
        return self._output.read_text(errors="replace")

    def start(self, command: Sequence[str] = (), user: int | None = None) -> "Up":
        """Start it in a session of its own; come back at once."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*(command or (*_PROGRAM, *self.arguments))],
                cwd="/",
                env=environment(**self._more),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        self.session = self._process.pid
        return self

    def start_on_terminal(self) -> "Up":
        """Start it on a terminal, where Ctrl-C and hanging up are what they are to a user."""
        self._terminal, theirs = pty.openpty()
        command = [sys.executable, "-c", _ON_TERMINAL, str(theirs), *_PROGRAM, *self.arguments]
        self._process = subprocess.Popen(command, cwd="/", env=environment(), pass_fds=[theirs])
        os.close(theirs)
        self.session = self._process.pid
        self._reader = threading.Thread(target=self._copy)
        self._reader.start()
        return self

    def _copy(self) -> None:
        """Read what it writes, or a full terminal would stop it; then close the terminal."""
        readable = select.poll()
        readable.register(self._terminal, select.POLLIN)
        with self._output.open("ab", buffering=0) as output, contextlib.suppress(OSError):
            while not self._hung_up.is_set():
                if readable.poll(1000 * _PAUSE):
                    output.write(os.read(self._terminal, 4096))  # an error when it has ended
        os.close(self._terminal)

    def press(self, key: bytes) -> None:
        """Type on the terminal."""
        os.write(self._terminal, key)

    def hang_up(self) -> None:
        """Close the terminal under it."""
        self._hung_up.set()
        if self._reader is not None:
            self._reader.join(LONGEST)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, as a terminal does."""
        os.killpg(self.session, number)

    def kill(self) -> None:
        """End the program, and only it, without a chance to tidy up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(LONGEST)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process is not None and self._process.poll() is not None

    def until(self, condition: Callable[[], object], what: str, *, may_end: bool = False) -> "Up":
        """Wait for what a running program brings about."""
        deadline = time.monotonic() + LONGEST
        while not condition():
            assert may_end or not self.ended, self.told(f"ended before {what}")
            assert time.monotonic() < deadline, self.told(f"{what} did not come in {LONGEST} s")
            time.sleep(_PAUSE)
        return self

    def ready(self) -> "Up":
        """Wait until the page answers."""
        return self.until(self.answers, "its page")

    def answers(self) -> bool:
        """Whether the page answers."""
        try:
            with urllib.request.urlopen(f"http://{self.web}/", timeout=5) as page:
                return bool(page.status == 200)
        except OSError:
            return False

    def end(self) -> int:
        """Wait for the end; return the exit status."""
        assert self._process is not None
        try:
            status = self._process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.told(f"did not end in {LONGEST} s")) from None
        if self._reader is not None:
            self._reader.join(LONGEST)
        return status

    def left(self) -> list[str]:
        """What is still there of it: processes, servers, open ports."""
        found = [f"process {pid}" for pid in session_pids(self.session)]
        found += [f"server {pid}" for pid in servers_in(self.data)]
        return found + [place for place in (self.web, self.sink, self.dns) if is_open(place)]

    def told(self, trouble: str) -> str:
        """Write a failure: what went wrong, and what the program said."""
        return f"`up` {trouble}. It said:\n{self.output}"

    def __enter__(self) -> "Up":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in session_pids(self.session) if self.session else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(LONGEST)
        self.hang_up()
        stop_server(self.data / "pg")


def stop_server(data: Path) -> None:
    """End a private server whose `up` was killed: it outlives that, by design."""
    if servers_in(data):
        asyncio.run(Cluster(data).stop(always=True))


def is_open(place: str) -> bool:
    """Whether somebody listens there."""
    host, _, port = place.rpartition(":")
    with socket.socket() as peer:
        return peer.connect_ex((host, int(port))) == 0
