"""The listing state machine: every pair, and no way on or off the list but the allowed ones."""

from ipaddress import ip_address
from itertools import product

import pytest

from relaytest.core.listing import TRANSITIONS, Event, State, event_for, step, unlistable
from relaytest.core.verdict import Finding

TABLE = {
    (State.UNLISTED, Event.FOUND_OPEN): State.LISTED,
    (State.UNLISTED, Event.FOUND_CLOSED): None,
    (State.UNLISTED, Event.EXPIRED): None,
    (State.LISTED, Event.FOUND_OPEN): State.LISTED,
    (State.LISTED, Event.FOUND_CLOSED): State.UNLISTED,
    (State.LISTED, Event.EXPIRED): State.UNLISTED,
}
EVENTS = {
    Finding.OPEN: Event.FOUND_OPEN,
    Finding.CLOSED: Event.FOUND_CLOSED,
    Finding.UNKNOWN: None,
}


def name_of(value):
    return value.value if isinstance(value, State | Event | Finding) else str(value)


def reachable_from(start):
    found = {start}
    while more := {new for (old, _), new in TRANSITIONS.items() if old in found} - found:
        found |= more
    return found


def test_the_expected_table_is_total():
    assert TABLE.keys() == set(product(State, Event))


@pytest.mark.parametrize(("state", "event"), TABLE, ids=name_of)
def test_each_event_in_each_state_leads_where_the_table_says(state, event):
    assert step(state, event) is TABLE[state, event]


@pytest.mark.parametrize("start", State, ids=name_of)
def test_every_state_is_reached_from_every_other(start):
    assert reachable_from(start) == set(State)


def test_only_a_verdict_of_open_puts_on_the_list():
    entering = {
        event
        for (old, event), new in TRANSITIONS.items()
        if old is State.UNLISTED and new is State.LISTED
    }
    assert entering == {Event.FOUND_OPEN}


def test_only_a_verdict_of_closed_or_expiry_takes_off_the_list():
    leaving = {
        event
        for (old, event), new in TRANSITIONS.items()
        if old is State.LISTED and new is not State.LISTED
    }
    assert leaving == {Event.FOUND_CLOSED, Event.EXPIRED}


def test_the_expected_events_are_total():
    assert EVENTS.keys() == set(Finding)


@pytest.mark.parametrize("finding", EVENTS, ids=name_of)
def test_each_finding_is_its_event(finding):
    assert event_for(finding) is EVENTS[finding]


@pytest.mark.parametrize("state", State, ids=name_of)
def test_an_unknown_changes_no_state(state):
    event = event_for(Finding.UNKNOWN)
    assert event is None or step(state, event) is None


@pytest.mark.parametrize("text", ["127.0.0.0", "127.0.0.1", "127.0.0.2", "127.0.0.3"])
def test_a_test_entry_of_the_zone_can_never_be_listed(text):
    assert unlistable(ip_address(text)) == "it is a test entry of every DNS list"


@pytest.mark.parametrize(
    "text", ["126.255.255.255", "127.0.0.8", "127.0.66.1", "192.0.2.1", "2001:db8::1"]
)
def test_any_other_address_may_be_listed(text):
    assert unlistable(ip_address(text)) is None
