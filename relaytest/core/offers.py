"""From a form to an offer: the envelope with its tokens, and the message if one is to go."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from relaytest.core.dialogue import Offer
from relaytest.core.message import compose
from relaytest.core.names import Names
from relaytest.core.probe import CONTROL, Envelope, Form, Helo, Path
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
        other: Our second domain, whose mail comes to our sink too; empty if there is none.
        texts: A text for each of the placeholders that are ours.
    """

    key: bytes
    sink: str
    ehlo_name: str
    contact: str
    other: str = ""
    texts: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        texts = {
            "sink": self.sink,
            "sink_upper": self.sink.upper(),
            "sink_imcea": self.sink.replace(".", "+2E"),
        }
        if self.other:
            texts["other"] = self.other
        object.__setattr__(self, "texts", texts)


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
    envelope = form.envelope(_values(names, asker, user=user, sender=sender))
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


def distinct(
    forms: Sequence[Form],
    names: Names,
    *,
    asker: Asker,
    keywords: Collection[str] = frozenset(),
) -> tuple[Form, ...]:
    """Leave out what cannot be asked of this target, and what would be asked twice.

    A target without a second name is not asked by it, one that does not announce an extension
    not in its terms. A target without a name is known by its literal only, so that "at its host
    name" and "at its literal" are the same envelope: of two such forms the odd one stays, since
    that is what it is.

    Args:
        forms: In sending order.
        names: What the target calls itself.
        asker: Who asks.
        keywords: What the target announces in its reply to EHLO, in upper case.
    """
    values = _values(names, asker, user="u" * LENGTH, sender="s" * LENGTH)
    senders = _filled((form.sender for form in forms), values, keywords)
    recipients = _filled((form.recipient for form in forms), values, keywords)
    first: dict[tuple[bytes, bytes, str], Form] = {}
    for form in forms:
        sender, recipient = senders[form.sender.number], recipients[form.recipient.number]
        if sender is None or recipient is None:
            continue
        asked = sender, recipient, form.helo.text(values, asker.ehlo_name)
        if asked not in first or (form.odd and not first[asked].odd):
            first[asked] = form
    kept = set(map(id, first.values()))
    return tuple(form for form in forms if id(form) in kept)


def _filled(
    paths: Iterable[Path], values: Mapping[str, str], keywords: Collection[str]
) -> dict[int, bytes | None]:
    """Each path once, by its number; None for one that cannot be sent to this target."""
    by_number = {path.number: path for path in paths}
    return {
        number: path.fill(values)
        if path.wants <= values.keys() and (path.needs is None or path.needs in keywords)
        else None
        for number, path in by_number.items()
    }


def ehlo_name(helo: Helo, names: Names, asker: Asker) -> str:
    """Return whom we say we are in EHLO or HELO."""
    return helo.text(names.texts, asker.ehlo_name)


def _tokens(form: int, trial: int, asker: Asker) -> tuple[str, str]:
    return (
        issue(asker.key, Token(Mailbox.FORWARD, form, trial)),
        issue(asker.key, Token(Mailbox.REVERSE, form, trial)),
    )


def _values(names: Names, asker: Asker, *, user: str, sender: str) -> dict[str, str]:
    return {**names.texts, **asker.texts, "user": user, "sender": sender}
