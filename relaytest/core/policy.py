"""The listing policy: what it takes to be listed, and how long a listing lives.

Rule: the policy turns what is known of a target into an event; what the event does stands in
core.listing. RSS listed a server only if it relayed and had been used to spam; both are here,
each by its own switch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from pydantic import Field, field_validator, model_validator

from relaytest.core.fields import Duration, Section
from relaytest.core.listing import Event, State, event_for
from relaytest.core.values import format_value
from relaytest.core.verdict import Finding

_DAY = timedelta(hours=24)  # RFC 6471 section 3.6.2: automatic tests of a target are no oftener


class Lack(Enum):
    """What is still missing before a server that relays is listed; the value says it."""

    CONFIRMATION = "a further trial on another day must relay, too (listing.confirmations)"
    SPAM = "no sample of spam from it is on file (listing.require_spam_evidence)"


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of a target whose last trial relayed.

    Attributes:
        state: Where it stands.
        relayed_at: When the trials began that relayed, since the last that found it closed.
        nominated: A sample of spam is on file.
    """

    state: State
    relayed_at: tuple[datetime, ...]
    nominated: bool


class Listing(Section):
    """What it takes to be listed, and how long a listing lives."""

    confirmations: int = Field(
        1,
        ge=1,
        le=5,
        description="trials that must relay, each on another day; 2 against honeypots",
    )
    confirm_after: Duration = Field(
        _DAY,
        description="until the confirming trial, which is what another day means; 24h at least",
    )
    require_spam_evidence: bool = Field(
        False, description="list only with a sample of spam on file (`relaytest nominate`)"
    )
    expire_after: Duration = Field(timedelta(days=30), description="unless a retest renews it")
    recheck_every: Duration = Field(
        timedelta(days=7),
        description="automatic retest of what is listed; 24h at least, and less than expire_after",
    )

    outputs: bool = Field(
        False, description="list also the exit of a multi-hop relay, as 127.0.0.3"
    )
    output_inputs: int = Field(
        1, ge=1, le=100, description="listed relays that may share such an exit, at most"
    )

    same_system4: int = Field(
        24, ge=8, le=32, description="prefix within which addresses are one system, IPv4"
    )
    same_system6: int = Field(64, ge=16, le=128, description="likewise, IPv6")

    @property
    def near(self) -> tuple[int, int]:
        """The prefix lengths of one system, IPv4 and IPv6."""
        return self.same_system4, self.same_system6

    @field_validator("recheck_every", "confirm_after")
    @classmethod
    def _not_too_often(cls, value: timedelta) -> timedelta:
        if value < _DAY:
            raise ValueError("must be 24h or more (RFC 6471 section 3.6.2)")
        return value

    @model_validator(mode="after")
    def _tests_come_before_the_end(self) -> "Listing":
        for key in ("recheck_every", "confirm_after"):
            if getattr(self, key) >= self.expire_after:
                raise ValueError(
                    f"{key} ({format_value(getattr(self, key))}) must be shorter than expire_after "
                    f"({format_value(self.expire_after)}): nothing ends without a new test"
                )
        return self

    def lacks(self, case: Case) -> tuple[Lack, ...]:
        """Return what is missing before the target of `case` is listed; nothing if it may be.

        Who is listed was confirmed before; only the sample of spam must still be on file.
        """
        lacks: list[Lack] = []
        confirmed = occasions(case.relayed_at, self.confirm_after) >= self.confirmations
        if case.state is not State.LISTED and not confirmed:
            lacks.append(Lack.CONFIRMATION)
        if self.require_spam_evidence and not case.nominated:
            lacks.append(Lack.SPAM)
        return tuple(lacks)


def exit_event(policy: Listing, inputs: int) -> Event:
    """Return what it means for an exit that so many listed relays hand their mail to it.

    A smart host that many use is not to blame for each of them, and its other users even less.
    """
    listable = policy.outputs and 1 <= inputs <= policy.output_inputs
    return Event.FOUND_EXIT if listable else Event.EXIT_CLEARED


def occasions(moments: Iterable[datetime], apart: timedelta) -> int:
    """Count moments that lie at least `apart` from each other.

    >>> at = datetime(2026, 1, 1)
    >>> occasions([at, at + timedelta(hours=1), at + timedelta(hours=24)], timedelta(hours=24))
    2
    """
    count, last = 0, None
    for moment in sorted(moments):
        if last is None or moment - last >= apart:
            count, last = count + 1, moment
    return count


def event_of(finding: Finding, lacks: tuple[Lack, ...]) -> Event | None:
    """Translate a verdict: relaying is only a suspicion while something is missing."""
    event = event_for(finding)
    return Event.FOUND_SUSPECT if event is Event.FOUND_OPEN and lacks else event


def explained(explanation: str, lacks: tuple[Lack, ...]) -> str:
    """Return the cause of a change: the verdict's own words, and why it does not list."""
    return " ".join([explanation, *(f"Not listed yet: {one.value}." for one in lacks)])
