"""Every page with all in it that strangers can put there: it stays text, and it stays small."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser
from urllib.parse import quote, urlsplit

import pytest
from fastapi.routing import APIRoute

from relaytest.daemons.web.pages import Site
from relaytest.daemons.web.render import Renderer
from relaytest.net.dns import Resolver
from relaytest.store import api
from tests.daemons import test_web
from tests.daemons.test_web import TOKEN, A, Page, nominated, put_on, serving
from tests.lab import lab_config

LARGEST = 30_000  # octets of a page
MAIL = {"smarthost": "127.66.0.1:9", "sender": "list@relays.example"}
SECTIONS = {"mail": MAIL, "web": {"url": "https://relays.example", "client_requests": 9999}}
CODE = "c" * 32

# A browser, a terminal, a template, a header, an event stream, or a reader is to be deceived.
CORPUS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' autofocus onfocus='alert(1)",
    "</pre></main><iframe src=//evil.example></iframe>",
    "</title><svg/onload=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<!-- <form action=//evil.example> ]]>",
    "&lt;script&gt; &#x3c;script&#x3e;",
    "{{ 7 * 7 }} {% include 'x' %} ${7*7}",
    "\r\nX-Injected: 1\r\n\r\n<html>",
    "\x1b[2J\x1b]0;owned\x07 \x9b31m",
    "\u202egpj.exe\u2066 \u200f \u2028",
    "x\n\nevent: end\ndata: owned\n\n",
    "\x00\x7f\xff\ufffd",
]
EVIL = " ".join(CORPUS)
OCTETS = EVIL.encode("utf-8", "surrogateescape") + b"\xff\xfe\x80"
TEXT = EVIL.replace("\x00", "")  # no text column of the database takes it

TAGS = {
    *("html", "head", "meta", "title", "link", "script", "noscript", "body", "header", "main"),
    *("footer", "nav", "h1", "h2", "h3", "p", "a", "strong", "em", "br", "pre", "code", "mark"),
    *("ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "div"),
    *("form", "label", "input", "button", "progress", "svg", "polygon", "polyline", "text"),
}
ATTRIBUTES = {
    *("lang", "charset", "name", "content", "http-equiv", "rel", "href", "src", "defer", "class"),
    *("id", "role", "aria-live", "aria-label", "data-events", "data-challenge", "action", "method"),
    *("for", "type", "value", "maxlength", "required", "autocomplete", "autocapitalize", "hidden"),
    *("spellcheck", "scope", "max", "viewbox", "points", "x", "y", "text-anchor"),
}


@dataclass
class Seen(HTMLParser):
    """What a browser would see in a page."""

    tags: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    inline: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.attributes |= set(given)
        self.links += [given[name] or "" for name in ("href", "src", "action") if name in given]
        if tag == "link":
            self.styles.append(given["href"] or "")
        if tag == "script":
            self.scripts.append(given.get("src") or "")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip():
            self.inline.append(data)


def seen_in(page: Page) -> Seen:
    seen = Seen()
    seen.feed(page.text)
    seen.close()
    return seen


def assert_harmless(page: Page, path: str) -> None:
    assert page.status < 500, path
    assert "x-injected" not in page.headers, path
    assert page.headers["x-content-type-options"] == "nosniff", path
    assert "default-src 'none'" in page.headers["content-security-policy"], path
    odd = {one for one in page.text if not one.isprintable() and one != "\n"}
    assert odd == set(), path
    assert TOKEN not in page.text.lower(), path


def assert_plain_html(page: Page, path: str) -> None:
    assert page.headers["content-type"] == "text/html; charset=utf-8", path
    seen = seen_in(page)
    assert seen.tags <= TAGS, path
    assert seen.attributes <= ATTRIBUTES, path
    assert seen.inline == [], path
    sources = {"https"} if path.startswith("/fix") else set()  # the vendors' manuals
    for link in seen.links:
        parts = urlsplit(link)
        assert (link.startswith("/") and not link.startswith("//")) or parts.scheme in sources, path


async def fill(connection) -> None:
    """Everything that strangers, tools and operators may have written, about one server."""
    await put_on(connection)
    await connection.execute(
        "INSERT INTO relaytest.vantage (name, seen_at, sources)"
        " VALUES ('default', now(), '{198.51.100.1}');"
    )
    await connection.execute(
        "UPDATE relaytest.trial SET vantage = 'default', visits = 1, probed_at = now(),"
        " ended = true, requester = $1",
        TEXT,
    )
    for port, (verdict, reason) in enumerate(
        [("open", "relayed"), ("unknown", "blocked"), ("closed", "refused")], 25
    ):
        await connection.execute(
            "INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
            " explanation, forms) VALUES (1, $1::text::inet, $2, $3, $4, 'high', $5, $6)",
            *(A, port, verdict, reason, f"{TEXT} {TOKEN}", [TEXT, "S-EXT/R-PLAIN"]),
        )
    await connection.execute(
        "INSERT INTO relaytest.exclusion (network, why, actor) VALUES ('192.0.2.0/24', $1, $1)",
        TEXT[:500],
    )
    for _ in range(300):
        await connection.execute(
            "INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why,"
            " actor) VALUES ($1::text::inet, 25, 'x', 'listed', 'unlisted', 1, $2, $2)",
            A,
            f"{TEXT} {TOKEN}",
        )
    await connection.execute(
        "INSERT INTO relaytest.job (address, port, reason, priority, requester, note)"
        " VALUES ($1::text::inet, 25, 'operator', 1, $2, $3)",
        *(A, TEXT[:200], TEXT),
    )
    await nominated(connection, b"To: a@b.example\r\nX: " + OCTETS + b"\r\n\r\n" + OCTETS * 300)
    await connection.execute(
        "INSERT INTO relaytest.subscription (job, mailbox, code) VALUES (1, 'a@b.example', $1)",
        CODE,
    )


async def fill_evidence(connection) -> None:
    """As much as one trial may have."""
    line = TOKEN.encode() + OCTETS
    said = [b"MAIL FROM:<x>\r\nRCPT TO:<%b@s>\r\nDATA\r\n" % TOKEN.encode(), line * 400, b".\r\n"]
    said.append(b"250 " + line * 100 + b"\r\n")
    for number in range(80):
        await connection.execute(
            "INSERT INTO relaytest.session (trial, visit, purpose, started_at, seconds, ended,"
            " detail, at, ours, octets, tls, greeting, hello)"
            " VALUES (1, 1, 'confirm', $1, 1, 'hung-up', $2, '{0,0,0,0}', '{t,f,t,f}', $3,"
            " 'TLSv1.3', $2, $2)",
            datetime(2026, 1, 2, tzinfo=UTC),
            f"{TEXT} {TOKEN}",
            said if number % 8 == 0 else [line, line, line, line],
        )
    for form in range(60):
        await connection.execute(
            "INSERT INTO relaytest.receipt (trial, form, mailbox, peer, helo, reverse_path,"
            " forward_path, message, size, copies)"
            " VALUES (1, $1, 'forward', '192.0.2.9', $2, $2, $3, $4, 1 << 20, 2)",
            form + 257,
            line,
            b"<%b@s> " % TOKEN.encode() + OCTETS,
            (b"Received: from " + line.replace(b"\r\n", b" ") + b"\r\n") * 60 + OCTETS * 100,
        )


@pytest.fixture
async def full(database, connection, tmp_path) -> AsyncIterator[test_web.Site]:
    await fill(connection)
    await fill_evidence(connection)
    await connection.execute("SELECT setval('relaytest.trial_id', 2)")
    async with serving(database, tmp_path, **SECTIONS) as site:
        yield site


PAGES = {
    "/": ["/"],
    "/static/{name}": ["/static/style.css"],
    "/lookup": [],
    "/lookup/{address:path}": [f"/lookup/{A}", "/lookup/192.0.2.77"],
    "/history/{address:path}": [f"/history/{A}", f"/history/{A}?before=150"],
    "/evidence/{trial}.zip": [],
    "/evidence/{trial}": ["/evidence/1"],
    "/evidence/{trial}/message/{number}": ["/evidence/1/message/1", "/evidence/1/message/50"],
    "/evidence/{trial}/session/{number}": ["/evidence/1/session/1", "/evidence/1/session/2"],
    "/sample/{number}": ["/sample/1"],
    "/fix": ["/fix"],
    "/fix/{address:path}": [f"/fix/{A}"],
    "/about-testing": ["/about-testing"],
    "/criteria": ["/criteria"],
    "/faq": ["/faq"],
    "/using": ["/using"],
    "/removal": ["/removal"],
    "/request/{job}": ["/request/1"],
    "/request/{job}/events": [],
    "/status": ["/status"],
    "/mail/{code}": [f"/mail/{CODE}"],
}
PATHS = [path for paths in PAGES.values() for path in paths if not path.startswith("/static")]


async def test_every_page_is_looked_at_here(database, tmp_path):
    config = lab_config(tmp_path)
    async with Resolver(config.dns.nameservers, config.dns.timeout) as resolver:
        routes = Site(config, database, resolver, Renderer(config)).routes().routes
    known = {r.path for r in routes if isinstance(r, APIRoute) and "GET" in r.methods}
    assert known == set(PAGES)


async def test_whatever_is_on_file_stays_text_and_every_page_small(full):
    for path in PATHS:
        page = await full.get(path)
        assert page.status == 200, path
        assert_harmless(page, path)
        assert_plain_html(page, path)
        assert len(page.text.encode()) <= LARGEST, path
    for name in PAGES["/static/{name}"]:
        assert len((await full.get(name)).text) <= LARGEST


async def test_a_page_is_one_request_and_one_for_its_style(full):
    for path in PATHS:
        seen = seen_in(await full.get(path))
        assert len(seen.styles) == 1, path
        assert len(seen.scripts) == (path == "/request/1"), path
        assert not seen.tags & {"img", "iframe", "style", "video", "object"}, path


def typed() -> Iterator[str]:
    for text in CORPUS:
        coded = quote(text, safe="")
        yield f"/lookup?address={coded}"
        for where in ("lookup", "history", "fix", "static", "mail", "sample", "request"):
            yield f"/{where}/{coded}"
        yield from (f"/{coded}", f"/evidence/{coded}", f"/evidence/1/session/{coded}")
        yield f"/history/{A}?before={coded}"
        yield f"/request/{coded}/events"


async def test_whatever_is_typed_stays_text(full):
    for path in typed():
        page = await full.get(path)
        assert_harmless(page, path)
        if page.headers.get("content-type", "").startswith("text/html"):
            assert_plain_html(page, path)
        if page.status == 303:
            assert page.headers["location"].startswith("/lookup/")


async def test_whatever_is_sent_by_a_form_stays_text(full, connection):
    for text in CORPUS:
        for fields in (
            {"address": text[:60]},
            {"address": A, "port": text},
            {"address": A, "mailbox": text},
            {"address": A, "solution": text, "way": text[:10]},
            {text: text},
        ):
            page = await full.post("/removal", fields)
            assert_harmless(page, str(fields))
            await connection.execute("DELETE FROM relaytest.allowance")
        assert_harmless(await full.post(f"/mail/{CODE}", {"wish": text}), text)


async def test_a_puzzle_is_plain_too(full, connection):
    await connection.execute(
        "INSERT INTO relaytest.allowance VALUES ('removal', 4000, now() + interval '1 hour')"
    )
    page = await full.post("/removal", {"address": A, "mailbox": "o'neil&x@b.example"})
    assert "One more step" in page.words
    assert_harmless(page, "puzzle")
    assert_plain_html(page, "puzzle")
    assert len(page.text) <= LARGEST
    assert len(seen_in(page).scripts) == 1


async def test_headers_of_a_stranger_change_nothing(full):
    for text in CORPUS:
        value = text.replace("\r\n", " ").replace("\n", " ").replace("\x00", "")
        header = value.encode("utf-8").decode("latin-1")
        names = ("X-Forwarded-For", "User-Agent", "Referer", "Accept-Language", "Cookie")
        page = await full.say("GET / HTTP/1.1", b"", *(f"{name}: {header}" for name in names))
        if page.status == 200:  # what is no header is refused by the server
            assert_harmless(page, text)
            assert_plain_html(page, text)


async def test_events_hold_no_event_of_a_stranger(full, connection):
    await connection.execute("DELETE FROM relaytest.job")
    page = await full.say("GET /request/1/events HTTP/1.0", b"")
    assert_harmless(page, "events")
    kinds = {line.partition(":")[0] for line in page.text.splitlines() if line}
    assert kinds <= {"event", "data"}
    assert [line for line in page.text.splitlines() if line.startswith("event:")] == [
        "event: progress",
        "event: end",
    ]
    assert "owned" in page.text  # as text


async def test_answers_for_programs_are_json_that_no_browser_takes_for_a_page(full, connection):
    await api.add_token(connection, "x", b"t", ["request", "nominate"])
    allowed = "Authorization: Bearer t"
    asked = [
        await full.say(f"GET /api/v1{path} HTTP/1.1", b"", allowed)
        for path in (f"/lookup/{A}", "/listings", "/verdicts", "/requests/1", "/nominations/1")
    ]
    for text in CORPUS:
        coded = quote(text, safe="")
        asked += [
            await full.say(f"GET /api/v1/{path}{coded} HTTP/1.1", b"", allowed)
            for path in ("lookup/", "listings?after=", "requests/", "nominations/", "")
        ]
        for body in ({"target": text, "reason": text}, {"addresses": [text]}, text):
            for path in ("requests", "lookup"):
                octets = json.dumps(body).encode()
                head = ("Content-Type: application/json", f"Content-Length: {len(octets)}", allowed)
                asked.append(await full.say(f"POST /api/v1/{path} HTTP/1.1", octets, *head))
    for page in asked:
        assert page.status < 500
        assert page.headers["content-type"] in {"application/json", "application/problem+json"}
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "x-injected" not in page.headers
        assert not [one for one in page.text if ord(one) < 32 and one != "\n"]
        assert TOKEN not in page.text.lower()
        json.loads(page.text)


async def test_all_evidence_can_be_loaded_whatever_it_is(full):
    async with asyncio.timeout(20):
        head = await full.head_of("/evidence/1.zip")
    assert head["content-type"] == "application/zip"
    assert head["content-disposition"] == 'attachment; filename="evidence-1.zip"'
