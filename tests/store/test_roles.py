"""Roles: each daemon can do its work under its own role, and can change nothing else."""

import re
from collections.abc import Iterable
from datetime import timedelta
from ipaddress import ip_address

import asyncpg
import pytest

from relaytest.store import jobs, keys, progress
from relaytest.store.jobs import Ending
from tests.store.test_statements import STATEMENTS

ROLES = ("submit", "read", "worker", "sink", "scheduler", "publisher", "web", "notifier")

JUDGING = "evidence: OUTCOMES SESSIONS RECEIPTS SINK_PROVEN TRIAL SAVE_VERDICT"
ANYBODY = "evidence: RING WANT_CHECK / jobs: RING / pauses: RING / keys: RING / listings: RING"
# What each daemon calls, by module of relaytest.store.
NEEDS = {
    "submit": "jobs: ENQUEUE / nominations: SUBMIT OUTCOME",
    "read": "jobs: QUEUE / listings: CODE / exports: PUBLISHED4 PUBLISHED6 / exclusions: CURRENT",
    "worker": f"{JUDGING} SESSION_IDS SAVE_SESSION SAVE_OUTCOMES SAVE_VISIT / exclusions: BARRED"
    " / jobs: CLAIM NEXT_DUE FINISH REOPEN RELEASE JOIN_WORKERS BEAT LEAVE_WORKERS"
    " / pauses: PAUSED HOLD",
    "sink": "nominations: SUBMIT OUTCOME / keys: KEYS"
    " / evidence: ADD_RECEIPT WAKE_TRIAL BEGIN_CHECK END_CHECK FORGET_CHECKS",
    "scheduler": f"{JUDGING} DUE_TRIAL NEXT_SETTLE NEWER SETTLED / exclusions: EXCLUSION"
    " / jobs: ENQUEUE BEATS RESCUE BURY_WORKERS SEE_VANTAGES FORSAKEN / keys: RETIRE"
    " / listings: STATE ENTER EXIT_OF INPUTS SUSPECT LEAVE NOTE_CHANGE EXPIRED RECHECK RELAYED"
    " OVERRULED STANDING / name_requests: TAKE DONE FORGET"
    " / nominations: ON_FILE ADD TAKE DONE FORGET OUTCOME"
    " / scope: LOCK CLEAR FILL NO_LABS LABS LIMITS PACE REFUSAL / vantages: BOUND_TO OTHER"
    " / retention: MAKE EVIDENCE TRIALS / allowances: FORGET / daemons: BURY"
    " / gauges: JOBS LISTED WORKERS DAEMONS PAUSES MAIL REST",
    "publisher": "exports: PUBLISHED4 PUBLISHED6 / listings: CODE / dns_zones: WRITE DROP"
    " / publications: ORDERS DONE NOTE STANDBY RESERVED WIDE",
    "notifier": "mail: QUEUE_OUTCOMES QUEUE_NOTICES TAKE ADDRESS VERDICT RETURNED SENT FAILED"
    " POSTPONE CONTACT REMEMBER FORGET FORGET_SUBSCRIPTIONS FORGET_CONTACTS / allowances: USE",
    "web": "jobs: ENQUEUE QUEUE / pages: VERDICTS LISTINGS SUSPICIONS NOMINATIONS JOBS HISTORY"
    " TRIAL TRIAL_VERDICT SESSIONS SAID RECEIPTS COUNTS WORKERS LISTED LISTED_PORTS"
    " / vantages: VIEWS / exclusions: COVERING"
    " / allowances: USE USED / puzzles: KEY / nominations: SUBMIT OUTCOME OF_ADDRESS SAMPLE"
    " / mail: SUBSCRIBE ASK FIND CONFIRM STOP / days: VERDICTS LISTED"
    " / api: LOOKUP BULK LISTED VERDICTS ALLOWED HOLDERS"
    " / progress: JOB AHEAD TRIALS ANSWERS RETURNED STANDS REQUEST_AT",
}

NEEDS |= {role: f"{NEEDS[role]} / daemons: JOIN BEAT LEAVE" for role in ROLES[2:]}

# Rights go by table and column: who may change a row in one way may change it in the other.
SAME_RIGHTS = {
    "notifier": "daemons: BURY / mail: ASK",
    "publisher": "daemons: BURY",
    "web": "daemons: BURY",
    "worker": "daemons: BURY / evidence: DUE_TRIAL SETTLED WAKE_TRIAL / pauses: LET_GO"
    " / jobs: BURY_WORKERS RESCUE REQUEUE",
    "sink": "daemons: BURY / evidence: SETTLED",
    "scheduler": "evidence: SAVE_VISIT WAKE_TRIAL / jobs: LEAVE_WORKERS RELEASE REOPEN REQUEUE"
    " / pauses: HOLD LET_GO"
    " / listings: DECIDED_SINCE",
}


def names(text: str) -> set[str]:
    """From "module: NAME NAME / module: NAME" to the full names."""
    parts = (part.split(":") for part in text.split(" / ") if part)
    return {f"{module.strip()}.{name}" for module, listed in parts for name in listed.split()}


def changes(statement: str) -> bool:
    return bool(re.search(r"\b(INSERT INTO|UPDATE|DELETE FROM|LOCK)\b", statement))


CHANGES = {
    name
    for name, text in STATEMENTS.items()
    if changes(text) and not name.startswith("migrations") and name != "jobs.CLAIM"
}


async def explain(connection: asyncpg.Connection, role: str, statement: str) -> None:
    """Let the server check, as `role`, all rights that a statement needs, without running it."""
    await connection.execute(f"SET LOCAL ROLE relaytest_{role}")
    if statement.startswith("LOCK"):
        await connection.execute(statement)
        return
    count = max([0, *map(int, re.findall(r"\$(\d+)", statement))])
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    await connection.execute(f"PREPARE asked AS {statement}")
    await connection.execute(f"EXPLAIN EXECUTE asked{values}")


@pytest.fixture
async def undone(connection):
    """A connection whose changes are undone."""
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.execute("DEALLOCATE ALL")


async def refused(connection: asyncpg.Connection, role: str, wanted: Iterable[str]) -> set[str]:
    """Names of the statements that a role may not run."""
    found = set()
    for name in wanted:
        attempt = connection.transaction()
        await attempt.start()
        try:
            await explain(connection, role, STATEMENTS[name])
        except asyncpg.InsufficientPrivilegeError:
            found.add(name)
        finally:
            await attempt.rollback()
            await connection.execute("DEALLOCATE ALL")
    return found


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_can_do_its_work(undone, role):
    assert await refused(undone, role, names(NEEDS[role]) | names(ANYBODY)) == set()


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_can_change_anything_else(undone, role):
    others = CHANGES - names(NEEDS[role]) - names(SAME_RIGHTS.get(role, ""))
    assert others - await refused(undone, role, others) == set()


@pytest.mark.parametrize("role", ["submit", "read", "sink", "scheduler", "publisher", "web"])
async def test_only_a_worker_claims(undone, role):
    worker = await jobs.join_workers(
        undone, host="h", pid=1, vantage="default", version="1", slots=1
    )
    await undone.execute(
        "INSERT INTO relaytest.retest (target, reason) VALUES ('11.0.0.1', 'operator')"
    )
    await undone.execute(f"SET LOCAL ROLE relaytest_{role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await undone.execute("SELECT relaytest.claim($1, 1, '1 min')", worker)


@pytest.mark.parametrize(
    ("role", "table"),
    [
        (role, table)
        for role in ("submit", "read")
        for table in ("job", "session", "receipt", "nomination", "token_key", "outcome")
    ],
)
async def test_other_tools_see_no_evidence_and_no_key(undone, role, table):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await explain(undone, role, f"SELECT * FROM relaytest.{table}")


@pytest.mark.parametrize("role", ["web", "publisher", "scheduler"])
async def test_only_who_signs_and_who_verifies_sees_the_keys(undone, role):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await explain(undone, role, keys.KEYS)


async def test_a_worker_claims_and_finishes_under_its_role(undone):
    await undone.execute(
        "INSERT INTO relaytest.retest (target, reason) VALUES ('11.0.0.1', 'operator')"
    )
    await undone.execute("SET LOCAL ROLE relaytest_worker")
    worker = await jobs.join_workers(
        undone, host="h", pid=1, vantage="default", version="1", slots=1
    )
    (job,) = await jobs.claim(undone, worker, 10, timedelta(minutes=1))
    assert await jobs.finish(undone, job, retry_in=None) is Ending.ENDED


async def test_the_pages_tell_when_a_removal_may_be_requested_again(undone):
    await undone.execute("SET LOCAL ROLE relaytest_web")
    assert await undone.fetchval(progress.REQUEST_AT, ip_address("11.0.0.1"), 25) is None


async def test_a_tool_asks_under_its_role_and_is_named(undone):
    await undone.execute("CREATE ROLE relaytest_trap_7 IN ROLE relaytest_submit")
    await undone.execute("SET LOCAL SESSION AUTHORIZATION relaytest_trap_7")
    job = await undone.fetchval("SELECT relaytest.request_retest('11.0.0.1', 'spamtrap')")
    assert await undone.fetchval("SELECT relaytest.next_request_at('11.0.0.1')") is None
    row = await undone.fetchrow("SELECT requester FROM relaytest.retest WHERE id = $1", job)
    assert row["requester"] == "relaytest_trap_7"
    await undone.execute("RESET SESSION AUTHORIZATION")


async def test_a_tool_does_not_pass_for_the_scheduler(undone):
    """Whose rechecks do not wait for a day."""
    ask = "INSERT INTO relaytest.retest (target, reason, requester) VALUES ($1, 'recheck', $2)"
    await undone.execute("CREATE ROLE relaytest_trap_8 IN ROLE relaytest_submit")
    await undone.execute("SET LOCAL SESSION AUTHORIZATION relaytest_trap_8")
    await undone.execute(ask, "11.0.0.1", "somebody")
    attempt = undone.transaction()
    await attempt.start()
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="the scheduler's own name"):
        await undone.execute(ask, "11.0.0.2", "scheduler")
    await attempt.rollback()
    await undone.execute("RESET SESSION AUTHORIZATION")


async def test_the_scheduler_asks_under_its_role(undone):
    await undone.execute("CREATE ROLE relaytest_clock IN ROLE relaytest_scheduler")
    await undone.execute("SET LOCAL SESSION AUTHORIZATION relaytest_clock")
    await undone.execute(
        "INSERT INTO relaytest.retest (target, reason, requester)"
        " VALUES ('11.0.0.1', 'recheck', 'scheduler')"
    )
    await undone.execute("RESET SESSION AUTHORIZATION")
