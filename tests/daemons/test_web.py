"""The public pages: what they show, what they hide, and that looking changes nothing."""

import asyncio
import contextlib
import html
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

import asyncpg
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from relaytest.core.config import split_endpoint
from relaytest.core.errors import DatabaseAwayError
from relaytest.core.token import Mailbox, Token, issue
from relaytest.daemons import answerer, scheduler, shipped, sink, web, worker
from relaytest.daemons.loop import Stop
from relaytest.daemons.web.kept import Kept
from relaytest.daemons.web.pages import make_application
from relaytest.net.dns import Resolver
from relaytest.net.dns_server import serve_dns
from relaytest.net.http_server import serve_http
from relaytest.store.database import Database, open_database
from tests.daemons.peers import Target, seen
from tests.lab import lab_config, until
from tests.mta.process import fresh_address, fresh_port

A, B = "192.0.2.1", "192.0.2.2"
KEY = b"k" * 32
TOKEN = issue(KEY, Token(Mailbox.FORWARD, 257, 1))
HOSTILE = b"<script>alert('x')</script> \x1b[31m \x00 \xe2\x80\xae \xff & \" \\"
FORM = "application/x-www-form-urlencoded"
PATIENCE = 60.0


@dataclass
class Page:
    """An answer of the web server.

    Attributes:
        headers: Names in lower case.
        text: The body.
    """

    status: int
    headers: dict[str, str]
    text: str

    @property
    def words(self) -> str:
        """The body without character references, in one line."""
        return " ".join(html.unescape(self.text).split())


class Site:
    """Asks one server."""

    def __init__(self, place: tuple[str, int]) -> None:
        self._place = place

    async def get(self, path: str, method: str = "GET") -> Page:
        return await self.say(f"{method} {path} HTTP/1.1", b"")

    async def head_of(self, path: str) -> dict[str, str]:
        """The headers of an answer whose body is no text."""
        reader, writer = await asyncio.open_connection(*self._place)
        writer.write(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        writer.close()
        pairs = [line.split(": ", 1) for line in head.splitlines()[1:] if line]
        return {name.lower(): value for name, value in pairs}

    async def post(self, path: str, fields: dict[str, object], *headers: str) -> Page:
        body = urlencode(fields).encode()
        return await self.say(
            f"POST {path} HTTP/1.1",
            body,
            f"Content-Type: {FORM}",
            f"Content-Length: {len(body)}",
            *headers,
        )

    async def say(self, first: str, body: bytes, *headers: str) -> Page:
        reader, writer = await asyncio.open_connection(*self._place)
        try:
            lines = [first, "Host: lists.example", *headers, "", ""]
            if not any(header.startswith("Connection:") for header in headers):
                lines.insert(2, "Connection: close")
            writer.write("\r\n".join(lines).encode("latin-1") + body)
            async with asyncio.timeout(PATIENCE):
                octets = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        head, _, text = octets.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        pairs = [field.split(": ", 1) for field in fields]
        return Page(
            int(status.split()[1]), {name.lower(): value for name, value in pairs}, text.decode()
        )


@contextlib.asynccontextmanager
async def serving(database: Database, tmp_path, **sections) -> AsyncIterator[Site]:
    config = lab_config(tmp_path, **sections)
    async with Resolver(config.dns.nameservers, config.dns.timeout) as resolver:
        application = make_application(config, database, resolver)
        async with serve_http("127.0.0.1", 0, application) as place:
            yield Site(place)


@pytest.fixture
async def site(database, tmp_path):
    async with serving(database, tmp_path) as running:
        yield running


# --- rows to show


async def trial(connection, address=A, *, number=1) -> int:
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES ($1, 1, $2::text::inet, 25, 'operator', 'x')",
        number,
        address,
    )
    return number


async def put_on(connection, address=A, *, number=1) -> None:
    await trial(connection, address, number=number)
    await connection.execute(
        "INSERT INTO relaytest.listing (address, port, state, trial, listed_at, expires_at,"
        " recheck_at) VALUES ($1::text::inet, 25, 'listed', $2, now(), now() + interval '1 day',"
        " now() + interval '1 hour')",
        address,
        number,
    )


async def judged(connection, explanation: str, verdict="closed", address=A, number=1) -> None:
    await connection.execute(
        "INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
        " explanation, forms) VALUES ($1, $2::text::inet, 25, $3, 'refused', 'high', $4, '{}')",
        number,
        address,
        verdict,
        explanation,
    )


async def found_open(connection, *forms: str, address=A, number=1) -> None:
    await connection.execute(
        "INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
        " explanation, forms) VALUES ($1, $2::text::inet, 25, 'open', 'relayed', 'high', '', $3)",
        number,
        address,
        forms,
    )


async def talked(connection, *octets: bytes, detail="", number=1) -> None:
    """A session of the trial: what we and the server said in turn."""
    await connection.execute(
        "INSERT INTO relaytest.session (trial, visit, purpose, started_at, seconds, ended, detail,"
        " at, ours, octets) VALUES ($1, 1, 'scout', $2, 1, 'complete', $3, $4, $5, $6)",
        number,
        datetime(2026, 1, 2, tzinfo=UTC),
        detail,
        [float(n) for n in range(len(octets))],
        [n % 2 == 0 for n in range(len(octets))],
        list(octets),
    )


async def received(connection, *, message=b"x", helo=b"x", reverse=b"<>", forward=b"<>") -> None:
    await connection.execute(
        "INSERT INTO relaytest.receipt (trial, form, mailbox, peer, helo, reverse_path,"
        " forward_path, message, size, copies) VALUES (1, 257, 'forward', '192.0.2.9', $1, $2,"
        " $3, $4, 1, 2)",
        helo,
        reverse,
        forward,
        message,
    )


async def jobs_of(connection) -> list[tuple[str, int, str, int]]:
    rows = await connection.fetch(
        "SELECT host(address), port, reason::text, priority FROM relaytest.job ORDER BY id"
    )
    return [tuple(row) for row in rows]


# --- what DNS says


@contextlib.asynccontextmanager
async def answering(database, tmp_path) -> AsyncIterator[Site]:
    """Pages and the list's DNS server."""
    place = f"{(host := fresh_address())}:{fresh_port(host)}"
    sections = {"publish": {"server": place}, "answer": {"listen": place}}
    stop = Stop()
    async with asyncio.TaskGroup() as group:
        group.create_task(answerer.run(lab_config(tmp_path, **sections), database, stop))
        async with serving(database, tmp_path, **sections) as site:
            yield site
        stop.set()


async def test_the_page_shows_what_dns_says_at_this_moment(database, connection, tmp_path):
    async with answering(database, tmp_path) as site:
        kept = "resolvers may keep an old answer for 300 s."
        page = await site.get(f"/lookup/{A}")
        assert f"DNS says that it is not listed; {kept}" in page.words
        await put_on(connection)
        page = await site.get(f"/lookup/{A}")
        assert f"DNS says that it is listed (127.0.0.2); {kept}" in page.words


async def test_a_dns_server_that_is_away_keeps_nobody_from_the_page(database, tmp_path):
    silent = {"publish": {"server": f"{fresh_address()}:9"}}
    async with serving(database, tmp_path, **silent) as site:
        page = await site.get(f"/lookup/{A}")
    assert page.status == 200
    assert "DNS gives no answer at this moment." in page.words


# --- home and look-up


async def test_the_home_page_has_a_form_and_numbers(site, connection):
    await put_on(connection, A)
    page = await site.get("/")
    assert page.status == 200
    assert '<form action="/lookup" method="get">' in page.text
    assert "Addresses listed</dt><dd>1</dd>" in page.text
    assert "not yet" in page.text


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("192.0.2.1", "/lookup/192.0.2.1"),
        (" 192.0.2.1 ", "/lookup/192.0.2.1"),
        ("2001:DB8::1", "/lookup/2001:db8::1"),
        ("::ffff:192.0.2.1", "/lookup/192.0.2.1"),
    ],
)
async def test_the_form_leads_to_the_page_of_the_address(site, typed, path):
    page = await site.get(f"/lookup?address={quote(typed)}")
    assert (page.status, page.headers["location"]) == (303, path)


@pytest.mark.parametrize(
    "typed",
    ["", "x", "192.0.2.0/24", "fe80::1%eth0", "//evil.example", "1.2.3.4 X: y", "\u0661.2.3.4"],
)
async def test_what_is_no_address_is_told_so(site, typed):
    for path in (f"/lookup?address={quote(typed)}", f"/lookup/{quote(typed)}"):
        page = await site.get(path)
        assert page.status == 400
        assert "is no IPv4 or IPv6 address" in page.words


async def test_what_is_no_address_is_repeated_harmlessly(site):
    typed = "<script>alert(1)</script>\u202e\x1b"
    for path in (f"/lookup?address={quote(typed)}", f"/lookup/{quote(typed, safe='')}"):
        page = await site.get(path)
        assert page.status == 400
        assert "<script>" not in page.text
        assert "&lt;script&gt;" in page.text
        assert not {"\u202e", "\x1b"} & set(page.text)


async def test_a_listed_address_has_all_that_its_owner_needs(site, connection):
    await put_on(connection)
    await judged(connection, "The server relays.", "open")
    page = await site.get(f"/lookup/{A}")
    assert page.status == 200
    assert "Listed as an open relay" in page.words
    assert "Ends by itself" in page.words
    assert "127.0.0.2 for 1.2.0.192.relays.example" in page.words
    assert '<form action="/removal" method="post">' in page.text
    assert '<a href="/evidence/1">' in page.text
    assert "The server relays." in page.text


async def test_an_unlisted_address_has_no_removal_form(site):
    page = await site.get(f"/lookup/{A}")
    assert page.status == 200
    assert "Not listed." in page.text
    assert 'action="/removal"' not in page.text


async def test_an_ipv6_address_has_a_page(site, connection):
    await put_on(connection, "2001:db8::1")
    page = await site.get("/lookup/2001:db8::1")
    assert "8.b.d.0.1.0.0.2.relays.example" in page.text
    assert "/removal" in page.text


async def test_a_waiting_and_a_running_test_are_told(site, connection):
    await connection.execute(
        "INSERT INTO relaytest.retest (target, reason) VALUES ($1, 'nominated')", A
    )
    assert "A test of port 25</a> is waiting" in (await site.get(f"/lookup/{A}")).words
    await connection.execute(
        "UPDATE relaytest.job SET leased = true, worker = 1, lease_until = now()"
    )
    assert "A test of port 25</a> is running" in (await site.get(f"/lookup/{A}")).words


async def test_the_history_of_an_address_is_public(site, connection):
    await put_on(connection)
    await connection.execute(
        "INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why)"
        " VALUES ($1::text::inet, 25, 'found-open', 'unlisted', 'listed', 1, 'It <b>relays</b>')",
        A,
    )
    page = await site.get(f"/lookup/{A}")
    assert "<strong>unlisted &rarr; listed</strong>" in page.text
    assert "It &lt;b&gt;relays&lt;/b&gt;" in page.text


# --- nobody learns a token


def hides(page: Page) -> bool:
    """The page has no token, in any spelling."""
    return TOKEN not in page.text.lower() and "(token)" in page.text


POSTFIX = f"554 5.7.1 <{TOKEN}@sink.example>: Relay access denied"


async def test_no_token_is_shown_in_an_explanation(site, connection):
    """Postfix repeats the recipient; who knows the token can forge a proof."""
    await trial(connection)
    await judged(connection, f"The server refused all 20 forms, for instance with {POSTFIX}.")
    page = await site.get(f"/lookup/{A}")
    assert "Relay access denied" in page.text
    assert hides(page)


async def test_no_token_is_shown_in_the_history(site, connection):
    await put_on(connection)
    await connection.execute(
        "INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why)"
        " VALUES ($1::text::inet, 25, 'found-closed', 'listed', 'unlisted', 1, $2)",
        A,
        f"for instance with {POSTFIX.upper()}",
    )
    assert hides(await site.get(f"/lookup/{A}"))


ANYWHERE = {
    "plain": TOKEN.encode(),
    "upper-case": TOKEN.upper().encode(),
    "in-a-path": b"RCPT TO:<%b@sink.example>" % TOKEN.encode(),
    "percent": b"<%b%%sink.example@mx.example>" % TOKEN.encode(),
    "bang": b"<sink.example!%b>" % TOKEN.encode(),
    "utf-8-quotes": f"\u201e{TOKEN}\u201c \u00ab{TOKEN}\u00bb".encode(),
    "after-a-control": b"\x0b" + TOKEN.encode(),
    "after-a-letter": b"To:x" + TOKEN.encode(),
}


async def test_a_real_refusal_gives_no_token_away(begin, database, tmp_path):
    """From the target's reply to the page."""

    def repeating(_reverse: bytes, forward: bytes) -> bytes:
        return b"554 5.7.1 %b: Relay access denied" % forward

    server = Target(repeating)
    async with begin(worker.run, sink.run, scheduler.run) as lab, server.serve() as port:
        await lab.insert(server.host, port)
        row = await lab.verdict(server.host, "closed")
        async with serving(database, tmp_path) as site:
            pages = [
                await site.get(f"/lookup/{server.host}"),
                await site.get(f"/evidence/{row['trial']}"),
            ]
    letters = [path[1:27].decode() for _, path in server.tried if path.endswith(b"@sink.example>")]
    tokens = [text for text in letters if text.isalnum() and len(text) == 26]
    assert len(tokens) > 5
    for page in pages:
        assert "Relay access denied" in page.text
        assert not [token for token in tokens if token in page.text.lower()]


async def test_other_paths_are_a_404(site):
    for path in ("/x", "/evidence", "/docs", "/openapi.json", "/redoc", "/lookup/../etc", "/.git"):
        assert (await site.get(path)).status in {400, 404}


# --- removal


async def test_a_removal_request_for_a_listed_address_is_a_most_urgent_job(site, connection):
    await put_on(connection)
    page = await site.post("/removal", {"address": A, "port": 25})
    (job,) = await connection.fetchrow("SELECT id FROM relaytest.job")
    assert (page.status, page.headers["location"]) == (303, f"/request/{job}")
    assert await jobs_of(connection) == [(A, 25, "removal-request", 0)]
    assert (
        f'<a href="/request/{job}">A test of port 25</a>' in (await site.get(f"/lookup/{A}")).text
    )


async def test_the_port_may_be_left_out(site, connection):
    await put_on(connection)
    assert (await site.post("/removal", {"address": A})).status == 303
    assert await jobs_of(connection) == [(A, 25, "removal-request", 0)]


async def test_a_second_request_joins_the_first(site, connection):
    await put_on(connection)
    for _ in range(3):
        assert (await site.post("/removal", {"address": A})).status == 303
    assert await connection.fetch("SELECT requests FROM relaytest.job") == [(3,)]


async def test_a_request_wakes_the_workers(site, connection):
    rings: list[str] = []
    await connection.add_listener("relaytest_job", lambda *_: rings.append("ring"))
    await put_on(connection)
    await site.post("/removal", {"address": A})
    await until(lambda: seen(rings), "the bell")


@pytest.mark.parametrize(
    "fields", [{"address": B}, {"address": A, "port": 26}, {"address": "127.0.0.2"}]
)
async def test_what_is_not_listed_is_not_tested(site, connection, fields):
    await put_on(connection)
    page = await site.post("/removal", fields)
    assert page.status == 409
    assert "not listed: nothing to do" in page.words
    assert await jobs_of(connection) == []


async def test_a_listing_that_has_expired_is_not_tested(site, connection):
    await put_on(connection)
    await connection.execute("UPDATE relaytest.listing SET expires_at = now()")
    assert (await site.post("/removal", {"address": A})).status == 409
    assert await jobs_of(connection) == []


async def test_a_listed_address_now_out_of_scope_is_told_so(site, connection):
    await put_on(connection)
    await connection.execute(
        "INSERT INTO relaytest.scope_network VALUES ('192.0.2.1/32', 'deny', 'excluded by x')"
    )
    page = await site.post("/removal", {"address": A})
    assert page.status == 409
    assert "out of scope" in page.text
    assert await jobs_of(connection) == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"address": "x"}, 400),
        ({"address": ""}, {400, 422}),
        ({}, 422),
        ({"address": A, "port": "x"}, 422),
        ({"address": "1" * 61}, 422),
        ({"address": A, "port": "9" * 30}, {409, 422}),
    ],
    ids=["word", "empty", "nothing", "port-word", "long", "port-large"],
)
async def test_a_broken_form_is_told_so(site, connection, fields, status):
    await put_on(connection)
    page = await site.post("/removal", fields)
    assert page.status in (status if isinstance(status, set) else {status})
    assert await jobs_of(connection) == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_only_a_post_can_ask_for_removal(site, connection, method):
    await put_on(connection)
    page = await site.get(f"/removal?address={A}&port=25", method)
    assert page.status == (200 if method == "GET" else 405)
    assert await jobs_of(connection) == []


async def test_looking_changes_nothing(site, connection):
    await put_on(connection)
    for path in ("/", f"/lookup/{A}", f"/lookup?address={A}", "/evidence/1"):
        await site.get(path)
        await site.get(path, "HEAD")
        await site.post(path, {"address": A})
    assert await jobs_of(connection) == []


async def test_one_connection_to_the_database_is_enough_for_a_request(dsn, connection, tmp_path):
    """Else some requests at once would wait for each other's, for ever."""
    await put_on(connection)
    async with (
        open_database(dsn, pool=1, longest=timedelta(seconds=5), program="web") as database,
        serving(database, tmp_path) as site,
        asyncio.timeout(5),
    ):
        assert (await site.post("/removal", {"address": B})).status == 409
        assert (await site.post("/removal", {"address": A})).status == 303


# --- guards


async def test_a_long_form_is_refused(site, connection):
    await put_on(connection)
    page = await site.post("/removal", {"address": A, "x": "y" * 3000})
    assert page.status == 413
    assert await jobs_of(connection) == []


async def test_a_form_without_a_length_is_refused(site, connection):
    await put_on(connection)
    body = f"address={A}".encode()
    page = await site.say(
        "POST /removal HTTP/1.1",
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        f"Content-Type: {FORM}",
        "Transfer-Encoding: chunked",
    )
    assert page.status == 411
    assert await jobs_of(connection) == []


async def test_a_body_with_two_lengths_smuggles_no_request(site):
    """RFC 9112 section 6.1: after the answer the connection is closed."""
    page = await site.say(
        "POST / HTTP/1.1",
        b"0\r\n\r\nGET /fix HTTP/1.1\r\nHost: lists.example\r\n\r\n",
        "Connection: keep-alive",
        "Content-Length: 6",
        "Transfer-Encoding: chunked",
    )
    assert page.status == 411
    assert "HTTP/1.1" not in page.text


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "99999999999999999999"])
async def test_a_length_that_is_none_is_refused(site, connection, length):
    page = await site.say("POST /removal HTTP/1.1", b"", f"Content-Length: {length}")
    assert page.status in {400, 413}


async def test_without_the_database_every_page_says_so(nowhere, tmp_path):
    async with serving(nowhere, tmp_path) as site:
        for page in (
            await site.get("/"),
            await site.get(f"/lookup/{A}"),
            await site.get("/evidence/1"),
            await site.post("/removal", {"address": A}),
        ):
            assert page.status == 503
            assert page.headers["retry-after"] == "5"
            assert "database is away" in page.text


async def test_a_database_that_comes_back_is_used_again(road, shaky, tmp_path):
    async with serving(shaky, tmp_path) as site:
        assert (await site.get("/")).status == 200
        await road.cut()
        assert (await site.get("/")).status == 503
        await road.mend()
        assert (await site.get("/")).status == 200


async def test_every_answer_has_the_headers_that_keep_a_browser_safe(site, connection, caplog):
    await put_on(connection)
    pages = {
        "home": await site.get("/"),
        "redirect": await site.get(f"/lookup?address={A}"),
        "page": await site.get(f"/lookup/{A}"),
        "bad": await site.get("/lookup/x"),
        "evidence": await site.get("/evidence/1"),
        "no-evidence": await site.get("/evidence/9"),
        "no-number": await site.get("/evidence/x"),
        "no-page": await site.get("/x"),
        "no-method": await site.get("/removal"),
        "too-long": await site.post("/removal", {"x": "y" * 3000}),
        "removal": await site.post("/removal", {"address": A}),
        "not-listed": await site.post("/removal", {"address": B}),
        "broken-form": await site.post("/removal", {}),
    }
    await connection.execute("ALTER TABLE relaytest.listing RENAME TO gone")
    await connection.execute("DROP VIEW relaytest.listing_current")
    pages["error"] = await site.get("/")
    assert pages["error"].status == 500
    for what, page in pages.items():
        policy = page.headers.get("content-security-policy", "")
        assert "default-src 'none'" in policy, what
        assert "frame-ancestors 'none'" in policy, what
        assert page.headers["x-content-type-options"] == "nosniff", what
        assert page.headers["referrer-policy"] == "no-referrer", what
        assert page.headers["cache-control"] == "no-store", what


async def test_an_error_tells_nothing_of_the_inside(site, connection, caplog):
    await connection.execute("DROP VIEW relaytest.listing_current")
    page = await site.get("/")
    assert page.status == 500
    assert not [word for word in ("Traceback", "asyncpg", "relaytest.") if word in page.text]


async def test_no_page_has_a_script_or_anything_from_elsewhere(site, connection):
    await put_on(connection)
    for path in ("/", f"/lookup/{A}", "/evidence/1"):
        text = (await site.get(path)).text
        assert "<script" not in text
        assert "http://" not in text
        assert "https://" not in text


async def test_the_contact_is_on_every_page(database, tmp_path):
    async with serving(database, tmp_path, identity={"contact": "<ops@example>"}) as site:
        assert "Contact: &lt;ops@example&gt;" in (await site.get("/")).text


# --- the daemon


async def test_the_daemon_serves_until_the_stop_is_wished(database, tmp_path):
    host = fresh_address()
    config = lab_config(tmp_path, web={"listen": f"{host}:{fresh_port(host)}"})
    stop, site = Stop(), Site(split_endpoint(config.web.listen))

    async def look() -> Page | None:
        try:
            return await site.get("/")
        except ConnectionRefusedError:
            return None

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(web.run(config, database, stop))
        assert (await until(look, "the home page")).status == 200
        stop.set()
    with pytest.raises(ConnectionRefusedError):
        await site.get("/")


async def test_a_database_error_is_no_empty_page(site, connection: asyncpg.Connection, caplog):
    await connection.execute("ALTER TABLE relaytest.verdict RENAME TO gone")
    await connection.execute("DROP VIEW relaytest.verdict_latest")
    assert (await site.get(f"/lookup/{A}")).status == 500


# --- pages of mere text


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/about-testing", ("probe.relaytest.example", "never write to your users", "postmaster@")),
        ("/criteria", ("127.0.0.2", "after 30 days", "tested again every 7 days", "nothing")),
        ("/faq", ("4 hours", "relays.example", "Never. Nor servers")),
        ("/using", ("99.2.0.192.relays.example", "reject_rbl_client relays.example", "127.0.0.1")),
    ],
)
async def test_a_page_of_text_says_what_is_configured(database, tmp_path, path, words):
    retries = {"retries": ["5min", "4h"]}
    async with serving(database, tmp_path, timing=retries) as site:
        page = await site.get(path)
        assert page.status == 200
        missing = [word for word in words if word not in page.words]
        assert "relays.example" in page.words
        assert missing == []
        assert f'href="{path}"' in (await site.get("/")).text


async def test_what_is_not_configured_leaves_no_half_sentence(site):
    words = (await site.get("/faq")).words  # the lab has no retries and no pauses
    assert "defers strangers (greylisting). The entry leaves DNS" in words
    assert "At once. When very many ask" in words


async def test_the_criteria_follow_the_policy(database, tmp_path):
    strict = {"confirmations": 2, "require_spam_evidence": True, "outputs": True}
    async with serving(database, tmp_path, listing=strict) as site:
        words = (await site.get("/criteria")).words
    assert "on 2 different days, and a sample of spam from it is on file." in words
    assert "127.0.0.3" in words


async def test_a_suspected_and_an_excluded_address_are_told_so(site, connection):
    await trial(connection)
    await connection.execute(
        "INSERT INTO relaytest.listing (address, port, state, trial, expires_at)"
        " VALUES ($1::text::inet, 25, 'suspected', 1, now() + interval '1 d');",
        A,
    )
    await connection.execute(
        "INSERT INTO relaytest.exclusion (network, why) VALUES ('192.0.2.0/24', '<owner> objects')"
    )
    page = await site.get(f"/lookup/{A}")
    assert "Suspected (port 25)" in page.text.replace("<strong>", "").replace("</strong>", "")
    assert "192.0.2.0/24 is" in page.words
    assert "&lt;owner&gt; objects" in page.text


# --- how to close it


async def test_the_owner_is_told_what_to_set_in_the_software_seen(site, connection):
    await put_on(connection)
    await talked(connection, b"", b"220 mx.example ESMTP Postfix\r\n", b"EHLO x\r\n", b"250 mx\r\n")
    await found_open(connection, "S-DOM/R-PLAIN")
    assert f'href="/fix/{A}"' in (await site.get(f"/lookup/{A}")).text
    page = await site.get(f"/fix/{A}")
    assert page.status == 200
    assert "It looks like Postfix" in page.words
    assert "permit_mynetworks, permit_sasl_authenticated" in page.words
    assert "A sender anybody can claim" in page.words
    assert "Open to all" not in page.words
    assert "MAIL FROM:<sender@domain>" in page.words
    assert "acl_smtp_rcpt" not in page.words  # of Exim


async def test_only_what_the_server_says_tells_its_name(site, connection):
    await put_on(connection)
    await talked(connection, b"220 mx.example ESMTP Postfix\r\n", HOSTILE)
    await found_open(connection, "S-EXT/R-PLAIN", "no-such-form")
    page = await site.get(f"/fix/{A}")
    assert "We do not know this software" in page.words
    assert "Open to all" in page.words
    assert "<script>" not in page.text


async def test_an_open_port_says_more_than_a_closed_one(site, connection):
    await put_on(connection)
    await talked(connection, b"", b"220 mx.example ESMTP Exim 4.96\r\n")
    await judged(connection, "", address=A)
    await found_open(connection, "S-NULL/R-PLAIN")
    page = await site.get(f"/fix/{A}")
    assert "It looks like Exim" in page.words


@pytest.mark.parametrize("path", [f"/fix/{B}", "/fix/2001:db8::1"])
async def test_an_address_that_was_not_tested_gets_what_holds_for_all(site, path):
    page = await site.get(path)
    assert page.status == 200
    assert "This address was not tested" in page.words
    assert "hidden client address" in page.words


async def test_all_products_have_their_advice_on_one_page(site):
    page = await site.get("/fix")
    assert page.status == 200
    assert all(one.name in page.words for one in shipped.advice().products)
    assert len(page.text) < 30_000


async def test_no_advice_for_what_is_no_address(site):
    assert (await site.get("/fix/nonsense")).status == 400


# --- who asks, and how often


async def test_the_visitor_is_told_of_his_own_address(database, connection, tmp_path):
    proxied = {"proxies": ["127.0.0.0/8"]}
    await put_on(connection)
    async with serving(database, tmp_path, web=proxied) as site:
        for client, state in ((A, "listed"), (B, "not listed")):
            page = await site.say("GET / HTTP/1.1", b"", f"X-Forwarded-For: 6.6.6.6, {client}")
            words = page.words.replace("<strong>", "").replace("</strong>", "")
            assert f'"/lookup/{client}">{client}</a>, which is {state}.' in words


async def test_what_a_stranger_says_of_himself_is_not_believed(site):
    page = await site.say("GET / HTTP/1.1", b"", f"X-Forwarded-For: {A}")
    assert A not in page.text
    assert "/lookup/127.0.0.1" in page.text


async def test_one_network_asks_so_often_and_no_more(database, connection, tmp_path):
    sections = {"web": {"proxies": ["127.0.0.0/8"], "client_requests": 2}}
    await put_on(connection)
    async with serving(database, tmp_path, **sections) as site:

        async def ask(client: str) -> Page:
            return await site.post("/removal", {"address": A}, f"X-Forwarded-For: {client}")

        pages = [await ask(f"2001:db8:1:1::{n}") for n in range(4)]
        assert [page.status for page in pages] == [303, 303, 429, 429]
        assert 3500 < int(pages[-1].headers["retry-after"]) <= 3600
        assert "Come back in 60 min" in pages[-1].words
        assert (await ask("2001:db8:1:2::1")).status == 303
    assert await connection.fetchval("SELECT requests FROM relaytest.job") == 3


async def test_one_server_is_asked_for_so_often_and_no_more(database, connection, tmp_path):
    await put_on(connection)
    await put_on(connection, B, number=2)
    async with serving(database, tmp_path, web={"target_requests": 1}) as site:
        assert (await site.post("/removal", {"address": A})).status == 303
        page = await site.post("/removal", {"address": A})
        assert page.status == 429
        assert "too many requests for this server" in page.words
        assert (await site.post("/removal", {"address": B})).status == 303


async def test_all_together_ask_so_often_and_no_more(database, connection, tmp_path):
    await put_on(connection)
    async with serving(database, tmp_path, web={"requests": 1}) as site:
        assert (await site.post("/removal", {"address": A})).status == 303
        assert (await site.post("/removal", {"address": A})).status == 429


# --- names


async def test_a_name_shows_the_addresses_that_take_its_mail(database, connection, tmp_path):
    await put_on(connection)

    async def answer(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        name, kind = query.question[0].name, query.question[0].rdtype
        records = {"lab.example.": "10 mx.lab.example.", "mx.lab.example.": A}
        if kind == (dns.rdatatype.MX if name.to_text() == "lab.example." else dns.rdatatype.A):
            text = records.get(name.to_text(), "10 .")
            response.answer.append(
                dns.rrset.from_text(name, 60, "IN", dns.rdatatype.to_text(kind), text)
            )
        return response

    async with serve_dns("127.0.0.1", 0, answer) as (host, port):
        known = {"dns": {"nameservers": [f"{host}:{port}"], "timeout": "2s"}}
        async with serving(database, tmp_path, **known) as site:
            page = await site.get("/lookup?address=Lab.Example.")
    assert page.status == 200
    assert f'<td><a href="/lookup/{A}">{A}</a></td><td>mx.lab.example</td><td>listed</td>' in (
        page.text
    )


async def test_without_dns_a_name_is_told_so(site):
    page = await site.get("/lookup?address=mail.nowhere.example")
    assert page.status == 503
    assert "the DNS gives no answer" in page.words


# --- the progress of a request


async def requested(connection) -> int:
    return await connection.fetchval(
        "INSERT INTO relaytest.retest (target, reason) VALUES ($1, 'operator') RETURNING id", A
    )


async def ends(connection, job: int, explanation="Refused <all>.") -> None:
    """The job's trial, visit and verdict."""
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester, visits, probed_at,"
        " ended) VALUES (1, $1, $2::text::inet, 25, 'operator', 'x', 1, now(), true)",
        job,
        A,
    )
    await connection.execute("DELETE FROM relaytest.job")
    await judged(connection, explanation)


async def test_a_request_has_a_page_that_goes_on_by_itself(site, connection):
    job = await requested(connection)
    page = await site.get(f"/request/{job}")
    assert page.status == 200
    assert "Waiting for its turn" in page.words
    assert '<noscript><meta http-equiv="refresh"' in page.text
    await ends(connection, job)
    page = await site.get(f"/request/{job}")
    assert "closed and off the list" in page.words
    assert "Refused &lt;all&gt;." in page.text
    assert "refresh" not in page.text
    assert "<script" not in page.text


async def test_events_tell_of_each_change_and_end_with_the_verdict(site, connection):
    job = await requested(connection)

    async def later() -> None:
        await asyncio.sleep(0.2)
        await ends(connection, job)

    async with asyncio.TaskGroup() as group:
        group.create_task(later())
        page = await site.get(f"/request/{job}/events")
    events = [line for line in page.text.splitlines() if line.startswith("event: ")]
    assert events == ["event: progress", "event: progress", "event: end"]
    assert "Waiting for its turn" in page.words
    assert page.words.rindex("off the list") > page.words.index("Waiting for its turn")
    assert page.headers["content-type"].startswith("text/event-stream")


async def test_lines_from_outside_are_no_events(site, connection):
    job = await requested(connection)
    await ends(connection, job, "x\n\nevent: end\ndata: y\r\rz")
    page = await site.get(f"/request/{job}/events")
    events = [line for line in page.text.splitlines() if line.startswith("event:")]
    assert events == ["event: progress", "event: end"]


@pytest.mark.parametrize("number", ["0", "-1", "7", "9" * 40])
async def test_a_request_that_is_not_there_is_a_404(site, number):
    assert (await site.get(f"/request/{number}")).status == 404
    assert (await site.get(f"/request/{number}/events")).status == 404


async def test_a_style_sheet_may_be_kept_for_its_name_changes_with_it(site):
    home = (await site.get("/")).text
    path = home.partition('rel="stylesheet" href="')[2].partition('"')[0]
    page = await site.get(path)
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/css")
    assert "immutable" in page.headers["cache-control"]
    assert (await site.get("/static/pages.py")).status == 404


# --- samples of spam


async def nominated(connection, sample: bytes, address=A) -> None:
    await connection.execute(
        "INSERT INTO relaytest.nomination (address, sample, tool) VALUES ($1::text::inet, $2, 'x')",
        address,
        sample,
    )


# --- numbers


async def test_numbers_and_plots_are_gathered_once_in_a_while(site, connection):
    await put_on(connection)
    await judged(connection, "x")
    page = await site.get("/status")
    assert page.status == 200
    assert "Addresses listed</dt><dd>1</dd>" in page.text
    assert "closed (1)" in page.words
    assert page.text.count("<polyline") == 4
    await connection.execute("DELETE FROM relaytest.listing")
    assert "Addresses listed</dt><dd>1</dd>" in (await site.get("/status")).text


async def test_what_is_kept_is_gathered_once_however_many_ask():
    gathered: list[int] = []

    async def gather() -> int:
        await asyncio.sleep(0.01)
        gathered.append(1)
        return len(gathered)

    kept = Kept(gather, timedelta(seconds=60))
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(kept()) for _ in range(20)]
    assert [task.result() for task in asked] == [1] * 20
    stale = Kept(gather, timedelta(0))
    assert [await stale(), await stale()] == [2, 3]


async def test_what_could_not_be_gathered_is_asked_for_again():
    answers = iter([DatabaseAwayError("away"), None])

    async def gather() -> str:
        if error := next(answers):
            raise error
        return "there"

    kept = Kept(gather, timedelta(seconds=60))
    with pytest.raises(DatabaseAwayError):
        await kept()
    assert await kept() == "there"
