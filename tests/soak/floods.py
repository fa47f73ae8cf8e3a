"""Clients who mean no good: many, endless, slow."""

import asyncio
import contextlib

_CLIENTS = 150
_BLOCK = b"x" * 8192 + b"\r\n"


async def at_the_sink(place: tuple[str, int], seconds: float) -> None:
    """Connections that hold on, mail for strangers, and messages without an end."""
    await _all(place, seconds, (_stranger, _endless, _silent))


async def at_the_pages(place: tuple[str, int], seconds: float) -> None:
    """Requests as fast as they go, and some that come by the octet."""
    await _all(place, seconds, (_reader, _reader, _slow))


async def _all(place, seconds, kinds) -> None:
    async def again(kind) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection(*place)
                try:
                    await kind(reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.05)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for number in range(_CLIENTS):
                group.create_task(again(kinds[number % len(kinds)]))


async def _stranger(reader, writer) -> None:
    writer.write(
        b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<stranger@elsewhere.example>\r\n" * 20
    )
    await writer.drain()
    while await reader.read(4096):
        pass


async def _endless(reader, writer) -> None:
    writer.write(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster@sink.example>\r\nDATA\r\n")
    while True:
        writer.write(_BLOCK)
        await writer.drain()
        await asyncio.sleep(0.01)


async def _silent(reader, _writer) -> None:
    await reader.read()


async def _reader(reader, writer) -> None:
    for path in (b"/", b"/lookup/192.0.2.1", b"/api/v1/lookup/192.0.2.1", b"/status"):
        writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")


async def _slow(_reader, writer) -> None:
    for octet in b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"y" * 1000:
        writer.write(bytes([octet]))
        await writer.drain()
        await asyncio.sleep(0.2)
