"""What is listed, as DNS servers read it: streamed, so a long list costs no memory."""

import asyncio
from collections.abc import Callable, Mapping

from relaytest.store.database import Connection

# An address is there once, under the least of the codes that are asked for.
PUBLISHED4 = """
    SELECT host(address), address, min(code) AS code FROM relaytest.listing_current
     WHERE family(address) = 4 AND code = ANY ($1::smallint[]) GROUP BY address ORDER BY address
"""
PUBLISHED6 = """
    SELECT host(address), address, min(code) AS code FROM relaytest.listing_current
     WHERE family(address) = 6 AND code = ANY ($1::smallint[]) GROUP BY address ORDER BY address
"""
EXPORT = "SELECT host FROM ({query}) AS entry"
# Of several codes the first is the file's default; the others say what they are.
EXPORT_CODES = """
    SELECT host || CASE WHEN code = ($1::smallint[])[1] THEN ''
                        ELSE ' :' || code || ':' || ($2::text[])[array_position($1, code)] || '$'
                   END
      FROM ({query}) AS entry
"""
# As a master file: owner and records of each entry, in one row that becomes two lines.
EXPORT_RECORDS = """
    SELECT owner || ' A 127.0.0.' || code || E'\\x1f' ||
           owner || ' TXT "' || ($2::text[])[array_position($1, code)] || host || '"'
      FROM (SELECT host, code, {owner} AS owner FROM ({query}) AS entry OFFSET 0) AS named
"""
# The names above the entries: of IPv4 the networks that they are in, of IPv6 each nibble; of each
# entry only what the one before it does not have already; so one that is there twice does no harm.
EXPORT_PATHS4 = """
    WITH entry AS (SELECT address - '0.0.0.0'::inet AS n FROM relaytest.listing_current
                    WHERE family(address) = 4 AND code = ANY ($1::smallint[])),
    step AS MATERIALIZED (SELECT n, n # lag(n, 1, ~n) OVER (ORDER BY n) AS new FROM entry)
    SELECT (n >> 8 & 255) || '.' || (n >> 16 & 255) || '.' || (n >> 24) || '{path}'
      FROM step WHERE new >> 8 <> 0
     UNION ALL
    SELECT (n >> 16 & 255) || '.' || (n >> 24) || '{path}' FROM step WHERE new >> 16 <> 0
     UNION ALL
    SELECT (n >> 24) || '{path}' FROM step WHERE new >> 24 <> 0
"""
EXPORT_PATHS6 = """
    WITH named AS MATERIALIZED (SELECT address, {owner} AS owner FROM relaytest.listing_current
                                 WHERE family(address) = 6
                                   AND code = ANY ($1::smallint[])),
    step AS (SELECT address, owner, masklen(inet_merge(
                        address, lag(address) OVER (ORDER BY address))) / 4 AS shared FROM named)
    SELECT right(owner, 2 * n - 1) || '{path}'
      FROM step CROSS JOIN generate_series(coalesce(shared, 0) + 1, 31) AS n ORDER BY address, n
"""
OWNER4 = """concat_ws('.', (address - '0.0.0.0'::inet) & 255,
                           (address - '0.0.0.0'::inet) >> 8 & 255,
                           (address - '0.0.0.0'::inet) >> 16 & 255,
                           (address - '0.0.0.0'::inet) >> 24)"""
OWNER6 = r"""regexp_replace(reverse(encode(substring(inet_send(address) FROM 5), 'hex')),
                            '(.)(?=.)', '\1.', 'g')"""

_SILENCE = 60.0  # seconds; a million rows are sorted within one
_NO_LIMIT = 86400.0  # seconds; instead of that for a short statement
_LINE_END = b"\x1f"  # COPY would escape a real one


async def _stream(
    connection: Connection, query: str, *arguments: object, write: Callable[[bytes], object]
) -> int:
    """Stream the rows of a query; return their count.

    COPY with a callback needs no memory for the rows and is as fast as psql's copy.

    Raises:
        TimeoutError: Nothing came for `_SILENCE`; the whole may take longer.
    """
    loop = asyncio.get_running_loop()

    async with asyncio.timeout(_SILENCE) as limit:

        async def take(data: bytes) -> None:
            limit.reschedule(loop.time() + _SILENCE)
            write(data)

        done: str = await connection.copy_from_query(
            query, *arguments, output=take, timeout=_NO_LIMIT
        )
    return int(done.rpartition(" ")[2])


async def addresses(
    connection: Connection, version: int, write: Callable[[bytes], object], texts: Mapping[int, str]
) -> int:
    """Stream the published addresses of one IP version, a line each, in order; return the count.

    Args:
        connection: Any.
        version: 4 or 6.
        write: Gets the octets.
        texts: Of each code that is asked for; the first is the file's default, and is not told.
    """
    query = PUBLISHED4 if version == 4 else PUBLISHED6
    if len(texts) == 1:
        return await _stream(connection, EXPORT.format(query=query), [*texts], write=write)
    query = EXPORT_CODES.format(query=query)
    return await _stream(connection, query, [*texts], [*texts.values()], write=write)


async def records(
    connection: Connection, version: int, write: Callable[[bytes], object], texts: Mapping[int, str]
) -> int:
    """Stream the published addresses of one IP version as a master file; return the count.

    Args:
        connection: See `addresses`; so are the others.
        version: 4 or 6.
        write: Gets the octets.
        texts: Of each code, before the address; without quotes and backslashes.
    """
    query = PUBLISHED4 if version == 4 else PUBLISHED6
    query = EXPORT_RECORDS.format(query=query, owner=OWNER4 if version == 4 else OWNER6)

    def take(data: bytes) -> None:
        write(data.replace(_LINE_END, b"\n"))

    return await _stream(connection, query, [*texts], [*texts.values()], write=take)


async def names_above(
    connection: Connection,
    version: int,
    write: Callable[[bytes], object],
    texts: Mapping[int, str],
    path: str,
) -> None:
    """Stream the names above the published addresses of one IP version, each once, a line each.

    Args:
        connection: See `addresses`; so are the others.
        version: 4 or 6.
        write: Gets the octets.
        texts: Only the codes count.
        path: What stands behind each name.
    """
    query = (EXPORT_PATHS4 if version == 4 else EXPORT_PATHS6).format(owner=OWNER6, path=path)
    await _stream(connection, query, [*texts], write=write)
