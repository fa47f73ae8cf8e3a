"""The battery: every form, byte for byte, under numbers that never change."""

from collections import Counter
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.errors import BatteryError
from relaytest.core.probe import CONTROL, Battery, Envelope, Form, Path, parse_battery

TEXT = (files("relaytest.core") / "battery.toml").read_text(encoding="utf-8")
BATTERY = parse_battery(TEXT)
BY_ID = {form.id: form for form in BATTERY.forms}
VALUES = {
    "user": "uuuuuu",
    "sender": "ssssss",
    "sink": "sink.example",
    "host": "mx.shop.example",
    "domain": "shop.example",
    "literal": "[192.0.2.1]",
}

PLAIN = b"<uuuuuu@sink.example>"
EXTERNAL = b"<ssssss@sink.example>"
TIER_1 = {
    "S-EXT/R-PLAIN": (EXTERNAL, PLAIN),
    "S-NULL/R-PLAIN": (b"<>", PLAIN),
    "S-DOM/R-PLAIN": (b"<ssssss@shop.example>", PLAIN),
    "S-PM/R-PLAIN": (b"<postmaster@shop.example>", PLAIN),
    "S-NODOM/R-PLAIN": (b"<ssssss>", PLAIN),
    "S-IP/R-PLAIN": (b"<ssssss@[192.0.2.1]>", PLAIN),
    "S-LOCALHOST/R-PLAIN": (b"<ssssss@localhost>", PLAIN),
    "S-SELF/R-PLAIN": (PLAIN, PLAIN),
}
TIER_2 = {
    "S-EXT/R-P-D": (EXTERNAL, b"<uuuuuu%sink.example@shop.example>"),
    "S-EXT/R-P-H": (EXTERNAL, b"<uuuuuu%sink.example@mx.shop.example>"),
    "S-EXT/R-P-I": (EXTERNAL, b"<uuuuuu%sink.example@[192.0.2.1]>"),
    "S-EXT/R-Q": (EXTERNAL, b'<"uuuuuu@sink.example">'),
    "S-EXT/R-QA-H": (EXTERNAL, b'<"uuuuuu@sink.example"@mx.shop.example>'),
    "S-EXT/R-AA-H": (EXTERNAL, b"<uuuuuu@sink.example@mx.shop.example>"),
    "S-EXT/R-AA-I": (EXTERNAL, b"<uuuuuu@sink.example@[192.0.2.1]>"),
    "S-EXT/R-RT-H": (EXTERNAL, b"<@mx.shop.example:uuuuuu@sink.example>"),
    "S-EXT/R-RT-I": (EXTERNAL, b"<@[192.0.2.1]:uuuuuu@sink.example>"),
    "S-EXT/R-B": (EXTERNAL, b"<sink.example!uuuuuu>"),
    "S-EXT/R-B-H": (EXTERNAL, b"<sink.example!uuuuuu@mx.shop.example>"),
    "S-EXT/R-NOBR": (EXTERNAL, b"uuuuuu@sink.example"),
}
QUICK = TIER_1 | TIER_2
TRICKS = [form_id.partition("/")[2] for form_id in TIER_2]

# Stored with evidence and inside tokens: a row may be added, none may ever change or go.
NUMBERS = {
    "S-EXT/R-PLAIN": 257,
    "S-NULL/R-PLAIN": 513,
    "S-DOM/R-PLAIN": 769,
    "S-PM/R-PLAIN": 1025,
    "S-NODOM/R-PLAIN": 1281,
    "S-IP/R-PLAIN": 1537,
    "S-LOCALHOST/R-PLAIN": 1793,
    "S-SELF/R-PLAIN": 2049,
    "S-EXT/R-P-D": 258,
    "S-EXT/R-P-H": 259,
    "S-EXT/R-P-I": 260,
    "S-EXT/R-Q": 261,
    "S-EXT/R-QA-H": 262,
    "S-EXT/R-AA-H": 263,
    "S-EXT/R-AA-I": 264,
    "S-EXT/R-RT-H": 265,
    "S-EXT/R-RT-I": 266,
    "S-EXT/R-B": 267,
    "S-EXT/R-B-H": 268,
    "S-EXT/R-NOBR": 269,
    "S-DOM/R-P-D": 770,
    "S-DOM/R-P-H": 771,
    "S-DOM/R-P-I": 772,
    "S-DOM/R-Q": 773,
    "S-DOM/R-QA-H": 774,
    "S-DOM/R-AA-H": 775,
    "S-DOM/R-AA-I": 776,
    "S-DOM/R-RT-H": 777,
    "S-DOM/R-RT-I": 778,
    "S-DOM/R-B": 779,
    "S-DOM/R-B-H": 780,
    "S-DOM/R-NOBR": 781,
    "S-IP/R-P-D": 1538,
    "S-IP/R-P-H": 1539,
    "S-IP/R-P-I": 1540,
    "S-IP/R-Q": 1541,
    "S-IP/R-QA-H": 1542,
    "S-IP/R-AA-H": 1543,
    "S-IP/R-AA-I": 1544,
    "S-IP/R-RT-H": 1545,
    "S-IP/R-RT-I": 1546,
    "S-IP/R-B": 1547,
    "S-IP/R-B-H": 1548,
    "S-IP/R-NOBR": 1549,
    "S-NULL/R-P-D": 514,
    "S-NULL/R-P-H": 515,
    "S-NULL/R-P-I": 516,
    "S-NULL/R-Q": 517,
    "S-NULL/R-QA-H": 518,
    "S-NULL/R-AA-H": 519,
    "S-NULL/R-AA-I": 520,
    "S-NULL/R-RT-H": 521,
    "S-NULL/R-RT-I": 522,
    "S-NULL/R-B": 523,
    "S-NULL/R-B-H": 524,
    "S-NULL/R-NOBR": 525,
}
ODD = {
    "S-NODOM/R-PLAIN",
    "S-IP/R-PLAIN",
    "S-EXT/R-P-I",
    "S-EXT/R-Q",
    "S-EXT/R-AA-H",
    "S-EXT/R-AA-I",
    "S-EXT/R-RT-I",
    "S-EXT/R-NOBR",
}


def ids_of(forms):
    return [form.id for form in forms]


# ---- the shipped battery


def test_the_first_tier_is_eight_senders_with_the_plain_recipient():
    assert ids_of(BATTERY.up_to(1)) == list(TIER_1)


def test_the_quick_battery_adds_twelve_recipient_tricks():
    assert ids_of(BATTERY.up_to(2)) == list(QUICK)


def test_the_third_tier_is_the_tricks_with_three_more_senders():
    third = ids_of(form for form in BATTERY.forms if form.tier == 3)
    assert third == [
        f"{sender}/{trick}" for trick in TRICKS for sender in ("S-DOM", "S-IP", "S-NULL")
    ]


def test_forms_are_sent_tier_by_tier():
    assert [form.tier for form in BATTERY.forms] == [1] * 8 + [2] * 12 + [3] * 36


def test_the_highest_tier_is_the_whole_battery():
    assert BATTERY.up_to(255) == BATTERY.forms


@pytest.mark.parametrize(("form_id", "wire"), QUICK.items(), ids=QUICK)
def test_each_form_goes_over_the_wire_byte_for_byte(form_id, wire):
    assert BY_ID[form_id].envelope(VALUES) == Envelope(*wire)


@pytest.mark.parametrize("form_id", TIER_2)
def test_a_trick_is_the_same_whatever_the_sender(form_id):
    trick = form_id.partition("/")[2]
    paths = {BY_ID[f"{one}/{trick}"].envelope(VALUES).forward_path for one in ("S-DOM", "S-NULL")}
    assert paths == {QUICK[form_id][1]}


def test_every_form_has_its_number_for_ever():
    assert {form.id: form.number for form in BATTERY.forms} == NUMBERS


def test_no_two_forms_share_a_number():
    assert max(Counter(form.number for form in BATTERY.forms).values()) == 1


def test_no_form_has_the_number_of_the_control_recipient():
    assert CONTROL == 0
    assert CONTROL not in BATTERY.by_number()


def test_every_form_is_found_by_its_number():
    assert [BATTERY.by_number()[NUMBERS[form_id]].id for form_id in NUMBERS] == list(NUMBERS)


def test_these_forms_of_the_quick_battery_are_often_syntax_errors():
    assert {form.id for form in BATTERY.up_to(2) if form.odd} == ODD


def test_no_two_forms_of_the_battery_have_the_same_envelope():
    envelopes = Counter(form.envelope(VALUES) for form in BATTERY.forms)
    assert max(envelopes.values()) == 1


def test_the_proving_mailbox_is_in_every_forward_path():
    assert all(b"uuuuuu" in form.envelope(VALUES).forward_path for form in BATTERY.forms)


def test_only_one_form_sends_to_itself():
    assert [form.id for form in BATTERY.forms if form.bounces_to_itself] == ["S-SELF/R-PLAIN"]


def test_no_form_names_the_loopback_address_that_makes_domino_loop():
    templates = {path.template for form in BATTERY.forms for path in (form.sender, form.recipient)}
    assert not [template for template in templates if "127.0.0.1" in template]


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_every_form_says_what_it_is_for_and_who_sends_it(form):
    assert form.catches
    assert form.sent_by


# ---- what a form says of itself

SELF = Path("S-SELF", 8, "<${user}@${sink}>", "self", ("Nessus",), odd=False)
ELSEWHERE = Path("S-EXT", 1, "<${sender}@${sink}>", "wide open", ("nmap",), odd=False)
EVERYONE = Path("R-PLAIN", 1, "<${user}@${sink}>", "no check", ("everyone",), odd=False)
HACK = Path("R-P-H", 3, "<${user}%${sink}@${host}>", "percent hack", ("DSBL",), odd=False)
QUOTED = Path("R-Q", 5, '<"${user}@${sink}">', "quotes", ("ORBS",), odd=True)
NAKED = Path("R-NOBR", 13, "${user}@${sink}", "no brackets", ("ORBS",), odd=True)


def test_a_form_is_named_and_numbered_by_its_paths():
    form = Form(ELSEWHERE, HACK, 2)
    assert (form.id, form.number) == ("S-EXT/R-P-H", 0x0103)


@pytest.mark.parametrize(
    ("recipient", "catches", "sent_by"),
    [(EVERYONE, "wide open", ("nmap",)), (HACK, "percent hack", ("DSBL",))],
    ids=["plain", "trick"],
)
def test_a_form_is_for_its_trick_or_else_for_its_sender(recipient, catches, sent_by):
    form = Form(ELSEWHERE, recipient, 1)
    assert (form.catches, form.sent_by) == (catches, sent_by)


@pytest.mark.parametrize(
    ("sender", "recipient", "odd"),
    [
        (ELSEWHERE, EVERYONE, False),
        (ELSEWHERE, QUOTED, True),
        (QUOTED, EVERYONE, True),
        (QUOTED, NAKED, True),
    ],
    ids=["neither", "recipient", "sender", "both"],
)
def test_a_form_is_odd_if_either_path_is(sender, recipient, odd):
    assert Form(sender, recipient, 1).odd is odd


@pytest.mark.parametrize("recipient", [EVERYONE, HACK, QUOTED, NAKED], ids=lambda path: path.id)
def test_whatever_the_trick_mail_from_the_proving_mailbox_bounces_to_itself(recipient):
    """Else a bounce to the proving mailbox would count as a relayed copy."""
    assert Form(SELF, recipient, 1).bounces_to_itself


@pytest.mark.parametrize("recipient", [EVERYONE, HACK, QUOTED, NAKED], ids=lambda path: path.id)
def test_mail_from_the_other_mailbox_does_not_bounce_to_itself(recipient):
    assert not Form(ELSEWHERE, recipient, 1).bounces_to_itself


@pytest.mark.parametrize("missing", ["user", "sink", "host"])
def test_an_envelope_needs_a_value_for_each_of_its_placeholders(missing):
    values = {key: value for key, value in VALUES.items() if key != missing}
    with pytest.raises(KeyError, match=missing):
        Form(ELSEWHERE, HACK, 1).envelope(values)


def test_an_envelope_is_ascii_only():
    with pytest.raises(UnicodeEncodeError):
        Form(ELSEWHERE, HACK, 1).envelope(VALUES | {"host": "mäx.shop.example"})


# ---- battery files

SENDER = 'id = "S"\nnumber = 1\npath = "<>"\ncatches = "x"\nsent_by = []\n'
RECIPIENT = 'id = "R"\nnumber = 1\npath = "<${user}@${sink}>"\ncatches = "y"\nsent_by = ["z"]\n'
TIER = 'number = 1\nsenders = ["S"]\nrecipients = ["R"]\n'


def battery(sender=SENDER, recipient=RECIPIENT, tier=TIER, more=""):
    """A battery file of one form, or with what is given in place of a table's rows."""
    return f"{more}\n[[sender]]\n{sender}[[recipient]]\n{recipient}[[tier]]\n{tier}"


def without(rows, key):
    return "".join(line + "\n" for line in rows.splitlines() if not line.startswith(key))


def with_(rows, line):
    """Rows with one of them replaced, or added."""
    return without(rows, line.partition(" ")[0]) + line + "\n"


def test_the_smallest_battery_has_one_form():
    sender = Path("S", 1, "<>", "x", (), odd=False)
    recipient = Path("R", 1, "<${user}@${sink}>", "y", ("z",), odd=False)
    assert parse_battery(battery()) == Battery((Form(sender, recipient, 1),))


def test_a_form_of_two_tiers_is_sent_once_in_the_first():
    text = battery() + "[[tier]]\n" + with_(TIER, "number = 2")
    assert [(form.id, form.tier) for form in parse_battery(text).forms] == [("S/R", 1)]


def test_every_sender_goes_with_each_recipient_recipients_outermost():
    text = (
        battery(tier='number = 1\nsenders = ["S", "T"]\nrecipients = ["R", "Q"]\n')
        + "[[sender]]\n"
        + with_(with_(SENDER, 'id = "T"'), "number = 2")
        + "[[recipient]]\n"
        + with_(with_(RECIPIENT, 'id = "Q"'), "number = 2")
    )
    assert ids_of(parse_battery(text).forms) == ["S/R", "T/R", "S/Q", "T/Q"]


def test_odd_may_be_told():
    text = battery(sender=with_(SENDER, "odd = true"))
    assert [form.odd for form in parse_battery(text).forms] == [True]


def test_a_number_may_be_up_to_255():
    text = battery(sender=with_(SENDER, "number = 255"))
    assert [form.number for form in parse_battery(text).forms] == [0xFF01]


MALFORMED = {
    "not-toml": ("[[sender", "not TOML"),
    "empty": ("", "the battery has no form"),
    "no-tier": (f"[[sender]]\n{SENDER}[[recipient]]\n{RECIPIENT}", "the battery has no form"),
    "empty-tier": (battery(tier=with_(TIER, "senders = []")), "the battery has no form"),
    "unknown-table": (battery(more="[extra]"), "the battery: unknown key 'extra'; known: recip"),
    "unknown-key-of-a-sender": (
        battery(sender=with_(SENDER, "oddd = true")),
        r"sender 1 \(S\): unknown key 'oddd'; known: catches, id, number, odd",
    ),
    "unknown-key-of-a-recipient": (
        battery(recipient=with_(RECIPIENT, "x = 1")),
        r"recipient 1 \(R\): unknown key 'x'",
    ),
    "unknown-key-of-a-tier": (battery(tier=with_(TIER, "x = 1")), "tier 1: unknown key 'x'"),
    "no-id": (battery(sender=without(SENDER, "id")), r"sender 1 \(no id\): key 'id' is missing"),
    "id-is-no-text": (battery(sender=with_(SENDER, "id = 7")), r"sender 1 \(7\): key 'id'"),
    "no-number": (battery(sender=without(SENDER, "number")), r"sender 1 \(S\): key 'number'"),
    "number-is-text": (battery(sender=with_(SENDER, 'number = "1"')), r"\(S\): key 'number'"),
    "number-is-a-boolean": (battery(sender=with_(SENDER, "number = true")), r"\(S\).*'number'"),
    "number-zero": (battery(sender=with_(SENDER, "number = 0")), r"sender 1 \(S\): number is 0"),
    "number-256": (battery(recipient=with_(RECIPIENT, "number = 256")), r"\(R\): number is 256"),
    "no-path": (battery(recipient=without(RECIPIENT, "path")), r"recipient 1 \(R\): key 'path'"),
    "no-catches": (battery(sender=without(SENDER, "catches")), r"\(S\): key 'catches'"),
    "no-sent-by": (battery(sender=without(SENDER, "sent_by")), r"\(S\): key 'sent_by'"),
    "sent-by-is-text": (battery(sender=with_(SENDER, 'sent_by = "x"')), r"\(S\): key 'sent_by'"),
    "sent-by-has-a-number": (battery(sender=with_(SENDER, "sent_by = [1]")), r"\(S\).*'sent_by'"),
    "odd-is-text": (battery(sender=with_(SENDER, 'odd = "no"')), r"sender 1 \(S\).*'odd'"),
    "unknown-placeholder": (
        battery(sender=with_(SENDER, 'path = "<${nobody}>"')),
        r"sender 1 \(S\): path '<\$\{nobody\}>': only .* of domain, host, literal, sender",
    ),
    "upper-case-placeholder": (
        battery(sender=with_(SENDER, 'path = "<${USER}>"')),
        r"sender 1 \(S\): path",
    ),
    "bare-dollar": (battery(sender=with_(SENDER, 'path = "<$>"')), r"sender 1 \(S\): path"),
    "path-not-ascii": (
        battery(recipient=with_(RECIPIENT, 'path = "<ä>"')),
        r"recipient 1 \(R\): path '<ä>' must be printable ASCII",
    ),
    "path-with-a-line-end": (
        battery(recipient=with_(RECIPIENT, 'path = "<>\\r\\nDATA"')),
        r"recipient 1 \(R\): path .* must be printable ASCII",
    ),
    "id-taken": (
        battery() + "[[sender]]\n" + with_(SENDER, "number = 2"),
        r"sender 2 \(S\): id or number 2 is taken",
    ),
    "number-taken": (
        battery() + "[[sender]]\n" + with_(SENDER, 'id = "T"'),
        r"sender 2 \(T\): id or number 1 is taken",
    ),
    "tier-without-number": (battery(tier=without(TIER, "number")), "tier 1: key 'number'"),
    "tier-without-senders": (battery(tier=without(TIER, "senders")), "tier 1: key 'senders'"),
    "tier-without-recipients": (
        battery(tier=without(TIER, "recipients")),
        "tier 1: key 'recipients'",
    ),
    "no-such-sender": (
        battery(tier=with_(TIER, 'senders = ["T"]')),
        "tier 1: no such sender or recipient: T, R",
    ),
    "no-such-recipient": (
        battery() + "[[tier]]\n" + with_(TIER, 'recipients = ["Q"]'),
        "tier 2: no such sender or recipient: S, Q",
    ),
    "sender-of-a-tier-is-a-list": (battery(tier=with_(TIER, 'senders = [["S"]]')), "tier 1"),
    "senders-are-a-number": ("sender = 3", "sender"),
    "senders-are-one-table": (f"[sender]\n{SENDER}", "sender"),
    "senders-are-texts": ('sender = ["S"]', "sender 1"),
    "tiers-are-a-number": (f"tier = 3\n[[sender]]\n{SENDER}[[recipient]]\n{RECIPIENT}", "tier"),
    "tiers-are-one-table": (
        f"[[sender]]\n{SENDER}[[recipient]]\n{RECIPIENT}[tier]\n{TIER}",
        "tier",
    ),
    "tiers-are-texts": (f'tier = ["1"]\n[[sender]]\n{SENDER}', "tier 1"),
}


@pytest.mark.parametrize(("text", "place"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_battery_is_refused_naming_the_place(text, place):
    with pytest.raises(BatteryError, match=place):
        parse_battery(text)


@given(
    st.integers(0, len(TEXT)),
    st.integers(0, 40),
    st.text(st.sampled_from('[]{}"=$<>@\n ,x1#'), max_size=8),
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_a_damaged_battery_is_read_or_refused(place, length, put):
    damaged = TEXT[:place] + put + TEXT[place + length :]
    try:
        forms = parse_battery(damaged).forms
    except BatteryError:
        return
    assert forms
