"""The HTTP API: what it tells, who may write by it, and how it says no."""

import asyncio
import json

import pytest

from relaytest.store import api
from tests.daemons.test_web import (
    HOSTILE,
    TOKEN,
    A,
    B,
    Page,
    Site,
    found_open,
    jobs_of,
    judged,
    put_on,
    serving,
    trial,
)

KNOWN = "known-token"
SPAM = b"Received: from x (x [192.0.2.7]) by mx with ESMTP; y\r\nSubject: x\r\n\r\nBuy!\r\n"


@pytest.fixture
async def site(database, tmp_path):
    async with serving(database, tmp_path) as running:
        yield running


async def put(site: Site, path: str, body: object, *headers: str, token=KNOWN) -> Page:
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "message/rfc822" if isinstance(body, bytes) else "application/json"
    sent = [f"Content-Type: {kind}", f"Content-Length: {len(octets)}", *headers]
    if token:
        sent.append(f"Authorization: Bearer {token}")
    return await site.say(f"POST /api/v1/{path} HTTP/1.1", octets, *sent)


async def told(site: Site, path: str):
    page = await site.get(f"/api/v1/{path}")
    assert page.status == 200, page.text
    return json.loads(page.text)


def refused(page: Page, status: int) -> str:
    """The sentence of a problem document."""
    assert page.status == status, page.text
    assert page.headers["content-type"] == "application/problem+json"
    said = json.loads(page.text)
    assert said["status"] == status
    return said["detail"]


@pytest.fixture
async def allowed(connection):
    await api.add_token(connection, "trap 7", KNOWN.encode(), ["request", "nominate"])


# --- look-ups


async def test_a_listed_address_is_told_with_its_evidence(site, connection):
    await put_on(connection)
    await found_open(connection, "S-EXT/R-PLAIN")
    said = await told(site, f"lookup/{A}")
    assert (said["address"], said["listed"], said["suspected"]) == (A, True, False)
    assert (
        said["listings"][0] | {"port": 25, "code": "127.0.0.2", "evidence": 1}
        == (said["listings"][0])
    )
    assert said["verdicts"][0]["verdict"] == "open"


async def test_what_is_not_known_is_not_listed(site):
    said = await told(site, "lookup/2001:DB8::1")
    assert said == {
        "address": "2001:db8::1",
        "listed": False,
        "listings": [],
        "suspected": False,
        "verdicts": [],
        "requests": [],
    }


async def test_whoever_knows_the_answer_already_gets_no_body(site, connection):
    first = await site.get(f"/api/v1/lookup/{A}")
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = await site.say(f"GET /api/v1/lookup/{A} HTTP/1.1", b"", f"If-None-Match: {known}")
        assert (again.status, again.text, again.headers["etag"]) == (304, "", tag)
    await put_on(connection)
    page = await site.say(f"GET /api/v1/lookup/{A} HTTP/1.1", b"", f"If-None-Match: {tag}")
    assert page.status == 200
    assert page.headers["etag"] != tag


async def test_many_addresses_are_asked_for_at_once(site, connection):
    await put_on(connection)
    page = await put(site, "lookup", {"addresses": [B, A, "::ffff:192.0.2.1"]}, token="")
    assert json.loads(page.text)["results"] == [
        {"address": B, "listed": False, "codes": []},
        {"address": A, "listed": True, "codes": ["127.0.0.2"]},
        {"address": A, "listed": True, "codes": ["127.0.0.2"]},
    ]
    assert json.loads((await put(site, "lookup", {"addresses": []}, token="")).text) == {
        "results": []
    }


async def test_no_token_of_ours_and_no_octet_of_theirs_does_harm(site, connection):
    await trial(connection)
    text = HOSTILE.replace(b"\x00", b"").decode("latin-1")
    await judged(connection, f"for instance with <{TOKEN}@sink.example> {text}")
    page = await site.get(f"/api/v1/lookup/{A}")
    assert TOKEN not in page.text
    assert page.headers["content-type"] == "application/json"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert text in json.loads(page.text)["verdicts"][0]["explanation"]


# --- lists, page by page


async def pages_of(site: Site, path: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    following = ""
    while True:
        said = await told(site, f"{path}?limit=2{following}")
        rows += said["rows"]
        if said["next"] is None:
            return rows
        assert len(said["rows"]) <= 2
        following = f"&after={said['next']}"


async def test_all_listings_come_page_by_page(site, connection):
    addresses = [A, B, "192.0.2.9", "192.0.2.10", "2001:db8::1"]
    for number, address in enumerate(reversed(addresses), 1):
        await put_on(connection, address, number=number)
    assert [row["address"] for row in await pages_of(site, "listings")] == addresses


async def test_all_verdicts_come_page_by_page(site, connection):
    await trial(connection)
    for number in range(5):
        await judged(connection, f"number {number}")
    rows = await pages_of(site, "verdicts")
    assert [row["explanation"] for row in rows] == [f"number {n}" for n in range(5)]


# --- asking for a test


async def test_a_token_asks_for_a_test_under_its_name(site, connection, allowed):
    page = await put(site, "requests", {"target": A, "reason": "spamtrap"})
    assert page.status == 202
    number = json.loads(page.text)["request"]
    assert page.headers["location"] == f"/api/v1/requests/{number}"
    row = await connection.fetchrow("SELECT target, reason, requester FROM relaytest.retest")
    assert tuple(row) == (A, "spamtrap", "trap 7")
    said = await told(site, f"requests/{number}")
    assert (said["address"], said["stage"], said["verdict"]) == (A, "queued", None)


async def test_a_name_has_no_request_yet(site, connection, allowed):
    page = await put(site, "requests", {"target": "mail.example.org", "reason": "operator"})
    assert (page.status, json.loads(page.text)) == (202, {"request": None})


async def test_the_database_s_refusal_is_handed_on(site, allowed):
    page = await put(site, "requests", {"target": "10.0.0.1", "reason": "operator"})
    assert "target 10.0.0.1 is out of scope" in refused(page, 409)
    page = await put(site, "requests", {"target": A, "reason": "spite"})
    assert 'unknown reason "spite". One of: removal-request' in refused(page, 409)


@pytest.mark.parametrize(("text", "status"), [("a\x00b", 409), ("\ud800", 422)])
async def test_text_that_the_database_does_not_take_is_refused(
    site, connection, allowed, text, status
):
    refused(await put(site, "requests", {"target": text, "reason": "operator"}), status)
    assert await jobs_of(connection) == []


@pytest.mark.parametrize("token", ["", "x", "k\xe4se", "known-token2"])
async def test_without_a_token_nothing_is_asked_for(site, connection, allowed, token):
    page = await put(site, "requests", {"target": A, "reason": "operator"}, token=token)
    assert "a token is wanted" in refused(page, 401)
    assert page.headers["www-authenticate"] == "Bearer"
    assert await jobs_of(connection) == []


async def test_an_ended_token_is_none(site, connection, allowed):
    await api.end_token(connection, "trap 7")
    refused(await put(site, "requests", {"target": A, "reason": "operator"}), 401)


async def test_a_token_may_what_it_may(site, connection):
    await api.add_token(connection, "x", KNOWN.encode(), ["nominate"])
    page = await put(site, "requests", {"target": A, "reason": "operator"})
    assert refused(page, 403) == "this token may not request"


async def test_who_guesses_tokens_is_slowed_down(database, tmp_path):
    async with serving(database, tmp_path, web={"client_requests": 2}) as site:
        asked = [await put(site, "requests", {"target": A, "reason": "x"}) for _ in range(3)]
    assert [page.status for page in asked] == [401, 401, 429]
    assert int(asked[-1].headers["retry-after"]) > 3000


async def test_what_a_token_is_cannot_be_read_anywhere(connection, allowed):
    row = await connection.fetchrow("SELECT * FROM relaytest.api_token")
    assert KNOWN not in str(dict(row))


# --- samples


async def test_a_sample_is_submitted(site, connection, allowed):
    page = await put(site, "nominations", SPAM)
    assert page.status == 202
    assert page.headers["location"] == "/api/v1/nominations/1"
    row = await connection.fetchrow("SELECT sample, tool, address FROM relaytest.submission")
    assert tuple(row) == (SPAM, "trap 7", None)
    refused(await site.get("/api/v1/nominations/1"), 401)  # it may name who got the spam
    known = f"Authorization: Bearer {KNOWN}"
    said = json.loads((await site.say("GET /api/v1/nominations/1 HTTP/1.1", b"", known)).text)
    assert (said["done_at"], said["outcome"]) == (None, "")
    await put(site, f"nominations?address={B}&port=587", SPAM)
    row = await connection.fetchrow(
        "SELECT host(address), port FROM relaytest.submission WHERE id = 2"
    )
    assert tuple(row) == (B, 587)


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("", b"Buy!", 400),
        ("", b"", 400),
        ("?address=x", SPAM, 400),
        ("?port=0", SPAM, 422),
    ],
)
async def test_what_is_no_sample_is_refused(site, connection, allowed, query, body, status):
    refused(await put(site, f"nominations{query}", body), status)
    assert await connection.fetchval("SELECT count(*) FROM relaytest.submission") == 0


async def test_a_sample_that_is_too_long_is_refused_before_it_is_read(site, allowed):
    length = f"Content-Length: {256 * 1024 + 1}"
    page = await site.say("POST /api/v1/nominations HTTP/1.1", b"", length)
    assert "262144 octets at most" in refused(page, 413)


# --- how it says no


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("lookup/x", 400),
        ("lookup/192.0.2.0%2F24", 404),
        ("listings?after=x", 400),
        ("listings?after=192.0.2.1/999999", 400),
        ("listings?limit=0", 422),
        ("listings?limit=1001", 422),
        ("verdicts?after=-1", 422),
        ("verdicts?after=9999999999999999999999", 422),
        ("requests/0", 404),
        ("requests/7", 404),
        ("requests/99999999999999999999999", 404),
        ("nominations/7", 401),
        ("requests", 405),
        ("nothing", 404),
        ("", 404),
    ],
)
async def test_each_mistake_is_a_problem_document(site, path, status):
    refused(await site.get(f"/api/v1/{path}"), status)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"target": A},
        {"target": A, "reason": "operator", "prot": 25},
        {"target": A, "reason": "operator", "port": 0},
        {"target": A, "reason": "operator", "note": "x" * 2001},
        {"target": A, "reason": "operator", "note": "\x00"},
        {"target": "x" * 254, "reason": "operator"},
        [],
    ],
)
async def test_wrong_fields_are_named(site, connection, allowed, body):
    assert refused(await put(site, "requests", body), 422)
    assert await jobs_of(connection) == []


async def test_too_many_addresses_at_once_are_refused(site):
    page = await put(site, "lookup", {"addresses": [A] * 1001}, token="")
    assert "addresses" in refused(page, 422)


async def test_without_the_database_it_says_when_to_come_back(nowhere, tmp_path):
    async with serving(nowhere, tmp_path) as site:
        page = await site.get(f"/api/v1/lookup/{A}")
    assert "database is away" in refused(page, 503)
    assert page.headers["retry-after"] == "5"


async def test_it_is_described(site):
    said = await told(site, "openapi.json")
    assert {path.removeprefix("/api/v1/") for path in said["paths"]} == {
        "lookup/{address}",
        "lookup",
        "listings",
        "verdicts",
        "requests",
        "requests/{number}",
        "nominations",
        "nominations/{number}",
    }


async def test_many_at_once_are_served(site, connection):
    await put_on(connection)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(told(site, f"lookup/{A}")) for _ in range(50)]
    assert all(task.result()["listed"] for task in asked)
