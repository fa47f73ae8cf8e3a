"""The daemons as an operator has them: processes of the command line, and what they cost."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.cli.program import environment
from tests.postgres import ROOT

WORKERS = ("worker-1", "worker-2")
DAEMONS = (*WORKERS, "sink", "scheduler", "publisher", "web", "notifier")


@dataclass(frozen=True)
class Sample:
    """What a daemon had at a moment.

    Attributes:
        rss: KiB of memory.
        files: Open descriptors.
    """

    rss: int
    files: int


@dataclass
class House:
    """All daemons; who ends is begun again only by `bear`.

    Attributes:
        folder: For configurations and output.
        toml: What all have in common.
        births: Of each, how often it was begun.
    """

    folder: Path
    toml: str
    births: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DAEMONS, 0))
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def bear(self, name: str) -> None:
        """Begin a daemon; a worker visits from an address that it alone ever has."""
        self.births[name] += 1
        file = self.folder / f"{name}.toml"
        text = self.toml
        if name in WORKERS:
            source = f"127.67.{WORKERS.index(name)}.{self.births[name]}"
            text = text.replace("[identity]", f'[identity]\nsources = ["{source}"]')
        file.write_text(text)
        with self.output(name).open("ab") as output:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "relaytest", name.partition("-")[0], "--config", str(file)],
                cwd=tempfile.gettempdir(),
                env=environment(PYTHONPATH=str(ROOT)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self, name: str) -> Path:
        """Where it logs."""
        return self.folder / f"{name}.log"

    def kill(self, name: str) -> None:
        """End it as a full memory would."""
        process = self._running[name]
        process.kill()
        process.wait()

    def ended(self) -> dict[str, int]:
        """Return who ended by himself, and how."""
        statuses = {name: process.poll() for name, process in self._running.items()}
        return {name: status for name, status in statuses.items() if status is not None}

    def fill_disk(self, name: str, octets: int = resource.RLIM_INFINITY) -> None:
        """Let no file of a daemon become longer, as on a full disk."""
        pid = self._running[name].pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (octets, hard))

    def sample(self) -> dict[str, Sample]:
        """Return what each daemon has now."""
        return {name: _sample(process.pid) for name, process in self._running.items()}

    def last_words(self, name: str) -> str:
        """Return the last line of its log."""
        return self.output(name).read_text(errors="replace").rpartition("\n")[0].rpartition("\n")[2]

    def end(self) -> dict[str, int]:
        """End all, as a service manager does; return the exit status of each."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        found = {}
        for name, process in self._running.items():
            try:
                found[name] = process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                found[name] = process.wait()
        return found


def _sample(pid: int) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int((status.partition("VmRSS:")[2].split() or ["0"])[0])  # who has ended has none
    return Sample(rss, len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 - it may be large
