"""Which other testers send which of our forms, in their own order; data of battery.toml."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from relaytest.core.errors import BatteryError
from relaytest.core.tables import Table, need, only, rows, texts


@dataclass(frozen=True, slots=True)
class Peer:
    """Another tester, present or past.

    Attributes:
        name: As people call it.
        source: Where its list is to be seen.
        forms: Ids of our forms that ask what it asks, in its order; none twice.
        note: What else is worth knowing of its list; may be empty.
    """

    name: str
    source: str
    forms: tuple[str, ...]
    note: str


def parse_peers(tables: Table, known: Collection[str]) -> tuple[Peer, ...]:
    """Read the [[peer]] tables of a battery file.

    Args:
        tables: The whole file.
        known: Ids of all forms there are.

    Raises:
        BatteryError: A key is missing, unknown or of the wrong kind, a name is taken, or a form
            is unknown or named twice.
    """
    peers: dict[str, Peer] = {}
    for place, table in rows(tables, "peer", "the battery"):
        where = f"{place} ({table.get('name', 'no name')})"
        only(table, {"name", "source", "forms", "note"}, where)
        peer = Peer(
            need(table, "name", str, where),
            need(table, "source", str, where),
            texts(table, "forms", where),
            need({"note": "", **table}, "note", str, where),
        )
        _check(peer, known, where)
        if peer.name.casefold() in peers:
            raise BatteryError(f"{where}: the name is taken")
        peers[peer.name.casefold()] = peer
    return tuple(peers.values())


def _check(peer: Peer, known: Collection[str], where: str) -> None:
    if unknown := [form for form in peer.forms if form not in known]:
        raise BatteryError(f"{where}: no such form: {unknown[0]}")
    if len(set(peer.forms)) < len(peer.forms):
        raise BatteryError(f"{where}: a form is named twice")


def senders_of(peers: Iterable[Peer]) -> Mapping[str, tuple[str, ...]]:
    """Return the names of the peers that send a form, by its id.

    >>> senders_of([Peer("A", "", ("S/R",), ""), Peer("B", "", ("S/R",), "")])
    {'S/R': ('A', 'B')}
    """
    senders: dict[str, tuple[str, ...]] = {}
    for peer in peers:
        for form in peer.forms:
            senders[form] = (*senders.get(form, ()), peer.name)
    return senders
