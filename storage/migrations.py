"""Numbered forward migrations, one folder per schema, applied by a job before serving.

``<package>/migrations/NNNN_name.sql`` run in order, each in its own transaction under one advisory
lock, and are recorded with the digest of their text in ``<schema>.schema_migrations``. Running twice
changes nothing. A database that is *newer* than the code is refused, and so is one whose applied
migration has since been edited: both mean that this build does not know what it is talking to.
There are no down-migrations: expand, migrate, contract (docs/adr/0003).
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import psycopg
from psycopg import sql

_FILE_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
_ADVISORY_LOCK_KEY = 0x696C6C75  # "illu": every migrator of this database queues on it
LOCK_TIMEOUT_S = 10  # a migration that waits longer than this behind traffic would stall that traffic


class MigrationRefusedError(RuntimeError):
    """The database and this build disagree; ``code`` is stable."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step: ``number`` from the file name, ``digest`` the SHA-256 of its text."""

    number: int
    name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, hex; tells an edited migration from the applied one."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def _in_package(package: str) -> Traversable:
    return resources.files(package).joinpath("migrations")


def load(package: str) -> list[Migration]:
    """Read the package's migrations in order.

    Raises:
        ValueError: when numbers are not 1..n without a gap.
    """
    found = []
    for entry in _in_package(package).iterdir():
        match = _FILE_NAME.match(entry.name)
        if match:
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"{package}: migrations must be numbered 0001..n without a gap")
    return found


def apply(dsn: str, package: str, schema: str) -> list[str]:
    """Bring ``schema`` up to this build; returns the names applied now, in order.

    Raises:
        MigrationRefusedError: ``schema_newer`` or ``schema_edited``.
        psycopg.Error: when the database is unreachable or a step fails (that step is rolled back).
    """
    migrations = load(package)
    applied: list[str] = []
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_ADVISORY_LOCK_KEY])
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        table = sql.Identifier(schema, "schema_migrations")
        connection.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (number int PRIMARY KEY, name text NOT NULL,"
                " digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            ).format(table)
        )
        known: dict[int, str] = dict(
            connection.execute(sql.SQL("SELECT number, digest FROM {}").format(table)).fetchall()
        )
        _refuse_disagreement(schema, migrations, known)
        for migration in migrations:
            if migration.number in known:
                continue
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_TIMEOUT_S}s"])
                connection.execute(
                    sql.SQL("SET LOCAL search_path TO {}, pg_catalog").format(sql.Identifier(schema))
                )
                connection.execute(migration.text.encode())
                connection.execute(
                    sql.SQL("INSERT INTO {} (number, name, digest) VALUES (%s, %s, %s)").format(table),
                    [migration.number, migration.name, migration.digest],
                )
            applied.append(f"{migration.number:04d}_{migration.name}")
    return applied


def _refuse_disagreement(schema: str, migrations: list[Migration], known: dict[int, str]) -> None:
    newest = max(known, default=0)
    if newest > len(migrations):
        raise MigrationRefusedError(
            "schema_newer",
            f"Schema {schema} is at migration {newest}, this build knows {len(migrations)}. "
            "An older build must not serve a newer schema: deploy the newer build.",
        )
    for migration in migrations:
        digest = known.get(migration.number)
        if digest is not None and digest != migration.digest:
            raise MigrationRefusedError(
                "schema_edited",
                f"Migration {migration.number:04d}_{migration.name} of schema {schema} was edited after it "
                "was applied here. Restore its text and add a new migration instead.",
            )
