"""The worker: claims jobs, visits targets, stores what was found.

A worker that is killed at any point leaves its jobs leased; the scheduler frees them when the
heartbeat is too old. A battery is then sent again at worst, with the same tokens. What a worker
writes about a job is fenced by the job's attempt: after a lost lease it writes nothing.
"""

import asyncio
import contextlib
import itertools
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial

import structlog

from relaytest import __version__
from relaytest.core.config import Config
from relaytest.core.errors import DatabaseAwayError
from relaytest.core.evidence import Evidence, forms_to_ask, in_order, promised, visits_in_vain
from relaytest.core.judge import judge
from relaytest.core.probe import CONTROL
from relaytest.core.target import Address, refusal
from relaytest.core.verdict import Patience, Verdict, out_of_scope, worth_another_visit
from relaytest.core.visit import asked_in
from relaytest.daemons import metrics, shipped
from relaytest.daemons.clock import utcnow
from relaytest.daemons.loop import Stop, forever, once_there
from relaytest.daemons.presence import present
from relaytest.daemons.prober import Prober, Target, Visit
from relaytest.daemons.pulse import CutOffError, Lifeline
from relaytest.net.dns import Resolver
from relaytest.net.smtp_client import NoSocketError
from relaytest.store import evidence as evidence_store
from relaytest.store import exclusions, jobs, pauses
from relaytest.store.database import Bell, Connection, Database
from relaytest.store.jobs import Ending, Job

_BATCH = 1000  # jobs in one claim; a worker whose loop is busy comes back late for more
_EVERY = 10  # claims, of which the first begins with the least urgent jobs
_LONGEST_SLEEP = timedelta(seconds=5)  # between looks at the queue, if no bell rings
_SHORTEST_SLEEP = timedelta(milliseconds=50)  # due jobs that another worker has locked
_BEAT = timedelta(seconds=5)
_SILENCE = timedelta(seconds=15)  # then visits are broken off; the scheduler waits longer
_LEASE_MARGIN = timedelta(seconds=60)  # beyond the longest visit, for storing its result
_MOST_VISITS = 20  # of one trial
_AFTER_A_FAULT = timedelta(seconds=30)  # before a job is tried again that failed through us

log = structlog.get_logger("worker")


class _LeaseLostError(Exception):
    """Another worker has the job; the transaction must be rolled back."""


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Work until `stop`; then give the jobs in hand back and leave."""
    if not config.sink.domains:
        log.warning(
            "idle: no message could come back, for sink.domains is not set",
            advice="set sink.domains to a domain whose mail comes here",
        )
        async with present("worker", database, stop):
            await stop.wait()
        return
    async with Resolver(config.dns.nameservers, config.dns.timeout) as resolver:
        await Worker(config, database, Prober(config, resolver)).run(stop)


class Worker:
    """One worker process."""

    def __init__(self, config: Config, database: Database, prober: Prober) -> None:
        timing = config.timing
        self._config = config
        self._database = database
        self._prober = prober
        self._scope = config.scope.rules()
        self._patience = Patience(timing.patience, timing.grace)
        self._lease = timing.visit + _LEASE_MARGIN
        self._battery = shipped.battery_of(config).by_number()
        self._forms = shipped.battery_of(config).up_to(config.tier)
        self._bell = Bell()
        self._turns = itertools.cycle(range(_EVERY))
        self._line = Lifeline(_SILENCE)
        self._id: int | None = None
        self._visits: dict[asyncio.Task[None], int] = {}  # to the job's number
        # Stores leave a connection to the heart and one to the claim: a beat that waits behind
        # hundreds of stores comes too late, and then every visit is broken off.
        self._stores = asyncio.Semaphore(max(1, config.database.pool - 2))
        self._unsure = False  # whether the last claim was committed

    async def run(self, stop: Stop) -> None:
        """Claim and visit until `stop`."""
        async with asyncio.TaskGroup() as helpers:
            ears = helpers.create_task(self._database.listen(["relaytest_job"], self._bell))
            heart = helpers.create_task(forever("worker", partial(self._beat, stop), Bell(), stop))
            async with asyncio.TaskGroup() as visits:
                self._start = visits.create_task
                await forever("worker", self._claim, self._bell, stop)
                await self._wind_up(stop.patience)
            ears.cancel()
            await heart
        self._line.end()
        await self._leave()

    async def _wind_up(self, patience: float) -> None:
        """Let visits end that are about to; break the others off."""
        if self._visits:
            await asyncio.wait(self._visits, timeout=patience)
        for visit in self._visits:
            visit.cancel()

    async def _leave(self) -> None:
        """Give back what is still leased, for another worker to take at once."""
        if self._id is None:
            return
        with contextlib.suppress(DatabaseAwayError):  # else the scheduler frees the jobs
            async with self._database.transaction() as connection:
                await jobs.release(connection, self._id)
                await jobs.leave_workers(connection, self._id)

    async def _beat(self, stop: Stop) -> timedelta:
        """Say that we live; join, or join anew if we were thought dead."""
        began, revived = asyncio.get_running_loop().time(), self._line.cut
        async with self._database.transaction() as connection:
            if self._id is None or not await jobs.beat(connection, self._id):
                revived = True
                self._id = await jobs.join_workers(
                    connection,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    vantage=self._config.identity.vantage,
                    version=__version__,
                    slots=self._config.politeness.slots,
                )
        self._line.beat(began)
        stop.begin("worker")
        if revived:
            self._bell.ring()
        return _BEAT

    async def _claim(self) -> timedelta:
        """Take as many jobs as there are free slots; return how long nothing will be due."""
        most = min(self._config.politeness.slots - len(self._visits), _BATCH)
        if self._id is None or self._line.cut or most <= 0:
            return _LONGEST_SLEEP  # the bell rings when that changes
        unsure, self._unsure = self._unsure, True
        with metrics.CLAIM_SECONDS.time():
            claimed, barred, due = await self._claim_some(self._id, most, unsure=unsure)
        metrics.JOBS_CLAIMED.inc(len(claimed))
        self._unsure = False
        for job in claimed:
            metrics.CLAIM_WAIT.observe(job.waited.total_seconds())
            visit = self._start(self._serve(job, barred.get(job.address)))
            self._visits[visit] = job.id
            metrics.VISITING.inc()
            visit.add_done_callback(self._end)
        if len(claimed) == most:
            return timedelta(0)
        return max(_SHORTEST_SLEEP, min(due or _LONGEST_SLEEP, _LONGEST_SLEEP))

    async def _claim_some(
        self, worker: int, most: int, *, unsure: bool
    ) -> tuple[list[Job], dict[Address, str], timedelta | None]:
        """Return what was claimed, what of it may not be visited, and when more will be due."""
        async with self._database.transaction() as connection:
            if unsure:  # or its jobs would wait for the end of a lease that we know nothing of
                await jobs.release(connection, worker, tuple(self._visits.values()))
            everything, networks = await pauses.paused(connection, self._config.identity.vantage)
            if everything:
                return [], {}, None
            claimed = await jobs.claim(
                connection, worker, most, self._lease, from_below=next(self._turns) == 0
            )
            if networks:
                held = await pauses.hold(connection, [job.id for job in claimed])
                claimed = [job for job in claimed if job.id not in held]
            barred = await exclusions.barred(connection, [job.address for job in claimed])
            due = None if len(claimed) == most else await jobs.next_due(connection, worker)
        return claimed, barred, due

    def _end(self, visit: asyncio.Task[None]) -> None:
        metrics.VISITING.dec()
        if len(self._visits) == self._config.politeness.slots:
            self._bell.ring()
        del self._visits[visit]

    async def _serve(self, job: Job, barred: str | None) -> None:
        """Do one job; whatever goes wrong, it does not take others with it."""
        try:
            retry_in = await self._attend_or_fail(job, barred)
            if retry_in is not None:
                await self._store(job, None, retry_in=retry_in)
        except _LeaseLostError:
            metrics.VISITS.labels("lease-lost").inc()
            log.warning("lease lost; nothing written", job=job.id, address=str(job.address))

    async def _attend_or_fail(self, job: Job, barred: str | None) -> timedelta | None:
        """Return when to try a job again that failed through our own fault."""
        try:
            await self._attend(job, barred)
        except _LeaseLostError:
            raise
        except NoSocketError as error:
            log.warning("no socket to probe with", job=job.id, error=str(error))
            return self._failed(_AFTER_A_FAULT)
        except CutOffError:
            log.warning("cut off from the database: visit broken off", address=str(job.address))
            return self._failed(_AFTER_A_FAULT)
        except Exception:
            log.exception("visit failed", job=job.id, address=str(job.address))
            return self._failed(_AFTER_A_FAULT * 20)
        return None

    @staticmethod
    def _failed(again_in: timedelta) -> timedelta:
        metrics.VISITS.labels("failed").inc()
        return again_in

    async def _attend(self, job: Job, barred: str | None) -> None:
        why = refusal(job.address, self._scope) or barred  # once more: both may have changed
        if why is not None:
            log.warning("out of scope", address=str(job.address), why=why)
            await self._store_verdict(job, out_of_scope(why))
            return
        earlier = await self._earlier(job)
        target = Target(job.address, job.port, job.trial, job.key)
        forms = forms_to_ask(earlier) if job.visits else self._forms
        async with self._line.hold():
            visit = Visit(target, ())
            if forms:
                visit = await self._prober.visit(target, forms, promised=promised(earlier))
        if earlier.asked:  # what is asked is fixed once the target's names are known
            visit.forms = earlier.forms
        await self._store(job, visit, retry_in=self._retry_in(job, earlier, visit))
        _count(visit)
        log.info(
            "visited",
            address=str(job.address),
            port=job.port,
            trial=job.trial,
            visit=job.visits + 1,
            sessions=len(visit.records),
            answered=len(visit.answered() - {CONTROL}),
            forms=len(visit.forms),
        )

    async def _earlier(self, job: Job) -> Evidence:
        """What earlier visits of the trial found."""
        if job.visits == 0:
            return Evidence(job.address, self._battery, port=job.port)
        async with self._database.transaction() as connection:
            trial = await evidence_store.trial_of(connection, job.trial)
            if trial is None:
                return Evidence(job.address, self._battery, port=job.port)
            return in_order(
                await evidence_store.evidence_of(
                    connection,
                    trial,
                    self._battery,
                    self._config.sink.check_every,
                    self._config.listing.near,
                )
            )

    def _retry_in(self, job: Job, earlier: Evidence, visit: Visit) -> timedelta | None:
        """How long until the next visit; None if there is no use in one, or no further one."""
        retries = self._config.timing.retries
        number, now = job.visits + 1, utcnow()
        found = replace(
            earlier,
            forms=visit.forms,
            asked=earlier.asked + asked_in(visit.records, number),
            met=earlier.met + tuple(record.met(number) for record in visit.records),
            probed_at=now,
        )
        vain = visits_in_vain(found, number)
        if vain >= len(retries) or number >= _MOST_VISITS:
            return None
        verdict = judge(found, self._patience, now)
        return retries[vain] if worth_another_visit(verdict) else None

    async def _store(self, job: Job, visit: Visit | None, *, retry_in: timedelta | None) -> None:
        """End the job, or put it back, together with what the visit found (None: nothing)."""

        async def write(connection: Connection) -> None:
            ending = await jobs.finish(connection, job, retry_in=retry_in)
            if ending is Ending.LOST:
                raise _LeaseLostError
            if visit is not None:
                await evidence_store.save_visit(
                    connection,
                    job.trial,
                    job.visits + 1,
                    visit.records,
                    forms=[form.number for form in visit.forms],
                    ended=ending is Ending.ENDED,
                )

        await self._write(write)

    async def _store_verdict(self, job: Job, verdict: Verdict) -> None:
        """End a job without a visit."""

        async def write(connection: Connection) -> None:
            if await jobs.finish(connection, job, retry_in=None) is Ending.LOST:
                raise _LeaseLostError
            trial = await evidence_store.trial_of(connection, job.trial)
            if trial is not None:
                await evidence_store.save_verdict(connection, trial, verdict)

        await self._write(write)

    async def _write(self, write: Callable[[Connection], Awaitable[None]]) -> None:
        """Write, waiting for the database as long as the lease may hold."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._lease.total_seconds()), self._stores:
                await once_there("worker", self._database, write, Stop())


def _count(visit: Visit) -> None:
    metrics.VISITS.labels("done").inc()
    names = {form.number: form.id for form in visit.forms} | {CONTROL: "control"}
    codes: Counter[tuple[str, str]] = Counter()
    for record in visit.records:
        metrics.SESSIONS.labels(record.ended).inc()
        for outcome in record.answers.outcomes:
            code = f"{outcome.reply.code // 100}xx" if outcome.reply else "none"
            codes[outcome.step.value, code] += 1
            _of_form(names.get(outcome.form, "unknown"), outcome.step.value).inc()
    for labels, count in codes.items():
        metrics.OUTCOMES.labels(*labels).inc(count)


@cache
def _of_form(form: str, step: str) -> metrics.Child:
    """A series found once: there are as many as forms and steps, and looking for one is slow."""
    return metrics.FORM_OUTCOMES.labels(form, step)
