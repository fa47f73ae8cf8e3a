"""What the zones say of themselves, for a DNS server on the database (sql/0011, 0012, 0019)."""

from collections.abc import Sequence

from relaytest.core.zone import Apex
from relaytest.store.database import Connection

WRITE = """
    INSERT INTO relaytest.dns_zone AS z
        (zone, nameservers, hostmaster, ttl, about, codes, versions, listed, entries)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (zone) DO UPDATE SET
        nameservers = excluded.nameservers, hostmaster = excluded.hostmaster, ttl = excluded.ttl,
        about = excluded.about, codes = excluded.codes, versions = excluded.versions,
        listed = excluded.listed, entries = excluded.entries
     WHERE (z.nameservers, z.hostmaster, z.ttl, z.about, z.codes, z.versions, z.listed, z.entries)
           IS DISTINCT FROM (excluded.nameservers, excluded.hostmaster, excluded.ttl,
                             excluded.about, excluded.codes, excluded.versions,
                             excluded.listed, excluded.entries)
"""
DROP = "DELETE FROM relaytest.dns_zone WHERE zone <> ALL ($1::text[])"


async def write_zones(connection: Connection, zones: Sequence[Apex]) -> None:
    """Let the database serve these zones, and no others."""
    await connection.execute(DROP, [apex.zone for apex in zones])
    for apex in zones:
        await write_zone(connection, apex)


async def write_zone(connection: Connection, apex: Apex) -> None:
    """Let the database serve a zone as it is by now."""
    await connection.execute(
        WRITE,
        apex.zone,
        apex.nameservers,
        apex.hostmaster,
        apex.seconds,
        apex.about,
        apex.codes,
        apex.versions,
        [] if apex.shut else [*apex.texts],
        [] if apex.shut else [*apex.texts.values()],
    )
