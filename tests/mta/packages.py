"""Where the real servers come from: Debian packages, unpacked beside the checkout, never installed.

Postfix and Exim conflict as installed packages, and a developer's machine should not begin to
receive mail because somebody ran the tests. So `python -m tests.mta.packages` lets apt download
the packages and unpacks each server into a directory of its own, `.servers/NAME`. apt decides
where packages come from; nothing here names a host.

BUGS: needs apt and dpkg (Debian 12, Ubuntu 22.04 and later). Elsewhere the servers are taken
from the system if they are installed, and the tests skip if they are not. Ubuntu 22.04 has its
sendmail in another place, where it is not found.
"""

import contextlib
import fcntl
import functools
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

TREE = Path(__file__).resolve().parents[2] / ".servers"
SYSTEM = Path("/")
STAMP = ".complete"
EXIM_ACCOUNT = "Debian-exim"  # compiled into Debian's binary, which exits when it is unknown
PATIENCE = 600  # seconds; a slow mirror, not a dead one
MEND = "run `python -m tests.mta.packages`"


class PackagesError(Exception):
    """A server could not be fetched. The text is one sentence for the person at the keyboard."""


@dataclass(frozen=True, slots=True)
class Program:
    """A server or tool that can run on this machine.

    Attributes:
        name: Key in `RECIPES`.
        prefix: Directory its files are under, laid out as the file system root would be.
        path: Its main binary.
        environment: What its processes need; nothing else is inherited from the tests.
    """

    name: str
    prefix: Path
    path: Path
    environment: dict[str, str]


def no_obstacle(prefix: Path) -> str:
    """Return "": nothing but the files is needed."""
    return ""


def postfix_obstacle(prefix: Path) -> str:
    """Say why Postfix cannot run here, or return ""."""
    if os.geteuid() != 0:
        return "Postfix needs root: its master starts every daemon under another account"
    return ""


def nss_wrapper(prefix: Path) -> Path | None:
    """Find the library that gives a process its own /etc/passwd."""
    return next(iter(sorted(prefix.glob("usr/lib/*/libnss_wrapper.so"))), None)


def exim_obstacle(prefix: Path) -> str:
    """Say why Exim cannot run here, or return ""."""
    if nss_wrapper(prefix) is not None:
        return ""
    try:
        pwd.getpwnam(EXIM_ACCOUNT)
    except KeyError:
        return f"Exim exits without an account {EXIM_ACCOUNT}, and there is no libnss_wrapper"
    if os.geteuid() != 0:
        return f"Exim installed on the system runs as {EXIM_ACCOUNT}, which needs root; {MEND}"
    return ""


def jail_obstacle(prefix: Path) -> str:
    """Say why a server that runs in a file system of its own cannot run here, or return ""."""
    if os.geteuid() != 0:
        return "OpenSMTPD and sendmail need root: only root may chroot, and they change accounts"
    return ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to get one server.

    Attributes:
        packages: Debian packages to unpack; the shared libraries they lack are found by `ldd`.
        program: The main binary, relative to the prefix.
        others: More binaries that must find all their shared libraries.
        obstacle: Says why the server cannot run here although its files are present.
        environment: Variables to set; a value is a path relative to the prefix.
    """

    packages: tuple[str, ...]
    program: str
    others: tuple[str, ...] = ()
    obstacle: Callable[[Path], str] = no_obstacle
    environment: dict[str, str] = field(default_factory=dict)


RECIPES = {
    "postfix": Recipe(
        packages=("postfix",),
        program="usr/lib/postfix/sbin/master",
        others=("usr/lib/postfix/sbin/smtpd", "usr/lib/postfix/sbin/smtp"),
        obstacle=postfix_obstacle,
    ),
    "exim": Recipe(
        packages=("exim4-daemon-light", "libnss-wrapper"),
        program="usr/sbin/exim4",
        obstacle=exim_obstacle,
    ),
    "opensmtpd": Recipe(
        packages=("opensmtpd",),
        program="usr/sbin/smtpd",
        others=("usr/sbin/smtpctl",),
        obstacle=jail_obstacle,
    ),
    "sendmail": Recipe(
        packages=("sendmail-bin", "sendmail-base", "sendmail-cf", "m4"),
        program="usr/libexec/sendmail/sendmail",
        others=("usr/libexec/sendmail/makemap", "usr/bin/m4"),
        obstacle=jail_obstacle,
    ),
    "rbldnsd": Recipe(packages=("rbldnsd",), program="usr/sbin/rbldnsd"),
    "nsd": Recipe(packages=("nsd",), program="usr/sbin/nsd"),
    "pdns": Recipe(
        packages=("pdns-server", "pdns-backend-pgsql"),
        program="usr/sbin/pdns_server",
        others=(f"usr/lib/{os.uname().machine}-linux-gnu/pdns/libgpgsqlbackend.so",),
    ),
    "unbound": Recipe(packages=("unbound",), program="usr/sbin/unbound"),
    "dnsperf": Recipe(packages=("dnsperf",), program="usr/bin/dnsperf"),
    "pgbouncer": Recipe(packages=("pgbouncer",), program="usr/sbin/pgbouncer"),
    "minisign": Recipe(packages=("minisign",), program="usr/bin/minisign"),
    "prometheus": Recipe(packages=("prometheus",), program="usr/bin/promtool"),
    "nmap": Recipe(
        packages=("nmap", "nmap-common"),
        program="usr/bin/nmap",
        environment={"NMAPDIR": "usr/share/nmap"},
    ),
}


# --- finding ---------------------------------------------------------------------------------


def find(name: str) -> tuple[Program | None, str]:
    """Find a server that can run here: fetched ones first, then the system's.

    Returns:
        The program and "", or None and the reason as a sentence for `pytest.skip`.
    """
    recipe = RECIPES[name]
    reason = f"{name} is neither in {TREE.name} nor installed: {MEND}"
    for prefix in (TREE / name, SYSTEM):
        complete = prefix == SYSTEM or (prefix / STAMP).exists()
        if not complete or not (prefix / recipe.program).exists():
            continue
        reason = recipe.obstacle(prefix)
        if not reason:
            environment = search_paths(prefix) | {
                variable: str(prefix / value) for variable, value in recipe.environment.items()
            }
            return Program(name, prefix, prefix / recipe.program, environment), ""
    return None, reason


def require(name: str) -> Program:
    """Find a server, or skip the test that asks, or fail it where CI promised the servers."""
    program, reason = find(name)
    if program is None:
        do_without(reason)
    return program


def require_installed(*names: str, package: str) -> str:
    """Find a program of the system by one of its names, likewise; return its path."""
    for name in names:
        if path := shutil.which(name):
            return path
    return do_without(f"no {names[0]} here: apt-get install {package}")


def do_without(reason: str) -> NoReturn:
    """Skip the test: a user may lack a program. Fail it where CI promised all of them."""
    if os.environ.get("RELAYTEST_REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def search_paths(prefix: Path) -> dict[str, str]:
    """Return the environment that programs under the prefix need to find files and libraries."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    if prefix != SYSTEM:
        libraries = {
            str(path.parent)
            for top in ("lib", "usr/lib")
            for path in (prefix / top).rglob("lib*.so*")
        }
        if libraries:
            environment["LD_LIBRARY_PATH"] = ":".join(sorted(libraries))
    return environment


# --- fetching --------------------------------------------------------------------------------


def fetch(name: str) -> bool:
    """Unpack one server into its directory under `.servers`, unless that was done before.

    Two test runs may ask at once, hence the lock; a run that is cut off leaves no half-made
    server behind, since only a finished directory gets its name.

    Returns:
        True if it was fetched now, False if it was there.

    Raises:
        PackagesError: apt is missing, or a package is not to be had.
    """
    home = TREE / name
    stamp = f"{' '.join(RECIPES[name].packages)}\n{distribution()}\n"
    TREE.mkdir(exist_ok=True)
    with locked(TREE / ".lock"):
        if (home / STAMP).is_file() and (home / STAMP).read_text() == stamp:
            return False
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise PackagesError(
                f"{name} is fetched with apt-get and dpkg, and this machine has none: "
                "use Debian or Ubuntu, or install the server itself."
            )
        partial = TREE / f".partial-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            assemble(RECIPES[name], partial)
            (partial / STAMP).write_text(stamp)
            shutil.rmtree(home, ignore_errors=True)
            partial.rename(home)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        search_paths.cache_clear()
        return True


def assemble(recipe: Recipe, prefix: Path) -> None:
    """Unpack the packages of one server, then the libraries it still lacks, level by level."""
    prefix.mkdir()
    wanted = list(recipe.packages)
    unpacked: set[str] = set()
    while wanted:
        download(wanted, prefix)
        unpacked.update(wanted)
        search_paths.cache_clear()
        lacking = missing_libraries(recipe, prefix)
        if not lacking:
            return
        wanted = [name for name in library_packages(wanted) if name not in unpacked]
    raise PackagesError(
        f"No package that {recipe.packages[0]} depends on holds {', '.join(sorted(lacking))}."
    )


def download(packages: Sequence[str], prefix: Path) -> None:
    """Download packages and unpack them under the prefix; refresh apt's lists if they are old."""
    archives = prefix / ".archives"
    archives.mkdir()
    # Sandbox off: apt's own account may not be able to write here, and then it only complains.
    order = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages]
    done = run(order, archives)
    if done.returncode and os.geteuid() == 0:
        run(["apt-get", "update", "-qq"], archives)
        done = run(order, archives)
    if done.returncode:
        advice = "" if os.geteuid() == 0 else " (`apt-get update` as root may help)"
        said = " ".join(done.stderr.split())
        raise PackagesError(f"apt-get cannot download {', '.join(packages)}{advice}: {said}")
    for archive in sorted(archives.glob("*.deb")):
        unpacked = run(["dpkg", "-x", str(archive), str(prefix)], archives)
        if unpacked.returncode:
            raise PackagesError(f"dpkg cannot unpack {archive.name}: {unpacked.stderr.strip()}")
    shutil.rmtree(archives)
    disarm(prefix)


def disarm(prefix: Path) -> None:
    """Take the set-user-ID bits away: a checkout is no place for a program that becomes root."""
    for path in prefix.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID))


def missing_libraries(recipe: Recipe, prefix: Path) -> set[str]:
    """Name the shared libraries that neither the system nor the prefix has."""
    environment = search_paths(prefix)
    said = "".join(
        run(["ldd", str(prefix / program)], prefix, environment).stdout
        for program in (recipe.program, *recipe.others)
    )
    return {line.split()[0] for line in said.splitlines() if "not found" in line}


def library_packages(packages: Sequence[str]) -> list[str]:
    """Name the libraries that packages depend on and the system lacks.

    Only names like libraries are followed: what else a server depends on (adduser, cron)
    serves its installation, and nothing is installed.
    """
    installed = {
        line.split()[1].partition(":")[0]
        for line in run(["dpkg", "--list"], TREE).stdout.splitlines()
        if line.startswith("ii")
    }
    only = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks")]
    only += ["--no-replaces", "--no-enhances"]
    names: list[str] = []
    alternative = False
    for line in run(["apt-cache", "depends", *only, *packages], TREE).stdout.splitlines():
        relation, _, name = line.strip().partition(": ")
        first, alternative = not alternative, relation.startswith("|")
        if relation.lstrip("|") in {"Depends", "PreDepends"} and first:
            names.append(name)
    return [
        name
        for name in dict.fromkeys(names)
        if name.startswith(("lib", "lua-")) and name not in installed
    ]


def distribution() -> str:
    """Name the system the packages are for, so that an upgrade fetches them anew."""
    release = Path("/etc/os-release")
    lines = release.read_text().splitlines() if release.exists() else []
    chosen = sorted(line for line in lines if line.startswith(("ID=", "VERSION_ID=")))
    return " ".join([*chosen, os.uname().machine])


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file for the length of a block."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(
    command: Sequence[str], where: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end and keep what it says, in English."""
    try:
        return subprocess.run(
            command,
            cwd=where,
            env=environment or {**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PackagesError(f"{command[0]} took longer than {PATIENCE} s.") from error


def main(names: Sequence[str]) -> int:
    """Fetch the servers named, or all; one that is not to be had does not stop the others."""
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        sys.stderr.write(f"No such server: {', '.join(unknown)}. Known: {', '.join(RECIPES)}\n")
        return 2
    failures = 0
    for name in names or RECIPES:
        try:
            fetched = fetch(name)
        except PackagesError as error:
            sys.stderr.write(f"{error}\n")
            failures += 1
        else:
            sys.stdout.write(f"{name}: {'fetched' if fetched else 'already there'}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
