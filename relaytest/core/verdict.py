"""A verdict on a trial: what was found, why, how sure it is. core.judge makes them."""

import enum
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from relaytest.core.target import Address


class Finding(enum.Enum):
    """What one trial says about one target."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"


class Reason(enum.Enum):
    """Why."""

    RELAYED = "relayed"  # open: a message came back
    REFUSED = "refused"  # closed: every form refused
    NOT_RETURNED = "not-returned"  # closed: some accepted, none came back
    PENDING = "pending"  # unknown: accepted, still waiting
    DEFERRED = "deferred"  # unknown: greylisting or another temporary refusal
    BLOCKED = "blocked"  # unknown: the server turns the tester away
    UNREACHABLE = "unreachable"  # unknown: no connection
    NOT_SMTP = "not-smtp"  # unknown: something else answers
    INCOMPLETE = "incomplete"  # unknown: forms without an answer
    DESYNC = "desync"  # unknown: replies cannot be paired with commands
    REPLAYED = "replayed"  # unknown: a message came back from where nothing leads to the target
    SINK_DOWN = "sink-down"  # unknown: not returned, but our sink was not proven to work
    OUT_OF_SCOPE = "out-of-scope"  # unknown: may not be contacted


@dataclass(frozen=True, slots=True)
class Patience:
    """How long we wait for mail to come back.

    Attributes:
        accepted: After the server took the message.
        refused: After it refused the message at the final dot: some relay it all the same.
    """

    accepted: timedelta
    refused: timedelta


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one trial.

    Attributes:
        confidence: "high", "medium" or "low".
        explanation: Why, and what would change it, for a person.
        forms: Ids of the forms that decided it.
        condition: OPEN only: what it takes, when the plainest form does not do it.
        exit_address: OPEN only: who handed the copy to us, when not the target itself.
        judge_at: Look again at this time even if nothing new comes; None: no need.
    """

    finding: Finding
    reason: Reason
    confidence: str
    explanation: str
    forms: tuple[str, ...] = ()
    condition: str | None = None
    exit_address: Address | None = None
    judge_at: datetime | None = field(default=None, compare=False)


# A further visit may tell more.
_WORTH_A_VISIT = frozenset(
    {
        Reason.DEFERRED,
        Reason.BLOCKED,
        Reason.UNREACHABLE,
        Reason.NOT_SMTP,
        Reason.INCOMPLETE,
        Reason.DESYNC,
    }
)

# Another place to test from may tell more.
ELSEWHERE = frozenset({Reason.BLOCKED, Reason.UNREACHABLE})


def worth_another_visit(verdict: Verdict | None) -> bool:
    """Whether the target should be visited again for the same trial."""
    return verdict is not None and verdict.reason in _WORTH_A_VISIT


def out_of_scope(why: str) -> Verdict:
    """Return the verdict on a target that may not be contacted."""
    return unknown(Reason.OUT_OF_SCOPE, f"The address may not be tested: {why}.")


def unknown(
    reason: Reason,
    explanation: str,
    forms: tuple[str, ...] = (),
    judge_at: datetime | None = None,
) -> Verdict:
    """Return a verdict that changes no listing."""
    return Verdict(Finding.UNKNOWN, reason, "low", explanation, forms, judge_at=judge_at)
