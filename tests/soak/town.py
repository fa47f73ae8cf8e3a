"""Mail servers of known truth by the hundred, in a process of their own.

    python -m tests.soak.town COUNT SINK-HOST:PORT

It says in one line of JSON where they are and what is true of them, serves until its standard
input closes, and says in another line what they saw.
"""

import asyncio
import contextlib
import itertools
import json
import sys
from typing import Any
from unittest import mock

from relaytest.core.config import split_endpoint
from tests import subjects
from tests.daemons import peers
from tests.daemons.peers import Talk, Target
from tests.subjects import SUBJECTS, Place, Subject

_STUBBORN = 120.0  # seconds that a server goes on with a message that the sink does not take
_REPLY, _SEND = Target._reply, peers.send


class Watch:
    """What all servers see together.

    Attributes:
        doubled: Sessions of a worker that went on though another worker had come.
        stored: Messages that the sink said it has.
    """

    def __init__(self, sink: Place) -> None:
        self._sink = sink
        self._late: set[Talk] = set()
        self.doubled = self.stored = 0

    def reply(self, target: Target, talk: Talk, line: bytes) -> bytes:
        """Answer, and notice who goes on though another has come."""
        if talk in self._late:
            self.doubled += 1
        elif talk.client != target.talks[-1].client:
            self._late.add(talk)  # once: what it had sent already is answered, too
        return _REPLY(target, talk, line)

    async def send(self, place: Place, *envelope: bytes, **more: Any) -> list[bytes]:
        """Send mail; to the sink until it is taken or refused for good, as all servers do."""
        if place != self._sink:
            return await _SEND(place, *envelope, **more)
        async with asyncio.timeout(_STUBBORN):
            while True:
                with contextlib.suppress(OSError, EOFError, IndexError):
                    codes = await _SEND(place, *envelope, **more)
                    self.stored += codes[-1] == b"250" and more.get("octets") is not None
                    if codes[-1][:1] in {b"2", b"5"}:
                        return codes
                await asyncio.sleep(0.1)

    def begin(self) -> None:
        """Let each server tell what happens to it."""

        def reply(target: Target, talk: Talk, line: bytes) -> bytes:
            return self.reply(target, talk, line)

        mock.patch.object(Target, "_reply", reply).start()
        for module in (peers, subjects):
            mock.patch.object(module, "send", self.send).start()


async def main(count: int, sink: Place) -> None:
    """Serve."""
    watch = Watch(sink)
    watch.begin()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        daemons = [subject for subject in SUBJECTS if not subject.of_a_check]
        some = itertools.islice(itertools.cycle(daemons), count)
        there = [await _open(stack, subject, sink) for subject in some]
        sys.stdout.write(json.dumps(there) + "\n")
        sys.stdout.flush()
        await loop.run_in_executor(None, sys.stdin.read)
    seen = {"doubled": watch.doubled, "stored": watch.stored}
    sys.stdout.write(json.dumps(seen) + "\n")


async def _open(
    stack: contextlib.AsyncExitStack, subject: Subject, sink: Place
) -> dict[str, object]:
    server = subject.make(sink)
    port = await stack.enter_async_context(server.serve())
    return {
        "address": server.host,
        "port": port,
        "name": subject.name,
        "truth": subject.truth,
        "reason": subject.reason,
    }


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), split_endpoint(sys.argv[2])))
