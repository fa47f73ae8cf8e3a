"""The one-off check: what was meant by its target, when to stop waiting, what follows from it.

A check has one visit and short patience, and often no sink. It judges by the same judge as the
daemons do, and is only more careful: what it could not see it does not call closed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from relaytest.core import phrases
from relaytest.core.dialogue import Step
from relaytest.core.evidence import (
    Evidence,
    Standing,
    forms_to_ask,
    in_order,
    proofs_of,
    standings_of,
)
from relaytest.core.judge import judge
from relaytest.core.names import Names
from relaytest.core.offers import Asker, offer
from relaytest.core.probe import Envelope, Form
from relaytest.core.reply import Reply
from relaytest.core.target import Address, parse_address
from relaytest.core.transcript import visible
from relaytest.core.verdict import Finding, Patience, Reason, Verdict, unknown

NOBODYS_DOMAIN = "relay-probe.invalid"  # RFC 2606: nobody's, for asking without a sink

_NAME = re.compile(
    r"(?=.{1,253}$)(?!.*\.\d+$)(?!\d+$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*"
)
_NO_SUCH_DOMAIN = re.compile(
    r"domain\b.{0,60}\b(not found|not exist|unknown|invalid|no mx|null ?mx|not accept mail)"
    r"|(unknown|invalid|no such|unresolvable) (\w+ )?(domain|host)|unrouteable|null ?mx|no mx\b"
    r"|sender verif|(cannot|can't|could not) (resolve|verify|find)|host (unknown|not found)"
    r"|\b[45]\.1\.8\b|\b[45]\.4\.4\b",
    re.IGNORECASE,
)
_LULL = timedelta(seconds=5)  # once relay is proven: no copy for so long, and no more will come
_NO_PATIENCE = Patience(timedelta(0), timedelta(0))
_WORST_FIRST = (Finding.OPEN, Finding.UNKNOWN, Finding.CLOSED)
_ACCEPTED = "accepted"  # at RCPT, and no message was sent: no Standing, for no proof either way


@dataclass(frozen=True, slots=True)
class FormResult:
    """What became of one form, for people.

    Attributes:
        envelope: As it was sent; None if the target never told who it is.
        standing: A Standing's value, or "accepted" if only the recipient was asked about.
        reply: The target's last word on it, if any.
    """

    form: Form
    envelope: Envelope | None
    standing: str
    reply: Reply | None


def parse_subject(text: str) -> Address | str:
    """Read what somebody wants checked: an address, or the name of a host or a mail domain.

    Raises:
        ValueError: Says what would be right.

    >>> parse_subject("[192.0.2.1]"), parse_subject("Shop.Example.")
    (IPv4Address('192.0.2.1'), 'shop.example')
    """
    bare = text.strip()
    bare = bare.removeprefix("[").removesuffix("]").removeprefix("IPv6:")
    try:
        return parse_address(bare)
    except ValueError as error:
        if "has a zone" in str(error):
            raise
    name = _in_ascii(bare.rstrip(".").lower())
    if _NAME.fullmatch(name):
        return name
    raise ValueError(f"{text!r} is neither an address nor a name{_slip(bare)}")


def _in_ascii(name: str) -> str:
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def _slip(text: str) -> str:
    """What may have been meant."""
    if "@" in text:
        return f"; a mail domain is what stands behind the @: {text.rpartition('@')[2]}"
    if "://" in text:
        return "; give the host without the rest of the URL"
    if "/" in text:
        return "; a check is of one server, and a network has many"
    if ":" in text:
        return "; a port is given with --port"
    return "; such as 192.0.2.25, 2001:db8::25, mail.example.com or example.com"


def wait_until(evidence: Evidence, patience: Patience) -> datetime | None:
    """Return how long mail may still come back; None: there is nothing to wait for.

    Once relay is proven it is only a matter of how many forms do it.
    """
    returned = {one.form for one in evidence.receipts}
    out = {one.form for one in evidence.asked if one.step is Step.END_OF_DATA} - returned
    if not out or evidence.probed_at is None:
        return None
    standings = standings_of(in_order(evidence))
    accepted = any(standings.get(form) is Standing.WAITING for form in out)
    until = evidence.probed_at + (patience.accepted if accepted else patience.refused)
    if proofs_of(evidence):
        last = max(one.received_at for one in evidence.receipts)
        return min(until, max(last, evidence.probed_at) + _LULL)
    return until


def conclude(evidence: Evidence, now: datetime, *, messages: bool) -> Verdict:
    """Give the verdict of a check that is over.

    Args:
        evidence: With `ended` set.
        now: When the waiting ended.
        messages: Messages were sent for what was accepted; else it was asked only.
    """
    found = judge(evidence, _NO_PATIENCE, now)
    if found is None:
        return broken_off(evidence, now)
    return _in_doubt(evidence, found) if messages else _without_messages(evidence, found)


def _in_doubt(evidence: Evidence, found: Verdict) -> Verdict:
    """Visits seconds apart do not tell greylisting, which lasts minutes, from a refusal.

    What speaks of relaying is a refusal all the same. Where other forms were refused for good a
    deferred one is in doubt only if it speaks of time: some senders never resolve.
    """
    standings = standings_of(in_order(evidence))
    deferred = [
        (one.form.id, one.reply)
        for one in results_of(evidence, {})
        if one.reply is not None
        and standings[one.form.number] is Standing.DEFERRED
        and not phrases.about_relay(one.reply.text)
    ]
    if len(deferred) < len(evidence.forms):
        deferred = [one for one in deferred if phrases.COME_BACK.search(one[1].text)]
    if found.finding is not Finding.CLOSED or not deferred:
        return found
    return unknown(
        Reason.DEFERRED,
        f"{len(deferred)} of {len(evidence.forms)} forms were refused for now at every visit: "
        f"{shown(deferred[0][1])}. The visits were too near to each other to tell greylisting "
        "from a refusal.",
        tuple(form for form, _ in deferred),
    )


def _without_messages(evidence: Evidence, found: Verdict) -> Verdict:
    """Replies alone prove no relay; and a domain that nobody has may be what was refused."""
    if found.reason is Reason.BLOCKED or not evidence.asked:
        return found
    results = results_of(evidence, {})
    accepted = tuple(one.form.id for one in results if one.standing == _ACCEPTED)
    if accepted:
        return unknown(
            Reason.INCOMPLETE,
            f"{len(accepted)} of {len(results)} forms were accepted at RCPT. That is no proof: "
            "servers accept and drop, or accept and bounce. Only a message that comes back "
            "proves relay, and without a sink none was sent.",
            accepted,
        )
    strange = [
        (one.form.id, one.reply)
        for one in results
        if one.reply is not None and _no_such_domain(one.reply)
    ]
    if strange and found.reason in {Reason.REFUSED, Reason.DEFERRED}:
        return unknown(
            Reason.INCOMPLETE,
            f"{len(strange)} of {len(results)} forms were refused because our domain does not "
            f"exist, which says nothing about a domain that does: {shown(strange[0][1])}.",
            tuple(form for form, _ in strange),
        )
    if found.finding is not Finding.CLOSED:
        return found
    return replace(
        found,
        confidence="medium",
        explanation=f"{found.explanation} Only recipients were asked about, at a domain that "
        "does not exist.",
    )


def shown(reply: Reply) -> str:
    """Return a reply for a terminal: no octet of it moves the cursor."""
    return visible(str(reply).encode("utf-8", "surrogateescape"))


def _no_such_domain(reply: Reply) -> bool:
    return not reply.positive and (
        _NO_SUCH_DOMAIN.search(reply.text) is not None and not phrases.about_relay(reply.text)
    )


def worth_asking_again(evidence: Evidence, now: datetime, *, messages: bool) -> tuple[Form, ...]:
    """Return the forms of another visit, if one within minutes may tell more.

    Without messages what was accepted is known well enough, and so is what was refused for a
    domain that does not exist: it will not exist then either.
    """
    verdict = judge(evidence, _NO_PATIENCE, now)
    if verdict is None or verdict.reason not in {Reason.DEFERRED, Reason.INCOMPLETE}:
        return ()
    left = forms_to_ask(in_order(evidence))
    if messages:
        return left
    known = {
        one.form.number
        for one in results_of(evidence, {})
        if one.standing == _ACCEPTED or (one.reply is not None and _no_such_domain(one.reply))
    }
    return tuple(form for form in left if form.number not in known)


def broken_off(evidence: Evidence, now: datetime) -> Verdict:
    """Return the verdict of a check that was ended before it was over: proof stays proof."""
    if proofs_of(evidence) and (found := judge(evidence, _NO_PATIENCE, now)):
        return found
    out = any(one.step is Step.END_OF_DATA for one in evidence.asked)
    reason = Reason.PENDING if out else Reason.INCOMPLETE
    return unknown(reason, "The check was broken off before it was over.")


def not_tried(why: str) -> Verdict:
    """Return the verdict where we ourselves could not even try."""
    return unknown(Reason.UNREACHABLE, f"This machine could not even try: {why}.")


def worst(verdicts: Iterable[Verdict]) -> Finding:
    """Return what several verdicts come to: open if one is, else unknown if one is."""
    found = {one.finding for one in verdicts}
    return next((one for one in _WORST_FIRST if one in found), Finding.UNKNOWN)


def envelopes_of(
    forms: Sequence[Form], names: Names | None, *, trial: int, asker: Asker
) -> dict[int, Envelope]:
    """Return the envelope of each form as it was sent; none if the target told no name."""
    if names is None:
        return {}
    return {form.number: offer(form, names, trial=trial, asker=asker).envelope for form in forms}


def results_of(evidence: Evidence, envelopes: Mapping[int, Envelope]) -> tuple[FormResult, ...]:
    """Return what became of each form, in battery order."""
    evidence = in_order(evidence)
    standings = standings_of(evidence)
    # The weightiest comes last; but what became of a message says more than of its recipient.
    weighed = sorted(evidence.asked, key=lambda one: one.step is Step.END_OF_DATA)
    last = {one.form: one for one in weighed}
    results = []
    for form in evidence.forms:
        asked, standing = last.get(form.number), standings[form.number].value
        reply = asked.reply if asked else None
        if standing == Standing.UNANSWERED.value and reply is not None and reply.positive:
            standing = _ACCEPTED
        results.append(FormResult(form, envelopes.get(form.number), standing, reply))
    return tuple(results)


def advice(verdict: Verdict, *, messages: bool) -> str:
    """Return what to do next, for the administrator of the server.

    Args:
        verdict: What was found.
        messages: The check had a sink.
    """
    if verdict.reason is Reason.INCOMPLETE and verdict.forms and not messages:
        return _NEEDS_A_SINK
    return _ADVICE[verdict.reason]


_NEEDS_A_SINK = (
    "Give the check a sink: --sink-domain NAME, a domain whose MX leads to this machine, and "
    "--sink-listen ADDRESS:25. It then sends messages and sees which come back."
)
_FROM_OUTSIDE = (
    "If this machine is one that the server trusts, such as one of its own network, this only "
    "shows that: check from outside."
)
_ADVICE = {
    Reason.RELAYED: (
        "Anybody can send mail to anybody through this server, and spammers will. Let it relay "
        "only for your own networks and for users who have logged in (Postfix: "
        "smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, "
        f"reject_unauth_destination), then check again. {_FROM_OUTSIDE}"
    ),
    Reason.REFUSED: "Nothing: it refuses strangers, as it should.",
    Reason.NOT_RETURNED: (
        "Look into the server's queue and log for what it did with our messages. If they are "
        "only slow, check again with a longer --wait, such as 1h."
    ),
    Reason.PENDING: "Check again, and let it come to its end.",
    Reason.DEFERRED: (
        "If the server greylists, check again with a longer --wait, such as 20m: it comes back "
        "with the same envelopes after a quarter and a half of it. `relaytest up` does so for "
        "hours."
    ),
    Reason.BLOCKED: (
        "Check from a machine that the server talks to: with a fixed address that is on no "
        "blocklist, reverse DNS, and that name as identity.ehlo_name."
    ),
    Reason.UNREACHABLE: (
        "See that a mail server listens there, and that no firewall is in between: many "
        "providers block port 25 outwards. Another port is given with --port, and -4 or -6 "
        "leaves out a version of IP that this machine does not have."
    ),
    Reason.NOT_SMTP: (
        "Something else than a mail server answers on this port; give the right one with --port. "
        "If TLS comes first there, add the port to battery.tls_ports of the configuration."
    ),
    Reason.INCOMPLETE: (
        "Check again, after some minutes if the server limits how often one may come."
    ),
    Reason.DESYNC: (
        "The server, or a filter in front of it, sends replies that nobody waits for; check "
        "past the filter, or see the sessions with --transcript."
    ),
    Reason.REPLAYED: (
        "Find out who reads the server's mail and sent our message on: a filter, an archive, a "
        "trap. Or check again."
    ),
    Reason.SINK_DOWN: (
        "Make the sink reachable: the MX of the sink domain must lead to --sink-listen. Then "
        "check again."
    ),
    Reason.OUT_OF_SCOPE: (
        "If the server is yours, name its network with --allow, or in scope.allow of the "
        "configuration."
    ),
}
