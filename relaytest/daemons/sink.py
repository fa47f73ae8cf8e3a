"""The sink: takes mail for our token mailboxes and samples from our own hosts, nothing else.

It never says 2xx for what is not stored: while the database is away, clients hear 451 and come
back. It proves that it works: every few minutes it sends a message to itself by the way that a
relayed message takes; a target's silence counts only while those come back.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from relaytest.core.config import Config, split_endpoint
from relaytest.core.errors import DatabaseAwayError, RefusedRequestError
from relaytest.core.nomination import LARGEST, samples_in
from relaytest.core.origin import is_from_inside
from relaytest.core.reception import Delivery, Session
from relaytest.core.target import Address
from relaytest.core.token import Mailbox, Token
from relaytest.daemons import metrics
from relaytest.daemons.letterbox import Letterbox
from relaytest.daemons.loop import Stop, forever, once_there
from relaytest.daemons.presence import present
from relaytest.net.admission import Bounds
from relaytest.net.service_manager import take
from relaytest.net.smtp_listener import Event, listen
from relaytest.store import evidence, nominations
from relaytest.store import keys as keys_store
from relaytest.store.database import Bell, Connection, Database
from relaytest.store.nominations import Submission

_KEYS_EVERY = timedelta(seconds=30)
_GAP = 1.0  # seconds between checks, however many trials want one

log = structlog.get_logger("sink")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Take mail until `stop`.

    Raises:
        OSError: An address of sink.listen is taken or not ours.
        ConfigError: sink.certificate is none.
    """
    # Without the keys every token would look forged, and be refused for good.
    keys = await once_there("sink", database, keys_store.token_keys, stop)
    if keys is None:
        return
    sink = Sink(config, database, keys)
    held = take(config.sink.listen)
    places = [split_endpoint(endpoint) for endpoint in config.sink.listen if endpoint not in held]
    bounds = Bounds(
        connections=config.sink.connections,
        per_peer=config.sink.connections_per_peer,
        idle=config.sink.idle,
        session=config.sink.session,
        tls=sink.letterbox.tls,
    )
    if config.sink.certificate:
        sink.letterbox.tls()  # a mistake in it is told now
    async with (
        listen(
            *(places, sink.session, sink.store),
            sockets=held.values(),
            bounds=bounds,
            on_event=sink.note,
        ),
        present("sink", database, stop),
    ):
        log.info("listening", at=config.sink.listen, domains=config.sink.domains)
        if not config.sink.domains:
            await stop.wait()
            return
        async with asyncio.TaskGroup() as group:
            ears = group.create_task(database.listen(["relaytest_check"], sink.bell))
            keys_news = group.create_task(database.listen(["relaytest_key"], sink.key_bell))
            group.create_task(forever("sink", sink.renew_keys, sink.key_bell, stop))
            await forever("sink", sink.check_itself, sink.bell, stop)
            ears.cancel()
            keys_news.cancel()


class SampleBox:
    """The ticket of mail for the mailbox of samples."""


Ticket = Token | SampleBox


class Sink:
    """What the sink does with a message, and with itself."""

    def __init__(self, config: Config, database: Database, keys: Sequence[bytes]) -> None:
        self._config = config
        self._database = database
        self.letterbox = Letterbox(config, keys)
        self._checked_at = -_GAP  # by the loop's clock
        self.bell = Bell()  # rings when a check is wanted before its time
        self.key_bell = Bell()  # rings when there is a new key

    def session(self, peer: Address) -> Session[Ticket]:
        """Begin a session with a client."""
        ours = any(peer in network for network in self._config.samples.trusted)

        def accept(local_part: bytes, domain: bytes) -> Ticket | None:
            mailbox = b"%b@%b" % (local_part.lower(), domain.lower())
            if ours and mailbox == self._config.samples.mailbox.encode():
                return SampleBox()
            return self.letterbox.accept(local_part, domain)

        return self.letterbox.open(accept)

    async def store(self, peer: Address, _port: int, delivery: Delivery[Ticket]) -> bool:
        """Store a message for each of its recipients; False if it cannot be stored now."""
        try:
            async with self._database.transaction() as connection:
                for recipient in delivery.recipients:
                    if isinstance(recipient.ticket, SampleBox):
                        await self._store_samples(connection, peer, delivery)
                    elif recipient.ticket.mailbox is Mailbox.SELF:
                        await evidence.end_sink_check(connection, recipient.ticket.trial)
                    else:
                        arrival = _arrival(peer, delivery, recipient.forward_path, recipient.ticket)
                        await self._store_receipt(connection, arrival)
        except DatabaseAwayError as error:
            log.warning("message not taken: database is away", peer=str(peer), error=str(error))
            return False
        except RefusedRequestError as error:
            log.warning("sample not taken", peer=str(peer), why=str(error))
            return False
        return True

    async def _store_receipt(self, connection: Connection, arrival: evidence.Arrival) -> None:
        copies, after = await evidence.add_receipt(connection, arrival)
        metrics.RECEIPTS.labels(arrival.mailbox.name.lower()).inc()
        if copies == 1 and arrival.mailbox is Mailbox.FORWARD:
            metrics.RETURN_SECONDS.observe(after.total_seconds() if after else 0.0)
        log.info(
            "receipt",
            peer=str(arrival.peer),
            trial=arrival.trial,
            form=arrival.form,
            mailbox=arrival.mailbox.name.lower(),
            copies=copies,
        )

    async def _store_samples(
        self, connection: Connection, peer: Address, delivery: Delivery[Ticket]
    ) -> None:
        """Let the scheduler, which may list, read them."""
        trusted, labs = self._config.samples.trusted, self._config.scope.allow
        ours = is_from_inside(delivery.message, trusted, labs)
        for sample in samples_in(delivery.message) if ours else [delivery.message]:
            truncated = delivery.truncated or len(sample) > LARGEST
            submission = Submission(sample[:LARGEST], truncated, None, 25, f"mail from {peer}")
            number = await nominations.submit(connection, submission)
            log.info("sample", peer=str(peer), submission=number)

    def note(self, event: Event, peer: Address, error: Exception | None) -> None:
        """Count what happens, and log what an operator should see of a client."""
        metrics.SINK_EVENTS.labels(event.value).inc()
        if event is Event.NOT_SECURED:
            log.info("no TLS", peer=str(peer), why=repr(error))
        elif error is not None:
            log.error("message not taken", peer=str(peer), error=repr(error))
        elif event in {Event.TURNED_AWAY, Event.GAVE_WAY, Event.TIMED_OUT}:
            log.info("client sent away", peer=str(peer), why=event.value)

    async def renew_keys(self) -> timedelta:
        """Take tokens of a new key, too: workers sign with it when it is two minutes old."""
        async with self._database.transaction() as connection:
            self.letterbox.renew(await keys_store.token_keys(connection))
        return _KEYS_EVERY

    async def check_itself(self) -> timedelta:
        """Send a message to ourselves by the public way; not more often than once a second."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._checked_at + _GAP - loop.time()))
        self._checked_at = loop.time()
        async with self._database.transaction() as connection:
            check = await evidence.begin_sink_check(connection)
        why = await self.letterbox.send_check(check)
        metrics.SINK_CHECKS.labels("failed" if why else "taken").inc()
        if why:
            log.error("our own message did not get through", why=why)
        return self._config.sink.check_every


def _arrival(
    peer: Address, delivery: Delivery[Ticket], forward_path: bytes, token: Token
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
