"""What one visit to a target found: a record of each session, as it is stored."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from relaytest.core import phrases
from relaytest.core.dialogue import Answers, Break, Broken, Hello, Offer, Outcome, Step
from relaytest.core.evidence import Asked, Met
from relaytest.core.plan import Purpose
from relaytest.core.reply import Reply
from relaytest.core.target import Address
from relaytest.core.transcript import Transcript


@dataclass(frozen=True, slots=True)
class Encryption:
    """What TLS came to. Certificates are not checked, for we do not care who listens.

    Attributes:
        version: Such as "TLSv1.3".
        certificate: The server's, DER.
    """

    version: str
    cipher: str
    certificate: bytes


@dataclass(slots=True)
class SessionRecord:
    """One connection to the target.

    Attributes:
        started_at: When it was begun, aware UTC.
        seconds: How long it lasted.
        source: Our address on it; None if it never stood.
        encryption: What TLS came to; None in clear.
        broken: It never stood, or broke, so.
    """

    purpose: Purpose
    started_at: datetime
    seconds: float = 0.0
    source: Address | None = None
    hello: Hello | None = None
    answers: Answers = field(default_factory=Answers)
    encryption: Encryption | None = None
    broken: Broken | None = None
    transcript: Transcript = field(default_factory=Transcript)

    @property
    def ended(self) -> str:
        """How it ended: "complete", "hung-up", "rejected", or how it broke."""
        if self.broken is not None:
            return self.broken.kind.value
        if not self.answers.outcomes and (self.hello is None or not self.hello.welcome):
            return "rejected"
        return "hung-up" if self.answers.hung_up else "complete"

    @property
    def strained(self) -> bool:
        """The target turned it away or cut it short; one that was only slow is none of these."""
        slow = self.ended == Break.TIMEOUT.value and bool(self.answers.outcomes)
        return not slow and self.ended not in {"complete", Break.DESYNC.value}

    @property
    def pace(self) -> float:
        """Seconds for each form that was answered; 0.0 if none was."""
        answered = len(self.answers.outcomes)
        return self.seconds / answered if answered else 0.0

    @property
    def starttls(self) -> bool:
        """It was in clear, and the server offers to go on in TLS."""
        offered = self.hello is not None and "STARTTLS" in self.hello.keywords
        return offered and self.encryption is None

    def take_name_for_refused(self, offers: Iterable[Offer]) -> None:
        """Answer the forms of the session with the refusal of the name in our EHLO."""
        if self.hello is not None and self.hello.refused:
            self.answers.outcomes = [
                Outcome(offer.form, Step.HELLO, self.hello.reply) for offer in offers
            ]

    def set_tls_demands_aside(self) -> bool:
        """Drop answers that only demand the TLS that was offered; return whether there were any.

        They are no answers to the forms, which are to be asked again inside TLS (RFC 3207
        section 4: 530). Inside TLS a 530 demands authentication and is a refusal.
        """
        if not self.starttls:
            return False
        outcomes = self.answers.outcomes
        kept = [one for one in outcomes if not (one.reply and _demands_tls(one.reply))]
        self.answers.outcomes = kept
        return len(kept) < len(outcomes)

    def met(self, visit: int) -> Met:
        """Return what the judge needs to know of the session."""
        return Met(
            visit,
            self.ended,
            self.broken.text if self.broken else "",
            self.hello.greeting if self.hello else None,
            self.hello.reply if self.hello else None,
            self.source,
        )


def asked_in(records: Iterable[SessionRecord], visit: int) -> tuple[Asked, ...]:
    """Return the outcomes of all sessions of a visit."""
    return tuple(
        Asked(outcome.form, outcome.step, outcome.reply, visit, record.encryption is not None)
        for record in records
        for outcome in record.answers.outcomes
    )


def _demands_tls(reply: Reply) -> bool:
    return reply.code == 530 or (
        not reply.positive and phrases.WANTS_TLS.search(reply.text) is not None
    )
