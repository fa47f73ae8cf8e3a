"""The listing state machine: every pair, and no way on or off the list but the allowed ones."""

from ipaddress import ip_address
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaytest.core.listing import (
    BY_HAND,
    TRANSITIONS,
    WHEN_EXCLUDED,
    Event,
    State,
    event_for,
    step,
    unlistable,
)
from relaytest.core.verdict import Finding

U, S, L = State.UNLISTED, State.SUSPECTED, State.LISTED
TABLE = {
    (U, Event.FOUND_OPEN): L,
    (U, Event.FOUND_SUSPECT): S,
    (U, Event.FOUND_CLOSED): None,
    (U, Event.NOMINATED): None,
    (U, Event.FOUND_EXIT): L,
    (U, Event.EXIT_CLEARED): None,
    (U, Event.EXPIRED): None,
    (U, Event.DELISTED): None,
    (U, Event.PURGED): None,
    (S, Event.FOUND_OPEN): L,
    (S, Event.FOUND_SUSPECT): S,
    (S, Event.FOUND_CLOSED): U,
    (S, Event.NOMINATED): L,
    (S, Event.FOUND_EXIT): None,
    (S, Event.EXIT_CLEARED): None,
    (S, Event.EXPIRED): U,
    (S, Event.DELISTED): U,
    (S, Event.PURGED): U,
    (L, Event.FOUND_OPEN): L,
    (L, Event.FOUND_SUSPECT): None,
    (L, Event.FOUND_CLOSED): U,
    (L, Event.NOMINATED): None,
    (L, Event.FOUND_EXIT): L,
    (L, Event.EXIT_CLEARED): U,
    (L, Event.EXPIRED): U,
    (L, Event.DELISTED): U,
    (L, Event.PURGED): U,
}
PROOFS = {Event.FOUND_OPEN, Event.FOUND_SUSPECT, Event.FOUND_EXIT}
EVENTS = {
    Finding.OPEN: Event.FOUND_OPEN,
    Finding.CLOSED: Event.FOUND_CLOSED,
    Finding.UNKNOWN: None,
}


def name_of(value):
    return value.value if isinstance(value, State | Event | Finding) else str(value)


def reachable_from(start):
    found = {start}
    while more := {new for (old, _), new in TRANSITIONS.items() if new and old in found} - found:
        found |= more
    return found


def test_the_expected_table_is_total():
    assert TABLE.keys() == set(product(State, Event))


def test_every_pair_is_decided_in_the_table():
    assert TRANSITIONS.keys() == set(product(State, Event))


@pytest.mark.parametrize(("state", "event"), TABLE, ids=name_of)
def test_each_event_in_each_state_leads_where_the_table_says(state, event):
    assert step(state, event) is TABLE[state, event]


@pytest.mark.parametrize("start", State, ids=name_of)
def test_every_state_is_reached_from_every_other(start):
    assert reachable_from(start) == set(State)


def events(leading):
    return {event for (old, event), new in TRANSITIONS.items() if new and leading(old, new)}


def test_only_what_relays_comes_on_the_list():
    assert events(lambda old, new: old is U and new is L) == {Event.FOUND_OPEN, Event.FOUND_EXIT}


def test_a_suspicion_becomes_a_listing_by_proof_or_by_the_sample_that_was_missing():
    assert events(lambda old, new: old is S and new is L) == {Event.FOUND_OPEN, Event.NOMINATED}


def test_only_closed_expiry_and_the_administrator_take_off_the_list():
    leaving = {Event.FOUND_CLOSED, Event.EXPIRED, Event.DELISTED, Event.PURGED}
    assert events(lambda old, new: old is L and new is not L) == leaving | {Event.EXIT_CLEARED}
    assert events(lambda old, new: old is S and new is U) == leaving


def test_nobody_is_listed_by_hand():
    assert [event for event in BY_HAND for state in State if step(state, event) in {S, L}] == []


def test_of_an_excluded_target_only_time_and_the_administrator_move_the_listing():
    assert WHEN_EXCLUDED.keys() == set(Event)
    assert {event for event, counts in WHEN_EXCLUDED.items() if counts} == {
        Event.EXPIRED,
        Event.EXIT_CLEARED,
        *BY_HAND,
    }


@given(st.lists(st.sampled_from(Event)))
def test_whatever_happens_a_listing_follows_from_relaying(history):
    """A target is only listed or suspected if it relayed after whatever last took it off."""
    state, relayed = State.UNLISTED, False
    for event in history:
        new = step(state, event)
        relayed = relayed or event in PROOFS
        if new is State.UNLISTED:
            relayed = False
        state = new or state
        assert relayed or state is State.UNLISTED


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
