"""Requeue: what waits is pulled forward, what is lost given back, what was spoilt tested anew."""

import json
from datetime import timedelta

import pytest

from relaytest.store import jobs
from tests.cli.program import relaytest

JOB = "SELECT leased, again, worker, note, run_at <= now() AS due FROM relaytest.job"


def on(dsn: str, *words: str):
    return relaytest("requeue", *words, RELAYTEST_DATABASE__DSN=dsn)


@pytest.fixture
async def leased(connection):
    """A job that a living worker has."""
    worker = await jobs.join_workers(
        connection, host="h", pid=1, vantage="default", version="1", slots=1
    )
    await jobs.enqueue(connection, jobs.Request("192.0.2.7", "nominated"))
    (job,) = await jobs.claim(connection, worker, 1, timedelta(minutes=10))
    return job


async def test_what_is_deferred_is_pulled_forward_and_says_why(dsn, connection):
    await jobs.enqueue(connection, jobs.Request("192.0.2.7", "nominated", note="spam 17"))
    await jobs.enqueue(connection, jobs.Request("192.0.2.8", "nominated"))
    await connection.execute("UPDATE relaytest.job SET run_at = now() + interval '4 h', trial = 5")
    done = on(dsn, "192.0.2.7", "--why", "the owner says that it is done")
    assert done.stdout == "192.0.2.7 port 25: pulled forward\n1 tests queued\n"
    row = await connection.fetchrow(f"{JOB} WHERE address = '192.0.2.7'")
    assert (row["due"], row["note"]) == (True, "the owner says that it is done; spam 17")
    assert not (await connection.fetchrow(f"{JOB} WHERE address = '192.0.2.8'"))["due"]
    assert await connection.fetchval("SELECT min(trial) FROM relaytest.job") == 5


async def test_what_is_under_way_runs_once_more(dsn, connection, leased):
    done = on(dsn, "192.0.2.0/24", "--why", "x", "--json")
    assert [row["what"] for row in json.loads(done.stdout)] == ["runs, and then once more"]
    row = await connection.fetchrow(JOB)
    assert (row["leased"], row["again"], row["worker"]) == (True, True, leased.worker)


async def test_what_a_dead_worker_has_is_given_back(dsn, connection, leased):
    await connection.execute("UPDATE relaytest.worker SET beat_at = now() - interval '2 min'")
    assert "given back" in on(dsn, "192.0.2.7", "--why", "x").stdout
    row = await connection.fetchrow(JOB)
    assert (row["leased"], row["worker"], row["due"]) == (False, None, True)
    assert await jobs.finish(connection, leased, retry_in=None) is jobs.Ending.LOST


async def test_an_address_without_a_job_gets_one_and_a_network_does_not(dsn, connection):
    assert "192.0.2.9 port 25: asked for" in on(dsn, "192.0.2.9", "--why", "x").stdout
    assert on(dsn, "198.51.100.0/24", "--why", "x").stdout == "0 tests queued\n"
    row = await connection.fetchrow("SELECT reason::text, note FROM relaytest.job")
    assert tuple(row) == ("operator", "x")


async def test_what_may_not_be_tested_is_told(dsn):
    assert (
        "not possible: target 10.0.0.1 is out of scope" in on(dsn, "10.0.0.1", "--why", "x").stdout
    )


async def found(connection, host: str, trial: int, reason: str, ago: str) -> None:
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES ($2, 1, $1::text::inet, 587, 'nominated', 'x')",
        host,
        trial,
    )
    await connection.execute(
        "INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
        " explanation, forms, decided_at) VALUES ($2, $1::text::inet, 587, 'unknown', $3, 'low',"
        " '', '{}', now() - $4::text::interval)",
        host,
        trial,
        reason,
        ago,
    )


async def test_what_a_fault_of_ours_has_spoilt_is_tested_anew(dsn, connection):
    await found(connection, "192.0.2.1", 1, "unreachable", "1 h")
    await found(connection, "192.0.2.2", 2, "unreachable", "3 h")  # before it
    await found(connection, "192.0.2.3", 3, "refused", "1 h")
    await found(connection, "192.0.2.4", 4, "unreachable", "1 h")
    await found(connection, "192.0.2.4", 5, "relayed", "30 min")  # found better since
    words = ("--found", "unreachable", "--since", "2h", "--why", "our network was away")
    assert "1 tests would be queued" in on(dsn, *words, "--dry-run").stdout
    assert await connection.fetchval("SELECT count(*) FROM relaytest.job") == 0
    assert "192.0.2.1 port 587: asked for" in on(dsn, *words).stdout
    assert on(dsn, *words).stdout == "0 tests queued\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["192.0.2.1"], "--why TEXT is needed"),
        (["--why", "x"], "give addresses or networks"),
        (["--why", "x", "--found", "refused"], "go together"),
        (["--why", "x", "--found", "odd", "--since", "2h"], "no such reason: odd; one of relayed"),
        (["--why", "x", "nowhere"], "does not appear to be"),
    ],
)
def test_a_wrong_wish_is_wrong_usage(words, told):
    done = relaytest("requeue", *words)
    assert (done.returncode, told in " ".join(done.stderr.split())) == (64, True), done.stderr
