"""The one-off check in detail: its sink, its waiting, and what it says when it is stopped."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_address

import pytest

from relaytest.core.config import parse_config
from relaytest.core.verdict import Finding, Reason
from relaytest.daemons.check import Check, cases_of
from relaytest.daemons.loop import Stop
from relaytest.net.dns import Resolver
from tests.daemons.peers import (
    PLAIN,
    RELAYING_DENIED,
    TAKEN,
    Target,
    anybody,
    only,
    relays,
    seen,
    send,
)
from tests.lab import Acceptor, lab_config, until
from tests.mta.process import fresh_address, fresh_port


@contextlib.asynccontextmanager
async def checking(config, *places: tuple[str, int], messages=True) -> AsyncIterator[Check]:
    """A check that is ready to run."""
    async with Resolver(config.dns.nameservers, config.dns.timeout) as resolver:
        cases = [
            case
            for host, port in places
            for case in cases_of([("", ip_address(host))], [port], config)
        ]
        yield Check(config, cases, resolver, messages=messages)


def lab(tmp_path, wait="10s", **sections):
    sections["timing"] = {"patience": wait, "grace": "300ms"} | sections.get("timing", {})
    return lab_config(tmp_path, **sections)


def sink_of(config) -> tuple[str, int]:
    host, _, port = config.sink.listen[0].rpartition(":")
    return host, int(port)


async def checked(config, target: Target, *, messages=True, stop=None):
    """Run a check of one server; return its case and the check."""
    async with (
        target.serve() as port,
        checking(config, (target.host, port), messages=messages) as check,
        asyncio.timeout(30),
    ):
        await check.run(stop or Stop())
    return check.cases[0], check


async def test_a_relay_is_proven_by_what_comes_back(tmp_path):
    config = lab(tmp_path)
    case, check = await checked(config, Target(only(PLAIN), relays(sink_of(config))))
    assert (case.verdict.finding, check.proven, check.trouble) == (Finding.OPEN, True, "")
    assert case.returned() > 0


async def test_the_envelopes_told_are_those_that_the_target_saw(tmp_path):
    config, target = lab(tmp_path), Target()
    _, check = await checked(config, target)
    told = {
        (one.envelope.reverse_path, one.envelope.forward_path)
        for one in check.results(check.cases[0])
    }
    assert told <= set(target.tried)
    assert len(told) == 20


async def test_without_a_sink_no_message_is_sent_and_nobody_listens(tmp_path):
    config, target = lab(tmp_path), Target(anybody)
    case, _ = await checked(config, target, messages=False)
    assert (case.verdict.finding, case.verdict.reason) == (Finding.UNKNOWN, Reason.INCOMPLETE)
    assert (target.taken, case.accepted()) == ([], 20)
    assert all(b"DATA" not in talk.lines for talk in target.talks)


def first_connections(number: int, octets: bytes | None):
    """Greet the first clients otherwise."""

    def spoil(connection: int, line: bytes, usual: bytes) -> bytes | None:
        return octets if connection <= number and not line else usual

    return spoil


@pytest.mark.parametrize("octets", [None, b"421 4.7.0 Busy\r\n"], ids=["drops", "busy"])
async def test_who_turns_us_away_is_visited_again_within_the_wait(tmp_path, octets):
    config = lab(tmp_path, wait="1s", timing={"pause": "10ms"})
    case, _ = await checked(config, Target(spoil=first_connections(3, octets)))
    assert (case.verdict.finding, len(case.visits), case.again_at) == (Finding.CLOSED, 2, None)


async def test_what_is_greylisted_is_asked_again_with_the_same_envelopes(tmp_path):
    met = set()

    def greylists(reverse: bytes, forward: bytes) -> bytes:
        new = (reverse, forward) not in met
        met.add((reverse, forward))
        return b"450 4.2.0 Greylisted, come back later" if new else TAKEN

    config = lab(tmp_path, wait="2s")
    case, _ = await checked(config, Target(greylists, relays(sink_of(config))))
    assert (case.verdict.finding, len(case.visits)) == (Finding.OPEN, 2)
    assert case.answered() == 20


async def test_there_is_an_end_to_asking_again(tmp_path):
    config = lab(tmp_path, wait="400ms")
    case, _ = await checked(config, Target(lambda *_: b"450 4.2.0 Greylisted"))
    assert (case.verdict.reason, len(case.visits)) == (Reason.DEFERRED, 3)


async def test_where_nobody_listens_nobody_knocks_again(tmp_path):
    host = fresh_address()
    async with checking(lab(tmp_path), (host, fresh_port(host))) as check:
        await check.run(Stop())
    (case,) = check.cases
    assert (case.verdict.reason, len(case.visits)) == (Reason.UNREACHABLE, 1)


async def test_without_a_sink_what_was_accepted_is_not_asked_again(tmp_path):
    case, _ = await checked(lab(tmp_path), Target(anybody), messages=False)
    assert len(case.visits) == 1


async def test_silence_counts_while_the_sink_works(tmp_path):
    case, check = await checked(lab(tmp_path, wait="200ms"), Target(anybody))
    assert (case.verdict.reason, check.trouble) == (Reason.NOT_RETURNED, "")


async def test_silence_says_nothing_where_our_own_message_does_not_come(tmp_path):
    config = lab(tmp_path, wait="200ms", sink={"check_peer": "127.66.0.1:9"})
    case, check = await checked(config, Target(anybody))
    assert case.verdict.reason is Reason.SINK_DOWN
    assert (check.proven, "Connection refused" in check.trouble) == (False, True)


async def test_somebody_elses_sink_is_not_ours(tmp_path):
    host, stranger = fresh_address(), Acceptor()
    port = fresh_port(host)
    config = lab(tmp_path, wait="200ms", sink={"check_peer": f"{host}:{port}"})
    async with stranger.serve(host, port):
        _, check = await checked(config, Target(anybody))
    assert "taken by somebody else" in check.trouble


async def test_nothing_accepted_is_not_waited_for(tmp_path):
    case, _ = await checked(lab(tmp_path, wait="1h"), Target())
    assert (case.verdict.finding, case.verdict.reason) == (Finding.CLOSED, Reason.REFUSED)


async def test_what_is_refused_at_the_dot_is_waited_for_shortly(tmp_path):
    config = lab(tmp_path, wait="1h")
    case, _ = await checked(config, Target(anybody, dot=RELAYING_DENIED))
    assert case.verdict.reason is Reason.REFUSED


async def test_a_message_that_comes_back_late_is_waited_for(tmp_path):
    config, held, first = lab(tmp_path, wait="1h"), [], []

    async def hold(_target, mail) -> None:
        held.append(mail)

    def one(_reverse, forward) -> bytes:
        if forward == b"<postmaster>":
            return TAKEN
        first.append(forward)
        return TAKEN if forward == first[0] else RELAYING_DENIED

    target = Target(one, hold)
    async with (
        target.serve() as port,
        checking(config, (target.host, port)) as check,
        asyncio.timeout(30),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(check.run(Stop()))
        case = check.cases[0]
        await until(lambda: seen(case.probed_at), "the end of the visit")
        waiting = case.verdict is None
        for mail in held:
            await send(sink_of(config), mail.reverse, *mail.forwards, source=target.host)
    assert waiting
    assert case.verdict.finding is Finding.OPEN


async def test_a_copy_that_comes_twice_counts_once(tmp_path):
    config = lab(tmp_path)
    relay = relays(sink_of(config))

    async def twice(target, mail) -> None:
        await relay(target, mail)
        await relay(target, mail)

    case, _ = await checked(config, Target(only(PLAIN), twice))
    assert len({one.form for one in case.receipts}) == len(case.receipts)


async def test_a_stop_ends_it_at_once_and_each_case_has_a_verdict(tmp_path):
    config, target, stop = lab(tmp_path, wait="1h"), Target(anybody), Stop()
    async with (
        target.serve() as port,
        checking(config, (target.host, port)) as check,
        asyncio.timeout(30),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(check.run(stop))
        await until(lambda: seen(check.cases[0].probed_at), "the end of the visit")
        stop.set()
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 1
    assert check.cases[0].verdict.reason is Reason.PENDING


async def test_our_own_fault_is_told_as_such(tmp_path):
    config = lab(tmp_path, identity={"sources": ["192.0.2.9"]})
    case, _ = await checked(config, Target())
    assert case.fault
    assert case.verdict.reason is Reason.UNREACHABLE


async def test_several_targets_are_visited_together(tmp_path):
    config, one, other = lab(tmp_path), Target(), Target(only(PLAIN))
    other.post = relays(sink_of(config))
    async with (
        one.serve() as port,
        other.serve() as another,
        checking(config, (one.host, port), (other.host, another)) as check,
    ):
        await check.run(Stop())
    assert [case.verdict.finding for case in check.cases] == [Finding.CLOSED, Finding.OPEN]


def test_what_may_not_be_contacted_has_its_verdict_at_once():
    (case,) = cases_of([("", ip_address("10.0.0.1"))], [25], parse_config({}))
    assert case.verdict.reason is Reason.OUT_OF_SCOPE


def test_no_two_cases_share_a_trial():
    places = [("", ip_address(f"8.8.8.{n}")) for n in range(8)]
    cases = cases_of(places, [25, 587], parse_config({}))
    assert len({case.target.trial for case in cases}) == 16


@pytest.mark.parametrize(
    ("listen", "address", "deaf"),
    [
        ("127.0.0.1:2525", "8.8.8.8", True),
        ("127.0.0.1:2525", "127.0.0.2", False),
        ("0.0.0.0:25", "8.8.8.8", False),
        ("[::1]:2525", "2001:4860::8888", True),
    ],
)
async def test_a_sink_on_the_loopback_hears_nobody_else(tmp_path, listen, address, deaf):
    config = lab(tmp_path, sink={"listen": [listen]})
    async with Resolver(["127.66.0.1:9"], timedelta(milliseconds=100)) as resolver:
        check = Check(config, [], resolver, messages=True)
        assert check._out_of_earshot(ip_address(address)) is deaf
