"""Names as targets: one job for each address, and an outcome for whoever asked."""

import contextlib
from datetime import timedelta

import dns.message
import dns.rcode
import dns.rrset
import pytest

from relaytest.daemons.names import NameDesk
from relaytest.net.dns import Resolver
from relaytest.net.dns_server import serve_dns
from relaytest.store import jobs

ZONE = {
    ("lab.example.", "MX"): ["10 mx1.lab.example.", "20 mx2.lab.example."],
    ("mx1.lab.example.", "A"): ["11.0.0.1", "11.0.0.2"],
    ("mx2.lab.example.", "A"): ["11.0.0.2"],
    ("mx2.lab.example.", "AAAA"): ["2600::1"],
    ("inside.example.", "A"): ["10.0.0.1", "11.0.0.3"],
    ("null.example.", "MX"): ["0 ."],
    ("many.example.", "A"): [f"11.0.1.{number}" for number in range(1, 41)],
}


async def answer(query: dns.message.Message) -> dns.message.Message | None:
    question = query.question[0]
    name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
    if name == "silent.example.":
        return None
    response = dns.message.make_response(query)
    if records := ZONE.get((name, kind)):
        response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *records))
    elif not any(one == name for one, _ in ZONE):
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response


@pytest.fixture
async def desk(database):
    async with contextlib.AsyncExitStack() as stack:
        host, port = await stack.enter_async_context(serve_dns("127.0.0.1", 0, answer))
        resolver = Resolver([f"{host}:{port}"], timedelta(milliseconds=500))
        yield NameDesk(database, await stack.enter_async_context(resolver))


async def looked_up(desk, connection, name: str) -> tuple[list[str], str]:
    """The addresses that are to be tested, and what whoever asked is told."""
    assert await jobs.enqueue(connection, jobs.Request(name, "complaint", port=587)) is None
    await desk.look_up()
    rows = await connection.fetch("SELECT target, port, reason FROM relaytest.retest ORDER BY id")
    assert all((row["port"], row["reason"]) == (587, "complaint") for row in rows)
    outcome = await connection.fetchval("SELECT outcome FROM relaytest.name_request")
    return [row["target"] for row in rows], outcome


async def test_each_address_of_each_mail_host_is_tested_once(desk, connection):
    targets, outcome = await looked_up(desk, connection, "lab.example")
    assert sorted(targets) == ["11.0.0.1", "11.0.0.2", "2600::1"]
    assert outcome.count(": job ") == 3


async def test_an_address_that_may_not_be_tested_is_told(desk, connection):
    targets, outcome = await looked_up(desk, connection, "inside.example")
    assert targets == ["11.0.0.3"]
    assert "10.0.0.1 is out of scope" in outcome


async def test_not_more_than_sixteen_addresses(desk, connection):
    targets, _ = await looked_up(desk, connection, "many.example")
    assert len(targets) == 16


@pytest.mark.parametrize(
    ("name", "why"), [("nobody.example", "no address"), ("null.example", "null MX")]
)
async def test_a_name_without_an_address_is_told_as_such(desk, connection, name, why):
    targets, outcome = await looked_up(desk, connection, name)
    assert targets == []
    assert why in outcome


async def test_a_silent_dns_is_asked_again_and_given_up_at_last(desk, connection):
    targets, outcome = await looked_up(desk, connection, "silent.example")
    assert (targets, outcome) == ([], "")
    assert await connection.fetchval("SELECT look_at > now() FROM relaytest.name_request")
    await connection.execute("UPDATE relaytest.name_request SET look_at = now(), tries = 4")
    await desk.look_up()
    row = await connection.fetchrow("SELECT outcome, look_at FROM relaytest.name_request")
    assert tuple(row) == ("the DNS gives no answer", None)
