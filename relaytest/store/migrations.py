"""The schema's version: apply sql/NNNN_name.sql in order, once each."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from relaytest.core.errors import SchemaError
from relaytest.store.database import Connection

LOCK = "SELECT pg_advisory_xact_lock(hashtext('relaytest schema'))"
BOOTSTRAP = """
    CREATE SCHEMA IF NOT EXISTS relaytest;
    CREATE TABLE IF NOT EXISTS relaytest.schema_version (
        version    integer     PRIMARY KEY,
        name       text        NOT NULL,
        sha256     text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
EXISTS = "SELECT to_regclass('relaytest.schema_version') IS NOT NULL"
APPLIED = "SELECT version, name, sha256 FROM relaytest.schema_version ORDER BY version"
RECORD = "INSERT INTO relaytest.schema_version (version, name, sha256) VALUES ($1, $2, $3)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file of sql/.

    Attributes:
        version: From 1, without gaps.
    """

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Fingerprint of the text, to notice a file that was changed after it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database stands.

    Attributes:
        version: Last migration applied; 0 for an empty database.
        pending: Names of the migrations that are still to be applied.
    """

    version: int
    pending: tuple[str, ...]


def shipped() -> tuple[Migration, ...]:
    """Return the migrations that come with the program, in order.

    A wheel carries them as relaytest/_sql; in a checkout they are in sql/ beside relaytest/.

    Raises:
        SchemaError: None found, or the numbers have a gap.
    """
    inside = Path(str(files("relaytest") / "_sql"))
    folder = inside if inside.is_dir() else inside.parents[1] / "sql"
    found = tuple(
        Migration(int(file.name[:4]), file.stem, file.read_text(encoding="utf-8"))
        for file in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    )
    if not found or [one.version for one in found] != list(range(1, len(found) + 1)):
        raise SchemaError(f"{folder}: no migrations, or their numbers have a gap")
    return found


async def status(connection: Connection, migrations: tuple[Migration, ...]) -> SchemaStatus:
    """Compare a database with the program's migrations.

    Raises:
        SchemaError: The database is newer than the program, or an applied file was changed.
    """
    applied = await connection.fetch(APPLIED) if await connection.fetchval(EXISTS) else []
    known = {migration.version: migration for migration in migrations}
    for row in applied:
        migration = known.get(row["version"])
        if migration is None:
            raise SchemaError(
                f"the database has schema {applied[-1]['version']}, this program knows up to "
                f"{len(migrations)}: install the newer relaytest"
            )
        if migration.sha256 != row["sha256"]:
            raise SchemaError(
                f"migration {migration.name} was changed after it was applied to this database; "
                "restore the file and put the change into a new migration"
            )
    done = {row["version"] for row in applied}
    return SchemaStatus(
        max(done, default=0), tuple(m.name for m in migrations if m.version not in done)
    )


async def upgrade_one(connection: Connection, migrations: tuple[Migration, ...]) -> str | None:
    """Apply the next migration inside the caller's transaction; return its name, or None.

    Two programs that upgrade at once wait for each other; the second finds nothing to do.

    Raises:
        SchemaError: As `status`.
    """
    await connection.execute(LOCK)
    pending = (await status(connection, migrations)).pending
    if not pending:
        return None
    await connection.execute(BOOTSTRAP)
    migration = next(one for one in migrations if one.name == pending[0])
    await connection.execute(migration.text)
    await connection.execute(RECORD, migration.version, migration.name, migration.sha256)
    return migration.name
