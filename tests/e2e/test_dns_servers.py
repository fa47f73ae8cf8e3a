"""The list on real DNS servers: each answers as RFC 5782 wants it, and soon after a change."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import structlog

from relaytest.core.dns_check import Outcome, Question, Subject, further, questions
from relaytest.core.dns_rules import judge
from relaytest.core.zone import query_name, zones_of
from relaytest.daemons import answerer, dns_watch, publisher
from relaytest.net.dns import listed_as
from relaytest.net.dns_query import ask, ask_all
from tests.cli.program import relaytest
from tests.lab import NOBODYS, Lab, lab_config, running, until
from tests.mta.name_servers import NameServer, Nsd, PowerDns, Unbound
from tests.mta.process import fresh_address, fresh_port
from tests.mta.rbldnsd import Rbldnsd

ZONE = "relays.example"
OUTPUTS = f"outputs.{ZONE}"
ALL = f"all.{ZONE}"
BY_VERSION = (f"v4.{ZONE}", f"v6.{ZONE}")
LONG = timedelta(seconds=5)
LISTED = tuple(
    ip_address(text) for text in ("192.0.2.99", "192.0.2.100", "203.0.113.7", "2001:db8:1:2:3::9")
)
EXIT = ip_address("198.51.100.77")
PUT = """
    INSERT INTO relaytest.listing (address, port, code, state, trial, listed_at, expires_at)
    VALUES ($1, CASE $2::int WHEN 3 THEN 0 ELSE 25 END, $2, 'listed', 1, now(),
            now() + $3::interval)
"""
TRIAL = """
    INSERT INTO relaytest.trial (id, job, address, port, reason, requester)
    VALUES (1, 1, '192.0.2.1', 25, 'operator', 'x')
"""


async def put(lab: Lab, address, code: int = 2, life=timedelta(days=1)) -> None:
    await lab.connection.execute(PUT, address, code, life)
    await lab.connection.execute("NOTIFY relaytest_listing")


@pytest.fixture
async def lab(database, dsn, tmp_path) -> AsyncIterator[Lab]:
    """A publisher and the answerer, with some listings."""
    host = fresh_address()
    config = lab_config(
        tmp_path / "zone",
        publish={
            "zone_file": True,
            "by_version": True,
            "combined": True,
            "nameservers": ["ns1.example.net"],
        },
        scope={"allow": NOBODYS},
        listing={"outputs": True},
        answer={"listen": f"{host}:{fresh_port(host)}"},
    )
    async with running(config, database, dsn, (publisher.run, answerer.run)) as system:
        await system.connection.execute(TRIAL)
        for address in LISTED:
            await put(system, address)
        await put(system, EXIT, 3)
        zones = Path(config.publish.directory)

        async def published() -> bool | None:
            files = [zones / f"{apex.zone}.zone" for apex in zones_of(config)]
            there = all(file.exists() for file in files)
            return (
                there
                and "203" in files[0].read_text()
                and all("198" in file.read_text() for file in files[1:3])
            ) or None

        await until(published, "the zone files")
        yield system


@contextlib.contextmanager
def serving(kind: str, lab: Lab, root: Path, dsn: str, zone: str = ZONE) -> Iterator[str]:
    """Serve the published zones (NSD: one) with a real server; give its place."""
    if kind == "answerer":
        yield lab.config.answer.listen
        return
    zones = Path(lab.config.publish.directory)
    host = fresh_address()
    port = fresh_port(host)
    server: Rbldnsd | NameServer
    if kind == "rbldnsd":
        args = [
            f"{name}:{type_}:{zones / name}.{suffix}"
            for name in (OUTPUTS, ALL, *BY_VERSION, ZONE)
            for type_, suffix in (("ip4set", "ip4"), ("ip6trie", "ip6"), ("generic", "apex"))
        ]
        server = Rbldnsd(root / kind, args, host, port, check=1)
    elif kind == "nsd":
        server = Nsd(root / kind, zone, zones / f"{zone}.zone", host, port)
    else:
        server = PowerDns(root / kind, dsn, host, port)
    with server:
        yield f"{host}:{port}"


async def outcomes(place: str, subject: Subject) -> dict[str, Outcome]:
    answers = await ask_all(place, questions(subject), LONG)
    answers |= await ask_all(place, further(subject, answers), LONG)
    return {result.rule.id: result.outcome for result in judge(subject, answers)}


NOT_HERE = {"W4", "W10", "W16", "W19"}


@pytest.mark.parametrize("kind", ["answerer", "pdns", "nsd", "rbldnsd"])
async def test_every_rule_is_kept(lab, tmp_path, dsn, kind):
    with serving(kind, lab, tmp_path, dsn) as place:
        found = await outcomes(place, Subject(ZONE, LISTED))
    skipped = NOT_HERE | ({"W6"} if kind == "nsd" else set())  # it has one zone here
    assert {id_ for id_, one in found.items() if one is Outcome.SKIPPED} == skipped
    assert not {Outcome.WARNED, Outcome.FAILED} & set(found.values()), found


@pytest.mark.parametrize("kind", ["answerer", "pdns", "rbldnsd"])
async def test_a_zone_of_one_ip_version_has_no_other_entries(lab, kind, tmp_path, dsn):
    with serving(kind, lab, tmp_path, dsn) as place:
        for zone in BY_VERSION:
            listed = [
                address
                for address in LISTED
                if await listed_as(place, query_name(address, zone), LONG) == ["127.0.0.2"]
            ]
            assert listed == [one for one in LISTED if f"v{one.version}.{ZONE}" == zone]
            found = await outcomes(place, Subject(zone, tuple(listed)))
            assert Outcome.FAILED not in found.values(), found


@pytest.mark.parametrize("kind", ["answerer", "pdns", "rbldnsd"])
async def test_exits_are_in_a_zone_of_their_own(lab, tmp_path, dsn, kind):
    with serving(kind, lab, tmp_path, dsn) as place:
        exits, relays = Subject(OUTPUTS, (EXIT,)), Subject(ZONE, (EXIT,))
        found = await outcomes(place, exits)
        assert Outcome.FAILED not in found.values()
        answer = await ask(place, Question(exits.name(EXIT), "A"), LONG)
        assert answer is not None
        assert answer.values == ("127.0.0.3",)
        answer = await ask(place, Question(relays.name(EXIT), "A"), LONG)
        assert answer is not None
        assert answer.absent


@pytest.mark.parametrize("kind", ["answerer", "pdns", "rbldnsd", "nsd"])
async def test_relays_and_exits_may_be_in_one_zone(lab, tmp_path, dsn, kind):
    await put(lab, LISTED[0], 3)  # both; it is told as what is worse
    subject = Subject(ALL, (*LISTED, EXIT))
    with serving(kind, lab, tmp_path, dsn, ALL) as place:
        found = await outcomes(place, subject)
        assert Outcome.FAILED not in found.values(), found
        for address in subject.listed:
            code, text = ("3", "Exit of") if address == EXIT else ("2", "Open relay")
            assert await listed_as(place, subject.name(address), LONG) == [f"127.0.0.{code}"]
            told = await ask(place, Question(subject.name(address), "TXT"), LONG)
            assert [text in one and str(address) in one for one in told.values] == [True]


async def test_what_is_never_listed_is_not_answered_even_if_it_stands_in_the_database(
    lab, tmp_path, dsn
):
    await lab.connection.execute(
        "ALTER TABLE relaytest.listing DROP CONSTRAINT listing_is_no_test_entry"
    )
    await put(lab, ip_address("127.0.0.1"))
    await put(lab, ip_address("198.51.100.9"), life=timedelta(milliseconds=1))
    with serving("pdns", lab, tmp_path, dsn) as place:
        for name in ("1.0.0.127", "9.100.51.198", "1.0.0.2", "0.0.127", "x", "256.1.1.1"):
            answer = await ask(place, Question(f"{name}.{ZONE}", "A"), LONG)
            assert answer is not None
            assert answer.absent, name
            assert answer.negative == (300, 300)
        assert (await ask(place, Question("x.example.org", "A"), LONG)).rcode == "REFUSED"


async def test_powerdns_follows_the_database_at_once(lab, tmp_path, dsn):
    address = ip_address("198.51.100.200")
    question = Question(Subject(ZONE).name(address), "A")
    with serving("pdns", lab, tmp_path, dsn) as place:
        assert (await ask(place, question, LONG)).absent
        await put(lab, address)

        async def listed() -> bool | None:
            return (await ask(place, question, LONG)).values == ("127.0.0.2",) or None

        await until(listed, "the new entry")


async def test_powerdns_needs_no_more_than_its_role(lab, connection):
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE relaytest_dns")
        name = f"99.2.0.192.{ZONE}"
        rows = await connection.fetch("SELECT type FROM relaytest.dns_records($1)", name)
        assert {row["type"] for row in rows} == {"A", "TXT"}
        zones = await connection.fetch("SELECT zone FROM relaytest.dns_zones()")
        assert {row["zone"] for row in zones} == {ZONE, OUTPUTS, ALL, *BY_VERSION}


@pytest.mark.parametrize("kind", ["pdns", "nsd", "rbldnsd", "answerer"])
async def test_a_resolver_with_strict_qname_minimisation_finds_all(lab, tmp_path, dsn, kind):
    host = fresh_address()
    with (
        serving(kind, lab, tmp_path, dsn) as place,
        Unbound(tmp_path / "unbound", ZONE, place, host, fresh_port(host)) as resolver,
    ):
        subject = Subject(ZONE)
        for address in (*LISTED, *subject.entries):
            answer = await ask(resolver.place, Question(subject.name(address), "A"), LONG)
            assert answer is not None
            assert (answer.rcode, answer.values) == ("NOERROR", ("127.0.0.2",)), address
        for address in subject.unlisted:
            answer = await ask(resolver.place, Question(subject.name(address), "A"), LONG)
            assert answer is not None
            assert answer.rcode == "NXDOMAIN", address


async def test_nsd_takes_a_new_zone_file_by_its_serial(lab, tmp_path, dsn):
    zones = Path(lab.config.publish.directory)
    host = fresh_address()
    question = Question(f"200.100.51.198.{ZONE}", "A")
    soa = Question(ZONE, "SOA")
    with Nsd(tmp_path / "nsd", ZONE, zones / f"{ZONE}.zone", host, fresh_port(host)) as server:
        before = await ask(server.place, soa, LONG)
        await put(lab, ip_address("198.51.100.200"))

        async def listed() -> bool | None:
            server.reload()
            await asyncio.sleep(0.05)
            return (await ask(server.place, question, LONG)).values == ("127.0.0.2",) or None

        await until(listed, "the new entry")
        after = await ask(server.place, soa, LONG)
    assert before is not None
    assert after is not None
    assert int(after.values[0].split()[2]) > int(before.values[0].split()[2])


async def test_the_command_tells_what_it_finds(lab, tmp_path, dsn):
    with serving("rbldnsd", lab, tmp_path, dsn) as place:
        words = ["dns-check", ZONE, "--server", place, "--listed", str(LISTED[0])]
        said = await asyncio.to_thread(relaytest, *words)
        assert (said.returncode, said.stderr) == (0, "")
        assert "0 failed" in said.stdout
        assert "99.2.0.192.relays.example A: 127.0.0.2" in said.stdout
        strict = await asyncio.to_thread(relaytest, *words, "--strict", "--json")
        assert strict.returncode == 0
        assert json.loads(strict.stdout)["right"] is True
        wrong = await asyncio.to_thread(relaytest, *words, "--listed", "192.0.2.200")
        assert wrong.returncode == 1
        assert "200.2.0.192.relays.example A: NXDOMAIN" in wrong.stdout


async def test_files_that_break_the_zone_on_a_real_server_are_rolled_back(
    database, dsn, tmp_path, monkeypatch
):
    """As if a new version wrote files without the test entries."""
    host = fresh_address()
    place = f"{host}:{fresh_port(host)}"
    config = lab_config(
        tmp_path / "zone",
        publish={"server": place, "debounce": "10ms"},
        scope={"allow": NOBODYS},
    )
    monkeypatch.setattr(dns_watch, "_LOOK", timedelta(milliseconds=100))
    monkeypatch.setattr(dns_watch, "_AGAIN", timedelta(milliseconds=200))
    zones = Path(config.publish.directory)
    suffixes = (("ip4set", "ip4"), ("ip6trie", "ip6"), ("generic", "apex"))
    args = [f"{ZONE}:{type_}:{zones / ZONE}.{suffix}" for type_, suffix in suffixes]

    async def says(address: str) -> list[str] | None:
        return await listed_as(place, query_name(ip_address(address), ZONE), LONG)

    async def seen_as(address: str, code: str | None) -> None:
        async def look() -> bool | None:
            return await says(address) == ([code] if code else []) or None

        await until(look, f"{address} as {code}")

    with structlog.testing.capture_logs() as logged:
        async with running(config, database, dsn, (publisher.run,)) as system:
            await system.connection.execute(TRIAL)

            async def first() -> bool | None:
                return (zones / f"{ZONE}.apex").exists() or None

            await until(first, "the files")
            with Rbldnsd(tmp_path / "rbldnsd", args, host, int(place.rpartition(":")[2]), check=1):
                await put(system, LISTED[0])
                await seen_as(str(LISTED[0]), "127.0.0.2")
                await until(lambda: _told(logged, "dns self-test"), "a word of the self-test")
                monkeypatch.setattr(publisher, "render_ip4", lambda *_, **__: ":2:broken\n")
                await put(system, LISTED[1])
                await seen_as("127.0.0.2", None)
                await seen_as("127.0.0.2", "127.0.0.2")
                assert await says(str(LISTED[0])) == ["127.0.0.2"]
                assert await says(str(LISTED[1])) == []
                await until(lambda: _told(logged, "zone rolled back"), "a word of it")
                monkeypatch.undo()
                await put(system, LISTED[2])
                await seen_as(str(LISTED[2]), "127.0.0.2")
                await seen_as("127.0.0.2", "127.0.0.2")


async def _told(logged, word: str) -> bool | None:
    return any(one["event"].startswith(word) for one in logged) or None
