"""The main job on real servers, in the order in which the design tells it."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from relaytest.core.zone import query_name
from relaytest.daemons.dns_watch import failing_tests
from relaytest.net.dns import listed_as
from relaytest.store import listings
from relaytest.store.evidence import Trial
from tests.lab import Acceptor, Lab, lab_config, running, until
from tests.mta.exim import Exim
from tests.mta.opensmtpd import OpenSmtpd
from tests.mta.packages import require
from tests.mta.postfix import Postfix
from tests.mta.process import fresh_address, fresh_port
from tests.mta.rbldnsd import Rbldnsd
from tests.mta.sendmail import Sendmail

SECOND = timedelta(seconds=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ZONE = "relays.example"


@pytest.fixture
async def lab(database, dsn, tmp_path):
    async with running(lab_config(tmp_path / "zone"), database, dsn) as system:
        yield system


@contextlib.contextmanager
def dns_server(lab: Lab, root: Path) -> Iterator[str]:
    """A real rbldnsd on the published files; give its address:port."""
    require("rbldnsd")
    folder = Path(lab.config.publish.directory)
    host = fresh_address()
    port = fresh_port(host)
    zones = [
        f"{ZONE}:ip4set:{folder / f'{ZONE}.ip4'}",
        f"{ZONE}:ip6trie:{folder / f'{ZONE}.ip6'}",
        f"{ZONE}:generic:{folder / f'{ZONE}.apex'}",
    ]
    with Rbldnsd(root, zones, host, port, check=1):
        yield f"{host}:{port}"


async def answers(server: str, address: str, *, listed: bool) -> list[str] | None:
    name = query_name(ip_address(address), ZONE)

    async def look() -> list[str] | None:
        answer = await listed_as(server, name, SECOND)
        return answer if answer is not None and bool(answer) is listed else None

    return await until(look, f"{name} {'listed' if listed else 'not listed'}")


async def zone_written(lab: Lab) -> None:
    async def look() -> bool | None:
        return (Path(lab.config.publish.directory) / f"{ZONE}.apex").exists() or None

    await until(look, "the first zone")


# How each is found closed. OpenSMTPD takes user%sink@its-own-domain for one of its own mailboxes,
# and so says 250 to what it will not relay.
REASONS = {
    Postfix: "refused",
    Exim: "refused",
    OpenSmtpd: "not-returned",
    Sendmail: "refused",
}
SERVERS = pytest.mark.parametrize(
    ("name", "kind"),
    [("postfix", Postfix), ("exim", Exim), ("opensmtpd", OpenSmtpd), ("sendmail", Sendmail)],
    ids=["postfix", "exim", "opensmtpd", "sendmail"],
)


def server(lab: Lab, kind, root: Path, *, relay: bool):
    host = fresh_address()
    return kind(
        root,
        host,
        fresh_port(host),
        hostname="mail.lab.example",
        domains=["lab.example", "mail.lab.example"],
        sink=lab.sink,
        relay=relay,
    )


@SERVERS
async def test_an_open_relay_is_listed_and_once_fixed_delisted(lab, tmp_path, name, kind):
    require(name)
    await zone_written(lab)
    with (
        dns_server(lab, tmp_path / "rbldnsd") as dns,
        server(lab, kind, tmp_path / name, relay=True) as target,
    ):
        await lab.insert(target.address, target.port)
        found = await lab.verdict(target.address, "open")
        assert found["condition"] is None
        assert found["exit_address"] is None
        assert await answers(dns, target.address, listed=True) == ["127.0.0.2"]
        assert await lab.listed() == {target.address}
        await lab.idle()

        target.reconfigure(relay=False)
        await lab.insert(target.address, target.port, "removal-request")
        found = await lab.verdict(target.address, "closed", after=found["trial"])
        assert found["reason"] == REASONS[kind]
        assert await answers(dns, target.address, listed=False) == []
        assert await lab.listed() == set()


@SERVERS
async def test_a_closed_server_is_never_listed(lab, tmp_path, name, kind):
    require(name)
    with server(lab, kind, tmp_path / name, relay=False) as target:
        await lab.insert(target.address, target.port)
        found = await lab.verdict(target.address)
        assert (found["verdict"], found["reason"]) == ("closed", REASONS[kind])
        assert len(found["forms"]) == 20
        assert await lab.listed() == set()


async def test_a_server_that_takes_everything_and_throws_it_away_is_never_listed(lab):
    host, acceptor = fresh_address(), Acceptor()
    async with acceptor.serve(host, port := fresh_port(host)):
        await lab.insert(host, port)
        found = await lab.verdict(host)
    assert (found["verdict"], found["reason"]) == ("closed", "not-returned")
    assert len(acceptor.messages) == 20
    assert await lab.connection.fetchval("SELECT count(*) FROM relaytest.listing") == 0


async def test_a_relay_that_is_still_open_stays_listed_after_a_removal_request(lab, tmp_path):
    require("exim")
    with server(lab, Exim, tmp_path / "exim", relay=True) as target:
        await lab.insert(target.address, target.port)
        first = await lab.verdict(target.address, "open")
        await lab.idle()
        await lab.insert(target.address, target.port, "removal-request")
        await lab.verdict(target.address, "open", after=first["trial"])
        assert await lab.listed() == {target.address}


async def test_a_relay_is_found_over_ipv6(lab, tmp_path):
    require("postfix")
    target = Postfix(
        tmp_path / "postfix",
        "::1",
        fresh_port("::1"),
        hostname="mail.lab.example",
        domains=["lab.example"],
        sink=lab.sink,
        relay=True,
    )
    with target:
        await lab.insert("::1", target.port)
        await lab.verdict("::1", "open")
        assert await lab.listed() == {"::1"}


async def test_rbldnsd_answers_the_test_entries_and_listings_of_both_versions(lab, tmp_path):
    """RFC 5782 section 5, asked of a real rbldnsd on the files as they are published."""
    await zone_written(lab)
    with dns_server(lab, tmp_path / "rbldnsd") as dns:
        asked = lab.config.model_copy(
            update={"publish": lab.config.publish.model_copy(update={"server": dns})}
        )
        assert await failing_tests(asked) == []
        for number, text in enumerate(("192.0.2.99", "2001:db8:1:2:3:4:567:89ab"), start=900):
            address = ip_address(text)
            await lab.connection.execute(
                "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
                " VALUES ($1, 1, $2, 25, 'operator', 'x')",
                number,
                address,
            )
            trial = Trial(number, address, 25, (), None, ended=True, reason="operator", read_at=NOW)
            await listings.enter(
                lab.connection, trial, expire_after=60 * SECOND, recheck_every=60 * SECOND
            )
        await lab.connection.execute("NOTIFY relaytest_listing")
        assert await answers(dns, "192.0.2.99", listed=True) == ["127.0.0.2"]
        assert await answers(dns, "2001:db8:1:2:3:4:567:89ab", listed=True) == ["127.0.0.2"]
        assert await listed_as(dns, query_name(ip_address("192.0.2.98"), ZONE), SECOND) == []
        assert await failing_tests(asked) == []
