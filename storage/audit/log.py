"""The audit log as a whole: its entries, subtrees, checkpoints and their notes, read once and checked.

What is wrong is decided in ``domain.audit.invariants``; here it is read, in memory that does not grow.
"""

from collections.abc import Iterator

import psycopg
from psycopg.rows import TupleRow

from domain.audit.invariants import check_log, check_note
from domain.merkle.tree import Head
from storage.market.signing_keys import OwnConnectionKeys
from storage.signing.keys import verify
from storage.sql import load_queries

ROWS = 10_000  # at a time
NOTES = 1_000  # the last ones, whose signatures are verified; at one a second, a quarter of an hour
SQL = {name: text.encode() for name, text in load_queries("storage.audit", "log.sql").items()}


def examine(connection: psycopg.Connection[TupleRow], dsn: str) -> list[tuple[str, str]]:
    """Check the log as the connection's transaction sees it; returns (invariant, words).

    The keys are read over a connection of their own to ``dsn``.

    Raises:
        psycopg.Error: the database went away.
    """
    with (
        connection.cursor("log_entries") as entries,
        connection.cursor("log_checkpoints") as heads,
        connection.cursor("log_subtrees") as subtrees,
    ):
        size = connection.execute(SQL["log_size"]).fetchall()[0][0]
        for cursor in (entries, heads, subtrees):
            cursor.itersize = ROWS
            cursor.execute(SQL[cursor.name])
        found = check_log(
            size,
            ((place, bytes(digest)) for place, digest in entries),
            (Head(of, bytes(root)) for of, root in heads),
            ((level, place, bytes(root)) for level, place, root in subtrees),
        )
        return [*found, *_wrong_notes(connection, dsn)]


def _wrong_notes(connection: psycopg.Connection[TupleRow], dsn: str) -> Iterator[tuple[str, str]]:
    notes = connection.execute(SQL["log_notes"], {"limit": NOTES}).fetchall()
    keys = OwnConnectionKeys(dsn).on_record().keys if notes else ()
    trusted = [key.public_key for key in keys]
    for size, root, note in notes:
        if words := check_note(size, bytes(root), note, trusted, verify):
            yield "I6", words
