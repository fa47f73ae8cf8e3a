"""From a form to an offer: the envelope with its tokens, and the message if one is to go."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from relaytest.core.dialogue import Offer
from relaytest.core.message import compose
from relaytest.core.names import Names
from relaytest.core.probe import CONTROL, Envelope, Form
from relaytest.core.token import LENGTH, Mailbox, Token, issue

_POSTMASTER = b"<postmaster>"  # every server must take it, without a domain too (RFC 5321 4.5.1)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks to relay.

    Attributes:
        key: Signs the tokens.
        sink: Our domain, whose mail comes to our sink.
        ehlo_name: Our name.
        contact: Where to object; may be empty.
    """

    key: bytes
    sink: str
    ehlo_name: str
    contact: str


def offer(
    form: Form, names: Names, *, trial: int, asker: Asker, now: datetime | None = None
) -> Offer:
    """Make the offer of one form.

    Args:
        form: Which.
        names: What the target calls itself.
        trial: For the tokens; the same trial always gives the same envelope.
        asker: Who asks.
        now: For the Date of the message; None to ask about the recipient only.
    """
    user, sender = _tokens(form.number, trial, asker)
    envelope = form.envelope(_values(names, user=user, sender=sender, sink=asker.sink))
    if now is None:
        return Offer(form.number, envelope)
    message = compose(
        form,
        trial=trial,
        mailbox=f"{sender}@{asker.sink}",
        ehlo_name=asker.ehlo_name,
        contact=asker.contact,
        now=now,
    )
    return Offer(form.number, envelope, message)


def control(*, trial: int, asker: Asker) -> Offer:
    """Make the offer of mail for the target's own postmaster; the mail is never sent.

    A server that takes this and refuses strangers refuses relay, whatever its words are.
    """
    _, sender = _tokens(CONTROL, trial, asker)
    return Offer(CONTROL, Envelope(f"<{sender}@{asker.sink}>".encode("ascii"), _POSTMASTER))


def distinct(forms: Sequence[Form], names: Names) -> tuple[Form, ...]:
    """Leave out forms that the target's names make equal to an earlier one.

    A target without a name is known by its literal only, so that "at its host name" and "at its
    literal" are the same envelope. Of two such forms the odd one stays, since that is what it is.
    """
    values = _values(names, user="u" * LENGTH, sender="s" * LENGTH, sink="sink.invalid")
    first: dict[Envelope, Form] = {}
    for form in forms:
        envelope = form.envelope(values)
        if envelope not in first or (form.odd and not first[envelope].odd):
            first[envelope] = form
    kept = {form.number for form in first.values()}
    return tuple(form for form in forms if form.number in kept)


def _tokens(form: int, trial: int, asker: Asker) -> tuple[str, str]:
    return (
        issue(asker.key, Token(Mailbox.FORWARD, form, trial)),
        issue(asker.key, Token(Mailbox.REVERSE, form, trial)),
    )


def _values(names: Names, *, user: str, sender: str, sink: str) -> dict[str, str]:
    return {
        "user": user,
        "sender": sender,
        "sink": sink,
        "host": names.host,
        "domain": names.domain,
        "literal": names.literal,
    }
