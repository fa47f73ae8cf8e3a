"""Processes beside the one that measures, and which core each of them has."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PATIENCE = 15.0  # seconds for a process to end by itself


class Peer:
    """A process of tests.bench.peers that is ready. Used by beside()."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def end(self) -> str:
        """End it and return what it had to say."""
        try:
            said, _ = self.process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return said


def cores() -> tuple[int | None, int | None]:
    """Return a core for the measured process and one for its peer; None: there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Stay on one core while the block runs; threads begun meanwhile stay there, too."""
    with pinned_to(os.sched_getaffinity(0) if core is None else {core}):
        yield


@contextlib.contextmanager
def pinned_to(allowed: Iterable[int]) -> Iterator[None]:
    """Stay on some cores while the block runs, with all that is begun meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def beside(kind: str, *arguments: object, core: int | None = None) -> Iterator[Peer]:
    """Run a peer while the block runs; it ends when its standard input closes, so also with us.

    Args:
        kind: Which one; see peers.main().
        arguments: For the peer.
        core: Where it is to stay; None: anywhere.
    """
    command = [sys.executable, "-m", "tests.bench.peers", kind, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the peer {kind} did not start")
        peer = Peer(process)
        try:
            yield peer
        finally:
            if process.returncode is None:
                peer.end()


@contextlib.contextmanager
def program(
    command: str, settings: dict[str, str], front: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `relaytest COMMAND` as an operator does, while the block runs.

    Args:
        command: For instance "worker".
        settings: RELAYTEST_... in its environment.
        front: Options of the interpreter, such as a module that watches it.

    Raises:
        RuntimeError: It ended by itself; with what it wrote.
    """
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, *front, "-m", "relaytest", *command.split()],
            cwd=ROOT,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield process
        finally:
            ended = process.poll()
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            if ended is not None:
                log.seek(0)
                said = log.read().decode(errors="replace")[-2000:]
                raise RuntimeError(f"relaytest {command} ended with status {ended}: {said}")


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a running process has used, user and system (proc(5))."""
    return sum(map(int, _stat(pid)[11:13])) / os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(pid: int) -> float:
    """Likewise of a process with its children, those that have ended and those that live."""
    spent = sum(map(int, _stat(pid)[11:15])) / os.sysconf("SC_CLK_TCK")
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            spent += tree_cpu_seconds(child)
    return spent


def _stat(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
