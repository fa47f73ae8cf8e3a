"""What is secret, and what hostile octets there are, is in no log, page, metric or process list."""

import asyncio
import base64
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.cli.program import LONGEST, environment, relaytest
from tests.daemons.peers import Target, relays, send
from tests.lab import until
from tests.mta.process import fresh_address, fresh_port

PASSWORD = "pass-phrase-of-the-database"
MAILBOX = "asks-for-removal@person.example"
RECIPIENT = "got-the-spam@person.example"
HOSTILE = b"250 2.1.5 \x1b[31m\xff taken"
SAMPLE = f"Received: from x\r\nSubject: x\r\nTo: {RECIPIENT}\r\n\r\nHello {RECIPIENT}"


class Service:
    """All daemons in a process, whose log is kept."""

    def __init__(self, dsn: str, folder: Path) -> None:
        host = fresh_address()
        self.web, self.sink, self.metrics = (f"{host}:{fresh_port(host)}" for _ in range(3))
        self._log = folder / "log"
        secrets = folder / "credentials"
        secrets.mkdir()
        with_password = dsn.replace("postgres@", f"postgres:{PASSWORD}@")
        (secrets / "database.dsn").write_text(with_password)
        # Nobody is there: so there are errors to log.
        nowhere = f"postgresql://u:{PASSWORD}@{host}:{fresh_port(host)}/none"
        (secrets / "database.listen_dsn").write_text(nowhere)
        (secrets / "database.pooled").write_text("true")
        self._environment = environment(
            CREDENTIALS_DIRECTORY=str(secrets),
            RELAYTEST_DATA=str(folder),
            RELAYTEST_LOG__LEVEL="debug",
            RELAYTEST_LOG__FORMAT="json",
            RELAYTEST_SINK__LISTEN=f'["{self.sink}"]',
            RELAYTEST_SINK__DOMAINS='["sink.example"]',
            RELAYTEST_SCOPE__ALLOW='["127.0.0.0/8"]',
            RELAYTEST_WEB__LISTEN=self.web,
            RELAYTEST_WEB__URL="http://lists.example",
            RELAYTEST_MAIL__SMARTHOST=f"{host}:{fresh_port(host)}",
            RELAYTEST_MAIL__SENDER="us@sink.example",
            RELAYTEST_METRICS__LISTEN=self.metrics,
        )

    def __enter__(self) -> "Service":
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "relaytest", "all"],
                cwd="/",
                env=self._environment,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(LONGEST)
        finally:
            self.process.kill()

    @property
    def log(self) -> bytes:
        return self._log.read_bytes()

    @property
    def command_line(self) -> bytes:
        """What everybody on the host sees of it."""
        return Path(f"/proc/{self.process.pid}/cmdline").read_bytes()

    async def ask(self, place: str, path: str, body: bytes | None = None, token: str = "") -> bytes:
        """Ask the pages or the metrics, as soon as they are there."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Content-Type": "message/rfc822"} if token else {}
        request = urllib.request.Request(f"http://{place}{path}", body, headers)

        def fetch() -> bytes | None:
            try:
                with urllib.request.urlopen(request, timeout=LONGEST) as page:
                    return page.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.read()
            except OSError:
                return None

        return await until(lambda: asyncio.to_thread(fetch), path)


async def test_no_secret_and_no_raw_octet_is_shown(dsn, connection, tmp_path):
    api = relaytest(
        *("token", "add", "trap", "--may", "nominate"), RELAYTEST_DATABASE__DSN=dsn
    ).stdout.strip()
    assert len(api) > 30
    seen: list[bytes] = []
    with Service(dsn, tmp_path) as service:
        host, _, port = service.sink.rpartition(":")
        target = Target(lambda *_: HOSTILE, relays((host, int(port)), re.compile(rb"<(.*)>")))
        async with target.serve() as target_port:
            await connection.execute(
                "INSERT INTO relaytest.retest (target, port, reason) VALUES ($1, $2, 'operator')",
                target.host,
                target_port,
            )
            await until(
                lambda: connection.fetchval("SELECT true FROM relaytest.listing_current"),
                "its listing",
            )
            form = f"address={target.host}&port={target_port}&mailbox={MAILBOX}".encode()
            seen.append(await service.ask(service.web, "/removal", form))
        await send((host, int(port)), b"<>", b"<\x1b[2J\xff@x.example>", octets=None)
        nominate = f"/api/v1/nominations?address={target.host}"
        seen.append(await service.ask(service.web, nominate, SAMPLE.encode(), api))
        seen.append(await service.ask(service.web, nominate, SAMPLE.encode(), api + "x"))
        trial = await connection.fetchval("SELECT max(id) FROM relaytest.trial")
        pages = (f"/lookup/{target.host}", f"/evidence/{trial}", "/status", "/")
        seen += [await service.ask(service.web, path) for path in pages]
        seen.append(await service.ask(service.metrics, "/metrics"))
        await until(
            lambda: connection.fetchval("SELECT true FROM relaytest.mail WHERE tries > 0"),
            "a mail that was tried",
        )
        seen.append(service.command_line)
        rows = await connection.fetch("SELECT application_name, query FROM pg_stat_activity")
        seen += [f"{row[0]} {row[1]}".encode() for row in rows]
    key = await connection.fetchval("SELECT key FROM relaytest.token_key")
    paths = await connection.fetch("SELECT forward_path FROM relaytest.receipt")
    tokens = {token for row in paths for token in re.findall(rb"[a-z2-7]{26}", row[0].lower())}
    assert b'"event": "receipt"' in service.log
    assert tokens
    secrets = {PASSWORD.encode(), api.encode(), key.hex().encode(), base64.b64encode(key), key}
    secrets |= tokens
    for text in (service.log, *seen):
        assert [secret for secret in secrets if secret.lower() in text.lower()] == []
        assert [one for one in (b"\x1b", b"\xff", b"\x00[") if one in text] == []
    assert MAILBOX.encode() not in service.log
    assert all(RECIPIENT.encode() not in text for text in (service.log, *seen))


def test_config_show_shows_no_password():
    for words in (["config", "show"], ["config", "show", "--json"]):
        done = relaytest(*words, RELAYTEST_DATABASE__DSN=f"postgresql://u:{PASSWORD}@h/d")
        assert (done.returncode, PASSWORD in done.stdout + done.stderr) == (0, False)
        assert "postgresql://u:***@h/d" in done.stdout
