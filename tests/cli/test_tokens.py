"""Tokens of the HTTP API, by hand."""

import json

from tests.cli.program import relaytest


def on(dsn: str, *words: str):
    return relaytest("token", *words, RELAYTEST_DATABASE__DSN=dsn)


async def test_a_token_is_shown_once_and_ended(dsn, connection):
    done = on(dsn, "add", "trap 7", "--may", "request", "--may", "nominate")
    assert done.returncode == 0
    token = done.stdout.strip()
    assert len(token) >= 43
    found = await connection.fetchval(
        "SELECT name FROM relaytest.api_token WHERE hash = sha256($1)", token.encode()
    )
    assert found == "trap 7"
    listed = on(dsn, "list", "--json")
    assert token not in listed.stdout
    (row,) = json.loads(listed.stdout)
    assert (row["name"], row["may"], row["ended_at"]) == ("trap 7", ["nominate", "request"], None)
    assert on(dsn, "add", "trap 7", "--may", "request").returncode == 65
    assert on(dsn, "end", "trap 7").returncode == 0
    done = on(dsn, "end", "trap 7")
    assert done.returncode == 65
    assert "no token 'trap 7'" in done.stderr
    assert "trap 7" in on(dsn, "list").stdout


def test_a_wrong_right_is_named(dsn):
    done = on(dsn, "add", "x", "--may", "list")
    assert done.returncode == 64
    assert "request or nominate" in done.stderr
