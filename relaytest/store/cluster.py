"""The life of a private PostgreSQL, over whatever server binaries this machine has.

Whether a server lives is decided by connecting to it, never by its pid file: that outlives a
killed server, and its number may by now be a zombie or another program. Starting and stopping
hold a lock beside the data folder, so two cold starters share one server. A data folder gets
its name only when it is whole. The server listens on a Unix socket in a folder that only its
owner may enter, and nowhere else; that is why it asks for no password.

BUGS: Where the data path is too long for a socket, the socket is under the temp folder, and all
who share the server must agree on $TMPDIR. The data folder cannot be a mount point. The server
keeps the log of this start and of the one before, and bounds neither.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO
from urllib.parse import quote

import asyncpg

from relaytest.core.errors import ClusterError
from relaytest.store.binaries import command_on, find_binaries

_SETTINGS = (
    "-c listen_addresses='' -c port=5432 -c unix_socket_permissions=0700 "
    "-c max_connections=100 -c jit=off"
)
_FORGETFUL = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
_PATIENCE = 120.0  # seconds for initdb, for a start with crash recovery, and for the lock
_CONNECT = 5.0
_PAUSE = 0.05
_ENDINGS = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 15.0))  # fast, then immediate shutdown
_BUSY = (  # a server is there, but not yet, no longer, or stuck
    TimeoutError,
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
)
# A socket's path has 104 bytes on macOS and the BSDs; "/.s.PGSQL.5432" takes 14 of them. Odd
# characters go as well: PostgreSQL and asyncpg both split a list of folders at commas.
_SOCKET_DIR = re.compile(r"[A-Za-z0-9._/+-]{1,89}")


class Cluster:
    """One PostgreSQL server of our own: `start`, use `dsn`, then `stop`.

    It outlives the process that started it, even one that is killed; the next `start` attaches
    to it. It has a session of its own: a Ctrl-C at the terminal does not reach it.

    Args:
        data: The data folder; its mode is 0700. The name + ".lock" is used as well.
        binaries: Use only the server in this folder ($RELAYTEST_PG_BIN).
        durable: False is for tests: a crash of the machine may ruin the data.

    Attributes:
        data: The data folder, absolute.
        socket_dir: The folder of the Unix socket: `data`, or if its path will not do, a
            private one under the temp folder.
        started_here: This object started the server, so its `stop` ends it.
    """

    def __init__(self, data: Path, *, binaries: Path | None = None, durable: bool = True) -> None:
        self.data = data.resolve()
        self.socket_dir = _socket_dir(self.data)
        self.started_here = False
        self._log = self.data / "server.log"
        self._binaries = binaries
        self._durable = durable

    def dsn(self, database: str = "relaytest") -> str:
        """Return the address of one database. It is complete: nothing is left to PGPORT."""
        name, host = quote(database, safe=""), quote(str(self.socket_dir))
        return f"postgresql://postgres@/{name}?host={host}&port=5432"

    async def start(self) -> None:
        """Attach to the running server or start one; make its database `relaytest` if missing.

        Raises:
            ClusterError: It could not be done. The text has the end of the server's log.
        """
        if set('"$`\\\n') & set(str(self.data)):  # pg_ctl hands the name to a shell
            raise ClusterError(f'{self.data}: choose a folder with none of "$`\\ in its name')
        async with self._alone():
            self._guard_socket_dir()
            if not await self._answers(_PATIENCE):
                self.started_here = True  # so if this is cancelled, `stop` still ends it
                self.started_here = await self._bring_up()
            await self._make_database("relaytest")

    async def stop(self, *, always: bool = False) -> None:
        """End the server if this object, or `always`, whoever started it: fast, or else at once.

        Raises:
            ClusterError: It does not end.
        """
        if self.started_here or always:
            async with self._alone():
                await self._end()
                if self.socket_dir != self.data and self.socket_dir.exists():
                    self.socket_dir.rmdir()
            self.started_here = False

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the lock, which the kernel frees if we are killed. All errors become ours."""
        try:
            with _open_lock(self.data) as lock:
                await _until(lambda: _take(lock), _PATIENCE)
                yield
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            why = str(error) or f"no answer in {_PATIENCE:.0f} s; see {self._log}"
            raise ClusterError(f"PostgreSQL in {self.data}: {why}") from error

    def _guard_socket_dir(self) -> None:
        """Refuse a folder that another user made: his server could wait in it for us."""
        owners, private = {os.geteuid()}, self.socket_dir != self.data
        if os.geteuid() == 0 and self.data.exists():
            owners.add(self.data.stat().st_uid)
        if private:
            self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        if self.socket_dir.exists():
            here = self.socket_dir.lstat()
            if here.st_uid not in owners or (private and here.st_mode & 0o170077 != 0o040000):
                raise ClusterError(
                    f"{self.socket_dir} belongs to another user or is open to others: remove "
                    "it, or choose another data folder"
                )

    async def _answers(self, patience: float) -> bool:
        """Whether a server takes connections; one that is starting or stopping is awaited."""
        async with asyncio.timeout(patience):
            while True:
                try:
                    connection = await asyncpg.connect(self.dsn("postgres"), timeout=_CONNECT)
                except (FileNotFoundError, ConnectionRefusedError):
                    return False
                except _BUSY:
                    await asyncio.sleep(_PAUSE)
                else:
                    await connection.close(timeout=_CONNECT)
                    return True

    async def _bring_up(self) -> bool:
        """Start the server, made first if there is none. False: another starter's came up."""
        command = await asyncio.to_thread(self._prepare, await self._init())
        for _ in range(100):
            code, said = await _run(command)
            if code == 0:
                return True
            if await self._answers(_PATIENCE):
                return False  # its starter was killed
            log = self._log.read_text(errors="replace") if self._log.exists() else ""
            said = log.strip() or f"{said}\nIts log is empty: is the disk full?"
            if not re.search("pre-existing shared memory|lock file .* already exists", said):
                break
            await asyncio.sleep(_PAUSE)  # children of a killed server outlive it by a moment
        raise ClusterError(f"PostgreSQL does not start in {self.data}:\n{said[-1500:]}")

    async def _init(self) -> Path:
        """Make the data folder, if there is none, beside its place; return the binaries."""
        version = self.data / "PG_VERSION"
        major = int(version.read_text().partition(".")[0]) if version.exists() else None
        binaries = await asyncio.to_thread(find_binaries, self._binaries, major=major)
        if major is not None:
            return binaries
        if self.data.exists() and any(self.data.iterdir()):
            raise ClusterError(f"{self.data} has files, but no PostgreSQL: choose another")
        fresh = Path(tempfile.mkdtemp(prefix=f"{self.data.name}.new-", dir=self.data.parent))
        try:
            command = await asyncio.to_thread(command_on, binaries / "initdb", fresh)
            options = "-U postgres -E UTF8 --locale=C --auth-local=trust --auth-host=reject"
            sync = [] if self._durable else ["--no-sync"]
            code, said = await _run([*command, *options.split(), *sync])
            if code:
                raise ClusterError(f"initdb fails in {self.data.parent}:\n{said[-1500:]}")
            await asyncio.to_thread(fresh.rename, self.data)
        finally:
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        return binaries

    def _prepare(self, binaries: Path) -> list[str]:
        """Clear what killed processes left behind; return the words that start a server.

        The settings go on the command line, so a data folder that was moved works.
        """
        command = command_on(binaries / "pg_ctl", self.data)
        if os.geteuid() == 0:
            os.chown(self.socket_dir, self.data.stat().st_uid, self.data.stat().st_gid)
        for unfinished in self.data.parent.glob(f"{self.data.name}.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        _bury(self.data / "postmaster.pid")
        _bury(self.socket_dir / ".s.PGSQL.5432.lock")
        if self._log.exists():
            self._log.rename(f"{self._log}.old")
        where = f"-c unix_socket_directories={shlex.quote(str(self.socket_dir))}"
        options = " ".join((_SETTINGS, where, "" if self._durable else _FORGETFUL))
        wait = ["-w", "-t", f"{_PATIENCE:.0f}"]
        return [*command, "start", *wait, "-l", str(self._log), "-o", options]

    async def _make_database(self, name: str) -> None:
        connection = await asyncpg.connect(self.dsn("postgres"), timeout=_CONNECT)
        outrun = asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError
        try:
            query = "SELECT 1 FROM pg_database WHERE datname = $1"
            if await connection.fetchval(query, name, timeout=_PATIENCE) is None:
                with contextlib.suppress(*outrun):  # by the last wish of a killed starter
                    await connection.execute(f'CREATE DATABASE "{name}"', timeout=_PATIENCE)
        finally:
            await connection.close(timeout=_CONNECT)

    async def _end(self) -> None:
        """Signal the server until it is gone. If it answers, the pid file is its own."""
        with contextlib.suppress(TimeoutError):
            if not await self._answers(_CONNECT):
                return
        pid = int((self.data / "postmaster.pid").read_text().partition("\n")[0])
        for ending, patience in _ENDINGS:
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                os.kill(pid, ending)
                await _until(lambda: not _lives(pid), patience)
            if not _lives(pid):
                return
        raise ClusterError(f"PostgreSQL in {self.data}, process {pid}, does not end")


def _socket_dir(data: Path) -> Path:
    if _SOCKET_DIR.fullmatch(str(data)):
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"relaytest-{os.geteuid()}-{digest}")


def _open_lock(data: Path) -> IO[str]:
    data.parent.mkdir(parents=True, exist_ok=True)
    lock = data.with_name(data.name + ".lock")
    lock.touch(mode=0o600)
    return lock.open("a")


def _take(lock: IO[str]) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


async def _until(condition: Callable[[], bool], patience: float) -> None:
    """Poll: nobody tells us what happens in another process."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)


def _bury(lock: Path) -> None:
    """Make a lock file that names no living server name a process that cannot exist.

    PostgreSQL will not start while the pid in it is a zombie or a stranger. The file stays: its
    other lines name the shared memory by which PostgreSQL sees that children of a dead server
    still write to the data.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid, _, rest = lock.read_text().partition("\n")
        if not _lives(abs(int(pid))):
            lock.write_text(f"{2**31 - 1}\n{rest}")


def _lives(pid: int) -> bool:
    """Whether `pid` is a server: not gone, not a zombie, not another program."""
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        if not Path("/proc/self").exists():
            return True  # macOS: it may be a stranger
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")  # "7 (postgres) S"
        return "postgres" in name and rest.split()[0] not in "ZX"
    return False


async def _run(command: list[str]) -> tuple[int, str]:
    """Run a command out of the terminal's reach; return its code and what it said.

    The environment is ours without PGPORT and its like, in a language that `_bring_up` reads;
    TZ spares initdb a search through all time zones.
    """
    ours = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    with tempfile.TemporaryFile() as said:  # no pipe: uvloop lets the server have it
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd="/",
            env=ours | {"LC_ALL": "C", "TZ": "UTC"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_PATIENCE + 10):
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)  # initdb and pg_ctl undo what they began
                await process.wait()
        said.seek(0)
        return code, said.read().decode(errors="replace").strip()
