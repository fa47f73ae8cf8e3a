"""The one-off check: what its target means, how long to wait, and what it may conclude."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from ipaddress import ip_address

import pytest

from relaytest.core.checkup import (
    advice,
    broken_off,
    conclude,
    envelopes_of,
    not_tried,
    parse_subject,
    results_of,
    wait_until,
    worst,
    worth_asking_again,
)
from relaytest.core.dialogue import Step
from relaytest.core.evidence import Asked, Evidence, Met, Receipt
from relaytest.core.names import Names
from relaytest.core.offers import Asker
from relaytest.core.probe import CONTROL, parse_battery
from relaytest.core.reply import Reply
from relaytest.core.token import Mailbox, Token, issue
from relaytest.core.verdict import Finding, Patience, Reason, Verdict

BATTERY = parse_battery((files("relaytest.core") / "battery.toml").read_text(encoding="utf-8"))
PLAIN, NULL = (
    next(form for form in BATTERY.forms if form.id == name)
    for name in ("S-EXT/R-PLAIN", "S-NULL/R-PLAIN")
)
TARGET = ip_address("192.0.2.1")
THEN = datetime(2026, 11, 2, 10, 20, 30, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
PATIENCE = Patience(accepted=MINUTE, refused=10 * SECOND)
OK, DENIED = Reply(250, ("2.1.5 Ok",)), Reply(550, ("5.7.1 Relaying denied",))
CONTENT = Reply(554, ("5.7.1 Message rejected",))
GREYLISTED = Reply(450, ("4.2.0 Greylisted, try again in 5 minutes",))
NO_DOMAIN = (
    "450 4.1.8 <a@relay-probe.invalid>: Sender address rejected: Domain not found",
    "553 5.1.8 <a@relay-probe.invalid>... Domain of sender address a@b does not exist",
    "550 5.1.2 <a@relay-probe.invalid>: Recipient address rejected: Domain not found",
    "550 Sender verify failed",
    "550 Unrouteable address",
    "556 5.1.10 Recipient address has null MX",
)


def rcpt(form, reply):
    return Asked(form.number, Step.RCPT, reply)


def dot(form, reply=OK):
    return Asked(form.number, Step.END_OF_DATA, reply)


def back(form, mailbox=Mailbox.FORWARD, after=SECOND):
    return Receipt(form.number, mailbox, TARGET, b"<s@sink>", b"<u@sink>", THEN + after)


def found(*parts, forms=(PLAIN, NULL), **changes) -> Evidence:
    """Evidence of a visit that ended, with these outcomes and receipts."""
    facts = {
        "address": TARGET,
        "battery": BATTERY.by_number(),
        "forms": forms,
        "asked": tuple(
            [Asked(CONTROL, Step.RCPT, OK)] + [one for one in parts if isinstance(one, Asked)]
        ),
        "met": (Met(1, "complete", "", Reply(220, ("mx",)), Reply(250, ("mx",))),),
        "receipts": tuple(one for one in parts if isinstance(one, Receipt)),
        "probed_at": THEN,
        "ended": True,
    }
    return Evidence(**(facts | changes))


# --- parse_subject


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("192.0.2.1", TARGET),
        (" [192.0.2.1] ", TARGET),
        ("::ffff:192.0.2.1", TARGET),
        ("[IPv6:2001:db8::1]", ip_address("2001:db8::1")),
        ("Shop.Example.", "shop.example"),
        ("localhost", "localhost"),
        ("_mail.shop.example", "_mail.shop.example"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_an_address_or_a_name_is_read(text, meant):
    assert parse_subject(text) == meant


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "such as 192.0.2.25"),
        ("two words", "such as 192.0.2.25"),
        ("a@shop.example", "stands behind the @: shop.example"),
        ("https://shop.example/", "without the rest of the URL"),
        ("192.0.2.0/24", "a network has many"),
        ("192.0.2.1:25", "--port"),
        ("192.0.2.256", "such as"),
        ("1234", "such as"),
        ("shop..example", "such as"),
        ("x" * 64 + ".example", "such as"),
        ("fe80::1%eth0", "has a zone"),
    ],
)
def test_what_is_neither_is_refused_with_what_would_be_right(text, told):
    with pytest.raises(ValueError, match=r".") as error:
        parse_subject(text)
    assert told in str(error.value)


# --- wait_until


@pytest.mark.parametrize(
    ("evidence", "until"),
    [
        (found(rcpt(PLAIN, DENIED), rcpt(NULL, DENIED)), None),
        (found(dot(PLAIN)), THEN + MINUTE),
        (found(dot(PLAIN, None)), THEN + MINUTE),
        (found(dot(PLAIN, CONTENT)), THEN + 10 * SECOND),
        (found(dot(PLAIN), back(PLAIN)), None),
        (found(dot(PLAIN), back(PLAIN, Mailbox.REVERSE)), None),
        (found(dot(PLAIN), dot(NULL), back(PLAIN)), THEN + 6 * SECOND),
        (found(dot(PLAIN), dot(NULL), back(PLAIN, Mailbox.REVERSE)), THEN + MINUTE),
        (found(dot(PLAIN), dot(NULL), back(PLAIN, after=58 * SECOND)), THEN + MINUTE),
        (found(dot(PLAIN), probed_at=None), None),
    ],
    ids=[
        "nothing-accepted",
        "accepted",
        "no-answer-to-the-dot",
        "refused-at-the-dot",
        "came-back",
        "bounced",
        "proven-so-only-a-lull",
        "one-of-two-bounced",
        "never-longer-than-patience",
        "visit-not-over",
    ],
)
def test_we_wait_for_what_may_still_come_back(evidence, until):
    assert wait_until(evidence, PATIENCE) == until


# --- conclude


def concluded(*parts, messages=True, **changes):
    verdict = conclude(found(*parts, **changes), THEN + MINUTE, messages=messages)
    return verdict.finding, verdict.reason, verdict.confidence


REFUSED = (rcpt(PLAIN, DENIED), rcpt(NULL, DENIED))


@pytest.mark.parametrize(
    ("parts", "changes", "expected"),
    [
        ((dot(PLAIN), dot(NULL), back(PLAIN)), {}, (Finding.OPEN, Reason.RELAYED, "high")),
        (REFUSED, {}, (Finding.CLOSED, Reason.REFUSED, "high")),
        (
            (dot(PLAIN), rcpt(NULL, DENIED)),
            {"sink_proven": True},
            (Finding.CLOSED, Reason.NOT_RETURNED, "medium"),
        ),
        ((dot(PLAIN), rcpt(NULL, DENIED)), {}, (Finding.UNKNOWN, Reason.SINK_DOWN, "low")),
        ((rcpt(PLAIN, DENIED),), {}, (Finding.UNKNOWN, Reason.INCOMPLETE, "low")),
    ],
    ids=["open", "refused", "not-returned", "sink-down", "unanswered"],
)
def test_with_messages_the_judge_has_the_word(parts, changes, expected):
    assert concluded(*parts, **changes) == expected


LATER, NEVER = Reply(451, ("4.7.1 Hold the line",)), Reply(454, ("4.7.1 Relay access denied",))
NO_SENDER = Reply(450, ("4.1.8 <a@b.example>: Sender address rejected: Domain not found",))


@pytest.mark.parametrize(
    ("plain", "null", "finding"),
    [
        (GREYLISTED, GREYLISTED, Finding.UNKNOWN),
        (LATER, LATER, Finding.UNKNOWN),
        (GREYLISTED, DENIED, Finding.UNKNOWN),
        (NEVER, NEVER, Finding.CLOSED),
        (NO_SENDER, DENIED, Finding.CLOSED),
    ],
    ids=["greylisted", "in-other-words", "some", "relay-denied", "a-sender-that-never-resolves"],
)
def test_visits_in_a_row_do_not_tell_greylisting_from_a_refusal(plain, null, finding):
    parts = [
        replace(one, visit=visit)
        for visit in (1, 2)
        for one in (Asked(CONTROL, Step.RCPT, OK), rcpt(PLAIN, plain), rcpt(NULL, null))
    ]
    verdict = conclude(found(*parts), THEN, messages=True)
    assert verdict.finding is finding
    assert finding is Finding.CLOSED or verdict.reason is Reason.DEFERRED


def test_with_messages_what_was_accepted_and_not_followed_by_one_is_asked_again():
    evidence = found(rcpt(PLAIN, OK), rcpt(NULL, DENIED))
    assert worth_asking_again(evidence, THEN, messages=True) == (PLAIN,)
    assert worth_asking_again(evidence, THEN, messages=False) == ()


def test_acceptance_alone_proves_nothing():
    evidence = found(rcpt(PLAIN, OK), rcpt(NULL, DENIED))
    verdict = conclude(evidence, THEN, messages=False)
    assert (verdict.finding, verdict.forms) == (Finding.UNKNOWN, ("S-EXT/R-PLAIN",))
    assert "1 of 2 forms were accepted at RCPT. That is no proof" in verdict.explanation
    assert "--sink-domain" in advice(verdict, messages=False)


def test_without_messages_refusals_close_but_less_surely():
    assert concluded(*REFUSED, messages=False) == (Finding.CLOSED, Reason.REFUSED, "medium")


@pytest.mark.parametrize("text", NO_DOMAIN)
def test_a_refusal_of_a_domain_that_does_not_exist_closes_nothing(text):
    reply = Reply(int(text[:3]), (text[4:],))
    evidence = found(rcpt(PLAIN, reply), rcpt(NULL, DENIED))
    verdict = conclude(evidence, THEN, messages=False)
    assert verdict.finding is Finding.UNKNOWN
    assert "our domain does not exist" in verdict.explanation


@pytest.mark.parametrize("text", ["550 relay not permitted", "554 5.7.1 <a@b.example>: no"])
def test_other_refusals_are_not_taken_for_one_of_the_domain(text):
    reply = Reply(int(text[:3]), (text[4:],))
    assert concluded(rcpt(PLAIN, reply), *REFUSED[1:], messages=False)[0] is Finding.CLOSED


@pytest.mark.parametrize(
    ("parts", "changes", "reason"),
    [
        ((rcpt(PLAIN, GREYLISTED), *REFUSED[1:]), {}, Reason.DEFERRED),
        ((rcpt(PLAIN, DENIED),), {}, Reason.INCOMPLETE),
        ((), {"asked": (), "met": (Met(1, "unreachable", "no route"),)}, Reason.UNREACHABLE),
    ],
    ids=["deferred", "unanswered", "unreachable"],
)
def test_what_cannot_be_judged_stays_so_without_messages(parts, changes, reason):
    finding, why, _ = concluded(*parts, messages=False, **changes)
    assert (finding, why) == (Finding.UNKNOWN, reason)


def test_what_a_server_says_is_made_visible():
    reply = Reply(550, ("5.1.8 \x1b[31m domain not found \udcff",))
    verdict = conclude(found(rcpt(PLAIN, reply), *REFUSED[1:]), THEN, messages=False)
    assert verdict.explanation.isprintable()
    assert r"\x1b[31m" in verdict.explanation


# --- broken_off, not_tried, worst


def test_proof_stays_proof_when_the_check_is_broken_off():
    proof = found(dot(PLAIN), back(PLAIN), probed_at=None)
    assert broken_off(proof, THEN).finding is Finding.OPEN


@pytest.mark.parametrize(
    ("parts", "reason"), [((dot(PLAIN),), Reason.PENDING), ((), Reason.INCOMPLETE)]
)
def test_else_nothing_is_known(parts, reason):
    verdict = broken_off(found(*parts), THEN)
    assert (verdict.finding, verdict.reason) == (Finding.UNKNOWN, reason)


def test_a_visit_that_never_was_concludes_nothing():
    assert concluded(probed_at=None)[0] is Finding.UNKNOWN


def test_our_own_fault_says_nothing_of_the_target():
    verdict = not_tried("no socket")
    assert (verdict.finding, "no socket" in verdict.explanation) == (Finding.UNKNOWN, True)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([Finding.CLOSED, Finding.OPEN, Finding.UNKNOWN], Finding.OPEN),
        ([Finding.CLOSED, Finding.UNKNOWN], Finding.UNKNOWN),
        ([Finding.CLOSED], Finding.CLOSED),
        ([], Finding.UNKNOWN),
    ],
)
def test_the_worst_of_several_counts(findings, expected):
    assert worst(Verdict(one, Reason.REFUSED, "low", "") for one in findings) is expected


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_advice(reason):
    text = advice(Verdict(Finding.UNKNOWN, reason, "low", ""), messages=True)
    assert text.endswith(".")


# --- results_of, envelopes_of


def test_each_form_has_its_standing_and_the_last_word_on_it():
    evidence = found(rcpt(PLAIN, OK), dot(PLAIN, CONTENT), rcpt(NULL, OK))
    assert [(one.form.id, one.standing, one.reply) for one in results_of(evidence, {})] == [
        ("S-EXT/R-PLAIN", "refused", CONTENT),
        ("S-NULL/R-PLAIN", "accepted", OK),
    ]


def test_what_became_of_a_message_says_more_than_of_its_recipient():
    queued = Reply(250, ("2.0.0 Queued",))
    evidence = found(rcpt(PLAIN, OK), dot(PLAIN, queued), back(PLAIN), forms=(PLAIN,))
    (result,) = results_of(evidence, {})
    assert (result.standing, result.reply) == ("relayed", queued)


def test_the_envelopes_are_those_that_were_sent():
    key = b"k" * 32
    names = Names("mx.shop.example", "shop.example", "[192.0.2.1]")
    asker = Asker(key, "sink.example", "probe.example", "")
    envelope = envelopes_of((PLAIN,), names, trial=7, asker=asker)[PLAIN.number]
    token = issue(key, Token(Mailbox.FORWARD, PLAIN.number, 7))
    assert envelope.forward_path == f"<{token}@sink.example>".encode()


def test_a_target_without_a_name_was_asked_nothing():
    asker = Asker(b"k" * 32, "sink.example", "probe.example", "")
    assert envelopes_of((PLAIN,), None, trial=7, asker=asker) == {}
