"""From evidence to verdict: the behaviours of servers, each with the verdict it deserves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.dialogue import Break, Step
from relaytest.core.evidence import Asked, Evidence, Met, Receipt, proofs_of
from relaytest.core.judge import judge
from relaytest.core.listing import event_for
from relaytest.core.probe import CONTROL, parse_battery
from relaytest.core.reply import Reply
from relaytest.core.token import Mailbox
from relaytest.core.verdict import (
    Finding,
    Patience,
    Reason,
    worth_another_visit,
)

BATTERY = parse_battery((files("relaytest.core") / "battery.toml").read_text(encoding="utf-8"))
BY_NUMBER = BATTERY.by_number()
NUMBERS = {form.id: form.number for form in BATTERY.forms}
FORMS = tuple(
    form
    for form in BATTERY.forms
    if form.id
    in {
        *("S-EXT/R-PLAIN", "S-NULL/R-PLAIN", "S-DOM/R-PLAIN", "S-PM/R-PLAIN", "S-SELF/R-PLAIN"),
        *("S-EXT/R-P-D", "S-EXT/R-P-H", "S-EXT/R-B"),
    }
)
IDS = tuple(form.id for form in FORMS)
EXT, NULL, DOM, PM, SELF, PERCENT, HACK, BANG = IDS
UNKNOWN_FORM = 9

TARGET = IPv4Address("192.0.2.1")
STRANGER = IPv4Address("198.51.100.77")
SMART_HOST = IPv4Address("192.0.2.77")
TARGET_6 = IPv6Address("2001:db8::1")
PROBED_AT = datetime(2026, 11, 2, 10, 0, 0, tzinfo=UTC)
PATIENCE = Patience(accepted=timedelta(days=5), refused=timedelta(seconds=60))
SECOND = timedelta(seconds=1)

HELLO = Reply(250, ("mx.shop.example",))
READY = Reply(220, ("mx.shop.example ESMTP",))
OK = Reply(250, ("2.1.5 Ok",))
QUEUED = Reply(250, ("2.0.0 Queued as 4711",))
DENIED = Reply(554, ("5.7.1 <x@sink.example>: Relay access denied",))
SOFTLY = Reply(454, ("4.7.1 <x@sink.example>: Relay access denied",))
NO_USER = Reply(550, ("5.1.1 User unknown",))
CONTENT = Reply(554, ("5.7.1 Message rejected",))
ON_ITS_LIST = Reply(550, ("5.3.2 Service currently unavailable",))
GREYLISTED = Reply(450, ("4.2.0 Greylisted, try again in 5 minutes",))
GREYLISTED_TOO = Reply(451, ("4.7.1 Please come back later",))
LIMIT = Reply(452, ("4.3.2 Too many messages",))
NOT_YOU = Reply(554, ("5.7.1 <unknown[192.0.2.9]>: Client host rejected: Access denied",))
MUCH = Reply(450, ("4.7.1 Error: too many recipients from 192.0.2.9",))
BLOCKED = Reply(554, ("5.7.1 Client host [192.0.2.9] blocked using dnsbl.example",))
HELO_REFUSED = Reply(550, ("5.7.1 Helo command rejected: Host not found",))
WANTS_TLS = Reply(530, ("5.7.0 Must issue a STARTTLS command first",))
WANTS_AUTH = Reply(530, ("5.7.0 Authentication required",))
NO_SERVICE = Reply(554, ("No SMTP service here",))
NO_MAIL = Reply(521, ("mx.shop.example does not accept mail",))
TOO_MANY = Reply(421, ("4.7.0 Too many connections from you",))
TOO_MANY_ERRORS = Reply(421, ("4.7.0 Too many errors",))


# ---- scenes: what the server did, told in a few words


def answered(reply, *form_ids, step=Step.RCPT, visit=1):
    """The server's last word on these forms, or on all."""
    return [Asked(NUMBERS[one], step, reply, visit) for one in form_ids or IDS]


def handed_over(reply, *form_ids, visit=1):
    """The recipients were taken, the messages sent, and this was said to the final dot."""
    return [
        *answered(OK, *form_ids, visit=visit),
        *answered(reply, *form_ids, step=Step.END_OF_DATA, visit=visit),
    ]


def postmaster(reply, visit=1):
    return [Asked(CONTROL, Step.RCPT, reply, visit)]


def came_back(form_id, peer=TARGET, sender=b"<ssss@sink.example>", **more):
    """Our message reached the mailbox that proves relay."""
    return [received(NUMBERS[form_id], Mailbox.FORWARD, peer, sender, **more)]


def bounced(*form_ids):
    """A bounce reached the mailbox of the reverse-path."""
    return [received(NUMBERS[one], Mailbox.REVERSE, TARGET, b"<>") for one in form_ids]


def received(
    form, mailbox, peer, reverse_path, recipient=b"<uuuu@sink.example>", after=SECOND, helo=b""
):
    return Receipt(form, mailbox, peer, reverse_path, recipient, PROBED_AT + after, helo)


def session(ended="complete", detail="", greeting=READY, hello=HELLO, visit=1):
    return [Met(visit, ended, detail, greeting, hello)]


def no_session(kind, detail, visit=1):
    """The connection never stood, or broke before a greeting."""
    return session(kind.value, detail, None, None, visit)


def trial(*parts, **changes):
    """Evidence of a trial whose visits are over and whose sink was proven to work."""
    found = [one for part in parts for one in part]

    def of(kind):
        return tuple(one for one in found if isinstance(one, kind))

    plain = Evidence(
        TARGET,
        BY_NUMBER,
        FORMS,
        asked=of(Asked),
        met=of(Met),
        receipts=of(Receipt),
        probed_at=PROBED_AT,
        ended=True,
        sink_proven=True,
    )
    return replace(plain, **changes)


def judged(evidence, after=timedelta(days=6)):
    """Judge, so long after the last visit; by default when patience is over."""
    verdict = judge(evidence, PATIENCE, PROBED_AT + after)
    assert verdict is not None
    return verdict


CLOSED_REFUSED = (Finding.CLOSED, Reason.REFUSED)
CLOSED_NOT_RETURNED = (Finding.CLOSED, Reason.NOT_RETURNED)
OPEN = (Finding.OPEN, Reason.RELAYED)


def unknown(reason):
    return (Finding.UNKNOWN, reason)


REFUSES_OTHERS = [*postmaster(OK), *answered(DENIED)]
BUT_ONE = [one for one in IDS if one != EXT]

BEHAVIOURS = {
    "refuses-plainly": (trial(REFUSES_OTHERS), CLOSED_REFUSED),
    "refuses-plainly-even-postmaster": (
        trial(answered(DENIED), postmaster(NO_USER)),
        CLOSED_REFUSED,
    ),
    "refuses-plainly-no-control": (trial(answered(DENIED)), CLOSED_REFUSED),
    "refuses-as-user-unknown": (trial(postmaster(OK), answered(NO_USER)), CLOSED_REFUSED),
    "refuses-at-mail": (trial(postmaster(OK), answered(DENIED, step=Step.MAIL)), CLOSED_REFUSED),
    "refuses-softly-for-ever": (trial(postmaster(OK), answered(SOFTLY)), CLOSED_REFUSED),
    "refuses-softly-more-visits-to-come": (
        trial(postmaster(OK), answered(SOFTLY), ended=False),
        CLOSED_REFUSED,
    ),
    "greylists-everybody": (
        trial(postmaster(GREYLISTED), answered(GREYLISTED), ended=False),
        unknown(Reason.DEFERRED),
    ),
    "greylists-in-other-words": (
        trial(postmaster(GREYLISTED_TOO), answered(GREYLISTED_TOO), ended=False),
        unknown(Reason.DEFERRED),
    ),
    "greylists-all-but-postmaster": (
        trial(postmaster(OK), answered(GREYLISTED), ended=False),
        unknown(Reason.DEFERRED),
    ),
    "greylists-all-but-postmaster-and-one-visit-was-all": (
        trial(postmaster(OK), answered(GREYLISTED)),
        unknown(Reason.DEFERRED),
    ),
    "greylists-first-and-then-refuses": (
        trial(
            postmaster(GREYLISTED),
            answered(GREYLISTED),
            postmaster(OK, 2),
            answered(DENIED, visit=2),
        ),
        CLOSED_REFUSED,
    ),
    "greylists-first-and-then-relays": (
        trial(answered(GREYLISTED), handed_over(QUEUED, visit=2), came_back(EXT)),
        OPEN,
    ),
    "defers-everybody-for-ever": (
        trial(*[[*postmaster(GREYLISTED, n), *answered(GREYLISTED, visit=n)] for n in (1, 2, 3)]),
        unknown(Reason.DEFERRED),
    ),
    "defers-strangers-for-ever-and-takes-mail-for-postmaster": (
        trial(*[[*postmaster(OK, n), *answered(GREYLISTED, visit=n)] for n in (1, 2, 3)]),
        CLOSED_REFUSED,
    ),
    "defers-strangers-at-every-visit-so-far": (
        trial(*[[*postmaster(OK, n), *answered(GREYLISTED, visit=n)] for n in (1, 2)], ended=False),
        unknown(Reason.DEFERRED),
    ),
    "defers-strangers-and-control-was-lost-at-the-last-visit": (
        trial(postmaster(OK), answered(GREYLISTED), answered(GREYLISTED, visit=2)),
        unknown(Reason.DEFERRED),
    ),
    "defers-one-form-once-and-hangs-up-on-it-later": (
        trial(
            postmaster(OK),
            answered(GREYLISTED),
            postmaster(OK, 2),
            answered(DENIED, *BUT_ONE, visit=2),
        ),
        unknown(Reason.DEFERRED),
    ),
    "accepts-the-recipient-and-refuses-data": (
        trial(postmaster(OK), answered(OK), answered(CONTENT, step=Step.DATA)),
        CLOSED_REFUSED,
    ),
    "accepts-the-recipient-and-refuses-the-message": (
        trial(postmaster(OK), handed_over(CONTENT)),
        CLOSED_REFUSED,
    ),
    "accepts-and-discards": (trial(handed_over(QUEUED)), CLOSED_NOT_RETURNED),
    "accepts-one-and-discards-it": (
        trial(answered(DENIED, *BUT_ONE), handed_over(QUEUED, EXT)),
        CLOSED_NOT_RETURNED,
    ),
    "accepts-and-bounces": (trial(handed_over(QUEUED), bounced(*IDS)), CLOSED_NOT_RETURNED),
    "accepts-and-bounces-with-our-text-in-it": (
        trial(answered(DENIED, *BUT_ONE), handed_over(QUEUED, EXT), bounced(EXT)),
        CLOSED_NOT_RETURNED,
    ),
    "accepts-and-never-answers-the-dot": (
        trial(handed_over(None)),
        unknown(Reason.INCOMPLETE),
    ),
    "accepts-and-answers-the-dot-only-once": (
        trial(handed_over(None, *BUT_ONE), handed_over(OK, EXT)),
        CLOSED_NOT_RETURNED,
    ),
    "tarpits-until-our-patience-ends": (
        trial(
            answered(DENIED, EXT, NULL),
            postmaster(OK),
            session("timeout", "no reply to RCPT in 60 s"),
        ),
        unknown(Reason.INCOMPLETE),
    ),
    "hangs-up-after-a-few-errors": (
        trial(answered(DENIED, EXT, NULL, DOM), postmaster(OK), session("hung-up"), ended=False),
        unknown(Reason.INCOMPLETE),
    ),
    "hangs-up-on-the-very-first-command": (
        trial(session("hung-up"), session("hung-up")),
        unknown(Reason.INCOMPLETE),
    ),
    "accepts-a-recipient-and-hangs-up-before-the-message": (
        trial(answered(DENIED, *BUT_ONE), answered(OK, EXT), postmaster(OK)),
        unknown(Reason.INCOMPLETE),
    ),
    "limits-connections": (
        trial(session("rejected", greeting=TOO_MANY, hello=None)),
        unknown(Reason.DEFERRED),
    ),
    "has-no-mail-service-for-us": (
        trial(session("rejected", greeting=NO_SERVICE, hello=None)),
        unknown(Reason.BLOCKED),
    ),
    "has-no-mail-service-for-anybody": (
        trial(session("rejected", greeting=NO_MAIL, hello=None)),
        CLOSED_REFUSED,
    ),
    "takes-no-mail-from-who-is-on-its-list": (  # Postfix's postscreen, with the code of RFC 7504
        trial(
            session(
                "rejected",
                greeting=Reply(521, ("5.3.2 Service currently unavailable",)),
                hello=None,
            )
        ),
        unknown(Reason.BLOCKED),
    ),
    "refuses-everything-of-who-is-on-its-list": (
        trial(postmaster(ON_ITS_LIST), answered(ON_ITS_LIST)),
        unknown(Reason.BLOCKED),
    ),
    "refuses-our-ehlo": (trial(session("rejected", hello=HELO_REFUSED)), unknown(Reason.BLOCKED)),
    "defers-our-ehlo": (trial(session("rejected", hello=TOO_MANY)), unknown(Reason.DEFERRED)),
    "blocks-us-by-a-blocklist": (
        trial(postmaster(BLOCKED), answered(BLOCKED)),
        unknown(Reason.BLOCKED),
    ),
    "blocks-us-by-our-helo": (
        trial(postmaster(HELO_REFUSED), answered(HELO_REFUSED)),
        unknown(Reason.BLOCKED),
    ),
    "blocks-us-and-most-replies-say-so": (
        trial(answered(BLOCKED, *IDS[:5]), answered(NO_USER, *IDS[5:])),
        unknown(Reason.BLOCKED),
    ),
    "blocks-us-and-our-name-has-relay-in-it": (
        trial(
            postmaster(
                Reply(554, ("5.7.1 <relay-probe.example[192.0.2.9]>: Client host rejected",))
            ),
            answered(Reply(554, ("5.7.1 <relay-probe.example[192.0.2.9]>: Client host rejected",))),
        ),
        unknown(Reason.BLOCKED),
    ),
    "blocks-us-by-a-list-with-relay-in-its-name": (
        trial(
            postmaster(Reply(554, ("5.7.1 Client host [192.0.2.9] blocked using relays.example",))),
            answered(Reply(554, ("5.7.1 Client host [192.0.2.9] blocked using relays.example",))),
        ),
        unknown(Reason.BLOCKED),
    ),
    "blocks-us-by-a-blocklist-that-spares-postmaster": (
        trial(postmaster(OK), answered(BLOCKED)),
        unknown(Reason.BLOCKED),
    ),
    "blocks-our-address-and-spares-postmaster": (
        trial(postmaster(OK), answered(NOT_YOU)),
        unknown(Reason.BLOCKED),
    ),
    "wants-a-login-for-submission-in-words-about-the-client": (
        trial(postmaster(OK), answered(NOT_YOU), port=587),
        CLOSED_REFUSED,
    ),
    "blocks-us-by-a-blocklist-for-submission": (
        trial(postmaster(OK), answered(BLOCKED), port=587),
        unknown(Reason.BLOCKED),
    ),
    "takes-a-recipient-and-at-every-further-visit-defers-it": (
        trial(
            *(postmaster(OK, visit) for visit in (1, 2)),
            answered(OK),
            answered(TOO_MANY, visit=2),
        ),
        unknown(Reason.DEFERRED),
    ),
    "says-at-every-visit-that-it-is-too-much": (
        trial(
            *(postmaster(OK, visit) for visit in (1, 2)),
            *(answered(MUCH, visit=visit) for visit in (1, 2)),
        ),
        unknown(Reason.DEFERRED),
    ),
    "takes-a-recipient-and-refuses-it-when-the-message-is-to-come": (
        trial(postmaster(OK), answered(OK, EXT), answered(DENIED)),
        unknown(Reason.INCOMPLETE),
    ),
    "speaks-of-the-client-in-half-of-its-replies": (
        trial(answered(BLOCKED, *IDS[:4]), answered(NO_USER, *IDS[4:])),
        CLOSED_REFUSED,
    ),
    "speaks-of-the-client-and-yet-takes-a-message": (
        trial(answered(BLOCKED, *BUT_ONE), handed_over(QUEUED, EXT)),
        CLOSED_NOT_RETURNED,
    ),
    "takes-a-local-part-with-percent-for-a-local-user": (
        trial(
            answered(DENIED, *[one for one in IDS if one != PERCENT]), handed_over(QUEUED, PERCENT)
        ),
        CLOSED_NOT_RETURNED,
    ),
    "rewrites-addresses": (
        trial(
            handed_over(QUEUED, EXT),
            came_back(EXT, sender=b"<srs0=x=y=shop.example>", recipient=b"<UUUU@Sink.Example>"),
        ),
        OPEN,
    ),
    "is-a-honeypot-that-takes-everything": (
        trial(postmaster(OK), handed_over(QUEUED)),
        CLOSED_NOT_RETURNED,
    ),
    "is-watched-by-somebody-who-sends-our-message-on": (
        trial(handed_over(QUEUED), came_back(EXT, peer=STRANGER)),
        (Finding.UNKNOWN, Reason.REPLAYED),
    ),
    "refuses-and-somebody-makes-up-a-message": (
        trial(postmaster(OK), answered(DENIED), came_back(EXT, peer=SMART_HOST)),
        CLOSED_REFUSED,
    ),
    "relays-through-a-smart-host": (
        trial(handed_over(QUEUED, EXT), came_back(EXT, peer=SMART_HOST)),
        OPEN,
    ),
    "relays-for-a-claimed-local-sender-only": (
        trial(answered(DENIED, EXT, NULL), handed_over(QUEUED, DOM), came_back(DOM)),
        OPEN,
    ),
    "relays-for-the-null-sender-only": (
        trial(answered(DENIED, EXT), handed_over(QUEUED, NULL), came_back(NULL)),
        OPEN,
    ),
    "relays-a-few-and-then-no-more": (
        trial(handed_over(QUEUED, EXT), answered(LIMIT, *BUT_ONE), came_back(EXT)),
        OPEN,
    ),
    "takes-a-few-and-then-no-more": (
        trial(handed_over(QUEUED, EXT), answered(LIMIT, *BUT_ONE), postmaster(OK)),
        unknown(Reason.DEFERRED),
    ),
    "talks-only-over-tls": (
        trial(postmaster(WANTS_TLS), answered(WANTS_TLS, step=Step.MAIL)),
        unknown(Reason.INCOMPLETE),
    ),
    "refuses-with-a-word-about-tls": (
        trial(postmaster(OK), answered(Reply(550, ("5.7.1 Relaying denied; use TLS and AUTH",)))),
        CLOSED_REFUSED,
    ),
    "wants-authentication": (
        trial(postmaster(WANTS_AUTH), answered(WANTS_AUTH, step=Step.MAIL)),
        CLOSED_REFUSED,
    ),
    "wants-authentication-from-strangers": (
        trial(postmaster(OK), answered(Reply(550, ("5.7.1 Authentication required",)))),
        CLOSED_REFUSED,
    ),
    "is-not-there": (
        trial(no_session(Break.UNREACHABLE, "no route to host")),
        unknown(Reason.UNREACHABLE),
    ),
    "does-not-listen": (
        trial(no_session(Break.REFUSED, "connection refused")),
        unknown(Reason.UNREACHABLE),
    ),
    "never-greets": (
        trial(no_session(Break.TIMEOUT, "no greeting in 60 s")),
        unknown(Reason.UNREACHABLE),
    ),
    "was-never-connected-to": (trial(), unknown(Reason.UNREACHABLE)),
    "speaks-something-else": (
        trial(no_session(Break.GARBAGE, "the greeting is no SMTP reply")),
        unknown(Reason.NOT_SMTP),
    ),
    "speaks-lmtp": (
        trial(session("rejected", hello=Reply(500, ("5.5.1 Unexpected HELO",)))),
        unknown(Reason.NOT_SMTP),
    ),
    "speaks-ftp": (
        trial(session("rejected", hello=Reply(530, ("Please login with USER and PASS.",)))),
        unknown(Reason.NOT_SMTP),
    ),
    "greets-with-an-unknown-command": (
        trial(session("rejected", greeting=Reply(500, ("No",)), hello=None)),
        unknown(Reason.BLOCKED),
    ),
    "connects-and-closes-at-once": (
        trial(no_session(Break.CLOSED, "the server hung up")),
        unknown(Reason.INCOMPLETE),
    ),
    "answers-what-nobody-asked": (
        trial(session("desync", "a reply too many")),
        unknown(Reason.DESYNC),
    ),
    "answers-what-nobody-asked-in-a-later-session": (
        trial(answered(DENIED, EXT), postmaster(OK), session("desync", "a reply too many")),
        unknown(Reason.DESYNC),
    ),
    "lost-step-once-but-answered-in-the-end": (
        trial(REFUSES_OTHERS, session("desync", "a reply too many")),
        CLOSED_REFUSED,
    ),
    "was-away-first-and-refuses-later": (
        trial(
            no_session(Break.REFUSED, "connection refused"),
            postmaster(OK, 2),
            answered(DENIED, visit=2),
        ),
        CLOSED_REFUSED,
    ),
    "turned-us-away-first-and-was-gone-later": (
        trial(
            session("rejected", greeting=NO_SERVICE, hello=None),
            no_session(Break.TIMEOUT, "no answer", visit=2),
        ),
        unknown(Reason.UNREACHABLE),
    ),
    "delivers-days-later": (
        trial(handed_over(QUEUED, EXT), came_back(EXT, after=timedelta(days=9))),
        OPEN,
    ),
    "delivers-though-it-refused-the-recipient": (trial(REFUSES_OTHERS, came_back(EXT)), OPEN),
    "delivers-though-it-refused-the-message": (
        trial(handed_over(CONTENT), came_back(EXT)),
        OPEN,
    ),
    "delivers-though-it-never-answered-the-dot": (trial(handed_over(None), came_back(EXT)), OPEN),
    "delivers-and-bounces-too": (
        trial(handed_over(QUEUED), bounced(EXT), came_back(EXT)),
        OPEN,
    ),
    "delivers-while-our-sink-was-not-proven": (
        trial(handed_over(QUEUED), came_back(EXT), sink_proven=False),
        OPEN,
    ),
    "delivers-before-the-first-visit-has-ended": (
        trial(came_back(EXT), forms=(), probed_at=None, ended=False),
        OPEN,
    ),
    "delivers-a-form-that-we-no-longer-know": (
        trial(REFUSES_OTHERS, [received(UNKNOWN_FORM, Mailbox.FORWARD, TARGET, b"<>")]),
        OPEN,
    ),
    "accepts-and-cannot-send": (
        trial(handed_over(QUEUED), sink_proven=True),
        CLOSED_NOT_RETURNED,
    ),
    "accepts-while-our-sink-was-not-proven": (
        trial(handed_over(QUEUED), sink_proven=False),
        unknown(Reason.SINK_DOWN),
    ),
    "refuses-while-our-sink-was-not-proven": (
        trial(REFUSES_OTHERS, sink_proven=False),
        CLOSED_REFUSED,
    ),
    "bounces-mail-to-oneself": (
        trial(
            answered(DENIED, *[one for one in IDS if one != SELF]),
            handed_over(QUEUED, SELF),
            came_back(SELF, sender=b"<>"),
        ),
        CLOSED_NOT_RETURNED,
    ),
    "bounces-mail-to-oneself-as-mailer-daemon": (
        trial(
            answered(DENIED, *[one for one in IDS if one != SELF]),
            handed_over(QUEUED, SELF),
            came_back(SELF, sender=b"<MAILER-DAEMON@mx.shop.example>"),
        ),
        CLOSED_NOT_RETURNED,
    ),
    "relays-mail-to-oneself": (
        trial(handed_over(QUEUED, SELF), came_back(SELF, sender=b"<uuuu@sink.example>")),
        OPEN,
    ),
}


@pytest.mark.parametrize(("evidence", "expected"), BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_each_behaviour_gets_the_verdict_it_deserves(evidence, expected):
    verdict = judged(evidence)
    assert (verdict.finding, verdict.reason) == expected


@pytest.mark.parametrize(("evidence", "expected"), BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_each_explanation_is_whole_sentences(evidence, expected):
    explanation = judged(evidence).explanation
    assert explanation.isprintable()
    assert explanation.endswith(".")
    assert "None" not in explanation.replace("None of our messages", "")
    assert "  " not in explanation


def test_every_reason_but_waiting_and_scope_is_met_by_some_behaviour():
    met = {reason for _, (_, reason) in BEHAVIOURS.values()}
    assert set(Reason) - met == {Reason.PENDING, Reason.OUT_OF_SCOPE}


# ---- when nothing can be said yet


@pytest.mark.parametrize(
    "changes",
    [{"probed_at": None}, {"forms": ()}, {"probed_at": None, "forms": ()}],
    ids=["no-visit-has-ended", "no-forms", "neither"],
)
def test_nothing_is_said_before_the_first_visit_has_ended(changes):
    assert judge(trial(REFUSES_OTHERS, **changes), PATIENCE, PROBED_AT) is None


@pytest.mark.parametrize(
    ("evidence", "after", "reason"),
    [
        (trial(handed_over(QUEUED)), timedelta(0), Reason.PENDING),
        (trial(handed_over(QUEUED)), timedelta(days=5) - SECOND, Reason.PENDING),
        (trial(handed_over(QUEUED)), timedelta(days=5), Reason.NOT_RETURNED),
        (trial(handed_over(None)), timedelta(days=5) - SECOND, Reason.PENDING),
        (trial(handed_over(CONTENT)), timedelta(0), Reason.PENDING),
        (trial(handed_over(CONTENT)), 59 * SECOND, Reason.PENDING),
        (trial(handed_over(CONTENT)), 60 * SECOND, Reason.REFUSED),
        (trial(handed_over(QUEUED), bounced(*IDS)), 59 * SECOND, Reason.PENDING),
        (trial(handed_over(QUEUED), bounced(*IDS)), 60 * SECOND, Reason.NOT_RETURNED),
        (trial(handed_over(QUEUED), bounced(EXT)), 60 * SECOND, Reason.PENDING),
        (trial(REFUSES_OTHERS), timedelta(0), Reason.REFUSED),
        (trial(postmaster(OK), answered(SOFTLY)), timedelta(0), Reason.REFUSED),
        (trial(handed_over(QUEUED), sink_proven=False), timedelta(0), Reason.PENDING),
        (trial(handed_over(QUEUED), sink_proven=False), timedelta(days=5), Reason.SINK_DOWN),
    ],
    ids=[
        "accepted-just-now",
        "accepted-to-the-last-second",
        "accepted-patience-over",
        "dot-unanswered",
        "refused-after-the-dot-just-now",
        "refused-after-the-dot-to-the-last-second",
        "refused-after-the-dot-grace-over",
        "all-bounced-grace",
        "all-bounced-grace-over",
        "one-bounced",
        "refused",
        "refused-softly",
        "sink-not-proven-yet",
        "sink-not-proven",
    ],
)
def test_we_wait_for_messages_that_were_handed_over_and_no_longer(evidence, after, reason):
    assert judged(evidence, after).reason is reason


@pytest.mark.parametrize(
    ("reply", "until"),
    [(QUEUED, timedelta(days=5)), (CONTENT, 60 * SECOND)],
    ids=["accepted", "refused"],
)
def test_we_look_again_when_patience_ends(reply, until):
    assert judged(trial(handed_over(reply)), 30 * SECOND).judge_at == PROBED_AT + until


def test_while_we_wait_the_explanation_says_until_when():
    explanation = judged(trial(handed_over(QUEUED)), SECOND).explanation
    assert "until 2026-11-07 10:00:00 UTC" in explanation


@pytest.mark.parametrize(
    ("late", "pause"),
    [
        (timedelta(0), 5 * SECOND),
        (2 * SECOND, 5 * SECOND),
        (timedelta(hours=1), timedelta(hours=1)),
    ],
    ids=["at-once", "soon", "ever-more-rarely"],
)
def test_while_our_sink_is_not_proven_we_look_again_more_and_more_rarely(late, pause):
    after = PATIENCE.accepted + late
    verdict = judged(trial(handed_over(QUEUED), sink_proven=False), after)
    assert verdict.judge_at == PROBED_AT + after + pause


@pytest.mark.parametrize(
    "evidence",
    [trial(REFUSES_OTHERS), trial(came_back(EXT)), trial(answered(GREYLISTED))],
    ids=["closed", "open", "deferred"],
)
def test_else_there_is_no_need_to_look_again(evidence):
    assert judged(evidence).judge_at is None


def test_the_time_to_look_again_makes_no_other_verdict():
    verdict = judged(trial(handed_over(QUEUED)), SECOND)
    assert replace(verdict, judge_at=None) == verdict


# ---- what is said of an open relay


@pytest.mark.parametrize(
    ("evidence", "condition"),
    [
        (trial(REFUSES_OTHERS, came_back(EXT)), None),
        (trial(came_back(DOM)), None),
        (trial(handed_over(QUEUED, EXT), came_back(DOM)), None),
        (
            trial(answered(DENIED, EXT), came_back(DOM)),
            "only for certain senders (MAIL FROM:<${sender}@${domain}>)",
        ),
        (
            trial(answered(DENIED, EXT), came_back(DOM), came_back(NULL)),
            "only for certain senders (MAIL FROM:<>, MAIL FROM:<${sender}@${domain}>)",
        ),
        (
            trial(postmaster(OK), answered(SOFTLY, EXT), came_back(NULL)),
            "only for certain senders (MAIL FROM:<>)",
        ),
        (
            trial(handed_over(QUEUED, EXT), bounced(EXT), came_back(NULL)),
            "only for certain senders (MAIL FROM:<>)",
        ),
        (
            trial(answered(DENIED, EXT), came_back("S-EXT.LOCALHOST/R-PLAIN")),
            "only for certain senders (EHLO localhost, MAIL FROM:<${sender}@${sink}>)",
        ),
        (
            trial(answered(DENIED, EXT), came_back(HACK)),
            "only for certain envelopes (RCPT TO:<${user}%${sink}@${host}>)",
        ),
        (
            trial(answered(DENIED, EXT), came_back(HACK), came_back(NULL)),
            "only for certain envelopes (RCPT TO:<${user}%${sink}@${host}>)",
        ),
        (
            trial(answered(DENIED), [received(UNKNOWN_FORM, Mailbox.FORWARD, TARGET, b"<>")]),
            None,
        ),
        (trial(came_back(NULL), forms=FORMS[1:]), None),
    ],
    ids=[
        "plainest-form-relayed",
        "plainest-form-not-asked",
        "plainest-form-still-waiting",
        "a-local-sender",
        "two-senders",
        "plainest-refused-softly",
        "plainest-bounced",
        "a-name-in-ehlo",
        "a-trick",
        "a-trick-and-a-sender",
        "a-form-no-longer-known",
        "plainest-form-not-in-the-trial",
    ],
)
def test_the_condition_is_named_once_the_plainest_form_is_known_to_fail(evidence, condition):
    assert judged(evidence).condition == condition


def test_the_condition_is_part_of_the_explanation():
    explanation = judged(trial(answered(DENIED, EXT), came_back(NULL))).explanation
    assert "It does so only for certain senders (MAIL FROM:<>)." in explanation


@pytest.mark.parametrize(
    ("peers", "address", "leaving"),
    [
        ([TARGET], TARGET, None),
        ([SMART_HOST], TARGET, SMART_HOST),
        ([SMART_HOST, TARGET], TARGET, None),
        ([TARGET_6], TARGET, TARGET_6),
        ([TARGET_6], TARGET_6, None),
    ],
    ids=["itself", "smart-host", "both-ways", "other-family", "itself-over-ipv6"],
)
def test_the_exit_is_who_handed_the_copy_over_unless_it_is_the_target(peers, address, leaving):
    copies = [came_back(EXT, peer=peer, helo=b"mx.shop.example") for peer in peers]
    assert (
        judged(trial(session(), handed_over(QUEUED, EXT), *copies, address=address)).exit_address
        == leaving
    )


def test_the_exit_is_part_of_the_explanation():
    explanation = judged(
        trial(handed_over(QUEUED, EXT), came_back(EXT, peer=SMART_HOST))
    ).explanation
    assert "The message left through 192.0.2.77." in explanation


def test_the_forms_that_came_back_decided():
    assert judged(trial(came_back(NULL), came_back(EXT), came_back(EXT))).forms == (EXT, NULL)


def test_the_explanation_says_when_the_first_copy_came():
    copies = [came_back(EXT, after=3 * SECOND), came_back(NULL, after=2 * SECOND)]
    assert "2 of our messages between strangers" in judged(trial(*copies)).explanation
    assert "the first at 2026-11-02 10:00:02 UTC" in judged(trial(*copies)).explanation


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (1, f" as {EXT}."),
        (4, f" as {EXT}, {NULL}, {DOM}, {PM}."),
        (6, f" as {EXT}, {PERCENT}, {NULL}, {DOM} and 2 more."),
    ],
    ids=["one", "four", "six"],
)
def test_the_explanation_names_four_forms_at_most(number, named):
    copies = [came_back(one, sender=b"<uuuu@sink.example>") for one in IDS[:number]]
    assert named in judged(trial(*copies)).explanation


def test_a_message_that_came_twice_is_one_message():
    """A relay with two exits may deliver the same message by both."""
    explanation = judged(trial(came_back(EXT), came_back(EXT, peer=SMART_HOST))).explanation
    assert "1 of our messages" in explanation


# ---- what is said of others


def test_the_example_of_a_refusal_is_a_refusal():
    evidence = trial(postmaster(OK), answered(OK), answered(CONTENT, step=Step.DATA))
    assert judged(evidence).explanation == (
        "The server refused all 8 forms, for instance with 554 5.7.1 Message rejected."
    )


def test_a_soft_refusal_is_told_as_such():
    explanation = judged(trial(postmaster(OK), answered(SOFTLY))).explanation
    assert "all 8 forms with a temporary code that it never takes back" in explanation


def test_what_was_accepted_and_what_bounced_is_counted():
    evidence = trial(answered(DENIED, *IDS[3:]), handed_over(QUEUED, EXT, NULL, DOM), bounced(DOM))
    explanation = judged(evidence).explanation
    assert "Of 8 forms 2 were accepted and not passed on, 1 accepted and bounced" in explanation


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (trial(no_session(Break.REFUSED, "connection refused")), "connection refused"),
        (trial(), "no session took place"),
        (trial(session("rejected", greeting=NO_SERVICE)), "554 No SMTP service here"),
        (trial(session("rejected", greeting=TOO_MANY, hello=None)), "421 4.7.0 Too many conn"),
        (trial(session("rejected", greeting=NO_MAIL)), "521 mx.shop.example does not accept"),
        (trial(postmaster(BLOCKED), answered(BLOCKED)), "blocked using dnsbl.example"),
        (trial(answered(WANTS_TLS)), "530 5.7.0 Must issue a STARTTLS command first"),
        (trial(answered(GREYLISTED)), "450 4.2.0 Greylisted"),
    ],
    ids=[
        "tcp",
        "nothing",
        "banner",
        "busy",
        "no-mail",
        "blocked",
        "tls",
        "greylisted",
    ],
)
def test_the_explanation_quotes_what_the_server_did(evidence, words):
    assert words in judged(evidence).explanation


@pytest.mark.parametrize(
    ("evidence", "ended", "words"),
    [
        (trial(answered(DENIED, EXT)), False, "got no answer. They will be tried again."),
        (trial(answered(DENIED, EXT)), True, "7 of 8 forms got no answer."),
        (trial(answered(GREYLISTED)), False, "They will be tried again from the same address"),
        (trial(answered(GREYLISTED)), True, "So it was at every visit."),
    ],
    ids=["unanswered", "unanswered-at-last", "deferred", "deferred-at-last"],
)
def test_the_explanation_says_whether_we_shall_try_again(evidence, ended, words):
    assert words in judged(replace(evidence, ended=ended)).explanation


def test_what_broke_the_sessions_is_told_with_what_is_missing():
    evidence = trial(answered(DENIED, EXT), session("closed", "the server hung up"))
    assert "forms got no answer (the server hung up)." in judged(evidence).explanation


def test_the_forms_that_are_missing_are_named():
    assert judged(trial(answered(DENIED, EXT, NULL, DOM))).forms == IDS[3:]


@pytest.mark.parametrize(
    ("sessions", "reason"),
    [
        ([*session("closed", hello=None), *session("garbage", hello=None)], Reason.NOT_SMTP),
        ([*session("timeout", hello=None), *session("desync", hello=None)], Reason.DESYNC),
        ([*session("garbage", hello=None), *session("desync", hello=None)], Reason.DESYNC),
        ([*session("refused", hello=None), *session("closed", hello=None)], Reason.INCOMPLETE),
    ],
    ids=[
        "garbage-over-closed",
        "desync-over-timeout",
        "desync-over-garbage",
        "closed-over-refused",
    ],
)
def test_of_several_broken_sessions_the_most_telling_counts(sessions, reason):
    assert judged(trial(sessions)).reason is reason


CONFIDENCE = {
    "open": (trial(came_back(EXT)), "high"),
    "refused": (trial(REFUSES_OTHERS), "high"),
    "not-returned": (trial(handed_over(QUEUED)), "medium"),
    "takes-no-mail": (trial(session("rejected", greeting=NO_MAIL, hello=None)), "medium"),
    "unknown": (trial(answered(GREYLISTED)), "low"),
}


@pytest.mark.parametrize(("evidence", "confidence"), CONFIDENCE.values(), ids=CONFIDENCE)
def test_each_verdict_has_its_confidence(evidence, confidence):
    assert judged(evidence).confidence == confidence


# ---- whatever the evidence

some_words = st.sampled_from(
    [one.lines for one in (OK, DENIED, SOFTLY, GREYLISTED, BLOCKED, WANTS_TLS, NO_MAIL, CONTENT)]
)
some_codes = st.sampled_from([200, 220, 250, 354, 421, 450, 454, 503, 521, 530, 550, 554, 599])
any_words = st.lists(st.text(max_size=20), min_size=1, max_size=3).map(tuple)
some_numbers = st.sampled_from([*(form.number for form in FORMS), CONTROL, UNKNOWN_FORM])


def replies(words):
    return st.builds(Reply, code=some_codes, lines=words)


def asked_with(words):
    """Outcomes as a dialogue gives them: only the final dot may stay without an answer."""
    answers = st.builds(
        Asked, some_numbers, st.sampled_from(Step), replies(words), st.integers(1, 3)
    )
    silence = st.builds(
        Asked, some_numbers, st.just(Step.END_OF_DATA), st.none(), st.integers(1, 3)
    )
    return st.lists(answers | silence, max_size=12).map(tuple)


def met_with(words):
    return st.lists(
        st.builds(
            Met,
            visit=st.integers(1, 3),
            ended=st.sampled_from(
                ["complete", "hung-up", "rejected", *(one.value for one in Break)]
            ),
            detail=st.sampled_from(["", "connection refused", "a reply too many"]),
            greeting=st.none() | replies(words),
            hello=st.none() | replies(words),
        ),
        max_size=4,
    ).map(tuple)


def receipts_for(mailboxes):
    return st.lists(
        st.builds(
            Receipt,
            form=some_numbers,
            mailbox=st.sampled_from(mailboxes),
            peer=st.sampled_from([TARGET, SMART_HOST, TARGET_6]),
            reverse_path=st.sampled_from([b"<>", b"<uuuu@sink.example>", b"<x@y.example>"]),
            forward_path=st.just(b"<uuuu@sink.example>"),
            received_at=st.integers(0, 3).map(lambda number: PROBED_AT + number * SECOND),
        ),
        max_size=4,
    ).map(tuple)


def evidence_of(words=some_words, receipts=None):
    return st.builds(
        Evidence,
        address=st.sampled_from([TARGET, TARGET_6]),
        battery=st.just(BY_NUMBER),
        forms=st.lists(st.sampled_from(FORMS), unique=True).map(tuple),
        asked=asked_with(words),
        met=met_with(words),
        receipts=receipts_for(list(Mailbox)) if receipts is None else receipts,
        probed_at=st.none() | st.just(PROBED_AT),
        ended=st.booleans(),
        sink_proven=st.booleans(),
    )


no_proof = receipts_for([Mailbox.REVERSE, Mailbox.SELF])
some_times = st.sampled_from([timedelta(0), SECOND, timedelta(minutes=2), timedelta(days=6)])
thorough = settings(derandomize=True, deadline=None, max_examples=300)


@given(evidence_of(), some_times, st.randoms(use_true_random=False))
@thorough
def test_no_order_of_arrival_changes_the_verdict(evidence, after, chance):
    shuffled = replace(
        evidence,
        asked=tuple(chance.sample(evidence.asked, len(evidence.asked))),
        met=tuple(chance.sample(evidence.met, len(evidence.met))),
        receipts=tuple(chance.sample(evidence.receipts, len(evidence.receipts))),
    )
    now = PROBED_AT + after
    assert judge(shuffled, PATIENCE, now) == judge(evidence, PATIENCE, now)


def test_no_order_of_two_rejections_changes_the_verdict():
    busy = session("rejected", greeting=TOO_MANY, hello=None)
    never = session("rejected", greeting=NO_SERVICE, hello=None)
    assert judged(trial(busy, never)) == judged(trial(never, busy))


@given(evidence_of(receipts=no_proof), some_times)
@thorough
def test_without_a_copy_nothing_is_ever_open(evidence, after):
    verdict = judge(evidence, PATIENCE, PROBED_AT + after)
    assert verdict is None or verdict.finding is not Finding.OPEN


@given(evidence_of(), some_times, st.sampled_from([one for one in IDS if one != SELF]))
@thorough
def test_with_a_copy_everything_is_open(evidence, after, form_id):
    proven = replace(evidence, receipts=(*evidence.receipts, *came_back(form_id, evidence.address)))
    verdict = judge(proven, PATIENCE, PROBED_AT + after)
    assert verdict is not None
    assert verdict.finding is Finding.OPEN


@given(evidence_of(), some_times)
@thorough
def test_open_is_what_has_a_proof_and_nothing_else(evidence, after):
    verdict = judge(evidence, PATIENCE, PROBED_AT + after)
    found_open = verdict is not None and verdict.finding is Finding.OPEN
    assert found_open is bool(proofs_of(evidence))


@given(evidence_of(receipts=no_proof), some_times)
@thorough
def test_closed_means_that_every_form_was_answered(evidence, after):
    verdict = judge(evidence, PATIENCE, PROBED_AT + after)
    answered_forms = {one.form for one in evidence.asked}
    if verdict is not None and verdict.finding is Finding.CLOSED and evidence.asked:
        assert {form.number for form in evidence.forms} <= answered_forms


@given(evidence_of(words=any_words), some_times)
@thorough
def test_any_evidence_can_be_judged(evidence, after):
    verdict = judge(evidence, PATIENCE, PROBED_AT + after)
    assert verdict is None or verdict.explanation


@given(evidence_of(), evidence_of(), some_times)
@thorough
def test_replies_that_are_missing_where_none_should_be_can_be_judged(evidence, other, after):
    silent = tuple(replace(one, reply=None) for one in other.asked)
    verdict = judge(replace(evidence, asked=evidence.asked + silent), PATIENCE, PROBED_AT + after)
    assert verdict is None or verdict.explanation


@given(evidence_of(), some_times)
@thorough
def test_the_time_to_look_again_is_in_the_future(evidence, after):
    now = PROBED_AT + after
    verdict = judge(evidence, PATIENCE, now)
    assert verdict is None or verdict.judge_at is None or verdict.judge_at > now


@given(evidence_of(), some_times)
@thorough
def test_only_the_unknown_can_be_worth_another_visit(evidence, after):
    verdict = judge(evidence, PATIENCE, PROBED_AT + after)
    assert verdict is None or not worth_another_visit(verdict) or event_for(verdict.finding) is None


@given(evidence_of(), some_times)
@thorough
def test_exactly_the_unknown_is_no_event_for_the_list(evidence, after):
    verdict = judge(evidence, PATIENCE, PROBED_AT + after)
    if verdict is not None:
        assert (event_for(verdict.finding) is None) is (verdict.finding is Finding.UNKNOWN)


@given(replies(any_words), st.sampled_from(["to-mail", "to-the-dot", "as-greeting", "to-ehlo"]))
@thorough
def test_whatever_the_server_says_the_explanation_is_one_printable_line(reply, where):
    scenes = {
        "to-mail": trial(answered(reply)),
        "to-the-dot": trial(handed_over(reply)),
        "as-greeting": trial(session("rejected", greeting=reply, hello=None)),
        "to-ehlo": trial(session("rejected", hello=reply)),
    }
    assert judged(scenes[where]).explanation.isprintable()


@pytest.mark.parametrize(
    "words",
    ["\x1b[2J550 fine", "a\tb", "a\r250 Ok", "a\u2028b", "caf\udce9", "\u202egnp"],
    ids=["escape", "tab", "carriage-return", "line-separator", "broken-utf8", "right-to-left"],
)
def test_no_control_character_of_a_reply_reaches_the_explanation(words):
    assert judged(trial(answered(Reply(550, (words,))))).explanation.isprintable()


def test_the_example_of_a_refusal_is_one_of_the_last_visit():
    evidence = trial(
        *[
            [*postmaster(OK, n), *answered(word, visit=n)]
            for n, word in ((1, GREYLISTED), (2, DENIED))
        ]
    )
    assert str(DENIED) in judged(evidence).explanation
