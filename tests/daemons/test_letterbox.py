"""Our mailbox for tokens: what it takes, and what its message to itself proves."""

from typing import Any

import pytest

from relaytest.core.config import split_endpoint
from relaytest.core.token import Mailbox, Token, issue
from relaytest.daemons.letterbox import Letterbox
from relaytest.net.smtp_listener import listen
from tests.lab import SINK_DOMAIN, Acceptor, lab_config
from tests.mta.process import fresh_port

KEY = b"k" * 32
TOKEN = Token(Mailbox.FORWARD, 257, 7)
OURS = issue(KEY, TOKEN).encode()


@pytest.fixture
def config(tmp_path):
    return lab_config(tmp_path)


@pytest.mark.parametrize(
    ("local_part", "domain", "ticket"),
    [
        (OURS, SINK_DOMAIN.encode(), TOKEN),
        (OURS.upper(), SINK_DOMAIN.upper().encode(), TOKEN),
        (OURS, b"elsewhere.example", None),
        (OURS, b"", None),
        (b"postmaster", SINK_DOMAIN.encode(), None),
        (issue(b"x" * 32, TOKEN).encode(), SINK_DOMAIN.encode(), None),
        (b"\xff" * 26, SINK_DOMAIN.encode(), None),
    ],
    ids=["ours", "shouted", "elsewhere", "no-domain", "no-token", "forged", "octets"],
)
def test_only_our_tokens_at_our_domains_are_taken(config, local_part, domain, ticket):
    assert Letterbox(config, [KEY]).accept(local_part, domain) == ticket


async def test_a_message_to_ourselves_arrives_with_its_number(config):
    letterbox, came = Letterbox(config, [KEY]), []

    async def store(_peer, _port, delivery) -> bool:
        came.append(delivery.recipients[0].ticket)
        return True

    places = [split_endpoint(config.sink.listen[0])]
    async with listen(places, letterbox.session, store):
        assert await letterbox.send_check(12) == ""
    assert [(one.mailbox, one.trial) for one in came] == [(Mailbox.SELF, 12)]


async def test_nobody_there_is_told(config):
    assert "Connection refused" in await Letterbox(config, [KEY]).send_check(1)


async def test_a_message_that_is_not_stored_is_told(config):
    letterbox = Letterbox(config, [KEY])

    async def store(*_: Any) -> bool:
        return False

    async with listen([split_endpoint(config.sink.listen[0])], letterbox.session, store):
        assert (await letterbox.send_check(1)).startswith("451 4.3.0")


async def test_somebody_elses_refusal_is_told(tmp_path):
    config = lab_config(tmp_path)
    host, _ = split_endpoint(config.sink.listen[0])
    port = fresh_port(host)
    sink = config.sink.model_copy(update={"check_peer": f"{host}:{port}"})
    stranger = Acceptor(store=False)
    async with stranger.serve(host, port):
        why = await Letterbox(config.model_copy(update={"sink": sink}), [KEY]).send_check(1)
    assert why.startswith("451")
