"""The shared PostgreSQL fixture itself: roles, isolation, restart."""

import psycopg
import pytest
from postgres_fixture import Database, PostgresServer

pytestmark = pytest.mark.integration


def test_each_login_role_connects_with_its_password(database: Database) -> None:
    for user in ("market", "market_app", "finance_app"):
        with psycopg.connect(database.dsn_for(user)) as connection:
            row = connection.execute("SELECT current_user, current_database()").fetchone()
        assert row == (user, database.name)


def test_a_wrong_password_is_refused(database: Database) -> None:
    dsn = database.dsn.replace("test-market@", "wrong@")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(dsn)


def test_each_test_gets_an_empty_database(database: Database) -> None:
    with psycopg.connect(database.dsn) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchone()
    assert tables == (0,)


def test_a_crash_keeps_committed_rows(database: Database, postgres_server: PostgresServer) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        connection.execute("CHECKPOINT")
    postgres_server.stop(immediate=True)
    assert not postgres_server.running
    postgres_server.start()
    with psycopg.connect(database.dsn) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
