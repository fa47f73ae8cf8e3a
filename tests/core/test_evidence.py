"""What became of each form: proof, refusal, deferral, silence, in whatever order it came."""

from datetime import UTC, datetime, timedelta
from importlib.resources import files
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.dialogue import Step
from relaytest.core.evidence import (
    Asked,
    Evidence,
    Met,
    Receipt,
    Standing,
    control_of,
    forms_to_ask,
    in_order,
    promised,
    proofs_of,
    replays_of,
    same_system,
    standings_of,
    visits_in_vain,
)
from relaytest.core.probe import CONTROL, parse_battery
from relaytest.core.received import hops_of
from relaytest.core.reply import Reply
from relaytest.core.token import Mailbox

BATTERY = parse_battery((files("relaytest.core") / "battery.toml").read_text(encoding="utf-8"))
BY_NUMBER = BATTERY.by_number()
EXT, NULL, SELF, PERCENT, UNKNOWN = 257, 513, 2049, 259, 9
FORMS = tuple(BY_NUMBER[number] for number in (EXT, NULL, SELF, PERCENT))
TARGET = IPv4Address("192.0.2.1")
OTHER = IPv4Address("192.0.2.77")
AT = datetime(2026, 11, 2, 10, 20, 30, tzinfo=UTC)

OK = Reply(250, ("2.1.5 Ok",))
DENIED = Reply(554, ("5.7.1 Relay access denied",))
SOFTLY = Reply(454, ("4.7.1 <x@sink.example>: Relay access denied",))
GREYLISTED = Reply(451, ("4.7.1 Greylisted, please try again in 300 seconds",))
BUSY = Reply(450, ("4.3.2 Busy",))


def evidence(*found, forms=FORMS):
    """Evidence of what was asked, met and received."""

    def of(kind):
        return tuple(one for one in found if isinstance(one, kind))

    return Evidence(
        TARGET, BY_NUMBER, forms=forms, asked=of(Asked), met=of(Met), receipts=of(Receipt)
    )


def rcpt(reply, form=EXT, visit=1):
    return Asked(form, Step.RCPT, reply, visit)


def data(reply, form=EXT, visit=1):
    return Asked(form, Step.DATA, reply, visit)


def dot(reply, form=EXT, visit=1):
    return Asked(form, Step.END_OF_DATA, reply, visit)


def control(reply, visit=1):
    return Asked(CONTROL, Step.RCPT, reply, visit)


def received(
    form=EXT,
    mailbox=Mailbox.FORWARD,
    reverse_path=b"<ssss@sink.example>",
    forward_path=b"<uuuu@sink.example>",
    peer=TARGET,
    at=AT,
    helo=b"mail.example",
    way=(),
    ours=True,
):
    lines = b"".join(b"Received: %b\r\n" % line for line in way)
    hops = hops_of(lines)
    return Receipt(form, mailbox, peer, reverse_path, forward_path, at, helo, hops, ours)


def standing_of(*found):
    """What became of S-EXT/R-PLAIN."""
    return standings_of(in_order(evidence(*found)))[EXT]


# ---- proof


@pytest.mark.parametrize(
    ("mailbox", "proofs"),
    [(Mailbox.FORWARD, 1), (Mailbox.REVERSE, 0), (Mailbox.SELF, 0)],
    ids=lambda value: getattr(value, "name", None),
)
def test_only_mail_to_the_forward_mailbox_is_proof(mailbox, proofs):
    assert len(proofs_of(evidence(received(mailbox=mailbox)))) == proofs


@pytest.mark.parametrize(
    "reverse_path",
    [b"<>", b"<MAILER-DAEMON@mx.shop.example>", b"<ssss@sink.example>", b""],
    ids=["null", "daemon", "ours", "none"],
)
def test_a_copy_is_proof_whoever_it_says_it_is_from(reverse_path):
    assert proofs_of(evidence(received(EXT, reverse_path=reverse_path)))


@pytest.mark.parametrize(
    ("reverse_path", "proofs"),
    [(b"<>", 0), (b"<MAILER-DAEMON@mx.shop.example>", 0), (b"<ssss@sink.example>", 1)],
    ids=["null", "daemon", "ours"],
)
def test_a_notice_to_the_recipient_is_no_copy(reverse_path, proofs):
    """As of what was put into quarantine; a relay may write a new header, but not both."""
    notice = received(EXT, reverse_path=reverse_path, ours=False)
    assert len(proofs_of(evidence(notice))) == proofs


def test_a_copy_from_the_target_itself_is_proof_whatever_was_answered():
    """A worker may have been killed before it could store that the message went out."""
    assert proofs_of(evidence(received()))
    assert proofs_of(evidence(rcpt(DENIED), received()))


FAR = IPv4Address("198.51.100.9")
SOURCE = IPv4Address("203.0.113.5")
MET = Met(1, "complete", "", Reply(220, ("mx.shop.example ESMTP",)), None, SOURCE)
EXPLAINED = {
    "same /24": {"peer": OTHER},
    "names itself as the target": {"peer": FAR, "helo": b"MX.shop.example"},
    "Postfix": {
        "peer": FAR,
        "way": [b"from mx (unknown [192.0.2.1]) by out.example (Postfix)"],
    },
    "qmail": {"peer": FAR, "way": [b"from unknown (HELO mx) (192.0.2.1) by out.isp.example"]},
    "Exchange": {"peer": FAR, "way": [b"from a (192.0.2.1) by b (10.0.0.1) with Microsoft SMTP"]},
    "the target's name": {"peer": FAR, "way": [b"by out.isp.example", b"by mx.shop.example"]},
    "took it from us": {"peer": FAR, "way": [b"from probe ([203.0.113.5]) by hub.inside"]},
    "a far hop": {"peer": FAR, "way": [b"by c", b"by b", b"from x ([192.0.2.1]) by a"]},
}
STRANGE = {
    "no trace": {"peer": FAR},
    "other names": {"peer": FAR, "helo": b"trap.example", "way": [b"from a.example by b.example"]},
    "other addresses": {"peer": FAR, "way": [b"from a ([192.0.2.2]) by b ([198.51.100.9])"]},
    "a longer name": {"peer": FAR, "way": [b"by notmx.shop.example.test"]},
}


@pytest.mark.parametrize("how", EXPLAINED.values(), ids=EXPLAINED)
def test_a_copy_from_elsewhere_is_proof_if_its_way_from_the_target_is_seen(how):
    found = evidence(MET, dot(OK), received(**how))
    assert proofs_of(found)
    assert replays_of(found) == ()


@pytest.mark.parametrize("how", STRANGE.values(), ids=STRANGE)
def test_a_copy_that_nothing_connects_with_the_target_is_a_replay(how):
    found = evidence(MET, dot(OK), received(**how))
    assert proofs_of(found) == ()
    assert replays_of(found) == found.receipts


@pytest.mark.parametrize("how", EXPLAINED.values(), ids=EXPLAINED)
def test_what_was_never_handed_over_was_not_relayed(how):
    """Somebody who saw the RCPT made a message of his own."""
    found = evidence(MET, rcpt(DENIED), received(**how))
    assert proofs_of(found) == ()
    assert replays_of(found) == ()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("127.0.0.1", "127.66.1.2", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "2001:db8::1", False),
        ("127.0.0.1", "::1", False),
    ],
)
def test_near_addresses_are_one_system(one, other, same):
    assert same_system(ip_address(one), ip_address(other)) is same


def test_a_copy_of_a_form_that_the_program_no_longer_knows_is_proof():
    assert proofs_of(evidence(received(UNKNOWN)))


def test_a_copy_is_proof_though_its_recipient_was_rewritten():
    assert proofs_of(evidence(received(EXT, forward_path=b'<"UUUU@sink.example"@mx.example>')))


@pytest.mark.parametrize(
    ("reverse_path", "proofs"),
    [
        (b"<uuuu@sink.example>", 1),
        (b"<UUUU@SINK.example>", 1),
        (b"uuuu@sink.example", 1),
        (b"<>", 0),
        (b"", 0),
        (b"<MAILER-DAEMON@mx.shop.example>", 0),
        (b"<postmaster@mx.shop.example>", 0),
        (b"<MAILER-DAEMON>", 0),
    ],
    ids=["ours", "case", "no-brackets", "null", "none", "daemon", "postmaster", "bare-daemon"],
)
def test_mail_to_oneself_is_proof_only_if_it_still_is_from_oneself(reverse_path, proofs):
    assert len(proofs_of(evidence(received(SELF, reverse_path=reverse_path)))) == proofs


# ---- the control recipient


def test_the_control_reply_is_told_for_each_visit():
    found = evidence(control(BUSY, 1), control(OK, 2), rcpt(DENIED, visit=3))
    assert control_of(found) == {1: BUSY, 2: OK}


@pytest.mark.parametrize("replies", [(OK, DENIED), (DENIED, OK)], ids=["taken-back", "reversed"])
def test_within_a_visit_a_refusal_of_the_control_counts(replies):
    assert control_of(in_order(evidence(*map(control, replies)))) == {1: DENIED}


def test_an_unanswered_control_is_none():
    assert control_of(evidence(control(None))) == {}


# ---- one form

STANDINGS = {
    "never-asked": ([], Standing.UNANSWERED),
    "only-others-answered": ([rcpt(DENIED, NULL), control(OK)], Standing.UNANSWERED),
    "refused-at-mail": ([Asked(EXT, Step.MAIL, DENIED)], Standing.REFUSED),
    "refused-at-rcpt": ([rcpt(DENIED)], Standing.REFUSED),
    "refused-at-data": ([rcpt(OK), data(DENIED)], Standing.REFUSED),
    "refused-at-the-dot": ([rcpt(OK), dot(DENIED)], Standing.REFUSED),
    "recipient-taken-but-no-message-sent": ([rcpt(OK)], Standing.UNANSWERED),
    "message-taken": ([rcpt(OK), dot(OK)], Standing.WAITING),
    "no-answer-to-the-dot": ([rcpt(OK), dot(None)], Standing.WAITING),
    "busy": ([rcpt(BUSY), control(OK)], Standing.DEFERRED),
    "busy-at-the-dot": ([rcpt(OK), dot(BUSY), control(OK)], Standing.DEFERRED),
    "greylisted-with-the-control": ([rcpt(GREYLISTED), control(GREYLISTED)], Standing.DEFERRED),
    "greylisted-but-not-the-control": ([rcpt(GREYLISTED), control(OK)], Standing.DEFERRED),
    "relay-denied-softly": ([rcpt(SOFTLY), control(OK)], Standing.REFUSED_SOFTLY),
    "relay-denied-softly-postmaster-too": ([rcpt(SOFTLY), control(BUSY)], Standing.DEFERRED),
    "relay-denied-softly-no-control": ([rcpt(SOFTLY)], Standing.REFUSED_SOFTLY),
    "relay-denied-softly-control-refused": (
        [rcpt(SOFTLY), control(DENIED)],
        Standing.REFUSED_SOFTLY,
    ),
    "relay-denied-softly-control-unanswered": (
        [rcpt(SOFTLY), control(None)],
        Standing.REFUSED_SOFTLY,
    ),
    "relay-denied-for-a-while": (
        [rcpt(Reply(454, ("Relay access denied, try again later",))), control(OK)],
        Standing.DEFERRED,
    ),
    "busy-where-a-name-has-relay-in-it": (
        [rcpt(Reply(450, ("4.2.0 <x@relay.example>: mailbox busy",))), control(OK)],
        Standing.DEFERRED,
    ),
    "control-of-another-visit": (
        [rcpt(SOFTLY, visit=2), control(BUSY, 1), control(OK, 2)],
        Standing.REFUSED_SOFTLY,
    ),
    "control-of-its-own-visit": (
        [rcpt(SOFTLY, visit=1), control(BUSY, 1), control(OK, 2)],
        Standing.DEFERRED,
    ),
    "refused-after-greylisting": ([rcpt(GREYLISTED), rcpt(DENIED, visit=2)], Standing.REFUSED),
    "taken-after-greylisting": (
        [rcpt(GREYLISTED), rcpt(OK, visit=2), dot(OK, visit=2)],
        Standing.WAITING,
    ),
    "deferred-after-a-refusal": (
        [rcpt(DENIED), rcpt(GREYLISTED, visit=2)],
        Standing.DEFERRED,
    ),
    "asked-again-though-the-message-went": (
        [dot(OK), rcpt(DENIED, visit=2)],
        Standing.WAITING,
    ),
    "taken-and-taken-back-in-one-visit": ([rcpt(DENIED), rcpt(OK)], Standing.UNANSWERED),
    "taken-and-taken-back-at-the-next": ([rcpt(OK), rcpt(DENIED, visit=2)], Standing.UNANSWERED),
    "taken-and-taken-back-at-mail": (
        [rcpt(OK), Asked(EXT, Step.MAIL, DENIED)],
        Standing.UNANSWERED,
    ),
}


@pytest.mark.parametrize(("found", "standing"), STANDINGS.values(), ids=STANDINGS)
def test_the_replies_tell_what_became_of_a_form(found, standing):
    assert standing_of(*found) is standing


@pytest.mark.parametrize("found", [[], [rcpt(DENIED)], [dot(DENIED)], [dot(OK)], [rcpt(BUSY)]])
def test_a_copy_says_more_than_any_reply(found):
    assert standing_of(*found, received()) is Standing.RELAYED


@pytest.mark.parametrize(
    ("found", "standing"),
    [
        ([dot(OK)], Standing.BOUNCED),
        ([dot(None)], Standing.BOUNCED),
        ([dot(DENIED)], Standing.REFUSED),
        ([rcpt(DENIED)], Standing.REFUSED),
        ([], Standing.UNANSWERED),
    ],
    ids=["taken", "no-answer", "refused-at-the-dot", "refused", "not-asked"],
)
def test_a_bounce_counts_where_the_message_was_handed_over(found, standing):
    assert standing_of(*found, received(mailbox=Mailbox.REVERSE)) is standing


def test_a_copy_beside_a_bounce_is_a_relay():
    assert standing_of(dot(OK), received(mailbox=Mailbox.REVERSE), received()) is Standing.RELAYED


def test_mail_for_one_form_says_nothing_of_another():
    assert standing_of(dot(OK), received(NULL)) is Standing.WAITING


def test_every_form_of_the_trial_has_a_standing_and_no_other_has():
    found = evidence(rcpt(DENIED, UNKNOWN), control(OK), received(UNKNOWN))
    assert list(standings_of(found)) == [EXT, NULL, SELF, PERCENT]


# ---- what a further visit asks


def test_a_further_visit_asks_what_is_deferred_or_unanswered():
    found = evidence(rcpt(DENIED, EXT), rcpt(GREYLISTED, NULL), dot(OK, SELF))
    assert [form.number for form in forms_to_ask(found)] == [NULL, PERCENT]


@pytest.mark.parametrize(
    "found",
    [[rcpt(SOFTLY), control(OK)], [dot(OK), received(mailbox=Mailbox.REVERSE)]],
    ids=["softly-refused", "bounced"],
)
def test_a_further_visit_does_not_ask_what_is_settled(found):
    assert forms_to_ask(in_order(evidence(*found, forms=FORMS[:1]))) == ()


def test_what_was_promised_is_any_recipient_that_was_taken_at_any_visit():
    found = evidence(rcpt(OK), rcpt(DENIED, NULL), rcpt(BUSY, SELF), rcpt(OK, SELF, visit=2))
    assert promised(found) == {EXT, SELF}
    assert promised(evidence(dot(OK), data(DENIED, NULL))) == set()


def test_a_further_visit_asks_nothing_once_relay_is_proven():
    assert forms_to_ask(evidence(received())) == ()


# ---- order

DIFFERENT = [
    [rcpt(OK), rcpt(DENIED)],
    [rcpt(DENIED, NULL), rcpt(DENIED, EXT)],
    [rcpt(DENIED), rcpt(BUSY, visit=2), dot(None), dot(OK)],
    [Met(2, "complete"), Met(1, "rejected", "a"), Met(1, "rejected", "b"), Met(1, "closed")],
    [
        received(at=AT + timedelta(seconds=1)),
        received(NULL),
        received(EXT),
        received(EXT, peer=OTHER),
    ],
]


@pytest.mark.parametrize("found", DIFFERENT, ids=["weight", "form", "visit", "met", "receipts"])
def test_the_order_of_arrival_is_forgotten(found):
    assert in_order(evidence(*found)) == in_order(evidence(*reversed(found)))


def test_sessions_that_differ_only_in_their_greeting_are_put_in_order():
    busy, never = Met(1, "rejected", greeting=BUSY), Met(1, "rejected", greeting=DENIED)
    assert in_order(evidence(busy, never)) == in_order(evidence(never, busy))


def test_putting_in_order_loses_nothing():
    found = [one for row in DIFFERENT for one in row]
    ordered = in_order(evidence(*found))
    counts = [len(ordered.asked), len(ordered.met), len(ordered.receipts)]
    assert counts == [sum(isinstance(one, kind) for one in found) for kind in (Asked, Met, Receipt)]


def test_forms_keep_the_order_of_the_trial():
    forms = tuple(reversed(FORMS))
    assert in_order(evidence(forms=forms)).forms == forms


some_asked = st.builds(
    Asked,
    form=st.sampled_from([EXT, NULL, SELF, PERCENT, CONTROL, UNKNOWN]),
    step=st.sampled_from(Step),
    reply=st.none() | st.sampled_from([OK, DENIED, SOFTLY, GREYLISTED, BUSY]),
    visit=st.integers(1, 3),
)
some_receipts = st.builds(
    received,
    form=st.sampled_from([EXT, NULL, SELF, UNKNOWN]),
    mailbox=st.sampled_from(Mailbox),
    reverse_path=st.sampled_from([b"<>", b"<uuuu@sink.example>"]),
)


@given(st.lists(some_asked | some_receipts, max_size=12), st.randoms(use_true_random=False))
@settings(derandomize=True, deadline=None, max_examples=400)
def test_no_order_of_arrival_changes_what_became_of_the_forms(found, chance):
    shuffled = chance.sample(found, len(found))
    expected = standings_of(in_order(evidence(*found)))
    assert standings_of(in_order(evidence(*shuffled))) == expected


@given(st.lists(some_asked | some_receipts, max_size=12))
@settings(derandomize=True, deadline=None, max_examples=400)
def test_what_is_asked_again_is_neither_settled_nor_proven(found):
    ordered = in_order(evidence(*found))
    standings = {standings_of(ordered)[form.number] for form in forms_to_ask(ordered)}
    assert standings <= {Standing.DEFERRED, Standing.UNANSWERED}
    assert not (standings and proofs_of(ordered))


# ---- further visits


@pytest.mark.parametrize(
    ("visits", "answers", "vain"),
    [
        (1, [], 0),
        (3, [], 2),
        (1, [(EXT, 1)], 0),
        (2, [(EXT, 1)], 1),
        (2, [(EXT, 1), (NULL, 2)], 0),
        (3, [(EXT, 1), (NULL, 2), (EXT, 3)], 1),
        (3, [(EXT, 1), (EXT, 2), (EXT, 3)], 2),
    ],
)
def test_a_visit_is_in_vain_if_nothing_new_was_answered(visits, answers, vain):
    found = evidence(*(rcpt(GREYLISTED, form, visit) for form, visit in answers))
    assert visits_in_vain(found, visits) == vain


@pytest.mark.parametrize(
    ("near", "one"),
    [((24, 64), True), ((25, 64), False), ((16, 64), True)],
)
def test_how_near_is_one_system_is_for_the_operator_to_say(near, one):
    assert same_system(ip_address("192.0.2.1"), ip_address("192.0.2.200"), near) is one
    pair = ip_address("2001:db8::1"), ip_address("2001:db8::2")
    assert same_system(*pair, (24, 64))
    assert not same_system(*pair, (24, 128))
