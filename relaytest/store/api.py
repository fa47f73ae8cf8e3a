"""What the HTTP API says, as JSON that the database makes; and who may write by it."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from relaytest.core.errors import RefusedRequestError
from relaytest.core.target import Address
from relaytest.store.database import Connection

LOOKUP = """
    SELECT json_build_object(
        'address', host($1::inet),
        'listed', EXISTS (SELECT FROM relaytest.listing_current WHERE address = $1),
        'listings', (SELECT coalesce(json_agg(json_build_object(
                'port', port, 'code', '127.0.0.' || code, 'listed_at', listed_at,
                'expires_at', expires_at, 'recheck_at', recheck_at, 'evidence', trial)
                ORDER BY port), '[]')
              FROM relaytest.listing_current WHERE address = $1),
        'suspected', EXISTS (SELECT FROM relaytest.listing
                              WHERE address = $1 AND state = 'suspected' AND expires_at > now()),
        'verdicts', (SELECT coalesce(json_agg(json_build_object(
                'port', port, 'verdict', verdict, 'reason', reason, 'condition', condition,
                'confidence', confidence, 'explanation', explanation,
                'exit_address', host(exit_address), 'decided_at', decided_at, 'evidence', trial)
                ORDER BY port), '[]')
              FROM relaytest.verdict_latest WHERE address = $1),
        'requests', (SELECT coalesce(json_agg(json_build_object(
                'request', id, 'port', port, 'reason', reason, 'running', leased,
                'run_at', run_at) ORDER BY id), '[]')
              FROM relaytest.job WHERE address = $1))::text
"""
BULK = """
    SELECT json_build_object('results', coalesce(json_agg(json_build_object(
               'address', host(asked.address), 'listed', codes IS NOT NULL,
               'codes', coalesce(codes, '{}')) ORDER BY asked.place), '[]'))::text
      FROM unnest($1::inet[]) WITH ORDINALITY AS asked (address, place)
      LEFT JOIN LATERAL (SELECT array_agg(DISTINCT '127.0.0.' || l.code) AS codes
                           FROM relaytest.listing_current AS l
                          WHERE l.address = asked.address) AS found ON true
"""
LISTED = """
    SELECT coalesce(json_agg(one ORDER BY address, port), '[]')::text,
           (array_agg(host(address) || '/' || port ORDER BY address DESC, port DESC))[1]
      FROM (SELECT address, port, json_build_object(
                       'address', host(address), 'port', port, 'code', '127.0.0.' || code,
                       'listed_at', listed_at, 'expires_at', expires_at,
                       'evidence', trial) AS one
              FROM relaytest.listing_current WHERE (address, port) > ($1::inet, $2::integer)
             ORDER BY address, port LIMIT $3) AS page
"""
VERDICTS = """
    SELECT coalesce(json_agg(one ORDER BY id), '[]')::text, max(id)::text
      FROM (SELECT id, json_build_object(
                       'verdict', verdict, 'address', host(address), 'port', port,
                       'reason', reason, 'condition', condition, 'confidence', confidence,
                       'explanation', explanation, 'exit_address', host(exit_address),
                       'decided_at', decided_at, 'evidence', trial) AS one
              FROM relaytest.verdict WHERE id > $1 ORDER BY id LIMIT $2) AS page
"""
ALLOWED = """
    SELECT name, may FROM relaytest.api_token WHERE hash = sha256($1) AND ended_at IS NULL
"""
ADMIT = """
    INSERT INTO relaytest.api_token (name, hash, may) VALUES ($1, sha256($2), $3)
    ON CONFLICT (name) WHERE ended_at IS NULL DO NOTHING RETURNING id
"""
DISMISS = """
    UPDATE relaytest.api_token SET ended_at = now() WHERE name = $1 AND ended_at IS NULL
    RETURNING id
"""
HOLDERS = "SELECT name, may, created_at, ended_at FROM relaytest.api_token ORDER BY id"


async def lookup(connection: Connection, address: Address) -> str:
    """Return what is known of an address, as a JSON object."""
    text: str = await connection.fetchval(LOOKUP, address)
    return text


async def bulk(connection: Connection, addresses: Sequence[Address]) -> str:
    """Return which of many addresses are listed, as a JSON object."""
    text: str = await connection.fetchval(BULK, addresses)
    return text


async def listings(
    connection: Connection, after: tuple[Address, int], most: int
) -> tuple[str, str | None]:
    """Return the listings that follow a target as a JSON array, and the last as address/port."""
    row = (await connection.fetch(LISTED, *after, most))[0]
    return row[0], row[1]


async def verdicts(connection: Connection, after: int, most: int) -> tuple[str, str | None]:
    """Return the verdicts that follow one as a JSON array, and the number of the last one."""
    row = (await connection.fetch(VERDICTS, after, most))[0]
    return row[0], row[1]


async def allowed(connection: Connection, token: bytes) -> asyncpg.Record | None:
    """Return name and rights of a token; None if it is none, or ended."""
    return await connection.fetchrow(ALLOWED, token)


async def add_token(connection: Connection, name: str, token: bytes, may: Sequence[str]) -> None:
    """Let a token be used.

    Raises:
        RefusedRequestError: There is one of that name.
    """
    if await connection.fetchval(ADMIT, name, token, sorted(set(may))) is None:
        raise RefusedRequestError(f"there is a token {name!r} already; end it first")


async def end_token(connection: Connection, name: str) -> None:
    """Let a token be used no more.

    Raises:
        RefusedRequestError: There is none of that name.
    """
    if await connection.fetchval(DISMISS, name) is None:
        raise RefusedRequestError(f"there is no token {name!r}; see: relaytest token list")


async def tokens(connection: Connection) -> list[tuple[str, list[str], datetime, datetime | None]]:
    """Return name, rights, beginning and end of all tokens."""
    return [tuple(row) for row in await connection.fetch(HOLDERS)]
