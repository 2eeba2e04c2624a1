"""The platform's public keys in Postgres: on record before anything is signed with them.

Once a root has signed a key list, the list alone says which keys there are, in what state, and which of them
signs. Before that, one key is on record: the one of the first start.
Refuses to publish lists that the newest root did not sign, and those that may not follow the current one
(``domain.key_lists``). What is stored is read with the same suspicion (``domain.key_list_record``): a row
that somebody forged is passed over, told in the log and counted, and takes nobody's place. The database
refuses the rest: no list overtakes another unseen.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from domain import key_lists
from domain.errors import ConflictError, RejectedError
from domain.key_list_record import ROWS_MAX, Reading, StoredList, follow
from domain.key_lists import KeyList
from domain.merkle.tree import EMPTY_HEAD
from domain.signing import KeyRecord, KeyState, key_id_of
from domain.strict_json import DocumentError, rejection
from storage.market.audit_log import SQL as LOG
from storage.market.audit_log import checkpoint_of
from storage.market.commands import Commands, Recorded, Write
from storage.market.pool import CONNECT_TIMEOUT_S, Pool, fetch
from storage.signing.keys import register, verify
from storage.sql import load_queries

log = logging.getLogger("marketplace.keys")

SQL = {name: text.encode() for name, text in load_queries("storage.market", "signing_keys.sql").items()}
SQLSTATE_FULL = "KL001"


@dataclass(frozen=True, slots=True)
class KeysOnRecord:
    """All keys, newest first; and the signed list that says so, with its text and root, once there is one.

    ``passed_over`` counts stored lists that do not count; there are none unless somebody forged them.
    """

    keys: tuple[KeyRecord, ...]
    listed: KeyList | None = None
    envelope: str | None = None
    root: bytes | None = None
    passed_over: int = 0

    def find(self, key_id: str) -> KeyRecord | None:
        """Return a key's record."""
        return next((key for key in self.keys if key.key_id == key_id), None)


class ListReader:
    """Reads the record of lists on from where it stopped, so that each reader verifies each list once.

    Two that read at once may verify a list twice; each of their answers is true.
    """

    def __init__(self) -> None:
        self.reading = Reading()

    def read(self, before: Reading, rows: Sequence[TupleRow]) -> Reading | None:
        """Read on from ``before``; None if the rows do not: the record is another one, and is read anew."""
        found = follow(
            before,
            [
                StoredList(position, envelope, bytes(root), root_position)
                for position, envelope, root, root_position in rows
            ],
            read_list,
        )
        self.reading = found or Reading()
        if news := self.reading.passed_over[len(before.passed_over) :]:
            log.error(
                "%d stored key lists do not count, at positions %s (%s): whoever stored them has the serving "
                "role's password (docs/runbooks/signing-keys.md)",
                len(news),
                ", ".join(str(one.position) for one in news[:10]),
                ", ".join(sorted({one.code for one in news})),
            )
        return found


def _from(reading: Reading) -> dict[str, int]:
    # One more than are kept: the row that was read last comes again.
    return {"position": reading.position, "limit": ROWS_MAX + 1}


class SigningKeys:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._commands = Commands(pool)
        self._lists = ListReader()

    async def on_record(self) -> KeysOnRecord:
        """Read the keys."""
        return (await self._read())[0]

    async def _read(self) -> tuple[KeysOnRecord, int]:
        """Return the keys, and the position of the record's last list."""
        reading = None
        while reading is None:
            before = self._lists.reading
            reading = self._lists.read(before, await fetch(self._pool, SQL["key_lists_from"], _from(before)))
        if reading.listed is None:
            values = {"limit": key_lists.KEYS_MAX}
            unlisted = await fetch(self._pool, SQL["signing_keys"], values)
            return _unlisted(unlisted, reading), reading.position
        return _listed(reading), reading.position

    async def publish(
        self, write: Write, envelope: str, body: Mapping[str, Any], now: datetime
    ) -> Recorded | None:
        """Make a signed list the current one, once per idempotency key; None when this call did it.

        Raises:
            RejectedError: ``key_list_invalid`` (with the cause), ``key_list_signature_invalid``,
                ``key_list_refused``, ``idempotency_key_reused``.
            ConflictError: ``key_root_missing``, ``key_list_not_newer``, ``key_lists_full``.
        """
        earlier = await self._commands.find(write)
        if earlier is not None:
            return earlier
        roots = await fetch(self._pool, SQL["newest_root"], {})
        if not roots:
            raise ConflictError(
                "key_root_missing",
                "There is no root. The database's owner puts it in with `marketplace ops keys root-init`.",
            )
        root_id, root = roots[0]
        listed = read_list(envelope, bytes(root))
        if listed.expires_at <= now:
            raise RejectedError("key_list_refused", "The list has expired. Sign a new one.")
        current, position = await self._read()
        before = current.listed or key_lists.EMPTY
        key_lists.require_successor(before, listed)
        if current.listed is None:
            _require_recorded(current, listed)
        await self._require_logged(before, listed)
        values = {
            "position": position + 1,
            "version": listed.version,
            "follows": before.version,
            "root_id": root_id,
            "envelope": envelope,
            "expires_at": listed.expires_at,
        }
        try:
            return await self._commands.run_once(
                SQL["publish_list"], write, f"key_list_{listed.version}", body, values
            )
        except psycopg.errors.UniqueViolation:
            raise ConflictError(
                "key_list_not_newer", "Another list was published meanwhile. Fetch it and start from it."
            ) from None
        except psycopg.Error as error:
            if error.sqlstate != SQLSTATE_FULL:
                raise
            raise ConflictError(
                "key_lists_full",
                f"The record holds {ROWS_MAX} lists. The database's owner removes those that do not count "
                "(docs/runbooks/signing-keys.md).",
            ) from None

    async def _require_logged(self, before: KeyList, listed: KeyList) -> None:
        """Check that a compromise names the log as it was: the root cannot know what was kept when."""
        for key in listed.keys:
            known = before.find(key.key_id)
            if key.compromised_at is None or (
                known is not None and (known.compromised_at, known.log) == (key.compromised_at, key.log)
            ):
                continue
            values = {"before": key.compromised_at}
            kept = checkpoint_of(await fetch(self._pool, LOG["checkpoint_before"], values))
            if key.log not in ((None, EMPTY_HEAD) if kept is None else (kept.head,)):
                size = "none" if kept is None else f"that of {kept.head.size} entries"
                raise RejectedError(
                    "key_list_refused",
                    f"For {key.key_id} it names another head of the audit log than the last checkpoint "
                    f"before {key.compromised_at:%Y-%m-%dT%H:%M:%SZ}, which is {size}. Fetch that with "
                    "`marketplace audit checkpoint --before` and name it with --log.",
                )


def read_list(envelope: str, root: bytes) -> KeyList:
    """Verify and read a signed list whose keys are sound points.

    Raises:
        RejectedError: ``key_list_signature_invalid``, ``key_list_invalid`` with the cause, or one of
            ``strict_json.TOLD_AS_THEY_ARE``.
    """
    try:
        listed = key_lists.open_list(envelope, root, verify)
        for key in listed.keys:
            register(key.public_key, key.not_before)
    except DocumentError as error:
        if error.code == "key_list_untrusted":
            raise RejectedError("key_list_signature_invalid", error.detail) from None
        raise rejection(error, "key_list_invalid", "The list") from None
    except RejectedError as error:
        raise RejectedError("key_list_invalid", error.detail) from None
    return listed


class OwnConnectionKeys:
    """Reads the keys over a connection of its own each time; safe in threads, as ``ListReader`` is."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lists = ListReader()

    def on_record(self) -> KeysOnRecord:
        """Read the keys; see ``SigningKeys.on_record``.

        Raises:
            psycopg.Error: when the database is unreachable.
        """
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            reading = None
            while reading is None:
                before = self._lists.reading
                rows = connection.execute(SQL["key_lists_from"], _from(before)).fetchall()
                reading = self._lists.read(before, rows)
            if reading.listed is not None:
                return _listed(reading)
            unlisted = connection.execute(SQL["signing_keys"], {"limit": key_lists.KEYS_MAX}).fetchall()
            return _unlisted(unlisted, reading)


def register_signing_key(dsn: str, record: KeyRecord) -> None:
    """Put the first key on record; does nothing once there is a key or a list.

    Raises:
        psycopg.Error: when the database is unreachable.
    """
    with (
        psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection,
        contextlib.suppress(psycopg.errors.IntegrityConstraintViolation),  # another start was first
    ):
        connection.execute(
            SQL["register_key"],
            {
                "key_id": record.key_id,
                "public_key": record.public_key,
                "state": record.state.value,
                "not_before": record.not_before,
            },
        )


def add_root(owner_dsn: str, public_key: bytes) -> str:
    """Put a root's public key in, as the database's owner; returns its id. Repeating changes nothing.

    Raises:
        psycopg.Error: when the database is unreachable, or this role may not.
    """
    root_id = key_id_of(public_key)
    with psycopg.connect(owner_dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        connection.execute(SQL["add_root"], {"root_id": root_id, "public_key": public_key})
    return root_id


def _require_recorded(current: KeysOnRecord, listed: KeyList) -> None:
    # The first list takes over what is on record: documents signed with it are out there.
    for key in current.keys:
        if (taken := listed.find(key.key_id)) is None or taken.not_before > key.not_before:
            raise RejectedError(
                "key_list_refused",
                f"It lacks {key.key_id}, or dates it later; that key has signed since {key.not_before}.",
            )


def _listed(reading: Reading) -> KeysOnRecord:
    listed, row = reading.listed, reading.row
    assert listed is not None, "the caller has seen it"
    assert row is not None, "a list has its row"
    keys = tuple(key_lists.newest_first(listed.keys))
    return KeysOnRecord(keys, listed, row.envelope, row.root, len(reading.passed_over))


def _unlisted(rows: list[TupleRow], reading: Reading) -> KeysOnRecord:
    return KeysOnRecord(
        tuple(
            KeyRecord(key_id, bytes(public_key), KeyState(state), not_before, compromised_at, algorithm)
            for key_id, public_key, state, not_before, compromised_at, algorithm in rows
        ),
        passed_over=len(reading.passed_over),
    )
