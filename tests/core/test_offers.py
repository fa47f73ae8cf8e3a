"""Offers: the right tokens in the right places, and no envelope twice."""

from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files

import pytest

from relaytest.core.dialogue import Offer
from relaytest.core.names import Names
from relaytest.core.offers import Asker, control, distinct, offer
from relaytest.core.probe import CONTROL, Envelope, parse_battery
from relaytest.core.token import Mailbox, Token, issue

BATTERY = parse_battery((files("relaytest.core") / "battery.toml").read_text(encoding="utf-8"))
BY_ID = {form.id: form for form in BATTERY.forms}
FORM = BY_ID["S-EXT/R-P-H"]
KEY = b"k" * 32
ASKER = Asker(KEY, "sink.example", "probe.checker.example", "abuse@checker.example")
NAMES = Names("mx.shop.example", "shop.example", "[192.0.2.1]")
TWO_LABELS = Names("shop.example", "shop.example", "[192.0.2.1]")
NAMELESS = Names("[192.0.2.1]", "[192.0.2.1]", "[192.0.2.1]")
NOW = datetime(2026, 11, 2, 10, 20, 30, tzinfo=UTC)


def letters(mailbox, form=FORM.number, trial=7):
    return issue(KEY, Token(mailbox, form, trial)).encode()


USER = letters(Mailbox.FORWARD)
SENDER = letters(Mailbox.REVERSE)


def offered(form=FORM, names=NAMES, trial=7, asker=ASKER, now=None):
    return offer(form, names, trial=trial, asker=asker, now=now)


def ids_of(forms):
    return [form.id for form in forms]


# ---- one form


def test_an_offer_carries_the_token_of_each_mailbox_in_its_place():
    paths = b"<%b@sink.example>" % SENDER, b"<%b%%sink.example@mx.shop.example>" % USER
    assert offered() == Offer(FORM.number, Envelope(*paths))


def test_without_a_time_only_the_recipient_is_asked_about():
    assert offered().message is None


def test_with_a_time_the_message_goes_too():
    message = offered(now=NOW).message
    assert message is not None
    assert b"Date: Mon, 02 Nov 2026 10:20:30 +0000\r\n" in message


def test_the_message_is_of_the_form_and_shows_name_and_contact():
    message = offered(now=NOW).message
    assert message is not None
    shown = [b"S-EXT/R-P-H", b"7-259", b"probe.checker.example", b"abuse@checker.example"]
    assert [words in message for words in shown] == [True] * 4


def test_the_message_comes_from_the_reverse_path_mailbox():
    message = offered(now=NOW).message
    assert message is not None
    assert b"From: Mail routing check <%b@sink.example>\r\n" % SENDER in message


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_no_message_has_the_token_that_proves_relay(form):
    message = offered(form, now=NOW).message
    assert message is not None
    assert letters(Mailbox.FORWARD, form.number) not in message.lower()


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_every_forward_path_has_the_token_that_proves_relay(form):
    assert letters(Mailbox.FORWARD, form.number) in offered(form).envelope.forward_path


def test_the_message_does_not_change_the_envelope():
    assert offered(now=NOW).envelope == offered().envelope


@pytest.mark.parametrize("form", BATTERY.forms, ids=lambda form: form.id)
def test_the_same_trial_gives_the_same_envelope(form):
    """Greylisting knows us by it."""
    assert offered(form).envelope == offered(form).envelope


@pytest.mark.parametrize(
    "changed",
    [
        {"trial": 8},
        {"form": BY_ID["S-EXT/R-P-D"]},
        {"asker": replace(ASKER, key=b"o" * 32)},
        {"asker": replace(ASKER, sink="sink.test.example")},
        {"names": TWO_LABELS},
    ],
    ids=["trial", "form", "key", "sink", "names"],
)
def test_another_trial_form_key_sink_or_name_gives_another_envelope(changed):
    assert offered(**changed).envelope.forward_path != offered().envelope.forward_path


# ---- the control recipient


def test_the_control_offer_asks_for_mail_to_their_postmaster():
    sender = b"<%b@sink.example>" % letters(Mailbox.REVERSE, CONTROL)
    expected = Offer(CONTROL, Envelope(sender, b"<postmaster>"), message=None)
    assert control(trial=7, asker=ASKER) == expected


# ---- equal envelopes


@pytest.mark.parametrize(
    "forms", [BATTERY.up_to(2), BATTERY.forms, ()], ids=["quick", "full", "none"]
)
def test_a_target_with_host_and_domain_is_asked_every_form(forms):
    assert distinct(forms, NAMES) == tuple(forms)


def test_a_nameless_target_is_asked_each_envelope_once():
    left_out = set(ids_of(BATTERY.up_to(2))) - set(ids_of(distinct(BATTERY.up_to(2), NAMELESS)))
    assert left_out == {
        "S-DOM/R-PLAIN",  # S-IP is the odd one of the two, and so is R-P-I of the three
        "S-EXT/R-P-D",
        "S-EXT/R-P-H",
        "S-EXT/R-AA-I",
        "S-EXT/R-RT-H",
    }


def test_a_target_named_by_its_domain_is_asked_each_envelope_once():
    left_out = set(ids_of(BATTERY.up_to(2))) - set(ids_of(distinct(BATTERY.up_to(2), TWO_LABELS)))
    assert left_out == {"S-EXT/R-P-H"}


@pytest.mark.parametrize("names", [NAMES, TWO_LABELS, NAMELESS], ids=["both", "domain", "none"])
def test_every_envelope_that_is_left_out_is_asked_under_another_form(names):
    def wires(forms):
        values = {"user": "u", "sender": "s", "sink": "sink.example"}
        values |= {"host": names.host, "domain": names.domain, "literal": names.literal}
        return {form.envelope(values) for form in forms}

    assert wires(distinct(BATTERY.forms, names)) == wires(BATTERY.forms)


@pytest.mark.parametrize("names", [NAMES, NAMELESS], ids=["named", "nameless"])
def test_leaving_out_keeps_the_sending_order(names):
    kept = distinct(BATTERY.forms, names)
    assert list(kept) == sorted(kept, key=BATTERY.forms.index)


def test_leaving_out_twice_leaves_out_no_more():
    once = distinct(BATTERY.forms, NAMELESS)
    assert distinct(once, NAMELESS) == once
