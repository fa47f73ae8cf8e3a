"""The commands: what they print, and the exit status, which is what scripts look at."""

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from relaytest import __version__
from relaytest.cli.app import main
from relaytest.core.config import split_endpoint
from relaytest.daemons import shipped
from relaytest.store import migrations
from tests.cli.program import LONGEST, Up, environment, is_open, relaytest
from tests.daemons.peers import Road
from tests.daemons.test_web import found_open, put_on, talked
from tests.mta.process import fresh_address, fresh_port

DAEMONS = ("worker", "sink", "scheduler", "publisher", "web", "notifier", "all")
COMMANDS = (
    *[
        [name]
        for name in (*DAEMONS, "up", "check", "enqueue", "lookup", "status", "battery", "version")
    ],
    *[[name] for name in ("exclude", "include", "delist", "purge", "nominate")],
    ["db", "upgrade"],
    ["db", "status"],
    ["config", "check"],
    ["config", "show"],
)
OPERATOR = "8.8.8.8"  # global unicast; nothing is ever sent there


class Done(NamedTuple):
    """How a command ended, and what it wrote on stdout and stderr."""

    status: int
    said: str
    complaint: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process, which saves its start."""
    monkeypatch.setenv("RELAYTEST_CONFIG", os.devnull)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*words: str | Path, stdin: str = "", **more: str) -> Done:
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["relaytest", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return Done(main(), *capsys.readouterr())

    return command


@pytest.fixture
def on(dsn, run):
    """Run a command on the test's database; a daemon in a process of its own, for the signals."""

    async def command(*words: str | Path, **more: str) -> Done:
        more["RELAYTEST_DATABASE__DSN"] = dsn
        if words[0] not in DAEMONS:
            return await asyncio.to_thread(run, *words, **more)
        done = relaytest(*words, **more)
        return Done(done.returncode, done.stdout, done.stderr)

    return command


@pytest.fixture
async def old(connection):
    """The test's database without its schema."""
    await connection.execute("DROP SCHEMA relaytest CASCADE")


# --- Help and usage


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help(run, words):
    status, said, complaint = run(*words, "--help")
    assert (status, complaint) == (0, "")
    assert f" {' '.join(words)} [OPTIONS]" in said


def test_the_list_of_commands_is_whole(run):
    _, said, _ = run("--help")
    for words in COMMANDS:
        assert f" {words[0]} " in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["db", "nonsense"], "No such command 'nonsense'"),
        (["lookup"], "Missing argument"),
        (["lookup", "one", "two"], "unexpected extra argument"),
        (["lookup", "192.0.2.1000"], "does not appear to be an IPv4 or IPv6 address"),
        (["lookup", "192.0.2.0/24"], "does not appear to be an IPv4 or IPv6 address"),
        (["lookup", "fe80::1%eth0"], "has a zone"),
        (["battery", "--tier", "0"], "--tier"),
        (["battery", "--tier", "all"], "--tier"),
        (["enqueue"], "no target given"),
        (["enqueue", "--from", os.devnull], "no target given"),
        (["enqueue", "--from", "/nowhere"], "--from /nowhere cannot be read: "),
        (["enqueue", "--port", "65536", OPERATOR], "--port"),
        (["up", "--once"], "--once is for --demo"),
    ],
    ids=" ".join,
)
def test_a_usage_error_exits_64_and_says_why(run, words, told):
    status, said, complaint = run(*words)
    assert (status, said) == (64, "")
    assert told in complaint


@pytest.mark.parametrize("words", [[], ["db"], ["config"]], ids=str)
def test_no_command_at_all_shows_the_help_and_is_a_usage_error(run, words):
    status, said, complaint = run(*words)
    assert status == 64
    assert "Usage: " in said + complaint


def test_a_file_of_targets_that_is_no_text_is_a_usage_error(run, tmp_path):
    (tmp_path / "targets").write_bytes(b"\xff\xfe8")
    status, _, complaint = run("enqueue", "--from", str(tmp_path / "targets"))
    assert status == 64
    assert "cannot be read: 'utf-8' codec" in complaint


def test_version_is_printed(run):
    assert run("version") == (0, f"{__version__}\n", "")


def test_a_reader_that_has_enough_is_no_trouble():
    """`relaytest battery | head`."""
    command = '"$0" -W error -m relaytest battery --json | head -c 1'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"[", b"")


@pytest.mark.parametrize("words", [["status"], ["up"], ["worker"], ["db", "upgrade"]], ids=" ".join)
def test_a_wrong_configuration_exits_78_before_anything_else(run, words):
    status, said, complaint = run(*words, "--config", "/nowhere.toml")
    assert (status, said) == (78, "")
    assert complaint.startswith("relaytest: /nowhere.toml: cannot be read: ")


# --- battery, config show


def test_the_battery_is_valid_json_with_stable_ids(run):
    status, said, _ = run("battery", "--json")
    forms = json.loads(said)
    assert (status, len(forms), len({form["id"] for form in forms})) == (0, 132, 132)
    keys = "id number tier reverse_path forward_path helo channel needs odd catches sent_by example"
    assert {" ".join(form) for form in forms} == {keys}
    assert [form["id"] for form in forms] == [form.id for form in shipped.battery().forms]


def test_a_form_as_json_has_its_template_and_an_example(run):
    _, said, _ = run("battery", "--json")
    form = next(one for one in json.loads(said) if one["id"] == "S-DOM.HOST/R-PLAIN")
    assert form["reverse_path"] == "<${sender}@${domain}>"
    assert (form["helo"], form["channel"], form["needs"]) == ("host", "any", [])
    assert form["example"] == {
        "mail_from": "<sender@shop.example>",
        "rcpt_to": "<user@sink.example>",
        "helo": "mx.shop.example",
    }


def test_the_first_tier_has_nine_forms(run):
    _, said, _ = run("battery", "--json", "--tier", "1")
    forms = json.loads(said)
    assert [form["tier"] for form in forms] == [1] * 9


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_battery_on_a_terminal_has_a_line_for_each_form(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    status, said, _ = run("battery")
    assert status == 0
    assert all(f"{form.id} " in said for form in shipped.battery().up_to(255))
    assert max(map(len, said.splitlines())) <= int(columns)


@pytest.mark.parametrize("columns", ["80", "160"])
def test_envelopes_on_a_terminal_are_not_broken(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    _, said, _ = run("battery", "--tier", "2")
    for path in ('<"user@sink.example"@mx.shop.example>', "<user@sink.example@[192.0.2.1]>"):
        assert path in said


def test_brackets_on_a_terminal_are_no_markup(run):
    _, said, _ = run("battery")
    assert "<user%[sink.example]@>" in said


@pytest.mark.parametrize("name", ["nmap", "NMAP"])
def test_the_forms_of_a_peer_stand_in_its_order(run, name):
    status, said, _ = run("battery", "--json", "--peer", name)
    assert status == 0
    assert [form["id"] for form in json.loads(said)] == list(shipped.battery().peer("nmap").forms)


def test_a_peer_and_a_tier_are_the_forms_that_both_have(run):
    _, said, _ = run("battery", "--json", "--peer", "nmap", "--tier", "1")
    assert [form["id"] for form in json.loads(said)] == [
        "S-NULL/R-PLAIN",
        "S-EXT/R-PLAIN",
        "S-IP/R-PLAIN",
    ]


def test_an_unknown_peer_is_told_with_those_that_are_known(run):
    status, said, complaint = run("battery", "--peer", "swaks")
    assert (status, said) == (64, "")
    told = " ".join(complaint.replace("│", " ").split())
    assert f"known: {', '.join(peer.name for peer in shipped.battery().peers)}" in told


def test_what_is_left_out_is_told_with_the_reason(run):
    _, said, _ = run("battery", "--left-out", "--json")
    assert json.loads(said) == [{"id": w.id, "why": w.why} for w in shipped.battery().left_out]
    _, said, _ = run("battery", "--left-out")
    assert "S-LOOPIP" in said


def test_forms_of_ones_own_are_part_of_the_battery(run, monkeypatch):
    form = {"id": "X-MINE", "mail_from": "<>", "rcpt_to": "<${user}%${sink}@[${ip}]>"}
    monkeypatch.setenv("RELAYTEST_BATTERY__EXTRA", json.dumps([form]))
    _, said, _ = run("battery", "--json", "--tier", "2")
    mine = json.loads(said)[-1]
    assert (mine["id"], mine["number"]) == ("X-MINE", 0xE1E1)
    _, said, _ = run("config", "show")
    assert "X-MINE" in said


def test_config_show_prints_every_option(run):
    status, said, _ = run("config", "show")
    assert status == 0
    assert "sink.listen " in said
    assert "127.0.0.1:2525" in said


def test_config_show_json_has_the_sections(run):
    status, said, _ = run("config", "show", "--json")
    assert status == 0
    assert json.loads(said)["sink"]["listen"] == ["127.0.0.1:2525"]


# --- enqueue


async def jobs_in(connection) -> list[tuple[str, int, str]]:
    rows = await connection.fetch("SELECT target, port, reason FROM relaytest.retest ORDER BY id")
    return [tuple(row) for row in rows]


async def test_enqueue_asks_for_each_target_and_prints_the_jobs(on, connection):
    done = await on("enqueue", OPERATOR, "2001:4860:4860::8888", "--port", "587")
    assert (done.status, done.complaint) == (0, "")
    assert done.said == f"{OPERATOR}: job 1\n2001:4860:4860::8888: job 2\n"
    expected = [(OPERATOR, 587, "operator"), ("2001:4860:4860::8888", 587, "operator")]
    assert await jobs_in(connection) == expected


async def test_enqueue_takes_a_reason(on, connection):
    assert (await on("enqueue", OPERATOR, "--reason", "spamtrap")).status == 0
    assert await jobs_in(connection) == [(OPERATOR, 25, "spamtrap")]


async def test_the_command_line_and_sql_ask_for_a_removal_as_the_form_does(on, connection):
    assert (await on("enqueue", OPERATOR, "--reason", "removal-request")).status == 0
    await connection.execute(
        "INSERT INTO relaytest.retest (target, reason) VALUES ('1.1.1.1', 'removal-request')"
    )
    rows = await connection.fetch("SELECT host(address), reason::text, priority FROM relaytest.job")
    assert sorted(map(tuple, rows)) == [
        ("1.1.1.1", "removal-request", 0),
        (OPERATOR, "removal-request", 0),
    ]


async def test_enqueue_prints_json_and_a_repeat_joins_the_job(on):
    done = await on("enqueue", OPERATOR, OPERATOR, "--json")
    assert json.loads(done.said) == [{"target": OPERATOR, "job": 1}] * 2


async def test_enqueue_reads_a_file_whose_blanks_do_not_count(on, connection, tmp_path):
    (tmp_path / "targets").write_text(f"\n  {OPERATOR}\r\n\n1.1.1.1")
    assert (await on("enqueue", "--from", tmp_path / "targets")).status == 0
    assert await jobs_in(connection) == [(OPERATOR, 25, "operator"), ("1.1.1.1", 25, "operator")]


async def test_enqueue_reads_standard_input_besides_its_arguments(on, connection):
    assert (await on("enqueue", OPERATOR, "--from", "-", stdin="1.1.1.1\n")).status == 0
    assert await jobs_in(connection) == [(OPERATOR, 25, "operator"), ("1.1.1.1", 25, "operator")]


@pytest.mark.parametrize(
    ("words", "sentence", "hint"),
    [
        (["nonsense"], 'target "nonsense" is not an IP address', "Give an IPv4 or IPv6"),
        (["8.8.8.0/24"], 'target "8.8.8.0/24" is a network', "Insert one row for each address"),
        (["10.0.0.1"], "target 10.0.0.1 is out of scope: ", "name the network in scope.allow"),
        (["1.1.1.1", "--reason", "spite"], 'unknown reason "spite"', "One of: removal-request, "),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
async def test_a_bad_target_exits_65_with_the_databases_words_and_nothing_is_asked(
    on, connection, words, sentence, hint
):
    done = await on("enqueue", OPERATOR, *words)
    assert (done.status, done.said) == (65, "")
    first, second = done.complaint.splitlines()
    assert first.startswith(f"relaytest: {sentence}")
    assert hint in second
    assert await jobs_in(connection) == []


# --- lookup


@pytest.fixture
async def listed(connection):
    """An address on the list, with the trial that put it there."""
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES (1, 1, '192.0.2.7', 25, 'nominated', 'test');"
        "INSERT INTO relaytest.verdict"
        " (trial, address, port, verdict, reason, confidence, explanation, forms)"
        " VALUES (1, '192.0.2.7', 25, 'open', 'relayed', 'high', 'It [relays].', '{S-EXT/R-Q}');"
        "INSERT INTO relaytest.listing"
        " (address, port, state, trial, listed_at, expires_at, recheck_at)"
        " VALUES ('192.0.2.7', 25, 'listed', 1, now(), now() + interval '1 day', now());"
        "INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why)"
        " VALUES ('192.0.2.7', 25, 'tested-open', 'unlisted', 'listed', 1, 'It [relays].')"
    )
    return "192.0.2.7"


async def test_lookup_tells_that_an_address_is_listed_and_why(on, listed):
    done = await on("lookup", listed)
    assert (done.status, done.complaint) == (0, "")
    assert f"{listed} is listed (127.0.0.2, port 25) since " in done.said
    assert "open (relayed, confidence high)\nIt [relays].\n" in done.said
    assert "unlisted → listed" in done.said


async def test_lookup_tells_that_an_address_is_not_listed(on):
    done = await on("lookup", "192.0.2.8")
    assert (done.status, done.said) == (0, "192.0.2.8 is not listed.\n")


async def test_lookup_shows_the_open_test(on, connection):
    await connection.execute(
        "INSERT INTO relaytest.retest (target, reason) VALUES ('192.0.2.8', 'complaint')"
    )
    assert "A test of port 25 waits, not before " in (await on("lookup", "192.0.2.8")).said


async def test_lookup_takes_a_v4_mapped_address_for_the_address_it_means(on, listed):
    assert "is listed" in (await on("lookup", f"::ffff:{listed}")).said


async def test_lookup_prints_json(on, listed):
    found = json.loads((await on("lookup", listed, "--json")).said)
    assert sorted(found) == [
        "dns",
        "exclusions",
        "history",
        "jobs",
        "listings",
        "nominations",
        "suspicions",
        "vantages",
        "verdicts",
    ]
    assert found["verdicts"][0]["explanation"] == "It [relays]."
    assert found["listings"][0]["code"] == 2


# --- The schema


ALL = [migration.name for migration in migrations.shipped()]


async def test_db_status_of_an_empty_database_exits_1_and_names_what_is_pending(on, old):
    done = await on("db", "status")
    assert (done.status, done.complaint) == (1, "")
    assert done.said == f"schema 0; pending: {', '.join(ALL)}\n"
    done = await on("db", "status", "--json")
    assert (done.status, json.loads(done.said)) == (1, {"version": 0, "pending": ALL})


async def test_db_status_of_a_database_that_is_up_to_date_exits_0(on):
    done = await on("db", "status")
    assert (done.status, done.said) == (0, f"schema {len(ALL)}; up to date\n")


async def test_db_upgrade_applies_what_is_pending_once(on, old):
    done = await on("db", "upgrade")
    assert done.status == 0, done.complaint
    assert done.said.splitlines() == [
        *(f"applied {name}" for name in ALL),
        f"schema {len(ALL)}: up to date",
    ]
    done = await on("db", "upgrade", "--json")
    assert json.loads(done.said) == {"version": len(ALL), "applied": []}


async def test_db_upgrade_writes_the_scope_of_the_configuration(on, old):
    assert (await on("db", "upgrade", RELAYTEST_SCOPE__ALLOW='["10.0.0.0/8"]')).status == 0
    assert (await on("enqueue", "10.0.0.1")).status == 0


@pytest.mark.parametrize(
    "words", [["db", "status"], ["db", "upgrade"], ["status"], ["worker"]], ids=" ".join
)
async def test_a_newer_database_exits_78_with_advice(on, connection, words):
    await connection.execute(
        "INSERT INTO relaytest.schema_version (version, name, sha256) VALUES (999, '0999_x', '')"
    )
    done = await on(*words)
    assert (done.status, done.said) == (78, "")
    assert "the database has schema 999" in done.complaint
    assert "install the newer relaytest" in done.complaint


@pytest.mark.parametrize(
    "words",
    [*[[name] for name in DAEMONS], ["status"], ["lookup", OPERATOR], ["enqueue", OPERATOR]],
    ids=lambda words: words[0],
)
async def test_nothing_runs_on_an_old_schema_but_all_say_what_to_do(on, old, words):
    done = await on(*words)
    assert (done.status, done.said) == (78, "")
    assert "the database is at schema 0; run `relaytest db upgrade` to apply 0001" in done.complaint


# --- No database


@pytest.mark.parametrize(
    "words",
    [["status"], ["lookup", OPERATOR], ["enqueue", OPERATOR], ["db", "status"], ["db", "upgrade"]],
    ids=" ".join,
)
def test_no_database_at_all_exits_75_with_advice(run, tmp_path, words):
    done = run(*words, "--data", tmp_path)
    assert (done.status, done.said) == (75, "")
    assert "no database: start `relaytest up`, or set database.dsn" in done.complaint


def test_a_daemon_without_a_database_exits_75_with_advice(tmp_path):
    done = relaytest("scheduler", "--data", tmp_path)
    assert (done.returncode, done.stdout) == (75, "")
    assert "no database: start `relaytest up`, or set database.dsn" in done.stderr


def test_a_database_that_does_not_answer_exits_75_with_advice(run):
    host = fresh_address()
    dsn = f"postgresql://postgres@{host}:{fresh_port(host)}/x"
    done = run("status", RELAYTEST_DATABASE__DSN=dsn)
    assert (done.status, done.said) == (75, "")
    assert "no database: see database.dsn" in done.complaint


# --- Daemons


SEEN = {
    "sink": lambda program: is_open(program.sink),
    "web": Up.answers,
    "publisher": lambda program: (program.data / "zone" / "relays.example.ip4").exists(),
    "all": lambda program: Up.answers(program) and is_open(program.sink),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_daemon_runs_until_a_signal(dsn, tmp_path, name):
    with Up(tmp_path, command=name, RELAYTEST_DATABASE__DSN=dsn) as program:
        program.start().until(lambda: SEEN[name](program), "its work").signal(signal.SIGTERM)
        assert program.end() == 0, program.told("did not end well")
        assert program.left() == []


async def test_a_daemon_that_begins_before_its_database_waits_for_it(dsn, tmp_path):
    road = Road(dsn, tmp_path)
    with Up(tmp_path, command="sink", RELAYTEST_DATABASE__DSN=road.dsn) as program:
        program.start().until(lambda: "database is away" in program.output, "a word about it")
        assert not is_open(program.sink)
        await road.mend()
        try:
            await asyncio.to_thread(program.until, lambda: is_open(program.sink), "its work")
            program.signal(signal.SIGTERM)
            assert await asyncio.to_thread(program.end) == 0
        finally:
            await road.cut()


@pytest.mark.parametrize("name", ["sink", "web", "all"])
def test_a_daemon_whose_place_is_taken_exits_78_and_names_it(dsn, tmp_path, name):
    with Up(tmp_path, command=name, RELAYTEST_DATABASE__DSN=dsn) as program:
        key, place = ("web", program.web) if name == "web" else ("sink", program.sink)
        with socket.create_server(split_endpoint(place)):
            assert program.start().end() == 78
        assert f"relaytest: {key}.listen: cannot listen on {place}: " in program.output


async def test_enqueue_asks_from_one_place(on, connection):
    assert (await on("enqueue", OPERATOR, "--vantage", "ams-1")).status == 0
    assert await connection.fetchval("SELECT vantage FROM relaytest.retest") == "ams-1"


async def test_lookup_tells_whom_to_let_in_and_what_each_place_found(on, connection, listed):
    await connection.execute(
        "INSERT INTO relaytest.vantage VALUES ('ams-1', now(), '{192.0.2.250}')"
    )
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester, vantage)"
        " VALUES (nextval('relaytest.trial_id') + 1000, 9, $1::text::inet, 25, 'operator', 'x',"
        " 'ams-1')",
        listed,
    )
    await connection.execute(
        "INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
        " explanation, forms) SELECT id, address, port, 'unknown', 'blocked', 'low', 'x', '{}'"
        " FROM relaytest.trial WHERE vantage = 'ams-1'"
    )
    said = (await on("lookup", listed)).said
    assert "To be tested from ams-1, let in 192.0.2.250 on port 25." in said
    assert "tested from" in said


async def test_enqueue_takes_a_host_name(on, connection):
    done = await on("enqueue", "Mail.Example.")
    assert done.said == "Mail.Example.: its addresses are looked up\n"
    row = await connection.fetchrow("SELECT name, port, reason::text FROM relaytest.name_request")
    assert tuple(row) == ("mail.example", 25, "operator")


# --- evidence


async def test_evidence_is_written_as_files(on, connection, tmp_path):
    await put_on(connection)
    await found_open(connection, "S-EXT/R-PLAIN")
    await talked(connection, b"EHLO x\r\n", b"250 mx\r\n")
    done = await on("evidence", "192.0.2.1", "--out", tmp_path / "x")
    assert (done.status, done.said) == (0, f"evidence 1: 3 files in {tmp_path / 'x'}\n")
    assert "S: 250 mx" in (tmp_path / "x" / "session-1.txt").read_text()
    done = await on("evidence", "192.0.2.2", "--out", tmp_path / "y")
    assert done.status == 65
    assert "was not tested" in done.complaint
    assert not (tmp_path / "y").exists()
