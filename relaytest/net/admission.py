"""Who may be connected to a server, for how long, and who gives way when all places are taken."""

import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from relaytest.core.target import Address

_SILENT = 30.0  # seconds; who is silent for longer gives way to whoever comes


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all clients together, and each of them, may use.

    Attributes:
        connections: At once.
        per_peer: At once from one IPv4 address or one IPv6 /64.
        idle: Longest silence of a client; RFC 5321 section 4.5.3.2.7 wants 5 minutes at least.
        session: Longest session, however busy.
        handshake: Longest time that TLS may take to begin.
        storing: Longest time that `store` may take. A client waits 10 minutes for the answer
            (section 4.5.3.2.6).
        grace: How long sessions may go on after we stopped listening.
        unread_octets: Of replies that a client has not read; beyond that we do not read either.
        tls: Makes what TLS needs, for sessions that offer it; called for each client who wants
            it, so that a renewed certificate is used at once.
    """

    connections: int = 1000
    per_peer: int = 50
    idle: timedelta = timedelta(minutes=5)
    session: timedelta = timedelta(minutes=15)
    handshake: timedelta = timedelta(minutes=1)
    storing: timedelta = timedelta(seconds=30)
    grace: timedelta = timedelta(seconds=10)
    unread_octets: int = 1 << 16
    tls: Callable[[], ssl.SSLContext] = lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class Guest(Protocol):
    """A connection."""

    @property
    def busy(self) -> bool:
        """Whether we work for it, so that it cannot be sent away."""

    @property
    def silence(self) -> float:
        """Seconds since it last spoke, or we let it wait."""

    def give_way(self) -> None:
        """Go now: it has left when this returns."""


_G = TypeVar("_G", bound=Guest)


class Admission(Generic[_G]):
    """The connections of a server, by peer.

    A few peers cannot keep the others out: when all places are taken, a peer gets one of whoever
    has most of them, as long as that one keeps more; else one of a client who is silent, as
    Postfix has less patience under stress (STRESS_README). One IPv6 /64 is one peer, which is
    what one host gets (RFC 4291 section 2.5.4).
    """

    def __init__(self, bounds: Bounds) -> None:
        self._most = bounds.connections
        self._per_peer = bounds.per_peer
        self._places: dict[_G, int] = {}  # of each guest, who he is
        self._peers: dict[int, dict[_G, None]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[_G]:
        return iter(list(self._places))

    def enter(self, guest: _G, peer: Address) -> bool:
        """Count a connection in, unless there are too many."""
        place = _place(peer)
        mine = len(self._peers.get(place, ()))
        if mine >= self._per_peer or (len(self) >= self._most and not self._make_room(mine)):
            return False
        self._places[guest] = place
        self._peers.setdefault(place, {})[guest] = None
        return True

    def leave(self, guest: _G) -> bool:
        """Count it out; return whether it was there."""
        place = self._places.pop(guest, None)
        if place is None:
            return False
        guests = self._peers[place]
        del guests[guest]
        if not guests:
            del self._peers[place]
        return True

    def _make_room(self, mine: int) -> bool:
        """Send somebody away for a peer who has `mine`; return whether there was one."""
        most = max(self._peers.values(), key=len, default={})
        guest = _quietest(most) if len(most) > mine + 1 else None
        if guest is None:
            guest = _quietest(self)
            if guest is None or guest.silence < _SILENT:
                return False
        guest.give_way()
        return True


def _quietest(guests: Iterable[_G]) -> _G | None:
    return max((one for one in guests if not one.busy), key=lambda one: one.silence, default=None)


def _place(peer: Address) -> int:
    return int(peer) if peer.version == 4 else int(peer) >> 64
