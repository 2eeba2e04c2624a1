"""Orders run in this process: wires ``actors.orders`` to Postgres, Stripe, Finance and the signer.

The same object stands in an ingress replica, where an order's commands run where they arrive, and in an
``OrderHost`` replica behind the router (ADR 0008). Correctness does not depend on which: see ADR 0001.
"""

import time

from actors.orders.effects import Effects
from actors.orders.fulfilment import SignerFulfiller
from actors.orders.host import ActedOrder, EvidenceReply, OrderHost, PlacedOrder, RefundReply, ReleasedKey
from actors.orders.metrics import BacklogWatch, OrderCollector
from actors.orders.sweep import Sweep
from deployments.clock import utc_now
from deployments.placement import SignerDirectory
from deployments.settings import Settings
from domain.orders.commands import CancelOrder, DecideReview, PlaceOrder, PrepareEvidence, RequestRefund
from domain.orders.ports import Idempotency, PaymentNews
from storage.finance.client_tls import ClientTls
from storage.finance_client import FinanceClient
from storage.market.dead_letters import DeadLetters
from storage.market.fulfilment import FulfilmentReads
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import Pool
from storage.stripe_gateway import StripeGateway


class LocalOrders:
    """One per process; make it inside the event loop that uses it."""

    def __init__(
        self, settings: Settings, pool: Pool, store: PostgresOrderStore, signer: SignerDirectory
    ) -> None:
        finance = settings.finance
        tls = ClientTls(finance.poster) if finance.poster else None
        self._finance = FinanceClient(finance.url, finance.token, tls=tls)
        self._gateway = StripeGateway(
            settings.stripe.secret_key, settings.stripe.api_base, settings.http.base_url
        )
        fulfiller = SignerFulfiller(FulfilmentReads(pool), signer.issue, signer.unwrap_identity)
        effects = Effects(self._gateway, self._finance, fulfiller, utc_now, time.monotonic)
        self._host = OrderHost(store, effects, utc_now, time.monotonic)
        self._sweep = Sweep(store, self._host)
        self._backlog = BacklogWatch(DeadLetters(pool).backlog, time.monotonic)
        self.collector = OrderCollector(
            self._host.counts,
            effects.breakers,
            lambda: self._host.running_effects,
            lambda: self._backlog.latest,
        )

    def start(self) -> None:
        """Begin to finish what dead hosts left."""
        self._sweep.start()
        self._backlog.start()

    @property
    def alive(self) -> bool:
        """Whether recovery runs; a process without it must be replaced."""
        return self._sweep.alive

    async def place(self, command: PlaceOrder, idempotency: Idempotency) -> PlacedOrder:
        """See ``OrderHost.place``."""
        return await self._host.place(command, idempotency)

    async def receive(self, news: PaymentNews) -> str:
        """See ``OrderHost.receive``."""
        return await self._host.receive(news)

    async def release_key(self, order_id: str, delivery_id: str) -> ReleasedKey:
        """See ``OrderHost.release_key``."""
        return await self._host.release_key(order_id, delivery_id)

    async def refund(self, order_id: str, command: RequestRefund) -> RefundReply:
        """See ``OrderHost.refund``."""
        return await self._host.refund(order_id, command)

    async def act(self, order_id: str, command: CancelOrder | DecideReview) -> ActedOrder:
        """See ``OrderHost.act``."""
        return await self._host.act(order_id, command)

    async def prepare_evidence(self, order_id: str, command: PrepareEvidence) -> EvidenceReply:
        """See ``OrderHost.prepare_evidence``."""
        return await self._host.prepare_evidence(order_id, command)

    async def ready(self) -> bool:
        """Whether this process takes orders."""
        return self.alive

    async def close(self) -> None:
        """Finish what runs, leave the rest to Postgres."""
        await self._backlog.stop()
        await self._sweep.stop()
        await self._host.close()
        await self._finance.close()
        await self._gateway.close()
