"""Status: what there is on all hosts, once or as a page that stays."""

import json

from relaytest.store import publications
from tests.cli.program import Up, relaytest, temporary_home
from tests.daemons.test_web import put_on

FILL = """
    INSERT INTO relaytest.retest (target, reason) VALUES ('192.0.2.8', 'complaint');
    INSERT INTO relaytest.worker (host, pid, vantage, version, slots, beat_at)
    VALUES ('one', 11, 'east', '1.0', 500, now()),
           ('two', 12, 'west', '1.1', 300, now() - interval '3 h');
    UPDATE relaytest.job SET leased = true, worker = 1, lease_until = now();
    INSERT INTO relaytest.daemon (name, host, pid, version) VALUES
        ('sink', 'three', 13, '1.1'), ('web', 'four', 14, '1.1');
"""


def status(dsn: str, *words: str):
    return relaytest("status", *words, RELAYTEST_DATABASE__DSN=dsn)


def line(text: str, word: str) -> str:
    (found,) = [one for one in text.splitlines() if word in one]
    return " ".join(found.split())


async def test_status_counts(dsn, connection):
    await put_on(connection)
    done = status(dsn)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 addresses listed, 0 open jobs, 0 trials waiting" in done.stdout
    assert "last reached the sink: not yet" in done.stdout


async def test_status_shows_the_daemons_of_all_hosts(dsn, connection):
    await connection.execute(FILL)
    said = status(dsn).stdout
    assert line(said, "one:11").startswith("one:11 east 1.0 1 500 ")
    assert line(said, "two:12") == "two:12 west 1.1 0 300 3 h ago: silent"
    assert line(said, "three:13").startswith("sink three:13 1.1 20")
    assert line(said, "four:14").startswith("web four:14 1.1 20")


async def test_status_shows_the_last_publication_of_each_host(dsn, connection):
    await publications.note(connection, "relays.example", "one", "done", 7)
    await publications.note(connection, "relays.example", "two", "done", 9)
    await publications.note(connection, "relays.example", "two", "refused", None)
    rows = [line(status(dsn).stdout, f" {host} ").split() for host in ("one", "two")]
    assert [(row[-2], row[-1]) for row in rows] == [("done", "7"), ("refused", "9")]


async def test_status_prints_json(dsn, connection):
    await connection.execute(FILL)
    found = json.loads(status(dsn, "--json").stdout)
    assert (found["counts"]["jobs"], found["verdicts_per_minute"]) == (1, 0)
    assert [(row["priority"], row["leased"]) for row in found["queue"]] == [(1, 1)]
    assert [(row["host"], row["in_flight"]) for row in found["workers"]] == [("one", 1), ("two", 0)]
    assert [row["name"] for row in found["daemons"]] == ["sink", "web"]


async def test_the_page_stays_and_follows_what_happens(dsn, connection):
    with temporary_home() as home:
        arguments = ("--watch", "--every", "0.5")
        with Up(home, *arguments, command="status", settings=f'database.dsn = "{dsn}"') as page:
            page.start_on_terminal().until(lambda: "0 open jobs" in page.output, "the page")
            await connection.execute(FILL)
            page.until(lambda: "1 open jobs" in page.output, "what is new")
            page.press(b"\x03")
            assert page.end() == 0


def test_the_page_is_for_a_terminal(dsn):
    assert status(dsn, "--watch").returncode == 64
