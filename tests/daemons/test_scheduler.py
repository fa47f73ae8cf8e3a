"""The scheduler: verdicts move listings as the design has it, and time does its part."""

import asyncio
from datetime import timedelta
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from relaytest.core.target import Scope
from relaytest.core.token import Mailbox
from relaytest.daemons import scheduler
from relaytest.daemons.scheduler import Scheduler
from relaytest.store import evidence, jobs, listings, scope
from relaytest.store.evidence import Arrival
from tests.daemons.peers import seen
from tests.lab import lab_config, running, until
from tests.store.test_retention import months_pass

A, B = "192.0.2.1", "192.0.2.2"
HOUR = timedelta(hours=1)
LONG_AGO = timedelta(days=30)  # beyond any patience
PLAIN, NULL = 257, 513  # form numbers: S-EXT/R-PLAIN, S-NULL/R-PLAIN


def configured(tmp_path, **sections):
    values: dict[str, Any] = {
        "scope": {"allow": ["192.0.2.0/24", "127.0.0.0/8"]},
        "timing": {"patience": "5d"},
    }
    return lab_config(tmp_path, **values | sections)


@pytest.fixture
def config(tmp_path):
    return configured(tmp_path)


@pytest.fixture
def scheduling(config, database) -> Scheduler:
    return Scheduler(config, database)


# --- making evidence


async def probed(
    connection, address=A, *, accepted=False, ago=timedelta(0), reason="operator", proven=True
) -> int:
    """A trial whose one visit ended `ago`: one form, taken to the dot or refused.

    The sink is proven since then, if `proven`.
    """
    trial: int = await connection.fetchval(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester, forms, visits,"
        " probed_at, ended, settle_at) VALUES (nextval('relaytest.trial_id'), 1, $1::text::inet,"
        " 25, $2::text::relaytest.reason, 'x', $3, 1, now() - $4::interval, true, now())"
        " RETURNING id",
        address,
        reason,
        [PLAIN],
        ago,
    )
    session = await connection.fetchval(
        "INSERT INTO relaytest.session (trial, visit, purpose, started_at, seconds, ended)"
        " VALUES ($1, 1, 'scout', now() - $2::interval, 1, 'complete') RETURNING id",
        trial,
        ago,
    )
    await connection.execute(
        "INSERT INTO relaytest.outcome (session, trial, visit, form, step, code, reply)"
        " VALUES ($1, $2, 1, $3, $4, $5, 'said')",
        session,
        trial,
        PLAIN,
        "end-of-data" if accepted else "rcpt",
        250 if accepted else 550,
    )
    if proven:
        await prove_sink(connection, ago)
    return trial


async def prove_sink(connection, ago: timedelta) -> None:
    """The sink's own mail came every hour since `ago`."""
    await connection.execute(
        "INSERT INTO relaytest.sink_check (sent_at, received_at) SELECT at, at FROM"
        " generate_series(now() - $1::interval, now(), interval '1 hour') AS at",
        ago,
    )


async def grow_old(connection, trial: int) -> None:
    """The trial's patience is over."""
    await connection.execute(
        "UPDATE relaytest.trial SET probed_at = now() - $2::interval, settle_at = now()"
        " WHERE id = $1",
        trial,
        LONG_AGO,
    )
    await prove_sink(connection, LONG_AGO)


async def deny(connection, address: str) -> None:
    """Put an address out of scope, in the database."""
    async with connection.transaction():
        await scope.write_scope(
            connection, Scope((ip_network("192.0.2.0/24"),), (ip_network(address),))
        )


async def arrives(
    connection, trial: int, *, form=PLAIN, kind=Mailbox.FORWARD, peer: str = A
) -> None:
    """A message of the trial reaches the sink now."""
    arrival = Arrival(
        trial=trial,
        form=form,
        mailbox=kind,
        peer=ip_address(peer),
        helo=b"mail.example",
        reverse_path=b"<a@sink.example>",
        forward_path=b"<b@sink.example>",
        message=b"Subject: x\r\n",
        size=12,
    )
    async with connection.transaction():
        await evidence.add_receipt(connection, arrival)


async def verdicts(connection, trial: int) -> list[tuple[str, str]]:
    rows = await connection.fetch(
        "SELECT verdict, reason FROM relaytest.verdict WHERE trial = $1 ORDER BY id", trial
    )
    return [tuple(row) for row in rows]


async def listed(connection) -> dict[str, int]:
    """Published addresses, each with the trial that proves it."""
    rows = await connection.fetch("SELECT host(address), trial FROM relaytest.listing_current")
    return {row[0]: row[1] for row in rows}


async def changes(connection) -> list[tuple[str, str, str, str]]:
    rows = await connection.fetch(
        "SELECT host(address), event, old, new FROM relaytest.listing_history"
        " WHERE event <> 'changed-by-sql' ORDER BY id"  # what a test did itself
    )
    return [tuple(row) for row in rows]


async def open_jobs(connection) -> list[tuple[str, str]]:
    rows = await connection.fetch(
        "SELECT host(address), reason::text FROM relaytest.job ORDER BY address"
    )
    return [tuple(row) for row in rows]


@pytest.fixture
def sure(config, database) -> Scheduler:
    """A scheduler for whose sink one check an hour is enough."""
    section = config.sink.model_copy(update={"check_every": HOUR})
    return Scheduler(config.model_copy(update={"sink": section}), database)


# --- from evidence to the list


async def test_a_returned_message_lists_the_target(scheduling, connection):
    trial = await probed(connection, accepted=True)
    await arrives(connection, trial)
    await scheduling.settle()
    assert await verdicts(connection, trial) == [("open", "relayed")]
    assert await listed(connection) == {A: trial}
    assert await changes(connection) == [(A, "found-open", "unlisted", "listed")]


async def test_a_refusal_takes_a_listed_target_off_with_an_audit_row(scheduling, connection):
    first = await probed(connection, accepted=True)
    await arrives(connection, first)
    await scheduling.settle()
    second = await probed(connection, reason="removal-request")
    await scheduling.settle()
    assert await verdicts(connection, second) == [("closed", "refused")]
    assert await listed(connection) == {}
    row = await connection.fetchrow("SELECT * FROM relaytest.listing_change ORDER BY id DESC")
    assert (row["event"], row["old"], row["new"]) == ("found-closed", "listed", "unlisted")
    assert row["trial"] == second
    assert row["why"].startswith("The server refused")


async def test_a_trial_that_tells_nothing_changes_no_listing(scheduling, connection):
    first = await probed(connection, accepted=True)
    await arrives(connection, first)
    await scheduling.settle()
    before = await connection.fetchrow("SELECT * FROM relaytest.listing")
    second = await probed(connection)
    await connection.execute("DELETE FROM relaytest.outcome WHERE trial = $1", second)
    await scheduling.settle()
    assert (await verdicts(connection, second))[0][0] == "unknown"
    assert await connection.fetchrow("SELECT * FROM relaytest.listing") == before
    assert len(await changes(connection)) == 1


async def test_the_same_evidence_again_is_no_news(scheduling, connection):
    trial = await probed(connection, accepted=True)
    await arrives(connection, trial)
    for _ in range(3):
        await scheduling.settle()
        await connection.execute("UPDATE relaytest.trial SET settle_at = now()")
    assert len(await verdicts(connection, trial)) == 1
    assert len(await changes(connection)) == 1


async def test_a_renewal_moves_the_end_of_the_listing_and_is_in_the_history(scheduling, connection):
    for _ in range(2):
        trial = await probed(connection, accepted=True)
        await arrives(connection, trial)
        await scheduling.settle()
    assert await listed(connection) == {A: trial}
    assert await changes(connection) == [
        (A, "found-open", "unlisted", "listed"),
        (A, "found-open", "listed", "listed"),
    ]


async def test_a_target_that_was_never_listed_gets_no_row_when_it_is_closed(scheduling, connection):
    await probed(connection)
    await scheduling.settle()
    assert await connection.fetchval("SELECT count(*) FROM relaytest.listing") == 0
    assert await changes(connection) == []


async def test_an_unlistable_target_gets_its_verdict_and_no_listing(scheduling, connection, logged):
    trial = await probed(connection, "127.0.0.2", accepted=True)
    other = await probed(connection, B, accepted=True)
    await arrives(connection, trial, peer="127.0.0.2")
    await arrives(connection, other, peer=B)
    await scheduling.settle()
    assert await verdicts(connection, trial) == [("open", "relayed")]
    assert await listed(connection) == {B: other}
    assert "open, but not listed" in {one["event"] for one in logged}


# --- patience


async def test_while_a_message_may_still_come_nothing_is_said(scheduling, connection):
    trial = await probed(connection, accepted=True, ago=HOUR)
    pause = await scheduling.settle()
    assert await verdicts(connection, trial) == [("unknown", "pending")]
    assert pause == scheduler._LONGEST_SLEEP
    row = await connection.fetchrow("SELECT settle_at - probed_at AS wait FROM relaytest.trial")
    assert row["wait"] == timedelta(days=5)


async def test_silence_beyond_patience_is_closed_when_the_sink_was_proven(sure, connection):
    trial = await probed(connection, accepted=True, ago=LONG_AGO)
    await sure.settle()
    assert await verdicts(connection, trial) == [("closed", "not-returned")]


async def test_silence_beyond_patience_is_nothing_when_the_sink_was_not_proven(sure, connection):
    trial = await probed(connection, accepted=True, ago=LONG_AGO, proven=False)
    await sure.settle()
    assert await verdicts(connection, trial) == [("unknown", "sink-down")]


async def test_a_late_receipt_turns_the_same_trial_open_and_lists_it(sure, connection):
    trial = await probed(connection, accepted=True, ago=LONG_AGO)
    await sure.settle()
    await arrives(connection, trial)
    await sure.settle()
    assert await verdicts(connection, trial) == [("closed", "not-returned"), ("open", "relayed")]
    assert await listed(connection) == {A: trial}


async def test_a_late_bounce_lists_nobody(sure, connection):
    trial = await probed(connection, accepted=True, ago=LONG_AGO)
    await sure.settle()
    await arrives(connection, trial, kind=Mailbox.REVERSE)
    await sure.settle()
    assert (await verdicts(connection, trial))[-1] == ("closed", "not-returned")
    assert await listed(connection) == {}


# --- old trials and new ones


async def test_a_receipt_of_an_old_trial_lists_nobody_but_reopens_the_case(sure, connection):
    old = await probed(connection, accepted=True, ago=HOUR)
    await probed(connection)
    await sure.settle()
    await arrives(connection, old)
    await sure.settle()
    assert (await verdicts(connection, old))[-1] == ("open", "relayed")
    assert await listed(connection) == {}
    assert await open_jobs(connection) == [(A, "recheck")]
    note = await connection.fetchval("SELECT note FROM relaytest.job")
    assert note == f"a message of trial {old} came back late"


async def test_a_receipt_of_an_old_trial_lists_its_target_if_no_newer_one_was_closed(
    sure, connection
):
    old = await probed(connection, accepted=True, ago=HOUR)
    await probed(connection, accepted=True)
    await sure.settle()
    await arrives(connection, old)
    await sure.settle()
    assert await listed(connection) == {A: old}
    assert await open_jobs(connection) == []


async def test_the_silence_of_an_old_trial_does_not_take_off_what_a_newer_one_proved(
    sure, connection
):
    """At the old one the server still threw mail away, say."""
    old = await probed(connection, accepted=True, ago=HOUR)
    new = await probed(connection, accepted=True)
    await arrives(connection, new)
    await sure.settle()
    await grow_old(connection, old)
    await sure.settle()
    assert (await verdicts(connection, old))[-1] == ("closed", "not-returned")
    assert await listed(connection) == {A: new}


async def test_a_late_receipt_of_a_target_now_out_of_scope_is_judged_all_the_same(sure, connection):
    old = await probed(connection, accepted=True, ago=HOUR)
    await probed(connection)
    await sure.settle()
    await deny(connection, A)
    await arrives(connection, old)
    await sure.settle()
    assert (await verdicts(connection, old))[-1] == ("open", "relayed")
    assert await open_jobs(connection) == []


# --- trouble


async def test_a_trial_that_cannot_be_judged_stops_no_other(
    scheduling, connection, monkeypatch, logged
):
    bad = await probed(connection, A, accepted=True)
    good = await probed(connection, B, accepted=True)
    for one in (bad, good):
        await arrives(connection, one)
    evidence_of = evidence.evidence_of

    async def broken(connection, trial, *rest):
        if trial.id == bad:
            raise ValueError("a bug")
        return await evidence_of(connection, trial, *rest)

    monkeypatch.setattr(evidence, "evidence_of", broken)
    await scheduling.settle()
    assert await listed(connection) == {B: good}
    assert await verdicts(connection, bad) == []
    assert "trial not judged; put off" in {one["event"] for one in logged}
    monkeypatch.undo()
    await connection.execute("UPDATE relaytest.trial SET settle_at = now()")
    await scheduling.settle()
    assert await listed(connection) == {A: bad, B: good}


async def test_a_trial_that_breaks_its_transaction_stops_no_other(
    scheduling, connection, monkeypatch
):
    bad = await probed(connection, A, accepted=True)
    good = await probed(connection, B, accepted=True)
    for one in (bad, good):
        await arrives(connection, one)
    enter = listings.enter

    async def broken(connection, trial, **rest):
        if trial.id == bad:
            await connection.execute("SELECT 1 / 0")
        await enter(connection, trial, **rest)

    monkeypatch.setattr(listings, "enter", broken)
    await scheduling.settle()
    assert await listed(connection) == {B: good}
    assert await verdicts(connection, bad) == []  # no verdict without its listing


async def test_two_schedulers_at_once_judge_each_trial_once(config, database, connection):
    trials = [await probed(connection, f"192.0.2.{n}", accepted=True) for n in range(1, 31)]
    for trial in trials:
        await arrives(connection, trial)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(Scheduler(config, database).settle())
    assert await connection.fetchval("SELECT count(*) FROM relaytest.verdict") == 30
    assert len(await changes(connection)) == 30


# --- what time demands


async def enter(connection, address=A, *, expire=LONG_AGO, recheck=LONG_AGO) -> int:
    trial = await probed(connection, address, ago=LONG_AGO)
    await connection.execute("UPDATE relaytest.trial SET settle_at = NULL")
    found = await evidence.trial_of(connection, trial)
    await listings.enter(connection, found, expire_after=expire, recheck_every=recheck)
    return trial


PAST = timedelta(seconds=-1)


async def test_a_listing_past_its_end_leaves_with_an_audit_row(scheduling, connection):
    await enter(connection, A, expire=PAST)
    await enter(connection, B)
    await scheduling.expire()
    assert list(await listed(connection)) == [B]
    assert await changes(connection) == [(A, "expired", "listed", "unlisted")]
    await scheduling.expire()
    assert len(await changes(connection)) == 1


async def test_an_end_rings_the_publishers_bell(scheduling, connection):
    rings: list[str] = []
    await connection.add_listener("relaytest_listing", lambda *_: rings.append("ring"))
    await enter(connection, A, expire=PAST)
    await scheduling.expire()
    await until(lambda: seen(rings), "the bell")


async def test_a_listed_target_is_tested_again_when_it_is_due_and_once(scheduling, connection):
    await enter(connection, A, recheck=PAST)
    await enter(connection, B)
    await scheduling.recheck()
    assert await open_jobs(connection) == [(A, "recheck")]
    await scheduling.recheck()
    assert await connection.fetchval("SELECT requests FROM relaytest.job") == 1


async def test_a_listed_target_out_of_scope_keeps_no_other_from_its_retest(scheduling, connection):
    await enter(connection, A, recheck=PAST)
    await enter(connection, B, recheck=PAST)
    await deny(connection, A)
    await scheduling.recheck()
    assert await open_jobs(connection) == [(B, "recheck")]


async def test_the_jobs_of_a_dead_worker_are_freed_and_those_of_a_live_one_not(
    scheduling, connection, monkeypatch, logged
):
    workers = []
    for number, address in enumerate((A, B)):
        worker = await jobs.join_workers(
            connection, host="h", pid=number, vantage="default", version="1", slots=1
        )
        workers.append(worker)
        await jobs.enqueue(connection, jobs.Request(address, "operator"))
        await jobs.claim(connection, worker, 1, HOUR)
    dead = workers[0]
    monkeypatch.setattr(
        scheduling,
        "_watch",
        SimpleNamespace(silent=lambda beats, _: [one for one in beats if one == dead]),
    )
    await scheduling.rescue()
    rows = await connection.fetch("SELECT host(address), leased FROM relaytest.job ORDER BY 1")
    assert [tuple(row) for row in rows] == [(A, False), (B, True)]
    assert ("freed the jobs of dead workers", 1) in [
        (one["event"], one.get("jobs")) for one in logged
    ]


async def test_the_database_refuses_what_the_configuration_denies(tmp_path, database, connection):
    config = configured(tmp_path, scope={"allow": ["192.0.2.0/24"], "deny": [f"{B}/32"]})
    await Scheduler(config, database).tell_scope()
    await connection.execute(
        f"INSERT INTO relaytest.retest (target, reason) VALUES ('{A}', 'operator')"
    )
    with pytest.raises(asyncpg.DataError, match=r"excluded by the operator"):
        await connection.execute(
            f"INSERT INTO relaytest.retest (target, reason) VALUES ('{B}', 'operator')"
        )
    with pytest.raises(asyncpg.DataError, match="loopback"):
        await connection.execute(
            "INSERT INTO relaytest.retest (target, reason) VALUES ('127.0.0.9', 'operator')"
        )


async def test_the_daemon_does_every_duty_from_its_start(begin, connection, tmp_path):
    await enter(connection, A, expire=PAST, recheck=PAST)
    await jobs.enqueue(connection, jobs.Request(B, "operator"))
    await jobs.claim(connection, 99, 1, HOUR)  # by a worker that is not there
    trial = await probed(connection, "192.0.2.3", accepted=True)
    await arrives(connection, trial)
    async with begin(scheduler.run, scope={"allow": ["192.0.2.0/24"]}):

        async def look() -> bool | None:
            done = (
                (A, "expired", "listed", "unlisted") in await changes(connection)
                and "192.0.2.3" in await listed(connection)
                and not await connection.fetchval("SELECT bool_or(leased) FROM relaytest.job")
            )
            return done or None

        await until(look, "every duty")


async def test_the_daemon_outlasts_the_database(road, shaky, dsn, connection, tmp_path):
    async with running(configured(tmp_path), shaky, dsn, (scheduler.run,)):
        await road.cut()
        trial = await probed(connection, accepted=True)
        await arrives(connection, trial)
        await road.mend()
        await until(lambda: _listed(connection), "the listing")


async def _listed(connection) -> bool | None:
    return bool(await listed(connection)) or None


# --- several places to test from


async def place(connection, name: str, *, ago: timedelta = timedelta(0)) -> None:
    await connection.execute(
        "INSERT INTO relaytest.vantage (name, seen_at) VALUES ($1, now() - $2::interval)", name, ago
    )


async def at(connection, trial: int, vantage: str, *, rejected: bool = False) -> None:
    """The trial was made from there; `rejected`: it was turned away."""
    await connection.execute(
        "UPDATE relaytest.trial SET vantage = $2 WHERE id = $1", trial, vantage
    )
    if rejected:
        await connection.execute("DELETE FROM relaytest.outcome WHERE trial = $1", trial)
        await connection.execute(
            "UPDATE relaytest.session SET ended = 'rejected', greeting = '554 go away'"
            " WHERE trial = $1",
            trial,
        )


async def wanted(connection) -> list[tuple[str, str | None]]:
    rows = await connection.fetch("SELECT target, vantage FROM relaytest.retest ORDER BY target")
    return [tuple(row) for row in rows]


async def listed_from(connection, scheduling, vantage: str) -> None:
    trial = await probed(connection, accepted=True)
    await at(connection, trial, vantage)
    await arrives(connection, trial)
    await scheduling.settle()
    assert await listed(connection) == {A: trial}


async def test_closed_from_another_place_delists_nobody_but_asks_at_the_first(
    scheduling, connection
):
    await place(connection, "here")
    await listed_from(connection, scheduling, "here")
    trial = await probed(connection)
    await at(connection, trial, "there")
    await scheduling.settle()
    assert await verdicts(connection, trial) == [("closed", "refused")]
    assert list(await listed(connection)) == [A]
    assert await wanted(connection) == [(A, "here")]


async def test_closed_from_the_same_place_delists(scheduling, connection):
    await place(connection, "here")
    await listed_from(connection, scheduling, "here")
    await at(connection, await probed(connection), "here")
    await scheduling.settle()
    assert await listed(connection) == {}


async def test_a_place_that_is_gone_binds_nobody(scheduling, connection):
    await place(connection, "here", ago=timedelta(hours=25))
    await listed_from(connection, scheduling, "here")
    await at(connection, await probed(connection), "there")
    await scheduling.settle()
    assert await listed(connection) == {}


async def test_a_request_for_a_listed_target_goes_where_it_was_found_open(scheduling, connection):
    await place(connection, "here")
    await listed_from(connection, scheduling, "here")
    await jobs.enqueue(connection, jobs.Request(A, "removal-request"))
    await jobs.enqueue(connection, jobs.Request(B, "removal-request"))
    assert await wanted(connection) == [(A, "here"), (B, None)]


async def test_who_turns_one_place_away_is_asked_from_another_once(scheduling, connection):
    for name in ("here", "there"):
        await place(connection, name)
    await place(connection, "gone", ago=timedelta(hours=1))
    await at(connection, await probed(connection), "here", rejected=True)
    await scheduling.settle()
    assert await wanted(connection) == [(A, "there")]
    await connection.execute("DELETE FROM relaytest.job")
    await at(connection, await probed(connection), "there", rejected=True)
    await scheduling.settle()
    assert await wanted(connection) == []


async def test_with_one_place_nobody_is_asked_from_elsewhere(scheduling, connection):
    await place(connection, "here")
    await at(connection, await probed(connection), "here", rejected=True)
    await scheduling.settle()
    assert await wanted(connection) == []


async def test_what_is_old_is_forgotten(scheduling, connection, monkeypatch):
    monkeypatch.setattr(scheduler, "_STEP", 2)
    for number in range(1, 6):
        await probed(connection, f"192.0.2.{number}")
    await scheduling.settle()
    await months_pass(connection, timedelta(days=91))
    await scheduling.forget()
    assert await connection.fetchval("SELECT count(*) FROM relaytest.session") == 0
    assert await connection.fetchval("SELECT count(*) FROM relaytest.verdict") == 5
    await connection.execute(
        "UPDATE relaytest.trial_partition SET ended_at = ended_at - interval '640 d'"
    )
    await scheduling.forget()
    assert await connection.fetchval("SELECT count(*) FROM relaytest.trial") == 0


async def test_the_scheduler_makes_months(scheduling, connection):
    duties = {duty.__name__ for duty, _ in scheduling.duties()}
    assert "make_partitions" in duties
    await connection.execute(
        "UPDATE relaytest.trial_partition SET begun_at = begun_at - interval '32 d'"
    )
    await scheduling.make_partitions()
    assert await connection.fetchval("SELECT count(*) FROM relaytest.trial_partition") == 3
