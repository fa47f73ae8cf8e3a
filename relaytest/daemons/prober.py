"""One visit to one target: the scout, then the rest, then a message for what was accepted."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

from relaytest.core import plan
from relaytest.core.config import Config
from relaytest.core.dialogue import (
    Break,
    Broken,
    Hello,
    Offer,
    Outcome,
    greet,
    hold,
    part,
    secure,
)
from relaytest.core.manner import PLAIN, Channel, Manner, after
from relaytest.core.names import Names, names_of
from relaytest.core.offers import Asker, control, distinct, ehlo_name, offer
from relaytest.core.plan import Purpose, Round, Sizes
from relaytest.core.probe import Form, Helo
from relaytest.core.target import Address
from relaytest.core.visit import SessionRecord
from relaytest.daemons import metrics
from relaytest.daemons.clock import utcnow
from relaytest.net.dns import Resolver
from relaytest.net.smtp_client import (
    ConnectFailedError,
    Connection,
    NoSocketError,
    Timeouts,
    connect,
)

_TLS_ALSO = 1  # tier that is asked inside TLS, too, where clear text does not demand it
_STRIKES = 2
_TURNED_AWAY = {"rejected", Break.REFUSED.value, Break.UNREACHABLE.value, Break.TLS.value}

Offers = Callable[[Hello], Awaitable[Sequence[Offer]]]


@dataclass(frozen=True, slots=True)
class Way:
    """How one session is held.

    Attributes:
        name: What we say in EHLO.
        pipelining: Use it where it is announced.
    """

    manner: Manner
    name: str
    pipelining: bool


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to visit, and for which trial; `key` signs its tokens."""

    address: Address
    port: int
    trial: int
    key: bytes = field(repr=False, default=b"")


@dataclass(slots=True)
class Visit:
    """What a visit found so far.

    Attributes:
        forms: What was to be asked; without those that the target's names made equal.
        records: A record for each session, in order of their beginning.
        names: What the target calls itself; None until it has greeted us.
        fault: A session could not even be tried, through our own fault.
        one_by_one_from: Place of the first record since sessions follow each other.
        manner: Of the scout and of what is asked for every form.
        promised: Numbers of forms that are offered with their message at once.
    """

    target: Target
    forms: tuple[Form, ...]
    records: list[SessionRecord] = field(default_factory=list)
    names: Names | None = None
    fault: NoSocketError | None = None
    one_by_one_from: int | None = None
    manner: Manner = PLAIN
    promised: frozenset[int] = frozenset()

    @property
    def starttls(self) -> bool:
        """The target offers to go on in TLS."""
        return any(record.starttls for record in self.records)

    def findings(self, longest: timedelta) -> plan.Findings:
        """Return what the sessions so far showed, for the plan of the next ones.

        Args:
            longest: That a session may be.
        """
        ended = {record.ended for record in self.records}
        pace = max((record.pace for record in self.records), default=0.0)
        return plan.Findings(
            strained=any(record.strained for record in self.records),
            pipelining=Break.TIMEOUT.value not in ended,
            settling=self.manner.settling,
            forms=int(longest.total_seconds() / 2 / pace) if pace else plan.NOTHING.forms,
        )

    @property
    def shut_out(self) -> bool:
        """Two sessions in a row were turned away: more would only be held against us.

        Among parallel sessions that means no more than a limit on connections at once.
        """
        since = len(self.records) if self.one_by_one_from is None else self.one_by_one_from
        last = [record.ended for record in self.records[since:][-_STRIKES:]]
        return len(last) == _STRIKES and set(last) <= _TURNED_AWAY

    def turned_away(self, first: int | None) -> bool:
        """Whether a session was, from record `first` on; None: not asked."""
        records = self.records[first:] if first is not None else []
        return any(record.ended in _TURNED_AWAY for record in records)

    def outcomes(self, *, tls: bool) -> list[Outcome]:
        """Return the answers that came in clear, or inside TLS."""
        records = [one for one in self.records if (one.encryption is not None) is tls]
        return [outcome for record in records for outcome in record.answers.outcomes]

    def answered(self) -> set[int]:
        """Return the numbers of the forms that have an answer, on the main channel."""
        return {one.form for one in self.outcomes(tls=self.manner.channel is not Channel.CLEAR)}

    def unanswered(self) -> list[Form]:
        """Return the forms that have no answer yet."""
        answered = self.answered()
        return [form for form in self.forms if form.number not in answered]

    def willing(self, *, tls: bool) -> list[Form]:
        """Return the forms whose recipient was accepted and whose message was not yet offered."""
        outcomes = self.outcomes(tls=tls)
        settled = {one.form for one in outcomes if not one.willing}
        willing = {one.form for one in outcomes if one.willing} - settled
        return [form for form in self.forms if form.number in willing]


class Prober:
    """Visits targets; one for a process, any number of visits at a time."""

    def __init__(self, config: Config, resolver: Resolver) -> None:
        """Prepare.

        Args:
            config: sink.domains must not be empty.
            resolver: For the names of targets that do not say their own.
        """
        timing, politeness, identity = config.timing, config.politeness, config.identity
        self._resolver = resolver
        self._longest = timing.visit.total_seconds()
        self._sources = identity.sources
        self._starttls = config.battery.starttls
        self._tls_ports = frozenset(config.battery.tls_ports)
        sink, other, *_ = (*config.sink.domains, "")
        self._us = Asker(b"", sink, config.ehlo_name, identity.contact, other)
        self._timeouts = Timeouts(
            timing.connect, timing.greeting, timing.command, timing.end_of_data, timing.session
        )
        self._unhurried = replace(self._timeouts, settle=timing.settle)
        self._pause = timing.pause.total_seconds()
        self._session = timing.session
        self._sizes = Sizes(
            politeness.forms_per_session,
            politeness.odd_forms_per_session,
            politeness.sessions_at_once,
        )

    async def visit(
        self,
        target: Target,
        forms: Sequence[Form],
        *,
        messages: bool = True,
        promised: frozenset[int] = frozenset(),
        begun: Callable[[Visit], object] = lambda _visit: None,
    ) -> Visit:
        """Ask the target to relay in all `forms`, in at most timing.visit.

        Args:
            target: Whom.
            forms: Which.
            messages: Send one for each recipient that was accepted; else only ask.
            promised: Forms whose recipient was accepted at an earlier visit.
            begun: Given the visit before its first session, to watch it grow.

        Raises:
            NoSocketError: We could not even try, through our own fault.
        """
        visit = Visit(target, tuple(forms), promised=promised if messages else frozenset())
        begun(visit)
        with contextlib.suppress(TimeoutError):  # what is unanswered then is told as such
            async with asyncio.timeout(self._longest):
                await self._carry_out(visit, messages=messages)
        if visit.fault is not None:
            raise visit.fault
        return visit

    async def _carry_out(self, visit: Visit, *, messages: bool) -> None:
        await self._find_manner(visit)
        if visit.names is None:
            return
        main = visit.manner.channel
        also = main is Channel.CLEAR and visit.starttls and self._starttls == "also"
        await self._in_rounds(visit, plan.following, visit.unanswered, main)
        if any(record.ended == Break.DESYNC.value for record in visit.records):
            visit.manner = replace(visit.manner, settling=True)
            await self._in_rounds(visit, plan.following, visit.unanswered, main)
        if also:
            await self._also_inside_tls(visit)
        if not messages:
            return
        for channel in (main, Channel.STARTTLS) if also else (main,):
            willing = partial(visit.willing, tls=channel is not Channel.CLEAR)
            await self._in_rounds(visit, plan.confirming, willing, channel)

    async def _find_manner(self, visit: Visit) -> None:
        """Send scouts until one gets through, or no other manner is left to try."""
        if visit.target.port in self._tls_ports:
            visit.manner = Manner(Channel.TLS)
        tried: set[Manner] = set()
        while visit.manner not in tried:
            tried.add(visit.manner)
            if visit.manner.again:
                await asyncio.sleep(self._pause)
            await self._scout(visit)
            scout = visit.records[-1]
            visit.manner = after(visit.manner, scout, starttls=self._starttls != "never")

    async def _in_rounds(
        self,
        visit: Visit,
        following: Callable[..., Round | None],
        left: Callable[[], Sequence[Form]],
        channel: Channel,
    ) -> None:
        """Hold round after round until nothing is left, or there is no use in more."""
        number = 1
        while not visit.shut_out and (
            sessions := following(number, left(), self._sizes, visit.findings(self._session))
        ):
            await self._hold(visit, sessions, channel)
            number += 1

    async def _also_inside_tls(self, visit: Visit) -> None:
        """Ask what was not taken in clear once inside TLS: some trust whoever encrypts."""
        taken = visit.willing(tls=False)
        some = [form for form in visit.forms if form.tier <= _TLS_ALSO and form not in taken]
        sessions = plan.following(1, some, self._sizes, visit.findings(self._session))
        if sessions is not None and not visit.shut_out:
            await self._hold(visit, sessions, Channel.STARTTLS)

    async def _scout(self, visit: Visit) -> None:
        """The first session; it also learns the target's names, which the forms need."""

        async def offers(hello: Hello) -> list[Offer]:
            visit.names = await self._names(visit, hello)
            visit.forms = distinct(
                visit.forms, visit.names, asker=self._asker(visit), keywords=hello.keywords
            )
            sizes = Sizes(2, 1, 1) if visit.manner.settling else self._sizes
            first = next(iter(plan.scout(visit.forms, sizes).groups), ())
            postmaster = control(trial=visit.target.trial, asker=self._asker(visit))
            return [postmaster, *self._offers(visit, first, message=False)]

        way = Way(visit.manner, self._us.ehlo_name, not visit.manner.settling)
        await self._talk(visit, Purpose.SCOUT, offers, way)

    async def _names(self, visit: Visit, hello: Hello) -> Names:
        """What the target says it is; a look-up only if it says nothing, or a form asks for it."""
        address, greeting = visit.target.address, hello.greeting
        said = names_of(address, greeting=greeting, hello=hello.reply, pointer=None)
        if said.host != said.literal and not any(
            "ptr" in form.recipient.wants for form in visit.forms
        ):
            return said
        pointer = await self._resolver.pointer(address)
        return names_of(address, greeting=greeting, hello=hello.reply, pointer=pointer)

    async def _hold(self, visit: Visit, sessions: Round, channel: Channel) -> None:
        """Hold the sessions of a round, as many at once as it allows."""
        message = sessions.purpose is Purpose.CONFIRM
        gate = asyncio.Semaphore(sessions.at_once)
        # One of several at once that is turned away tells of a limit; one alone, of bad luck.
        first = len(visit.records) if sessions.at_once > 1 else None

        async def hold(forms: Sequence[Form]) -> None:
            async def offers(_: Hello) -> list[Offer]:
                return self._offers(visit, forms, message=message)

            async with gate:
                if not visit.shut_out and not visit.turned_away(first):
                    manner = replace(visit.manner, channel=channel)
                    way = Way(manner, self._name(visit, forms[0].helo), sessions.pipelining)
                    await self._talk(visit, sessions.purpose, offers, way)

        if sessions.at_once == 1 and visit.one_by_one_from is None:
            visit.one_by_one_from = len(visit.records)
        async with asyncio.TaskGroup() as group:
            for forms in sessions.groups:
                group.create_task(hold(forms))

    def _offers(self, visit: Visit, forms: Sequence[Form], *, message: bool) -> list[Offer]:
        """Offer forms; with their messages, or only those that were promised."""
        if visit.names is None:
            return []
        asker, now = self._asker(visit), utcnow()
        make = partial(offer, names=visit.names, trial=visit.target.trial, asker=asker)
        return [
            make(form, now=now if message or form.number in visit.promised else None)
            for form in forms
        ]

    async def _talk(
        self,
        visit: Visit,
        purpose: Purpose,
        offers: Offers,
        way: Way,
    ) -> None:
        """Hold one session and write down what came of it, also if it is cut short."""
        record = SessionRecord(purpose, utcnow())
        record.broken = Broken(Break.TIMEOUT, "the time for the visit was up")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        visit.records.append(record)
        try:
            connection = await connect(
                visit.target.address,
                visit.target.port,
                self._unhurried if way.manner.settling else self._timeouts,
                source_address=self._source(visit.target.address),
                local_hostname=self._us.ehlo_name,
            )
            async with connection:
                record.transcript = connection.transcript
                record.source = connection.source
                with metrics.TALKING.track_inprogress():
                    await self._converse(connection, record, offers, way)
        except ConnectFailedError as error:
            record.broken = error.broken
        except NoSocketError as error:
            visit.fault = error
        finally:
            record.seconds = loop.time() - begun

    async def _converse(
        self,
        connection: Connection,
        record: SessionRecord,
        offers: Offers,
        way: Way,
    ) -> None:
        name = way.name.encode("ascii")
        channel = way.manner.channel
        hello = await connection.drive(
            greet(name, secure=channel is Channel.TLS, old=way.manner.old)
        )
        if channel is Channel.STARTTLS and hello.welcome:
            hello = await connection.drive(secure(name, hello))
        record.hello, record.encryption = hello, connection.encryption
        if not hello.welcome:
            record.broken = hello.broken
            if hello.broken is None:
                if way.name != self._us.ehlo_name:
                    record.take_name_for_refused(await offers(hello))
                await connection.drive(part(record.answers))
            return
        dialogue = hold(await offers(hello), pipelining=way.pipelining and hello.pipelining)
        record.answers = await connection.drive(dialogue)
        record.broken = record.answers.broken

    def _asker(self, visit: Visit) -> Asker:
        """Who asks at this visit: us, with the key of the trial."""
        return replace(self._us, key=visit.target.key)

    def _name(self, visit: Visit, helo: Helo) -> str:
        """Whom we say we are."""
        return (
            ehlo_name(helo, visit.names, self._asker(visit)) if visit.names else self._us.ehlo_name
        )

    def _source(self, address: Address) -> Address | None:
        """Our address to probe from; always the same one, since greylisting remembers it."""
        return next((one for one in self._sources if one.version == address.version), None)
