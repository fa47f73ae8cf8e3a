"""What there is in the database, as metrics."""

from ipaddress import ip_network

import pytest

from relaytest.daemons import metrics
from relaytest.daemons.measuring import measure
from relaytest.store import daemons, pauses
from relaytest.store.pauses import Part
from tests.daemons.test_web import put_on
from tests.lab import lab_config


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"relaytest_{name}", labels)


@pytest.fixture
def config(tmp_path):
    return lab_config(tmp_path, metrics={"listen": "127.0.0.1:9600"})


async def test_what_there_is_none_of_any_more_has_no_series(config, database, connection):
    await put_on(connection)
    await connection.execute(
        "INSERT INTO relaytest.retest (target, reason) VALUES ('192.0.2.9', 'recheck')"
    )
    await measure(config, database)
    assert value("jobs", priority="2", state="due") == 1
    assert value("listed", code="2") == 1
    await connection.execute("DELETE FROM relaytest.job")
    await connection.execute("UPDATE relaytest.listing SET expires_at = now()")
    await measure(config, database)
    assert value("listed", code="2") is None


async def test_daemons_are_counted_while_they_beat(config, database, connection):
    for _ in range(2):
        await daemons.join(connection, name="sink", host="h", pid=1, version="1")
    await measure(config, database)
    assert value("daemons", daemon="sink") == 2
    await connection.execute("UPDATE relaytest.daemon SET beat_at = now() - interval '1 min'")
    await measure(config, database)
    assert value("daemons", daemon="sink") is None


async def test_pauses_are_counted_by_what_is_paused(config, database, connection):
    await pauses.begin(connection, Part(network=ip_network("192.0.2.0/24")), "x", "ann")
    await measure(config, database)
    assert [value("pauses", of=of) for of in ("all", "vantage", "network")] == [0, 0, 1]


async def test_mail_that_waits_is_counted(config, database, connection):
    await connection.execute(
        "INSERT INTO relaytest.mail (kind, mailbox, address, port, send_at) VALUES"
        " ('notice', '', '192.0.2.1', 25, now() - interval '1 h'),"
        " ('notice', '', '192.0.2.2', 25, now() + interval '1 h'),"
        " ('notice', '', '192.0.2.3', 25, NULL)"
    )
    await measure(config, database)
    assert [value("mail_queue", state=state) for state in ("due", "later")] == [1, 1]
    assert value("mail_oldest_due_seconds", all="") >= 3600


async def test_nobody_wants_to_know(tmp_path, nowhere):
    await measure(lab_config(tmp_path), nowhere)
