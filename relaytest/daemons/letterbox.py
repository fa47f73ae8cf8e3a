"""Our mailbox for tokens, as the sink and the one-off check use it: what it takes, and its proof.

What becomes of a message that was taken is the caller's business.
"""

import ssl
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from typing import TypeVar

from relaytest.core.config import Config, split_endpoint
from relaytest.core.dialogue import Answers, Offer, greet, hold
from relaytest.core.message import compose_check
from relaytest.core.probe import CONTROL, Envelope
from relaytest.core.reception import Accept, Limits, Session
from relaytest.core.target import Address, parse_address
from relaytest.core.token import Mailbox, Token, issue, verify
from relaytest.daemons.clock import utcnow
from relaytest.net.server_tls import server_tls
from relaytest.net.smtp_client import ConnectFailedError, NoSocketError, Timeouts, connect

_T = TypeVar("_T")
_PATIENCE = timedelta(seconds=20)  # with ourselves, at each step


class Letterbox:
    """Takes mail for our tokens at our domains, and can send a message to itself."""

    def __init__(self, config: Config, keys: Sequence[bytes]) -> None:
        """Prepare.

        Args:
            config: The section `sink` is what counts.
            keys: Those that verify tokens; the first one signs.
        """
        self._config = config
        self._keys = tuple(keys)
        self._domains = {domain.encode() for domain in config.sink.domains}
        self._limits = Limits(
            message_octets=config.sink.message_octets,
            session_octets=8 * config.sink.message_octets,
        )

    def renew(self, keys: Sequence[bytes]) -> None:
        """Go on with other keys; the first one signs."""
        self._keys = tuple(keys)

    def session(self, _peer: Address) -> Session[Token]:
        """Begin a session with a client."""
        return self.open(self.accept)

    def open(self, accept: Accept[_T]) -> Session[_T]:
        """Begin a session with a client for whom there is more than tokens."""
        name, tls = self._config.ehlo_name.encode(), bool(self._config.sink.certificate)
        return Session(name, self._limits, accept, tls=tls)

    def tls(self) -> ssl.SSLContext:
        """Return what a client needs who wants TLS; made anew, for certificates are renewed."""
        return server_tls(self._config.sink.certificate)

    def accept(self, local_part: bytes, domain: bytes) -> Token | None:
        """Take mail for a token of ours at a domain of ours, in any letter case."""
        if domain.lower() not in self._domains:
            return None
        return verify(self._keys, local_part.decode("latin-1"))

    async def send_check(self, check: int) -> str:
        """Send a message to ourselves by the public way; return "" or what went wrong.

        Args:
            check: Number for its token, which comes back as Mailbox.SELF.
        """
        host, port = split_endpoint(self._config.sink.check_peer or self._config.sink.listen[0])
        address = _reachable(parse_address(host))
        token = issue(self._keys[0], Token(Mailbox.SELF, CONTROL, check))
        name, domain = self._config.ehlo_name, self._config.sink.domains[0]
        envelope = Envelope(b"<>", f"<{token}@{domain}>".encode())
        offer = Offer(CONTROL, envelope, compose_check(check, ehlo_name=name, now=utcnow()))
        timeouts = Timeouts(*[_PATIENCE] * 5)
        try:
            connection = await connect(address, port, timeouts, local_hostname=name)
        except (ConnectFailedError, NoSocketError) as error:
            return str(error)
        async with connection:
            hello = await connection.drive(greet(name.encode()))
            answers: Answers = await connection.drive(hold([offer], pipelining=hello.pipelining))
        replies = [str(outcome.reply) for outcome in answers.outcomes]
        taken = any(o.message_sent and o.reply and o.reply.positive for o in answers.outcomes)
        return "" if taken else (replies[-1] if replies else str(answers.broken))


def _reachable(address: Address) -> Address:
    """The way to a listener on every address is the loopback."""
    if not address.is_unspecified:
        return address
    return ip_address("127.0.0.1" if address.version == 4 else "::1")
