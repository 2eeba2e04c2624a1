"""Payouts wired to Postgres, Finance and Stripe: an ingress's desk, the background's runner."""

import time

from actors.payouts.desk import PayoutDesk
from actors.payouts.metrics import PayoutMetrics
from actors.payouts.runner import PayoutRunner
from deployments.clock import utc_now
from deployments.settings import Settings
from domain.payouts.periods import Schedule
from storage.finance.client_tls import ClientTls
from storage.finance_client import FinanceClient
from storage.market.payout_batches import PayoutBatches
from storage.market.payouts import PostgresPayouts
from storage.market.pool import Pool
from storage.market.proposals import Governed
from storage.payout_books import PayoutFinance
from storage.stripe_transfers import StripeTransfers


class _Outside:
    """The clients, made inside the event loop that uses them."""

    def __init__(self, settings: Settings) -> None:
        finance = settings.finance
        tls = ClientTls(finance.back_office) if finance.back_office else None
        self._finance = FinanceClient(finance.url, finance.token, tls=tls)
        self.books = PayoutFinance(self._finance)
        self.transfers = StripeTransfers(settings.stripe.secret_key, settings.stripe.api_base)

    async def close(self) -> None:
        await self._finance.close()
        await self.transfers.close()


class LocalDesk:
    """A desk and its clients; one per ingress replica."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._outside = _Outside(settings)
        self.desk = PayoutDesk(
            PayoutBatches(pool),
            PostgresPayouts(pool),
            self._outside.books,
            self._outside.transfers,
            Governed(pool, time.monotonic),
            utc_now,
            schedule=Schedule(settings.payout_schedule),
        )

    async def close(self) -> None:
        """Close the clients' connections."""
        await self._outside.close()


class LocalRunner:
    """A runner, its clients and its series; one per process that runs payouts."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._outside = _Outside(settings)
        self._runner = PayoutRunner(
            PostgresPayouts(pool), self._outside.books, self._outside.transfers, utc_now
        )
        self._metrics = PayoutMetrics()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._runner.alive

    def start(self) -> None:
        """Begin on the running loop."""
        self._runner.start()

    async def stop(self) -> None:
        """Stop at once; what is under way is taken up again by whoever runs next."""
        await self._runner.stop()
        await self._outside.close()

    def exposition(self) -> bytes:
        """Return the series in Prometheus' text format."""
        return self._metrics.exposition(self._runner.figures)
