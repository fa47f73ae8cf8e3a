"""The battery: every form, byte for byte, under numbers that never change."""

import re
import string
from collections import Counter
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.errors import BatteryError
from relaytest.core.probe import (
    CONTROL,
    LAST_SHIPPED,
    MOST_EXTRA,
    PLACEHOLDERS,
    Battery,
    Envelope,
    Extra,
    Form,
    Helo,
    LeftOut,
    Path,
    parse_battery,
    template_fault,
)

TEXT = (files("relaytest.core") / "battery.toml").read_text(encoding="utf-8")
BATTERY = parse_battery(TEXT)
BY_ID = {form.id: form for form in BATTERY.forms}
VALUES = {
    "user": "uuuuuu",
    "sender": "ssssss",
    "sink": "sink.example",
    "sink_upper": "SINK.EXAMPLE",
    "sink_imcea": "sink+2Eexample",
    "other": "sink.test",
    "host": "mx.shop.example",
    "host2": "mx2.shop.example",
    "domain": "shop.example",
    "domain2": "mail.shop.example",
    "literal": "[192.0.2.1]",
    "ip": "192.0.2.1",
    "arpa": "1.2.0.192.in-addr.arpa",
    "ptr": "relay.isp.example",
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
    "S-DOM2/R-PLAIN": (b"<ssssss@mail.shop.example>", PLAIN),
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
    "S-EXT/R-P-D2": (EXTERNAL, b"<uuuuuu%sink.example@mail.shop.example>"),
}
QUICK = TIER_1 | TIER_2
TRICKS = [form_id.partition("/")[2] for form_id in TIER_2][:12]
SENDERS_4 = {
    "S-HOST": b"<ssssss@mx.shop.example>",
    "S-EXT2": b"<ssssss@sink.test>",
    "S-SUB": b"<ssssss@ssssss.sink.example>",
    "S-IPBARE": b"<ssssss@192.0.2.1>",
    "S-ARPA": b"<ssssss@1.2.0.192.in-addr.arpa>",
    "S-PM-H": b"<postmaster@mx.shop.example>",
    "S-ADMIN": b"<admin@shop.example>",
    "S-INFO": b"<info@shop.example>",
    "S-BANG": b"<sink.example!ssssss>",
    "S-BANG-T": b"<mx.shop.example!ssssss>",
    "S-EXT.LOCALHOST": EXTERNAL,
    "S-EXT.HOST": EXTERNAL,
    "S-EXT.DOMAIN": EXTERNAL,
    "S-EXT.LITERAL": EXTERNAL,
    "S-DOM.HOST": b"<ssssss@shop.example>",
    "S-LOCALHOST.LOCALHOST": b"<ssssss@localhost>",
    "S-AUTH": b"<ssssss@sink.example> AUTH=postmaster@shop.example",
}
TRICKS_4 = {
    "R-QP": b'<"uuuuuu%sink.example">',
    "R-P0": b"<uuuuuu%sink.example>",
    "R-P-H2": b"<uuuuuu%sink.example@mx2.shop.example>",
    "R-P-PTR": b"<uuuuuu%sink.example@relay.isp.example>",
    "R-P-IPBARE": b"<uuuuuu%sink.example@192.0.2.1>",
    "R-AA-IPBARE": b"<uuuuuu@sink.example@192.0.2.1>",
    "R-B-IPBARE": b"<sink.example!uuuuuu@192.0.2.1>",
    "R-RT-IPBARE": b"<@192.0.2.1:uuuuuu@sink.example>",
    "R-QA-I": b'<"uuuuuu@sink.example"@[192.0.2.1]>',
    "R-AA-O": b"<uuuuuu@sink.example@sink.test>",
    "R-B-I": b"<sink.example!uuuuuu@[192.0.2.1]>",
    "R-B-D": b"<sink.example!uuuuuu@shop.example>",
    "R-RT-BAD": b"<mx.shop.example:uuuuuu@sink.example>",
    "R-P-NULL": b"<uuuuuu%sink.example@>",
    "R-A-NULL": b"<uuuuuu@sink.example@>",
    "R-OTHER": b"<uuuuuu@sink.test>",
    "R-DOT": b"<uuuuuu@sink.example.>",
    "R-UPPER": b"<uuuuuu@SINK.EXAMPLE>",
    "V-IMCEA": b"<IMCEASMTP-uuuuuu+40sink+2Eexample@shop.example>",
    "V-DOMCOMMA": b'<"a@sink.test, uuuuuu@sink.example"@shop.example>',
    "V-SRS": b"<SRS0=AAAA=AA=sink.example=uuuuuu@shop.example>",
    "V-VERP": b"<list-uuuuuu=sink.example@shop.example>",
    "V-ORCPT": b"<uuuuuu@sink.example> ORCPT=rfc822;postmaster@shop.example",
    "V-ANGLE2": b"<<uuuuuu@sink.example>>",
    "V-COMMENT": b"<uuuuuu(c)@sink.example>",
    "V-COMMENT-D": b"<uuuuuu@sink.example(shop.example)>",
    "V-PHRASE": b'"postmaster" <uuuuuu@sink.example>',
}
UTF8 = b"<ssssss@sink.example> SMTPUTF8"
OTHERS_4 = {
    "S-IP/R-B-I": (b"<ssssss@[192.0.2.1]>", b"<sink.example!uuuuuu@[192.0.2.1]>"),
    "S-HOST/R-PB-NULL": (b"<ssssss@mx.shop.example>", b"<uuuuuu%[sink.example]@>"),
    "S-HOST/R-AB-NULL": (b"<ssssss@mx.shop.example>", b"<uuuuuu@[sink.example]@>"),
    "S-BANG/R-NOBR": (b"<sink.example!ssssss>", b"uuuuuu@sink.example"),
    "S-NULL/R-NOBR-SP": (b"<>", b" uuuuuu@sink.example"),
    "S-UTF8/V-UTF8-P": (UTF8, "<uuuuuu\uff05sink.example@shop.example>".encode()),
    "S-UTF8/V-UTF8-A": (UTF8, "<uuuuuu\uff20sink.example@shop.example>".encode()),
}
TIER_4 = (
    {f"{sender}/R-PLAIN": (path, PLAIN) for sender, path in SENDERS_4.items()}
    | {f"S-EXT/{trick}": (EXTERNAL, path) for trick, path in TRICKS_4.items()}
    | OTHERS_4
)

# Stored with evidence and inside tokens: a row may be added, none may ever change or go.
SENDER_NUMBERS = {
    "S-EXT": 1,
    "S-NULL": 2,
    "S-DOM": 3,
    "S-PM": 4,
    "S-NODOM": 5,
    "S-IP": 6,
    "S-LOCALHOST": 7,
    "S-SELF": 8,
    "S-DOM2": 9,
    "S-HOST": 10,
    "S-EXT2": 11,
    "S-SUB": 12,
    "S-IPBARE": 13,
    "S-ARPA": 14,
    "S-PM-H": 15,
    "S-ADMIN": 16,
    "S-INFO": 17,
    "S-BANG": 18,
    "S-BANG-T": 19,
    "S-EXT.LOCALHOST": 20,
    "S-EXT.HOST": 21,
    "S-EXT.DOMAIN": 22,
    "S-EXT.LITERAL": 23,
    "S-DOM.HOST": 24,
    "S-LOCALHOST.LOCALHOST": 25,
    "S-AUTH": 26,
    "S-UTF8": 27,
}
RECIPIENT_NUMBERS = {
    "R-PLAIN": 1,
    "R-P-D": 2,
    "R-P-H": 3,
    "R-P-I": 4,
    "R-Q": 5,
    "R-QA-H": 6,
    "R-AA-H": 7,
    "R-AA-I": 8,
    "R-RT-H": 9,
    "R-RT-I": 10,
    "R-B": 11,
    "R-B-H": 12,
    "R-NOBR": 13,
    "R-P-D2": 14,
    "R-P-H2": 15,
    "R-P-PTR": 16,
    "R-P-IPBARE": 17,
    "R-AA-IPBARE": 18,
    "R-B-IPBARE": 19,
    "R-RT-IPBARE": 20,
    "R-QP": 21,
    "R-P0": 22,
    "R-P-NULL": 23,
    "R-A-NULL": 24,
    "R-PB-NULL": 25,
    "R-AB-NULL": 26,
    "R-QA-I": 27,
    "R-AA-O": 28,
    "R-B-I": 29,
    "R-B-D": 30,
    "R-RT-BAD": 31,
    "R-NOBR-SP": 32,
    "R-OTHER": 33,
    "R-DOT": 34,
    "R-UPPER": 35,
    "V-IMCEA": 36,
    "V-DOMCOMMA": 37,
    "V-SRS": 38,
    "V-VERP": 39,
    "V-ORCPT": 40,
    "V-ANGLE2": 41,
    "V-COMMENT": 42,
    "V-COMMENT-D": 43,
    "V-PHRASE": 44,
    "V-UTF8-P": 45,
    "V-UTF8-A": 46,
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
    "S-EXT/R-B",  # it has no domain
}


def ids_of(forms):
    return [form.id for form in forms]


# ---- the shipped battery


def test_the_first_tier_is_nine_senders_with_the_plain_recipient():
    assert ids_of(BATTERY.up_to(1)) == list(TIER_1)


def test_the_quick_battery_adds_thirteen_recipient_tricks():
    assert ids_of(BATTERY.up_to(2)) == list(QUICK)


def test_the_third_tier_is_the_tricks_with_three_more_senders():
    third = ids_of(form for form in BATTERY.forms if form.tier == 3)
    assert third == [
        f"{sender}/{trick}" for trick in TRICKS for sender in ("S-DOM", "S-IP", "S-NULL")
    ]


def test_forms_are_sent_tier_by_tier():
    assert [form.tier for form in BATTERY.forms] == [1] * 9 + [2] * 13 + [3] * 36 + [4] * 74


def test_the_highest_tier_is_the_whole_battery():
    assert BATTERY.up_to(255) == BATTERY.forms


@pytest.mark.parametrize(("form_id", "wire"), (QUICK | TIER_4).items(), ids=QUICK | TIER_4)
def test_each_form_goes_over_the_wire_byte_for_byte(form_id, wire):
    assert BY_ID[form_id].envelope(VALUES) == Envelope(*wire)


def test_every_path_of_the_battery_is_spelled_out_above():
    wires = (QUICK | TIER_4).values()
    assert {form.envelope(VALUES).reverse_path for form in BATTERY.forms} == {
        sender for sender, _ in wires
    }
    assert {form.envelope(VALUES).forward_path for form in BATTERY.forms} == {
        recipient for _, recipient in wires
    }


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_a_path_is_the_same_whatever_it_goes_with(form):
    wires = {key: wire for wires in (QUICK, TIER_4) for key, wire in wires.items()}
    senders = {key.partition("/")[0]: wire[0] for key, wire in wires.items()}
    recipients = {key.partition("/")[2]: wire[1] for key, wire in wires.items()}
    expected = Envelope(senders[form.sender.id], recipients[form.recipient.id])
    assert form.envelope(VALUES) == expected


def test_every_row_is_part_of_a_form():
    assert {form.sender.id for form in BATTERY.forms} == set(SENDER_NUMBERS)
    assert {form.recipient.id for form in BATTERY.forms} == set(RECIPIENT_NUMBERS)


def test_every_form_has_its_number_for_ever():
    assert {form.id: form.number for form in BATTERY.forms} == {
        form.id: SENDER_NUMBERS[form.sender.id] * 256 + RECIPIENT_NUMBERS[form.recipient.id]
        for form in BATTERY.forms
    }


def test_no_two_forms_share_a_number():
    assert max(Counter(form.number for form in BATTERY.forms).values()) == 1


def test_no_form_has_the_number_of_the_control_recipient():
    assert CONTROL == 0
    assert CONTROL not in BATTERY.by_number()


def test_every_form_is_found_by_its_number():
    assert [BATTERY.by_number()[form.number] for form in BATTERY.forms] == list(BATTERY.forms)


def test_these_forms_of_the_quick_battery_are_often_syntax_errors():
    assert {form.id for form in BATTERY.up_to(2) if form.odd} == ODD


def test_every_literal_and_every_second_at_sign_is_odd():
    """Debian's Exim counts them as syntax errors; it was asked every form of the battery."""
    for form in BATTERY.forms:
        paths = form.sender.template, form.recipient.template
        bare = re.sub(r'"[^"]*"', "q", " ".join(paths))
        if "${literal}" in bare or re.search(r"@\S*@\S*$", bare.replace("<@", "<")):
            assert form.odd, form.id


def test_no_two_forms_of_the_battery_are_the_same_on_the_wire():
    wires = Counter(
        (form.envelope(VALUES), form.helo.text(VALUES, "own")) for form in BATTERY.forms
    )
    assert max(wires.values()) == 1


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_the_proving_mailbox_at_a_domain_of_ours_is_in_every_forward_path(form):
    path = form.envelope(VALUES).forward_path.lower()
    assert b"uuuuuu" in path
    assert any(ours in path for ours in (b"sink.example", b"sink+2eexample", b"sink.test"))


def test_only_one_form_sends_to_itself():
    assert [form.id for form in BATTERY.forms if form.bounces_to_itself] == ["S-SELF/R-PLAIN"]


def test_no_form_names_the_loopback_address_that_makes_domino_loop():
    templates = {path.template for form in BATTERY.forms for path in (form.sender, form.recipient)}
    assert not [template for template in templates if "127.0.0.1" in template]


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_every_form_says_what_it_is_for(form):
    assert form.catches


def test_these_senders_say_another_name_in_ehlo():
    others = {form.sender.id: form.helo for form in BATTERY.forms if form.helo is not Helo.OWN}
    assert others == {
        "S-EXT.LOCALHOST": Helo.LOCALHOST,
        "S-EXT.HOST": Helo.HOST,
        "S-EXT.DOMAIN": Helo.DOMAIN,
        "S-EXT.LITERAL": Helo.LITERAL,
        "S-DOM.HOST": Helo.HOST,
        "S-LOCALHOST.LOCALHOST": Helo.LOCALHOST,
    }


def test_these_forms_need_an_extension():
    needed = {form.id: set(form.needs) for form in BATTERY.forms if form.needs}
    assert needed == {
        "S-AUTH/R-PLAIN": {"AUTH"},
        "S-EXT/V-ORCPT": {"DSN"},
        "S-UTF8/V-UTF8-P": {"SMTPUTF8"},
        "S-UTF8/V-UTF8-A": {"SMTPUTF8"},
    }


def test_the_quick_battery_needs_no_extension_and_only_our_own_name():
    quick = BATTERY.up_to(2)
    assert {form.helo for form in quick} == {Helo.OWN}
    assert not [form.id for form in quick if form.needs]


def test_what_is_harmful_or_a_forgery_is_left_out():
    left_out = {way.id for way in BATTERY.left_out}
    assert left_out >= {
        "S-LOOPIP",
        "V-AUTHANY",
        "V-NTLMNULL",
        "V-XCLIENT",
        "V-PROXY",
        "V-POPFIRST",
        "V-MXLOOP",
    }
    assert all(way.why for way in BATTERY.left_out)


def test_what_is_left_out_is_no_row():
    assert {way.id for way in BATTERY.left_out}.isdisjoint(SENDER_NUMBERS | RECIPIENT_NUMBERS)


# ---- what a form says of itself

SELF = Path("S-SELF", 8, "<${user}@${sink}>", "self", odd=False)
ELSEWHERE = Path("S-EXT", 1, "<${sender}@${sink}>", "wide open", odd=False)
EVERYONE = Path("R-PLAIN", 1, "<${user}@${sink}>", "no check", odd=False)
HACK = Path("R-P-H", 3, "<${user}%${sink}@${host}>", "percent hack", odd=False)
QUOTED = Path("R-Q", 5, '<"${user}@${sink}">', "quotes", odd=True)
NAKED = Path("R-NOBR", 13, "${user}@${sink}", "no brackets", odd=True)


def test_a_form_is_named_and_numbered_by_its_paths():
    form = Form(ELSEWHERE, HACK, 2)
    assert (form.id, form.number) == ("S-EXT/R-P-H", 0x0103)


@pytest.mark.parametrize(
    ("recipient", "catches"),
    [(EVERYONE, "wide open"), (HACK, "percent hack")],
    ids=["plain", "trick"],
)
def test_a_form_is_for_its_trick_or_else_for_its_sender(recipient, catches):
    assert Form(ELSEWHERE, recipient, 1).catches == catches


@pytest.mark.parametrize(
    ("helo", "text"),
    [
        (Helo.OWN, "probe.example"),
        (Helo.LOCALHOST, "localhost"),
        (Helo.HOST, "mx.shop.example"),
        (Helo.DOMAIN, "shop.example"),
        (Helo.LITERAL, "[192.0.2.1]"),
    ],
    ids=lambda one: one.value if isinstance(one, Helo) else None,
)
def test_each_name_in_ehlo_has_its_text(helo, text):
    assert helo.text(VALUES, "probe.example") == text


@pytest.mark.parametrize(
    ("helo", "claim"),
    [
        (Helo.OWN, "MAIL FROM:<${sender}@${sink}>"),
        (Helo.LOCALHOST, "EHLO localhost, MAIL FROM:<${sender}@${sink}>"),
        (Helo.HOST, "EHLO ${host}, MAIL FROM:<${sender}@${sink}>"),
    ],
    ids=["own", "localhost", "host"],
)
def test_a_form_says_whom_it_claims_to_be(helo, claim):
    assert Form(replace(ELSEWHERE, helo=helo), EVERYONE, 1).claim == claim


def test_a_form_needs_what_either_path_needs():
    sender, recipient = replace(ELSEWHERE, needs="SMTPUTF8"), replace(EVERYONE, needs="DSN")
    assert Form(sender, recipient, 1).needs == {"SMTPUTF8", "DSN"}
    assert Form(ELSEWHERE, recipient, 1).needs == {"DSN"}
    assert Form(ELSEWHERE, EVERYONE, 1).needs == frozenset()


def test_a_path_knows_its_placeholders():
    assert HACK.wants == {"user", "sink", "host"}
    assert NAKED.wants == {"user", "sink"}


@given(
    st.lists(
        st.sampled_from(sorted(PLACEHOLDERS)).map(lambda name: f"${{{name}}}")
        | st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="$"))
    ).map("".join)
)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_filling_a_path_in_is_what_string_templates_do(template):
    filled = Path("S", 1, template, "", odd=False).fill(VALUES)
    assert filled == string.Template(template).substitute(VALUES).encode()


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


def test_a_path_beyond_ascii_is_sent_as_utf8():
    path = Path("V", 1, "<${user}\uff05${sink}>", "", odd=False, needs="SMTPUTF8")
    assert path.fill(VALUES) == "<uuuuuu\uff05sink.example>".encode()


def test_an_envelope_is_ascii_only():
    with pytest.raises(UnicodeEncodeError):
        Form(ELSEWHERE, HACK, 1).envelope(VALUES | {"host": "mäx.shop.example"})


# ---- battery files

SENDER = 'id = "S"\nnumber = 1\npath = "<>"\ncatches = "x"\n'
RECIPIENT = 'id = "R"\nnumber = 1\npath = "<${user}@${sink}>"\ncatches = "y"\n'
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
    sender = Path("S", 1, "<>", "x", odd=False)
    recipient = Path("R", 1, "<${user}@${sink}>", "y", odd=False)
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


def test_tiers_may_stand_in_any_order_and_several_times():
    text = (
        battery(tier=with_(TIER, "number = 2"))
        + "[[sender]]\n"
        + with_(with_(SENDER, 'id = "T"'), "number = 2")
        + "[[tier]]\n"
        + with_(TIER, 'senders = ["T"]')
        + "[[tier]]\n"
        + with_(with_(TIER, 'senders = ["T", "S"]'), "number = 2")
    )
    assert ids_of(parse_battery(text).forms) == ["T/R", "S/R"]


def test_a_number_may_be_up_to_224():
    text = battery(sender=with_(SENDER, "number = 224"))
    assert [form.number for form in parse_battery(text).forms] == [0xE001]


def test_helo_and_needs_may_be_told():
    text = battery(sender=SENDER + 'helo = "domain"\nneeds = "X-1"\n')
    (form,) = parse_battery(text).forms
    assert form.helo is Helo.DOMAIN
    assert form.needs == {"X-1"}


def test_a_path_may_be_utf8_where_the_server_takes_it():
    text = battery(
        sender=with_(SENDER, 'path = "<> SMTPUTF8"'),
        recipient=with_(RECIPIENT, 'path = "<${user}\uff05${sink}>"') + 'needs = "SMTPUTF8"\n',
    )
    assert len(parse_battery(text).forms) == 1


def test_what_is_left_out_is_read():
    text = battery() + '[[left_out]]\nid = "V"\nwhy = "harm"\n'
    assert parse_battery(text).left_out == (LeftOut("V", "harm"),)


@pytest.mark.parametrize(
    "path",
    [
        "<${user}@${sink}>",
        "<${user}@${other}>",
        "<${user}@${sink_upper}>",
        "<A-${user}+40${sink_imcea}@${domain}>",
        "${user} ${sink}",
    ],
)
def test_a_recipient_may_lead_to_any_domain_of_ours(path):
    assert template_fault(path, recipient=True) is None


@pytest.mark.parametrize(
    "path", ["<>", "<user@sink>", "<${user}@example.org>", "<${sender}@${sink}>", "<${user}>"]
)
def test_a_recipient_that_does_not_lead_to_us_is_at_fault_and_a_sender_is_not(path):
    fault = template_fault(path, recipient=True)
    assert fault is not None
    assert "must lead to our sink" in fault
    assert template_fault(path, recipient=False) is None


MALFORMED = {
    "not-toml": ("[[sender", "not TOML"),
    "empty": ("", "the battery has no form"),
    "no-tier": (f"[[sender]]\n{SENDER}[[recipient]]\n{RECIPIENT}", "the battery has no form"),
    "empty-tier": (battery(tier=with_(TIER, "senders = []")), "the battery has no form"),
    "unknown-table": (
        battery(more="[extra]"),
        "the battery: unknown key 'extra'; known: left_out, peer, recip",
    ),
    "unknown-key-of-a-sender": (
        battery(sender=with_(SENDER, "oddd = true")),
        r"sender 1 \(S\): unknown key 'oddd'; known: catches, helo, id, needs, number, odd",
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
    "number-225": (battery(recipient=with_(RECIPIENT, "number = 225")), r"\(R\): number is 225"),
    "no-path": (battery(recipient=without(RECIPIENT, "path")), r"recipient 1 \(R\): key 'path'"),
    "no-catches": (battery(sender=without(SENDER, "catches")), r"\(S\): key 'catches'"),
    "helo-of-a-recipient": (
        battery(recipient=RECIPIENT + 'helo = "own"\n'),
        r"recipient 1 \(R\): unknown key 'helo'",
    ),
    "helo-is-a-number": (battery(sender=SENDER + "helo = 1\n"), r"\(S\): key 'helo'"),
    "unknown-helo": (
        battery(sender=SENDER + 'helo = "mx"\n'),
        r"\(S\): helo is 'mx'; it must be one of own, localhost, host, domain, literal",
    ),
    "needs-in-lower-case": (battery(sender=SENDER + 'needs = "dsn"\n'), r"\(S\): needs is 'dsn'"),
    "needs-is-a-list": (battery(sender=SENDER + 'needs = ["DSN"]\n'), r"\(S\): key 'needs'"),
    "not-ascii-and-another-need": (
        battery(recipient=with_(RECIPIENT, 'path = "<${user}@${sink}ä>"') + 'needs = "DSN"\n'),
        r"\(R\): path .* must be printable ASCII",
    ),
    "not-ascii-without-parameter": (
        battery(recipient=with_(RECIPIENT, 'path = "<${user}@${sink}ä>"') + 'needs = "SMTPUTF8"\n'),
        "tier 1: S/R is not ASCII and says no SMTPUTF8",
    ),
    "recipient-elsewhere": (
        battery(recipient=with_(RECIPIENT, 'path = "<${user}@example.org>"')),
        r"recipient 1 \(R\): path .* must lead to our sink",
    ),
    "recipient-without-token": (
        battery(recipient=with_(RECIPIENT, 'path = "<${sender}@${sink}>"')),
        r"recipient 1 \(R\): path .* must lead to our sink",
    ),
    "left-out-without-why": (battery() + '[[left_out]]\nid = "V"\n', "left_out 1: key 'why'"),
    "left-out-unknown-key": (battery() + "[[left_out]]\nx = 1\n", "left_out 1: unknown key 'x'"),
    "odd-is-text": (battery(sender=with_(SENDER, 'odd = "no"')), r"sender 1 \(S\).*'odd'"),
    "unknown-placeholder": (
        battery(sender=with_(SENDER, 'path = "<${nobody}>"')),
        r"sender 1 \(S\): path '<\$\{nobody\}>' may have only .* of arpa, domain, domain2, host",
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
        battery(recipient=with_(RECIPIENT, 'path = "<${user}@${sink}>\\r\\nDATA"')),
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


# ---- forms of the operator's own

MINE = Extra("X-MINE", "<root@${host}>", "<${user}%${sink}@localhost>", Helo.LOCALHOST)


def extras(count):
    return [replace(MINE, id=f"X-{place}") for place in range(count)]


def test_a_form_of_ones_own_is_the_last_of_the_second_tier():
    forms = BATTERY.with_extra([MINE]).forms
    assert ids_of(forms) == [*QUICK, "X-MINE", *ids_of(BATTERY.forms)[len(QUICK) :]]


def test_a_form_of_ones_own_is_as_it_was_written():
    form = BATTERY.with_extra([MINE]).by_number()[0xE1E1]
    assert form.envelope(VALUES) == Envelope(
        b"<root@mx.shop.example>", b"<uuuuuu%sink.example@localhost>"
    )
    assert (form.id, form.tier, form.helo, form.odd) == ("X-MINE", 2, Helo.LOCALHOST, True)


def test_forms_of_ones_own_are_numbered_by_their_place():
    numbers = {form.id: form.number for form in BATTERY.with_extra(extras(30)).forms}
    assert [numbers[f"X-{place}"] for place in range(30)] == [
        number << 8 | number for number in range(225, 255)
    ]


def test_as_many_forms_of_ones_own_as_there_are_numbers_for():
    assert LAST_SHIPPED + MOST_EXTRA <= 255


def test_forms_of_ones_own_change_nothing_else():
    with_extra = BATTERY.with_extra(extras(3))
    assert [form for form in with_extra.forms if form.number in BATTERY.by_number()] == list(
        BATTERY.forms
    )
    assert (with_extra.peers, with_extra.left_out) == (BATTERY.peers, BATTERY.left_out)
    assert BATTERY.with_extra([]) == BATTERY
