"""Look-ups against servers that answer, refuse, babble, or say nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from relaytest.net.dns import NullMxError, Resolver, listed_as
from relaytest.net.dns_server import serve_dns

SECOND, SHORT = timedelta(seconds=1), timedelta(milliseconds=100)
NAME = "2.0.0.127.relays.example"
TARGET = ip_address("192.0.2.1")
POINTER = "1.2.0.192.in-addr.arpa"


class Zone:
    """Answers from a table of (name, type) to records.

    Attributes:
        asked: Names, in order.
    """

    def __init__(self, *records: tuple[str, str, str], rcode=dns.rcode.NXDOMAIN) -> None:
        self.asked: list[str] = []
        self._records, self._rcode = records, rcode

    async def answer(self, query: dns.message.Message) -> dns.message.Message:
        asked = query.question[0]
        self.asked.append(asked.name.to_text())
        response = dns.message.make_response(query)
        kind = dns.rdatatype.to_text(asked.rdtype)
        name = asked.name.to_text(omit_final_dot=True)
        values = [value for *key, value in self._records if key == [name, kind]]
        if values:
            found = dns.rrset.from_text_list(asked.name, 60, "IN", kind, values)
            response.answer.append(found)
        if not response.answer:
            response.set_rcode(self._rcode)
        return response

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with serve_dns("127.0.0.1", 0, self.answer) as (host, port):
            yield f"{host}:{port}"


@contextlib.asynccontextmanager
async def saying(octets: bytes | None) -> AsyncIterator[str]:
    """A server whose every answer is these octets; None: it never answers."""

    class Babbler(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr) -> None:
            if octets is not None:
                self.transport.sendto(octets.replace(b"ID", data[:2]), addr)  # type: ignore[attr-defined]  # of a datagram endpoint

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Babbler, local_addr=("127.0.0.1", 0))
    try:
        yield "{}:{}".format(*transport.get_extra_info("sockname"))
    finally:
        transport.close()
        await asyncio.sleep(0)


BABBLE = {
    "mute": None,
    "empty": b"",
    "garbage": b"\xff" * 60,
    "cut-short": b"ID\x84\x00\0\1\0\1\0\0\0\0",
    "another-question": b"ID\x84\x00\0\1\0\0\0\0\0\0\1x\0\0\1\0\1",
    "its-own-id": b"XX\x84\x00\0\0\0\0\0\0\0\0",
}


# --- listed_as


async def test_a_listed_name_has_its_addresses_in_order():
    zone = Zone((NAME, "A", "127.0.0.3"), (NAME, "A", "127.0.0.2"))
    async with zone.serve() as server:
        assert await listed_as(server, NAME, SECOND) == ["127.0.0.2", "127.0.0.3"]


async def test_an_unlisted_name_has_none():
    async with Zone().serve() as server:
        assert await listed_as(server, NAME, SECOND) == []


async def test_a_name_with_other_records_only_is_not_listed():
    async with Zone((NAME, "TXT", '"x"'), rcode=dns.rcode.NOERROR).serve() as server:
        assert await listed_as(server, NAME, SECOND) == []


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED], ids=str)
async def test_an_error_of_the_server_is_no_answer(rcode):
    async with Zone(rcode=rcode).serve() as server:
        assert await listed_as(server, NAME, SECOND) is None


@pytest.mark.parametrize("octets", BABBLE.values(), ids=BABBLE)
async def test_a_server_that_says_nothing_sensible_is_no_answer(octets):
    async with saying(octets) as server, asyncio.timeout(20):
        assert await listed_as(server, NAME, SHORT) is None


async def test_a_server_that_is_not_there_is_no_answer():
    async with asyncio.timeout(20):
        assert await listed_as("127.66.0.1:9", NAME, SHORT) is None


async def test_an_answer_is_never_an_old_one():
    zone = Zone((NAME, "A", "127.0.0.2"))
    async with zone.serve() as server:
        assert await listed_as(server, NAME, SECOND) == ["127.0.0.2"]
        zone._records = ()
        assert await listed_as(server, NAME, SECOND) == []


async def test_a_server_on_ipv6_is_asked():
    zone = Zone((NAME, "A", "127.0.0.2"))
    try:
        async with serve_dns("::1", 0, zone.answer) as (_, port):
            assert await listed_as(f"[::1]:{port}", NAME, SECOND) == ["127.0.0.2"]
    except OSError as error:
        pytest.skip(f"no ::1 here: {error}")


# --- texts


async def texts(server: str, name=NAME, longest=SECOND) -> list[str] | None:
    async with Resolver([server], longest) as resolver:
        return await resolver.texts(name)


async def test_texts_come_whole_and_as_they_are():
    zone = Zone((NAME, "TXT", '"abuse@a.example" ",b@c.example"'), (NAME, "TXT", '"\\228 \\000"'))
    async with zone.serve() as server:
        assert sorted(await texts(server)) == ["abuse@a.example,b@c.example", "\xe4 \0"]


async def test_a_name_without_texts_has_none():
    async with Zone((NAME, "A", "127.0.0.2"), rcode=dns.rcode.NOERROR).serve() as server:
        assert await texts(server) == []
    async with Zone().serve() as server:
        assert await texts(server) == []


async def test_a_server_that_fails_has_said_nothing_of_texts():
    async with Zone(rcode=dns.rcode.SERVFAIL).serve() as server:
        assert await texts(server) is None


@pytest.mark.parametrize("octets", BABBLE.values(), ids=BABBLE)
async def test_a_server_that_babbles_has_said_nothing_of_texts(octets):
    async with saying(octets) as server, asyncio.timeout(20):
        assert await texts(server, longest=SHORT) is None


# --- pointer


async def point(server: str, address=TARGET, longest=SECOND) -> str | None:
    async with Resolver([server], longest) as resolver:
        return await resolver.pointer(address)


async def test_an_address_has_the_name_of_its_pointer():
    async with Zone((POINTER, "PTR", "mx.lab.example.")).serve() as server:
        assert await point(server) == "mx.lab.example"


async def test_an_ipv6_address_is_asked_for_by_nibbles():
    zone = Zone()
    async with zone.serve() as server:
        assert await point(server, ip_address("2001:db8::1")) is None
    assert zone.asked[0].startswith("1.0.0.0.")
    assert zone.asked[0].endswith(".8.b.d.0.1.0.0.2.ip6.arpa.")


async def test_an_address_without_a_pointer_has_no_name():
    async with Zone().serve() as server:
        assert await point(server) is None


async def test_one_of_several_pointers_is_taken():
    names = {"a.lab.example", "b.lab.example"}
    zone = Zone(*((POINTER, "PTR", f"{name}.") for name in names))
    async with zone.serve() as server:
        assert await point(server) in names


@pytest.mark.parametrize("octets", BABBLE.values(), ids=BABBLE)
async def test_no_sensible_answer_is_no_name(octets):
    async with saying(octets) as server, asyncio.timeout(20):
        assert await point(server, longest=SHORT) is None


async def test_a_pointer_with_odd_octets_does_no_harm():
    async with Zone((POINTER, "PTR", r"\000\255<b>\032x.example.")).serve() as server:
        name = await point(server)
    assert name is None or "example" in name


async def test_many_look_ups_share_a_resolver():
    zone = Zone((POINTER, "PTR", "mx.lab.example."))
    async with zone.serve() as server, Resolver([server], SECOND * 10) as resolver:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(resolver.pointer(TARGET)) for _ in range(150)]
        assert {one.result() for one in asked} == {"mx.lab.example"}


async def test_a_look_up_can_be_cancelled():
    async with saying(None) as server, Resolver([server], SECOND * 20) as resolver:
        task = asyncio.ensure_future(resolver.pointer(TARGET))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- mail_hosts


async def hosts_of(zone: Zone, name: str = "shop.example"):
    async with zone.serve() as server, Resolver([server], SECOND) as resolver:
        found = await resolver.mail_hosts(name)
    return found and [
        (one.name, one.preference, one.addresses and [*map(str, one.addresses)]) for one in found
    ]


async def test_mail_goes_to_the_exchangers_the_preferred_first():
    zone = Zone(
        ("shop.example", "MX", "20 b.example."),
        ("shop.example", "MX", "10 a.example."),
        ("a.example", "A", "192.0.2.2"),
        ("a.example", "A", "192.0.2.1"),
        ("a.example", "AAAA", "2001:db8::1"),
        ("b.example", "A", "192.0.2.3"),
    )
    assert await hosts_of(zone) == [
        ("a.example", 10, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
        ("b.example", 20, ["192.0.2.3"]),
    ]


async def test_a_name_without_exchangers_takes_its_mail_itself():
    zone = Zone(("shop.example", "AAAA", "2001:db8::1"), rcode=dns.rcode.NOERROR)
    assert await hosts_of(zone) == [("shop.example", None, ["2001:db8::1"])]


async def test_an_exchanger_that_leads_nowhere_has_no_address():
    zone = Zone(("shop.example", "MX", "10 gone.example."))
    assert await hosts_of(zone) == [("gone.example", 10, ())]


async def test_a_name_that_does_not_exist_has_no_address():
    assert await hosts_of(Zone()) == [("shop.example", None, ())]


async def test_a_domain_may_say_that_it_takes_no_mail():
    with pytest.raises(NullMxError):
        await hosts_of(Zone(("shop.example", "MX", "0 .")))


async def test_an_error_of_the_server_is_no_answer_about_mail():
    assert await hosts_of(Zone(rcode=dns.rcode.SERVFAIL)) is None


@pytest.mark.parametrize("octets", BABBLE.values(), ids=BABBLE)
async def test_no_sensible_answer_about_mail_comes_in_time(octets):
    async with (
        saying(octets) as server,
        asyncio.timeout(20),
        Resolver([server], SHORT) as resolver,
    ):
        assert await resolver.mail_hosts("shop.example") is None


async def test_the_hosts_file_knows_us_without_dns():
    async with Resolver(["127.66.0.1:9"], SHORT) as resolver:
        (host,) = await resolver.mail_hosts("localhost")
    assert "127.0.0.1" in map(str, host.addresses)


async def test_a_name_is_never_looked_for_below_our_own_domain():
    zone = Zone()
    async with zone.serve() as server, Resolver([server], SECOND) as resolver:
        await resolver.mail_hosts("shop.example")
    assert set(zone.asked) == {"shop.example."}


async def test_an_exchanger_with_odd_octets_does_no_harm():
    zone = Zone(("shop.example", "MX", r"10 b\009a<d>.example."))
    ((_, _, addresses),) = await hosts_of(zone)
    assert not addresses
