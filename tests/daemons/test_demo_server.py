"""The mail servers of the demo: what they take, what they pass on, and whom they tell."""

import contextlib
import errno
from collections.abc import AsyncIterator

import aiosmtplib
import pytest

from relaytest.core.reception import Delivery, Limits, Session
from relaytest.daemons.demo_server import DemoServer
from relaytest.net.smtp_listener import listen
from tests.mta.process import fresh_address, fresh_port

MESSAGE = b"Subject: a\r\n\r\n.dots stay\r\n"
STRANGER = ["strange@elsewhere.example"]


class Smarthost:
    """Takes all mail, or none."""

    def __init__(self) -> None:
        self.host = fresh_address()
        self.port = fresh_port(self.host)
        self.works = True
        self.got: list[tuple[str, Delivery[bool]]] = []

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        def session(_peer) -> Session[bool]:
            return Session(b"smarthost.example", Limits(), lambda _local, _domain: True)

        async def store(peer, _port, delivery: Delivery[bool]) -> bool:
            self.got.append((str(peer), delivery))
            return self.works

        async with listen([(self.host, self.port)], session, store):
            yield


@pytest.fixture
async def smarthost():
    here = Smarthost()
    async with here.serve():
        yield here


class Client:
    """Sends mail through one demo server."""

    def __init__(self, smarthost: Smarthost, *, open_relay: bool) -> None:
        self.host = fresh_address()
        self.port = fresh_port(self.host)
        self.server = DemoServer(
            "mail.here.example", (smarthost.host, smarthost.port), open_relay=open_relay
        )

    async def send(self, recipients: list[str]) -> int:
        """Send one message; return the code of the last reply."""
        client = aiosmtplib.SMTP(
            hostname=self.host, port=self.port, start_tls=False, local_hostname="client.example"
        )
        async with self.server.serve(self.host, self.port), client:
            await client.ehlo()
            await client.mail("a@strange.example")
            try:
                for one in recipients:
                    await client.rcpt(one)
                return (await client.data(MESSAGE)).code
            except aiosmtplib.SMTPResponseException as error:
                return error.code


async def test_an_open_one_passes_mail_between_strangers_on(smarthost):
    client = Client(smarthost, open_relay=True)
    assert await client.send(STRANGER) == 250
    ((peer, delivery),) = smarthost.got
    assert peer == client.host  # mail leaves by the address that is tested
    assert delivery.reverse_path == b"<a@strange.example>"
    assert [one.forward_path for one in delivery.recipients] == [b"<strange@elsewhere.example>"]
    assert delivery.message.endswith(b".dots stay\r\n")


async def test_a_closed_one_refuses(smarthost):
    assert await Client(smarthost, open_relay=False).send(STRANGER) == 550
    assert smarthost.got == []


async def test_one_that_was_fixed_refuses(smarthost):
    client = Client(smarthost, open_relay=True)
    client.server.open = False
    assert await client.send(STRANGER) == 550
    assert smarthost.got == []


@pytest.mark.parametrize("open_relay", [True, False])
async def test_its_own_postmaster_gets_mail_that_goes_nowhere_else(smarthost, open_relay):
    client = Client(smarthost, open_relay=open_relay)
    assert await client.send(["postmaster@mail.here.example"]) == 250
    assert smarthost.got == []


@pytest.mark.parametrize(
    "way", ["a%b.example@c.example", '"a@b.example"@c.example', "b!a@c.example"]
)
async def test_not_even_an_open_one_follows_routes(smarthost, way):
    assert await Client(smarthost, open_relay=True).send([way]) == 550


async def test_a_smarthost_that_takes_no_mail_is_told_to_the_client(smarthost):
    smarthost.works = False
    assert await Client(smarthost, open_relay=True).send(STRANGER) == 451


async def test_a_smarthost_that_is_away_is_told_to_the_client():
    assert await Client(Smarthost(), open_relay=True).send(STRANGER) == 451


async def test_an_address_that_is_taken_is_an_os_error(smarthost):
    server = DemoServer("mail.here.example", ("127.0.0.1", 1), open_relay=True)
    with pytest.raises(OSError, match=r".") as caught:
        async with server.serve(smarthost.host, smarthost.port):
            pass
    assert caught.value.errno == errno.EADDRINUSE
