"""One question to one server: what it says is read whole, whatever it says."""

import asyncio
import contextlib
from datetime import timedelta
from types import SimpleNamespace

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

from relaytest.core.dns_check import Answer, Question
from relaytest.core.errors import ConfigError
from relaytest.net.dns_query import ask, ask_all, system_server
from relaytest.net.dns_server import serve_dns
from tests.mta.process import fresh_address

SHORT, LONG = timedelta(milliseconds=200), timedelta(seconds=5)
A = Question("2.0.0.127.relays.example", "A")


@contextlib.asynccontextmanager
async def serving(answer):
    async def respond(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        answer(query, response)
        return response

    async with serve_dns(fresh_address(), 0, respond) as (host, port):
        yield f"{host}:{port}"


def add(response, *values, kind="A", ttl=300) -> None:
    name = response.question[0].name
    response.answer.append(dns.rrset.from_text_list(name, ttl, "IN", kind, list(values)))


async def test_records_and_their_ttl_are_read():
    async with serving(lambda _, response: add(response, "127.0.0.3", "127.0.0.2")) as server:
        assert await ask(server, A, LONG) == Answer("NOERROR", ("127.0.0.2", "127.0.0.3"), 300)


async def test_a_negative_answer_tells_how_long_it_is_kept():
    def answer(query, response) -> None:
        response.set_rcode(dns.rcode.NXDOMAIN)
        soa = dns.rrset.from_text("relays.example.", 60, "IN", "SOA", "a. b. 1 2 3 4 300")
        response.authority.append(soa)

    async with serving(answer) as server:
        assert await ask(server, A, LONG) == Answer("NXDOMAIN", negative=(60, 300))


async def test_text_is_read_as_one_string_whatever_octets_it_has():
    def answer(query, response) -> None:
        add(response, r'"Open" "\255\007 relay"', kind="TXT")

    async with serving(answer) as server:
        found = await ask(server, Question(A.name, "TXT"), LONG)
    assert found is not None
    assert found.values == ("Open\\xff\x07 relay",)


async def test_what_does_not_fit_is_asked_for_again_over_tcp():
    many = [f"127.0.{n // 250}.{n % 250 + 2}" for n in range(500)]
    async with serving(lambda _, response: add(response, *many)) as server:
        found = await ask(server, A, LONG)
    assert found is not None
    assert len(found.values) == 20  # enough to see what it is


async def test_a_server_without_edns_is_asked_without():
    def answer(query, response) -> None:
        if query.edns >= 0:
            response.use_edns(False)
            response.set_rcode(dns.rcode.FORMERR)
        else:
            add(response, "127.0.0.2")

    async with serving(answer) as server:
        assert await ask(server, A, LONG) == Answer("NOERROR", ("127.0.0.2",), 300)


class Mute(asyncio.DatagramProtocol):
    """Answers with the same octets, whatever it is asked."""

    def __init__(self, octets: bytes | None) -> None:
        self.octets = octets
        self.asked = 0

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, _data: bytes, addr) -> None:
        self.asked += 1
        if self.octets is not None:
            self.transport.sendto(self.octets, addr)


@pytest.mark.parametrize("octets", [None, b"", b"\0", b"\xff" * 600, b"HTTP/1.1 400 No\r\n\r\n"])
async def test_silence_and_rubbish_are_no_answer(octets):
    transport, mute = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Mute(octets), local_addr=(fresh_address(), 0)
    )
    host, port = transport.get_extra_info("sockname")[:2]
    assert await ask(f"{host}:{port}", A, SHORT) is None
    assert mute.asked == 2
    transport.close()
    await asyncio.sleep(0)


async def test_nobody_there_is_no_answer():
    assert await ask(f"{fresh_address()}:9", A, SHORT) is None


async def test_a_name_that_dns_cannot_carry_is_no_answer():
    assert await ask("127.66.0.1:9", Question("x" * 64 + ".example", "A"), SHORT) is None


async def test_many_are_asked_and_each_is_told_of():
    told = []
    asked = [Question(f"{n}.relays.example", "A") for n in range(50)]
    async with serving(lambda _, response: add(response, "127.0.0.2")) as server:
        found = await ask_all(server, asked, LONG, lambda: told.append(1))
    assert list(map(found.get, asked)) == [Answer("NOERROR", ("127.0.0.2",), 300)] * 50
    assert len(told) == 50


def test_the_first_server_of_the_system_is_asked(monkeypatch):
    system = SimpleNamespace(nameservers=["2001:db8::53", "192.0.2.53"], port=53)
    monkeypatch.setattr(dns.resolver, "Resolver", lambda: system)
    assert system_server() == "[2001:db8::53]:53"


def test_a_system_without_a_server_is_told(monkeypatch):
    def none() -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver, "Resolver", none)
    with pytest.raises(ConfigError, match="--server"):
        system_server()
