"""The ledger: moves listings as core.listing has it, each move together with its audit row.

The scheduler moves them by verdicts and time, the command line by the administrator's hand.
"""

from dataclasses import dataclass

from relaytest.core.listing import EXIT_PORT, WHEN_EXCLUDED, Event, State, step, unlistable
from relaytest.core.policy import Case, Lack, Listing, event_of, exit_event, explained
from relaytest.core.target import Address
from relaytest.core.verdict import Finding, Verdict
from relaytest.store import evidence as evidence_store
from relaytest.store import exclusions, listings, nominations, scope
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
        exit_address: Who handed the message to us, if not the target itself.
    """

    event: Event
    why: str
    trial: Trial | None = None
    actor: str | None = None
    lacks: tuple[Lack, ...] = ()
    exit_address: Address | None = None


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
        why = explained(verdict.explanation, lacks)
        return Cause(event, why, trial, lacks=lacks, exit_address=verdict.exit_address)

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
        before = await listings.exit_of(connection, address, port)
        await self._write(connection, address, port, new, cause)
        number = cause.trial.id if cause.trial else None
        change = Change(address, port, cause.event, old, new, number, cause.why, cause.actor)
        await listings.note_change(connection, change)
        after = await listings.exit_of(connection, address, port)
        for through in {before, after}:
            if through is not None:
                await self._judge_exit(connection, through)
        return Move(address, port, old, new)

    async def _judge_exit(self, connection: Connection, address: Address) -> None:
        """List, or take off, the exit of a relay whose own listing has moved."""
        inputs, trial = await listings.inputs_of(connection, address)
        event = exit_event(self._policy, inputs)
        if event is Event.FOUND_EXIT and (
            unlistable(address) or await scope.refusal_of(connection, address)
        ):
            return
        relays = "1 listed open relay sends" if inputs == 1 else f"{inputs} listed relays send"
        evidence = await evidence_store.trial_of(connection, trial) if trial else None
        why = f"{relays} through it" if inputs else "no listed relay sends through it any more"
        await self.move(connection, address, EXIT_PORT, Cause(event, why, evidence))

    async def _write(
        self, connection: Connection, address: Address, port: int, new: State, cause: Cause
    ) -> None:
        trial, policy = cause.trial, self._policy
        if new is State.UNLISTED:
            await listings.leave(connection, address, port, trial.id if trial else None)
            return
        assert trial is not None  # nobody comes on the list without one
        if port == EXIT_PORT:
            await listings.enter_exit(connection, address, trial.id, policy.expire_after)
        elif new is State.LISTED:
            await listings.enter(
                connection,
                trial,
                expire_after=policy.expire_after,
                recheck_every=policy.recheck_every,
                exit_address=cause.exit_address,
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
        why = "a sample of spam was nominated, and an earlier trial found that it relays"
        return await self.reconsider(connection, address, Event.NOMINATED, why)

    async def reconsider(
        self, connection: Connection, address: Address, event: Event, why: str
    ) -> list[Move]:
        """List a suspected address if by now nothing is missing any more."""
        moves = []
        for standing in await listings.standing_of(connection, address):
            case = await self._case(connection, address, standing.port)
            if case.state is not State.SUSPECTED or not case.relayed_at or self._policy.lacks(case):
                continue
            trial = await evidence_store.trial_of(connection, standing.trial)
            moves.append(
                await self.move(connection, address, standing.port, Cause(event, why, trial))
            )
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
