"""One check of a few targets, with its own sink and without a database: `relaytest check`.

It visits as the worker does, takes mail as the sink does and judges as the scheduler does, and
keeps everything in memory.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from relaytest.core import checkup
from relaytest.core.config import Config, split_endpoint
from relaytest.core.evidence import Evidence, Receipt, promised
from relaytest.core.message import is_ours
from relaytest.core.offers import Asker
from relaytest.core.probe import CONTROL, Form
from relaytest.core.received import hops_of
from relaytest.core.reception import Delivery
from relaytest.core.target import Address, parse_address, refusal
from relaytest.core.token import Mailbox, Token
from relaytest.core.verdict import Patience, Verdict, out_of_scope
from relaytest.core.visit import SessionRecord, asked_in
from relaytest.daemons import shipped
from relaytest.daemons.clock import utcnow
from relaytest.daemons.letterbox import Letterbox
from relaytest.daemons.loop import Stop, wait_or_stop
from relaytest.daemons.prober import Prober, Target, Visit
from relaytest.net.admission import Bounds
from relaytest.net.dns import NullMxError, Resolver
from relaytest.net.smtp_client import NoSocketError
from relaytest.net.smtp_listener import listen

_AT_ONCE = 8  # targets
_AGAIN_AFTER = (0.25, 0.25)  # of the patience, each
_GRACE = timedelta(milliseconds=300)  # for sessions with our sink when all is over


@dataclass(slots=True)
class Case:
    """One address and port.

    Attributes:
        host: The name that led to it; "" if the address itself was given.
        battery: All forms, by number.
        visits: As far as they have come.
        asking: One is going on.
        probed_at: End of the last one.
        again_at: When the next one is, if one is to come.
        receipts: What came back, each once.
        fault: Why we could not even try, through our own fault; "" if we could.
        verdict: None until it is known.
    """

    target: Target
    host: str
    battery: Mapping[int, Form]
    visits: list[Visit] = field(default_factory=list)
    asking: bool = False
    probed_at: datetime | None = None
    again_at: datetime | None = None
    receipts: list[Receipt] = field(default_factory=list)
    fault: str = ""
    verdict: Verdict | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def visit(self) -> Visit | None:
        """The one that fixed what is asked: the first that got through, or the latest."""
        through = (visit for visit in self.visits if visit.answered())
        return next(through, self.visits[-1] if self.visits else None)

    @property
    def records(self) -> list[SessionRecord]:
        """All sessions."""
        return [record for visit in self.visits for record in visit.records]

    @property
    def forms(self) -> tuple[Form, ...]:
        """What is asked."""
        return self.visit.forms if self.visit else ()

    def answered(self) -> int:
        """Return how many forms have an answer."""
        return len({form for visit in self.visits for form in visit.answered()} - {CONTROL})

    def accepted(self) -> int:
        """Return how many forms' recipient was accepted."""
        outcomes = [one for record in self.records for one in record.answers.outcomes]
        return len({one.form for one in outcomes if one.willing or one.message_sent} - {CONTROL})

    def returned(self) -> int:
        """Return how many forms' message came back as a relayed copy."""
        return len({one.form for one in self.receipts if one.mailbox is Mailbox.FORWARD})

    def evidence(self, *, ended: bool = True, sink_proven: bool = False) -> Evidence:
        """Return all that is known, for the judge."""
        numbered = list(enumerate(self.visits, start=1))
        met = (record.met(number) for number, visit in numbered for record in visit.records)
        return Evidence(
            address=self.target.address,
            port=self.target.port,
            battery=self.battery,
            forms=self.forms,
            asked=tuple(
                one for number, visit in numbered for one in asked_in(visit.records, number)
            ),
            met=tuple(met) if self.probed_at else (),
            receipts=tuple(self.receipts),
            probed_at=self.probed_at,
            ended=ended,
            sink_proven=sink_proven,
        )

    def add(self, receipt: Receipt) -> None:
        """Keep a receipt; a relay may deliver twice."""
        if not any(_same(receipt, other) for other in self.receipts):
            self.receipts.append(receipt)
            self._news.set()

    async def wait(self, patience: Patience) -> None:
        """Wait until nothing more can be expected to come back."""
        while until := checkup.wait_until(self.evidence(), patience):
            left = (until - utcnow()).total_seconds()
            if left <= 0:
                return
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()


def _same(one: Receipt, other: Receipt) -> bool:
    return (one.form, one.mailbox, one.peer, one.reverse_path, one.forward_path) == (
        other.form,
        other.mailbox,
        other.peer,
        other.reverse_path,
        other.forward_path,
    )


def cases_of(
    places: Iterable[tuple[str, Address]], ports: Sequence[int], config: Config
) -> list[Case]:
    """Make the cases; one that may not be contacted has its verdict at once.

    The numbers of the trials are random: they make the Message-ID, and a server that has seen
    the one of an earlier check may drop the message as a duplicate.
    """
    first, key = secrets.randbits(32) + 1, secrets.token_bytes(32)
    battery, scope = shipped.battery_of(config).by_number(), config.scope.rules()
    cases: list[Case] = []
    for host, address in places:
        for port in ports:
            case = Case(Target(address, port, first + len(cases), key), host, battery)
            if why := refusal(address, scope):
                case.verdict = out_of_scope(why)
            cases.append(case)
    return cases


class Check:
    """One run.

    Attributes:
        cases: What is checked.
        messages: There is a sink, so messages are sent.
        proven: The sink was seen to work, at first; None: not looked yet.
        trouble: Why the sink is not known to work; "" if it is.
    """

    def __init__(
        self, config: Config, cases: Sequence[Case], resolver: Resolver, *, messages: bool
    ) -> None:
        """Prepare.

        Args:
            config: sink.domains is not empty; timing.patience is how long to wait for mail.
            cases: See `cases_of`.
            resolver: For names of targets, and the MX of the sink.
            messages: Listen at sink.listen and send messages; else only ask.
        """
        keys = {case.target.key for case in cases}
        self.cases = tuple(cases)
        self.messages = messages
        self.proven: bool | None = None
        self.trouble = ""
        self._config = config
        self._resolver = resolver
        self._forms = shipped.battery_of(config).up_to(config.tier)
        self._patience = Patience(config.timing.patience, config.timing.grace)
        self._prober = Prober(config, resolver)
        self._letterbox = Letterbox(config, sorted(keys) or [b""])
        domain, name = config.sink.domains[0], config.ehlo_name
        self._asker = Asker(b"", domain, name, config.identity.contact)
        self._by_trial = {case.target.trial: case for case in cases}
        self._proofs = 0  # messages to ourselves that were sent
        self._arrived: set[int] = set()  # and those that came

    async def run(self, stop: Stop) -> None:
        """Do all of it, or as much as there is time for until `stop`; each case has a verdict.

        Raises:
            OSError: An address of sink.listen is taken or not ours.
        """
        try:
            async with contextlib.AsyncExitStack() as ending:
                if self.messages:
                    await ending.enter_async_context(self._listen())
                await wait_or_stop(self._examine_all(), stop)
        finally:
            for case in self.cases:
                if case.verdict is None:
                    case.verdict = checkup.broken_off(case.evidence(), utcnow())

    def results(self, case: Case) -> tuple[checkup.FormResult, ...]:
        """Return what became of each form of a case."""
        evidence = case.evidence()
        names = case.visit.names if case.visit else None
        envelopes = checkup.envelopes_of(
            evidence.forms,
            names,
            trial=case.target.trial,
            asker=replace(self._asker, key=case.target.key),
        )
        return checkup.results_of(evidence, envelopes)

    def _listen(self) -> contextlib.AbstractAsyncContextManager[object]:
        places = [split_endpoint(endpoint) for endpoint in self._config.sink.listen]
        bounds = Bounds(grace=_GRACE, tls=self._letterbox.tls)
        return listen(places, self._letterbox.session, self._take, bounds=bounds)

    async def _examine_all(self) -> None:
        if self.messages:
            self.trouble = await self._no_way_here() or await self._prove()
            self.proven = not self.trouble
        gate = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for case in self.cases:
                if case.verdict is None:
                    group.create_task(self._examine(case, gate))

    async def _examine(self, case: Case, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                await self._visit_again_and_again(case)
            except NoSocketError as error:
                case.fault = str(error)
                case.verdict = checkup.not_tried(case.fault)
                return
        await case.wait(self._patience)
        case.verdict = checkup.conclude(
            case.evidence(sink_proven=await self._proven_for(case)),
            utcnow(),
            messages=self.messages,
        )

    async def _visit_again_and_again(self, case: Case) -> None:
        """Visit, and come back for what was refused for now or not answered."""
        await self._visit(case, self._forms)
        for part in _AGAIN_AFTER:
            forms = checkup.worth_asking_again(
                case.evidence(ended=False), utcnow(), messages=self.messages
            )
            if not forms:
                return
            pause = part * self._patience.accepted
            case.again_at = utcnow() + pause
            await asyncio.sleep(pause.total_seconds())
            case.again_at = None
            await self._visit(case, forms)

    async def _visit(self, case: Case, forms: Sequence[Form]) -> None:
        case.asking = True
        await self._prober.visit(
            case.target,
            forms,
            messages=self.messages,
            promised=promised(case.evidence()),
            begun=case.visits.append,
        )
        case.asking, case.probed_at = False, utcnow()

    async def _proven_for(self, case: Case) -> bool:
        """Whether silence of the target means anything; asked at the end of the waiting."""
        if not self.messages or not case.accepted():
            return False
        self.trouble = self.trouble or await self._prove()
        if not self.trouble and self._out_of_earshot(case.target.address):
            self.trouble = f"nobody else reaches it at {', '.join(self._config.sink.listen)}"
        return not self.trouble

    def _out_of_earshot(self, address: Address) -> bool:
        """Mail from elsewhere cannot reach a sink that listens on the loopback only."""
        return self._inside and not address.is_loopback and not self._config.sink.check_peer

    @property
    def _inside(self) -> bool:
        """The sink listens on the loopback only: a lab, or a mistake."""
        hosts = [parse_address(split_endpoint(place)[0]) for place in self._config.sink.listen]
        return all(host.is_loopback for host in hosts)

    async def _no_way_here(self) -> str:
        """Look whether mail for the sink's domain can go anywhere; "" if so, or not known.

        Inside a lab, or where the operator says how to reach the sink, the DNS does not count.
        """
        if self._inside or self._config.sink.check_peer:
            return ""
        domain = self._config.sink.domains[0]
        try:
            hosts = await self._resolver.mail_hosts(domain)
        except NullMxError:
            return f"{domain} has a null MX: nobody sends mail to it (RFC 7505)"
        if hosts is None or any(host.addresses is None or host.addresses for host in hosts):
            return ""
        return f"{domain} has neither MX nor address in the DNS, so no mail for it comes here"

    async def _prove(self) -> str:
        """Send a message to our own sink; return "" if it came, or what went wrong."""
        self._proofs += 1
        number = self._proofs
        why = await self._letterbox.send_check(number)
        if not why and number not in self._arrived:
            why = "our own message to it was taken by somebody else"
        return f"our own message to it did not come: {why}" if why else ""

    async def _take(self, peer: Address, _port: int, delivery: Delivery[Token]) -> bool:
        """Keep what came, under the case that it is for."""
        for recipient in delivery.recipients:
            token = recipient.ticket
            if token.mailbox is Mailbox.SELF:
                self._arrived.add(token.trial)
            elif case := self._by_trial.get(token.trial):
                receipt = Receipt(
                    token.form,
                    token.mailbox,
                    peer,
                    delivery.reverse_path,
                    recipient.forward_path,
                    utcnow(),
                    delivery.helo,
                    hops_of(delivery.message),
                    is_ours(delivery.message, trial=token.trial, form=token.form),
                )
                case.add(receipt)
        return True
