"""What other testers send, line by line, is among what we send.

The lines are written as each tool writes them for the server mx.shop.example at 192.0.2.1 (for
those that take a domain: shop.example), with the local parts `sender` and `user` for whatever
the tool puts there, sink.example for its own domain and sink.test for another of its own. Only
white space after the colon is left out.
"""

from importlib.resources import files
from ipaddress import IPv4Address

import pytest

from relaytest.core.errors import BatteryError
from relaytest.core.names import Names, names_of
from relaytest.core.offers import Asker, distinct, ehlo_name
from relaytest.core.peers import Peer, parse_peers, senders_of
from relaytest.core.probe import Battery, Envelope, Form, Helo, parse_battery
from relaytest.core.reply import Reply

BATTERY = parse_battery((files("relaytest.core") / "battery.toml").read_text(encoding="utf-8"))
BY_ID = {form.id: form for form in BATTERY.forms}
ASKER = Asker(b"k" * 32, "sink.example", "probe.checker.example", "", other="sink.test")
NAMES = names_of(
    IPv4Address("192.0.2.1"),
    greeting=Reply(220, ("mx.shop.example ESMTP",)),
    hello=Reply(250, ("mx.shop.example",)),
    pointer="relay.isp.example.",
)

EXT, HOST, IP = "<sender@sink.example>", "<sender@mx.shop.example>", "<sender@[192.0.2.1]>"
PLAIN, NAKED, QUOTED = "<user@sink.example>", "user@sink.example", '<"user@sink.example">'
ABUSE_NET_TRICKS = [  # abuse.net's, in nmap's order, and so everybody's after them
    "<user%sink.example@[192.0.2.1]>",
    "<user%sink.example@mx.shop.example>",
    '<"user@sink.example">',
    '<"user%sink.example">',
    "<user@sink.example@[192.0.2.1]>",
    '<"user@sink.example"@[192.0.2.1]>',
    "<user@sink.example@mx.shop.example>",
    "<@[192.0.2.1]:user@sink.example>",
    "<@mx.shop.example:user@sink.example>",
    "<sink.example!user>",
    "<sink.example!user@[192.0.2.1]>",
    "<sink.example!user@mx.shop.example>",
]
NESSUS_11852 = [
    (PLAIN, PLAIN),  # from its recipient
    ("<sender@RANDOM.sink.example>", PLAIN),
    ("<sender@localhost>", PLAIN),
    ("<sender>", PLAIN),
    ("<>", PLAIN),
    ("<>", PLAIN),
    (HOST, PLAIN),
    (IP, PLAIN),
    (HOST, "<user%sink.example@mx.shop.example>"),
    (HOST, "<user%sink.example@[192.0.2.1]>"),
    (HOST, "<user@sink.example@mx.shop.example>"),
    (HOST, '<"user@sink.example"@[192.0.2.1]>'),
    (HOST, "<user@sink.example@[192.0.2.1]>"),
    (IP, "<@mx.shop.example:user@sink.example>"),
    (HOST, "<@[192.0.2.1]:user@sink.example>"),
    (HOST, "<sink.example!user@[192.0.2.1]>"),
    ("<postmaster@mx.shop.example>", PLAIN),
]
NMAP = [("<>", PLAIN), (EXT, PLAIN), (HOST, PLAIN), (IP, PLAIN)] + [
    (IP, trick) for trick in ABUSE_NET_TRICKS
]
WIRE: dict[str, list[tuple[str, str]]] = {
    "nmap": NMAP,
    "Metasploit": [wire for wire in NMAP if wire != (IP, PLAIN)],  # there: to a local mailbox
    "abuse.net": [(EXT, PLAIN), ("<sender>", PLAIN), ("<>", PLAIN), (HOST, PLAIN), (IP, PLAIN)]
    + [(IP, trick) for trick in ABUSE_NET_TRICKS],
    "mailradar": [(EXT, PLAIN), (EXT, NAKED), ("<>", PLAIN), (HOST, PLAIN), (IP, PLAIN)]
    + [(IP, trick) for trick in ABUSE_NET_TRICKS]
    + [(IP, "<user%sink.example@>"), (IP, "<user@sink.example@>")],
    "Nessus": [(EXT, PLAIN), *NESSUS_11852, ("<>", " user@sink.example")],
    "OpenVAS": [(EXT, PLAIN), *NESSUS_11852],
    "MAPS": [
        (HOST, QUOTED),
        (PLAIN, PLAIN),
        ("<sender@sink.test>", PLAIN),
        ("<sender@localhost>", PLAIN),
        ("<sender>", PLAIN),
        ("<>", PLAIN),
        ("<sender@shop.example>", PLAIN),
    ],
    "gatorhole": [
        (EXT, PLAIN),
        (EXT, NAKED),
        ("<sender>", PLAIN),
        ("<>", PLAIN),
        (HOST, PLAIN),
        (IP, PLAIN),
        (HOST, "<user%sink.example@mx.shop.example>"),
        (HOST, "<user%sink.example@[192.0.2.1]>"),
        (HOST, QUOTED),
        (HOST, '<"user%sink.example">'),
        (HOST, "<user@sink.example@mx.shop.example>"),
        (HOST, '<"user@sink.example"@mx.shop.example>'),
        (HOST, "<user@sink.example@[192.0.2.1]>"),
        (HOST, "<@mx.shop.example:user@sink.example>"),
        (HOST, "<@[192.0.2.1]:user@sink.example>"),
        (HOST, "<sink.example!user>"),
        (HOST, "<sink.example!user@mx.shop.example>"),
        (HOST, "<sink.example!user@[192.0.2.1]>"),
        (HOST, "<user%[sink.example]@>"),
        (HOST, "<user@[sink.example]@>"),
    ],
    "AUPADS": [
        (EXT, PLAIN),
        (EXT, QUOTED),
        (EXT, NAKED),
        ("<sender>", PLAIN),
        (EXT, "<user%sink.example@mx.shop.example>"),
        (EXT, "<user%sink.example@relay.isp.example>"),
        (EXT, "<user%sink.example@[192.0.2.1]>"),
        (EXT, "<user%sink.example@192.0.2.1>"),
        (EXT, "<user@sink.example@mx.shop.example>"),
        (EXT, "<user@sink.example@[192.0.2.1]>"),
        (EXT, "<user@sink.example@192.0.2.1>"),
        (EXT, "<sink.example!user@mx.shop.example>"),
        (EXT, "<sink.example!user@[192.0.2.1]>"),
        (EXT, "<sink.example!user@192.0.2.1>"),
        (EXT, "<@mx.shop.example:user@sink.example>"),
        (EXT, "<@[192.0.2.1]:user@sink.example>"),
        (EXT, "<@192.0.2.1:user@sink.example>"),
        (EXT, "<sink.example!user>"),
        ("<>", PLAIN),
    ],
    "UCS": [
        ("<sender@192.0.2.1>", PLAIN),
        (IP, PLAIN),
        ("<sender@1.2.0.192.in-addr.arpa>", PLAIN),
        (EXT, QUOTED),
        (EXT, NAKED),
        ("<sender>", PLAIN),
        (EXT, "<user%sink.example@192.0.2.1>"),
        (EXT, "<user%sink.example@[192.0.2.1]>"),
        (EXT, "<user%sink.example@relay.isp.example>"),
        (EXT, "<user@sink.example@192.0.2.1>"),
        (EXT, "<user@sink.example@[192.0.2.1]>"),
        (EXT, "<user@sink.example@mx.shop.example>"),
        (EXT, "<sink.example!user@192.0.2.1>"),
        (EXT, "<sink.example!user@[192.0.2.1]>"),
        (EXT, "<sink.example!user@mx.shop.example>"),
        (EXT, "<@192.0.2.1:user@sink.example>"),
        (EXT, "<@[192.0.2.1]:user@sink.example>"),
        (EXT, "<@mx.shop.example:user@sink.example>"),
        (EXT, "<sink.example!user>"),
        ("<>", PLAIN),
    ],
    "ORBS": [(EXT, PLAIN), (EXT, QUOTED), (EXT, NAKED), ("<sender>", PLAIN)],
    "DSBL": [
        (EXT, PLAIN),
        (EXT, QUOTED),
        (EXT, NAKED),
        (EXT, "<sink.example!user>"),
        ("<sink.example!sender>", PLAIN),
        ("<sink.example!sender>", QUOTED),
        ("<sink.example!sender>", NAKED),
        ("<sender>", PLAIN),
        ("<sender>", QUOTED),
        ("<sender>", NAKED),
        ("<>", PLAIN),
        ("<>", QUOTED),
        ("<>", NAKED),
        ("<>", "<sink.example!user>"),
        (HOST, PLAIN),
        (HOST, QUOTED),
        (HOST, NAKED),
        (HOST, "<user%sink.example@mx.shop.example>"),
        (HOST, "<user%sink.example>"),
        (HOST, '<"user%sink.example">'),
        (HOST, "<user@sink.example@mx.shop.example>"),
        (HOST, '<"user@sink.example"@mx.shop.example>'),
        (HOST, "<@mx.shop.example:user@sink.example>"),
        (HOST, "<sink.example!user>"),
        (HOST, "<sink.example!user@mx.shop.example>"),
        ("<mx.shop.example!sender>", PLAIN),
        ("<sender@localhost>", PLAIN),
        (IP, PLAIN),
        ("<sender@shop.example>", PLAIN),
    ],
    "NJABL": [(EXT, "<user%sink.example@mx.shop.example>"), (EXT, "<user%sink.example@>")],
    "rlytest": [(HOST, PLAIN)],
    "relaycheck": [(PLAIN, PLAIN)],
    "MXToolbox": [(EXT, PLAIN)],
    "nuclei": [(EXT, PLAIN)],
    "chkrelay": [(EXT, "<user%sink.example@shop.example>")],
    "AppRiver": [("<sender@shop.example>", PLAIN)],
    "19-form script": [
        (EXT, PLAIN),
        (EXT, NAKED),
        ("<sender>", PLAIN),
        ("<>", PLAIN),
        (IP, PLAIN),
        (HOST, PLAIN),
        (IP, "<user%sink.example@[192.0.2.1]>"),
        (IP, QUOTED),
        (IP, '<"user%sink.example">'),
        (IP, "<user@sink.example@[192.0.2.1]>"),
        (IP, '<"user@sink.example"@[192.0.2.1]>'),
        (IP, "<@[192.0.2.1]:user@sink.example>"),
        (IP, "<mx.shop.example:user@sink.example>"),
        (IP, "<sink.example!user>"),
        (IP, "<sink.example!user@[192.0.2.1]>"),
        (IP, "<user%sink.example@>"),
        (IP, "<user@sink.example@>"),
    ],
}


def wire_of(form: Form, names: Names = NAMES) -> tuple[str, str]:
    """What a form is on the wire; its sender's made-up label is the word RANDOM."""
    values = {**names.texts, **ASKER.texts, "user": "user", "sender": "sender"}
    envelope: Envelope = form.envelope(values)
    sender = envelope.reverse_path.decode().replace("@sender.", "@RANDOM.")
    return sender, envelope.forward_path.decode()


OURS = {wire_of(form) for form in distinct(BATTERY.forms, NAMES, asker=ASKER)}


def test_every_peer_has_its_lines_here():
    assert [peer.name for peer in BATTERY.peers] == list(WIRE)


@pytest.mark.parametrize("name", WIRE)
def test_what_a_peer_sends_we_send_too(name):
    assert [wire for wire in WIRE[name] if wire not in OURS] == []


@pytest.mark.parametrize("peer", BATTERY.peers, ids=lambda peer: peer.name)
def test_the_list_of_a_peer_is_what_it_sends_in_its_order(peer):
    assert [wire_of(BY_ID[form]) for form in peer.forms] == list(dict.fromkeys(WIRE[peer.name]))


@pytest.mark.parametrize(
    ("name", "count"),
    [("nmap", 16), ("Metasploit", 15), ("abuse.net", 17), ("mailradar", 19), ("gatorhole", 20)],
)
def test_the_well_known_lists_are_whole(name, count):
    assert len(BATTERY.peer(name).forms) == count


def test_the_list_of_nessus_is_its_seventeen_and_two_of_their_own():
    assert len(WIRE["Nessus"]) == 17 + 2
    assert len(BATTERY.peer("Nessus").forms) == 16 + 2  # the null sender stands there twice


def test_nuclei_says_localhost_as_goes_library_does():
    (form,) = BATTERY.peer("nuclei").forms
    assert BY_ID[form].helo is Helo.LOCALHOST
    assert ehlo_name(BY_ID[form].helo, NAMES, ASKER) == "localhost"


@pytest.mark.parametrize("peer", BATTERY.peers, ids=lambda peer: peer.name)
def test_every_peer_says_where_its_list_is_to_be_seen(peer):
    assert peer.source


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_a_form_is_sent_by_those_that_list_it(form):
    assert form.sent_by == tuple(peer.name for peer in BATTERY.peers if form.id in peer.forms)


@pytest.mark.parametrize("name", ["nmap", "NMAP", "Nmap"])
def test_a_peer_is_found_in_any_letter_case(name):
    assert BATTERY.peer(name).name == "nmap"


def test_an_unknown_peer_is_none():
    assert BATTERY.peer("swaks") is None


# ---- reading

TABLE = {"name": "A", "source": "s", "forms": ["S/R", "S/Q"]}


def read(*tables) -> tuple[Peer, ...]:
    return parse_peers({"peer": list(tables)}, {"S/R", "S/Q"})


def test_a_peer_is_read():
    assert read(TABLE) == (Peer("A", "s", ("S/R", "S/Q"), ""),)


def test_a_note_may_be_added():
    assert read(TABLE | {"note": "n"})[0].note == "n"


def test_a_battery_without_peers_has_none():
    assert parse_peers({}, ()) == ()
    assert Battery(()).peers == ()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"forms": ["S/X"]}, r"peer 1 \(A\): no such form: S/X"),
        ({"forms": ["S/R", "S/R"]}, r"peer 1 \(A\): a form is named twice"),
        ({"forms": "S/R"}, r"peer 1 \(A\): key 'forms'"),
        ({"name": 3}, r"peer 1 \(3\): key 'name'"),
        ({"source": None}, r"peer 1 \(A\): key 'source'"),
        ({"url": ""}, r"peer 1 \(A\): unknown key 'url'; known: forms, name, note, source"),
        ({"note": 1}, r"peer 1 \(A\): key 'note'"),
    ],
)
def test_a_malformed_peer_is_refused(table, told):
    with pytest.raises(BatteryError, match=told):
        read(TABLE | table)


def test_a_name_is_taken_in_any_letter_case():
    with pytest.raises(BatteryError, match=r"peer 2 \(a\): the name is taken"):
        read(TABLE, TABLE | {"name": "a"})


def test_the_senders_of_a_form_stand_in_the_order_of_the_file():
    peers = [Peer("B", "", ("S/R", "S/Q"), ""), Peer("A", "", ("S/R",), "")]
    assert senders_of(peers) == {"S/R": ("B", "A"), "S/Q": ("B",)}
