"""The HTTP server: serves an application while the block runs, and leaves nothing behind."""

import asyncio
import contextlib
import errno
import signal
import socket

import pytest

from relaytest.net import http_server
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


@pytest.fixture
def impatient(monkeypatch):
    """A server that waits for hardly anything."""
    monkeypatch.setattr(http_server, "_LOOK", 0.05)
    monkeypatch.setattr(http_server, "_SLOW", 0.2)


async def get(place, path="/", *headers: str, peer: str | None = None) -> str:
    local = (peer, 0) if peer else None
    reader, writer = await asyncio.open_connection(*place, local_addr=local)
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


SLOW = {
    "nothing": b"",
    "half-a-line": b"GET / HT",
    "half-a-head": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "half-a-body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
    "after-a-page": b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT",
}


@pytest.mark.parametrize("octets", SLOW.values(), ids=SLOW)
async def test_who_sends_a_request_too_slowly_is_cut_off(impatient, octets):
    async with serve_http("127.0.0.1", 0, reads_all) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(octets)
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()
        assert (await get(place)).startswith("HTTP/1.1 200")


async def test_drops_of_a_request_gain_no_time(impatient):
    async with serve_http("127.0.0.1", 0, hello) as place:
        _, writer = await asyncio.open_connection(*place)
        async with asyncio.timeout(PATIENCE):
            await drip(writer)
        writer.close()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send until the connection is cut."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"X")
            await writer.drain()
            await asyncio.sleep(0.02)


async def test_who_does_not_take_the_answer_is_cut_off(impatient):
    ended = asyncio.Event()

    async def endless(_scope, _receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": "http.response.body", "body": b"x" * (8 << 20), "more_body": True})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        finally:
            ended.set()

    async with serve_http("127.0.0.1", 0, endless) as place:
        reader, writer = await asyncio.open_connection(*place, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
            with contextlib.suppress(ConnectionError):
                assert len(await reader.read()) < 8 << 20
        writer.close()


async def test_who_waits_for_an_answer_that_takes_long_is_not_cut_off(impatient):
    async def later(_scope, _receive, send) -> None:
        await asyncio.sleep(0.6)
        await hello(_scope, _receive, send)

    async with serve_http("127.0.0.1", 0, later) as place:
        assert (await get(place)).startswith("HTTP/1.1 200")


async def reads_all(scope, receive, send) -> None:
    """An application that wants the whole body."""
    while (await receive()).get("more_body"):
        pass
    await hello(scope, receive, send)


async def test_an_upgrade_to_another_protocol_is_not_made(caplog):
    async with serve_http("127.0.0.1", 0, hello) as place:
        wanted = ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        assert (await get(place, "/", *wanted)).startswith("HTTP/1.1 200")


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


async def test_a_peer_with_many_connections_keeps_nobody_out_of_the_pages(monkeypatch):
    monkeypatch.setattr(http_server, "_MOST", 3)
    half = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    async with serve_http("127.0.0.1", 0, waits_for_a_body) as place:
        async with contextlib.AsyncExitStack() as stack:
            for octets in (b"", b"GET ", half):
                _, writer = await asyncio.open_connection(*place)
                stack.callback(writer.close)
                writer.write(octets)
            assert "503" in (await get(place))  # the same peer
            for _ in range(2):
                assert (await get(place, peer="127.0.0.9")).startswith("HTTP/1.1 200")
        assert (await get(place)).startswith("HTTP/1.1 200")


async def waits_for_a_body(scope, receive, send) -> None:
    if scope["method"] == "POST":
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        await hello(scope, receive, send)


@pytest.mark.parametrize("early", [False, True], ids=["unanswered", "answered"])
async def test_a_body_that_breaks_off_in_nonsense_is_no_error_of_ours(caplog, early):
    async def answers_first(_scope, _receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"ok"})

    async with serve_http("127.0.0.1", 0, answers_first) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        said = await reader.readline() if early else b""
        writer.write(b"nonsense\r\n")
        async with asyncio.timeout(PATIENCE):
            said += await reader.read()
        writer.close()
        assert (await get(place)).startswith("HTTP/1.1 200")
    assert said.startswith(b"HTTP/1.1 200" if early else b"HTTP/1.1 400")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_has_just_connected_is_answered_when_the_server_ends():
    server = serve_http("127.0.0.1", 0, hello)
    place = await server.__aenter__()
    reader, writer = await asyncio.open_connection(*place)
    await get(place)  # so that the one before it is known to the server
    async with asyncio.TaskGroup() as group:
        group.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0.3)  # uvicorn closes what is idle
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            text = (await reader.read()).decode("latin-1")
    writer.close()
    assert text.startswith("HTTP/1.1 200")


async def test_who_says_nothing_does_not_keep_a_server_that_ends():
    async with serve_http("127.0.0.1", 0, hello) as place:
        reader, writer = await asyncio.open_connection(*place)
        await get(place)
    async with asyncio.timeout(PATIENCE):
        assert await reader.read() == b""
    writer.close()
