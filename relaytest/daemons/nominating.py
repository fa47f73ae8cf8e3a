"""Nominations: a sample of spam goes on file, and who sent it to us is tested."""

from dataclasses import dataclass
from datetime import timedelta

import structlog

from relaytest.core.config import Config
from relaytest.core.errors import RefusedRequestError
from relaytest.core.nomination import sample_fault
from relaytest.core.origin import NoOriginError, origin_of
from relaytest.core.target import Address
from relaytest.daemons.ledger import Ledger, Move
from relaytest.store import jobs, nominations
from relaytest.store.database import Bell, Connection, Database
from relaytest.store.nominations import Submission

_LONGEST_SLEEP = timedelta(seconds=30)

log = structlog.get_logger("scheduler")


@dataclass(frozen=True, slots=True)
class Nominated:
    """What came of a sample.

    Attributes:
        number: Of the sample on file.
        moves: Listings that had waited for a sample.
        job: The test, if there was nothing to list at once.
    """

    number: int
    address: Address
    moves: list[Move]
    job: int | None

    def __str__(self) -> str:
        ports = ", ".join(str(move.port) for move in self.moves)
        return f"{self.address}: sample {self.number} on file; " + (
            f"listed (port {ports})" if self.moves else f"job {self.job}"
        )


async def nominate(
    connection: Connection, config: Config, submission: Submission, requester: str
) -> Nominated:
    """Put a sample on file; list its sender if only that was missing, else have him tested.

    Raises:
        NoOriginError: The Received lines do not say who sent it to us.
        RefusedRequestError: He may not be tested.
    """
    address = submission.address
    if address is None:
        labs = config.scope.allow
        address = origin_of(submission.sample, config.samples.trusted, labs).address
    number = await nominations.add(
        connection, address, submission.sample, truncated=submission.truncated, tool=submission.tool
    )
    moves = await Ledger(config.listing).nominate(connection, address)
    wanted = jobs.Request(
        str(address),
        "nominated",
        port=submission.port,
        requester=requester,
        note=f"sample {number}",
    )
    job = None if moves else await jobs.enqueue(connection, wanted)
    return Nominated(number, address, moves, job)


class SampleDesk:
    """Reads what was submitted."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self.bell = Bell()  # rings when a sample came

    async def read(self) -> timedelta:
        """Read all that is there; return how long to sleep."""
        while True:
            async with self._database.transaction() as connection:
                submission = await nominations.take(connection)
                if submission is None:
                    return _LONGEST_SLEEP
                outcome = await self._outcome(connection, submission)
                await nominations.done(connection, submission.id, outcome)
            log.info("sample read", submission=submission.id, outcome=outcome)

    async def _outcome(self, connection: Connection, submission: Submission) -> str:
        if fault := sample_fault(submission.sample):
            return f"no mail message: {fault}"
        try:
            async with connection.transaction():  # a refusal must not spoil the outer one
                return str(
                    await nominate(connection, self._config, submission, submission.tool[:200])
                )
        except (NoOriginError, RefusedRequestError) as error:
            return f"nobody was nominated: {error}"
