"""Zone files: written beside the old ones, synced, and renamed over them.

A reader never sees half a zone, and a crash leaves the last good one.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import BinaryIO

from relaytest.core.zone import renumbered, serial_of

_LAST_SERIAL = 2**32 - 1
_STEPS = (1 << 20, 1 << 10, 1)  # octets that are compared at once
_LONGEST_LINE = 4096  # octets; an entry has at most 40
_HEAD = 4096  # characters of a master file, in which its SOA must be


class Draft:
    """A file that is being written beside the published one.

    Attributes:
        suffix: Of the file it is to replace.
        stamped: It has a time in it that grows old.
        entries: How many it has.
    """

    def __init__(self, folder: Path, suffix: str, head: str) -> None:
        self.suffix = suffix
        self.stamped = True
        self.entries = 0
        self._digest = hashlib.sha256()
        self._failure: OSError | None = None
        self._file = tempfile.NamedTemporaryFile(dir=folder, prefix=".draft-", delete=False)  # noqa: SIM115 - closed by `close`
        self.path = Path(self._file.name)
        self._file.write(head.encode())

    def write(self, entries: bytes) -> None:
        """Append entries; what goes wrong comes out at `finish`.

        An error in the midst of a COPY would break the connection to the database, too.
        """
        self._digest.update(entries)
        if self._failure is None:
            try:
                self._file.write(entries)
            except OSError as error:
                self._failure = error

    @property
    def digest(self) -> str:
        """Of the entries, without the head, which changes with time."""
        return self._digest.hexdigest()

    def finish(self) -> None:
        """Let the system have all octets.

        Raises:
            OSError: The disk did not take them, now or earlier.
        """
        if self._failure is not None:
            raise self._failure
        self._file.close()

    def discard(self) -> None:
        """Remove what was not published."""
        with contextlib.suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)


def former(file: Path) -> Path:
    """Where the file is that a published one replaced."""
    return file.with_name(f".former-{file.name}")


def _keep(file: Path) -> bool:
    """Keep a published file as `former`; it is published anew even where that cannot be done."""
    try:
        former(file).unlink(missing_ok=True)
        former(file).hardlink_to(file)
    except OSError:  # there is none; a file system without links; two publishers at once
        return False
    return True


def replace_file(draft: Path, file: Path) -> bool:
    """Rename a finished draft over the published file, so that it survives a power cut.

    Returns:
        Whether the published one is kept as `former`.

    Raises:
        OSError: The disk cannot.
    """
    with draft.open("rb") as content:
        os.fchmod(content.fileno(), 0o644)  # the DNS server runs as another user
        os.fsync(content.fileno())
    kept = _keep(file)
    if file.exists():
        # rbldnsd sees a change by size and whole seconds only
        second = max(int(draft.stat().st_mtime), int(file.stat().st_mtime) + 1)
        os.utime(draft, (second, second))
    draft.rename(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return kept


def put_back(file: Path, serial: int) -> None:
    """Publish the former file again.

    Args:
        file: The published one.
        serial: To give it if it is a master file; secondaries follow no smaller one (RFC 1982).

    Raises:
        OSError: The disk cannot, or there is none.
    """
    with former(file).open(encoding="ascii", errors="surrogateescape") as old:
        head = old.read(_HEAD)
        with tempfile.NamedTemporaryFile(
            "w",
            dir=file.parent,
            prefix=".draft-",
            delete=False,
            encoding="ascii",
            errors="surrogateescape",
        ) as draft:
            draft.write(renumbered(head, serial))
            shutil.copyfileobj(old, draft)
    replace_file(Path(draft.name), file)


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file as sha256sum writes it.

    Raises:
        OSError: It cannot be read.
    """
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_file(file: Path, text: str) -> None:
    """Write a small file as a whole.

    Raises:
        OSError: The disk cannot.
    """
    draft = Draft(file.parent, file.name, text)
    try:
        draft.finish()
        replace_file(draft.path, file)
        former(file).unlink(missing_ok=True)
    finally:
        draft.discard()


def next_serial(file: Path, now: datetime) -> int:
    """Return a serial above that of the published master file, whatever the clock says.

    After the last of 32 bits the clock counts as greater again (RFC 1982 section 3.2).
    """
    last = 0
    with (
        contextlib.suppress(FileNotFoundError),
        file.open(encoding="ascii", errors="replace") as published,  # a person may have been at it
    ):
        last = serial_of(published.read(_HEAD))
    clock = int(now.timestamp())
    return clock if last >= _LAST_SERIAL else max(last + 1, clock)


def count_entries(file: Path) -> int:
    """Count the lines of an rbldnsd file from its first entry on; 0 if there is none."""
    try:
        with file.open("rb") as lines:
            _skip_head(lines)
            return sum(block.count(b"\n") for block in iter(lambda: lines.read(_STEPS[0]), b""))
    except FileNotFoundError:
        return 0


def changed_entries(old: Path, new: Path, most: int) -> int:
    """Count the entries that only one of two rbldnsd files has, in the order of addresses.

    Args:
        old: Published; it may have been written by an earlier version, or by hand.
        new: Finished draft.
        most: It stops above this number.
    """
    with old.open("rb") as before, new.open("rb") as after:
        _skip_head(before)
        _skip_head(after)
        ends = _skip_same(before, after)
        return _differences(
            _entries(_lines(before, ends[0])), _entries(_lines(after, ends[1])), most
        )


def _skip_head(file: BinaryIO) -> None:
    """Go to the first entry; what is before it has a time in it, and so always differs."""
    while line := file.readline():
        if next(_entries([line]), None):
            file.seek(-len(line), os.SEEK_CUR)
            return


def _skip_same(one: BinaryIO, other: BinaryIO) -> tuple[int, int]:
    """Go to the lines that differ, over all before them; return where they end in each file.

    Of a million entries all but a few are the same, and are not worth to be looked at singly.
    """
    first, others_first = one.tell(), other.tell()
    last, others_last = one.seek(0, os.SEEK_END), other.seek(0, os.SEEK_END)
    most = min(last - first, others_last - others_first)

    def alike_after(done: int, size: int) -> bool:
        return _block(one, first + done, size) == _block(other, others_first + done, size)

    def alike_before(done: int, size: int) -> bool:
        at, others_at = last - done - size, others_last - done - size
        return _block(one, at, size) == _block(other, others_at, size)

    head = _longest(most, alike_after)
    tail = _longest(most - head, alike_before)
    _seek_line(one, first, first + head)
    _seek_line(other, others_first, others_first + head)
    return _line_end(one, last - tail), _line_end(other, others_last - tail)


def _longest(most: int, alike: Callable[[int, int], bool]) -> int:
    """Return how many octets are alike, asking for `size` of them after the first `done`."""
    done = 0
    for size in _STEPS:
        while done + size <= most and alike(done, size):
            done += size
    return done


def _lines(file: BinaryIO, end: int) -> Iterator[bytes]:
    """Read the lines up to a place in a file."""
    left = end - file.tell()
    while left > 0 and (line := file.readline()):
        left -= len(line)
        yield line


def _block(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _seek_line(file: BinaryIO, first: int, at: int) -> None:
    """Go to the beginning of the line in which `at` is."""
    back = max(first, at - _LONGEST_LINE)
    file.seek(back + _block(file, back, at - back).rfind(b"\n") + 1)


def _line_end(file: BinaryIO, at: int) -> int:
    """Return where the line ends in which `at` is."""
    here = file.tell()
    line = _block(file, at, _LONGEST_LINE)
    file.seek(here)
    return at + (line.find(b"\n") + 1 or len(line))


def _entries(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Entries without their line ends; all other lines have a blank, or begin with a sign."""
    for line in lines:
        entry = line.strip()
        if entry and b" " not in entry and not entry.startswith((b"$", b"!", b"#")):
            yield entry


def _differences(before: Iterator[bytes], after: Iterator[bytes], most: int) -> int:
    """Walk through two sorted lists; equal ones, as nearly all are, cost next to nothing."""
    changed = 0
    old, new = next(before, None), next(after, None)
    while changed <= most and (old is not None or new is not None):
        if old == new:
            old, new = next(before, None), next(after, None)
            continue
        changed += 1
        if new is None or (old is not None and _place(old) < _place(new)):
            old = next(before, None)
        else:
            new = next(after, None)
    return changed


def _place(entry: bytes) -> int:
    """Where an entry stands in the order of addresses; what is none comes first."""
    try:
        return int(ip_address(entry.decode("ascii", "replace")))
    except ValueError:
        return -1
