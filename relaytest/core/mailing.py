"""The mail that we send to people: its section of the configuration, and its words.

Nothing that a stranger typed is in it but the mailbox that it goes to; what a tested server said
is in it as printable text.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address as Mailbox
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from pydantic import Field, field_validator

from relaytest.core.errors import RelaytestError
from relaytest.core.fields import HostName, Section
from relaytest.core.target import Address, literal
from relaytest.core.token import mask
from relaytest.core.values import parse_endpoint, parse_host_name

# RFC 5321 section 4.1.2, dot-string only: quoted local parts are nobody's in practice, and traps.
_LOCAL = re.compile(r"[A-Za-z0-9!#$&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$&'*+/=?^_`{|}~-]+)*")


class NotAMailboxError(RelaytestError):
    """A text is no mailbox that we would write to."""


class Mail(Section):
    """Mail that we send."""

    smarthost: str = Field("", description="address:port that takes our mail; empty: none is sent")
    sender: str = Field("", description="mailbox in From; bounces and answers go there")
    outcomes_per_mailbox: int = Field(
        10, ge=1, description="outcomes of requests to one mailbox in a day"
    )
    notices: bool = Field(
        default=False, description="one notice to postmaster of each server that is listed"
    )
    abuse_contacts: bool = Field(
        default=False, description="one report (ARF) to the abuse contact of its network, too"
    )
    contact_zone: HostName = Field(
        "abuse-contacts.abusix.zone",
        description="DNS zone that has abuse contacts as TXT of the reversed address",
    )
    reports_per_contact: int = Field(
        10, ge=1, description="reports to one abuse contact in a day; the others come later"
    )

    @field_validator("smarthost")
    @classmethod
    def _smarthost(cls, value: str) -> str:
        return parse_endpoint(value) if value else ""

    @field_validator("sender")
    @classmethod
    def _sender(cls, value: str) -> str:
        try:
            return parse_mailbox(value) if value else ""
        except NotAMailboxError as error:
            raise ValueError(str(error)) from None

    @property
    def possible(self) -> bool:
        """Whether any mail can be sent."""
        return bool(self.smarthost and self.sender)


def parse_mailbox(text: str) -> str:
    """Return a mailbox with its domain in lower case.

    Raises:
        NotAMailboxError: It is none.

    >>> parse_mailbox(" Ann.Miller@Example.ORG ")
    'Ann.Miller@example.org'
    """
    local, _, domain = text.strip().rpartition("@")
    if not _LOCAL.fullmatch(local) or len(local) > 64 or len(text) > 254:
        raise NotAMailboxError('a mailbox is wanted, such as "postmaster@example.org"')
    try:
        return f"{local}@{parse_host_name(domain)}"
    except ValueError as error:
        raise NotAMailboxError(f"the domain of the mailbox {error}") from None


def postmaster_of(address: Address) -> str:
    """Return the mailbox that every mail server has (RFC 5321 section 4.5.1)."""
    return f"postmaster@{literal(address)}"


@dataclass(frozen=True, slots=True)
class Slip:
    """What one mail has of its own.

    Attributes:
        number: For the Message-ID.
        to: Mailbox.
        code: Of the page where the mailbox can say that it wants no more.
        now: For the Date field.
    """

    number: int
    to: str
    code: str
    now: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a mail tells of a test.

    Attributes:
        explanation: In a sentence or two.
        listed: Whether it is on the list at this moment.
    """

    address: Address
    port: int
    trial: int
    verdict: str
    explanation: str
    listed: bool


@dataclass(frozen=True, slots=True)
class Letter:
    """What mails have in common.

    Attributes:
        sender: In From.
        url: Of the public pages, without a slash at its end.
        zone: Name of the list.
        ehlo_name: For the Message-ID.
    """

    sender: str
    url: str
    zone: str
    ehlo_name: str

    def confirm(self, slip: Slip, address: Address) -> bytes:
        """Ask whether a mailbox wants to hear the outcome of a test."""
        text = f"""\
Somebody asked the list {self.zone} to test the mail server {address} again,
and to write the outcome to this mailbox. If that was you, confirm it here, for
all that you ask for today:

    {self.url}/mail/{slip.code}

If it was not you, do nothing: no more mail comes. On the same page you can say
that you want no mail from us at all.
"""
        return self._made(slip, f"Confirm: outcome of the test of {address}", text)

    def outcome(self, slip: Slip, told: Outcome) -> bytes:
        """Tell what came of a requested test."""
        state = "is on" if told.listed else "is not on"
        text = f"""\
The mail server {told.address} (port {told.port}) was tested again at your request.

Verdict: {told.verdict}
{printable(told.explanation)}

It {state} the list {self.zone} now.

The evidence:      {self.url}/evidence/{told.trial}
All about it:      {self.url}/lookup/{told.address}
How to close it:   {self.url}/fix/{told.address}

No mail from us any more: {self.url}/mail/{slip.code}
"""
        return self._made(slip, f"{told.address}: {told.verdict}", text)

    def notice(self, slip: Slip, told: Outcome) -> bytes:
        """Tell the postmaster of a server that it is listed, and what to do."""
        text = f"""\
Your mail server {told.address} (port {told.port}) passes on mail between strangers
("open relay") and is therefore on the list {self.zone}. We do not call you a
spammer: such servers are used by others.

{printable(told.explanation)}

Our message that came back, and all that was said:
    {self.url}/evidence/{told.trial}
What to set in your software:
    {self.url}/fix/{told.address}
When it is closed, ask for a new test; it is free, and takes it off the list:
    {self.url}/lookup/{told.address}

This is the only notice for this listing. No mail from us any more:
    {self.url}/mail/{slip.code}
"""
        return self._made(slip, f"Your mail server {told.address} is an open relay", text)

    def _made(self, slip: Slip, subject: str, text: str) -> bytes:
        message = self.headed(slip, subject)
        message.set_content(text, cte="7bit")
        return message.as_bytes()

    def headed(self, slip: Slip, subject: str) -> EmailMessage:
        """Return a message that has all but its content."""
        message = EmailMessage(policy=SMTP)
        local, _, domain = self.sender.rpartition("@")
        message["From"] = Mailbox(f"{self.zone} list", local, domain)
        message["To"] = slip.to
        message["Subject"] = subject
        message["Date"] = format_datetime(slip.now)
        message["Message-ID"] = f"<mail-{slip.number}@{self.ehlo_name}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody shall answer by program
        message["X-Auto-Response-Suppress"] = "All"
        message["List-Unsubscribe"] = f"<{self.url}/mail/{slip.code}>"  # RFC 2369
        return message


def printable(text: str) -> str:
    """Return printable ASCII in lines that every server takes, without our tokens."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in mask(text))[:2000]
    return "\n".join(re.findall(r"\S.{0,74}(?=\s|$)|\S{1,75}", plain)) or "-"
