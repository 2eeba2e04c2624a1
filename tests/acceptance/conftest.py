"""The whole marketplace, started once for all acceptance tests, in a directory of its own.

Never the developer's own ``var/``: other ports, other data, other keys, and everything is removed at the
end. The demo's bundles are published before the first test.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from cluster.demo.seeding import seed
from cluster.local import processes, state
from cluster.local.launcher import Stack
from cluster.local.layout import Layout, read_json, remove_tree, write_json

CLI_TIMEOUT_S = 120
# What background work writes some time after a request: counts of these change by themselves.
IN_BACKGROUND = frozenset(
    {
        *("outbox", "consumers", "consumer_progress", "stuck_events", "sales_by_day"),
        *("reconciliation_runs", "reconciliation_cases"),
        *("audit_entries", "audit_subtrees", "audit_checkpoints", "audit_waiting"),
        *("hour_movements", "used", "period_balances"),  # Finance's sums
    }
)


@dataclass(frozen=True)
class Market:
    """The running marketplace: ``local`` is its var/local.json."""

    layout: Layout
    local: dict[str, Any]
    successor: str  # the address of the signing backend that does not sign yet

    def http(self, role: str | None = None, token: str | None = None) -> httpx.Client:
        token = token or (self.local["tokens"][role] if role else None)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.local["base_url"], headers=headers, timeout=20)

    def new_buyer(self) -> httpx.Client:
        return self.http(token=self.new_token()[1])

    def new_token(self) -> tuple[str, str]:
        """Return a new buyer's id and token."""
        principal = f"usr_{uuid4().hex}"
        with self.http("operator") as operator:
            issued = operator.post(
                "/v1/ops/tokens", json={"role": "buyer", "principal_id": principal}, headers=key()
            )
        assert issued.status_code == 201, issued.text
        return principal, issued.json()["token"]

    def rows(self) -> dict[str, int]:
        """Rows of every table of the product, but for those that the relay fills and empties by itself."""
        with psycopg.connect(self.local["postgres_dsn"]) as connection:
            tables = connection.execute(
                "SELECT table_schema, table_name FROM information_schema.tables"
                " WHERE table_schema IN ('market', 'finance') AND table_type = 'BASE TABLE'"
            ).fetchall()
            counted = {}
            for schema, table in sorted(tables):
                if table in IN_BACKGROUND:
                    continue
                query = psycopg.sql.SQL("SELECT count(*) FROM {}").format(
                    psycopg.sql.Identifier(schema, table)
                )
                row = connection.execute(query).fetchone()
                assert row is not None
                counted[f"{schema}.{table}"] = row[0]
        return counted

    def confirm(self, order: dict[str, Any], card: str = "pm_card_visa") -> httpx.Response:
        """Pay as the buyer's browser does."""
        payment = order["payment"]
        return httpx.post(
            f"{self.local['stripe']['api_base']}/v1/payment_intents/{payment['payment_intent_id']}/confirm",
            data={"client_secret": payment["client_secret"], "payment_method": card},
            headers={"Authorization": f"Bearer {payment['publishable_key']}"},
            timeout=20,
        )

    def replicas(self, deployment: str) -> list[processes.ProcessId]:
        """The live worker processes of one Serve deployment of this run."""
        record = state.read_record(self.layout.state_json)
        assert record is not None
        found = []
        for process in processes.of_run(record.run_id):
            try:
                command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if command.startswith("ray::ServeReplica") and deployment in command:
                found.append(process)
        return found

    def cli(self, *arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``marketplace`` as a user would, with this marketplace's local.json."""
        command = (sys.executable, "-m", "cluster.cli", *(str(one) for one in arguments))
        return self.run(*command, cwd=cwd, **environment)

    def run(self, *command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program where ``marketplace`` would find its files and this marketplace."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MARKETPLACE_")}
        code = str(Path(__file__).resolve().parents[2])
        return subprocess.run(
            command,
            cwd=cwd,
            env={
                **kept,
                "PYTHONPATH": code,
                "MARKETPLACE_HOME": str(self.layout.home),
                "XDG_CONFIG_HOME": str(cwd / "config"),
                "CI": "true",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLI_TIMEOUT_S,
            check=False,
        )


class TwoKeyStack(Stack):
    """A stack with a second signing backend behind its own, for a rotation: the record decides who signs."""

    @property
    def successor(self) -> str:
        return f"file:{self.layout.keys / 'next-signing.json'}"

    def _prepare(self) -> None:
        super()._prepare()
        settings = read_json(self.layout.settings_json)
        signing = {"backends": [*settings["signing"]["backends"], self.successor]}
        write_json(self.layout.settings_json, settings | {"signing": signing})


def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


@pytest.fixture(scope="session")
def market():
    home = Path(tempfile.mkdtemp(prefix="ilv-acceptance-"))
    home.chmod(0o711)  # Postgres' own user must get through to its data
    stack = TwoKeyStack(home)
    try:
        stack.start()
        seed(stack.layout, stack.local)
        yield Market(stack.layout, stack.local, stack.successor)
    finally:
        stack.stop()
        remove_tree(stack.layout.outside)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(market):
    """The marketplace under its usual name."""
    return market


@pytest.fixture
def buyer(market):
    with market.new_buyer() as client:
        yield client


@pytest.fixture(scope="session")
def sku_ids(market):
    with market.http() as client:
        return {sku["name"]: sku["id"] for sku in client.get("/v1/skus").json()["items"]}


@pytest.fixture
def wish(sku_ids):
    """Make the body of an order for one ``logline``, any member replaced."""

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "lines": [{"sku_id": sku_ids["logline"], "quantity": 1}],
            "currency": "USD",
            "delivery": {"mode": "released_key"},
        } | changes

    return make
