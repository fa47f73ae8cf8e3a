"""No server of known truth is judged wrongly, nor left untold where it could be told."""

import asyncio

from tests.subjects import SUBJECTS, Found, Subject, judged, lab, right, sink_of

AT_ONCE = 8


async def test_every_server_of_known_truth_gets_its_verdict():
    gate = asyncio.Semaphore(AT_ONCE)
    wrong: dict[str, Found] = {}

    async def check(subject: Subject) -> None:
        async with gate:
            config = lab()
            server = subject.make(sink_of(config))
            async with server.serve() as port:
                found = await judged(config, (server.host, port))
            if not right(subject, found):
                wrong[subject.name] = found

    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        for subject in SUBJECTS:
            group.create_task(check(subject))
    assert wrong == {}
