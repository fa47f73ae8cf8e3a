"""The ledger: the listing policy, the administrator's hand, and an audit row for every change."""

import random
from datetime import timedelta
from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest

from relaytest.core.listing import TRANSITIONS, Event, State
from relaytest.daemons.ledger import Ledger
from relaytest.daemons.scheduler import Scheduler
from relaytest.store import evidence, exclusions, listings, nominations
from tests.daemons.peers import Target, anybody, discards, relays
from tests.daemons.test_scheduler import (
    A,
    B,
    arrives,
    changes,
    configured,
    listed,
    open_jobs,
    probed,
    verdicts,
)
from tests.lab import until

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def under(tmp_path, database):
    """A scheduler under a policy."""

    def make(**policy) -> Scheduler:
        return Scheduler(configured(tmp_path, listing=policy), database)

    return make


async def found_open(scheduler, connection, address=A, *, ago=timedelta(0)) -> int:
    """A trial that began `ago` and finds now that the target relays."""
    trial = await probed(connection, address, accepted=True)
    await connection.execute(
        "UPDATE relaytest.trial SET started_at = now() - $2::interval WHERE id = $1", trial, ago
    )
    await arrives(connection, trial, peer=address)
    await scheduler.settle()
    return trial


async def found_closed(scheduler, connection, address=A) -> int:
    trial = await probed(connection, address)
    await scheduler.settle()
    return trial


async def state(connection, address=A) -> str | None:
    return await connection.fetchval(
        "SELECT state FROM relaytest.listing WHERE address = $1::text::inet", address
    )


async def last_why(connection) -> str:
    return await connection.fetchval(
        "SELECT why FROM relaytest.listing_change ORDER BY id DESC LIMIT 1"
    )


async def nominate(scheduler, connection, address=A):
    """Put a sample on file, as the command line does."""
    async with connection.transaction():
        target = ip_address(address)
        await nominations.add(connection, target, b"Subject: x", truncated=False, tool="test")
        return await scheduler._ledger.nominate(connection, target)


async def exclude(connection, network="192.0.2.0/24") -> None:
    async with connection.transaction():
        await exclusions.exclude(
            connection, ip_network(network), why="owner objects", actor="root", until=None
        )


async def include(connection, network="192.0.2.0/24") -> None:
    await exclusions.include(connection, ip_network(network), why="agreed", actor="root")


async def take_off(scheduler, connection, event=Event.DELISTED, address=A) -> None:
    async with connection.transaction():
        for one in await listings.standing_of(connection, ip_address(address)):
            await scheduler._ledger.take_off(connection, one, event, "mistake", "root")


# --- confirmations


async def test_one_trial_makes_a_suspicion_where_two_are_asked_for(under, connection):
    await found_open(under(confirmations=2), connection)
    assert await listed(connection) == {}
    assert await changes(connection) == [(A, "found-suspect", "unlisted", "suspected")]
    assert "Not listed yet: a further trial on another day" in await last_why(connection)
    row = await connection.fetchrow("SELECT recheck_at - changed_at AS t FROM relaytest.listing")
    assert row["t"] == DAY


async def test_the_confirming_trial_is_asked_for_when_it_is_due(under, connection):
    scheduler = under(confirmations=2)
    await found_open(scheduler, connection)
    await scheduler.recheck()
    assert await open_jobs(connection) == []
    await connection.execute("UPDATE relaytest.listing SET recheck_at = now()")
    await scheduler.recheck()
    assert await open_jobs(connection) == [(A, "recheck")]


async def test_a_second_trial_on_another_day_lists(under, connection):
    scheduler = under(confirmations=2)
    await found_open(scheduler, connection, ago=DAY)
    trial = await found_open(scheduler, connection)
    assert await listed(connection) == {A: trial}
    assert (await changes(connection))[-1] == (A, "found-open", "suspected", "listed")


async def test_a_second_trial_on_the_same_day_does_not(under, connection):
    scheduler = under(confirmations=2)
    await found_open(scheduler, connection, ago=HOUR)
    await found_open(scheduler, connection)
    assert await state(connection) == "suspected"
    assert (await changes(connection))[-1] == (A, "found-suspect", "suspected", "suspected")


async def test_a_late_message_of_the_day_before_is_a_confirmation(under, connection):
    scheduler = under(confirmations=2)
    late = await probed(connection, accepted=True)
    await connection.execute("UPDATE relaytest.trial SET started_at = now() - interval '1 d'")
    trial = await found_open(scheduler, connection)
    assert await state(connection) == "suspected"
    await arrives(connection, late)
    await scheduler.settle()
    assert await listed(connection) == {A: trial}


async def test_a_late_message_of_the_same_day_is_none(under, connection):
    scheduler = under(confirmations=2)
    late = await probed(connection, accepted=True)
    await found_open(scheduler, connection)
    await arrives(connection, late)
    await scheduler.settle()
    assert await state(connection) == "suspected"


async def test_a_suspicion_ends_when_the_target_is_closed(under, connection):
    scheduler = under(confirmations=2)
    await found_open(scheduler, connection, ago=DAY)
    await found_closed(scheduler, connection)
    assert (await changes(connection))[-1] == (A, "found-closed", "suspected", "unlisted")
    await found_open(scheduler, connection)
    assert await state(connection) == "suspected"  # the trial before counts no more


async def test_a_suspicion_ends_when_nothing_comes_after_it(under, connection):
    scheduler = under(confirmations=2)
    await found_open(scheduler, connection)
    await connection.execute("UPDATE relaytest.listing SET expires_at = now()")
    await scheduler.expire()
    assert (await changes(connection))[-1] == (A, "expired", "suspected", "unlisted")


async def test_a_listing_that_was_confirmed_is_renewed_by_one_trial(under, connection):
    scheduler = under(confirmations=2)
    await found_open(scheduler, connection, ago=20 * DAY)
    await found_open(scheduler, connection, ago=19 * DAY)
    await connection.execute("UPDATE relaytest.trial SET started_at = now() - interval '40 d'")
    trial = await found_open(scheduler, connection)
    assert await listed(connection) == {A: trial}
    assert (await changes(connection))[-1] == (A, "found-open", "listed", "listed")


# --- spam evidence


async def test_without_a_sample_of_spam_it_is_a_suspicion(under, connection):
    scheduler = under(require_spam_evidence=True)
    await found_open(scheduler, connection)
    assert await state(connection) == "suspected"
    assert "no sample of spam from it is on file" in await last_why(connection)
    recheck = await connection.fetchval("SELECT recheck_at FROM relaytest.listing")
    assert recheck is None  # another trial would tell nothing new


async def test_a_sample_lists_a_suspected_target_at_once(under, connection):
    scheduler = under(require_spam_evidence=True)
    trial = await found_open(scheduler, connection)
    (move,) = await nominate(scheduler, connection)
    assert (move.port, move.old, move.new) == (25, State.SUSPECTED, State.LISTED)
    assert await listed(connection) == {A: trial}
    assert (await changes(connection))[-1] == (A, "nominated", "suspected", "listed")


async def test_a_sample_does_not_wait_for_a_trial_that_is_being_judged(under, connection, database):
    scheduler = under(require_spam_evidence=True)
    await found_open(scheduler, connection)
    await connection.execute("UPDATE relaytest.trial SET settle_at = now()")
    async with database.transaction() as judging:
        assert await evidence.due_trial(judging)
        assert len(await nominate(scheduler, connection)) == 1


async def test_a_sample_first_and_then_a_trial_lists(under, connection):
    scheduler = under(require_spam_evidence=True)
    assert await nominate(scheduler, connection) == []
    trial = await found_open(scheduler, connection)
    assert await listed(connection) == {A: trial}


async def test_a_sample_does_not_stand_in_for_a_confirmation(under, connection):
    scheduler = under(require_spam_evidence=True, confirmations=2)
    await found_open(scheduler, connection, ago=DAY)
    assert await nominate(scheduler, connection) == []
    await found_open(scheduler, connection)
    assert list(await listed(connection)) == [A]


async def test_a_sample_lists_nobody_whose_last_proof_is_old(under, connection):
    scheduler = under(require_spam_evidence=True)
    await found_open(scheduler, connection)
    await connection.execute("UPDATE relaytest.trial SET started_at = now() - interval '31 d'")
    assert await nominate(scheduler, connection) == []
    assert await state(connection) == "suspected"


async def test_a_sample_lists_nobody_who_was_found_closed(under, connection):
    scheduler = under(require_spam_evidence=True)
    await found_open(scheduler, connection)
    await found_closed(scheduler, connection)
    assert await nominate(scheduler, connection) == []
    assert await listed(connection) == {}


async def test_a_sample_of_another_address_lists_nobody(under, connection):
    scheduler = under(require_spam_evidence=True)
    await found_open(scheduler, connection)
    assert await nominate(scheduler, connection, B) == []
    assert await state(connection) == "suspected"


async def test_a_listing_from_before_a_stricter_policy_is_not_renewed(under, connection):
    first = await found_open(under(), connection)
    await found_open(under(require_spam_evidence=True), connection)
    assert await listed(connection) == {A: first}
    assert len(await changes(connection)) == 1


# --- exclusions


async def test_an_excluded_target_is_not_listed_by_a_trial_that_was_under_way(under, connection):
    await exclude(connection)
    trial = await found_open(under(), connection)
    assert await verdicts(connection, trial) == [("open", "relayed")]
    assert await listed(connection) == {}
    assert await changes(connection) == []


async def test_a_listed_target_that_is_excluded_stays_listed_until_it_expires(under, connection):
    scheduler = under()
    trial = await found_open(scheduler, connection)
    await exclude(connection)
    await found_closed(scheduler, connection)
    assert await listed(connection) == {A: trial}
    await connection.execute("UPDATE relaytest.listing SET recheck_at = now()")
    await scheduler.recheck()
    assert await open_jobs(connection) == []
    await connection.execute("UPDATE relaytest.listing SET expires_at = now()")
    await scheduler.expire()
    assert (await changes(connection))[1:] == [(A, "expired", "listed", "unlisted")]


async def test_an_excluded_target_is_not_listed_by_a_sample(under, connection):
    scheduler = under(require_spam_evidence=True)
    await found_open(scheduler, connection)
    await exclude(connection)
    assert await nominate(scheduler, connection) == []
    assert await state(connection) == "suspected"


async def test_an_excluded_target_keeps_no_other_from_its_retest(under, connection):
    scheduler = under()
    await found_open(scheduler, connection, A)
    await found_open(scheduler, connection, B)
    await exclude(connection, f"{A}/32")
    await connection.execute("UPDATE relaytest.listing SET recheck_at = now()")
    await scheduler.recheck()
    assert await open_jobs(connection) == [(B, "recheck")]


async def test_the_administrator_takes_off_an_excluded_target(under, connection):
    scheduler = under()
    await found_open(scheduler, connection)
    await exclude(connection)
    await take_off(scheduler, connection)
    assert (await changes(connection))[-1] == (A, "delisted-by-hand", "listed", "unlisted")


async def test_a_listing_moves_again_when_the_exclusion_ended(under, connection):
    scheduler = under()
    await found_open(scheduler, connection)
    await exclude(connection)
    await include(connection)
    await found_closed(scheduler, connection)
    assert await listed(connection) == {}


# --- by hand


@pytest.mark.parametrize("event", [Event.DELISTED, Event.PURGED])
async def test_the_next_trial_that_relays_lists_again(under, connection, event):
    scheduler = under()
    await found_open(scheduler, connection, ago=HOUR)
    await take_off(scheduler, connection, event)
    assert await listed(connection) == {}
    row = await connection.fetchrow("SELECT * FROM relaytest.listing_change ORDER BY id DESC")
    assert (row["event"], row["why"], row["actor"]) == (event.value, "mistake", "root")
    trial = await found_open(scheduler, connection)
    assert await listed(connection) == {A: trial}


async def test_a_late_message_of_the_trial_that_was_wrong_only_reopens_the_case(under, connection):
    scheduler = under()
    trial = await found_open(scheduler, connection, ago=HOUR)
    await take_off(scheduler, connection)
    await arrives(connection, trial, form=513)
    await connection.execute("UPDATE relaytest.trial SET forms = '{257, 513}'")
    await scheduler.settle()
    assert await listed(connection) == {}
    assert await open_jobs(connection) == [(A, "recheck")]


async def test_who_was_taken_off_needs_all_confirmations_anew(under, connection):
    scheduler = under(confirmations=2)
    await found_open(scheduler, connection, ago=3 * DAY)
    await found_open(scheduler, connection, ago=2 * DAY)
    assert await state(connection) == "listed"
    await take_off(scheduler, connection)
    await found_open(scheduler, connection)
    assert await state(connection) == "suspected"


# --- the end of a listing


async def test_both_due_after_a_long_pause_the_target_is_tested_anew(under, connection):
    scheduler = under()
    await found_open(scheduler, connection)
    await connection.execute(
        "UPDATE relaytest.listing SET recheck_at = now() - interval '1 d', expires_at = now()"
    )
    await scheduler.expire()
    assert await state(connection) == "unlisted"
    assert await open_jobs(connection) == [(A, "recheck")]


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"recheck_every": "24h", "confirm_after": "24h", "expire_after": "25h"},
        {"recheck_every": "29d"},
        {"recheck_every": "8d", "expire_after": "10d"},
        {"recheck_every": "24h", "expire_after": "48h"},
    ],
    ids=lambda policy: " ".join(policy.values()) or "default",
)
async def test_whatever_the_policy_a_listing_is_tested_before_its_end(under, connection, policy):
    """Time is moved on by hours; no two tests are less than a day apart."""
    scheduler = under(**policy)
    await found_open(scheduler, connection)
    asked = []
    for hour in range(31 * 24):
        await scheduler.recheck()
        if await connection.fetchval("DELETE FROM relaytest.job RETURNING id"):
            asked.append(hour)
        await scheduler.expire()
        if await state(connection) == "unlisted":
            break
        await connection.execute(
            "UPDATE relaytest.listing SET recheck_at = recheck_at - interval '1 h',"
            " expires_at = expires_at - interval '1 h'"
        )
    assert await state(connection) == "unlisted"
    assert asked
    assert hour - asked[-1] <= 48
    assert all(later - earlier >= 24 for earlier, later in pairwise(asked))


# --- every change has exactly one audit row

_WITNESS = """
    CREATE TABLE seen (id serial, address inet, port integer, old text, new text);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO seen (address, port, old, new) VALUES (NEW.address, NEW.port,
            CASE TG_OP WHEN 'INSERT' THEN 'unlisted' ELSE OLD.state END, NEW.state);
        RETURN NULL;
    END $$;
    CREATE TRIGGER see AFTER INSERT OR UPDATE ON relaytest.listing
        FOR EACH ROW EXECUTE FUNCTION see()
"""
_SEEN = "SELECT host(address), old, new FROM seen WHERE old <> new ORDER BY id"
_AUDITED = "SELECT host(address), old, new FROM relaytest.listing_change {} ORDER BY id"


EVENTS = [*["relays"] * 6, "refuses", "expires", "off", "nominate", "exclude", *["include"] * 3]


async def something(chance, under, connection) -> None:
    """One of the things that can happen, to one of two targets, under one of the policies."""
    scheduler = under(
        confirmations=chance.choice([1, 2]), require_spam_evidence=chance.random() < 0.3
    )
    address = chance.choice([A, B])
    match chance.choice(EVENTS):
        case "relays":
            ago = chance.choice([0, 0, 30, 60]) * HOUR
            await found_open(scheduler, connection, address, ago=ago)
        case "refuses":
            await found_closed(scheduler, connection, address)
        case "expires":
            await connection.execute(
                "UPDATE relaytest.listing SET expires_at = now()"
                " WHERE state <> 'unlisted' AND address = $1::text::inet",
                address,
            )
            await scheduler.expire()
        case "off":
            event = chance.choice([Event.DELISTED, Event.PURGED])
            await take_off(scheduler, connection, event, address)
        case "nominate":
            await nominate(scheduler, connection, address)
        case "exclude":
            await exclude(connection, f"{address}/32")
        case _:
            await include(connection, f"{address}/32")


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_every_change_has_exactly_one_row(under, connection, seed):
    await connection.execute(_WITNESS)
    chance = random.Random(seed)
    for _ in range(60):
        await something(chance, under, connection)
    happened = await connection.fetch(_SEEN)
    assert len(happened) > 5
    assert await connection.fetch(_AUDITED.format("WHERE old <> new")) == happened
    assert await connection.fetch(_AUDITED.format("WHERE event = 'changed-by-sql'")) == []
    history = await connection.fetch("SELECT event, old, new FROM relaytest.listing_change")
    for event, old, new in history:
        assert TRANSITIONS[State(old), Event(event)] is State(new)


async def test_a_move_whose_transaction_fails_leaves_neither_state_nor_row(under, connection):
    scheduler = under()
    await found_open(scheduler, connection)
    transaction = connection.transaction()
    await transaction.start()
    (one,) = await listings.standing_of(connection, ip_address(A))
    assert await Ledger(scheduler._config.listing).take_off(
        connection, one, Event.DELISTED, "mistake", "root"
    )
    await transaction.rollback()
    assert await state(connection) == "listed"
    assert len(await changes(connection)) == 1


# --- with real sessions and messages that come back

TWICE = {"confirmations": 2}
OFTEN = {"check_every": "100ms"}


async def ask(lab, server, port) -> None:
    await lab.insert(server.host, port)
    await lab.idle()


async def a_day_later(connection) -> None:
    """What was begun was begun a day ago, and what is due in a day is due."""
    await connection.execute(
        "UPDATE relaytest.trial SET started_at = started_at - interval '1 d';"
        "UPDATE relaytest.listing SET recheck_at = recheck_at - interval '1 d'"
    )


async def test_a_honeypot_that_relays_one_message_is_never_listed(begin, connection):
    server = Target(anybody)
    async with server.serve() as port:
        async with begin(listing=TWICE) as lab:
            server.post = relays(lab.sink)
            await ask(lab, server, port)
            assert await state(connection, server.host) == "suspected"
        await a_day_later(connection)
        server.post = discards
        async with begin(listing=TWICE, timing={"patience": "1s"}, sink=OFTEN) as lab:
            await until(lambda: stands(connection, server.host, "unlisted"), "the second test")
    assert [change[1:] for change in await changes(connection)] == [
        ("found-suspect", "unlisted", "suspected"),
        ("found-closed", "suspected", "unlisted"),
    ]


async def test_a_relay_is_confirmed_a_day_later_without_anybody_asking(begin, connection):
    server = Target(anybody)
    async with server.serve() as port:
        async with begin(listing=TWICE) as lab:
            server.post = relays(lab.sink)
            await ask(lab, server, port)
            assert await lab.listed() == set()
        await a_day_later(connection)
        async with begin(listing=TWICE) as lab:
            server.post = relays(lab.sink)
            await until(lambda: stands(connection, server.host, "listed"), "the second test")
            assert await lab.listed() == {server.host}


async def stands(connection, host, standing) -> bool | None:
    return await state(connection, host) == standing or None


# --- exits of multi-hop relays

EXIT, OTHER = "192.0.2.200", "192.0.2.3"
OUTPUTS = {"outputs": True}


async def found_open_through(scheduler, connection, address=A, through=EXIT) -> int:
    trial = await probed(connection, address, accepted=True)
    await arrives(connection, trial, peer=through)
    await scheduler.settle()
    return trial


async def published(connection) -> set[tuple[str, int, int]]:
    rows = await connection.fetch("SELECT host(address), port, code FROM relaytest.listing_current")
    return {tuple(row) for row in rows}


async def test_an_exit_is_not_listed_unless_the_policy_says_so(under, connection):
    await found_open_through(under(), connection)
    assert await published(connection) == {(A, 25, 2)}
    verdict = await connection.fetchrow("SELECT host(exit_address) FROM relaytest.verdict_latest")
    assert verdict[0] == EXIT


async def test_an_exit_comes_and_goes_with_its_relay_under_a_code_of_its_own(under, connection):
    scheduler = under(**OUTPUTS)
    await found_open_through(scheduler, connection)
    assert await published(connection) == {(A, 25, 2), (EXIT, 0, 3)}
    assert await last_why(connection) == "1 listed open relay sends through it"
    await found_closed(scheduler, connection)
    assert await published(connection) == set()
    assert await last_why(connection) == "no listed relay sends through it any more"
    assert [change[1:] for change in await changes(connection) if change[0] == EXIT] == [
        ("found-exit", "unlisted", "listed"),
        ("exit-cleared", "listed", "unlisted"),
    ]


async def test_an_exit_that_many_share_is_never_listed(under, connection):
    scheduler = under(**OUTPUTS)
    await found_open_through(scheduler, connection)
    await found_open_through(scheduler, connection, B)
    assert await published(connection) == {(A, 25, 2), (B, 25, 2)}
    await found_closed(scheduler, connection, B)
    assert await published(connection) == {(A, 25, 2), (EXIT, 0, 3)}


async def test_a_relay_that_changes_its_exit_takes_the_old_one_off(under, connection):
    scheduler = under(**OUTPUTS)
    await found_open_through(scheduler, connection)
    await found_open_through(scheduler, connection, A, OTHER)
    assert await published(connection) == {(A, 25, 2), (OTHER, 0, 3)}
    await found_open_through(scheduler, connection, A, A)
    assert await published(connection) == {(A, 25, 2)}


async def test_an_exit_that_relays_itself_is_both(under, connection):
    scheduler = under(**OUTPUTS)
    await found_open_through(scheduler, connection)
    await found_open(scheduler, connection, EXIT)
    assert await published(connection) == {(A, 25, 2), (EXIT, 25, 2), (EXIT, 0, 3)}


async def test_an_exit_is_not_tested_and_expires(under, connection):
    scheduler = under(**OUTPUTS)
    await found_open_through(scheduler, connection)
    await connection.execute("UPDATE relaytest.listing SET recheck_at = now() WHERE port > 0")
    await scheduler.recheck()
    assert await open_jobs(connection) == [(A, "recheck")]
    await connection.execute("UPDATE relaytest.listing SET expires_at = now() WHERE port = 0")
    await scheduler.expire()
    assert await published(connection) == {(A, 25, 2)}


async def test_an_excluded_exit_is_not_listed(under, connection):
    scheduler = under(**OUTPUTS)
    await exclude(connection, f"{EXIT}/32")
    await found_open_through(scheduler, connection)
    assert await published(connection) == {(A, 25, 2)}
