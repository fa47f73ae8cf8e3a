"""A small DNS server over UDP and TCP, for trying the list out without a DNS server.

dnspython reads and writes the messages. Production belongs on rbldnsd or PowerDNS.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode

Answerer = Callable[[dns.message.Message], Awaitable[dns.message.Message]]

_LONGEST_UDP = 1232  # octets that are not fragmented on the way (DNS flag day 2020)
_AT_ONCE = 200  # questions and TCP clients in work; more are dropped, and clients ask again
_TRIES = 8  # to find a port that is free for both
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
    server = _Server(answer)
    datagrams, streams = await _bind(server, host, port)
    try:
        yield datagrams.get_extra_info("sockname")[:2]
    finally:
        streams.close()
        datagrams.close()
        await server.end()


async def _bind(
    server: "_Server", host: str, port: int
) -> tuple[asyncio.DatagramTransport, asyncio.Server]:
    """Take the same port for UDP and TCP; one that the system chose for UDP may be taken there."""
    tries = _TRIES if port == 0 else 1
    while True:
        tries -= 1
        datagrams, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(server), local_addr=(host, port)
        )
        bound = datagrams.get_extra_info("sockname")[:2]
        try:
            return datagrams, await asyncio.start_server(server.converse, *bound)
        except BaseException as error:
            datagrams.close()
            await asyncio.sleep(0)  # asyncio closes sockets one turn of the loop later
            if not tries or not isinstance(error, OSError):
                raise


class _Server:
    """What both transports share: the answerer, and the tasks that run it."""

    def __init__(self, answer: Answerer) -> None:
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[None, None, None]) -> None:
        """Do it beside everything else; drop it when too much is in work already."""
        if len(self._tasks) >= _AT_ONCE:
            work.close()
            return
        task = asyncio.create_task(work)  # noqa: TID251 - no error of one may end the others
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Stop all work; the sockets are closed when this returns."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # asyncio closes sockets one turn of the loop later

    def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a TCP client."""
        if len(self._tasks) >= _AT_ONCE:
            writer.close()
        else:
            self.begin(self._converse(reader, writer))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one TCP client, a question at a time (RFC 1035 section 4.2.2)."""
        try:
            while True:
                async with asyncio.timeout(_IDLE):
                    (size,) = struct.unpack(">H", await reader.readexactly(2))
                    data = await reader.readexactly(size)
                response = await self.respond(data, 65535)
                if not response:
                    return
                writer.write(struct.pack(">H", len(response)) + response)
                async with asyncio.timeout(_IDLE):
                    await writer.drain()
        except (OSError, EOFError):
            pass  # the client is gone, or too slow
        finally:
            writer.close()

    async def respond(self, data: bytes, longest: int) -> bytes:
        """Return the response to a query; empty for what deserves none."""
        try:
            query = dns.message.from_wire(data)
        except (dns.exception.DNSException, ValueError, struct.error):
            return b""
        if query.flags & dns.flags.QR:  # a response: answering it could make two servers loop
            return b""
        response = await self._answered(query)
        # RFC 6891 section 6.2.3 and RFC 1035 section 4.2.1: what the client can take over UDP
        longest = min(longest, max(512, query.payload)) if longest < 65535 else longest
        try:
            return response.to_wire(max_size=longest)
        except dns.exception.TooBig:
            response.flags |= dns.flags.TC
            for section in (response.answer, response.authority, response.additional):
                section.clear()
            return response.to_wire()

    async def _answered(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        if query.edns > 0:  # RFC 6891 section 6.1.3
            response.set_rcode(dns.rcode.BADVERS)
        elif query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
        elif len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)  # RFC 9619 section 4
        else:
            try:
                response = await self._answer(query)
            except Exception as error:  # noqa: BLE001 - whatever it is, others have questions too
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"DNS question failed: {query.question[0]}", "exception": error}
                )
                response.set_rcode(dns.rcode.SERVFAIL)
        return response


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # of a datagram endpoint
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.begin(self._respond(data, addr))

    async def _respond(self, data: bytes, addr: tuple[str, int]) -> None:
        response = await self._server.respond(data, _LONGEST_UDP)
        if response and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(response, addr)
