"""Hands a message to the smarthost, which does the rest."""

import ssl
from datetime import timedelta

import aiosmtplib

from relaytest.core.errors import RelaytestError


class MailRefusedError(RelaytestError):
    """The smarthost did not take a message.

    Attributes:
        for_good: It would not take it later either.
    """

    def __init__(self, message: str, *, for_good: bool) -> None:
        super().__init__(message)
        self.for_good = for_good


async def submit(
    place: tuple[str, int],
    message: bytes,
    *,
    sender: str,
    recipient: str,
    ehlo_name: str,
    longest: timedelta,
) -> None:
    """Send one message, encrypted if the smarthost offers it.

    Raises:
        MailRefusedError: It was not taken.
    """
    context = ssl.create_default_context()
    context.check_hostname = False  # an address; better encrypted to whom we do not know
    context.verify_mode = ssl.CERT_NONE  # than in clear to him
    try:
        await aiosmtplib.send(
            message,
            sender=sender,
            recipients=[recipient],
            hostname=place[0],
            port=place[1],
            local_hostname=ehlo_name,
            timeout=longest.total_seconds(),
            tls_context=context,
        )
    except aiosmtplib.SMTPRecipientsRefused as error:
        first = error.recipients[0]
        raise MailRefusedError(_plain(first), for_good=first.code >= 500) from None
    except aiosmtplib.SMTPResponseException as error:
        raise MailRefusedError(_plain(error), for_good=500 <= error.code < 600) from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise MailRefusedError(_plain(error), for_good=False) from None


def _plain(error: Exception) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in str(error))[:300] or type(error).__name__
