"""The host's side of fulfilment: gathers a booked order's material and asks the signer's actor.

Adapter of ``Fulfiller``. Orders that become due together share one call to the signer.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from actors.signer.issuer import REQUESTS_MAX, IssueRequest
from domain.orders.ports import Fulfilment
from domain.orders.state import Order
from storage.batching import Batcher
from storage.market.fulfilment import FulfilmentReads

LINGER_S = 0.003  # an order waits this long for company: a hop costs more than an order's signatures
WAITING_MAX = 1_000  # orders waiting for the signer in one host; beyond it the effect is deferred


class SignerFulfiller:
    """``issue`` and ``unwrap`` reach the signer's actor; see ``deployments.placement``."""

    def __init__(
        self,
        reads: FulfilmentReads,
        issue: Callable[[Sequence[IssueRequest]], Awaitable[Sequence[Fulfilment | Exception]]],
        unwrap: Callable[[str, bytes], Awaitable[str]],
    ) -> None:
        self._reads = reads
        self._unwrap = unwrap
        self._batcher: Batcher[IssueRequest, Fulfilment] = Batcher(
            issue, batch_max=REQUESTS_MAX, waiting_max=WAITING_MAX, linger_s=LINGER_S
        )

    async def fulfil(self, order: Order) -> Fulfilment:
        """Sign a licence and seal a delivery per line; see the port for errors."""
        materials = tuple([await self._reads.material(line.release_id) for line in order.lines])
        return await self._batcher.submit(IssueRequest(order, materials))

    async def open_identity(self, order_id: str, delivery_id: str) -> tuple[str, datetime]:
        """Unwrap the age identity of a released-key delivery, unless its time is over."""
        wrapped = await self._reads.wrapped_identity(order_id, delivery_id)
        return await self._unwrap(delivery_id, wrapped.blob), wrapped.expires_at
