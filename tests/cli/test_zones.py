"""`publish --force` and `shutdown-zone`: orders with a reason, and nothing else."""

import json

import pytest

from tests.cli.program import relaytest

WORDS = {
    "force": ("publish", "--force"),
    "shut": ("shutdown-zone",),
    "reopen": ("shutdown-zone", "--undo"),
}


@pytest.mark.parametrize(("kind", "words"), WORDS.items(), ids=WORDS)
async def test_an_order_is_on_file_with_its_reason_and_its_author(dsn, connection, kind, words):
    said = relaytest(*words, "--why", "a good reason", "--json", RELAYTEST_DATABASE__DSN=dsn)
    assert (said.returncode, said.stderr) == (0, "")
    assert json.loads(said.stdout) == {
        "order": kind,
        "zones": ["relays.example"],
        "why": "a good reason",
    }
    (row,) = await connection.fetch("SELECT * FROM relaytest.publication_order")
    assert (row["kind"], row["zone"], row["why"]) == (kind, "relays.example", "a good reason")
    assert row["actor"]
    assert row["done_at"] is None


@pytest.mark.parametrize(
    "words", [("publish", "--why", "x"), ("publish", "--force"), ("shutdown-zone",)]
)
async def test_without_a_reason_nothing_is_ordered(dsn, connection, words):
    said = relaytest(*words, RELAYTEST_DATABASE__DSN=dsn)
    assert said.returncode == 64
    assert "--why" in said.stderr or "--force" in said.stderr
    assert await connection.fetchval("SELECT count(*) FROM relaytest.publication_order") == 0
