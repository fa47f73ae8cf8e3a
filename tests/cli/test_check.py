"""`relaytest check` as an administrator has it: against real servers, on a pipe and a terminal."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relaytest.cli.app import main
from relaytest.daemons.demo_server import DemoServer
from tests.cli.program import LONGEST, Up, environment, relaytest
from tests.daemons.peers import RELAYING_DENIED, Target, anybody
from tests.lab import Acceptor
from tests.mta.packages import require
from tests.mta.postfix import Postfix
from tests.mta.process import bindable, fresh_address, fresh_port
from tests.net.test_dns import Zone, saying

SINK = "sink.example"
LAB = ("--allow", "127.66.0.0/16", "--allow", "::1")
NO_DNS = {"RELAYTEST_DNS__NAMESERVERS": '["127.66.0.1:9"]', "RELAYTEST_DNS__TIMEOUT": "200ms"}
CASE_KEYS = (
    "address port host verdict reason confidence explanation condition exit_address advice"
    " forms sessions receipts"
)


class Place:
    """An address and a free port for a sink, and the options that name it."""

    def __init__(self, host: str = "") -> None:
        self.host = host or fresh_address()
        self.port = fresh_port(self.host)
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.options = ("--sink-domain", SINK, "--sink-listen", f"{shown}:{self.port}")


async def check(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a check to its end, in a process of its own, while our servers go on."""
    arguments = ["check", *LAB, *map(str, words)]
    return await asyncio.to_thread(relaytest, *arguments, **(NO_DNS | more))


async def told(*words: object, **more: str) -> tuple[int, dict[str, Any]]:
    """Run a check with --json; return its exit status and the document."""
    done = await check(*words, "--json", **more)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@contextlib.asynccontextmanager
async def demo(sink: Place, *, open_relay: bool, host: str = "") -> AsyncIterator[tuple[str, int]]:
    """A server of the demo; give its address and port."""
    host = host or fresh_address()
    port = fresh_port(host)
    server = DemoServer("mail.lab.example", (sink.host, sink.port), open_relay=open_relay)
    async with server.serve(host, port):
        yield host, port


# --- With a sink


async def test_an_open_relay_is_proven_and_exits_1():
    sink = Place()
    async with demo(sink, open_relay=True) as (host, port):
        done = await check(host, "--port", port, *sink.options)
    assert done.returncode == 1
    assert f"{host} port {port}: OPEN RELAY, confidence high" in done.stdout
    proof = r"Proof: form S-EXT/R-PLAIN: .*\n +MAIL FROM:<[a-z2-7]{26}@sink.example>\n"
    assert re.search(proof + r" +RCPT TO:<[a-z2-7]{26}@sink.example>\n", done.stdout)
    assert f"and {host} brought the message to our sink" in done.stdout
    assert "Anybody can send mail to anybody" in done.stdout
    assert "works, our own message came" in done.stderr


async def test_a_closed_server_exits_0():
    sink = Place()
    async with demo(sink, open_relay=False) as (host, port):
        done = await check(host, "--port", port, *sink.options)
    assert done.returncode == 0
    assert f"{host} port {port}: closed, confidence high" in done.stdout
    assert "The server refused all 20 forms" in done.stdout
    assert "Next:  Nothing" in done.stdout


async def test_a_server_that_throws_mail_away_is_not_open():
    sink, host, acceptor = Place(), fresh_address(), Acceptor()
    async with acceptor.serve(host, port := fresh_port(host)):
        done = await check(host, "--port", port, *sink.options, "--wait", "1s")
    assert done.returncode == 0
    assert len(acceptor.messages) == 20
    assert "closed, confidence medium" in done.stdout
    assert "We waited 1s for mail to come back." in done.stdout


async def test_the_json_document_tells_all():
    sink = Place()
    async with demo(sink, open_relay=True) as (host, port):
        status, document = await told(host, "--port", port, *sink.options)
    (case,) = document["targets"]
    assert (status, document["verdict"], document["messages_sent"]) == (1, "open", True)
    assert (document["sink"]["domain"], document["sink"]["proven"]) == (SINK, True)
    assert " ".join(case) == CASE_KEYS
    assert (case["address"], case["port"], case["reason"]) == (host, port, "relayed")
    assert len(case["forms"]) == 20
    relayed = {one["id"] for one in case["forms"] if one["standing"] == "relayed"}
    assert {one["form"] for one in case["receipts"]} == relayed
    said = [line for one in case["sessions"] for line in one["transcript"]]
    for form in case["forms"]:
        assert any(line.endswith(f"C: RCPT TO:{form['rcpt_to']}") for line in said)
        assert any(line.endswith(f"C: MAIL FROM:{form['mail_from']}") for line in said)


async def test_the_full_battery_asks_in_more_forms():
    sink = Place()
    async with demo(sink, open_relay=False) as (host, port):
        _, document = await told(host, "--port", port, *sink.options, "--full", "--wait", "2s")
    assert len(document["targets"][0]["forms"]) > 40


async def test_the_sink_of_the_configuration_is_used(tmp_path):
    sink, file = Place(), tmp_path / "relaytest.toml"
    file.write_text(
        f'sink.domains = ["{SINK}"]\nsink.listen = ["{sink.host}:{sink.port}"]\n'
        'scope.allow = ["127.66.0.0/16"]\n'
    )
    async with demo(sink, open_relay=True) as (host, port):
        words = ["check", host, "--port", str(port), "--config", str(file), "--json"]
        done = await asyncio.to_thread(relaytest, *words)
    assert (done.returncode, json.loads(done.stdout)["sink"]["domain"]) == (1, SINK)


async def test_a_relay_is_found_over_ipv6():
    if not bindable("::1"):
        pytest.skip("no ::1 here")
    sink = Place("::1")
    async with demo(sink, open_relay=True, host="::1") as (_, port):
        status, document = await told("::1", "--port", port, *sink.options)
    assert (status, document["targets"][0]["address"]) == (1, "::1")


async def test_a_sink_that_does_not_work_is_told():
    sink = Place()
    peer = {"RELAYTEST_SINK__CHECK_PEER": "127.66.0.1:9"}
    target = Target(anybody)
    async with target.serve() as port:
        done = await check(target.host, "--port", port, *sink.options, "--wait", "200ms", **peer)
    assert done.returncode == 2
    assert "our own message to it did not come" in done.stderr
    assert "Sink:  not known to work: our own message to it did not come" in done.stdout


async def test_a_sink_whose_place_is_taken_exits_78():
    sink = Place()
    with socket.create_server((sink.host, sink.port)):
        done = await check(fresh_address(), *sink.options)
    assert done.returncode == 78
    assert "Address already in use" in done.stderr
    assert "--sink-listen" in done.stderr


@pytest.mark.parametrize(("relay", "status"), [(True, 1), (False, 0)], ids=["open", "closed"])
async def test_a_real_postfix(tmp_path, relay, status):
    require("postfix")
    sink, host = Place(), fresh_address()
    server = Postfix(
        tmp_path / "postfix",
        host,
        fresh_port(host),
        hostname="mail.lab.example",
        domains=["lab.example"],
        sink=(sink.host, sink.port),
        relay=relay,
    )
    with server:
        done = await check(host, "--port", server.port, *sink.options)
    assert done.returncode == status, done.stdout


# --- Without a sink


async def test_acceptance_alone_is_unknown_and_exits_2():
    target = Target(anybody)
    async with target.serve() as port:
        done = await check(target.host, "--port", port)
    assert (done.returncode, target.taken) == (2, [])
    assert "20 of 20 forms were accepted at RCPT. That is no proof" in done.stdout
    assert "--sink-domain NAME" in done.stdout
    assert "No sink: recipients are asked about, and no message is sent." in done.stderr


async def test_refusals_alone_close_it_less_surely():
    target = Target()
    async with target.serve() as port:
        status, document = await told(target.host, "--port", port)
    assert (status, document["sink"], document["messages_sent"]) == (0, None, False)
    assert document["targets"][0]["confidence"] == "medium"


async def test_a_refusal_of_our_made_up_domain_closes_nothing():
    def unknown(_reverse: bytes, forward: bytes) -> bytes:
        if forward == b"<postmaster>":
            return b"250 2.1.5 Ok"
        return b"450 4.1.8 <x>: Sender address rejected: Domain not found"

    target = Target(unknown)
    async with target.serve() as port:
        done = await check(target.host, "--port", port)
    assert done.returncode == 2
    assert "our domain does not exist" in done.stdout


# --- Servers that are not there, or do not want us


async def test_a_server_that_turns_us_away_is_unknown():
    target = Target(greeting=b"554 5.7.1 We do not talk to you")
    async with target.serve() as port:
        status, document = await told(target.host, "--port", port)
    assert (status, document["targets"][0]["reason"]) == (2, "blocked")


async def test_nobody_listening_is_unknown():
    host = fresh_address()
    done = await check(host, "--port", fresh_port(host))
    assert done.returncode == 2
    assert "Connection refused" in done.stdout
    assert "no firewall is in between" in done.stdout


async def test_our_own_fault_exits_75():
    done = await check(fresh_address(), RELAYTEST_IDENTITY__SOURCES='["192.0.2.9"]')
    assert done.returncode == 75


async def test_several_ports_are_several_targets_and_the_worst_counts():
    target = Target()
    async with target.serve() as port:
        nobody = fresh_port(target.host)
        status, document = await told(target.host, "--port", port, "--port", nobody)
    verdicts = {one["port"]: one["verdict"] for one in document["targets"]}
    assert (status, verdicts) == (2, {port: "closed", nobody: "unknown"})


HOSTILE = b"550 5.7.1 \x1b]0;owned\x07 [bold]\\[/nonsense] relaying denied \xff\x9b31m"


async def test_control_octets_of_a_server_never_reach_the_terminal():
    target = Target(lambda _reverse, _forward: HOSTILE, greeting=b"220 \x1b[2J mx [/red]")
    async with target.serve() as port:
        words = target.host, "--port", port, "--transcript"
        plain, (_, document) = await check(*words), await told(*words)
    for said in (plain.stdout, plain.stderr, json.dumps(document, ensure_ascii=False)):
        assert all(one.isprintable() or one == "\n" for one in said)
    assert r"\x1b]0;owned\x07 [bold]\\[/nonsense]" in plain.stdout
    assert plain.returncode == 0


async def test_the_transcript_is_printed_when_asked_for():
    target = Target()
    async with target.serve() as port:
        done = await check(target.host, "--port", port, "--transcript")
    assert f"{target.host} port {port}, session 1 (scout from " in done.stdout
    assert re.search(r"^ +\d\.\d{3} C: EHLO relay-probe\.invalid$", done.stdout, re.MULTILINE)


# --- Names


async def by_name(zone: Zone, name: str, *words: object) -> subprocess.CompletedProcess[str]:
    async with zone.serve() as server:
        dns = {"RELAYTEST_DNS__NAMESERVERS": f'["{server}"]', "RELAYTEST_DNS__TIMEOUT": "5s"}
        return await check(name, *words, **dns)


async def test_every_exchanger_of_a_domain_is_checked():
    one, other = Target(), Target(anybody)
    zone = Zone(
        ("shop.example", "MX", "10 mx1.shop.example."),
        ("shop.example", "MX", "20 mx2.shop.example."),
        ("mx1.shop.example", "A", one.host),
        ("mx2.shop.example", "A", other.host),
    )
    async with one.serve() as port, other.serve() as another:
        done = await by_name(zone, "shop.example", "--port", port, "--port", another)
    assert f"shop.example: mail goes to mx1.shop.example (MX 10): {one.host}" in done.stderr
    assert f"{one.host} port {port} (mx1.shop.example): closed" in done.stdout
    assert f"{other.host} port {another} (mx2.shop.example): unknown" in done.stdout
    assert done.returncode == 2


async def test_a_name_without_exchangers_is_the_server_itself():
    target = Target()
    zone = Zone(("mx.shop.example", "A", target.host))
    async with target.serve() as port:
        done = await by_name(zone, "mx.shop.example", "--port", port)
    assert done.returncode == 0
    assert f"mx.shop.example: {target.host}" in done.stderr


async def test_only_the_first_addresses_of_many_are_checked():
    zone = Zone(*(("many.example", "A", f"127.66.0.{n}") for n in range(10, 30)))
    done = await by_name(zone, "many.example", "--port", "9")
    assert "Only the first 8 of 20 addresses are checked." in done.stderr
    assert done.stdout.count("Connection refused") == 8


@pytest.mark.parametrize(
    ("records", "words", "status", "lines"),
    [
        ([], [], 68, ["does not resolve: it has neither MX nor address", "give the full name"]),
        ([("MX", "0 .")], [], 68, ["null MX (RFC 7505)", "give its address"]),
        ([("MX", "10 gone.example.")], [], 68, ["goes to gone.example, which has no address"]),
        ([("A", "127.66.0.9")], ["-6"], 68, ["has no IPv6 address; leave out -6"]),
        ([("A", "10.0.0.9")], [], 64, ["private use (RFC 1918)", "add: --allow 10.0.0.9"]),
    ],
    ids=["nowhere", "null-mx", "mx-to-nowhere", "no-ipv6", "private"],
)
async def test_a_name_that_leads_nowhere_is_told(records, words, status, lines):
    zone = Zone(*(("shop.example", kind, value) for kind, value in records))
    done = await by_name(zone, "shop.example", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert all(line in done.stderr for line in lines), done.stderr


async def test_no_answer_from_the_dns_exits_75():
    done = await check("shop.example")
    assert done.returncode == 75
    assert "the DNS gives no answer about shop.example" in done.stderr


# --- Usage


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["127.0.0.1"], "127.0.0.1 may not be tested: loopback (RFC 1122)"),
        (["127.0.0.1"], "add: --allow 127.0.0.1"),
        (["::ffff:10.0.0.1"], "10.0.0.1 may not be tested: private use"),
        (["64:ff9b::a00:1"], "add: --allow 10.0.0.1"),
        (["224.0.0.1"], "no mail server can be there"),
        (["two words"], "neither an address nor a name"),
        (["a@shop.example"], "stands behind the @: shop.example"),
        (["192.0.2.1:25"], "--port"),
        (["10.0.0.1", "--allow", "10.0.0.1/8"], "--allow is '10.0.0.1/8'"),
        (["10.0.0.1", "--wait", "soon"], "--wait soon: must be a duration"),
        (["10.0.0.1", "--sink-domain", "sink"], "--sink-domain is 'sink'"),
        (["10.0.0.1", "--sink-listen", "here"], "--sink-listen is 'here'"),
        (["10.0.0.1", "-4", "-6"], "-4 and -6 leave nothing"),
        (["10.0.0.1", "--port", "0"], "--port"),
        ([], "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_exits_64_and_says_what_would_be_right(monkeypatch, capsys, words, line):
    monkeypatch.setenv("RELAYTEST_CONFIG", os.devnull)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["relaytest", "check", *words])
    assert main() == 64
    said, complaint = capsys.readouterr()
    assert (said, line in complaint) == ("", True), complaint


def test_an_excluded_address_stays_excluded(monkeypatch, capsys):
    monkeypatch.setenv("RELAYTEST_CONFIG", os.devnull)
    monkeypatch.setenv("RELAYTEST_SCOPE__DENY", '["10.0.0.0/8"]')
    monkeypatch.setattr(sys, "argv", ["relaytest", "check", "10.0.0.1", "--allow", "10.0.0.1"])
    assert main() == 64
    assert "excluded by the operator (scope.deny)\n" in capsys.readouterr().err


# --- Ctrl-C, and a terminal


async def test_ctrl_c_ends_it_at_once_with_what_is_known():
    sink, target = Place(), Target(anybody)
    async with target.serve() as port:
        words = [*LAB, target.host, "--port", str(port), *sink.options, "--wait", "1h"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "relaytest", "check", *words),
            env=environment(**NO_DNS),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(LONGEST):
            while b"waiting for mail" not in (line := await process.stderr.readline()):
                assert line, "it ended before"
            process.send_signal(signal.SIGINT)
            said, complaint = await process.communicate()  # and not in an hour
    assert process.returncode == 130
    assert b"unknown, confidence low" in said
    assert b"20 accepted" in said
    assert b"Traceback" not in complaint


async def test_ctrl_c_while_the_dns_is_silent_ends_it_too(tmp_path):
    async with saying(None) as server:
        words = ["-W", "error", "-m", "relaytest", "check", "shop.example"]
        dns = {"RELAYTEST_DNS__NAMESERVERS": f'["{server}"]', "RELAYTEST_DNS__TIMEOUT": "1h"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, env=environment(**dns), stderr=subprocess.PIPE
        )
        async with asyncio.timeout(LONGEST):
            await asyncio.to_thread(asks_the_dns, process.pid)
            process.send_signal(signal.SIGINT)
            _, complaint = await process.communicate()
    assert (process.returncode, complaint) == (130, b"")


def asks_the_dns(pid: int) -> None:
    """Return once a process has a second thread: c-ares has one of its own."""
    tasks = Path(f"/proc/{pid}/task")
    while len([*tasks.iterdir()]) < 2:
        time.sleep(0.02)
    time.sleep(0.2)


def test_on_a_terminal_a_table_shows_how_far_it_has_come(tmp_path: Path):
    host = fresh_address()
    with Up(tmp_path) as program:
        words = [*LAB, host, "--port", str(fresh_port(host))]
        program.arguments = ["check", *words]
        status = program.start_on_terminal().end()
    assert status == 2, program.output
    assert "came back" in program.output
    assert "Connection refused" in program.output


async def test_refusals_are_shown_by_what_they_are():
    target = Target()
    async with target.serve() as port:
        done = await check(target.host, "--port", port)
    assert f"20 refused - {RELAYING_DENIED.decode()}" in done.stdout
