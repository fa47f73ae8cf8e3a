"""Token keys: rotation, and what a trial signs with."""

from datetime import timedelta

from relaytest.store import jobs, keys

HOUR = timedelta(hours=1)


async def job_of(connection, target: str) -> jobs.Job:
    await connection.execute(
        "INSERT INTO relaytest.retest (target, reason) VALUES ($1, 'operator')", target
    )
    worker = await jobs.join_workers(
        connection, host="h", pid=1, vantage="default", version="1", slots=1
    )
    (job,) = await jobs.claim(connection, worker, 1, HOUR)
    return job


async def settle(connection) -> None:
    """As if all keys were an hour older."""
    await connection.execute(
        "UPDATE relaytest.token_key SET created_at = created_at - interval '1 hour'"
    )


async def test_the_first_key_is_made_by_the_migration(connection):
    (key,) = await keys.token_keys(connection)
    assert len(key) == 32
    assert (await job_of(connection, "192.0.2.1")).key == key


async def test_a_new_key_signs_only_once_every_sink_can_know_it(connection):
    (old,) = await keys.token_keys(connection)
    await settle(connection)
    assert await keys.rotate(connection) == 2
    new, *rest = await keys.token_keys(connection)
    assert rest == [old]
    assert (await job_of(connection, "192.0.2.1")).key == old
    await settle(connection)
    assert (await job_of(connection, "192.0.2.2")).key == new


async def test_a_trial_keeps_its_key_so_that_greylisting_knows_its_mailboxes(connection):
    (old,) = await keys.token_keys(connection)
    job = await job_of(connection, "192.0.2.1")
    await jobs.finish(connection, job, retry_in=timedelta(0))
    await keys.rotate(connection)
    await settle(connection)
    (again,) = await jobs.claim(connection, job.worker, 1, HOUR)
    assert (again.trial, again.key) == (job.trial, old)


async def test_an_old_key_retires_when_nothing_can_come_back_for_it(connection):
    job = await job_of(connection, "192.0.2.1")
    await keys.rotate(connection)
    await settle(connection)
    await settle(connection)
    await keys.rotate(connection)
    assert await keys.retire(connection, HOUR * 5) == 0
    await connection.execute("UPDATE relaytest.token_key SET created_at = now() - interval '9 h'")
    assert await keys.retire(connection, HOUR * 5) == 0  # its trial is still visited
    await jobs.finish(connection, job, retry_in=None)
    assert await keys.retire(connection, HOUR * 5) == 2
    assert len(await keys.token_keys(connection)) == 1
    assert [row["replaced_at"] for row in await keys.listed(connection)] == [None]
