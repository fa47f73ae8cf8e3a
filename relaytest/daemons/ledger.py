"""The ledger: moves listings as core.listing has it, each move together with its audit row.

The scheduler moves them by verdicts and time, the command line by the administrator's hand.
"""

from dataclasses import dataclass

from relaytest.core.listing import WHEN_EXCLUDED, Event, State, step
from relaytest.core.policy import Case, Lack, Listing, event_of, explained
from relaytest.core.target import Address
from relaytest.core.verdict import Finding, Verdict
from relaytest.store import evidence as evidence_store
from relaytest.store import exclusions, listings, nominations
from relaytest.store.database import Connection
from relaytest.store.evidence import Trial
from relaytest.store.listings import Change


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a listing moves.

    Attributes:
        event: What happened.
        why: In words, for the public history.
        trial: The evidence; None: it stays what it was.
        actor: Who did it by hand; None: the program.
        lacks: What is missing before it may be listed.
    """

    event: Event
    why: str
    trial: Trial | None = None
    actor: str | None = None
    lacks: tuple[Lack, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """A listing that moved, or was renewed."""

    address: Address
    port: int
    old: State
    new: State


class Ledger:
    """The only way to move a listing."""

    def __init__(self, policy: Listing) -> None:
        self._policy = policy

    async def cause_of(
        self, connection: Connection, trial: Trial, verdict: Verdict
    ) -> Cause | None:
        """Return what a verdict means under the policy; None: nothing for any listing."""
        lacks: tuple[Lack, ...] = ()
        if verdict.finding is Finding.OPEN:
            lacks = self._policy.lacks(await self._case(connection, trial.address, trial.port))
        event = event_of(verdict.finding, lacks)
        if event is None:
            return None
        return Cause(event, explained(verdict.explanation, lacks), trial, lacks=lacks)

    async def _case(self, connection: Connection, address: Address, port: int) -> Case:
        state, _ = await listings.state_of(connection, address, port)
        window = self._policy.expire_after
        return Case(
            state,
            await listings.relayed_at(connection, address, port, window),
            await nominations.on_file(connection, address),
        )

    async def move(
        self, connection: Connection, address: Address, port: int, cause: Cause
    ) -> Move | None:
        """Move a listing as the table has it; return None if the cause means nothing to it."""
        old, evidence = await listings.state_of(connection, address, port)
        new = step(old, cause.event)
        if new is None or (new is old and cause.trial and evidence == cause.trial.id):
            return None
        if not WHEN_EXCLUDED[cause.event] and await exclusions.exclusion_of(connection, address):
            return None
        await self._write(connection, address, port, new, cause)
        number = cause.trial.id if cause.trial else None
        change = Change(address, port, cause.event, old, new, number, cause.why, cause.actor)
        await listings.note_change(connection, change)
        return Move(address, port, old, new)

    async def _write(
        self, connection: Connection, address: Address, port: int, new: State, cause: Cause
    ) -> None:
        trial, policy = cause.trial, self._policy
        if new is State.UNLISTED or trial is None:
            await listings.leave(connection, address, port, trial.id if trial else None)
        elif new is State.LISTED:
            await listings.enter(
                connection,
                trial,
                expire_after=policy.expire_after,
                recheck_every=policy.recheck_every,
            )
        else:
            await listings.suspect(
                connection,
                trial,
                expire_after=policy.expire_after,
                confirm_after=policy.confirm_after if Lack.CONFIRMATION in cause.lacks else None,
            )

    async def nominate(self, connection: Connection, address: Address) -> list[Move]:
        """List a suspected address at once if a sample of spam was all that was missing."""
        moves = []
        for standing in await listings.standing_of(connection, address):
            case = await self._case(connection, address, standing.port)
            trial = await evidence_store.trial_of(connection, standing.trial)
            if trial is None or self._policy.lacks(case) or not case.relayed_at:
                continue
            why = f"a sample of spam was nominated, and trial {trial.id} found that it relays"
            cause = Cause(Event.NOMINATED, why, trial)
            moves.append(await self.move(connection, address, standing.port, cause))
        return [move for move in moves if move is not None]

    async def take_off(
        self,
        connection: Connection,
        standing: listings.Standing,
        event: Event,
        why: str,
        actor: str,
    ) -> Move | None:
        """Take a target off by hand."""
        cause = Cause(event, why, actor=actor)
        return await self.move(connection, standing.address, standing.port, cause)
