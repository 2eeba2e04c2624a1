"""The order host as a Serve deployment of its own, behind the router; an option (ADR 0008)."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from deployments.local_orders import LocalOrders
from deployments.placement import OrderCall, SignerDirectory
from deployments.process import prepare_process
from deployments.settings import Settings
from domain.errors import MarketplaceError
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool

log = logging.getLogger("marketplace.deployments")

POOL_MAX = 8  # a commit takes about a millisecond, so eight keep far more than one core busy
POOL_OPEN_TIMEOUT_S = 20.0


class OrderHostDeployment:
    """One replica hosts many orders' grains; ``deployments.placement`` routes to it by order id."""

    async def __init__(self, settings: Settings, signer: Any) -> None:  # type: ignore[misc] # Serve awaits it
        prepare_process(settings)
        self._pool = build_pool(settings.postgres_dsn, name="order-host", size_max=POOL_MAX)
        await self._pool.open(wait=True, timeout=POOL_OPEN_TIMEOUT_S)
        self._orders = LocalOrders(
            settings, self._pool, PostgresOrderStore(self._pool), SignerDirectory(signer)
        )
        self._orders.start()

    async def run(self, calls: Sequence[OrderCall]) -> list[Any]:
        """Run a batch of calls at once; each gets its own answer or its own error, in order."""
        answers = await asyncio.gather(*(self._run_one(call) for call in calls), return_exceptions=True)
        return [_portable(answer) for answer in answers]

    async def _run_one(self, call: OrderCall) -> Any:
        method, *arguments = call
        return await getattr(self._orders, method)(*arguments)

    async def check_health(self) -> None:
        """Serve's probe: a host whose sweep has ended is replaced."""
        if not self._orders.alive:
            raise RuntimeError("the sweep has ended")

    async def ping(self) -> bool:
        """Answer a readiness probe."""
        return True

    async def __del__(self) -> None:
        """Serve awaits this at shutdown: finish what runs, leave the rest to Postgres."""
        if hasattr(self, "_orders"):
            await self._orders.close()
            await self._pool.close()


def _portable(answer: Any) -> Any:
    """Errors of our own travel as they are; others may not unpickle, and belong to one call, not to all."""
    if not isinstance(answer, BaseException) or isinstance(answer, MarketplaceError):
        return answer
    log.error("a call failed unexpectedly", exc_info=answer)
    return MarketplaceError("internal_error", "The order's host failed unexpectedly; see its log.")
