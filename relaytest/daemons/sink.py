"""The sink: takes mail for our token mailboxes and for nothing else, and proves that it works.

It never says 2xx for what is not stored: while the database is away, clients hear 451 and come
back. Every few minutes it sends a message to itself by the way that a relayed message takes; a
target's silence counts only while those come back.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from relaytest.core.config import Config, split_endpoint
from relaytest.core.dialogue import Answers, Offer, greet, hold
from relaytest.core.errors import DatabaseAwayError
from relaytest.core.message import compose_check
from relaytest.core.probe import CONTROL, Envelope
from relaytest.core.reception import Delivery, Limits, Session
from relaytest.core.target import Address, parse_address
from relaytest.core.token import Mailbox, Token, issue, verify
from relaytest.daemons.clock import utcnow
from relaytest.daemons.loop import Stop, forever, once_there
from relaytest.net.smtp_client import ConnectFailedError, NoSocketError, Timeouts, connect
from relaytest.net.smtp_listener import Bounds, Event, listen
from relaytest.store import evidence
from relaytest.store.database import Bell, Database

_PATIENCE = timedelta(seconds=20)  # with our own sink, at each step

_GAP = 1.0  # seconds between checks, however many trials want one

log = structlog.get_logger("sink")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Take mail until `stop`.

    Raises:
        OSError: An address of sink.listen is taken or not ours.
    """
    # Without the keys every token would look forged, and be refused for good.
    keys = await once_there("sink", database, evidence.token_keys, stop)
    if keys is None:
        return
    sink = Sink(config, database, keys)
    places = [split_endpoint(endpoint) for endpoint in config.sink.listen]
    bounds = Bounds(
        connections=config.sink.connections,
        per_peer=config.sink.connections_per_peer,
        idle=config.sink.idle,
        session=config.sink.session,
    )
    async with listen(places, sink.session, sink.store, bounds=bounds, on_event=sink.note):
        log.info("listening", at=config.sink.listen, domains=config.sink.domains)
        if not config.sink.domains:
            await stop.wait()
            return
        async with asyncio.TaskGroup() as group:
            ears = group.create_task(database.listen(["relaytest_check"], sink.bell))
            await forever("sink", sink.check_itself, sink.bell, stop)
            ears.cancel()


class Sink:
    """What the sink does with a session, with a message, and with itself."""

    def __init__(self, config: Config, database: Database, keys: Sequence[bytes]) -> None:
        self._config = config
        self._database = database
        self._keys = tuple(keys)
        self._checked_at = -_GAP  # by the loop's clock
        self.bell = Bell()  # rings when a check is wanted before its time
        self._domains = {domain.encode() for domain in config.sink.domains}
        self._limits = Limits(
            message_octets=config.sink.message_octets,
            session_octets=8 * config.sink.message_octets,
        )

    def session(self, _peer: Address) -> Session[Token]:
        """Begin a session with a client."""
        return Session(self._config.ehlo_name.encode(), self._limits, self.accept)

    def accept(self, local_part: bytes, domain: bytes) -> Token | None:
        """Take mail for a token of ours at a domain of ours, in any letter case."""
        if domain.lower() not in self._domains:
            return None
        return verify(self._keys, local_part.decode("latin-1"))

    async def store(self, peer: Address, _port: int, delivery: Delivery[Token]) -> bool:
        """Store a message for each of its recipients; False if the database is away."""
        try:
            async with self._database.transaction() as connection:
                for recipient in delivery.recipients:
                    if recipient.ticket.mailbox is Mailbox.SELF:
                        await evidence.end_sink_check(connection, recipient.ticket.trial)
                        continue
                    arrival = _arrival(peer, delivery, recipient.forward_path, recipient.ticket)
                    copies = await evidence.add_receipt(connection, arrival)
                    log.info(
                        "receipt",
                        peer=str(peer),
                        trial=arrival.trial,
                        form=arrival.form,
                        mailbox=arrival.mailbox.name.lower(),
                        copies=copies,
                    )
        except DatabaseAwayError as error:
            log.warning("message not taken: database is away", peer=str(peer), error=str(error))
            return False
        return True

    def note(self, event: Event, peer: Address, error: Exception | None) -> None:
        """Log what an operator should see of a client."""
        if error is not None:
            log.error("message not taken", peer=str(peer), error=repr(error))
        elif event in {Event.TURNED_AWAY, Event.TIMED_OUT}:
            log.info("client sent away", peer=str(peer), why=event.value)

    async def check_itself(self) -> timedelta:
        """Send a message to ourselves by the public way; not more often than once a second."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._checked_at + _GAP - loop.time()))
        self._checked_at = loop.time()
        async with self._database.transaction() as connection:
            check = await evidence.begin_sink_check(connection)
        why = await self._send(check)
        if why:
            log.error("our own message did not get through", why=why)
        return self._config.sink.check_every

    async def _send(self, check: int) -> str:
        """Return "" or what went wrong."""
        host, port = split_endpoint(self._config.sink.check_peer or self._config.sink.listen[0])
        address = parse_address(_reachable(host))
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


def _reachable(host: str) -> str:
    """The way to a listener on every address is the loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - no bind


def _arrival(
    peer: Address, delivery: Delivery[Token], forward_path: bytes, token: Token
) -> evidence.Arrival:
    return evidence.Arrival(
        trial=token.trial,
        form=token.form,
        mailbox=token.mailbox,
        peer=peer,
        helo=delivery.helo,
        reverse_path=delivery.reverse_path,
        forward_path=forward_path,
        message=delivery.message,
        size=delivery.size,
    )
