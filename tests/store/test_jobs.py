"""The queue: its contract for other tools, and claims, leases and fencing for workers."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network

import asyncpg
import pytest

from relaytest.core.errors import RefusedRequestError
from relaytest.store import jobs
from relaytest.store.jobs import Ending, Request

LEASE = timedelta(minutes=10)
A, B = "192.0.2.1", "192.0.2.2"


@pytest.fixture
async def worker(connection) -> int:
    return await join(connection)


async def join(connection) -> int:
    return await jobs.join_workers(
        connection, host="host", pid=1, vantage="default", version="1", slots=10
    )


async def insert(connection, target=A, reason="nominated", **columns) -> asyncpg.Record:
    names = ["target", "reason", *columns]
    places = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    return await connection.fetchrow(
        f"INSERT INTO relaytest.retest ({', '.join(names)}) VALUES ({places}) RETURNING *",
        target,
        reason,
        *columns.values(),
    )


async def rows(connection, columns="*") -> list[asyncpg.Record]:
    return await connection.fetch(f"SELECT {columns} FROM relaytest.job ORDER BY id")


# --- the contract for other tools


async def test_an_insert_of_target_and_reason_is_enough(connection):
    row = await insert(connection)
    assert (row["target"], row["port"], row["priority"], row["requests"]) == (A, 25, 1, 1)
    assert row["requester"] == "postgres"
    assert row["run_at"] is not None


@pytest.mark.parametrize(
    ("reason", "priority"),
    [("removal-request", 0), ("nominated", 1), ("operator", 1), ("recheck", 2)],
)
async def test_the_reason_sets_the_priority(connection, reason, priority):
    assert (await insert(connection, reason=reason))["priority"] == priority


async def test_the_reason_may_be_written_with_underscores_and_capitals(connection):
    assert (await insert(connection, reason="Removal_Request"))["reason"] == "removal-request"


async def test_copy_works_and_coalesces(connection):
    done = await connection.copy_records_to_table(
        "retest",
        schema_name="relaytest",
        columns=["target", "reason"],
        records=[(A, "recheck"), (B, "recheck"), (A, "recheck")],
    )
    assert done == "COPY 3"
    assert [row["requests"] for row in await rows(connection, "requests")] == [2, 1]


async def test_a_repeat_joins_the_open_job(connection):
    first, second = await insert(connection), await insert(connection)
    assert first["id"] == second["id"]
    assert second["requests"] == 2


async def test_another_port_is_another_job(connection):
    first, second = await insert(connection), await insert(connection, port=587)
    assert first["id"] != second["id"]


async def test_one_server_has_one_spelling(connection):
    first, second = await insert(connection), await insert(connection, f" ::ffff:{A} ")
    assert first["id"] == second["id"]
    v6 = await insert(connection, "0:0:0:0:0:0:0:1")
    assert v6["target"] == "::1"


async def test_a_more_urgent_repeat_raises_the_job_and_pulls_it_forward(connection):
    await insert(connection, reason="recheck", run_at=await later(connection, "1 day"))
    await insert(connection, reason="removal-request", note="please")
    (row,) = await rows(connection, "priority, reason, note, run_at <= now() AS due")
    assert tuple(row) == (0, "removal-request", "please", True)


async def test_a_less_urgent_repeat_changes_neither_priority_nor_time(connection):
    await insert(connection, reason="removal-request", note="first")
    before = await rows(connection, "priority, reason, run_at, note")
    await insert(connection, reason="recheck", run_at=await later(connection, "1 day"))
    assert await rows(connection, "priority, reason, run_at, note") == before


async def later(connection, interval: str):
    return await connection.fetchval(f"SELECT now() + interval '{interval}'")


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("mail", "is not an IP address", "192.0.2.1"),
        ("192.0.2.1:25", "is not an IP address", "without brackets and port"),
        ("[192.0.2.1]", "is not an IP address", "without brackets"),
        ("192.0.2.256", "is not an IP address", "IPv4"),
        ("0192.0.2.1", "is not an IP address", "Leading zeros"),
        ("192.0.2.010", "is not an IP address", "Leading zeros"),
        (" 192.00.2.1/32", "is not an IP address", "Leading zeros"),
        ("::ffff:192.0.2.01", "is not an IP address", "Leading zeros"),
        ("", "no target given", "address"),
        (None, "no target given", "address"),
        ("192.0.2.0/24", "is a network", "one row for each address"),
        ("2001:db8::/64", "is a network", "one row for each address"),
        ("10.1.2.3", "out of scope: private use", "scope.allow"),
        ("64:ff9b::a00:1", "out of scope: private use", "scope.allow"),
        ("224.0.0.1", "out of scope: multicast", "scope.allow"),
        ("x'; DROP TABLE relaytest.job --", "is not an IP address", "address"),
    ],
)
async def test_a_bad_target_is_refused_with_a_hint(connection, target, message, hint):
    with pytest.raises(asyncpg.PostgresError) as caught:
        await insert(connection, target)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert await rows(connection) == []


@pytest.mark.parametrize("reason", ["because", "", None], ids=str)
async def test_an_unknown_reason_is_refused_with_the_known_ones(connection, reason):
    with pytest.raises(asyncpg.PostgresError) as caught:
        await insert(connection, reason=reason)
    assert "reason" in caught.value.message
    assert "nominated" in caught.value.hint


@pytest.mark.parametrize(("column", "value"), [("port", 0), ("port", 65536), ("priority", 3)])
async def test_a_number_out_of_range_is_refused(connection, column, value):
    with pytest.raises(asyncpg.DataError, match="out of range"):
        await insert(connection, **{column: value})


async def test_enqueue_tells_the_databases_own_words(connection):
    with pytest.raises(RefusedRequestError, match="not an IP address") as caught:
        await jobs.enqueue(connection, Request("nonsense", "operator"))
    assert "192.0.2.1" in caught.value.hint


@pytest.mark.parametrize(
    ("columns", "rings"),
    [
        ({"reason": "nominated"}, 1),
        ({"reason": "removal-request"}, 1),
        ({"reason": "recheck"}, 0),
        ({"reason": "nominated", "run_at": "later"}, 0),
    ],
    ids=["new", "removal", "periodic", "future"],
)
async def test_only_urgent_and_due_work_rings_the_bell(connection, dsn, columns, rings):
    if "run_at" in columns:
        columns = columns | {"run_at": await later(connection, "1 hour")}
    ears = await asyncpg.connect(dsn)
    heard = []
    await ears.add_listener("relaytest_job", lambda *_: heard.append(1))
    await insert(connection, **columns)
    await ears.fetchval("SELECT 1")
    await connection.execute("SELECT pg_notify('relaytest_job', 'end')")
    while not heard or len(heard) < rings + 1:
        await ears.fetchval("SELECT 1")
    await ears.close()
    assert len(heard) == rings + 1  # the last one is our own


# --- what the table itself forbids


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("address = '192.0.2.0/24'", "address_is_a_host"),
        ("port = 0", "port_in_range"),
        ("priority = 3", "priority_in_range"),
        ("note = repeat('x', 2001)", "note_is_short"),
        ("requester = ''", "requester_is_short"),
        ("leased = true", "leased_has_an_owner"),
        ("worker = 1", "leased_has_an_owner"),
        ("again = true", "again_only_leased"),
    ],
)
async def test_a_broken_row_cannot_be_stored(connection, change, constraint):
    await insert(connection)
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await connection.execute(f"UPDATE relaytest.job SET {change}")


# --- claiming


async def test_a_claim_gives_a_job_once_with_a_trial(connection, worker):
    await insert(connection)
    (job,) = await jobs.claim(connection, worker, 10, LEASE)
    assert (job.address, job.port, job.attempt, job.visits) == (ip_address(A), 25, 1, 0)
    assert await jobs.claim(connection, worker, 10, LEASE) == []
    assert await connection.fetchval("SELECT address FROM relaytest.trial") == ip_address(A)


async def test_claims_go_by_priority_then_time(connection, worker):
    for number, reason in enumerate(["recheck", "nominated", "removal-request", "nominated"]):
        await insert(connection, f"192.0.2.{number}", reason)
    claimed = await jobs.claim(connection, worker, 10, LEASE)
    assert [str(job.address)[-1] for job in claimed] == ["2", "1", "3", "0"]


async def test_a_job_of_the_future_is_not_claimed(connection, worker):
    await insert(connection, run_at=await later(connection, "1 hour"))
    assert await jobs.claim(connection, worker, 10, LEASE) == []
    due = await jobs.next_due(connection, worker)
    assert timedelta(minutes=59) < due <= timedelta(hours=1)


async def test_nothing_is_due_in_an_empty_queue(connection, worker):
    assert await jobs.next_due(connection, worker) is None


async def test_concurrent_claimers_share_the_jobs_without_overlap(connection, dsn, worker):
    for number in range(100):
        await insert(connection, f"11.0.{number}.1", "recheck")

    async def take() -> list[int]:
        own = await asyncpg.connect(dsn)
        taken = []
        while batch := await jobs.claim(own, worker, 7, LEASE):
            taken += [job.id for job in batch]
        await own.close()
        return taken

    async with asyncio.TaskGroup() as group:
        takers = [group.create_task(take()) for _ in range(4)]
    taken = [job for taker in takers for job in taker.result()]
    assert len(taken) == len(set(taken)) == 100


# --- finishing, fencing, rescue


async def test_a_finished_job_leaves_the_queue(connection, worker):
    await insert(connection)
    (job,) = await jobs.claim(connection, worker, 1, LEASE)
    assert await jobs.finish(connection, job, retry_in=None) is Ending.ENDED
    assert await rows(connection) == []


async def test_a_deferred_job_comes_back_for_the_same_trial(connection, worker):
    await insert(connection)
    (job,) = await jobs.claim(connection, worker, 1, LEASE)
    ending = await jobs.finish(connection, job, retry_in=timedelta(0))
    (again,) = await jobs.claim(connection, worker, 1, LEASE)
    assert ending is Ending.CONTINUES
    assert (again.trial, again.attempt) == (job.trial, 2)


async def test_asked_for_while_it_runs_it_runs_once_more_as_a_new_trial(connection, worker):
    await insert(connection)
    (job,) = await jobs.claim(connection, worker, 1, LEASE)
    await insert(connection)
    ending = await jobs.finish(connection, job, retry_in=LEASE)
    (again,) = await jobs.claim(connection, worker, 1, LEASE)
    assert ending is Ending.ENDED
    assert again.trial != job.trial
    assert await jobs.finish(connection, again, retry_in=None) is Ending.ENDED
    assert await rows(connection) == []


async def test_a_removal_request_pulls_a_deferred_job_forward(connection, worker):
    await insert(connection)
    (job,) = await jobs.claim(connection, worker, 1, LEASE)
    await jobs.finish(connection, job, retry_in=timedelta(hours=4))
    await insert(connection, reason="removal-request")
    (again,) = await jobs.claim(connection, worker, 1, LEASE)
    assert again.id == job.id


ANEW = {
    "removal-request": lambda connection: insert(connection, reason="removal-request"),
    "operator": lambda connection: insert(connection, reason="operator"),
    "requeue": lambda connection: jobs.requeue(connection, ip_network(A), "x"),
}


@pytest.mark.parametrize("ask", ANEW.values(), ids=ANEW)
@pytest.mark.parametrize("verdict", ["open", "unknown"])
async def test_who_asks_gets_a_new_trial_where_the_waiting_one_has_proven_relay(
    connection, worker, ask, verdict
):
    await insert(connection)
    (job,) = await jobs.claim(connection, worker, 1, LEASE)
    await connection.execute(
        "INSERT INTO relaytest.verdict"
        " (trial, address, port, verdict, reason, confidence, explanation, forms)"
        " VALUES ($1, $2, 25, $3, 'x', 'high', 'x', '{}')",
        job.trial,
        A,
        verdict,
    )
    await jobs.finish(connection, job, retry_in=timedelta(minutes=5))
    await ask(connection)
    (again,) = await jobs.claim(connection, worker, 1, LEASE)
    assert again.id == job.id
    assert (again.trial != job.trial) is (verdict == "open")


async def test_a_worker_that_lost_its_lease_cannot_finish(connection, worker):
    other = await join(connection)
    await insert(connection)
    (old,) = await jobs.claim(connection, worker, 1, timedelta(seconds=-1))
    assert await jobs.rescue(connection) == 1
    (new,) = await jobs.claim(connection, other, 1, LEASE)
    assert new.id == old.id
    assert await jobs.finish(connection, old, retry_in=None) is Ending.LOST
    assert await jobs.finish(connection, new, retry_in=None) is Ending.ENDED


async def test_not_even_the_same_worker_finishes_by_an_old_attempt(connection, worker):
    await insert(connection)
    (job,) = await jobs.claim(connection, worker, 1, LEASE)
    stale = replace(job, attempt=job.attempt - 1)
    assert await jobs.finish(connection, stale, retry_in=None) is Ending.LOST


async def test_jobs_of_a_silent_worker_are_rescued_and_of_a_live_one_not(connection, worker):
    silent = await join(connection)
    await insert(connection, A)
    await jobs.claim(connection, silent, 1, LEASE)
    await insert(connection, B)
    await jobs.claim(connection, worker, 1, LEASE)
    await jobs.beat(connection, worker)
    assert (await jobs.beats(connection)).keys() == {worker, silent}
    assert await jobs.rescue(connection, [silent]) == 1
    states = [tuple(row) for row in await rows(connection, "host(address), leased")]
    assert states == [(A, False), (B, True)]


async def test_jobs_of_a_worker_that_is_gone_are_rescued_at_once(connection, worker):
    await insert(connection)
    await jobs.claim(connection, worker, 1, LEASE)
    assert await jobs.rescue(connection) == 0
    await jobs.leave_workers(connection, worker)
    assert await jobs.rescue(connection) == 1


async def test_a_job_that_kills_its_workers_comes_back_later_and_later(connection, worker):
    await insert(connection)
    pauses = []
    for _ in range(3):
        await connection.execute("UPDATE relaytest.job SET run_at = now()")
        await jobs.claim(connection, worker, 1, timedelta(seconds=-1))
        await jobs.rescue(connection)
        (row,) = await rows(connection, "extract(epoch FROM run_at - now())::float AS s")
        pauses.append(round(row["s"], -1))
    assert pauses == [0, 10, 20]


async def test_a_leaving_worker_gives_its_jobs_back_at_once(connection, worker):
    await insert(connection)
    await jobs.claim(connection, worker, 1, LEASE)
    await jobs.release(connection, worker)
    await jobs.leave_workers(connection, worker)
    assert len(await jobs.claim(connection, await join(connection), 1, LEASE)) == 1


async def test_a_buried_worker_hears_that_it_must_join_anew(connection, worker):
    assert await jobs.beat(connection, worker)
    await jobs.leave_workers(connection, worker)
    assert not await jobs.beat(connection, worker)


async def test_queue_status_counts_by_priority(connection, worker):
    await insert(connection, A, "recheck")
    await insert(connection, B, "recheck", run_at=await later(connection, "1 hour"))
    await insert(connection, "192.0.2.3", "removal-request")
    await jobs.claim(connection, worker, 1, LEASE)
    found = [tuple(row)[:4] for row in await jobs.queue_status(connection)]
    assert found == [(0, 0, 0, 1), (2, 1, 1, 0)]


# --- several places to test from


async def join_at(connection, vantage: str) -> int:
    worker = await jobs.join_workers(
        connection, host="host", pid=1, vantage=vantage, version="1", slots=10
    )
    await jobs.rescue(connection)  # which is how a place becomes known
    return worker


async def test_a_job_for_a_place_is_for_the_workers_there(connection, worker):
    there = await join_at(connection, "there")
    await insert(connection, vantage="there")
    assert await jobs.claim(connection, worker, 10, LEASE) == []
    assert await jobs.next_due(connection, worker) is None
    assert await jobs.next_due(connection, there) <= timedelta(0)
    (job,) = await jobs.claim(connection, there, 10, LEASE)
    assert await connection.fetchval("SELECT vantage FROM relaytest.trial") == "there"
    assert await jobs.finish(connection, job, retry_in=None) is Ending.ENDED


async def test_a_trial_is_retried_where_it_began(connection, worker):
    there = await join_at(connection, "there")
    await insert(connection)
    (job,) = await jobs.claim(connection, worker, 10, LEASE)
    assert await jobs.finish(connection, job, retry_in=timedelta(0)) is Ending.CONTINUES
    assert await jobs.claim(connection, there, 10, LEASE) == []
    assert len(await jobs.claim(connection, worker, 10, LEASE)) == 1


async def test_two_places_test_one_after_the_other(connection, worker):
    there = await join_at(connection, "there")
    await insert(connection)
    (here,) = await jobs.claim(connection, worker, 10, LEASE)
    for vantage in ("there", "there", "default"):
        joined = await insert(connection, vantage=vantage)
        assert joined["id"] == here.id
    assert await jobs.claim(connection, there, 10, LEASE) == []
    assert await jobs.finish(connection, here, retry_in=None) is Ending.ENDED
    (anew,) = await jobs.claim(connection, worker, 10, LEASE)  # asked for while it ran
    assert anew.trial != here.trial
    await jobs.finish(connection, anew, retry_in=None)
    (last,) = await jobs.claim(connection, there, 10, LEASE)
    assert last.trial not in {here.trial, anew.trial}
    assert await jobs.finish(connection, last, retry_in=None) is Ending.ENDED
    assert await rows(connection) == []


async def test_a_place_that_is_gone_for_a_day_keeps_nothing_back(connection, worker):
    there = await join_at(connection, "there")
    await insert(connection, vantage="there")
    await jobs.leave_workers(connection, there)
    await jobs.rescue(connection)
    assert await jobs.claim(connection, worker, 10, LEASE) == []
    await connection.execute(
        "UPDATE relaytest.vantage SET seen_at = now() - interval '25 h' WHERE name = 'there'"
    )
    await jobs.rescue(connection)
    assert len(await jobs.claim(connection, worker, 10, LEASE)) == 1


@pytest.mark.parametrize("name", ["A", "a b", "", "x" * 41, "ü"])
async def test_a_place_has_a_plain_name(connection, name):
    with pytest.raises(asyncpg.DataError, match="is no name of a place"):
        await insert(connection, vantage=name)


# --- no network is crowded, nobody waits for ever


async def limit(connection, network: str, at_once: int | None, gap: str = "0") -> None:
    await connection.execute(
        "INSERT INTO relaytest.network_limit (network, at_once, gap, why)"
        " VALUES ($1::text::cidr, $2, $3::text::interval, 'test')",
        network,
        at_once,
        gap,
    )


async def due_now(connection) -> None:
    await connection.execute("UPDATE relaytest.job SET run_at = now() - interval '1 s'")


@pytest.mark.parametrize("addresses", ["11.0.2.{}", "2600:0:1:{}::1"], ids=["v4", "v6"])
async def test_a_network_has_so_many_visits_at_once(connection, worker, addresses):
    for number in range(1, 11):
        await insert(connection, addresses.format(number))
    first = await jobs.claim(connection, worker, 10, LEASE)
    assert len(first) == 4
    await due_now(connection)
    assert await jobs.claim(connection, worker, 10, LEASE) == []
    await jobs.finish(connection, first[0], retry_in=None)
    await due_now(connection)
    assert len(await jobs.claim(connection, worker, 10, LEASE)) == 1


async def test_a_full_network_keeps_no_other_waiting(connection, worker):
    for number in range(256):
        await insert(connection, f"11.0.2.{number}")
    for number in range(1, 10):
        await insert(connection, f"11.1.{number}.1")
    claimed = [str(job.address) for job in await jobs.claim(connection, worker, 10, LEASE)]
    behind = [address for address in claimed if address.startswith("11.1.")]
    assert (len(claimed), len(behind)) == (10, 6)


async def test_a_claim_reads_little_when_an_empty_queue_has_filled(connection, worker):
    fill = """
        INSERT INTO relaytest.job (address, reason, priority, run_at, requester)
        SELECT '11.0.0.0'::inet + 256 * n, 'operator', 1, now(), 'x'
          FROM generate_series(1, $1) AS n
    """
    await connection.execute(fill, 1000)
    while await jobs.claim(connection, worker, 100, LEASE):
        await connection.execute("DELETE FROM relaytest.job WHERE leased")
    await connection.execute("VACUUM relaytest.job")
    await connection.execute(fill, 3000)
    blocks = "SELECT pg_stat_get_xact_blocks_fetched('relaytest.job_ready'::regclass)"
    async with connection.transaction():
        before = await connection.fetchval(blocks)
        assert len(await jobs.claim(connection, worker, 10, LEASE)) == 10
        read = await connection.fetchval(blocks) - before
    assert read < 200  # 64 ranges in two priorities; a walk over all of it takes 20 and more


async def test_the_longest_prefix_and_the_operators_word_count(connection, worker):
    await limit(connection, "11.0.0.0/16", 1)
    await limit(connection, "11.0.3.0/24", None)
    await limit(connection, "11.9.0.0/16", 7)
    for number in range(1, 11):
        await insert(connection, f"11.0.2.{number}")
        await insert(connection, f"11.0.3.{number}")
        await insert(connection, f"11.9.0.{number}")
    claimed = [str(job.address) for job in await jobs.claim(connection, worker, 30, LEASE)]
    counts = [
        sum(one.startswith(net) for one in claimed) for net in ("11.0.2.", "11.0.3.", "11.9.")
    ]
    assert counts == [1, 10, 7]


async def test_a_network_without_a_limit_puts_nobody_off(connection, worker):
    await limit(connection, "11.0.2.0/24", None)
    for number in range(1, 11):
        await insert(connection, f"11.0.2.{number}")
    for _ in range(10):  # there are always more candidates than are taken
        assert len(await jobs.claim(connection, worker, 1, LEASE)) == 1


async def test_starts_in_a_network_keep_their_gap(connection, worker):
    await limit(connection, "11.0.2.0/24", 4, "1 hour")
    for number in range(1, 4):
        await insert(connection, f"11.0.2.{number}")
    assert len(await jobs.claim(connection, worker, 10, LEASE)) == 1
    waits = await rows(connection, "leased, run_at - now() AS wait")
    hours = sorted(round(row["wait"] / timedelta(hours=1)) for row in waits if not row["leased"])
    assert hours == [1, 2]
    await due_now(connection)
    assert await jobs.claim(connection, worker, 10, LEASE) == []  # not before the gap has passed


async def test_the_limit_holds_however_many_claim_at_once(connection, dsn, worker):
    for number in range(1, 200):
        await insert(connection, f"11.0.2.{number}")

    async def take() -> int:
        own = await asyncpg.connect(dsn)
        taken = 0
        for _ in range(20):
            taken += len(await jobs.claim(own, worker, 3, LEASE))
        await own.close()
        return taken

    async with asyncio.TaskGroup() as group:
        takers = [group.create_task(take()) for _ in range(4)]
    assert sum(taker.result() for taker in takers) == 4


async def test_requesters_take_turns(connection, worker):
    for number in range(50):
        await insert(connection, f"11.0.{number}.1", requester="many")
    await insert(connection, "11.1.1.1", requester="few")
    claimed = [str(job.address) for job in await jobs.claim(connection, worker, 4, LEASE)]
    assert "11.1.1.1" in claimed


async def test_a_claim_from_below_serves_who_waited_behind_more_urgent_jobs(connection, worker):
    for number in range(20):
        await insert(connection, f"11.0.{number}.1", "removal-request")
    await insert(connection, "11.1.1.1", "recheck")
    (job,) = await jobs.claim(connection, worker, 1, LEASE, from_below=True)
    assert str(job.address) == "11.1.1.1"


async def test_one_ipv6_site_cannot_fill_the_queue(connection):
    await connection.execute(
        "INSERT INTO relaytest.retest (target, reason)"
        " SELECT host('2600::'::inet + n), 'recheck' FROM generate_series(1, 1000) n"
    )
    with pytest.raises(RefusedRequestError, match="1000 open jobs in 2600::/48"):
        await jobs.enqueue(connection, Request("2600::ffff", "operator"))
    await jobs.enqueue(connection, Request("2600::1", "operator"))  # joins
    await jobs.enqueue(connection, Request("2600:0:1::1", "operator"))


# --- how often, and names


async def requested(connection, *ages: str, verdict: str = "open", target=A) -> None:
    """Requested tests that began so long ago, each with its verdict."""
    for age in ages:
        await connection.execute(
            "WITH t AS (INSERT INTO relaytest.trial (id, job, address, port, reason, requester,"
            " started_at) VALUES (nextval('relaytest.trial_id'), 1, $1::text::inet, 25,"
            " 'removal-request', 'x', now() - $2::text::interval) RETURNING id, address, port)"
            " INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
            " explanation, forms) SELECT id, address, port, $3, 'relayed', 'high', 'x', '{}'"
            " FROM t",
            target,
            age,
            verdict,
        )


@pytest.mark.parametrize(
    ("ages", "taken"),
    [
        ([], True),
        (["14 min"], False),
        (["16 min"], True),
        (["2 h", "59 min"], False),
        (["2 h", "61 min"], True),
        (["9 h", "8 h", "5 h"], False),
        (["9 h", "8 h", "7 h"], True),
        (["9 d", "8 d", "7 d", "6 d", "23 h"], False),
        (["9 d", "8 d", "7 d", "6 d", "25 h"], True),
    ],
)
async def test_requests_that_did_not_pass_make_the_next_one_wait_longer(connection, ages, taken):
    await requested(connection, *ages)
    request = Request(A, "removal-request")
    if taken:
        assert await jobs.enqueue(connection, request)
    else:
        with pytest.raises(RefusedRequestError, match="next request is taken from 20") as caught:
            await jobs.enqueue(connection, request)
        assert "Mend the server first" in caught.value.hint


async def test_a_request_that_passed_begins_anew(connection):
    await requested(connection, "3 h", "2 h")
    await requested(connection, "10 min", verdict="closed")
    await requested(connection, "1 min", target=B)
    assert await jobs.enqueue(connection, Request(A, "removal-request"))


async def test_a_refused_request_tells_its_sqlstate_and_when(connection):
    await requested(connection, "1 min")
    with pytest.raises(asyncpg.PostgresError) as caught:
        await insert(connection, reason="removal-request")
    assert caught.value.sqlstate == "RT001"
    at = await connection.fetchval(
        "SELECT to_char(relaytest.next_request_at($1) AT TIME ZONE 'UTC', 'HH24:MI:SS')",
        ip_address(A),
    )
    assert at in caught.value.detail


async def test_another_reason_is_not_held_up_by_requests(connection):
    await requested(connection, "1 min")
    row = await insert(connection, reason="operator")
    assert row["run_at"] <= await later(connection, "0 s")


async def test_an_automatic_test_comes_a_day_after_the_last_one(connection):
    await requested(connection, "1 h")
    row = await insert(connection, reason="recheck")
    assert row["run_at"] == await connection.fetchval(
        "SELECT started_at + interval '1 day' FROM relaytest.trial"
    )


async def test_the_function_asks_as_the_view_does(connection):
    job = await connection.fetchval(
        "SELECT relaytest.request_retest($1, 'operator', note => 'n', port => 587)", A
    )
    (row,) = await rows(connection, "id, note, port, priority")
    assert tuple(row) == (job, "n", 587, 1)


async def test_a_host_name_waits_to_be_looked_up(connection):
    assert await jobs.enqueue(connection, Request("MX.Example.org.", "nominated")) is None
    assert await jobs.enqueue(connection, Request("mx.example.org", "removal-request")) is None
    waiting = await connection.fetch(
        "SELECT name, priority, reason::text FROM relaytest.name_request"
    )
    assert [tuple(row) for row in waiting] == [("mx.example.org", 0, "removal-request")]
    assert await rows(connection) == []


@pytest.mark.parametrize(
    "name", ["localhost", "1.2.3", "-a.example", "a..example", "a b.example", f"{'x' * 64}.example"]
)
async def test_what_is_no_host_name_is_refused(connection, name):
    with pytest.raises(RefusedRequestError, match="is not an IP address"):
        await jobs.enqueue(connection, Request(name, "operator"))


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0001-01-01", "9999-12-31"])
async def test_a_request_for_a_time_that_is_none_is_refused(connection, moment):
    """Infinite times cannot be subtracted: one of them would have stopped every worker."""
    with pytest.raises(asyncpg.CheckViolationError, match="run_at_is_a_time"):
        await connection.execute(
            "INSERT INTO relaytest.retest (target, reason, run_at)"
            " VALUES ('192.0.2.8', 'complaint', $1::text::timestamptz)",
            moment,
        )
