"""Payouts on real parts: Postgres, Finance and the Stripe simulator as processes, and sales booked by hand.

``Bomb`` kills a runner at its n-th step to or from the outside: from then on every call of that runner dies,
as in a process that is gone.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
from finance_process import TOKEN, FinanceProcess
from postgres_fixture import Database

from actors.payouts.desk import PayoutDesk
from actors.payouts.runner import PayoutRunner
from domain.ids import new_id
from domain.payouts.periods import Schedule, parse_period
from storage.finance_client import FinanceClient
from storage.market.commands import Write
from storage.market.payout_batches import PayoutBatches
from storage.market.payouts import PostgresPayouts
from storage.market.pool import build_pool
from storage.market.proposals import Governed
from storage.payout_books import PayoutFinance
from storage.stripe_transfers import StripeTransfers
from tests.fakes.stripe_process import SECRET_KEY, StripeProcess

_NUMBERS = itertools.count(1)
DRAFTER, APPROVER = "operator_ada", "operator_bob"


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Bomb:
    """Explodes at the ``at``-th moment: before or after one of the runner's outside calls. 0: never."""

    at: int = 0
    moments: int = 0
    exploded: bool = False

    def tick(self) -> None:
        self.moments += 1
        if self.exploded or self.moments == self.at:
            self.exploded = True
            raise Killed

    def wrap(self, target: Any) -> Any:
        bomb = self

        class Wrapped:
            def __getattr__(self, name: str) -> Any:
                method = getattr(target, name)

                async def call(*arguments: Any, **named: Any) -> Any:
                    bomb.tick()
                    answer = await method(*arguments, **named)
                    bomb.tick()
                    return answer

                return call

        return Wrapped()


@dataclass
class World:
    """See the module; ``open`` it inside the event loop."""

    database: Database
    finance: FinanceProcess
    simulator: StripeProcess
    opened: list[Any] = field(default_factory=list)

    async def open(self) -> "World":
        self.pool = build_pool(self.database.dsn_for("market_app"), name="payouts", size_max=8)
        await self.pool.open(wait=True)
        self.client = FinanceClient(self.finance.url, TOKEN)
        self.books = PayoutFinance(self.client)
        self.transfers = StripeTransfers(SECRET_KEY, self.simulator.url)
        self.payouts = PostgresPayouts(self.pool)
        self.batches = PayoutBatches(self.pool)
        self.stripe = self.simulator.client()
        self.desk = PayoutDesk(
            self.batches,
            self.payouts,
            self.books,
            self.transfers,
            Governed(self.pool, lambda: next(_NUMBERS) * 100.0),
            self.now,
            schedule=Schedule.WEEK,
        )
        return self

    async def close(self) -> None:
        await self.transfers.close()
        await self.client.close()
        await self.pool.close()

    ahead: timedelta = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    @contextmanager
    def later(self, by: timedelta) -> Iterator[None]:
        """Let time have gone on for a while."""
        self.ahead = by
        yield
        self.ahead = timedelta(0)

    def runner(self, bomb: Bomb | None = None, **options: Any) -> PayoutRunner:
        bomb = bomb or Bomb()
        ports = (bomb.wrap(one) for one in (self.payouts, self.books, self.transfers))
        return PayoutRunner(*ports, self.now, **options)

    def sql(self, query: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.database.dsn, autocommit=True) as owner:
            found = owner.execute(query.encode(), values)
            return found.fetchall() if found.description else []

    def govern(self, **fees: Any) -> None:
        """Put other fees in force, past the gate, as only a superuser can."""
        document = {
            "fee_bps": 1000,
            "fee_fixed_minor": {},
            "holdback_bps": 0,
            "holdback_days": 0,
            "payout_minimum_minor": {},
        } | fees
        from domain.proposals.documents import Kind, canonical, parse, sha256  # noqa: PLC0415

        text = canonical(parse(Kind.PLATFORM_FEES, document))
        with psycopg.connect(self.database.dsn, autocommit=True) as owner:
            owner.execute("SET session_replication_role = replica")
            owner.execute(
                "UPDATE market.governed_versions SET document = %s, document_sha256 = %s"
                " WHERE kind = 'platform_fees'",
                (text.decode(), sha256(text)),
            )

    def write(self, by: str = DRAFTER, key: str | None = None) -> Write:
        return Write(by, key or f"key-{next(_NUMBERS)}", b"d" * 32)

    def new_id(self, prefix: str) -> str:
        return new_id(prefix, int(self.now().timestamp() * 1000), next(_NUMBERS).to_bytes(10))

    def http(self) -> httpx.Client:
        return self.finance.client()

    def book(
        self, payee: str, amount_minor: int, at: datetime, key: str | None = None, currency: str = "USD"
    ) -> None:
        """A sale (or, below zero, a refund) of an order that only Finance knows."""
        key = key or f"ord_test{next(_NUMBERS)}:{'capture' if amount_minor > 0 else 'refund:r'}"
        entry = {
            "entry_key": key,
            "currency": currency,
            "occurred_at": at.isoformat(),
            "description": "Sale",
            "postings": [
                {"account": "stripe:clearing", "amount_minor": amount_minor},
                {"account": f"seller:{payee}:payable", "amount_minor": -amount_minor},
            ],
        }
        with self.http() as client:
            assert client.post("/v1/entries", json=entry).status_code in (200, 201)

    def owed(self, account: str, currency: str = "USD") -> int:
        with self.http() as client:
            answer = client.get(f"/v1/accounts/{account}/balance", params={"currency": currency}).json()
        return -int(answer["balance_minor"])

    async def payee(self, payee: str, **account: Any) -> str:
        """Give a payee a new account at Stripe; returns its id."""
        made = self.stripe.v1.accounts.create({"type": "express", **account})
        await self.desk.name_account(self.write(payee), payee, made.id)
        return str(made.id)

    async def draft(self, period: str, currency: str = "USD") -> str:
        batch_id = self.new_id("pob")
        await self.desk.draft(self.write(), batch_id, self.new_id("act"), period, currency, "Weekly.")
        return batch_id

    async def approve(self, batch_id: str) -> None:
        write = self.write(APPROVER)
        await self.batches.approve(write, batch_id, self.new_id("act"), "Checked.", self.now())

    async def finish(self, batch_id: str, **options: Any) -> dict[str, int]:
        """Let a fresh runner finish a batch, whatever leases were left; returns payouts by status."""
        runner = self.runner(**options)
        for _ in range(30):
            self.sql("UPDATE market.payouts SET due_at = now() WHERE due_at IS NOT NULL")
            if not await runner.once():
                break
        progress, stuck = await self.batches.progress(batch_id)
        assert not stuck, self.sql("SELECT payout_id, dead_code, last_error FROM market.payouts")
        return progress

    def transfers_of(self, period: str) -> list[Any]:
        found: list[Any] = self.stripe.v1.transfers.list({"transfer_group": period, "limit": 100}).data
        return found


def week(number: int) -> str:
    """The ``number``-th week from the first of 2024 on; all of them are over."""
    first = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(weeks=number)
    year, of_year, _ = first.isocalendar()
    return f"{year}-W{of_year:02d}"


def within(period: str) -> datetime:
    """A moment in the midst of a period."""
    return parse_period(period).starts_at + timedelta(days=3)


def prepare(database: Database, folder: Path) -> tuple[FinanceProcess, StripeProcess]:
    """Start the processes on a database with all tables."""
    finance = FinanceProcess(database.dsn_for("finance_app"), folder / "finance.log").start()
    return finance, StripeProcess(folder / "stripe").start()


def stop(processes: Sequence[FinanceProcess | StripeProcess]) -> None:
    for process in processes:
        process.stop()
