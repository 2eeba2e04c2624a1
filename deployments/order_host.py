"""The order host as a Serve deployment: wires ``actors.orders`` to Postgres, Stripe, Finance, signer."""

from typing import Any

from actors.orders.effects import Effects
from actors.orders.fulfilment import SignerFulfiller
from actors.orders.host import OrderHost, PlacedOrder, ReleasedKey
from actors.orders.sweep import Sweep
from deployments.clock import utc_now
from deployments.placement import SignerDirectory
from deployments.process import prepare_process
from deployments.settings import Settings
from domain.orders.commands import PlaceOrder
from domain.orders.ports import Idempotency, PaymentNews
from storage.finance_client import FinanceClient
from storage.market.fulfilment import FulfilmentReads
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from storage.stripe_gateway import StripeGateway

POOL_MAX = 8  # a commit takes about a millisecond, so eight keep far more than one core busy
POOL_OPEN_TIMEOUT_S = 20.0


class OrderHostDeployment:
    """One replica hosts many orders' grains; ``deployments.placement`` routes to it by order id."""

    async def __init__(self, settings: Settings, signer: Any) -> None:  # type: ignore[misc] # Serve awaits it
        prepare_process(settings)
        self._pool = build_pool(settings.postgres_dsn, name="order-host", size_max=POOL_MAX)
        await self._pool.open(wait=True, timeout=POOL_OPEN_TIMEOUT_S)
        store = PostgresOrderStore(self._pool)
        self._finance = FinanceClient(settings.finance.url, settings.finance.token)
        directory = SignerDirectory(signer)
        fulfiller = SignerFulfiller(FulfilmentReads(self._pool), directory.issue, directory.unwrap_identity)
        self._gateway = StripeGateway(
            settings.stripe.secret_key, settings.stripe.api_base, settings.http.base_url
        )
        effects = Effects(self._gateway, self._finance, fulfiller, utc_now)
        self._host = OrderHost(store, effects, utc_now)
        self._sweep = Sweep(store, self._host)
        self._sweep.start()

    async def place(self, command: PlaceOrder, idempotency: Idempotency) -> PlacedOrder:
        """See ``OrderHost.place``."""
        return await self._host.place(command, idempotency)

    async def apply_news(self, news: PaymentNews) -> None:
        """See ``OrderHost.apply_news``."""
        await self._host.apply_news(news)

    async def release_key(self, order_id: str, delivery_id: str) -> ReleasedKey:
        """See ``OrderHost.release_key``."""
        return await self._host.release_key(order_id, delivery_id)

    async def check_health(self) -> None:
        """Serve's probe: a host whose sweep has ended is replaced."""
        if not self._sweep.alive:
            raise RuntimeError("the sweep has ended")

    async def ping(self) -> bool:
        """Answer a readiness probe."""
        return True

    async def __del__(self) -> None:
        """Serve awaits this at shutdown: finish what runs, leave the rest to Postgres."""
        if hasattr(self, "_sweep"):
            await self._sweep.stop()
            await self._host.close()
            await self._finance.close()
            await self._gateway.close()
            await self._pool.close()
