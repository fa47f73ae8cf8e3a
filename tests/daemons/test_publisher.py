"""The publisher: whole files, written when something changed, whatever the disk does."""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from relaytest.core.config import split_endpoint
from relaytest.core.errors import ConfigError
from relaytest.core.zone import query_name, self_test, serial_of, zones_of
from relaytest.daemons import answerer, publisher
from relaytest.daemons.dns_watch import failing_tests
from relaytest.daemons.loop import Stop
from relaytest.daemons.publisher import Publisher
from relaytest.net.dns import listed_as
from relaytest.store import publications
from tests.daemons.peers import seen
from tests.lab import NOBODYS, lab_config, running, until
from tests.mta.packages import require
from tests.mta.process import fresh_address, fresh_port

ZONE = "relays.example"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TEST_ENTRIES = {"ip4": "127.0.0.2 :2:", "ip6": "::ffff:7f00:2 :2:"}


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "zone"
    made.mkdir()
    return made


def configured(folder: Path, **publish):
    scope = {"allow": NOBODYS}
    return lab_config(folder, publish={"debounce": "0s"} | publish, scope=scope)


@pytest.fixture(autouse=True)
async def allowed(connection) -> None:
    """Let all addresses be listed."""
    await connection.execute(
        "INSERT INTO relaytest.scope_network SELECT n, 'allow', 'x' FROM unnest($1::cidr[]) AS n"
        " ON CONFLICT DO NOTHING",
        NOBODYS,
    )


@pytest.fixture
def make(database, folder):
    """Make a publisher with some options."""

    def publishing(**options) -> Publisher:
        return Publisher(configured(folder, **options).publish, database)

    return publishing


@pytest.fixture
def clock(monkeypatch):
    """Set the time that the publisher reads."""

    def put(now: datetime) -> None:
        monkeypatch.setattr(publisher, "utcnow", lambda: now)

    put(NOW)
    return put


async def put_on(connection, *addresses: str) -> None:
    """List addresses."""
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES (1, 1, '192.0.2.1', 25, 'operator', 'x') ON CONFLICT DO NOTHING"
    )
    await connection.executemany(
        "INSERT INTO relaytest.listing (address, port, state, trial, listed_at, expires_at)"
        " VALUES ($1::text::inet, 25, 'listed', 1, now(), now() + interval '1 day')",
        [(address,) for address in addresses],
    )


async def take_off(connection, *addresses: str) -> None:
    await connection.execute(
        "DELETE FROM relaytest.listing WHERE host(address) = ANY($1)", list(addresses)
    )


def lines(folder: Path, suffix="ip4") -> list[str]:
    return (folder / f"{ZONE}.{suffix}").read_text().splitlines()


def entries(folder: Path, suffix="ip4") -> list[str]:
    """What follows the test entries."""
    text = lines(folder, suffix)
    head = next(n for n, line in enumerate(text) if line.startswith(TEST_ENTRIES[suffix]))
    return text[head + 1 :]


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {file.name: file.stat() for file in folder.glob(f"{ZONE}.*")}
    return {name: (one.st_ino, one.st_mtime_ns, one.st_size) for name, one in found.items()}


def drafts(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".draft-")]


# --- what looks like an accident


def refused(logged) -> list[str]:
    return [
        one["why"] for one in logged if one["event"] == "zone not published; the last one stays"
    ]


MANY = [f"198.18.{n >> 8}.{n & 255}" for n in range(300)]


@pytest.mark.parametrize("added", [True, False])
async def test_many_changes_at_once_are_not_published_until_a_person_says_so(
    make, folder, connection, logged, added
):
    publishing = make()
    await put_on(connection, *MANY[: 100 if added else 300])
    await publishing.publish()
    before = state(folder)
    await (put_on(connection, *MANY[100:]) if added else take_off(connection, *MANY[100:]))
    await publishing.publish()
    most, there = (100, 100) if added else (150, 300)
    assert refused(logged) == [
        f"more than {most} of {there} entries of {ZONE}.ip4 would change at once"
        " (publish.largest_change)"
    ]
    assert (state(folder), drafts(folder)) == (before, [])
    await publications.order(connection, ZONE, "force", "it is meant", "me")
    await publishing.publish()
    assert len(entries(folder)) == (300 if added else 100)
    assert (await publications.orders_of(connection, ZONE)).pending == 0


async def test_a_publisher_that_was_restarted_knows_how_many_there_were(
    make, folder, connection, logged
):
    await put_on(connection, *MANY)
    await make().publish()
    await take_off(connection, *MANY)
    await make().publish()
    assert len(refused(logged)) == 1
    assert len(entries(folder)) == 300


async def test_some_changes_are_no_accident(make, folder, connection, logged):
    publishing = make()
    await put_on(connection, *MANY[:150])
    await publishing.publish()
    await take_off(connection, *MANY[:90])
    await publishing.publish()
    assert (refused(logged), len(entries(folder))) == ([], 60)


async def test_a_share_of_one_is_no_limit(make, folder, connection, logged):
    publishing = make(largest_change=1)
    await put_on(connection, *MANY)
    await publishing.publish()
    await take_off(connection, *MANY)
    await publishing.publish()
    assert (refused(logged), entries(folder)) == ([], [])


@pytest.mark.parametrize("address", ["10.0.0.1", "127.1.0.1", "224.0.0.1", "fe80::1"])
async def test_what_nobody_has_is_never_published(make, folder, connection, logged, address):
    publishing = make()
    await put_on(connection, "192.0.2.1")
    await publishing.publish()
    before = state(folder)
    await connection.execute("DELETE FROM relaytest.scope_network WHERE rule = 'allow'")
    await put_on(connection, address, "11.0.0.1")
    await publications.order(connection, ZONE, "force", "even so", "me")
    await publishing.publish()
    assert [why.partition(" ")[0] for why in refused(logged)] == [address]
    assert state(folder) == before


async def test_a_network_is_never_published(make, folder, connection, logged):
    publishing = make()
    await publishing.publish()
    await connection.execute("ALTER TABLE relaytest.listing DROP CONSTRAINT listing_is_a_host")
    await put_on(connection, "11.0.0.0/24")
    await publishing.publish()
    assert refused(logged) == ["11.0.0.0/24 is wider than one address"]
    assert entries(folder) == []


async def test_a_list_at_its_end_is_empty_and_has_no_test_entry(make, folder, connection, logged):
    publishing = make(zone_file=True)
    await put_on(connection, *MANY)
    await publishing.publish()
    await publications.order(connection, ZONE, "shut", "we end it", "me")
    await publishing.publish()
    for suffix in ("ip4", "ip6", "zone"):
        text = (folder / f"{ZONE}.{suffix}").read_text()
        assert "Test entry" not in text
        assert "198.18" not in text
    name = f"2.0.0.127.{ZONE}"
    asked = "SELECT count(*) FROM relaytest.dns_records($1) WHERE type IS NOT NULL"
    assert await connection.fetchval(asked, name) == 0
    await publications.order(connection, ZONE, "reopen", "we begin again", "me")
    await publishing.publish()
    assert len(entries(folder)) == 300
    assert await connection.fetchval(asked, name) == 2
    assert refused(logged) == []


# --- the master file


def serial(folder: Path) -> int:
    return serial_of((folder / f"{ZONE}.zone").read_text())


async def test_a_master_file_has_both_records_of_each_entry(make, folder, connection):
    await put_on(connection, "192.0.2.10", "2001:db8::1")
    await make(zone_file=True, lookup_url="https://lookup.example/").publish()
    text = "Open relay, tested and confirmed; see https://lookup.example/"
    six = "1" + ".0" * 23 + ".8.b.d.0.1.0.0.2"
    assert lines(folder, "zone")[-4:] == [
        "10.2.0.192 A 127.0.0.2",
        f'10.2.0.192 TXT "{text}192.0.2.10"',
        f"{six} A 127.0.0.2",
        f'{six} TXT "{text}2001:db8::1"',
    ]


async def test_without_the_option_there_is_no_master_file(make, folder):
    await make().publish()
    assert not (folder / f"{ZONE}.zone").exists()


async def test_the_serial_grows_with_each_change_and_with_nothing_else(
    make, folder, connection, clock
):
    publishing = make(zone_file=True)
    await publishing.publish()
    first = serial(folder)
    assert first == int(NOW.timestamp())
    clock(NOW + timedelta(days=3))  # the other files get a new stamp
    await publishing.publish()
    assert serial(folder) == first
    await put_on(connection, "192.0.2.10")
    await publishing.publish()
    assert serial(folder) == first + timedelta(days=3).total_seconds()


async def test_the_serial_grows_over_a_restart_though_the_clock_was_put_back(
    make, folder, connection, clock
):
    await make(zone_file=True).publish()
    first = serial(folder)
    clock(NOW - timedelta(days=300))
    await put_on(connection, "192.0.2.10")
    await make(zone_file=True).publish()
    assert serial(folder) == first + 1


# --- what is in the files


async def test_the_first_zone_is_written_though_nobody_is_listed(make, folder):
    await make().publish()
    assert sorted(file.name for file in folder.iterdir()) == [
        f"{ZONE}.apex",
        f"{ZONE}.ip4",
        f"{ZONE}.ip6",
        f"{ZONE}.sha256",
    ]
    assert entries(folder) == entries(folder, "ip6") == []


async def test_the_head_says_what_the_configuration_says(make, folder, clock):
    await make(
        nameservers=["ns1.example.net", "ns2.example.net"],
        hostmaster="hostmaster.example.net",
        ttl="2min",
        expire_after="1d",
        lookup_url="https://lookup.example/",
    ).publish()
    assert lines(folder)[:8] == [
        "$SOA 120 ns1.example.net hostmaster.example.net 0 1h 15m 2w 120",
        "$NS 1d ns1.example.net ns2.example.net",
        "$TTL 120",
        "$TIMESTAMP 2026:01:02:03:04:05 2026:01:03:03:04:05",
        "$MAXRANGE4 /32",
        ":127.0.0.2:Open relay, tested and confirmed; see https://lookup.example/$",
        "!127.0.0.1",
        "127.0.0.2 :2:Test entry (RFC 5782), no real listing",
    ]
    assert lines(folder, "apex")[0] == f'@ 120 TXT "{ZONE}: DNS list of tested open relays"'


async def test_entries_are_the_listed_addresses_in_order(make, folder, connection):
    await put_on(connection, "192.0.2.10", "192.0.2.9", "2001:db8::2", "2001:db8::1", "10.0.0.1")
    await make().publish()
    assert entries(folder) == ["10.0.0.1", "192.0.2.9", "192.0.2.10"]
    assert entries(folder, "ip6") == ["2001:db8::1", "2001:db8::2"]


async def test_many_entries_are_all_written(make, folder, connection):
    many = [f"10.{a}.{b}.{c}" for a in range(4) for b in range(50) for c in range(20)]
    await put_on(connection, *many)
    await make().publish()
    assert entries(folder) == sorted(many, key=ip_address)


async def test_who_leaves_the_list_leaves_the_file(make, folder, connection):
    publishing = make()
    await put_on(connection, "192.0.2.1", "192.0.2.2")
    await publishing.publish()
    await take_off(connection, "192.0.2.1")
    await publishing.publish()
    assert entries(folder) == ["192.0.2.2"]


async def test_everybody_may_read_the_files(make, folder):
    mask = os.umask(0o077)
    try:
        await make().publish()
    finally:
        os.umask(mask)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}


# --- when they are written


async def test_equal_content_is_not_written_again(make, folder, connection):
    await put_on(connection, "192.0.2.1")
    publishing = make()
    await publishing.publish()
    before = state(folder)
    await publishing.publish()
    assert state(folder) == before


async def test_only_the_file_that_changed_is_written_again(make, folder, connection):
    publishing = make()
    await publishing.publish()
    before = state(folder)
    await put_on(connection, "2001:db8::1")
    await publishing.publish()
    after = state(folder)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {
        f"{ZONE}.{suffix}" for suffix in ("ip6", "apex", "sha256")
    }  # the names above it are new, too


async def test_the_names_above_all_entries_are_in_the_apex_file(make, folder, connection):
    await make().publish()
    before = lines(folder, "apex")
    await put_on(connection, "192.0.2.9", "192.0.2.10", "192.0.3.1", "10.1.1.1", "2001:db8::1")
    await make().publish()
    after = lines(folder, "apex")
    four = ["10", "1.10", "1.1.10", "192", "0.192", "2.0.192", "3.0.192"]
    whole = "1" + ".0" * 23 + ".8.b.d.0.1.0.0.2"
    six = [whole[2 * n :] for n in range(1, 32)]
    assert after[: len(before)] == before
    assert sorted(after[len(before) :]) == sorted(f"{name} MX 0 ." for name in four + six)


async def test_old_files_are_stamped_anew(make, folder, clock):
    publishing = make(expire_after="4h")
    await publishing.publish()
    clock(NOW + timedelta(minutes=59))
    await publishing.publish()
    assert "$TIMESTAMP 2026:01:02:03:04:05 2026:01:02:07:04:05" in lines(folder)
    clock(NOW + timedelta(minutes=61))
    await publishing.publish()
    for suffix in ("ip4", "ip6"):
        assert "$TIMESTAMP 2026:01:02:04:05:05 2026:01:02:08:05:05" in lines(folder, suffix)


async def test_a_rewrite_in_the_same_second_shows_by_its_second(make, folder, connection):
    """rbldnsd looks at the size and at whole seconds."""
    publishing = make()
    seconds = []
    for last in "123":
        await take_off(connection, "192.0.2.1", "192.0.2.2")
        await put_on(connection, f"192.0.2.{last}")
        await publishing.publish()
        found = (folder / f"{ZONE}.ip4").stat()
        seconds.append((found.st_size, int(found.st_mtime)))
        await take_off(connection, f"192.0.2.{last}")
    assert len({size for size, _ in seconds}) == 1
    assert [second for _, second in seconds] == sorted({second for _, second in seconds})


async def test_a_new_publisher_writes_its_files_whoever_wrote_the_last(make, folder, clock):
    await make().publish()
    clock(NOW + timedelta(minutes=1))
    await make().publish()
    assert "$TIMESTAMP 2026:01:02:03:05:05 2026:01:09:03:05:05" in lines(folder)


async def test_two_publishers_at_once_leave_whole_files(make, folder, connection):
    many = [f"192.0.2.{n}" for n in range(1, 200)]
    await put_on(connection, *many)
    both = (make(), make())
    for last in many[:10]:
        await take_off(connection, last)
        async with asyncio.TaskGroup() as group:
            for one in both:
                group.create_task(one.publish())
        assert entries(folder) == many[many.index(last) + 1 :]
        assert drafts(folder) == []


# --- trouble with the disk


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def small_disk(octets: int) -> Iterator[None]:
    """No file of this process grows beyond `octets`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def complained(logged) -> bool:
    return "zone not written; the last one stays" in {one["event"] for one in logged}


async def test_a_disk_that_cannot_sync_keeps_the_last_zone(
    make, folder, connection, monkeypatch, logged
):
    publishing = make()
    await publishing.publish()
    before = state(folder)
    await put_on(connection, "192.0.2.1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        await publishing.publish()
    assert (complained(logged), state(folder)) == (True, before)
    await publishing.publish()
    assert entries(folder) == ["192.0.2.1"]


async def test_a_disk_that_cannot_sync_gets_no_first_zone_and_no_draft(
    make, folder, monkeypatch, logged
):
    publishing = make()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        await publishing.publish()
    assert (complained(logged), state(folder)) == (True, {})
    await publishing.publish()
    assert len(state(folder)) == 4


async def test_a_full_disk_keeps_the_last_zone_and_is_told_as_such(
    make, folder, connection, logged
):
    publishing = make()
    await publishing.publish()
    before = state(folder)
    await put_on(connection, *(f"10.0.{n >> 8}.{n & 255}" for n in range(2000)))
    with small_disk(4096):
        await publishing.publish()
    assert (complained(logged), state(folder)) == (True, before)
    await publishing.publish()
    assert len(entries(folder)) == 2000


async def test_a_full_disk_is_not_filled_with_drafts(make, folder, connection, logged):
    publishing = make()
    await put_on(connection, *(f"10.0.{n >> 8}.{n & 255}" for n in range(2000)))
    with small_disk(4096):
        for _ in range(3):
            with contextlib.suppress(Exception):
                await publishing.publish()
    assert drafts(folder) == []


async def test_a_folder_that_is_gone_is_told_as_such(make, folder, logged):
    publishing = make()
    folder.rmdir()
    folder.touch()
    await publishing.publish()
    assert complained(logged)


async def test_a_stamp_that_could_not_be_renewed_is_renewed_at_the_next_look(
    make, folder, clock, monkeypatch
):
    publishing = make(expire_after="4h")
    await publishing.publish()
    clock(NOW + timedelta(hours=2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        await publishing.publish()
    clock(NOW + timedelta(hours=2, minutes=1))
    await publishing.publish()
    for suffix in ("ip4", "ip6"):
        assert "$TIMESTAMP 2026:01:02:05:05:05 2026:01:02:09:05:05" in lines(folder, suffix)


async def test_a_publisher_that_is_killed_leaves_whole_files(dsn, connection, folder):
    """Killed as soon as it has begun a draft."""
    await put_on(connection, *(f"10.0.{n >> 8}.{n & 255}" for n in range(5000)))
    program = f"""
import asyncio, os, signal
from datetime import timedelta
from relaytest.daemons import publisher
from relaytest.store.database import open_database
from tests.daemons.test_publisher import configured
from pathlib import Path
publisher.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
async def main():
    folder = Path({str(folder)!r})
    async with open_database({dsn!r}, pool=2, longest=timedelta(seconds=10), program="x") as one:
        await publisher.Publisher(configured(folder).publish, one).publish()
asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [file for file in folder.iterdir() if file.suffix == ".ip4"] == []


# --- the DNS server


async def test_the_dns_server_hears_of_every_change_and_of_nothing_else(
    make, folder, connection, tmp_path
):
    pidfile = tmp_path / "pid"
    pidfile.write_text(f"{os.getpid()}\n")
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))
    try:
        publishing = make(pidfile=str(pidfile))
        await publishing.publish()
        assert len(heard) == 1
        await publishing.publish()
        assert len(heard) == 1
        await put_on(connection, "192.0.2.1")
        await publishing.publish()
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("pid", ["", "x", "-1", "0", "1.5", "9" * 30, "4194304"])
async def test_a_bad_pidfile_is_told_and_harms_nobody(
    make, folder, tmp_path, monkeypatch, logged, pid
):
    """kill(-1) would signal every process there is, kill(0) our own group."""
    killed: list[int] = []
    kill = os.kill

    def careful(number: int, which: int) -> None:
        if number > 0:
            kill(number, which)
        else:
            killed.append(number)

    monkeypatch.setattr(os, "kill", careful)
    pidfile = tmp_path / "pid"
    pidfile.write_text(pid)
    await make(pidfile=str(pidfile)).publish()
    assert (killed, len(state(folder))) == ([], 4)
    assert "rbldnsd not signalled" in {one["event"] for one in logged}


async def test_a_missing_pidfile_is_told(make, folder, tmp_path, logged):
    await make(pidfile=str(tmp_path / "none")).publish()
    assert "rbldnsd not signalled" in {one["event"] for one in logged}


def answering(folder: Path, **publish):
    """A configuration whose DNS server is the built-in answerer."""
    host = fresh_address()
    place = f"{host}:{fresh_port(host)}"
    config = configured(folder, server=place, **publish)
    return config.model_copy(update={"answer": config.answer.model_copy(update={"listen": place})})


async def test_the_built_in_answerer_passes_the_self_test(dsn, database, folder):
    config = answering(folder)
    async with running(config, database, dsn, (answerer.run,)):
        await until(lambda: _passes(config), "right answers")


async def _passes(config) -> bool | None:
    return not await failing_tests(config) or None


async def test_a_server_of_another_zone_fails_the_self_test(dsn, database, folder):
    config = answering(folder)
    other = config.model_copy(
        update={"publish": config.publish.model_copy(update={"zone": "other.example"})}
    )
    async with running(other, database, dsn, (answerer.run,)):
        await until(lambda: _passes(other), "right answers")
        wrong = await failing_tests(config)
    assert len(wrong) == len(list(self_test(ZONE)))
    assert wrong[0] == f"2.0.0.127.{ZONE}: no answer; right is 127.0.0.2"


async def test_a_server_that_does_not_answer_fails_the_self_test(folder):
    host = fresh_address()
    config = configured(folder, server=f"{host}:{fresh_port(host)}")
    assert all("no answer" in line for line in await failing_tests(config))


async def test_the_daemon_tells_once_how_the_dns_server_is(dsn, database, folder, logged):
    config = answering(folder)
    async with running(config, database, dsn, (answerer.run, publisher.run)) as lab:

        async def look():
            return [one for one in logged if one["event"] == "dns self-test"] or None

        (told,) = await until(look, "a word of the self-test")
        assert (told["log_level"], told["wrong"]) == ("info", [])
        assert lab.config.publish.server == told["server"]


# --- for mirrors, and back


def sums_are_right(folder: Path) -> bool:
    command = ["sha256sum", "--check", "--strict", f"{ZONE}.sha256"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def signature_is_right(folder: Path) -> bool:
    program = require("minisign")
    verify = [str(program.path), "-V", "-m", f"{ZONE}.sha256", "-p", f"{ZONE}.pub"]
    done = subprocess.run(
        verify, cwd=folder, env=program.environment, capture_output=True, check=False
    )
    return done.returncode == 0


def make_key(file: Path) -> None:
    """As the README says."""
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True)


async def test_mirrors_find_the_checksums_of_all_files_after_each_publication(
    make, folder, connection
):
    publishing = make(zone_file=True)
    for last in "12":
        await put_on(connection, f"192.0.2.{last}")
        await publishing.publish()
        assert sums_are_right(folder)
    named = [line.split("  ")[1] for line in (folder / f"{ZONE}.sha256").read_text().splitlines()]
    assert named == [f"{ZONE}.{suffix}" for suffix in ("ip4", "ip6", "apex", "zone")]
    assert not (folder / f"{ZONE}.sha256.minisig").exists()


async def test_checksums_that_the_disk_did_not_take_are_written_later(
    make, folder, connection, monkeypatch, logged
):
    publishing = make()
    await put_on(connection, "192.0.2.1")
    with monkeypatch.context() as patch:
        patch.setattr(publisher, "write_file", full)
        await publishing.publish()
    assert "192.0.2.1" in lines(folder)
    assert "checksums not written" in {one["event"] for one in logged}
    await publishing.publish()
    assert sums_are_right(folder)


async def test_mirrors_can_verify_who_made_the_checksums(make, folder, tmp_path, connection):
    key = tmp_path / "key.pem"
    make_key(key)
    publishing = make(signing_key=str(key))
    for last in "12":
        await put_on(connection, f"192.0.2.{last}")
        await publishing.publish()
        assert signature_is_right(folder)
    await make().publish()
    assert not (folder / f"{ZONE}.sha256.minisig").exists(), "it would not fit"


@pytest.mark.parametrize("content", [None, b"", b"x"])
def test_a_signing_key_that_is_none_is_refused_with_what_to_do(make, tmp_path, content):
    key = tmp_path / "key.pem"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(ConfigError, match=r"publish.signing_key is .*openssl genpkey"):
        make(signing_key=str(key))


async def test_a_publication_is_rolled_back_and_not_repeated_until_it_changes(
    make, folder, connection
):
    publishing = make(zone_file=True)
    await put_on(connection, "192.0.2.1")
    await publishing.publish()
    assert not publishing.can_roll_back, "there is nothing before the first"
    await put_on(connection, "192.0.2.2")
    await publishing.publish()
    bad = serial_of((folder / f"{ZONE}.zone").read_text())
    assert publishing.can_roll_back
    await publishing.roll_back()
    assert not publishing.can_roll_back
    await publishing.publish()
    assert [line for line in lines(folder) if line.startswith("192")] == ["192.0.2.1"]
    master = (folder / f"{ZONE}.zone").read_text()
    assert ("1.2.0.192" in master, "2.2.0.192" in master) == (True, False)
    assert serial_of(master) > bad
    assert sums_are_right(folder)
    await put_on(connection, "192.0.2.3")
    await publishing.publish()
    assert [line[-1] for line in lines(folder) if line.startswith("192")] == ["1", "2", "3"]
    assert sums_are_right(folder)


async def test_what_was_rolled_back_is_published_again_if_a_person_or_the_watch_says_so(
    make, folder, connection
):
    publishing = make()
    await publishing.publish()
    await put_on(connection, "192.0.2.2")
    await publishing.publish()
    await publishing.roll_back()
    publishing.publish_again()
    await publishing.publish()
    assert "192.0.2.2" in lines(folder)
    await publishing.roll_back()
    await publications.order(connection, ZONE, "force", "root", "it is right")
    await publishing.publish()
    assert "192.0.2.2" in lines(folder)


# --- the daemon


async def test_the_daemon_publishes_at_its_start_and_when_the_bell_rings(
    dsn, database, connection, folder
):
    config = configured(folder / "made" / "by" / "it", debounce="10ms")
    place = Path(config.publish.directory)
    async with running(config, database, dsn, (publisher.run,)):
        await until(lambda: seen((place / f"{ZONE}.ip4").exists()), "the first zone")
        await put_on(connection, "192.0.2.1")
        await connection.execute("SELECT pg_notify('relaytest_listing', '')")

        async def look() -> bool | None:
            return entries(place) == ["192.0.2.1"] or None

        await until(look, "the entry")


async def test_the_daemon_needs_a_folder(database, folder):
    (folder / "file").touch()
    config = configured(folder / "file" / "zone")
    with pytest.raises(OSError, match="Not a directory"):
        await publisher.run(config, database, Stop())


async def test_a_listing_is_in_the_dns_answer_at_once_by_the_answerer(
    dsn, database, connection, folder
):
    config = answering(folder)
    name = query_name(ip_address("192.0.2.1"), ZONE)
    async with running(config, database, dsn, (answerer.run,)):
        await until(lambda: _passes(config), "right answers")
        assert await listed_as(config.publish.server, name, config.dns.timeout) == []
        await put_on(connection, "192.0.2.1")
        assert await listed_as(config.publish.server, name, config.dns.timeout) == ["127.0.0.2"]
    assert split_endpoint(config.publish.server)[0] in config.answer.listen


async def test_exits_have_a_zone_of_their_own(begin, connection, tmp_path):
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES (1, 1, '192.0.2.1', 25, 'nominated', 'x');"
        "INSERT INTO relaytest.listing (address, port, code, state, trial, listed_at, expires_at)"
        " VALUES ('192.0.2.1', 25, 2, 'listed', 1, now(), now() + interval '1 d'),"
        " ('192.0.2.9', 0, 3, 'listed', 1, now(), now() + interval '1 d')"
    )
    host = fresh_address()
    place = f"{host}:{fresh_port(host)}"
    sections = {"listing": {"outputs": True}, "answer": {"listen": place}}
    sections["scope"] = {"allow": NOBODYS}
    async with begin(publisher.run, answerer.run, **sections) as lab:
        folder, zone = Path(lab.config.publish.directory), lab.config.publish.zone

        async def written() -> bool | None:
            return (
                all((folder / f"{apex.zone}.ip4").exists() for apex in zones_of(lab.config)) or None
            )

        await until(written, "all zones")
        text = (folder / f"outputs.{zone}.ip4").read_text()
        assert ":127.0.0.3:Exit of an open relay" in text
        assert text.count("Test entry") == 2
        assert text.endswith("\n192.0.2.9\n")
        assert (folder / f"{zone}.ip4").read_text().endswith("\n192.0.2.1\n")

        async def said(address: str, below: str = "") -> list[str] | None:
            name = query_name(ip_address(address), f"{below}{zone}")
            return await listed_as(place, name, timedelta(seconds=5))

        assert await said("192.0.2.9", "outputs.") == ["127.0.0.3"]
        assert await said("192.0.2.1", "outputs.") == []
        assert await said("192.0.2.9") == []
        assert await said("192.0.2.1") == ["127.0.0.2"]
        for apex in zones_of(lab.config):
            asked = lab.config.publish.model_copy(update={"server": place})
            config = lab.config.model_copy(update={"publish": asked})
            assert await failing_tests(config, apex) == []
