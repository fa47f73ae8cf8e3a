"""The built-in answerer: the rows of RFC 5782, asked by a real client over UDP and TCP."""

import asyncio
from ipaddress import ip_address

import asyncpg
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from relaytest.core.config import split_endpoint
from relaytest.core.zone import query_name
from relaytest.daemons import answerer
from relaytest.daemons.loop import Stop
from relaytest.store import listings
from tests.lab import lab_config, running, until
from tests.mta.process import fresh_address, fresh_port

ZONE = "relays.example"
V6 = "2001:db8:1:2:3:4:567:89ab"
LISTED = ("192.0.2.99", "2.0.0.1", V6)
LOOKUP = "https://lookup.example/"
PATIENCE = 5.0


def configured(tmp_path):
    host = fresh_address()
    return lab_config(
        tmp_path,
        answer={"listen": f"{host}:{fresh_port(host)}"},
        publish={
            "zone": ZONE,
            "lookup_url": LOOKUP,
            "nameservers": ["ns1.example.net", "ns2.example.net"],
            "hostmaster": "hostmaster.example.net",
        },
    )


async def put_on(connection: asyncpg.Connection, *addresses: str) -> None:
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES (1, 1, '192.0.2.1', 25, 'operator', 'x') ON CONFLICT DO NOTHING"
    )
    for address in addresses:
        await connection.execute(
            "INSERT INTO relaytest.listing (address, port, state, trial, listed_at, expires_at)"
            " VALUES ($1::text::inet, 25, 'listed', 1, now(), now() + interval '1 day')",
            address,
        )


class Client:
    """Asks one server."""

    def __init__(self, endpoint: str) -> None:
        self._host, self._port = split_endpoint(endpoint)

    async def ask(
        self, name: str, rdtype: str = "A", *, tcp: bool = False, **options
    ) -> dns.message.Message:
        query = dns.message.make_query(name, rdtype, **options)
        ask = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        return await ask(query, self._host, port=self._port, timeout=PATIENCE)

    async def wait(self) -> None:
        """Wait until it answers at all."""

        async def look() -> bool | None:
            try:
                query = dns.message.make_query(ZONE, "SOA")
                await dns.asyncquery.tcp(query, self._host, port=self._port, timeout=PATIENCE)
            except OSError:
                return None
            return True

        await until(look, "the answerer")


@pytest.fixture
async def client(database, dsn, connection, tmp_path):
    config = configured(tmp_path)
    await put_on(connection, *LISTED)
    async with running(config, database, dsn, (answerer.run,)):
        asking = Client(config.answer.listen)
        await asking.wait()
        yield asking


def values(response: dns.message.Message, rdtype: str = "A") -> list[str]:
    kind = dns.rdatatype.from_text(rdtype)
    return [
        record.to_text() for rrset in response.answer if rrset.rdtype == kind for record in rrset
    ]


def name_of(address: str) -> str:
    return query_name(ip_address(address), ZONE)


def soa_of(response: dns.message.Message):
    """The SOA of a negative answer, and the TTL it has there."""
    (rrset,) = response.authority
    return rrset[0], rrset.ttl


WAYS = pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])


# --- listed and unlisted


@WAYS
@pytest.mark.parametrize("address", LISTED)
async def test_a_listed_address_has_an_a_record_that_is_no_address(client, address, tcp):
    """W1, W3, W8, W9."""
    response = await client.ask(name_of(address), tcp=tcp)
    assert response.rcode() == dns.rcode.NOERROR
    assert values(response) == ["127.0.0.2"]
    assert response.flags & dns.flags.AA


async def test_the_name_of_an_ipv6_address_is_the_one_of_the_rfc(client):
    """W9: the example of RFC 5782 section 2.4."""
    name = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2"
    assert name_of(V6) == f"{name}.{ZONE}"
    assert values(await client.ask(f"{name}.{ZONE}")) == ["127.0.0.2"]


@pytest.mark.parametrize("address", LISTED)
async def test_a_listed_address_has_a_text_with_its_page(client, address):
    """W2."""
    (text,) = values(await client.ask(name_of(address), "TXT"), "TXT")
    assert f"{LOOKUP}{address}" in text


async def test_any_gives_both(client):
    response = await client.ask(name_of(LISTED[0]), "ANY")
    assert values(response) == ["127.0.0.2"]
    assert len(values(response, "TXT")) == 1


async def test_other_types_of_a_listed_name_are_empty(client):
    for rdtype in ("AAAA", "MX", "NS", "SOA"):
        response = await client.ask(name_of(LISTED[0]), rdtype)
        assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
        assert soa_of(response)


@WAYS
@pytest.mark.parametrize("rdtype", ["A", "TXT", "AAAA", "ANY"])
@pytest.mark.parametrize("address", ["192.0.2.98", "2001:db8::1"])
async def test_an_unlisted_address_has_no_record_at_all(client, address, rdtype, tcp):
    """W5."""
    response = await client.ask(name_of(address), rdtype, tcp=tcp)
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert response.answer == []


async def test_only_the_whole_address_is_listed(client):
    """W4, W18: no ranges, no wildcards."""
    for name in ("*", "*.2.0.192", "99.2.0.192.x", "x.99.2.0.192", "0.99.2.0.192", "99.2.0.192.1"):
        response = await client.ask(f"{name}.{ZONE}")
        assert (response.rcode(), response.answer) == (dns.rcode.NXDOMAIN, [])


@pytest.mark.parametrize(
    "labels", ["256.2.0.192", "099.2.0.192", "9 9.2.0.192", "-1.2.0.192", "xn--1.2.0.192", "g.1"]
)
async def test_what_is_no_address_has_no_record(client, labels):
    assert (await client.ask(f"{labels}.{ZONE}")).rcode() == dns.rcode.NXDOMAIN


async def test_a_change_of_the_list_is_seen_at_once(client, connection):
    assert values(await client.ask(name_of("192.0.2.1"))) == []
    await put_on(connection, "192.0.2.1")
    assert values(await client.ask(name_of("192.0.2.1"))) == ["127.0.0.2"]
    await connection.execute("UPDATE relaytest.listing SET expires_at = now()")
    assert values(await client.ask(name_of("192.0.2.1"))) == []


# --- test entries


@pytest.mark.parametrize("address", ["127.0.0.2", "::ffff:127.0.0.2"])
async def test_the_test_entries_are_always_listed(client, connection, address):
    """W12, W14, W15."""
    await connection.execute("DELETE FROM relaytest.listing")
    assert values(await client.ask(name_of(address))) == ["127.0.0.2"]
    (text,) = values(await client.ask(name_of(address), "TXT"), "TXT")
    assert "Test entry" in text


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_127_0_0_1_is_never_listed(client, connection, address):
    """W13, W15: not even if somebody inserts it."""
    with pytest.raises(asyncpg.CheckViolationError):
        await put_on(connection, address)
    assert (await client.ask(name_of(address))).rcode() == dns.rcode.NXDOMAIN


# --- names on the way


def parents(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[n:]) for n in range(1, len(labels) - ZONE.count("."))]


@pytest.mark.parametrize("address", ["127.0.0.2", *LISTED])
async def test_every_name_on_the_way_to_an_entry_exists(client, address):
    """W21: NXDOMAIN would mean that nothing is below (RFC 8020)."""
    on_the_way = parents(name_of(address))
    assert on_the_way[-1] == ZONE
    for name in on_the_way:
        assert (await client.ask(name)).rcode() == dns.rcode.NOERROR


async def test_a_name_on_the_way_has_no_record(client):
    for rdtype in ("A", "TXT", "ANY"):
        response = await client.ask(f"0.127.{ZONE}", rdtype)
        assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
        assert soa_of(response)


async def test_an_unlisted_name_that_is_a_way_to_ipv6_exists_as_well(client, connection):
    """1.0.0.2 is the address 2.0.0.1 and the way to 2001::/16."""
    assert values(await client.ask(f"1.0.0.2.{ZONE}")) == ["127.0.0.2"]
    await connection.execute("DELETE FROM relaytest.listing WHERE address = '2.0.0.1'")
    response = await client.ask(f"1.0.0.2.{ZONE}")
    assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])


# --- the zone itself


@WAYS
async def test_the_apex_says_what_the_configuration_says(client, tcp):
    (soa,) = values(await client.ask(ZONE, "SOA", tcp=tcp), "SOA")
    assert soa == "ns1.example.net. hostmaster.example.net. 1 3600 900 1209600 300"
    servers = values(await client.ask(ZONE, "NS", tcp=tcp), "NS")
    assert sorted(servers) == ["ns1.example.net.", "ns2.example.net."]
    (text,) = values(await client.ask(ZONE, "TXT", tcp=tcp), "TXT")
    assert ZONE in text


async def test_the_apex_has_no_address_but_exists(client):
    response = await client.ask(ZONE, "A")
    assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
    assert soa_of(response)


async def test_a_new_listing_stays_unseen_for_minutes_at_most(client):
    """W11, W20: TTL of entries, and of negative answers as RFC 2308 section 5 counts it."""
    (rrset,) = (await client.ask(name_of(LISTED[0]))).answer
    assert 60 <= rrset.ttl <= 300
    soa, ttl = soa_of(await client.ask(name_of("192.0.2.98")))
    assert 60 <= min(ttl, soa.minimum) <= 300


@pytest.mark.parametrize("name", ["example", ".", "xrelays.example", "relays.example.org"])
async def test_another_zone_is_refused(client, name):
    response = await client.ask(name)
    assert (response.rcode(), response.answer) == (dns.rcode.REFUSED, [])
    assert not response.flags & dns.flags.AA


async def test_the_class_chaos_gets_nothing_of_ours(client):
    response = await client.ask("version.bind", "TXT", rdclass="CH")
    assert response.rcode() == dns.rcode.REFUSED
    response = await client.ask(name_of(LISTED[0]), rdclass="CH")
    assert response.answer == []


# --- the wire


@WAYS
@pytest.mark.parametrize("address", ["192.0.2.99", V6, "192.0.2.98"])
async def test_the_letters_of_a_name_come_back_as_they_were_asked(client, address, tcp):
    """Resolvers mix case against forged answers (0x20); dnspython compares octets, too."""
    labels = query_name(ip_address(address), "ReLaYs.ExAmPlE")
    mixed = "".join(one.upper() if n % 2 else one for n, one in enumerate(labels))
    response = await client.ask(mixed, tcp=tcp)
    names = [response.question[0].name, *(rrset.name for rrset in response.answer)]
    assert {name.to_text(omit_final_dot=True) for name in names} == {mixed}
    assert bool(values(response)) is (address in LISTED)


async def test_edns_is_answered_with_edns(client):
    assert (await client.ask(name_of(LISTED[0]), use_edns=0, payload=1232)).edns == 0
    assert (await client.ask(name_of(LISTED[0]), use_edns=False)).edns == -1


async def test_many_questions_at_once_are_all_answered(client):
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(client.ask(name_of(f"192.0.2.{n}"), tcp=n % 2 == 0))
            for n in range(60, 100)
        ]
    listed = [n for n, one in enumerate(asked, 60) if values(one.result())]
    assert listed == [99]


# --- trouble


async def test_without_the_database_the_answer_is_servfail(road, shaky, dsn, connection, tmp_path):
    config = configured(tmp_path)
    await put_on(connection, *LISTED)
    async with running(config, shaky, dsn, (answerer.run,)):
        client = Client(config.answer.listen)
        await client.wait()
        await road.cut()
        for name in (name_of(LISTED[0]), name_of("192.0.2.98")):
            response = await client.ask(name)
            assert (response.rcode(), response.answer) == (dns.rcode.SERVFAIL, [])
        await road.mend()
        assert values(await client.ask(name_of(LISTED[0]))) == ["127.0.0.2"]


async def test_a_question_that_fails_is_a_servfail_and_not_the_end(client, monkeypatch):
    with monkeypatch.context() as patch:

        async def broken(*_: object) -> None:
            raise asyncpg.QueryCanceledError("by an operator")

        patch.setattr(listings, "code_of", broken)
        response = await client.ask(name_of(LISTED[0]))
        assert response.rcode() == dns.rcode.SERVFAIL
    assert values(await client.ask(name_of(LISTED[0]))) == ["127.0.0.2"]


async def test_an_address_that_is_taken_ends_the_daemon_with_an_os_error(database, tmp_path):
    config = configured(tmp_path)
    host, port = split_endpoint(config.answer.listen)
    server = await asyncio.start_server(lambda _reader, _writer: None, host, port)
    async with server:
        with pytest.raises(OSError, match="in use"):
            await answerer.run(config, database, Stop())
