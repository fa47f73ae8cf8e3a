"""The listing state machine: every state, every event, every transition.

Rule: what changes a listing is in TRANSITIONS or it does not happen. Every pair is decided there;
None is an event that means nothing in that state. store.listings writes the change together with
its audit row, and only if the state is still the one that was read.
"""

import enum
from ipaddress import ip_network

from relaytest.core.target import Address
from relaytest.core.verdict import Finding


class State(enum.Enum):
    """Where one target stands on the list."""

    UNLISTED = "unlisted"
    SUSPECTED = "suspected"  # relays, but the policy asks for more; not published
    LISTED = "listed"


class Event(enum.Enum):
    """What can happen to a target."""

    FOUND_OPEN = "found-open"  # and nothing more is asked for
    FOUND_SUSPECT = "found-suspect"  # relays, but core.policy asks for more
    FOUND_CLOSED = "found-closed"
    NOMINATED = "nominated"  # the sample of spam came that was all that was missing
    FOUND_EXIT = "found-exit"  # an open relay sends through it, and core.policy lists such exits
    EXIT_CLEARED = "exit-cleared"  # no listed relay sends through it any more, or too many do
    EXPIRED = "expired"  # RFC 6471 section 2.2.1: listings are temporary
    DELISTED = "delisted-by-hand"
    PURGED = "purged"  # RFC 6471 section 3.9: the operator's own mistakes


TRANSITIONS: dict[tuple[State, Event], State | None] = {
    (State.UNLISTED, Event.FOUND_OPEN): State.LISTED,
    (State.UNLISTED, Event.FOUND_SUSPECT): State.SUSPECTED,
    (State.UNLISTED, Event.FOUND_CLOSED): None,
    (State.UNLISTED, Event.NOMINATED): None,  # a sample alone proves no relay
    (State.UNLISTED, Event.FOUND_EXIT): State.LISTED,
    (State.UNLISTED, Event.EXIT_CLEARED): None,
    (State.UNLISTED, Event.EXPIRED): None,
    (State.UNLISTED, Event.DELISTED): None,
    (State.UNLISTED, Event.PURGED): None,
    (State.SUSPECTED, Event.FOUND_OPEN): State.LISTED,
    (State.SUSPECTED, Event.FOUND_SUSPECT): State.SUSPECTED,  # renewed: a new expiry
    (State.SUSPECTED, Event.FOUND_CLOSED): State.UNLISTED,
    (State.SUSPECTED, Event.NOMINATED): State.LISTED,
    (State.SUSPECTED, Event.FOUND_EXIT): None,
    (State.SUSPECTED, Event.EXIT_CLEARED): None,
    (State.SUSPECTED, Event.EXPIRED): State.UNLISTED,
    (State.SUSPECTED, Event.DELISTED): State.UNLISTED,
    (State.SUSPECTED, Event.PURGED): State.UNLISTED,
    (State.LISTED, Event.FOUND_OPEN): State.LISTED,  # renewed: a new expiry
    (State.LISTED, Event.FOUND_SUSPECT): None,  # the policy became stricter: not renewed
    (State.LISTED, Event.FOUND_CLOSED): State.UNLISTED,
    (State.LISTED, Event.NOMINATED): None,
    (State.LISTED, Event.FOUND_EXIT): State.LISTED,
    (State.LISTED, Event.EXIT_CLEARED): State.UNLISTED,
    (State.LISTED, Event.EXPIRED): State.UNLISTED,
    (State.LISTED, Event.DELISTED): State.UNLISTED,
    (State.LISTED, Event.PURGED): State.UNLISTED,
}

# Of an excluded target no test and no sample moves the listing; time and the administrator do.
WHEN_EXCLUDED: dict[Event, bool] = {
    Event.FOUND_OPEN: False,
    Event.FOUND_SUSPECT: False,
    Event.FOUND_CLOSED: False,
    Event.NOMINATED: False,
    Event.FOUND_EXIT: False,
    Event.EXIT_CLEARED: True,
    Event.EXPIRED: True,
    Event.DELISTED: True,
    Event.PURGED: True,
}

EXIT_PORT = 0  # under which an exit of others is listed; it was never tested itself

# What an administrator took off comes back by a new trial only, not by the one that was wrong.
BY_HAND = (Event.DELISTED, Event.PURGED)

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
    return TRANSITIONS[state, event]


def event_for(finding: Finding) -> Event | None:
    """Translate a verdict. UNKNOWN is no event: a test that failed never changes a listing.

    Postfix's verify(8) has the same rule: a failed probe must not clobber a known status.
    """
    return _EVENT_OF[finding]
