"""The HTTP server: serves an application while the block runs, and leaves nothing behind."""

import asyncio
import contextlib
import errno
import signal
import socket

import pytest

from relaytest.net.http_server import serve_http

PATIENCE = 20.0


async def hello(scope, _receive, send) -> None:
    """An ASGI application."""
    if scope["path"] == "/broken":
        raise ValueError("a bug")
    body = scope["client"][0].encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def get(place, path="/", *headers: str) -> str:
    reader, writer = await asyncio.open_connection(*place)
    try:
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        async with asyncio.timeout(PATIENCE):
            return (await reader.read()).decode("latin-1")
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_page_is_served():
    async with serve_http("127.0.0.1", 0, hello) as place:
        text = await get(place)
    assert text.startswith("HTTP/1.1 200")
    assert text.endswith("127.0.0.1")


async def test_the_server_does_not_tell_what_it_is():
    async with serve_http("127.0.0.1", 0, hello) as place:
        assert "server:" not in (await get(place)).lower()


async def test_nobody_may_say_who_he_is():
    async with serve_http("127.0.0.1", 0, hello) as place:
        text = await get(place, "/", "X-Forwarded-For: 192.0.2.9", "Forwarded: for=192.0.2.9")
    assert text.endswith("127.0.0.1")


async def test_a_page_that_fails_is_a_500_and_others_are_served(caplog):
    async with serve_http("127.0.0.1", 0, hello) as place:
        assert (await get(place, "/broken")).startswith("HTTP/1.1 500")
        assert (await get(place)).startswith("HTTP/1.1 200")


async def test_what_is_no_http_does_no_harm(caplog):
    async with serve_http("127.0.0.1", 0, hello) as place:
        for octets in (
            b"\x16\x03\x01\x02\x00",
            b"\r\n" * 50,
            b"GET / HTTP/9.9\r\n\r\n",
            b"\xff" * 99,
        ):
            reader, writer = await asyncio.open_connection(*place)
            writer.write(octets)
            writer.write_eof()
            async with asyncio.timeout(PATIENCE):
                await reader.read()
            writer.close()
            await writer.wait_closed()
        assert (await get(place)).startswith("HTTP/1.1 200")


async def test_a_head_without_end_is_refused(caplog):
    async with serve_http("127.0.0.1", 0, hello) as place:
        try:
            text = await get(place, "/", "X-Long: " + "x" * 2_000_000)
        except ConnectionError:  # it does not even read all of it
            text = ""
        assert not text.startswith("HTTP/1.1 200")
        assert (await get(place)).startswith("HTTP/1.1 200")


async def test_the_port_is_free_again_afterwards():
    async with serve_http("127.0.0.1", 0, hello) as place:
        await get(place)
    with socket.create_server(place):
        pass


async def test_an_idle_connection_does_not_keep_the_server():
    async with asyncio.timeout(PATIENCE):
        async with serve_http("127.0.0.1", 0, hello) as place:
            reader, writer = await asyncio.open_connection(*place)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"127.0.0.1")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_an_address_that_is_taken_is_an_os_error():
    async with serve_http("127.0.0.1", 0, hello) as (host, port):
        with pytest.raises(OSError, match=r".") as caught:
            async with serve_http(host, port, hello):
                pass
    assert caught.value.errno == errno.EADDRINUSE


async def test_an_address_that_is_not_ours_is_an_os_error():
    with pytest.raises(OSError, match=r".") as caught:
        async with serve_http("192.0.2.1", 0, hello):
            pass
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_an_error_inside_the_block_comes_out_as_it_is():
    with pytest.raises(ValueError, match="mine"):
        async with serve_http("127.0.0.1", 0, hello):
            raise ValueError("mine")


async def test_the_signals_stay_with_the_program():
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    async with serve_http("127.0.0.1", 0, hello) as place:
        await get(place)
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


async def test_ipv6_is_served():
    try:
        async with serve_http("::1", 0, hello) as place:
            assert (await get(place)).endswith("::1")
    except OSError as error:
        pytest.skip(f"no ::1 here: {error}")
