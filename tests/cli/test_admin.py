"""The administrator's commands: what they do, what they print, what they refuse."""

import asyncio
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from relaytest.cli.app import main
from relaytest.core.nomination import LARGEST
from tests.cli.program import relaytest
from tests.cli.test_app import Done

A, B = "192.0.2.1", "192.0.2.2"
FORM, OTHER = "S-EXT/R-PLAIN", "S-NULL/R-PLAIN"
WHY = ("--why", "owner objects")
SPAM = b"Received: from x by y\r\nSubject: Buy!\r\n\r\nBuy!\r\n"
HOUR = timedelta(hours=1)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process, without a database."""
    monkeypatch.setenv("RELAYTEST_CONFIG", os.devnull)
    monkeypatch.setenv("COLUMNS", "300")

    def command(*words: str | Path, **more: str) -> Done:
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["relaytest", *map(str, words)])
        return Done(main(), *capsys.readouterr())

    return command


@pytest.fixture
def on(dsn, run):
    """Run a command on the test's database."""

    async def command(*words: str | Path, **more: str) -> Done:
        return await asyncio.to_thread(run, *words, RELAYTEST_DATABASE__DSN=dsn, **more)

    return command


@pytest.fixture
def spam(tmp_path) -> Path:
    (tmp_path / "spam.eml").write_bytes(SPAM)
    return tmp_path / "spam.eml"


async def stands(
    connection, address=A, *, state="listed", number=1, port=25, ago=timedelta(0), forms=(FORM,)
) -> None:
    """A target that trial `number` put where it is, `ago`, by these forms."""
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester, started_at)"
        " VALUES ($1, 1, $2::text::inet, $3, 'nominated', 'test', now() - $4::interval)",
        number,
        address,
        port,
        ago + HOUR,
    )
    await connection.execute(
        "INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
        " explanation, forms, decided_at) VALUES ($1, $2::text::inet, $3, 'open', 'relayed',"
        " 'high', 'It relays.', $5, now() - $4::interval)",
        number,
        address,
        port,
        ago,
        list(forms),
    )
    await connection.execute(
        "INSERT INTO relaytest.listing (address, port, state, trial, listed_at, expires_at,"
        " recheck_at) VALUES ($1::text::inet, $2, $3, $4, CASE $3 WHEN 'listed' THEN now() END,"
        " now() + interval '30 d', now() + interval '7 d')",
        address,
        port,
        state,
        number,
    )


async def published(connection) -> list[str]:
    rows = await connection.fetch(
        "SELECT host(address) || ':' || port FROM relaytest.listing_current ORDER BY 1"
    )
    return [row[0] for row in rows]


async def jobs_in(connection) -> list[tuple[str, str, str]]:
    rows = await connection.fetch("SELECT target, reason, note FROM relaytest.retest ORDER BY id")
    return [tuple(row) for row in rows]


async def last_change(connection) -> tuple[str, str, str, str, str]:
    return tuple(
        await connection.fetchrow(
            "SELECT event, old, new, why, actor FROM relaytest.listing_change ORDER BY id DESC"
        )
    )


def words_of(complaint: str) -> str:
    """What typer says in its box, without the box."""
    return " ".join(complaint.replace("│", " ").split())


# --- usage


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["exclude"], "no network given; --list prints what is excluded"),
        (["exclude", "192.0.2.0/24"], "--why TEXT is needed"),
        (["exclude", "192.0.2.0/24", "--why", " "], "--why TEXT is needed"),
        (["exclude", "192.0.2.0/24", "--why", "a\nb"], "--why must be one line"),
        (["exclude", "192.0.2.0/24", "--why", "x" * 2001], "at most 2000 printable characters"),
        (["exclude", "192.0.2.7/24", *WHY], "did you mean 192.0.2.0/24?"),
        (["exclude", "mail.example", *WHY], "'mail.example' does not appear to be an IPv4 or"),
        (["exclude", "10.0.0.0/15", *WHY], "10.0.0.0/15 is wider than /16: add --yes"),
        (["exclude", "2001::/31", *WHY], "2001::/31 is wider than /32: add --yes"),
        (["exclude", "192.0.2.0/24", *WHY, "--until", "soon"], "must be a time such as"),
        (["exclude", "192.0.2.0/24", *WHY, "--until", "2000-01-01"], "must lie in the future"),
        (["exclude", "192.0.2.0/24", "--list"], "--list stands alone"),
        (["include"], "Missing argument"),
        (["include", "192.0.2.0/24"], "--why TEXT is needed"),
        (["delist", A], "--why TEXT is needed"),
        (["delist", "192.0.2.0/24", *WHY], "does not appear to be an IPv4 or IPv6 address"),
        (["delist", A, *WHY, "--port", "0"], "--port"),
        (["purge", *WHY], "Missing option '--since'"),
        (["purge", "--since", "2h"], "--why TEXT is needed"),
        (["purge", "--since", "monday", *WHY], "must be a time such as"),
        (["purge", "--since", "2999-01-01", *WHY], "must lie in the past"),
        (["purge", "--since", "2h", "--form", "S-X", *WHY], "no such form: S-X; see"),
        (["nominate", "mail.example", os.devnull], "does not appear to be an IPv4 or IPv6"),
        (["nominate", A, "/nowhere"], "/nowhere cannot be read: "),
        (["nominate", A, "/"], "/ cannot be read: "),
        (["nominate", A, os.devnull], "it is empty; a whole message with its headers is wanted"),
        (["nominate", A, os.devnull, "--tool", ""], "--tool must have 1 to 200 characters"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_usage_error_exits_64_and_says_what_would_be_right(run, words, told):
    status, said, complaint = run(*words)
    assert (status, said) == (64, "")
    assert told in words_of(complaint)


# --- exclude, include


async def test_an_excluded_network_is_not_tested(on, connection):
    done = await on("exclude", "192.0.2.0/24", *WHY)
    assert done == (0, "192.0.2.0/24 is excluded from testing\n", "")
    row = await connection.fetchrow("SELECT * FROM relaytest.exclusion_current")
    assert (row["why"], row["until"]) == ("owner objects", None)
    assert row["actor"]
    done = await on("enqueue", A)
    assert (done.status, done.said) == (65, "")
    first, second = done.complaint.splitlines()
    assert first == (
        f"relaytest: target {A} is not tested: 192.0.2.0/24 is excluded from testing: owner objects"
    )
    assert "relaytest include NETWORK --why TEXT" in second


async def test_an_exclusion_may_end_by_itself(on):
    done = await on("exclude", A, *WHY, "--until", "2999-01-01 14:00")
    assert done.said == f"{A}/32 is excluded from testing until 2999-01-01 14:00:00 UTC\n"


async def test_a_wide_network_is_excluded_if_that_is_meant(on, connection):
    assert (await on("exclude", "10.0.0.0/8", *WHY, "--yes")).status == 0
    assert await connection.fetchval("SELECT count(*) FROM relaytest.exclusion_current") == 1


async def test_what_is_excluded_is_listed(on):
    await on("exclude", "192.0.2.0/24", *WHY)
    await on("exclude", "2001:db8::/32", "--why", "a [trap]", "--until", "2999-01-01")
    done = await on("exclude", "--list")
    assert (done.status, done.complaint) == (0, "")
    lines = done.said.splitlines()
    assert lines[0].split() == ["network", "since", "until", "by", "why"]
    assert "192.0.2.0/24" in lines[1]
    assert "2999-01-01 00:00:00 UTC" in lines[2]
    assert lines[2].rstrip().endswith("a [trap]")
    rows = json.loads((await on("exclude", "--list", "--json")).said)
    assert [row["network"] for row in rows] == ["192.0.2.0/24", "2001:db8::/32"]


async def test_exclude_and_include_print_json(on):
    done = await on("exclude", A, *WHY, "--json")
    assert json.loads(done.said) == {
        "network": f"{A}/32",
        "why": "owner objects",
        "until": None,
        "replaced": False,
    }
    done = await on("exclude", A, *WHY, "--json")
    assert json.loads(done.said)["replaced"] is True
    done = await on("include", A, "--why", "agreed", "--json")
    assert json.loads(done.said) == {"network": f"{A}/32", "why": "agreed"}


async def test_an_included_network_is_tested_again(on, connection):
    await on("exclude", "192.0.2.0/24", *WHY)
    done = await on("include", "192.0.2.0/24", "--why", "agreed")
    assert done == (0, "192.0.2.0/24 may be tested again\n", "")
    assert (await on("enqueue", A)).status == 0


async def test_what_is_not_excluded_cannot_be_included(on):
    done = await on("include", A, *WHY)
    assert (done.status, done.said) == (65, "")
    assert done.complaint.startswith(f"relaytest: {A}/32 is not excluded\n")
    assert "relaytest exclude --list" in done.complaint
    await on("exclude", "192.0.2.0/24", *WHY)
    done = await on("include", A, *WHY)
    assert (done.status, done.said) == (65, "")
    assert "192.0.2.0/24. Give one of them" in done.complaint


# --- delist


async def test_delist_takes_an_address_off_with_the_reason(on, connection):
    await stands(connection)
    done = await on("delist", A, "--why", "mistake")
    assert done == (0, f"{A} port 25: was listed, is unlisted\n", "")
    assert await published(connection) == []
    event, old, new, why, actor = await last_change(connection)
    assert (event, old, new, why) == ("delisted-by-hand", "listed", "unlisted", "mistake")
    assert actor


async def test_delist_takes_all_ports_or_the_one_that_is_given(on, connection):
    for number, port in enumerate((25, 465, 587), start=1):
        await stands(connection, number=number, port=port)
    assert (await on("delist", A, *WHY, "--port", "465")).status == 0
    assert await published(connection) == [f"{A}:25", f"{A}:587"]
    done = await on("delist", A, *WHY, "--json")
    rows = json.loads(done.said)
    assert [(row["address"], row["port"], row["was"]) for row in rows] == [
        (A, 25, "listed"),
        (A, 587, "listed"),
    ]


async def test_delist_ends_a_suspicion(on, connection):
    await stands(connection, state="suspected")
    assert "was suspected" in (await on("delist", A, *WHY)).said


async def test_what_is_not_listed_cannot_be_delisted(on, connection):
    done = await on("delist", A, *WHY)
    assert (done.status, done.said) == (65, "")
    assert done.complaint.startswith(f"relaytest: {A} is not listed\n")
    await stands(connection)
    done = await on("delist", A, *WHY, "--port", "587")
    assert (done.status, done.said) == (65, "")
    assert done.complaint.splitlines() == [
        f"relaytest: {A} is not listed for port 587",
        "relaytest: It is for port 25.",
    ]
    assert await published(connection) == [f"{A}:25"]


# --- purge


async def test_purge_takes_back_what_was_listed_since_and_tests_it_anew(on, connection):
    await stands(connection, A, number=1, ago=HOUR)
    await stands(connection, B, number=2, ago=3 * HOUR)
    done = await on("purge", "--since", "2h", "--why", "faulty form")
    assert (done.status, done.complaint) == (0, "")
    assert done.said == f"{A} port 25: listed by trial 1; job 1\n1 listings taken off\n"
    assert await published(connection) == [f"{B}:25"]
    assert await jobs_in(connection) == [(A, "operator", "purged: faulty form")]
    event, old, new, why, actor = await last_change(connection)
    assert (event, old, new, why) == ("purged", "listed", "unlisted", "faulty form")
    assert actor


async def test_purge_of_a_form_spares_who_is_proven_otherwise(on, connection):
    await stands(connection, A, number=1, forms=(FORM,))
    await stands(connection, B, number=2, forms=(FORM, OTHER))
    await on("purge", "--since", "2h", "--form", FORM, *WHY)
    assert await published(connection) == [f"{B}:25"]


async def test_a_dry_run_only_tells(on, connection):
    await stands(connection, A, number=1)
    await stands(connection, B, number=2, state="suspected")
    done = await on("purge", "--since", "2h", *WHY, "--dry-run")
    assert done.said == (
        f"{A} port 25: listed by trial 1; would be taken off\n"
        f"{B} port 25: suspected by trial 2; would be taken off\n"
        "2 listings would be taken off\n"
    )
    assert await published(connection) == [f"{A}:25"]
    assert await jobs_in(connection) == []
    told = json.loads((await on("purge", "--since", "2h", *WHY, "--dry-run", "--json")).said)
    assert (told["dry_run"], told["form"], told["why"]) == (True, None, "owner objects")
    assert told["purged"][1] == {"address": B, "port": 25, "was": "suspected", "trial": 2}


async def test_purge_prints_json_and_tells_who_is_not_tested_anew(on, connection):
    await stands(connection)
    await on("exclude", A, *WHY)
    told = json.loads((await on("purge", "--since", "2h", *WHY, "--json")).said)
    (row,) = told["purged"]
    assert (row["address"], row["job"]) == (A, None)
    assert "is excluded from testing" in row["not_tested"]
    assert await published(connection) == []


async def test_purge_goes_through_any_number_and_a_second_one_finds_nothing(
    on, connection, monkeypatch
):
    monkeypatch.setattr("relaytest.cli.admin._AT_ONCE", 4)
    for number in range(1, 11):
        await stands(connection, f"192.0.2.{number}", number=number)
    assert (await on("purge", "--since", "2h", *WHY)).said.endswith("10 listings taken off\n")
    assert len(await jobs_in(connection)) == 10
    assert (await on("purge", "--since", "2h", *WHY)).said == "0 listings taken off\n"


# --- nominate


async def test_a_nomination_is_put_on_file_and_asks_for_a_test(on, connection, spam):
    done = await on("nominate", A, spam, "--tool", "trap 7")
    assert done == (0, f"{A}: sample 1 on file; job 1\n", "")
    row = await connection.fetchrow("SELECT sample, tool, truncated FROM relaytest.nomination")
    assert tuple(row) == (SPAM, "trap 7", False)
    assert await jobs_in(connection) == [(A, "nominated", "sample 1")]


async def test_a_nomination_lists_a_suspected_target_at_once(on, connection, spam):
    await stands(connection, state="suspected")
    done = await on("nominate", A, spam, RELAYTEST_LISTING__REQUIRE_SPAM_EVIDENCE="true")
    assert done == (0, f"{A}: sample 1 on file; listed (port 25)\n", "")
    assert await published(connection) == [f"{A}:25"]
    assert await jobs_in(connection) == []
    assert (await last_change(connection))[:3] == ("nominated", "suspected", "listed")


async def test_a_long_message_is_cut(on, connection, spam):
    spam.write_bytes(SPAM + b"x" * LARGEST)
    told = json.loads((await on("nominate", A, spam, "--json")).said)
    assert told == {
        "address": A,
        "nomination": 1,
        "octets": LARGEST,
        "truncated": True,
        "listed": [],
        "job": 1,
    }
    assert f"the first {LARGEST} octets of it" in (await on("nominate", A, spam)).said


async def test_a_nomination_of_who_may_not_be_tested_is_refused_as_a_whole(on, connection, spam):
    for address in ("10.0.0.1", A):
        await on("exclude", A, *WHY)
        done = await on("nominate", address, spam)
        assert (done.status, done.said) == (65, "")
        assert f"target {address} is " in done.complaint
    assert await connection.fetchval("SELECT count(*) FROM relaytest.nomination") == 0


def test_a_message_comes_on_standard_input(dsn):
    done = relaytest("nominate", A, stdin=SPAM.decode(), RELAYTEST_DATABASE__DSN=dsn)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{A}: sample 1 on file; job 1\n"
    done = relaytest("nominate", A, "-", stdin="Buy!", RELAYTEST_DATABASE__DSN=dsn)
    assert done.returncode == 64
    assert 'not with "Buy!"' in done.stderr


# --- lookup


async def test_lookup_tells_of_suspicion_exclusion_samples_and_who_did_what(on, connection, spam):
    await stands(connection, state="suspected")
    await on("nominate", A, spam, RELAYTEST_LISTING__CONFIRMATIONS="2")
    await on("exclude", "192.0.2.0/24", "--why", "a [trap]")
    said = (await on("lookup", A)).said
    assert f"{A} is not listed." in said
    assert "It is suspected (port 25): found open, but not yet listed. Next automatic" in said
    assert "192.0.2.0/24 is excluded from testing: a [trap] (" in said
    assert "1 samples of spam on file" in said
    await on("delist", A, "--why", "not [ours]")
    said = (await on("lookup", A)).said
    assert "suspected → unlisted" in said
    assert "delisted-by-hand by " in said
    assert ": not [ours]" in said


async def test_lookup_prints_all_of_it_as_json(on, connection, spam):
    await stands(connection, state="suspected")
    await on("nominate", A, spam, RELAYTEST_LISTING__CONFIRMATIONS="2")
    await on("exclude", A, *WHY, "--until", "2999-01-01")
    found = json.loads((await on("lookup", A, "--json")).said)
    assert found["suspicions"][0]["trial"] == 1
    assert found["exclusions"][0]["until"] == "2999-01-01T00:00:00+00:00"
    assert found["nominations"][0]["samples"] == 1
    assert found["history"][0]["event"] == "changed-by-sql"


# --- keys


async def test_a_key_is_rotated_and_told_by_number_only(on, connection):
    said = await on("key", "rotate")
    assert (said.status, said.said) == (0, "key 2 signs what begins in two minutes or later\n")
    rows = json.loads((await on("key", "list", "--json")).said)
    assert [sorted(row) for row in rows] == [["created_at", "id", "replaced_at"]] * 2
    first, second = (await on("key", "list")).said.splitlines()
    assert "key 1 of " in first
    assert ", replaced " in first
    assert ", replaced " not in second


WALKED = b"Received: from x (x [192.0.2.1])\r\n by mx with ESMTP; y\r\n" + SPAM


async def test_without_an_address_who_sent_it_is_nominated(on, connection, tmp_path):
    (file := tmp_path / "walked.eml").write_bytes(WALKED)
    done = await on("nominate", file)
    assert (done.status, done.said.strip()) == (0, "192.0.2.1: sample 1 on file; job 1")
    assert await jobs_in(connection) == [("192.0.2.1", "nominated", "sample 1")]


async def test_who_cannot_be_told_is_asked_for(on, connection, tmp_path):
    (file := tmp_path / "inside.eml").write_bytes(WALKED.replace(b"192.0.2.1", b"10.0.0.1"))
    done = await on("nominate", file)
    assert done.status == 65
    assert (
        "names no address of whoever sent it: from x by y; name the address: relaytest nominate"
        in done.complaint
    )
