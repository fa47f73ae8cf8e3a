"""An HTTP server for an ASGI application: the only place that knows uvicorn."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn

_GRACE = 2  # seconds for requests to end when the program stops


class _Server(uvicorn.Server):
    """Leaves the signals to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve_http(
    host: str,
    port: int,
    application: Any,  # noqa: ANN401 - ASGI
    *,
    listening: socket.socket | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """Serve while the block runs; give the bound address.

    Args:
        host: Where to listen.
        port: Likewise.
        application: What answers.
        listening: A socket that listens there already; closed at the end.

    Raises:
        OSError: The address is taken or not ours.
    """
    if listening is None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=512)
    server = _Server(
        uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # X-Forwarded-For is what a stranger typed
            lifespan="off",
            h11_max_incomplete_event_size=16 * 1024,
            limit_concurrency=500,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=_GRACE,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]))  # noqa: TID251 - awaited below
    try:
        yield listening.getsockname()[:2]
    finally:
        server.should_exit = True
        try:
            await serving
        finally:  # uvicorn, broken off, leaves its sockets open; uvloop would wait for them
            for one in server.servers:
                one.close()
            listening.close()
