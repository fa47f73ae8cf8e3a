"""The scheduler: judges trials, moves listings, and does what time demands.

Any number may run: every duty takes its rows with SKIP LOCKED inside one transaction.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import structlog

from relaytest.core.config import Config
from relaytest.core.errors import DatabaseAwayError, RefusedRequestError
from relaytest.core.judge import judge
from relaytest.core.listing import Event, State, unlistable
from relaytest.core.verdict import ELSEWHERE, Finding, Patience, Verdict
from relaytest.daemons import metrics, shipped
from relaytest.daemons.ledger import Cause, Ledger, Move
from relaytest.daemons.loop import Stop, forever
from relaytest.daemons.measuring import measure
from relaytest.daemons.names import NameDesk
from relaytest.daemons.nominating import SampleDesk
from relaytest.daemons.presence import present
from relaytest.daemons.pulse import Watch
from relaytest.net.dns import Resolver
from relaytest.store import (
    allowances,
    daemons,
    jobs,
    keys,
    listings,
    nominations,
    scope,
    vantages,
)
from relaytest.store import evidence as evidence_store
from relaytest.store import retention as keeping
from relaytest.store.database import Bell, Connection, Database
from relaytest.store.evidence import Trial

_LONGEST_SLEEP = timedelta(seconds=10)  # between looks for something to judge
_SHORTEST_SLEEP = timedelta(milliseconds=50)  # trials that another scheduler has locked
_AFTER_A_FAULT = timedelta(minutes=10)
_AFTER_THE_LAST = timedelta(days=1)  # tokens of an old key are taken beyond all patience
_STEP = 500  # trials that are forgotten in one transaction
_SILENCE = timedelta(seconds=20)  # after which a worker is taken for dead

log = structlog.get_logger("scheduler")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Do all duties until `stop`."""
    scheduler = Scheduler(config, database)
    async with (
        Resolver(config.dns.nameservers, config.dns.timeout) as resolver,
        present("scheduler", database, stop),
        asyncio.TaskGroup() as group,
    ):
        names, samples = NameDesk(database, resolver), SampleDesk(config, database)
        ears = [
            group.create_task(database.listen([f"relaytest_{what}"], bell))
            for what, bell in (
                ("evidence", scheduler.bell),
                ("name", names.bell),
                ("sample", samples.bell),
            )
        ]
        async with asyncio.TaskGroup() as duties:
            duties.create_task(forever("scheduler", scheduler.settle, scheduler.bell, stop))
            duties.create_task(forever("scheduler", names.look_up, names.bell, stop))
            duties.create_task(forever("scheduler", samples.read, samples.bell, stop))
            for duty, every in scheduler.duties():
                duties.create_task(forever("scheduler", _repeated(duty, every), Bell(), stop))
        for listening in ears:
            listening.cancel()


def _repeated(
    duty: Callable[[], Awaitable[None]], every: timedelta
) -> Callable[[], Awaitable[timedelta]]:
    async def once() -> timedelta:
        await duty()
        return every

    return once


def _tell(move: Move | None) -> None:
    if move is not None:
        metrics.MOVES.labels(move.old.value, move.new.value).inc()
        log.info(
            "listing",
            address=str(move.address),
            port=move.port,
            old=move.old.value,
            new=move.new.value,
        )


class Scheduler:
    """The duties, each one short transaction."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._battery = shipped.battery_of(config).by_number()
        self._patience = Patience(config.timing.patience, config.timing.grace)
        self._ledger = Ledger(config.listing)
        self._watch = Watch(_SILENCE)
        self.bell = Bell()

    def duties(self) -> tuple[tuple[Callable[[], Awaitable[None]], timedelta], ...]:
        """Return what is done how often, besides judging."""
        return (
            (self.rescue, timedelta(seconds=5)),
            (self.recheck, timedelta(minutes=1)),
            (self.expire, timedelta(minutes=1)),
            (self.tell_scope, timedelta(minutes=10)),
            (self.retire_keys, timedelta(hours=1)),
            (self.make_partitions, timedelta(hours=1)),
            (self.forget, timedelta(hours=1)),
            (self.measure, timedelta(seconds=20)),
        )

    async def settle(self) -> timedelta:
        """Judge all trials that are due; return how long none will be."""
        while await self._settle_one():
            pass
        async with self._database.transaction() as connection:
            due = await evidence_store.next_settle(connection)
        return max(_SHORTEST_SLEEP, min(_LONGEST_SLEEP if due is None else due, _LONGEST_SLEEP))

    async def _settle_one(self) -> bool:
        """Judge one trial that is due; return whether there was one."""
        trial = None
        try:
            async with self._database.transaction() as connection:
                trial = await evidence_store.due_trial(connection)
                if trial is not None:
                    await self._judge(connection, trial)
        except DatabaseAwayError:
            raise
        except Exception:
            if trial is None:
                raise
            # One trial that cannot be judged must not keep the others waiting.
            log.exception("trial not judged; put off", trial=trial.id)
            async with self._database.transaction() as connection:
                await evidence_store.settled(connection, trial.id, trial.read_at + _AFTER_A_FAULT)
        return trial is not None

    async def _judge(self, connection: Connection, trial: Trial) -> None:
        evidence = await evidence_store.evidence_of(
            connection,
            trial,
            self._battery,
            self._config.sink.check_every,
            self._config.listing.near,
        )
        verdict = judge(evidence, self._patience, trial.read_at)
        await evidence_store.settled(connection, trial.id, verdict.judge_at if verdict else None)
        if verdict is not None and verdict.judge_at is not None:
            await evidence_store.want_sink_check(connection)
        if verdict is None or not await evidence_store.save_verdict(connection, trial, verdict):
            return
        metrics.VERDICTS.labels(verdict.finding.value, verdict.reason.value).inc()
        log.info(
            "verdict",
            address=str(trial.address),
            port=trial.port,
            trial=trial.id,
            verdict=verdict.finding.value,
            reason=verdict.reason.value,
        )
        await self._apply(connection, trial, verdict)

    async def _apply(self, connection: Connection, trial: Trial, verdict: Verdict) -> None:
        """Let a verdict change the listing, as core.listing has it."""
        if verdict.finding is Finding.UNKNOWN:
            await self._ask_elsewhere(connection, trial, verdict)
            return
        if verdict.finding is Finding.OPEN and (why := unlistable(trial.address)):
            log.warning("open, but not listed", address=str(trial.address), why=why)
            return
        if verdict.finding is Finding.CLOSED and not await self._stands(connection, trial):
            return  # most are: closed, and on no list
        newer = await evidence_store.newer_finding(connection, trial)
        if newer is not None:  # what an old trial shows by now is no longer how things are
            await self._apply_late(connection, trial, verdict, newer)
            return
        if verdict.finding is Finding.OPEN and await listings.overruled(connection, trial):
            await self._ask_again(connection, trial)
            return
        if verdict.finding is Finding.CLOSED and (
            place := await vantages.bound_to(connection, trial)
        ):
            # Who is closed here may still be open there: who blocks one tester is not mended.
            note = f"trial {trial.id} found it closed from {trial.vantage}"
            await self._ask(connection, trial, note, vantage=place)
            return
        cause = await self._ledger.cause_of(connection, trial, verdict)
        if cause is not None:
            _tell(await self._ledger.move(connection, trial.address, trial.port, cause))

    async def _stands(self, connection: Connection, trial: Trial) -> bool:
        """Whether the target is listed or suspected."""
        state, _ = await listings.state_of(connection, trial.address, trial.port)
        return state is not State.UNLISTED

    async def _apply_late(
        self, connection: Connection, trial: Trial, verdict: Verdict, newer: Finding
    ) -> None:
        """Let an old trial do what it still can: reopen a case, or confirm a suspicion."""
        if verdict.finding is not Finding.OPEN:
            return
        if newer is Finding.CLOSED:
            await self._ask_again(connection, trial)
            return
        why = verdict.explanation
        late = await self._ledger.reconsider(connection, trial.address, Event.FOUND_OPEN, why)
        for move in late:
            _tell(move)

    async def _ask_elsewhere(self, connection: Connection, trial: Trial, verdict: Verdict) -> None:
        """Ask from another place if this one is turned away, once a day and place."""
        if verdict.reason not in ELSEWHERE or not trial.ended:
            return
        place = await vantages.other(connection, trial)
        if place is not None:
            note = f"trial {trial.id} was {verdict.reason.value} from {trial.vantage}"
            await self._ask(connection, trial, note, vantage=place)

    async def _ask_again(self, connection: Connection, trial: Trial) -> None:
        """A message of an old trial came back after a newer one found the target closed.

        Or after the administrator took the target off. It may have lain in the queue since before
        the server was mended, so it lists nobody; but it reopens the case.
        """
        note = f"a message of trial {trial.id} came back late"
        await self._ask(connection, trial, note, reason="recheck")

    async def _ask(
        self,
        connection: Connection,
        trial: Trial,
        note: str,
        *,
        reason: str | None = None,
        vantage: str | None = None,
    ) -> None:
        """Ask for another trial of a target, if it may still be tested."""
        request = jobs.Request(
            target=str(trial.address),
            port=trial.port,
            reason=reason or trial.reason,
            requester="scheduler",
            note=note,
            vantage=vantage,
        )
        try:
            async with connection.transaction():  # a refusal must not spoil the outer one
                await jobs.enqueue(connection, request)
        except RefusedRequestError as error:
            log.warning("no new test", trial=trial.id, wanted=note, why=str(error))
        else:
            log.info("asked again", address=str(trial.address), why=note, vantage=vantage)

    async def rescue(self) -> None:
        """Free the jobs of workers that died."""
        async with self._database.transaction() as connection:
            beats = await jobs.beats(connection)
            dead = self._watch.silent(beats, asyncio.get_running_loop().time())
            freed = await jobs.rescue(connection, dead)
            await daemons.bury(connection)
        metrics.RESCUED.inc(freed)
        if freed:
            log.warning("freed the jobs of dead workers", jobs=freed)

    async def recheck(self) -> None:
        """Ask for the automatic retests of listed and suspected targets that are due."""
        async with self._database.transaction() as connection:
            asked = await self._recheck(connection)
        if asked:
            log.info("automatic retests", jobs=asked)

    async def _recheck(self, connection: Connection) -> int:
        policy = self._config.listing
        return await listings.recheck(connection, policy.recheck_every, policy.confirm_after)

    async def expire(self) -> None:
        """Take listings off that were not renewed (RFC 6471 section 2.2.1)."""
        cause = Cause(Event.EXPIRED, "no test renewed it in time")
        async with self._database.transaction() as connection:
            await self._recheck(connection)  # after a long pause both may be due
            for address, port in await listings.expired(connection):
                _tell(await self._ledger.move(connection, address, port, cause))

    async def tell_scope(self) -> None:
        """Let the database refuse at INSERT what the worker would refuse before it connects."""
        async with self._database.transaction() as connection:
            await scope.write_scope(connection, self._config.scope.rules())
            politeness = self._config.politeness
            await scope.write_limits(
                connection,
                politeness.per_network,
                politeness.network_gap,
                politeness.request_every,
            )

    async def forget(self) -> None:
        """Delete what is old enough, in small steps, so that nobody waits for long."""
        async with self._database.transaction() as connection:
            await allowances.forget(connection)
            await nominations.forget(connection, self._config.retention.evidence)
        retention = self._config.retention
        while await self._forgotten(keeping.forget_evidence, retention.evidence):
            pass
        trials = _STEP
        while trials == _STEP:
            forget = partial(keeping.forget_trials, most=_STEP)
            trials = await self._forgotten(forget, retention.verdicts)

    async def _forgotten(
        self, forget: Callable[[Connection, timedelta], Awaitable[int | None]], older: timedelta
    ) -> int:
        async with self._database.transaction() as connection:
            count = await forget(connection, older)
        if count is None:
            log.warning("old evidence is being read; it is deleted later", older=str(older))
        elif count:
            log.info("old evidence deleted", count=count, older=str(older))
        return count or 0

    async def make_partitions(self) -> None:
        """Begin a partition with each month."""
        async with self._database.transaction() as connection:
            if await keeping.make_partitions(connection):
                log.info("partition made ahead")

    async def measure(self) -> None:
        """Count what there is, for metrics."""
        await measure(self._config, self._database)

    async def retire_keys(self) -> None:
        """Forget keys that nothing can come back for any more."""
        timing = self._config.timing
        after = timing.patience + sum(timing.retries, timedelta()) + _AFTER_THE_LAST
        async with self._database.transaction() as connection:
            retired = await keys.retire(connection, after)
        if retired:
            log.info("old keys retired", keys=retired)
