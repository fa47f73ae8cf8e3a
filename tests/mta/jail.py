"""A file system of its own for a server that has its files and accounts compiled in.

chroot(2) and not a mount namespace: containers commonly allow root the first and not the second.
"""

import os
import pwd
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.mta.packages import Program
from tests.mta.process import START, ServerError

SHELL = "/bin/sh"
DISCARD = "while read -r line; do :; done"  # a local delivery; all of it is built into the shell
_COPIES = ("bin", "lib", "lib32", "lib64", "usr")  # what `furnish` makes and `clear` removes


class Jail:
    """A directory that a server takes for the root of the file system.

    It sees no account, name server or host name of the machine, and leaves nothing outside.
    The programs in it are copies, which need 10 to 20 MB; the rest is the server's own data.

    Attributes:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lay_out(self, accounts: Mapping[str, int], hosts: Mapping[str, str]) -> None:
        """Make the files that libc and the servers' own resolvers read.

        Args:
            accounts: Users and their uids; each has a group of its name and number.
            hosts: Addresses and the names they have, both ways.
        """
        users = {"root": 0, "nobody": pwd.getpwnam("nobody").pw_uid} | {**accounts}
        self.write("etc/passwd", "".join(f"{n}:x:{i}:{i}::/:{SHELL}\n" for n, i in users.items()))
        self.write("etc/group", "".join(f"{n}:x:{i}:\n" for n, i in users.items()))
        self.write("etc/hosts", "".join(f"{one} {name}\n" for one, name in hosts.items()))
        self.write("etc/nsswitch.conf", "hosts: files\n")
        # OpenSMTPD's resolver knows resolv.conf as OpenBSD has it: look into /etc/hosts only.
        self.write("etc/resolv.conf", "lookup file\n")
        # An empty file reads like the device, and needs no file system that allows devices.
        self.write("dev/null", "")
        (self.path / "dev/null").chmod(0o666)

    def furnish(self, program: Program, *names: str) -> None:
        """Copy binaries of a server, or of the system, and the shared libraries they need.

        Libraries go to /lib, where the dynamic linker looks without being told (ld.so(8)).
        """
        for name in names:
            own = program.prefix / name.lstrip("/")
            binary = own if own.exists() else Path(name)
            for place, source in {name: binary, **libraries(program, binary)}.items():
                self._copy(source, place)

    def allow_group(self, name: str, gid: int) -> None:
        """Set the set-group-ID bit of a program that refuses to work without it."""
        program = self.path / name.lstrip("/")
        os.chown(program, 0, gid)
        program.chmod(0o2755)

    def clear(self) -> None:
        """Remove the copies; configuration, queue and logs stay to be looked at."""
        for name in _COPIES:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def write(self, name: str, text: str) -> None:
        """Write a file that everybody may read, whatever the umask."""
        file = self.path / name
        self.directory(str(Path(name).parent))
        file.write_text(text)
        file.chmod(0o644)

    def directory(self, name: str, mode: int = 0o755, uid: int = 0) -> None:
        """Make a directory; those above it belong to root, as servers demand."""
        directory = self.path / name
        directory.mkdir(parents=True, exist_ok=True)
        os.chown(directory, uid, 0)
        directory.chmod(mode)

    def command(self, *command: str) -> tuple[str | Path, ...]:
        """Return a command that runs inside."""
        return ("chroot", self.path, *command)

    def run(self, program: Program, *command: str, text: str = "") -> str:
        """Run a tool inside to its end; return what it says.

        Raises:
            ServerError: It failed.
        """
        return run(self.command(*command), program.environment, text)

    def _copy(self, source: Path, name: str) -> None:
        target = self.path / name.lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def run(command: tuple[str | Path, ...], environment: Mapping[str, str], text: str = "") -> str:
    """Run a tool to its end; return what it says.

    Raises:
        ServerError: It failed.
    """
    done = subprocess.run(
        command,
        env=dict(environment),
        input=text,
        capture_output=True,
        text=True,
        timeout=START,
        check=False,
    )
    if done.returncode:
        raise ServerError(f"{command[0]} failed: {done.stdout}{done.stderr}")
    return done.stdout


def libraries(program: Program, binary: Path) -> dict[str, Path]:
    """Return the shared libraries of a binary by their place in a jail, as ldd(1) finds them."""
    found = {}
    for line in run(("ldd", binary), program.environment).splitlines():
        name, arrow, place = line.strip().rpartition(" (")[0].partition(" => ")
        if arrow:
            found[f"/lib/{name}"] = Path(place)
        elif name.startswith("/"):  # the linker itself, whose path is in the binary
            found[name] = Path(name)
    return found


class LogSocket:
    """The /dev/log of a jail: what syslog(3) sends there is appended to a file."""

    def __init__(self, directory: Path, log: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        place = os.open(directory, os.O_PATH)
        (directory / "log").unlink(missing_ok=True)
        try:
            # A socket's path may have 107 octets (unix(7)), and pytest's directories are deep.
            self._socket.bind(f"/proc/self/fd/{place}/log")
        finally:
            os.close(place)
        (directory / "log").chmod(0o666)
        self._log = log
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was sent before is in the file."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(START)
        self._socket.close()

    def _receive(self) -> None:
        with self._log.open("ab", buffering=0) as log:
            while line := self._socket.recv(65536):
                log.write(line.rstrip(b"\0\n") + b"\n")


def owner(name: str) -> int:
    """Return the uid of an account that every Debian has and that owns nothing in use."""
    return pwd.getpwnam(name).pw_uid
