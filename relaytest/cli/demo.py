"""`relaytest up --demo`: the main job on two small mail servers, step by step on the terminal."""

import asyncio
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from relaytest.core.config import Config, parse_config, split_endpoint
from relaytest.core.zone import query_name
from relaytest.daemons.demo_server import DemoServer
from relaytest.daemons.loop import Stop, wait_or_stop
from relaytest.net.dns import listed_as
from relaytest.store import jobs, pages
from relaytest.store.database import Database

OPEN, CLOSED = IPv4Address("127.0.66.1"), IPv4Address("127.0.66.2")
PORT = 2525
_PATIENCE = 60.0  # seconds for one step
_LOOK = 0.2
_READING = 0.8  # seconds that a step stays on a terminal at least

_SETTINGS = {
    "identity": {"ehlo_name": "probe.relaytest.example", "contact": "the demo's own user"},
    "scope": {"allow": ["127.0.66.0/24"]},
    "sink": {"domains": ["sink.relaytest.example"], "check_every": "10s"},
    "publish": {"debounce": "200ms"},
}


def configured(config: Config) -> Config:
    """Return the configuration with what the demo needs put over it."""
    values = config.model_dump(mode="python", exclude_unset=True)
    for section, keys in _SETTINGS.items():
        values.setdefault(section, {}).update(keys)
    return parse_config(values)


@dataclass(frozen=True, slots=True)
class _Step:
    """One line of the story: what happens, and how we see that it did.

    Attributes:
        title: For the terminal.
        act: Makes it happen; None if it happens by itself.
        seen: Returns what is to be seen, or None as long as it is not.
    """

    title: str
    seen: Callable[[], Awaitable[str | None]]
    act: Callable[[], Awaitable[None]] | None = None


class Demo:
    """Runs the story once, as a daemon beside the others.

    Attributes:
        went_well: All of it was seen.
    """

    def __init__(self, console: Console, *, once: bool) -> None:
        self.went_well = False
        self._console = console
        self._once = once
        self._lines: list[Text | Spinner] = []

    async def run(self, config: Config, database: Database, stop: Stop) -> None:
        """Tell the story, then wait for the stop, or wish it if the demo is all."""
        stop.begin("demo")
        sink = split_endpoint(config.sink.listen[0])
        relay = DemoServer("mail.open.example", sink, open_relay=True)
        closed = DemoServer("mail.closed.example", sink, open_relay=False)
        async with (
            relay.serve(str(OPEN), PORT),
            closed.serve(str(CLOSED), PORT),
        ):
            plot = _Plot(config, database, relay)
            await wait_or_stop(self._tell(plot), stop)
            if not self._console.is_terminal:
                self._console.line()  # Live leaves it out there
            if self._once:
                stop.set()
            elif not stop.wished:
                self._console.print(
                    f"\nLook around: http://{config.web.listen}/lookup/{OPEN}   (Ctrl-C stops)"
                )
                await stop.wait()

    async def _tell(self, plot: "_Plot") -> None:
        """Show one step after the other, each with a spinner until it is seen."""
        with Live(console=self._console, refresh_per_second=10) as live:
            for step in plot.steps():
                self._lines.append(Spinner("dots", f" {step.title}"))
                live.update(Group(*self._lines))
                seen = await self._watch(step)
                mark, style = ("✓", "green") if seen else ("✗", "red")
                text = Text.assemble(
                    (f"{mark} ", style), step.title, (f"  {seen or 'not seen in time'}", "dim")
                )
                self._lines[-1] = text
                live.update(Group(*self._lines))
                if not seen:
                    return
        self.went_well = True

    async def _watch(self, step: _Step) -> str | None:
        if step.act is not None:
            await step.act()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while loop.time() < begun + _PATIENCE:
            if seen := await step.seen():
                if self._console.is_terminal:  # else it is over before one can read it
                    await asyncio.sleep(begun + _READING - loop.time())
                return seen
            await asyncio.sleep(_LOOK)
        return None


class _Plot:
    """What the steps do and look at."""

    def __init__(self, config: Config, database: Database, relay: DemoServer) -> None:
        self._config = config
        self._database = database
        self._relay = relay
        self._name = query_name(OPEN, config.publish.zone)
        self._before: dict[IPv4Address, int] = {}  # last trial of each before the step

    def steps(self) -> tuple[_Step, ...]:
        """Return the story."""
        return (
            _Step(
                f"INSERT INTO relaytest.retest: {OPEN} and {CLOSED}, port {PORT}",
                self._asked,
                self._insert,
            ),
            _Step(f"{CLOSED} (mail.closed.example) is tested", self._verdict_on(CLOSED, "closed")),
            _Step(f"{OPEN} (mail.open.example) is tested", self._verdict_on(OPEN, "open")),
            _Step(f"{OPEN} is listed; DNS answers for {self._name}", self._in_dns),
            _Step("the owner fixes the server", self._fixed, self._fix),
            _Step("and fills in the removal form", self._asked, self._request_removal),
            _Step(f"{OPEN} is tested again", self._verdict_on(OPEN, "closed")),
            _Step(f"{OPEN} is off the list; DNS says NXDOMAIN", self._not_in_dns),
        )

    async def _insert(self) -> None:
        await self._remember()
        async with self._database.transaction() as connection:
            for address in (OPEN, CLOSED):
                request = jobs.Request(str(address), "nominated", port=PORT, requester="demo")
                await jobs.enqueue(connection, request)

    async def _remember(self) -> None:
        for address in (OPEN, CLOSED):
            async with self._database.transaction() as connection:
                standing = await pages.standing_of(connection, address)
            self._before[address] = max((row["trial"] for row in standing.verdicts), default=0)

    async def _asked(self) -> str | None:
        return "in the queue"

    def _verdict_on(
        self, address: IPv4Address, expected: str
    ) -> Callable[[], Awaitable[str | None]]:
        async def seen() -> str | None:
            async with self._database.transaction() as connection:
                standing = await pages.standing_of(connection, address)
            for row in standing.verdicts:
                if row["verdict"] == expected and row["trial"] > self._before[address]:
                    return f"{row['verdict']}: {row['explanation'].partition('. ')[0]}"
            return None

        return seen

    async def _in_dns(self) -> str | None:
        answer = await self._dns()
        return f"A {answer[0]}" if answer else None

    async def _not_in_dns(self) -> str | None:
        return "NXDOMAIN" if await self._dns() == [] else None

    async def _dns(self) -> list[str] | None:
        return await listed_as(self._config.answer.listen, self._name, timedelta(seconds=2))

    async def _fix(self) -> None:
        self._relay.open = False
        await self._remember()

    async def _fixed(self) -> str | None:
        return "it now refuses mail between strangers"

    async def _request_removal(self) -> None:
        """Fill in the form as a browser does."""
        form = urllib.parse.urlencode({"address": str(OPEN), "port": PORT}).encode()
        url = f"http://{self._config.web.listen}/removal"
        await asyncio.to_thread(urllib.request.urlopen, url, form, 10)
