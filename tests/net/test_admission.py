"""Who may be connected: bounds, and who gives way."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaytest.core.target import Address
from relaytest.net.admission import Admission, Bounds

A, B, C = (IPv4Address(f"192.0.2.{n}") for n in (1, 2, 3))


class Guest:
    """A connection; as long as it is there `here` is true."""

    def __init__(self, room: "Room", peer: Address, silence: float, *, busy: bool) -> None:
        self.room, self.peer, self.silence, self.busy = room, peer, silence, busy
        self.here = room.enter(self, peer)

    def give_way(self) -> None:
        assert self.room.leave(self)
        self.here = False


Room = Admission[Guest]


def come(room: Room, peer: Address, silence: float = 1.0, *, busy: bool = False) -> Guest:
    return Guest(room, peer, silence, busy=busy)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (A, B, False),
        (IPv6Address("2001:db8::1"), IPv6Address("2001:db8::ffff:0:0:1"), True),
        (IPv6Address("2001:db8::1"), IPv6Address("2001:db8:0:1::1"), False),
    ],
)
def test_one_ipv6_network_is_one_peer(one, other, same):
    room = Room(Bounds(per_peer=1))
    come(room, one)
    assert come(room, other).here is not same


def test_who_has_most_gives_way_to_who_has_less():
    room = Room(Bounds(connections=4))
    alone = come(room, B, 20.0)
    many = [come(room, A, silence) for silence in (1.0, 3.0, 2.0)]
    assert come(room, C).here
    assert ([guest.here for guest in many], alone.here) == ([True, False, True], True)


def test_nobody_gives_way_to_who_has_as_much():
    room = Room(Bounds(connections=4))
    there = [come(room, peer) for peer in (A, A, B, B)]
    assert not come(room, A).here
    assert not come(room, B).here
    assert all(guest.here for guest in there)


def test_what_is_being_stored_is_not_sent_away():
    room = Room(Bounds(connections=3))
    there = [come(room, A, 99.0, busy=True) for _ in range(3)]
    assert not come(room, B).here
    assert all(guest.here for guest in there)


def test_the_silent_give_way_when_all_places_are_taken():
    room = Room(Bounds(connections=3))
    there = [come(room, A, 5.0), come(room, B, 31.0), come(room, C, 40.0)]
    assert come(room, IPv4Address("192.0.2.4")).here
    assert [guest.here for guest in there] == [True, True, False]


def test_who_has_all_that_one_may_have_sends_nobody_away():
    room = Room(Bounds(connections=3, per_peer=1))
    there = [come(room, A), come(room, B, 99.0), come(room, C, 99.0)]
    assert not come(room, A).here
    assert all(guest.here for guest in there)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 60), st.booleans())))
def test_there_are_never_more_than_may_be(comings):
    bounds = Bounds(connections=7, per_peer=4)
    room = Room(bounds)
    guests = []
    for number, silence, busy in comings:
        guests.append(come(room, IPv4Address(number), silence, busy=busy))
        here = [guest for guest in guests if guest.here]
        assert sorted(map(id, room)) == sorted(map(id, here))
        assert len(room) == len(here) <= bounds.connections
        assert sum(guest.peer == IPv4Address(number) for guest in here) <= bounds.per_peer
    for guest in guests:
        assert room.leave(guest) is guest.here
        assert not room.leave(guest)
    assert not room
