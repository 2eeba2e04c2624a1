"""The ledger's tables against direct SQL, and the store against a database stricter than the domain."""

import asyncio
from datetime import UTC, datetime

import psycopg
import pytest
from postgres_fixture import Database

from domain.ledger import Entry, Posting
from storage import migrations
from storage.finance.ledger_store import LedgerStore, PostedEntry

pytestmark = pytest.mark.integration

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
_HEADING = (
    "INSERT INTO finance.entries"
    " (entry_key, currency, occurred_at, description, content_digest, posting_count)"
    " VALUES ('k', 'USD', '2026-11-24Z', '', sha256('k'), {count}) RETURNING entry_id"
)
_LEGS = (
    "INSERT INTO finance.postings (entry_id, position, account, amount_minor, currency, occurred_at)"
    " SELECT entry_id, leg.* FROM e CROSS JOIN (VALUES {rows}) AS leg"
)


def write(rows: str, count: int = 2) -> str:
    return f"WITH e AS ({_HEADING.format(count=count)}) {_LEGS.format(rows=rows)}"


def leg(position: int, amount_minor: int, currency: str = "USD", day: str = "2026-11-24Z") -> str:
    return f"({position}, 'cash:{position}', {amount_minor}, '{currency}', '{day}'::timestamptz)"


SOUND = write(f"{leg(1, 5)}, {leg(2, -5)}")


@pytest.fixture
def ledger(database: Database) -> Database:
    assert migrations.apply(database.dsn, package="storage.finance", schema="finance") == [
        "0001_ledger",
        "0002_books",
    ]
    return database


def run(dsn: str, *statements: str) -> None:
    """All in one transaction."""
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement)


def entry(key: str, currency: str = "USD") -> Entry:
    return Entry(key, currency, NOON, "", (Posting("disputes", 1), Posting("refunds", -1)))


def test_migrating_twice_changes_nothing(ledger) -> None:
    assert migrations.apply(ledger.dsn, package="storage.finance", schema="finance") == []


def test_a_sound_entry_can_be_written_by_sql(ledger) -> None:
    run(ledger.dsn_for("finance_app"), SOUND)


@pytest.mark.parametrize("user", ["finance_app", "market"])
@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (write(f"{leg(1, 5)}, {leg(2, -4)}"), "entries_whole"),
        (write(f"{leg(1, 5)}"), "entries_whole"),
        (write(f"{leg(1, 5)}, {leg(2, -5)}", count=3), "entries_whole"),
        (write(f"{leg(1, 5)}, {leg(3, -5)}"), "entries_whole"),
        (write(f"{leg(1, 5)}, {leg(2, -6)}, {leg(3, 1)}"), "entries_whole"),
        (write(f"{leg(1, 5)}, {leg(2, -5, currency='EUR')}"), "postings_belong"),
        (write(f"{leg(1, 5)}, {leg(2, -5, day='2026-11-25Z')}"), "postings_belong"),
        (_HEADING.format(count=2), "entries_whole"),
        (
            f"INSERT INTO finance.postings SELECT 99, leg.* FROM (VALUES {leg(1, 5)}, {leg(2, -5)}) AS leg",
            "postings_belong",
        ),
    ],
)
def test_direct_sql_cannot_write_an_unsound_entry(ledger, user, statement, constraint) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        run(ledger.dsn_for(user), statement)
    assert refused.value.diag.constraint_name == constraint


def test_postings_cannot_be_added_to_an_entry_later(ledger) -> None:
    run(ledger.dsn, SOUND)
    add = (
        "INSERT INTO finance.postings SELECT entry_id, {n} + d, 'refunds', 1 - 2 * d, currency, occurred_at"
        " FROM finance.entries, generate_series(0, 1) d WHERE entry_key = 'k'"
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        run(ledger.dsn, add.format(n=3))
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(ledger.dsn, add.format(n=1))


@pytest.mark.parametrize("table", ["entries", "postings"])
@pytest.mark.parametrize("setting", ["origin", "replica"])
def test_nothing_can_be_changed_not_even_by_the_owner(ledger, table, setting) -> None:
    run(ledger.dsn, SOUND)
    for change in (
        f"UPDATE finance.{table} SET currency = 'EUR'",
        f"DELETE FROM finance.{table}",
        f"DELETE FROM finance.{table} WHERE false",
        f"TRUNCATE finance.{table}",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            run(ledger.dsn, f"SET session_replication_role = {setting}", change)


def test_the_service_role_may_only_read_and_add(ledger) -> None:
    run(ledger.dsn, SOUND)
    dsn = ledger.dsn_for("finance_app")
    run(dsn, "SELECT FROM finance.entries", "SELECT FROM finance.postings")
    for statement in (
        "UPDATE finance.entries SET currency = 'EUR'",
        "DELETE FROM finance.postings",
        "TRUNCATE finance.entries",
        "ALTER TABLE finance.postings DISABLE TRIGGER ALL",
        "CREATE TABLE finance.mine ()",
        "INSERT INTO finance.schema_migrations VALUES (2, 'x', 'x')",
        "SET session_replication_role = replica",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(dsn, statement)


def test_the_marketplaces_role_sees_nothing_of_the_ledger(ledger) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(ledger.dsn_for("market_app"), "SELECT FROM finance.entries")


async def test_an_entry_that_only_the_database_refuses_does_not_spoil_its_batch(ledger) -> None:
    run(ledger.dsn, "ALTER TABLE finance.entries ADD CONSTRAINT no_tests CHECK (currency <> 'XTS')")
    store = LedgerStore(ledger.dsn_for("finance_app"), pool_max=2)
    await store.open()
    try:
        outcomes = await store.post([entry("1"), entry("2", "XTS"), entry("3"), entry("1")])
        alone = await store.post([entry("2", "XTS")])
        assert [getattr(o, "code", "posted") for o in outcomes] == [
            "posted",
            "entry_refused",
            "posted",
            "posted",
        ]
        assert [o.replayed for o in outcomes if isinstance(o, PostedEntry)] == [False, False, True]
        assert "no_tests" in outcomes[1].detail
        assert alone[0].code == "entry_refused"
        assert await store.entry("2") is None
        read = await store.entry("3")
        assert read is not None
        assert read.entry == entry("3")
    finally:
        await store.close()


async def test_a_key_committed_by_another_session_meanwhile_is_found(ledger) -> None:
    """The unique key makes us wait for the other session, whose row our snapshot cannot see."""
    store = LedgerStore(ledger.dsn_for("finance_app"), pool_max=2)
    other = LedgerStore(ledger.dsn_for("finance_app"), pool_max=1)
    await store.open()
    await other.open()
    try:
        blocker = await psycopg.AsyncConnection.connect(ledger.dsn)
        # The other session's posting is held open inside a transaction while ours runs into it.
        async with blocker:
            digest = entry("contested").content_digest.hex()
            await blocker.execute(
                "WITH e AS (INSERT INTO finance.entries (entry_key, currency, occurred_at, description,"
                f" content_digest, posting_count) VALUES ('contested', 'USD', '{NOON.isoformat()}', '',"
                f" decode('{digest}', 'hex'), 2) RETURNING *)"
                " INSERT INTO finance.postings SELECT entry_id, p, CASE p WHEN 1 THEN 'disputes' ELSE"
                " 'refunds' END, 3 - 2 * p, currency, occurred_at FROM e, generate_series(1, 2) p"
            )
            ours = asyncio.create_task(store.post([entry("contested"), entry("free")]))
            async with await psycopg.AsyncConnection.connect(ledger.dsn, autocommit=True) as watcher:
                for _ in range(500):
                    waiting = await watcher.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'finance_app'"
                        " AND wait_event_type = 'Lock'"
                    )
                    if (await waiting.fetchone())[0]:
                        break
                    await asyncio.sleep(0.01)
                else:
                    pytest.fail("the posting did not wait for the other session")
            await blocker.commit()
        contested, free = await ours
        assert (contested.replayed, free.replayed) == (True, False)
    finally:
        await store.close()
        await other.close()
