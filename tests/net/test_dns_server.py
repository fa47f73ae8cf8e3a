"""The small DNS server: UDP and TCP as the RFCs have them, and deaf to what is no question."""

import asyncio
import contextlib
import errno
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import dns.asyncquery
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.update
import pytest

from relaytest.net.dns_server import serve_dns

Place = tuple[str, int]
PATIENCE = 20.0  # seconds; an answer takes a fraction of one


async def by_address(query: dns.message.Message) -> dns.message.Message:
    """Every name has the address 127.0.0.2."""
    response = dns.message.make_response(query)
    name = query.question[0].name
    response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "127.0.0.2"))
    return response


async def at_length(query: dns.message.Message) -> dns.message.Message:
    """Every name has 90 addresses: some 1500 octets."""
    response = dns.message.make_response(query)
    addresses = [f"127.0.0.{n}" for n in range(2, 92)]
    name = query.question[0].name
    response.answer.append(dns.rrset.from_text_list(name, 60, "IN", "A", addresses))
    return response


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with serve_dns("127.0.0.1", 0, by_address) as bound:
        yield bound


Ask = Callable[[dns.message.Message, Place], Awaitable[dns.message.Message]]


async def by_udp(query: dns.message.Message, place: Place) -> dns.message.Message:
    return await dns.asyncquery.udp(query, place[0], port=place[1], timeout=PATIENCE)


async def by_tcp(query: dns.message.Message, place: Place) -> dns.message.Message:
    return await dns.asyncquery.tcp(query, place[0], port=place[1], timeout=PATIENCE)


WAYS = pytest.mark.parametrize("ask", [by_udp, by_tcp], ids=["udp", "tcp"])


def question(name="a.example", rdtype="A", **options) -> dns.message.Message:
    return dns.message.make_query(name, rdtype, **options)


def addresses(response: dns.message.Message) -> list[str]:
    return [record.address for rrset in response.answer for record in rrset]


@WAYS
async def test_a_question_is_answered(place, ask):
    query = question()
    response = await ask(query, place)
    assert response.id == query.id
    assert response.flags & dns.flags.QR
    assert addresses(response) == ["127.0.0.2"]


@WAYS
async def test_the_letters_of_a_name_come_back_as_they_were_asked(place, ask):
    query = question("A.eXaMpLe")
    response = await ask(query, place)
    assert response.question[0].name.to_text() == "A.eXaMpLe."
    assert response.answer[0].name.to_text() == "A.eXaMpLe."


@WAYS
async def test_edns_is_answered_with_edns(place, ask):
    assert (await ask(question(use_edns=0, payload=1232), place)).edns == 0
    assert (await ask(question(use_edns=False), place)).edns == -1


@WAYS
async def test_a_later_version_of_edns_is_told_ours(place, ask):
    """RFC 6891 section 6.1.3."""
    response = await ask(question(use_edns=1), place)
    assert (response.rcode(), response.edns, response.answer) == (dns.rcode.BADVERS, 0, [])


@WAYS
async def test_two_questions_in_one_message_are_a_mistake(place, ask):
    """RFC 9619."""
    query = question()
    query.question += question("b.example").question
    response = await ask(query, place)
    assert response.rcode() == dns.rcode.FORMERR
    assert response.answer == []


def operation(opcode: dns.opcode.Opcode) -> bytes:
    message: dns.message.Message = dns.update.UpdateMessage("example")
    if opcode != dns.opcode.UPDATE:
        message = dns.message.Message()
        message.set_opcode(opcode)
        message.question = question().question
    return message.to_wire()


@pytest.mark.parametrize(
    "opcode", [dns.opcode.STATUS, dns.opcode.NOTIFY, dns.opcode.UPDATE], ids=dns.opcode.to_text
)
async def test_other_operations_are_not_implemented(place, opcode):
    wire = operation(opcode)
    by_stream = await raw_tcp([wire], place)
    for reply in (await raw(wire, place), *by_stream):
        assert reply is not None
        assert reply[:2] == wire[:2]
        assert reply[3] & 15 == dns.rcode.NOTIMP
    assert len(by_stream) == 1


async def raw(octets: bytes, place: Place, *, then: bytes | None = None) -> bytes | None:
    """Send a datagram, then a good question; return what comes before the answer to that."""
    loop = asyncio.get_running_loop()
    good = then or question("last.example", id=0xFFFF).to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(place)
        await loop.sock_sendall(sock, octets)
        first = None
        async with asyncio.timeout(PATIENCE):
            await loop.sock_sendall(sock, good)
            while (reply := await loop.sock_recv(sock, 65535))[:2] != good[:2]:
                first = reply
        return first


async def raw_tcp(messages: list[bytes], place: Place) -> list[bytes]:
    """Send messages in one write; return the answers up to the close."""
    reader, writer = await asyncio.open_connection(*place)
    try:
        writer.write(b"".join(struct.pack(">H", len(one)) + one for one in messages))
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            octets = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    found = []
    while octets:
        (size,) = struct.unpack(">H", octets[:2])
        found.append(octets[2 : 2 + size])
        octets = octets[2 + size :]
    return found


def response() -> bytes:
    made = dns.message.make_response(question())
    return made.to_wire()


GARBAGE = {
    "empty": b"",
    "one-octet": b"\0",
    "header-cut": question().to_wire()[:11],
    "question-cut": question().to_wire()[:-3],
    "more-behind": question().to_wire() + b"more",
    "pointer-to-itself": b"\0\1\0\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1",
    "label-too-long": b"\0\1\0\0\0\1\0\0\0\0\0\0\x7f" + b"a" * 20,
    "counts-that-lie": b"\0\1\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0",
    "ones": b"\xff" * 40,
    "a-response": response(),
}


@pytest.mark.parametrize("octets", GARBAGE.values(), ids=GARBAGE)
async def test_what_is_no_question_gets_no_answer_and_does_no_harm(place, octets):
    assert await raw(octets, place) is None


@pytest.mark.parametrize("octets", GARBAGE.values(), ids=GARBAGE)
async def test_a_tcp_client_that_asks_no_question_is_left(place, octets):
    assert await raw_tcp([octets, question().to_wire()], place) == []
    assert addresses(await by_tcp(question(), place)) == ["127.0.0.2"]


async def test_random_octets_do_no_harm(place):
    dice = random.Random(1)
    good = question(use_edns=0).to_wire()
    for _ in range(300):
        octets = bytearray(good)
        for _ in range(dice.randint(1, 6)):
            octets[dice.randrange(2, len(octets))] = dice.randrange(256)
        await raw(bytes(octets[: dice.randint(1, len(octets))]), place)
    assert addresses(await by_udp(question(), place)) == ["127.0.0.2"]


async def test_many_questions_at_once_are_all_answered(place):
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(by_udp(question(f"{n}.example"), place)) for n in range(50)] + [
            group.create_task(by_tcp(question(f"{n}.example"), place)) for n in range(50)
        ]
    assert {tuple(addresses(one.result())) for one in asked} == {("127.0.0.2",)}


async def test_many_questions_on_one_connection_are_answered_in_order(place):
    queries = [question(f"{n}.example") for n in range(20)]
    answers = await raw_tcp([one.to_wire() for one in queries], place)
    assert [one[:2] for one in answers] == [struct.pack(">H", query.id) for query in queries]


async def test_a_flood_is_dropped_and_later_questions_are_answered():
    gate, busy = asyncio.Event(), []

    async def slowly(query: dns.message.Message) -> dns.message.Message:
        busy.append(1)
        await gate.wait()
        return await by_address(query)

    async with serve_dns("127.0.0.1", 0, slowly) as place:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(place)
            for n in range(600):
                sock.send(question(f"{n}.example").to_wire())
                await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE):
                while len(busy) < 200:  # noqa: ASYNC110 - the server's own count
                    await asyncio.sleep(0.01)
            gate.set()
            assert addresses(await by_udp(question("last.example"), place)) == ["127.0.0.2"]
        assert len(busy) < 600


# --- long answers


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"use_edns": False}, 512),
        ({"use_edns": 0, "payload": 512}, 512),
        ({"use_edns": 0, "payload": 1000}, 1000),
        ({"use_edns": 0, "payload": 1232}, 1232),
        ({"use_edns": 0, "payload": 65535}, 1232),
    ],
    ids=["plain", "edns-512", "edns-1000", "edns-1232", "edns-65535"],
)
async def test_an_answer_too_long_for_udp_is_cut_to_nothing_and_says_so(options, most):
    async def answer(query: dns.message.Message) -> dns.message.Message:
        made = dns.message.make_response(query)
        count = (most - 60) // 16 + 5  # just too many addresses
        values = [f"127.0.0.{n}" for n in range(2, 2 + count)]
        name = query.question[0].name
        made.answer.append(dns.rrset.from_text_list(name, 60, "IN", "A", values))
        return made

    async with serve_dns("127.0.0.1", 0, answer) as place:
        reply = await by_udp(question(**options), place)
        assert reply.flags & dns.flags.TC
        assert reply.answer == []
        assert len(addresses(await by_tcp(question(**options), place))) > 20


async def test_a_long_answer_comes_whole_over_tcp():
    async with serve_dns("127.0.0.1", 0, at_length) as place:
        reply, by_stream = await dns.asyncquery.udp_with_fallback(
            question(), place[0], port=place[1], timeout=PATIENCE
        )
    assert by_stream
    assert len(addresses(reply)) == 90


# --- trouble


async def test_an_answer_that_fails_is_a_servfail_and_not_the_end():
    async def broken(query: dns.message.Message) -> dns.message.Message:
        if query.question[0].name.to_text() == "bad.example.":
            raise ValueError("a bug")
        return await by_address(query)

    async with serve_dns("127.0.0.1", 0, broken) as place:
        reply = await by_udp(question("bad.example"), place)
        assert reply.rcode() == dns.rcode.SERVFAIL
        assert addresses(await by_udp(question(), place)) == ["127.0.0.2"]


async def test_a_tcp_client_that_breaks_off_does_no_harm(place):
    for octets in (b"", b"\0", b"\0\x40half"):
        _, writer = await asyncio.open_connection(*place)
        writer.write(octets)
        writer.close()
        await writer.wait_closed()
    assert addresses(await by_tcp(question(), place)) == ["127.0.0.2"]


async def test_an_address_that_is_taken_is_an_os_error(place):
    host, port = place
    with pytest.raises(OSError, match=r".") as caught:
        async with serve_dns(host, port, by_address):
            pass
    assert caught.value.errno == errno.EADDRINUSE


async def test_an_address_taken_for_tcp_alone_is_an_os_error_and_frees_udp():
    with socket.create_server(("127.0.0.1", 0)) as other:
        host, port = other.getsockname()[:2]
        with pytest.raises(OSError, match=r".") as caught:
            async with serve_dns(host, port, by_address):
                pass
        assert caught.value.errno == errno.EADDRINUSE
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind((host, port))


async def test_an_error_inside_the_block_comes_out_as_it_is():
    with pytest.raises(ValueError, match="mine"):
        async with serve_dns("127.0.0.1", 0, by_address):
            raise ValueError("mine")


async def test_the_port_is_free_again_afterwards():
    async with serve_dns("127.0.0.1", 0, by_address) as place:
        pass
    async with serve_dns(*place, by_address) as again:
        assert again == place
