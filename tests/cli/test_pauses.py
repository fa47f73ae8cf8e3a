"""Pause and resume on the command line, and what status says of it."""

import json

from tests.cli.program import relaytest


def on(dsn: str, *words: str):
    return relaytest(*words, RELAYTEST_DATABASE__DSN=dsn)


def test_a_pause_is_shown_until_it_ends(dsn):
    assert on(dsn, "pause", "--why", "a complaint").stdout == "every place: paused\n"
    assert "no visits at all" in on(dsn, "status").stdout
    (row,) = json.loads(on(dsn, "status", "--json").stdout)["pauses"]
    assert (row["vantage"], row["why"]) == ("", "a complaint")
    again = on(dsn, "pause", "--why", "x")
    assert (again.returncode, "every place is paused already" in again.stderr) == (65, True)
    assert on(dsn, "pause", "--why", "x", "--vantage", "east").returncode == 0
    assert on(dsn, "resume").stdout == "every place: resumed\n"
    assert "no visits from east" in on(dsn, "status").stdout
    assert json.loads(on(dsn, "resume", "--vantage", "east", "--json").stdout) == {
        "resumed": "east"
    }
    assert on(dsn, "resume").returncode == 65


def test_a_pause_needs_a_reason_and_a_place_a_name(dsn):
    assert on(dsn, "pause").returncode == 64
    done = on(dsn, "pause", "--why", "x", "--vantage", "East Coast")
    assert (done.returncode, "is no name of a place" in done.stderr) == (64, True)


def test_a_network_is_paused_and_resumed(dsn):
    assert on(dsn, "pause", "--why", "x", "--network", "192.0.2.0/24").returncode == 0
    assert "no visits to 192.0.2.0/24" in on(dsn, "status").stdout
    (row,) = json.loads(on(dsn, "status", "--json").stdout)["pauses"]
    assert row["network"] == "192.0.2.0/24"
    done = on(dsn, "resume", "--network", "192.0.2.0/24")
    assert done.stdout == "192.0.2.0/24: resumed\n"


def test_a_network_is_paused_from_all_places(dsn):
    done = on(dsn, "pause", "--why", "x", "--network", "192.0.2.0/24", "--vantage", "east")
    assert (done.returncode, "paused everywhere" in done.stderr) == (64, True)
    done = on(dsn, "pause", "--why", "x", "--network", "192.0.2.1/24")
    assert (done.returncode, "did you mean 192.0.2.0/24" in done.stderr) == (64, True)
