"""Finance as a process: outages, recovery, stopping, settings."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from finance_process import REPO, TOKEN, FinanceProcess, entry, wait_until
from postgres_fixture import PASSWORDS, Database, PostgresServer

from cluster.finance import read_settings
from storage import migrations

pytestmark = pytest.mark.integration


@pytest.fixture
def finance(database: Database, tmp_path) -> Iterator[FinanceProcess]:
    """Not started yet."""
    process = FinanceProcess(database.dsn_for("finance_app"), tmp_path / "finance.log")
    try:
        yield process
    finally:
        if process.process is not None:
            process.stop()


def migrate(database: Database) -> None:
    migrations.apply(database.dsn, package="storage.finance", schema="finance")


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "ledger_unavailable"
    assert int(answer.headers["retry-after"]) >= 1


def test_without_its_database_it_answers_503_and_recovers_by_itself(
    database: Database, finance: FinanceProcess, postgres_server: PostgresServer
) -> None:
    migrate(database)
    finance.start()
    with finance.client() as client:
        assert client.post("/v1/entries", json=entry("before")).status_code == 201
        postgres_server.stop(immediate=True)
        try:
            for _attempt in range(3):
                assert_unavailable(client.post("/v1/entries", json=entry("during")))
            assert_unavailable(client.get("/v1/entries/before"))
            assert_unavailable(client.post("/v1/entries/batch", json={"entries": [entry("during")]}))
            assert_unavailable(client.get("/readyz"))
            assert client.get("/livez").status_code == 200
        finally:
            postgres_server.start()
        wait_until(lambda: client.get("/readyz").status_code == 200, finance.log_path, timeout_s=8)
        assert client.post("/v1/entries", json=entry("during")).status_code == 201
        assert client.post("/v1/entries", json=entry("before")).json()["replayed"] is True
    log = finance.log_path.read_text()
    assert '"level":"warning"' in log
    assert "Traceback" not in log
    assert PASSWORDS["finance_app"] not in log
    assert TOKEN not in log


def test_a_connection_lost_while_idle_is_replaced_unnoticed(
    database: Database, finance: FinanceProcess
) -> None:
    migrate(database)
    finance.start()
    with finance.client() as client:
        assert client.post("/v1/entries", json=entry("one")).status_code == 201
        with psycopg.connect(database.dsn) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'finance_app'"
                " AND datname = current_database()"
            )
        statuses = [client.post("/v1/entries", json=entry("two")).status_code for _ in range(3)]
    assert statuses == [201, 200, 200]


def test_it_starts_before_its_database_is_migrated(database: Database, finance: FinanceProcess) -> None:
    finance.start(wait_for="/livez")
    with finance.client() as client:
        assert_unavailable(client.get("/readyz"))
        assert_unavailable(client.post("/v1/entries", json=entry("early")))
        migrate(database)
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/entries", json=entry("early")).status_code == 201


def test_a_stuck_database_is_503_within_the_deadline(database: Database, finance: FinanceProcess) -> None:
    migrate(database)
    finance.start()
    with finance.client() as client, psycopg.connect(database.dsn) as blocker:
        blocker.execute("LOCK TABLE finance.entries IN SHARE MODE")
        began = time.monotonic()
        assert_unavailable(client.post("/v1/entries", json=entry("stuck")))
        assert time.monotonic() - began < 5.5
        assert client.get("/v1/trial-balance?currency=USD").status_code == 200  # reading goes on
        blocker.rollback()
        assert client.post("/v1/entries", json=entry("stuck")).status_code == 201


def test_sigterm_answers_running_requests_and_exits_cleanly(
    database: Database, finance: FinanceProcess
) -> None:
    migrate(database)
    finance.start()

    def blocked() -> bool:
        with psycopg.connect(database.dsn) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'finance_app'"
                " AND wait_event_type = 'Lock' AND datname = current_database()"
            ).fetchone()
        return row is not None and row[0] > 0

    def refuses_connections() -> bool:
        try:
            httpx.get(finance.url + "/livez", timeout=1)
        except httpx.TransportError:
            return True
        return False

    with (
        finance.client() as client,
        psycopg.connect(database.dsn) as blocker,
        ThreadPoolExecutor(1) as thread,
    ):
        blocker.execute("LOCK TABLE finance.entries IN SHARE MODE")
        answer = thread.submit(client.post, "/v1/entries", json=entry("last"))
        wait_until(blocked)
        assert finance.process is not None
        finance.process.send_signal(signal.SIGTERM)
        wait_until(refuses_connections)
        blocker.rollback()
        assert answer.result(timeout=15).status_code == 201
    assert finance.stop() == 0
    with psycopg.connect(database.dsn) as connection:
        assert connection.execute("SELECT entry_key FROM finance.entries").fetchall() == [("last",)]


def test_a_caller_that_hangs_up_is_no_failure(database: Database, finance: FinanceProcess) -> None:
    migrate(database)
    finance.start()
    with socket.create_connection(("127.0.0.1", finance.port)) as caller:
        lines = (
            "POST /v1/entries HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {TOKEN}",
            "Content-Length: 9",
        )
        caller.sendall("\r\n".join((*lines, "", "{")).encode())
    with finance.client() as client:
        wait_until(lambda: 'status="499"' in client.get("/metrics").text, finance.log_path)
    assert finance.log_path.read_text() == ""


ENVIRONMENT = {"FINANCE_DSN": "postgresql://finance_app:pw@127.0.0.1:1/x", "FINANCE_TOKEN": TOKEN}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"FINANCE_DSN": ""}, "FINANCE_DSN"),
        ({"FINANCE_TOKEN": ""}, "FINANCE_TOKEN"),
        ({"FINANCE_TOKEN": "short-secret"}, "FINANCE_TOKEN"),
        ({"FINANCE_TOKEN": "a secret with spaces in it"}, "FINANCE_TOKEN"),
        ({"FINANCE_PORT": "http"}, "FINANCE_PORT"),
        ({"FINANCE_PORT": "70000"}, "FINANCE_PORT"),
        ({"FINANCE_POOL_MAX": "0"}, "FINANCE_POOL_MAX"),
    ],
)
def test_wrong_settings_are_named_and_not_shown(change, named) -> None:
    with pytest.raises(ValueError, match=named) as refused:
        read_settings(ENVIRONMENT | change)
    assert "secret" not in str(refused.value)


def test_settings_have_safe_defaults_and_hide_their_secrets() -> None:
    settings = read_settings(ENVIRONMENT)
    assert (settings.host, settings.port, settings.service.pool_max) == ("127.0.0.1", 8600, 4)
    assert TOKEN not in repr(settings)
    assert ":pw@" not in repr(settings)


def test_a_refused_start_is_one_line_and_status_2() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "cluster.finance"],
        check=False,
        cwd=REPO,
        env={"PATH": os.environ["PATH"], **ENVIRONMENT, "FINANCE_TOKEN": "short-secret"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("finance: FINANCE_TOKEN needs")
    assert ended.stderr.count("\n") == 1
    assert "secret" not in ended.stderr
