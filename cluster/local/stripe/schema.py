"""The tables of the simulator's database, and how its connections are opened.

``synchronous=NORMAL`` with a write-ahead log: a killed process loses nothing that was committed; a power
cut may lose the last moments, which is fair for a stand-in. Checkpoints are run by ``store`` from a thread.
"""

import os
import sqlite3
from pathlib import Path

CACHE_KIB = 32_768
BUSY_TIMEOUT_S = 5.0  # our own checkpoint thread is the only other user of the file
SCHEMA_VERSION = 1

_TABLES = """
CREATE TABLE objects (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,          -- its prefix tells the kind; within a kind, ids follow creation
    parent TEXT,                      -- the intent of a charge, refund or Checkout Session
    topic TEXT,                       -- the type of an event
    created_at INTEGER NOT NULL,      -- Unix seconds
    due_at INTEGER,                   -- Unix seconds at which housekeeping has to look at it
    body BLOB NOT NULL
);
CREATE INDEX objects_parent ON objects (parent) WHERE parent IS NOT NULL;
CREATE INDEX objects_due ON objects (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE idempotency (
    seq INTEGER PRIMARY KEY,          -- order of creation, which pruning follows
    key TEXT NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,        -- keyed digest of method, path and parameters
    status INTEGER NOT NULL,
    body BLOB NOT NULL,
    request_id TEXT NOT NULL,
    created_at INTEGER NOT NULL
);

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    due_at_ms INTEGER NOT NULL,
    finished_at INTEGER,              -- Unix seconds
    log TEXT NOT NULL DEFAULT '[]'    -- one JSON object per attempt
);
CREATE INDEX deliveries_event ON deliveries (event_id);
CREATE INDEX deliveries_due ON deliveries (endpoint_id, due_at_ms) WHERE state = 'pending';
"""


class UnusableDataError(Exception):
    """The data directory holds something that this version cannot use."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database at ``path``, for its owner's eyes only, and make its tables when it is new.

    Raises:
        UnusableDataError: it was written by another version, or is not a database.
        OSError: the directory cannot be made or written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    try:
        connection = connect(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise UnusableDataError(
                f"{path} has schema {version}, this is {SCHEMA_VERSION}; remove it to start anew"
            )
    except sqlite3.DatabaseError as error:
        raise UnusableDataError(f"{path} cannot be used ({error}); remove it to start anew") from error
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """Open one connection; transactions are explicit."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return connection
