"""What happened on each day."""

from relaytest.store.days import last_days
from tests.daemons.test_web import judged, put_on, trial

A, B = "192.0.2.1", "192.0.2.2"


async def changed(connection, old: str, new: str, days: int) -> None:
    await connection.execute(
        "INSERT INTO relaytest.listing_change (address, port, event, old, new, why, at)"
        " VALUES ('192.0.2.1', 25, 'x', $1, $2, 'x', now() - $3 * interval '1 day')",
        old,
        new,
        days,
    )


async def test_each_day_has_its_numbers(connection):
    await trial(connection)
    for verdict, days in (("open", 0), ("closed", 0), ("closed", 1), ("unknown", 3)):
        await judged(connection, "x", verdict)
        await connection.execute(
            "UPDATE relaytest.verdict SET decided_at = now() - $1 * interval '1 day'"
            " WHERE id = (SELECT max(id) FROM relaytest.verdict)",
            days,
        )
    found = await last_days(connection, 3)
    assert len(found.day) == 3
    assert (found.opened, found.closed, found.unknown) == ([0, 0, 1], [0, 1, 1], [0, 0, 0])


async def test_the_list_s_size_is_walked_back_from_today(connection):
    await put_on(connection, A)
    await put_on(connection, B, number=2)
    await connection.execute("DELETE FROM relaytest.listing_change")
    await changed(connection, "unlisted", "listed", 1)
    await changed(connection, "listed", "unlisted", 2)
    await changed(connection, "unlisted", "suspected", 1)
    assert (await last_days(connection, 4)).listed == [2, 1, 2, 2]
