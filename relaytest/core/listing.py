"""The listing state machine: every state, every event, every transition.

Rule: what changes a listing is in TRANSITIONS or it does not happen. A pair that is absent is
an event that means nothing in that state. store.listings writes the change together with its
audit row, and only if the state is still the one that was read.
"""

import enum
from ipaddress import ip_network

from relaytest.core.target import Address
from relaytest.core.verdict import Finding


class State(enum.Enum):
    """Where one target stands on the list."""

    UNLISTED = "unlisted"
    LISTED = "listed"


class Event(enum.Enum):
    """What can happen to a target."""

    FOUND_OPEN = "found-open"
    FOUND_CLOSED = "found-closed"
    EXPIRED = "expired"  # RFC 6471 section 2.2.1: listings are temporary


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.UNLISTED, Event.FOUND_OPEN): State.LISTED,
    (State.LISTED, Event.FOUND_OPEN): State.LISTED,  # renewed: a new expiry
    (State.LISTED, Event.FOUND_CLOSED): State.UNLISTED,
    (State.LISTED, Event.EXPIRED): State.UNLISTED,
}

_TEST_ENTRIES = ip_network("127.0.0.0/30")

_EVENT_OF: dict[Finding, Event | None] = {
    Finding.OPEN: Event.FOUND_OPEN,
    Finding.CLOSED: Event.FOUND_CLOSED,
    Finding.UNKNOWN: None,
}


def unlistable(address: Address) -> str | None:
    """Return why an address can never be listed, or None.

    RFC 5782 section 5: 127.0.0.1 is never listed, and 127.0.0.2 and its like are test entries of
    the zone itself. The table has the same rule as a CHECK.
    """
    return "it is a test entry of every DNS list" if address in _TEST_ENTRIES else None


def step(state: State, event: Event) -> State | None:
    """Return the state after `event`, or None if the event means nothing in `state`."""
    return TRANSITIONS.get((state, event))


def event_for(finding: Finding) -> Event | None:
    """Translate a verdict. UNKNOWN is no event: a test that failed never changes a listing.

    Postfix's verify(8) has the same rule: a failed probe must not clobber a known status.
    """
    return _EVENT_OF[finding]
