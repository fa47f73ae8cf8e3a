"""What one visit to a target found: a record of each session, as it is stored."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from relaytest.core.dialogue import Answers, Broken, Hello
from relaytest.core.evidence import Asked, Met
from relaytest.core.plan import Purpose
from relaytest.core.target import Address
from relaytest.core.transcript import Transcript


@dataclass(slots=True)
class SessionRecord:
    """One connection to the target.

    Attributes:
        started_at: When it was begun, aware UTC.
        seconds: How long it lasted.
        source: Our address on it; None if it never stood.
        broken: It never stood, or broke, so.
    """

    purpose: Purpose
    started_at: datetime
    seconds: float = 0.0
    source: Address | None = None
    hello: Hello | None = None
    answers: Answers = field(default_factory=Answers)
    broken: Broken | None = None
    transcript: Transcript = field(default_factory=Transcript)

    @property
    def ended(self) -> str:
        """How it ended: "complete", "hung-up", "rejected", or how it broke."""
        if self.broken is not None:
            return self.broken.kind.value
        if self.hello is None or not self.hello.welcome:
            return "rejected"
        return "hung-up" if self.answers.hung_up else "complete"

    @property
    def strained(self) -> bool:
        """The target did not want so many or so long sessions."""
        return self.ended != "complete"

    def met(self, visit: int) -> Met:
        """Return what the judge needs to know of the session."""
        return Met(
            visit,
            self.ended,
            self.broken.text if self.broken else "",
            self.hello.greeting if self.hello else None,
            self.hello.reply if self.hello else None,
        )


def asked_in(records: Iterable[SessionRecord], visit: int) -> tuple[Asked, ...]:
    """Return the outcomes of all sessions of a visit."""
    return tuple(
        Asked(outcome.form, outcome.step, outcome.reply, visit)
        for record in records
        for outcome in record.answers.outcomes
    )
