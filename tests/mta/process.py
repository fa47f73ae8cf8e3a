"""Processes of real servers: addresses for them, waiting with a deadline, stopping them by pid.

Every server gets a session of its own (setsid), and a session id cannot be given to strangers
while one of its processes lives. So what a server started can be found, and ended, without a
name and without touching anybody else's server.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START = 20.0  # seconds; a server answers within a fraction of one, a loaded machine is slow
STOP = 5.0  # seconds from SIGTERM to SIGKILL
PAUSE = 0.005  # seconds between two looks
TAIL = 40  # log lines shown in a failure
CLAIM_PORT = 40999  # bound, never listened on: see `_claim`
NOWHERE = ("127.0.0.200", 1)  # nobody listens there: mail sent there stays in the queue
ACCOUNT = "nobody"  # every Unix has it, and it owns no files


class ServerError(Exception):
    """A real server did not start, stop or answer. The text ends with the tail of its log."""


def fresh_address() -> str:
    """Return a 127.66.x.y address that no running test process has been given.

    127.66.0.y stays free for addresses chosen by hand.
    """
    try:
        return next(_addresses)
    except StopIteration:
        raise ServerError("every address in 127.66.0.0/16 is taken") from None


def _unclaimed() -> Iterator[str]:
    """Claim networks of 254 addresses as they are needed; a process begins again when forked."""
    for step in range(255):
        network = f"127.66.{(os.getpid() + step) % 255 + 1}"
        if _claim(f"{network}.0"):
            yield from (f"{network}.{last}" for last in range(1, 255))


def _again() -> None:
    global _addresses  # noqa: PLW0603 - what the parent claimed is the parent's
    _addresses = _unclaimed()


_addresses = _unclaimed()
os.register_at_fork(after_in_child=_again)


def fresh_block() -> str:
    """Return the first two numbers of a 127.n.0.0/16 that no running test process has been given.

    For thousands of targets, each with an address of its own.
    """
    for step in range(180):
        block = f"127.{70 + (os.getpid() + step) % 180}"
        if _claim(f"{block}.0.1"):
            return block
    raise ServerError("every block from 127.70 to 127.249 is taken")


def _claim(address: str) -> bool:
    """Bind a socket to the address for the rest of this process's life, if nobody else has.

    So the kernel keeps parallel runs apart, and forgets the claim of a run that was killed. The
    pid spreads the first guess.
    """
    claim = socket.socket()
    try:
        claim.bind((address, CLAIM_PORT))
    except OSError:
        claim.close()
        return False
    claim.detach()  # stays open until the process ends, and no ResourceWarning about it
    return True


def fresh_port(address: str) -> int:
    """Return a TCP port that is free on an address just now; for ::1, which there is one of."""
    with socket.socket(family(address)) as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def family(address: str) -> socket.AddressFamily:
    """Tell IPv6 from IPv4 by the colon."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def bindable(address: str) -> bool:
    """Say whether this machine has an address; many containers have no ::1."""
    try:
        fresh_port(address)
    except OSError:
        return False
    return True


def bracketed(address: str) -> str:
    """Write an address so that a port can follow: [::1], but 127.66.1.1."""
    return f"[{address}]" if ":" in address else address


def greets(address: str, port: int) -> bool:
    """Say whether an SMTP server greets with 220; a greeting, since a listener proves little."""
    try:
        with (
            socket.create_connection((address, port), timeout=START) as peer,
            peer.makefile("rb") as replies,
        ):
            greeting = replies.readline()
            # Else the server logs a lost connection. Its reply is not worth waiting for: Exim
            # takes 0.2 s over it.
            peer.sendall(b"QUIT\r\n")
    except OSError:
        return False
    return greeting.startswith(b"220")


def account() -> tuple[int, int]:
    """Return the uid and gid that `unprivileged` commands run under."""
    if os.geteuid() != 0:
        return os.getuid(), os.getgid()
    entry = pwd.getpwnam(ACCOUNT)
    return entry.pw_uid, entry.pw_gid


def unprivileged(command: Sequence[str | Path], uid: int, gid: int) -> list[str | Path]:
    """Wrap a command so that it does not run as root, which Exim and rbldnsd insist on.

    Two capabilities stay, as ambient ones, which execve keeps: ports below 1024, and files
    wherever they are, because pytest's temporary directories are closed to everybody but the
    user who runs it. Set-user-ID bits are without effect, or a system's Exim would be root.
    """
    if os.geteuid() != 0:
        return list(command)
    keep = "+net_bind_service,+dac_override"
    identity = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs")
    return ["setpriv", *identity, f"--inh-caps={keep}", f"--ambient-caps={keep}", *command]


def session_pids(session: int) -> list[int]:
    """List the live processes of a session; a zombie that init has not reaped is not alive."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            stat = Path(entry.path, "stat").read_bytes()
        except OSError:
            continue  # it ended between scandir and now
        # proc(5): pid (comm) state ppid pgrp session; comm may hold anything, even ")".
        state, _, _, sid = stat.rpartition(b")")[2].split()[:4]
        if int(sid) == session and state not in b"ZX":
            found.append(int(entry.name))
    return found


class Server:
    """A real server: a foreground process, its children, and the logs they write.

    A subclass defines `start`, which calls `launch` and waits until the server answers.

    Attributes:
        name: What failures call it.
        root: Its own directory; configuration, spool and logs are below, and stay after `stop`.
        address: IPv4 or IPv6 address it listens on.
        port: TCP or UDP port.
        kind: Which of the two.
        logs: Files whose tails explain a failure; the last is the one `logged` reads.
    """

    kind = socket.SOCK_STREAM

    def __init__(
        self, title: str, root: Path, address: str, port: int, logs: Sequence[Path] = ()
    ) -> None:
        self.name = f"{title} on {bracketed(address)}:{port}"
        self.root = root
        self.address = address
        self.port = port
        self.logs = (root / "output", *logs)
        self._process: subprocess.Popen[bytes] | None = None
        self._session = 0

    def start(self) -> None:
        """Start the server and return once it answers."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def launch(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """Start the process in a session of its own.

        Raises:
            ServerError: It is running already, or its port is taken (or the other server would
                be the one that greets), or the machine lacks a tool to start it.
        """
        if self._process is not None:
            raise ServerError(f"{self.name} is running already")
        with socket.socket(family(self.address), self.kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.address, self.port))
            except OSError as error:
                raise ServerError(f"{self.name} cannot have its port: {error}") from error
        if shutil.which(command[0]) is None:
            raise ServerError(f"{self.name} is started with {command[0]}, which is missing")
        with (self.root / "output").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.root,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._session = self._process.pid

    def stop(self) -> None:
        """End the server and all its processes; harmless if it is not running.

        The first SIGTERM goes to the leader alone, which may want to end its children in
        order; Exim leaves open sessions behind, and those get theirs next.
        """
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP)
        self._process = None
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + STOP
            self.send_all(number)
            while self.pids() and time.monotonic() < deadline:
                time.sleep(PAUSE)
        if left := self.pids():
            raise ServerError(self.described(f"left processes behind: {left}"))
        self._session = 0  # from here on the number may be a stranger's

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the leader.

        Raises:
            ServerError: The server is not running.
        """
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        self._process.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server that is still there."""
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def pids(self) -> list[int]:
        """List the server's live processes, the leader and all it started."""
        return session_pids(self._session) if self._session else []

    def until(self, condition: Callable[[], bool], what: str, within: float = START) -> None:
        """Wait for a condition that a running server will bring about.

        Args:
            condition: Asked again and again.
            what: Completes the sentence "NAME did not ...".
            within: Seconds.

        Raises:
            ServerError: The time is over, or the server ended; with the tail of its log.
        """
        deadline = time.monotonic() + within
        while not condition():
            if self._process is not None and self._process.poll() is not None:
                status = self._process.returncode
                raise ServerError(self.described(f"ended with status {status}"))
            if time.monotonic() > deadline:
                raise ServerError(self.described(f"did not {what} within {within:g} s"))
            time.sleep(PAUSE)

    def logged(self, text: str, since: int = 0) -> bool:
        """Say whether a text is in the last log; `since` is a mark from `log_size`."""
        return text.encode() in self._log_bytes()[since:]

    def log_size(self) -> int:
        """Return a mark: what is logged from now on comes after it."""
        return len(self._log_bytes())

    def _log_bytes(self) -> bytes:
        log = self.logs[-1]
        return log.read_bytes() if log.exists() else b""

    def described(self, trouble: str) -> str:
        """Write a failure: what went wrong, then the last lines of every log."""
        parts = [f"{self.name} {trouble}"]
        for log in self.logs:
            text = log.read_text(errors="replace") if log.exists() else ""
            if lines := text.splitlines()[-TAIL:]:
                parts += [f"--- {log.name} ---", *lines]
        return "\n".join(parts)
