"""From evidence to a verdict: a pure, total function, with its reasons in words.

Rule 0: only our own token that arrives at our sink as envelope recipient proves relay. Never a
250: a server may accept every recipient and drop, bounce or hold the message. Never a token
quoted in a body: bounces quote.

`open`: at least one probe message came back. `closed`: every form was refused for good, or
accepted and bounced to us, or accepted and not seen again for `patience` while our sink was
known to work. `unknown`: anything else, with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from relaytest.core import phrases
from relaytest.core.dialogue import Break, Step
from relaytest.core.evidence import (
    Evidence,
    Met,
    Receipt,
    Standing,
    control_of,
    in_order,
    promised,
    proofs_of,
    replays_of,
    standings_of,
)
from relaytest.core.probe import CONTROL, Form
from relaytest.core.reply import Reply
from relaytest.core.verdict import Finding, Patience, Reason, Verdict, unknown

_SINK_RECOVERS = timedelta(seconds=5)  # until a check that was asked for should have come
_SUBMISSION = frozenset({465, 587})  # RFC 6409, RFC 8314
_NOT_RELAYED = frozenset({Standing.REFUSED, Standing.REFUSED_SOFTLY, Standing.BOUNCED})

# How a session that never got to a mail command is read, the most telling first.
_REASON_OF_BREAK = {
    Break.DESYNC: Reason.DESYNC,
    Break.GARBAGE: Reason.NOT_SMTP,
    Break.CLOSED: Reason.INCOMPLETE,
    Break.TLS: Reason.INCOMPLETE,
    Break.TIMEOUT: Reason.UNREACHABLE,
    Break.REFUSED: Reason.UNREACHABLE,
    Break.UNREACHABLE: Reason.UNREACHABLE,
}


def judge(evidence: Evidence, patience: Patience, now: datetime) -> Verdict | None:
    """Decide one trial, or return None while nothing can be said.

    The same evidence in any order gives the same verdict. Without a receipt for a forward-path
    nothing is ever open.
    """
    verdict = _decide(in_order(evidence), patience, now)
    if verdict is None:
        return None
    return replace(verdict, explanation=_printable(verdict.explanation))


def _printable(text: str) -> str:
    """What a server says may hold control characters, and halves of broken UTF-8."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _decide(evidence: Evidence, patience: Patience, now: datetime) -> Verdict | None:
    proofs = proofs_of(evidence)
    if proofs:
        return _open(evidence, proofs)
    if evidence.probed_at is None or not evidence.forms:
        return None
    standings = standings_of(evidence)
    return (
        _turned_away(evidence, standings)
        or _unanswered(evidence, standings)
        or _deferred(evidence, standings)
        or _waiting(evidence, standings, evidence.probed_at, patience, now)
        or _replayed(replays_of(evidence))
        or _unheard(evidence, standings)
        or _closed(evidence, standings)
    )


def _open(evidence: Evidence, proofs: Sequence[Receipt]) -> Verdict:
    forms = [evidence.battery[one.form] for one in proofs if one.form in evidence.battery]
    ids = tuple(dict.fromkeys(form.id for form in forms))
    by_target = any(proof.peer == evidence.address for proof in proofs)
    leaving = None if by_target else proofs[0].peer
    condition = _condition(evidence, forms)
    sentences = [
        f"The server relays: {len({one.form for one in proofs})} of our messages between "
        f"strangers came back through it, the first at "
        f"{proofs[0].received_at:%Y-%m-%d %H:%M:%S} UTC{_named(ids)}.",
        f"It does so {condition}." if condition else "",
        f"The message left through {leaving}." if leaving else "",
        "A new test in which every form is refused would change this.",
    ]
    explanation = " ".join(filter(None, sentences))
    return Verdict(Finding.OPEN, Reason.RELAYED, "high", explanation, ids, condition, leaving)


def _named(ids: Sequence[str]) -> str:
    if not ids:
        return ""
    return f" as {', '.join(ids[:4])}{f' and {len(ids) - 4} more' if len(ids) > 4 else ''}"


def _condition(evidence: Evidence, relayed: Sequence[Form]) -> str | None:
    """Say what it takes, once it is known that the plainest form is refused."""
    if _only_inside_tls(evidence, relayed):
        return "only inside TLS"
    standings = standings_of(evidence)
    plainest = next((form for form in evidence.forms if form.id == "S-EXT/R-PLAIN"), None)
    if not relayed or plainest is None or standings[plainest.number] not in _NOT_RELAYED:
        return None
    if all(form.recipient.id == "R-PLAIN" for form in relayed):
        senders = dict.fromkeys(form.claim for form in relayed)
        return f"only for certain senders ({', '.join(senders)})"
    tricks = dict.fromkeys(
        f"RCPT TO:{form.recipient.template}" for form in relayed if form.recipient.id != "R-PLAIN"
    )
    return f"only for certain envelopes ({', '.join(tricks)})"


def _only_inside_tls(evidence: Evidence, relayed: Sequence[Form]) -> bool:
    """The same forms were refused in clear."""
    numbers = {form.number for form in relayed}
    handed_over = [
        one for one in evidence.asked if one.form in numbers and one.step is Step.END_OF_DATA
    ]
    refused = {
        one.form for one in evidence.asked if not one.tls and one.reply and one.reply.permanent
    }
    return bool(handed_over) and all(one.tls and one.form in refused for one in handed_over)


def _replayed(replays: Sequence[Receipt]) -> Verdict | None:
    if not replays:
        return None
    return unknown(
        Reason.REPLAYED,
        f"A message of ours came back from {replays[0].peer}, but nothing connects that with the "
        "server: no Received line shows the way. Somebody who can read its mail may have sent "
        "it. The server itself bringing one would change this.",
    )


def _turned_away(evidence: Evidence, standings: Mapping[int, Standing]) -> Verdict | None:
    """No session got as far as a mail command, or every answer is about who we are."""
    if evidence.asked:
        return _blocked_in_mail(evidence, standings)
    last = max((one.visit for one in evidence.met), default=0)
    met = [one for one in evidence.met if one.visit == last]
    refusal = next((reply for one in met if (reply := _refusal(one)) is not None), None)
    if refusal is None:
        kinds = {one.ended for one in met}
        reason = next(
            (reason for kind, reason in _REASON_OF_BREAK.items() if kind.value in kinds),
            Reason.INCOMPLETE if kinds else Reason.UNREACHABLE,
        )
        silent = "the server ended every session unasked" if kinds else "no session took place"
        detail = next((one.detail for one in met if one.detail), silent)
        return unknown(reason, f"No mail command could be sent: {detail}.")
    if refusal.code == 521 and not _of_the_client(refusal):  # RFC 7504: no mail from anybody
        text = f"The server says that it takes no mail at all: {refusal}."
        return Verdict(Finding.CLOSED, Reason.REFUSED, "medium", text)
    if refusal.transient:
        return unknown(Reason.DEFERRED, f"The server is not ready for us: {refusal}.")
    if _never_heard_of_smtp(refusal) and any(one.hello == refusal for one in met):
        text = f"It knows neither EHLO nor HELO, so it is no mail server for strangers: {refusal}."
        return unknown(Reason.NOT_SMTP, text)
    return unknown(
        Reason.BLOCKED,
        f"The server turns us away before any mail command: {refusal}. That says nothing about "
        "whether it relays for others.",
    )


def _never_heard_of_smtp(hello: Reply) -> bool:
    """LMTP knows LHLO only (RFC 2033 section 4.1), FTP wants USER first (RFC 959 section 5.4)."""
    return hello.code in {500, 502} or bool(phrases.WANTS_USER.search(hello.text))


def _of_the_client(reply: Reply) -> bool:
    denied = reply.permanent and phrases.NOT_FOR_THIS_ONE.search(reply.text)
    return bool(denied or phrases.ABOUT_THE_CLIENT.search(reply.text))


def _refusal(met: Met) -> Reply | None:
    """The reply with which a session was refused at its start, if any."""
    for reply in (met.hello, met.greeting):
        if reply is not None and not reply.positive:
            return reply
    return None


def _blocked_in_mail(evidence: Evidence, standings: Mapping[int, Standing]) -> Verdict | None:
    """Most answers speak of the client.

    That mail for postmaster was taken says nothing here: Postfix spares him from all of its
    rules, others from their lists. Only for submission it shows what all strangers hear.
    """
    if {Standing.WAITING, Standing.BOUNCED} & set(standings.values()):
        return None
    spared = any(reply.positive for reply in control_of(evidence).values())
    everybody = spared and evidence.port in _SUBMISSION
    replies = [one.reply for one in evidence.asked if one.reply is not None]
    blocking = [
        reply
        for reply in replies
        if (phrases.ON_A_LIST.search(reply.text) if everybody else _of_the_client(reply))
        and not phrases.about_relay(reply.text)
    ]
    if len(blocking) * 2 <= len(replies):
        return None
    return unknown(
        Reason.BLOCKED,
        f"The server refuses us for who we are{'' if spared else ', even mail for postmaster'}: "
        f"{blocking[0]}. That says nothing about whether it relays for others.",
    )


def _unanswered(evidence: Evidence, standings: Mapping[int, Standing]) -> Verdict | None:
    wants_tls = [
        one.reply
        for one in evidence.asked
        if one.reply and one.reply.code == 530 and phrases.WANTS_TLS.search(one.reply.text)
    ]
    if wants_tls:
        return unknown(
            Reason.INCOMPLETE, f"The server talks only over TLS, not yet tried: {wants_tls[0]}."
        )
    open_ends = _forms(evidence, standings, Standing.UNANSWERED)
    if not open_ends:
        return None
    reason = Reason.INCOMPLETE
    if any(one.ended == Break.DESYNC.value for one in evidence.met):
        reason = Reason.DESYNC
    details = [one.detail for one in evidence.met if one.detail]
    why = f" ({details[-1]})" if details else ""
    more = "" if evidence.ended else " They will be tried again."
    return unknown(
        reason,
        f"{len(open_ends)} of {len(evidence.forms)} forms got no answer{why}.{more}",
        open_ends,
    )


def _deferred(evidence: Evidence, standings: Mapping[int, Standing]) -> Verdict | None:
    deferred = _forms(evidence, standings, Standing.DEFERRED)
    numbers = {form.number for form in evidence.forms if form.id in deferred}
    stands = evidence.ended and all(_never_taken_back(evidence, number) for number in numbers)
    if not deferred or stands:
        return None
    reply = next(one.reply for one in reversed(evidence.asked) if one.form in numbers)
    more = (
        "So it was at every visit."
        if evidence.ended
        else "They will be tried again from the same address with the same envelope."
    )
    return unknown(
        Reason.DEFERRED,
        f"{len(deferred)} of {len(evidence.forms)} forms were refused for now: {reply}. {more}",
        deferred,
    )


def _never_taken_back(evidence: Evidence, number: int) -> bool:
    """The form was refused at several visits, in the last while postmaster's mail was taken.

    Not one that was accepted once, nor one that was too much: its server counts.
    """
    asked = [one for one in evidence.asked if one.form == number]
    if any(one.reply and phrases.OVER_A_LIMIT.search(one.reply.text) for one in asked):
        return False
    visits = {one.visit for one in asked}
    control = control_of(evidence).get(max(visits))
    refused = len(visits) > 1 and control is not None and control.positive
    return refused and number not in promised(evidence)


def _waiting(
    evidence: Evidence,
    standings: Mapping[int, Standing],
    probed_at: datetime,
    patience: Patience,
    now: datetime,
) -> Verdict | None:
    waiting = _forms(evidence, standings, Standing.WAITING)
    numbers = {one.form for one in evidence.asked if one.step is Step.END_OF_DATA}
    handed_over = tuple(form.id for form in evidence.forms if form.number in numbers)
    until = probed_at + (patience.accepted if waiting else patience.refused)
    if handed_over and now < until:
        return unknown(
            Reason.PENDING,
            f"{len(handed_over)} of {len(evidence.forms)} messages were handed over and may "
            f"still come back; we wait until {until:%Y-%m-%d %H:%M:%S} UTC.",
            handed_over,
            judge_at=until,
        )
    if waiting and not evidence.sink_proven:
        return unknown(
            Reason.SINK_DOWN,
            f"{len(waiting)} messages were accepted and did not come back, but our own sink "
            "was not proven to work all that time, so nothing follows. A new test would tell.",
            waiting,
            judge_at=now + max(_SINK_RECOVERS, now - until),  # more and more rarely
        )
    return None


def _unheard(evidence: Evidence, standings: Mapping[int, Standing]) -> Verdict | None:
    """No message got an answer: a filter behind the server takes longer than we wait, or hangs.

    A client waits ten minutes for it, and comes again (RFC 5321 section 4.5.3.2.6); we do not.
    """
    waiting = _forms(evidence, standings, Standing.WAITING)
    handed_over = [one.reply for one in evidence.asked if one.step is Step.END_OF_DATA]
    if not waiting or any(reply is not None and reply.positive for reply in handed_over):
        return None
    return unknown(
        Reason.INCOMPLETE,
        f"{len(waiting)} of {len(evidence.forms)} messages were handed over whole and got no "
        "answer, and none came back.",
        waiting,
    )


def _closed(evidence: Evidence, standings: Mapping[int, Standing]) -> Verdict:
    ids = tuple(form.id for form in evidence.forms)
    silent = len(_forms(evidence, standings, Standing.WAITING))
    bounced = len(_forms(evidence, standings, Standing.BOUNCED))
    if silent or bounced:
        return Verdict(
            Finding.CLOSED,
            Reason.NOT_RETURNED,
            "medium",
            f"None of our messages came back. Of {len(ids)} forms {silent} were accepted and "
            f"not passed on, {bounced} accepted and bounced, the others refused. A message "
            "that comes back later would change this.",
            ids,
        )
    soft = sum(one in {Standing.REFUSED_SOFTLY, Standing.DEFERRED} for one in standings.values())
    some = f", {soft} of them" if soft < len(ids) else ""
    how = f"{some} with a temporary code that it never takes back" if soft else ""
    refusals = [
        one
        for one in evidence.asked
        if one.form != CONTROL and one.reply is not None and one.reply.code >= 400
    ]
    last = max(one.visit for one in refusals)
    example = next(one.reply for one in refusals if one.visit == last)
    return Verdict(
        Finding.CLOSED,
        Reason.REFUSED,
        "high",
        f"The server refused all {len(ids)} forms{how}, for instance with {example}.",
        ids,
    )


def _forms(
    evidence: Evidence, standings: Mapping[int, Standing], standing: Standing
) -> tuple[str, ...]:
    return tuple(form.id for form in evidence.forms if standings[form.number] is standing)
