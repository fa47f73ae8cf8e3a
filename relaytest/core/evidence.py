"""The evidence of one trial, and what became of each form."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from relaytest.core import phrases
from relaytest.core.dialogue import Step
from relaytest.core.names import names_of
from relaytest.core.probe import CONTROL, Form
from relaytest.core.received import Hop
from relaytest.core.reply import Reply
from relaytest.core.target import Address
from relaytest.core.token import Mailbox


class Standing(enum.Enum):
    """What became of one form."""

    RELAYED = "relayed"  # our message came back
    BOUNCED = "bounced"  # our message was accepted and a bounce came back
    REFUSED = "refused"
    REFUSED_SOFTLY = "refused-softly"  # a 4yz that means never
    WAITING = "waiting"  # the message was handed over and may still come
    DEFERRED = "deferred"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Asked:
    """One outcome, as stored.

    Attributes:
        visit: Which visit to the target, from 1.
        tls: It was asked inside TLS: for a server that may be another question.
    """

    form: int
    step: Step
    reply: Reply | None
    visit: int = 1
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Met:
    """How one session with the target went.

    Attributes:
        ended: "complete", "hung-up", "rejected", or a core.dialogue.Break value.
        detail: What broke it, in words.
        greeting: First reply, if one came.
        hello: Reply to EHLO or HELO, if one came.
        source: Our address on it, if it stood.
    """

    visit: int
    ended: str
    detail: str = ""
    greeting: Reply | None = None
    hello: Reply | None = None
    source: Address | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A message that reached our sink for a token of the trial.

    Attributes:
        peer: Who handed it to us.
        reverse_path: As it came, brackets included.
        forward_path: Likewise.
        helo: What the peer called itself.
        hops: Its Received lines.
        ours: Its header is that of our message (core.message.is_ours).
    """

    form: int
    mailbox: Mailbox
    peer: Address
    reverse_path: bytes
    forward_path: bytes
    received_at: datetime
    helo: bytes = b""
    hops: tuple[Hop, ...] = ()
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one trial.

    Attributes:
        address: The target.
        battery: Every form there is, by number.
        forms: What was to be asked; empty before the first visit has ended.
        probed_at: End of the last visit; None before the first has ended.
        ended: No further visit will come.
        sink_proven: Our own messages to our sink came back all the time since `probed_at`.
        near: Prefix lengths, IPv4 and IPv6, within which addresses are one system.
        port: Of the target.
    """

    address: Address
    battery: Mapping[int, Form]
    forms: tuple[Form, ...] = ()
    asked: tuple[Asked, ...] = ()
    met: tuple[Met, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    probed_at: datetime | None = None
    ended: bool = False
    sink_proven: bool = False
    near: tuple[int, int] = (24, 64)
    port: int = 25


def in_order(evidence: Evidence) -> Evidence:
    """Return the same evidence sorted, so that no order of arrival can matter."""
    order = {form.number: place for place, form in enumerate(evidence.forms)}
    return replace(
        evidence,
        asked=tuple(
            sorted(evidence.asked, key=lambda one: (_weight(one), order.get(one.form, -1)))
        ),
        met=tuple(
            sorted(
                evidence.met,
                key=lambda one: (
                    one.visit,
                    one.ended,
                    one.detail,
                    str(one.greeting),
                    str(one.hello),
                ),
            )
        ),
        receipts=tuple(
            sorted(evidence.receipts, key=lambda one: (one.received_at, one.form, one.peer.packed))
        ),
    )


def _weight(asked: Asked) -> tuple[int, int, int, str]:
    """Later visits weigh more; within one, a refusal more than the acceptance it took back."""
    if asked.reply is None:
        return asked.visit, 3, 0, ""
    permanence = {2: 0, 3: 0, 4: 1, 5: 2}[asked.reply.code // 100]
    return asked.visit, permanence, asked.reply.code, asked.reply.text


def proofs_of(evidence: Evidence) -> tuple[Receipt, ...]:
    """Return the receipts that prove relay.

    For a form whose reverse-path is its forward-path, bounces and answers arrive where a copy
    would. Only a message that still carries the reverse-path we gave it is a copy then. And some
    servers tell a recipient that they have something for him, or that they threw it away: from
    nobody, like a bounce. Where it could be either, the header must still be ours.
    """
    copies = _copies(evidence)
    return tuple(receipt for receipt in copies if _is_explained(receipt, evidence))


def replays_of(evidence: Evidence) -> tuple[Receipt, ...]:
    """Return the copies of messages that the target took, which nothing connects with it.

    Somebody who reads its mail may have sent them, or it stripped its traces: they prove
    nothing, and where there is one, silence proves nothing either. A copy of what the target
    never had is somebody's own work, and says nothing of the target.
    """
    handed_over = _handed_over(evidence)
    return tuple(
        one
        for one in _copies(evidence)
        if one.form in handed_over and not _is_explained(one, evidence)
    )


def _copies(evidence: Evidence) -> list[Receipt]:
    return [
        receipt
        for receipt in evidence.receipts
        if receipt.mailbox is Mailbox.FORWARD and _is_copy(receipt, evidence)
    ]


def _is_copy(receipt: Receipt, evidence: Evidence) -> bool:
    """Not a bounce or a notice that came to the mailbox of copies."""
    form = evidence.battery.get(receipt.form)
    sender = _mailbox(receipt.reverse_path)
    if form is not None and form.bounces_to_itself:
        return sender == _mailbox(receipt.forward_path) and receipt.ours
    return receipt.ours or not (sender == b"" or sender.startswith(b"mailer-daemon@"))


def _is_explained(receipt: Receipt, evidence: Evidence) -> bool:
    """The target itself brings it, or it was handed to the target and the way from there is seen.

    Only who had the message knows its token, so a copy from elsewhere has passed the target in
    any case; but a filter or a trap that looks at mail may have replayed it.
    """
    if receipt.peer == evidence.address:
        return True
    return receipt.form in _handed_over(evidence) and (
        same_system(receipt.peer, evidence.address, evidence.near) or _is_traced(receipt, evidence)
    )


def _handed_over(evidence: Evidence) -> set[int]:
    return {one.form for one in evidence.asked if one.step is Step.END_OF_DATA}


def same_system(one: Address, other: Address, near: tuple[int, int] = (24, 64)) -> bool:
    """Whether two addresses are so near that one operator's mail may come in here and leave there.

    `near` has the lengths of the prefix that they share, of IPv4 and IPv6.

    The whole of 127.0.0.0/8 is one machine (RFC 1122 section 3.2.1.3).
    """
    if one.version != other.version:
        return False
    if one.is_loopback and other.is_loopback:
        return True
    bits = one.max_prefixlen - near[one.version == 6]
    return int(one) >> bits == int(other) >> bits


def _is_traced(receipt: Receipt, evidence: Evidence) -> bool:
    """Its peer goes by the target's name, or a Received line names the target, or us as client."""
    names = {name for met in evidence.met for name in _names_of(evidence.address, met)}
    addresses = {evidence.address} | {met.source for met in evidence.met if met.source}
    return receipt.helo.decode("latin-1").lower() in names or any(
        hop.addresses & addresses or hop.names & names for hop in receipt.hops
    )


def _names_of(address: Address, met: Met) -> set[str]:
    if met.greeting is None:
        return set()
    names = names_of(address, greeting=met.greeting, hello=met.hello, pointer=None)
    return {found.name.lower() for found in names.found}


def _mailbox(path: bytes) -> bytes:
    return path.strip(b"<> ").lower()


def control_of(evidence: Evidence) -> dict[int, Reply]:
    """Return the reply to the control recipient (postmaster) at each visit."""
    return {
        one.visit: one.reply
        for one in evidence.asked
        if one.form == CONTROL and one.reply is not None
    }


def standings_of(evidence: Evidence) -> dict[int, Standing]:
    """Return what became of each form of the trial, by its number.

    Args:
        evidence: As `in_order` returns it.
    """
    relayed = {receipt.form for receipt in proofs_of(evidence)}
    returned = {one.form for one in evidence.receipts if one.mailbox is Mailbox.REVERSE}
    control = control_of(evidence)
    by_form: dict[int, list[Asked]] = {form.number: [] for form in evidence.forms}
    for asked in evidence.asked:
        by_form.setdefault(asked.form, []).append(asked)
    standings = {}
    for form in evidence.forms:
        standing = _over_both(by_form[form.number], control)
        if form.number in relayed:
            standing = Standing.RELAYED
        elif form.number in returned and standing is Standing.WAITING:
            standing = Standing.BOUNCED
        standings[form.number] = standing
    return standings


def forms_to_ask(evidence: Evidence) -> tuple[Form, ...]:
    """Return the forms that a further visit should ask: none once relay is proven.

    Args:
        evidence: As `in_order` returns it.
    """
    if proofs_of(evidence):
        return ()
    standings = standings_of(evidence)
    unsettled = {Standing.DEFERRED, Standing.UNANSWERED}
    return tuple(form for form in evidence.forms if standings[form.number] in unsettled)


def promised(evidence: Evidence) -> frozenset[int]:
    """Return the numbers of the forms whose recipient was accepted at some visit.

    A further visit sends their messages at once: a server that relays only so many in an hour
    would spend them on questions.
    """
    return frozenset(one.form for one in evidence.asked if _is_promise(one))


def visits_in_vain(evidence: Evidence, visits: int) -> int:
    """Return how many of the last visits, not counting the first, answered nothing new.

    A server that lets a stranger in ten times in ten minutes (Debian's sendmail) answers a long
    battery in several visits, each of which gets on; greylisting shows in visits that do not.
    """
    first: dict[int, int] = {}
    for one in evidence.asked:
        first[one.form] = min(one.visit, first.get(one.form, one.visit))
    return visits - max(first.values(), default=1)


# Of what a form came to in clear and inside TLS, the first that is there counts.
_WEIGHT = (
    Standing.WAITING,
    Standing.DEFERRED,
    Standing.UNANSWERED,
    Standing.REFUSED_SOFTLY,
    Standing.REFUSED,
)


def _over_both(asked: Sequence[Asked], control: Mapping[int, Reply]) -> Standing:
    """Judge one form by the target's replies in clear and by those inside TLS."""
    channels = ([one for one in asked if one.tls is tls] for tls in (False, True))
    found = {_answered(channel, control) for channel in channels if channel}
    return next((one for one in _WEIGHT if one in found), Standing.UNANSWERED)


def _answered(asked: Sequence[Asked], control: Mapping[int, Reply]) -> Standing:
    """Judge one form by the target's replies alone."""
    handed_over = [one.reply for one in asked if one.step is Step.END_OF_DATA]
    if any(reply is None or reply.positive for reply in handed_over):
        return Standing.WAITING
    answers = [one for one in asked if one.reply is not None]
    if not answers or answers[-1].reply is None:
        return Standing.UNANSWERED
    reply = answers[-1].reply
    if reply.permanent:
        return Standing.UNANSWERED if _is_taken_back(asked, answers[-1]) else Standing.REFUSED
    if reply.transient:
        return _soft(reply, control.get(answers[-1].visit))
    return Standing.UNANSWERED  # the recipient was accepted, but no message went out


def _is_taken_back(asked: Sequence[Asked], last: Asked) -> bool:
    """The recipient was accepted when we asked, and refused when a message was to follow.

    So do servers that relay only so many messages in an hour: that is no refusal to relay.
    """
    return last.step in {Step.MAIL, Step.RCPT} and any(_is_promise(one) for one in asked)


def _is_promise(asked: Asked) -> bool:
    return asked.step is Step.RCPT and asked.reply is not None and asked.reply.positive


def _soft(reply: Reply, control: Reply | None) -> Standing:
    """Tell a refusal in 4yz clothes from greylisting.

    Postfix since 2.10 answers strangers `454 4.7.1 Relay access denied` for ever. Greylisting
    defers the control recipient too, except where it exempts postmaster; so the words must
    speak of relaying as well, and not of coming back.
    """
    words = phrases.about_relay(reply.text) and not phrases.COME_BACK.search(reply.text)
    if words and not (control is not None and control.transient):
        return Standing.REFUSED_SOFTLY
    return Standing.DEFERRED
