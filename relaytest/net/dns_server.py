"""A small DNS server over UDP and TCP, for trying the list out without a DNS server.

dnspython reads and writes the messages. Production belongs on rbldnsd or PowerDNS.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode

Answerer = Callable[[dns.message.Message], Awaitable[dns.message.Message]]

_LONGEST_UDP = 1232  # octets that are not fragmented on the way (DNS flag day 2020)
_AT_ONCE = 200  # questions in work; more are dropped, and clients ask again
_IDLE = 10.0  # seconds that a TCP client may be silent (RFC 7766 section 6.2.3)


@contextlib.asynccontextmanager
async def serve_dns(host: str, port: int, answer: Answerer) -> AsyncIterator[tuple[str, int]]:
    """Answer questions while the block runs; give the bound address.

    Args:
        host: Address to listen on.
        port: For UDP and TCP; 0 lets the system choose.
        answer: Makes the response to a query with exactly one question.

    Raises:
        OSError: The address is taken or not ours.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        gate = asyncio.Semaphore(_AT_ONCE)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(answer, group, gate), local_addr=(host, port)
        )
        bound = transport.get_extra_info("sockname")[:2]
        try:
            server = await asyncio.start_server(
                lambda reader, writer: _converse(reader, writer, answer), *bound
            )
            async with server:
                yield bound
        finally:
            transport.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, answer: Answerer, group: asyncio.TaskGroup, gate: asyncio.Semaphore) -> None:
        self._answer, self._group, self._gate = answer, group, gate
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # of a datagram endpoint
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self._gate.locked():
            self._group.create_task(self._respond(data, addr))

    async def _respond(self, data: bytes, addr: tuple[str, int]) -> None:
        async with self._gate:
            response = await _response(data, self._answer, _LONGEST_UDP)
        if response and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(response, addr)


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answerer
) -> None:
    """Serve one TCP client, a question at a time (RFC 1035 section 4.2.2)."""
    try:
        while True:
            async with asyncio.timeout(_IDLE):
                (size,) = struct.unpack(">H", await reader.readexactly(2))
                data = await reader.readexactly(size)
            response = await _response(data, answer, 65535)
            if not response:
                return
            writer.write(struct.pack(">H", len(response)) + response)
            async with asyncio.timeout(_IDLE):
                await writer.drain()
    except (OSError, EOFError):
        pass  # the client is gone, or too slow
    finally:
        writer.close()


async def _response(data: bytes, answer: Answerer, longest: int) -> bytes:
    """Return the response to a query; empty for what deserves none."""
    try:
        query = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError, struct.error):
        return b""
    if query.flags & dns.flags.QR:  # a response: answering it could make two servers loop
        return b""
    if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.NOTIMP)
    else:
        response = await answer(query)
    if query.edns < 0 and longest < 65535:
        longest = 512  # RFC 1035 section 4.2.1
    try:
        return response.to_wire(max_size=longest)
    except dns.exception.TooBig:
        response.flags |= dns.flags.TC
        for section in (response.answer, response.authority, response.additional):
            section.clear()
        return response.to_wire()
