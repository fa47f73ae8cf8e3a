"""Busy hours: when there is a puzzle, what its solution is good for, and how it goes without."""

import base64
import contextlib
import html
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_address

import altcha
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relaytest.daemons.web import puzzle
from relaytest.store import allowances
from tests.daemons.test_web import A, B, Page, Site, jobs_of, put_on, serving

HOUR = timedelta(hours=1)
ADDRESS = ip_address(A)
MAIL = {"smarthost": "127.66.0.1:9", "sender": "list@relays.example"}


@pytest.fixture(autouse=True)
def easy(monkeypatch):
    """A puzzle that Python solves at once."""
    monkeypatch.setattr(puzzle, "GUESSES", (2, 5))


@contextlib.asynccontextmanager
async def limited(database, tmp_path, connection, **web: object) -> AsyncIterator[Site]:
    await put_on(connection)
    async with serving(database, tmp_path, web=web) as site:
        yield site


@pytest.fixture
async def busy(database, tmp_path, connection):
    """A site where two of three requests of all have come."""
    async with limited(database, tmp_path, connection, requests=3) as site:
        for _ in range(2):
            await use(connection, "removal", 3)
        yield site


async def use(connection, key: str, most: int) -> None:
    await allowances.use(connection, key, most, HOUR)


async def ask(site: Site, address: str = A, **more: str) -> Page:
    return await site.post("/removal", {"address": address, **more})


def challenge_in(page: Page) -> str:
    return html.unescape(re.search('data-challenge="([^"]*)"', page.text)[1])


def solve(challenge: str) -> str:
    """What the browser sends, by the library's own solver."""
    parsed = altcha.Challenge.from_dict(json.loads(challenge))
    solution = altcha.solve_challenge(parsed)
    assert solution is not None
    return altcha.Payload(parsed, solution).to_base64()


def changed(solution: str, *path: str, value: object) -> str:
    whole = json.loads(base64.b64decode(solution))
    part = whole
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return base64.b64encode(json.dumps(whole).encode()).decode()


# --- when there is one


async def test_who_asks_below_the_limits_sees_nothing_of_it(database, tmp_path, connection):
    async with limited(database, tmp_path, connection, requests=4) as site:
        for _ in range(3):
            page = await ask(site)
            assert page.status == 303
        assert "challenge" not in (await site.get("/removal")).text


@pytest.mark.parametrize(
    ("web", "key"),
    [
        ({"requests": 3}, "removal"),
        ({"client_requests": 3}, "removal 127.0.0.1"),
        ({"target_requests": 3}, f"removal of {A}"),
    ],
    ids=["all", "client", "target"],
)
async def test_near_a_limit_there_is_a_puzzle(database, tmp_path, connection, web, key):
    async with limited(database, tmp_path, connection, **web) as site:
        for _ in range(2):
            await use(connection, key, 3)
        page = await ask(site)
    assert page.status == 200
    assert "One more step" in page.words
    assert "the test begins 10 minutes from now" in page.words
    assert await jobs_of(connection) == []


async def test_near_the_limit_of_a_mailbox_there_is_a_puzzle(database, tmp_path, connection):
    await put_on(connection)
    sections = {"mail": MAIL | {"outcomes_per_mailbox": 3}, "web": {"url": "https://x.example"}}
    async with serving(database, tmp_path, **sections) as site:
        for _ in range(2):
            await use(connection, "outcomes ann@b.example", 3)
        page = await ask(site, mailbox="Ann@b.example")
        assert 'name="mailbox" value="Ann@b.example"' in page.text
        assert "One more step" in page.words
        assert (await ask(site)).status == 303  # without the mailbox there is none


async def test_beyond_a_limit_nobody_solves_in_vain(busy, connection):
    await use(connection, "removal", 3)
    page = await ask(busy)
    assert page.status == 429
    assert "too many requests in all" in page.words


async def test_what_is_not_listed_needs_no_puzzle(busy, connection):
    page = await ask(busy, B)
    assert page.status == 409
    assert "not listed: nothing to do" in page.words


async def test_looking_at_a_puzzle_uses_nothing(busy, connection):
    for _ in range(5):
        assert "One more step" in (await ask(busy)).words
    assert await allowances.used(connection, ["removal"]) == {"removal": 2}


# --- with its solution


async def test_a_solution_is_a_request_like_any_other(busy, connection):
    page = await ask(busy, solution=solve(challenge_in(await ask(busy))))
    assert page.status == 303
    assert await jobs_of(connection) == [(A, 25, "removal-request", 0)]
    assert await connection.fetchval("SELECT run_at <= now() FROM relaytest.job")


async def test_a_solution_counts_once(database, tmp_path, connection):
    async with limited(database, tmp_path, connection, requests=9) as site:
        for _ in range(5):
            await use(connection, "removal", 9)
        solution = solve(challenge_in(await ask(site)))
        assert (await ask(site, solution=solution)).status == 303
        again = await ask(site, solution=solution)
    assert "One more step" in again.words
    assert await connection.fetchval("SELECT requests FROM relaytest.job") == 1


async def test_a_solution_is_good_for_its_address_only(busy, connection):
    await put_on(connection, B, number=2)
    solution = solve(challenge_in(await ask(busy)))
    assert "One more step" in (await ask(busy, B, solution=solution)).words
    assert (await ask(busy, solution=solution)).status == 303


async def test_a_solution_that_comes_too_late_is_none(connection, monkeypatch):
    monkeypatch.setattr(puzzle, "GOOD_FOR", timedelta(seconds=-1))
    solution = solve(await puzzle.challenge(connection, ADDRESS))
    assert not await puzzle.is_solved(connection, solution, ADDRESS)


WRONG = {
    "counter-and-key": (("solution", "derivedKey"), "00" * 32),
    "no-key": (("solution", "derivedKey"), None),
    "easier": (("challenge", "parameters", "keyPrefix"), "00"),
    "cheaper": (("challenge", "parameters", "cost"), 1),
    "later": (("challenge", "parameters", "data"), {"for": A, "until": 1 << 40}),
    "no-data": (("challenge", "parameters", "data"), None),
    "no-signature": (("challenge", "signature"), None),
    "other-signature": (("challenge", "signature"), "00" * 32),
    "no-key-signature": (("challenge", "parameters", "keySignature"), None),
}


@pytest.mark.parametrize(("path", "value"), WRONG.values(), ids=WRONG)
async def test_what_was_changed_is_no_solution(connection, path, value):
    solution = solve(await puzzle.challenge(connection, ADDRESS))
    assert not await puzzle.is_solved(connection, changed(solution, *path, value=value), ADDRESS)
    assert await puzzle.is_solved(connection, solution, ADDRESS)


async def test_a_puzzle_of_another_list_is_none_of_ours(connection):
    made = altcha.create_challenge(
        "PBKDF2/SHA-256", 1, counter=1, data={"for": A, "until": 1 << 40}, hmac_secret="x"
    )
    solution = solve(json.dumps(made.to_dict()))
    assert not await puzzle.is_solved(connection, solution, ADDRESS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["challenge", "solution", "parameters", "data", "nonce", "counter"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_whatever_is_sent_as_a_solution_is_none_and_no_error(connection, value):
    for text in (base64.b64encode(json.dumps(value).encode()).decode(), json.dumps(value)):
        assert not await puzzle.is_solved(connection, text, ADDRESS)


# --- without it


async def test_without_computing_the_test_begins_later(busy, connection):
    page = await ask(busy, way="later")
    assert page.status == 303
    begins = await connection.fetchval("SELECT run_at - now() FROM relaytest.job")
    assert timedelta(minutes=9) < begins <= timedelta(minutes=10)
    at = await connection.fetchval("SELECT run_at FROM relaytest.job")
    progress = await busy.get(page.headers["location"])
    assert f"The test begins at {at:%H:%M} UTC." in progress.words


async def test_below_the_limits_nobody_waits(database, tmp_path, connection):
    async with limited(database, tmp_path, connection) as site:
        assert (await ask(site, way="later")).status == 303
    assert await connection.fetchval("SELECT run_at <= now() FROM relaytest.job")


async def test_who_does_not_compute_leaves_room_for_who_does(database, tmp_path, connection):
    async with limited(database, tmp_path, connection, requests=8) as site:
        for _ in range(5):
            await use(connection, "removal", 8)
        assert [(await ask(site, way="later")).status for _ in range(2)] == [303, 303]
        often = await ask(site, way="later")
        assert often.status == 429
        assert "too many requests without computing" in often.words
        await connection.execute("UPDATE relaytest.allowance SET used = 5 WHERE key = 'removal'")
        solved = await ask(site, solution=solve(challenge_in(await ask(site))))
        assert solved.status == 303
    assert await connection.fetchval("SELECT run_at <= now() FROM relaytest.job")
