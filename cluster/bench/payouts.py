"""``bench payouts``: one batch of many payees, drafted, approved and sent, on parts of its own.

Real Postgres, Finance and Stripe simulator, started for the run and gone afterwards; one runner, as beside
the relay, without Ray. What the figure leaves out is HTTP into the marketplace: three requests. A run in
which a payee was not paid exactly once is an error and no figure.
"""

import asyncio
import itertools
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from actors.payouts.desk import PayoutDesk
from actors.payouts.runner import RUNNING_MAX, PayoutRunner
from cluster.bench import report
from cluster.bench.own_postgres import own_postgres
from cluster.client import ClientError
from cluster.local import ports
from domain.ids import new_id
from domain.payouts.payees import AccountState
from domain.payouts.periods import parse_period
from storage import migrations
from storage.finance_client import FinanceClient
from storage.market.commands import Write
from storage.market.payout_batches import PayoutBatches
from storage.market.payouts import PostgresPayouts
from storage.market.pool import build_pool
from storage.market.proposals import Governed
from storage.payout_books import PayoutFinance
from storage.stripe_transfers import StripeTransfers

PAYEES, PAYEES_MAX = 1_000, 10_000
ENTRIES_PER_REQUEST = 100
START_TIMEOUT_S = 30.0
POOL_MAX = 6  # the relay's
CURRENCY, AMOUNT_MINOR = "USD", 12_345
TOKEN_BYTES = 24


@contextmanager
def _process(module: str, arguments: list[str], environment: dict[str, str], probe: str) -> Iterator[None]:
    """Run a part for as long as the block."""
    child = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={"PATH": os.environ.get("PATH", ""), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(probe):
            if child.poll() is not None or time.monotonic() > deadline:
                raise ClientError(f"{module} did not start.", "part_missing")
            time.sleep(0.05)
        yield
    finally:
        child.terminate()
        child.wait()


def _answers(probe: str) -> bool:
    try:
        return httpx.get(probe, timeout=2).is_success
    except httpx.TransportError:
        return False


def run(payees: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure a batch of ``payees``; returns the report.

    Raises:
        ClientError: ``part_missing`` or ``payouts_wrong``.
    """
    token, key = secrets.token_hex(TOKEN_BYTES), "sk_test_" + secrets.token_hex(TOKEN_BYTES)
    with ExitStack() as stack:
        dsn = stack.enter_context(own_postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ilv-bench-stripe-")))
        migrations.apply(dsn, "storage.market", "market")
        migrations.apply(dsn, "storage.finance", "finance")
        finance_port = ports.pick(set())
        stripe_port = ports.pick({finance_port})
        finance, api = f"http://127.0.0.1:{finance_port}", f"http://127.0.0.1:{stripe_port}"
        books = {"FINANCE_DSN": dsn, "FINANCE_PORT": str(finance_port), "FINANCE_TOKEN": token}
        stack.enter_context(_process("cluster.finance", [], books, f"{finance}/readyz"))
        place = ["--host", "127.0.0.1", "--port", str(stripe_port), "--data-dir", str(folder)]
        sim = {
            "STRIPE_SIM_SECRET_KEY": key,
            "STRIPE_SIM_PUBLISHABLE_KEY": "pk_test_" + secrets.token_hex(TOKEN_BYTES),
            "STRIPE_SIM_WEBHOOK_SECRET": "whsec_" + secrets.token_hex(TOKEN_BYTES),
        }
        stack.enter_context(_process("cluster.local.stripe", place, sim, f"{api}/healthz"))
        note(f"{payees} payees are given an account and a balance")
        accounts = _fill(finance, token, api, key, payees)
        return asyncio.run(_Run(dsn, (finance, token), (api, key), accounts).measure(note))


def _period() -> str:
    """The last month that is over."""
    return (datetime.now(UTC).replace(day=1) - timedelta(days=1)).strftime("%Y-%m")


def _fill(finance: str, token: str, api: str, key: str, payees: int) -> dict[str, str]:
    at = (parse_period(_period()).starts_at + timedelta(days=3)).isoformat()
    names = [f"payee_{number:05d}" for number in range(payees)]
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=30) as books:
        for first in range(0, payees, ENTRIES_PER_REQUEST):
            entries = [_sale(name, at) for name in names[first : first + ENTRIES_PER_REQUEST]]
            books.post(f"{finance}/v1/entries/batch", json={"entries": entries}).raise_for_status()
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30) as stripe:
        return {
            name: stripe.post(f"{api}/v1/accounts", data={"type": "express"}).raise_for_status().json()["id"]
            for name in names
        }


def _sale(payee: str, at: str) -> dict[str, Any]:
    return {
        "entry_key": f"ord_{payee}:capture",
        "currency": CURRENCY,
        "occurred_at": at,
        "description": "Sale",
        "postings": [
            {"account": "stripe:clearing", "amount_minor": AMOUNT_MINOR},
            {"account": f"seller:{payee}:payable", "amount_minor": -AMOUNT_MINOR},
        ],
    }


class _Run:
    def __init__(
        self, dsn: str, finance: tuple[str, str], stripe: tuple[str, str], accounts: dict[str, str]
    ) -> None:
        self._pool = build_pool(dsn, name="bench", size_max=POOL_MAX)
        self._client = FinanceClient(*finance)
        self._transfers = StripeTransfers(stripe[1], stripe[0])
        self._stripe = stripe
        self._accounts = accounts
        self._batches, self._payouts = PayoutBatches(self._pool), PostgresPayouts(self._pool)
        self._books = PayoutFinance(self._client)
        self._numbers = itertools.count(1)

    async def measure(self, note: Callable[[str], None]) -> dict[str, Any]:
        await self._pool.open(wait=True)
        try:
            await self._name_accounts()
            return await self._measured(note)
        finally:
            await self._transfers.close()
            await self._client.close()
            await self._pool.close()

    async def _name_accounts(self) -> None:
        ready = AccountState("active", payouts_enabled=True)
        for payee, account in self._accounts.items():
            await self._batches.name_account(self._write("op_1"), payee, account, ready, _now())

    async def _measured(self, note: Callable[[str], None]) -> dict[str, Any]:
        desk = PayoutDesk(
            self._batches,
            self._payouts,
            self._books,
            self._transfers,
            Governed(self._pool, time.monotonic),
            _now,
        )
        batch_id, times = self._id("pob"), [time.perf_counter()]
        note("drafting, approving, sending")
        await desk.draft(self._write("op_1"), batch_id, self._id("act"), _period(), CURRENCY, "Bench.")
        times.append(time.perf_counter())
        await self._batches.approve(self._write("op_2"), batch_id, self._id("act"), "Bench.", _now())
        times.append(time.perf_counter())
        cpu_s = time.process_time()
        runner = PayoutRunner(self._payouts, self._books, self._transfers, _now)
        while await runner.once():
            pass
        times.append(time.perf_counter())
        cpu_s = time.process_time() - cpu_s
        progress, stuck = await self._batches.progress(batch_id)
        count = len(self._accounts)
        if progress != {"settled": count} or stuck or self._transfers_made() != count:
            raise ClientError(f"Of {count} payouts: {progress}, {stuck} stuck.", "payouts_wrong")
        draft_s, approve_s, send_s = (after - before for before, after in itertools.pairwise(times))
        return {
            "bench": "payouts",
            "workload": {
                "what": "one batch: drafted from Finance's balances, approved, every payout sent and settled",
                "payees": count,
                "at_once": RUNNING_MAX,
            },
            "draft_s": round(draft_s, 3),
            "approve_s": round(approve_s, 3),
            "send_s": round(send_s, 2),
            "per_s": round(count / send_s, 1),
            "runner_cpu_ms_per_payout": round(cpu_s * 1_000 / count, 2),
            "transfers": count,
            "machine": report.machine(),
        }

    def _transfers_made(self) -> int:
        api, key = self._stripe
        count = 0
        after: dict[str, str] = {}
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30) as stripe:
            while True:
                asked = {"transfer_group": _period(), "limit": "100", **after}
                page = stripe.get(f"{api}/v1/transfers", params=asked).raise_for_status().json()
                count += len(page["data"])
                if not page["has_more"]:
                    return count
                after = {"starting_after": page["data"][-1]["id"]}

    def _write(self, by: str) -> Write:
        return Write(by, f"key-{next(self._numbers)}", b"d" * 32)

    def _id(self, prefix: str) -> str:
        return new_id(prefix, int(time.time() * 1_000), next(self._numbers).to_bytes(10))


def _now() -> datetime:
    return datetime.now(UTC)
