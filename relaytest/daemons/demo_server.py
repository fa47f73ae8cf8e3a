"""Two small mail servers for `relaytest up --demo`: one relays for everybody until it is fixed.

They are real SMTP servers on the loopback: the sink's own session code with another policy.
"""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_address

from relaytest.core.dialogue import Offer, greet, hold
from relaytest.core.probe import CONTROL, Envelope
from relaytest.core.reception import Delivery, Limits, Session
from relaytest.core.target import Address
from relaytest.net.smtp_client import ConnectFailedError, Timeouts, connect
from relaytest.net.smtp_listener import listen

_PATIENCE = timedelta(seconds=10)
_REFUSAL = b"550 5.7.1 Relaying denied"


class DemoServer:
    """A mail server for one domain.

    Attributes:
        open: It passes on mail between strangers.
    """

    def __init__(self, name: str, smarthost: tuple[str, int], *, open_relay: bool) -> None:
        """Describe it.

        Args:
            name: Its host name and the only domain it takes mail for.
            smarthost: Where all other mail goes.
            open_relay: Whether it relays at first.
        """
        self.name = name
        self.open = open_relay
        self._smarthost = smarthost
        self._address: Address | None = None  # mail leaves by the address it came to

    @contextlib.asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[None]:
        """Serve while the block runs.

        Raises:
            OSError: The address is taken or not ours.
        """
        self._address = ip_address(host)
        async with listen([(host, port)], self._session, self._pass_on):
            yield

    def _session(self, _peer: Address) -> Session[bool]:
        return Session(self.name.encode(), Limits(), self._accept, refusal=_REFUSAL)

    def _accept(self, local_part: bytes, domain: bytes) -> bool | None:
        """Return whether to pass mail on; None refuses it."""
        if local_part.lower() == b"postmaster" and domain.lower() in {b"", self.name.encode()}:
            return False
        strange = any(sign in local_part for sign in b"@%!")
        return True if self.open and domain and not strange else None

    async def _pass_on(self, _peer: Address, _port: int, delivery: Delivery[bool]) -> bool:
        """Hand a message to the smarthost; the client hears of a failure."""
        offers = [
            Offer(CONTROL, Envelope(delivery.reverse_path, one.forward_path), delivery.message)
            for one in delivery.recipients
            if one.ticket
        ]
        host, port = self._smarthost
        timeouts = Timeouts(*[_PATIENCE] * 5)
        try:
            connection = await connect(
                ip_address(host),
                port,
                timeouts,
                source_address=self._address,
                local_hostname=self.name,
            )
        except ConnectFailedError:
            return False
        async with connection:
            await connection.drive(greet(self.name.encode()))
            answers = await connection.drive(hold(offers, pipelining=False))
        return len(answers.outcomes) == len(offers) and all(
            one.message_sent and one.reply is not None and one.reply.positive
            for one in answers.outcomes
        )
