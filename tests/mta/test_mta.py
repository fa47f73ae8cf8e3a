"""The real servers behave as their users take for granted, and leave nothing behind."""

import os
import queue
import smtplib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.mta import packages
from tests.mta.exim import Exim
from tests.mta.opensmtpd import OpenSmtpd
from tests.mta.postfix import Postfix
from tests.mta.process import (
    Server,
    ServerError,
    bindable,
    fresh_address,
    fresh_port,
    session_pids,
)
from tests.mta.rbldnsd import Rbldnsd
from tests.mta.sendmail import Sendmail

ROOT = os.geteuid() == 0
SMTP_PORT = 25 if ROOT else 2525
DNS_PORT = 53 if ROOT else 5353
SINK_PORT = 2525
PATIENCE = 20.0  # seconds; a bound on waiting, never reached when all is well
MESSAGE = b"Subject: token-0001\r\n\r\nhello\r\n"

MTAS = [Postfix, Exim, OpenSmtpd, Sendmail]
NAMES = ["postfix", "exim", "opensmtpd", "sendmail"]
type_of_mta = pytest.mark.parametrize("mta", MTAS, ids=NAMES)
Mta = type[Postfix] | type[Exim] | type[OpenSmtpd] | type[Sendmail]
Running = Postfix | Exim | OpenSmtpd | Sendmail
CLOSED: dict[str, Any] = {
    "hostname": "mx.closed.example",
    "domains": ["closed.example"],
    "sink": None,
    "relay": False,
}


class Inbox:
    """An aiosmtpd handler that keeps what it is given: peer address, recipients, content."""

    def __init__(self) -> None:
        self.mail: queue.Queue[tuple[str, list[str], bytes]] = queue.Queue()

    async def handle_DATA(  # noqa: N802 - aiosmtpd looks for this name
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        assert isinstance(envelope.content, bytes)
        assert session.peer is not None
        self.mail.put((session.peer[0], envelope.rcpt_tos, envelope.content))
        return "250 kept"


@pytest.fixture
def address() -> str:
    return fresh_address()


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, tuple[str, int]]]:
    handler, where = Inbox(), (fresh_address(), SINK_PORT)
    controller = Controller(handler, hostname=where[0], port=where[1])
    controller.start()
    yield handler, where
    controller.stop()


@pytest.fixture
def serve(tmp_path: Path, address: str) -> Iterator[Callable[..., Running]]:
    """Start an MTA with the arguments given; stop it after the test."""
    servers: list[Server] = []

    def started(mta: Mta, *, on: str = address, port: int = SMTP_PORT, **more: Any) -> Running:
        server = mta(tmp_path / "mta", on, port, **(CLOSED | more))
        servers.append(server)
        server.start()
        return server

    yield started
    for server in servers:
        server.stop()


def offer(server: Running, recipient: str) -> tuple[int, bytes]:
    """Return the reply to RCPT TO."""
    with smtplib.SMTP(server.address, server.port, "tester.example", PATIENCE) as client:
        client.ehlo()
        client.mail("a@sender.example")
        return client.docmd(f"RCPT TO:<{recipient}>")


def send(server: Running) -> None:
    with smtplib.SMTP(server.address, server.port, "tester.example", PATIENCE) as client:
        client.sendmail("a@sender.example", ["b@elsewhere.example"], MESSAGE)


# --- relaying --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mta", "refusal"),
    [
        (Postfix, (454, b"4.7.1 <b@elsewhere.example>: Relay access denied")),
        (Exim, (550, b"relay not permitted")),
        (OpenSmtpd, (550, b"Invalid recipient: <b@elsewhere.example>")),
        (Sendmail, (550, b"5.7.1 <b@elsewhere.example>... Relaying denied")),
    ],
    ids=NAMES,
)
def test_a_closed_server_refuses_a_stranger_in_its_own_words(serve, mta, refusal):
    assert offer(serve(mta, relay=False), "b@elsewhere.example") == refusal


@type_of_mta
@pytest.mark.parametrize("recipient", ["postmaster", "anybody@closed.example"])
def test_a_closed_server_accepts_mail_for_itself(serve, mta, recipient):
    assert offer(serve(mta, relay=False), recipient)[0] == 250


@type_of_mta
def test_an_open_server_relays_to_the_sink_from_its_own_address(serve, mta, inbox):
    handler, where = inbox
    server = serve(mta, relay=True, sink=where)
    send(server)
    peer, recipients, content = handler.mail.get(timeout=PATIENCE)
    assert (peer, recipients, b"token-0001" in content) == (
        server.address,
        ["b@elsewhere.example"],
        True,
    )


@type_of_mta
@pytest.mark.parametrize("relay", [False, True], ids=["closed", "opened"])
def test_a_reconfigured_server_follows_the_new_rule_at_once(serve, mta, relay):
    server = serve(mta, relay=not relay)
    offer(server, "b@elsewhere.example")  # so that an old smtpd is there, waiting for more
    server.reconfigure(relay=relay)
    assert (offer(server, "b@elsewhere.example")[0] == 250) is relay


@type_of_mta
def test_mail_waits_for_a_sink_that_comes_up_later(serve, mta):
    where = (fresh_address(), SINK_PORT)
    server = serve(mta, relay=True, sink=where)
    send(server)
    server.until(lambda: server.logged("Connection refused"), "try the sink")
    handler = Inbox()
    controller = Controller(handler, hostname=where[0], port=where[1])
    controller.start()
    if isinstance(server, OpenSmtpd):
        server.retry()
    try:
        assert handler.mail.get(timeout=PATIENCE)[1] == ["b@elsewhere.example"]
    finally:
        controller.stop()


@type_of_mta
def test_without_a_sink_mail_for_elsewhere_is_accepted_and_kept(serve, mta):
    server = serve(mta, relay=True)
    send(server)
    server.until(lambda: server.logged("Connection refused"), "keep the message")


@type_of_mta
@pytest.mark.skipif(not bindable("::1"), reason="this machine has no ::1")
def test_a_server_on_ipv6_refuses_too(serve, mta):
    server = serve(mta, relay=False, on="::1", port=fresh_port("::1"))
    assert offer(server, "b@elsewhere.example")[0] in {454, 550}


@type_of_mta
@pytest.mark.skipif(not bindable("::1"), reason="this machine has no ::1")
def test_an_open_server_on_ipv6_relays_to_an_ipv4_sink(serve, mta, inbox):
    handler, where = inbox
    send(serve(mta, relay=True, on="::1", port=fresh_port("::1"), sink=where))
    assert handler.mail.get(timeout=PATIENCE)[1] == ["b@elsewhere.example"]


def test_exim_refuses_a_percent_in_a_local_part_even_when_it_is_open(serve):
    reply = offer(serve(Exim, relay=True), "b%elsewhere.example@closed.example")
    assert reply == (550, b"restricted characters in address")


def test_a_closed_postfix_bears_nine_errors_in_a_session(serve):
    server = serve(Postfix, relay=False)
    with smtplib.SMTP(server.address, server.port, "tester.example", PATIENCE) as client:
        client.ehlo()
        client.mail("a@sender.example")
        codes = [client.docmd(f"RCPT TO:<{n}@elsewhere.example>")[0] for n in range(9)]
    assert codes == [454] * 9


# --- blocklists ------------------------------------------------------------------------------


def listed(server: Rbldnsd, name: str) -> list[str]:
    query = dns.message.make_query(name, "A")
    reply = dns.query.udp(query, server.address, port=server.port, timeout=PATIENCE)
    return [str(record) for answer in reply.answer for record in answer]


def test_rbldnsd_answers_a_listed_address_with_127_0_0_2(tmp_path, address):
    zone = tmp_path / "zone"
    zone.write_text(":127.0.0.2:open relay\n192.0.2.1\n")
    with Rbldnsd(tmp_path, [f"dnsbl.example:ip4set:{zone}"], address, DNS_PORT) as server:
        assert listed(server, "1.2.0.192.dnsbl.example") == ["127.0.0.2"]


def test_rbldnsd_serves_a_changed_file_once_reload_returns(tmp_path, address):
    zone = tmp_path / "zone"
    zone.write_text(":127.0.0.2:open relay\n")
    with Rbldnsd(tmp_path, [f"dnsbl.example:ip4set:{zone}"], address, DNS_PORT) as server:
        zone.write_text(":127.0.0.2:open relay\n192.0.2.1\n")
        server.reload()
        assert listed(server, "1.2.0.192.dnsbl.example") == ["127.0.0.2"]


# --- processes -------------------------------------------------------------------------------


@type_of_mta
def test_stop_leaves_no_process_of_a_mail_server_even_with_a_session_open(serve, mta):
    server = serve(mta, relay=False)
    started = server.pids()
    with smtplib.SMTP(server.address, server.port, "tester.example", PATIENCE) as client:
        client.ehlo()
        during = server.pids()
        server.stop()
        client.close()
    assert (len(during) > 1, alive({*started, *during}), server.pids()) == (True, [], [])


@pytest.mark.parametrize("mta", [OpenSmtpd, Sendmail], ids=["opensmtpd", "sendmail"])
def test_a_server_with_files_of_its_own_can_reach_no_others(serve, tmp_path, mta):
    server = serve(mta, relay=False)
    jail = tmp_path / "mta" / "jail"
    roots = [root_of(pid) or jail for pid in server.pids()]
    assert (roots != [], [root for root in roots if not root.is_relative_to(jail)]) == (True, [])


def root_of(pid) -> Path | None:
    """Return what a process takes for the root of the file system; None if it has ended."""
    try:
        return Path(f"/proc/{pid}/root").readlink()
    except OSError:
        return None


def test_stop_leaves_no_process_of_rbldnsd(tmp_path, address):
    zone = tmp_path / "zone"
    zone.write_text("192.0.2.1\n")
    with Rbldnsd(tmp_path, [f"dnsbl.example:ip4set:{zone}"], address, DNS_PORT) as server:
        started = server.pids()
    assert (len(started), alive(started)) == (1, [])


def alive(pids) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]


@type_of_mta
def test_stop_twice_is_harmless(serve, mta):
    server = serve(mta, relay=False)
    server.stop()
    server.stop()
    assert server.pids() == []


@type_of_mta
def test_a_server_does_not_take_another_ones_greeting_for_its_own(serve, tmp_path, mta):
    first = serve(mta, relay=False)
    second = mta(tmp_path / "second", first.address, first.port, **CLOSED)
    with pytest.raises(ServerError, match="already in use"), second:
        pytest.fail("two servers have one port")


@pytest.mark.parametrize(
    ("mta", "wrong", "complaint"),
    [
        (Postfix, {"settings": {"mail_owner": "root"}}, "parameter mail_owner"),
        (Exim, {"extra": "no_such_option = 1"}, 'option "no_such_option" unknown'),
        (OpenSmtpd, {"extra": "no such option"}, "syntax error"),
        (Sendmail, {"extra": "LOCAL_CONFIG\nno such option\n"}, 'unknown configuration line "no'),
    ],
    ids=NAMES,
)
def test_a_server_that_cannot_start_tells_why(tmp_path, address, mta, wrong, complaint):
    with (
        pytest.raises(ServerError, match=complaint),
        mta(tmp_path, address, SMTP_PORT, **CLOSED, **wrong),
    ):
        pytest.fail("it started")


def test_addresses_differ_within_a_run():
    assert len({fresh_address() for _ in range(50)}) == 50


def test_addresses_differ_between_runs():
    code = "from tests.mta import process; process.os.getpid = lambda: {}; print({})"
    mine = fresh_address()
    theirs = subprocess.run(
        [
            sys.executable,
            "-c",
            code.format(os.getpid(), "[process.fresh_address() for _ in range(60)]"),
        ],
        cwd=packages.TREE.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert repr(mine) not in theirs.stdout


def test_a_session_without_processes_is_empty():
    assert session_pids(2**30) == []


# --- packages --------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """Make this look like a machine on which nothing was fetched or installed."""
    monkeypatch.setattr(packages, "TREE", tmp_path / ".servers")
    monkeypatch.setattr(packages, "SYSTEM", tmp_path / "system")
    return monkeypatch


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", packages.RECIPES)
def test_a_missing_server_is_named_with_what_would_mend_it(name):
    assert packages.find(name) == (
        None,
        f"{name} is neither in .servers nor installed: run `python -m tests.mta.packages`",
    )


def test_a_missing_server_skips_the_test(bare):
    bare.delenv("RELAYTEST_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="exim is neither"):
        packages.require("exim")


def test_a_missing_server_fails_the_test_where_ci_promised_it(bare):
    bare.setenv("RELAYTEST_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="exim is neither"):
        packages.require("exim")


@pytest.mark.parametrize("name", ["postfix", "opensmtpd", "sendmail"])
def test_a_server_that_changes_accounts_is_not_to_be_had_without_root(bare, name):
    bare.setattr(os, "geteuid", lambda: 1000)
    program = packages.SYSTEM / packages.RECIPES[name].program
    program.parent.mkdir(parents=True)
    program.touch()
    assert "root: " in packages.find(name)[1]


def test_fetching_without_apt_says_so_in_a_sentence(bare, capsys):
    bare.setenv("PATH", "")
    status = packages.main(["rbldnsd"])
    assert (status, capsys.readouterr().err) == (
        1,
        "rbldnsd is fetched with apt-get and dpkg, and this machine has none: "
        "use Debian or Ubuntu, or install the server itself.\n",
    )


def test_a_server_fetched_before_is_not_fetched_again(bare, capsys):
    home = packages.TREE / "rbldnsd"
    home.mkdir(parents=True)
    (home / packages.STAMP).write_text(f"rbldnsd\n{packages.distribution()}\n")
    bare.setenv("PATH", "")
    assert (packages.main(["rbldnsd"]), capsys.readouterr().out) == (
        0,
        "rbldnsd: already there\n",
    )


def test_a_program_of_the_system_is_found_or_its_package_told(monkeypatch):
    assert packages.require_installed("no-such-program", "sh", package="dash").endswith("/sh")
    monkeypatch.delenv("RELAYTEST_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no x-1 here: apt-get install y"):
        packages.require_installed("x-1", "x-2", package="y")
    monkeypatch.setenv("RELAYTEST_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="no x-1 here"):
        packages.require_installed("x-1", package="y")
