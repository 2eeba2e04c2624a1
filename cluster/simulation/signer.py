"""The signer, modelled: the same order gives the same licences; sealing differs at each repeat, as in life.

It holds production to invariant I4 at the strictest place: at the moment at which it is asked to sign,
Finance must hold the order's exact entry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from actors.signer.issuer import IssueRequest
from cluster.simulation.faults import Fault
from cluster.simulation.finance import Finance
from cluster.simulation.loop import Process
from cluster.simulation.network import Network, Server
from domain.errors import DependencyError, MarketplaceError, RejectedError
from domain.orders import decide
from domain.orders.booking import capture_entry_key, cleared_minor
from domain.orders.ports import Fulfilment, IssuedLicence, SealedDelivery
from domain.orders.state import Order

T = TypeVar("T")
SIGNER_DEADLINE_S = 5.0  # as deployments.placement


class UnforeseenError(Exception):
    """What a bug in the signer would raise: no ``MarketplaceError``."""


@dataclass
class Signer:
    """See the module. ``early`` lists orders that were to be signed before Finance had acknowledged."""

    finance: Finance
    early: list[str] = field(default_factory=list)
    _seals: int = 0

    def issue(
        self, requests: Sequence[IssueRequest], fault: Fault | None
    ) -> Sequence[Fulfilment | MarketplaceError]:
        """Sign and seal each order by itself."""
        if fault is Fault.UNFORESEEN:
            raise UnforeseenError("the signer has a bug")
        if fault is Fault.REJECTED:
            return [RejectedError("unwrap_refused", "KMS refuses this key.") for _ in requests]
        return [self._fulfil(request.order) for request in requests]

    def unwrap(self, delivery_id: str, wrapped: bytes) -> str:
        """Open a released-key delivery's identity."""
        if not wrapped.startswith(delivery_id.encode()):
            raise RejectedError("unwrap_refused", "The blob belongs to another delivery.")
        return f"identity of {wrapped.decode()}"

    def _fulfil(self, order: Order) -> Fulfilment:
        entry = self.finance.entries.get(capture_entry_key(order.order_id))
        # Of the lines that were returned first the signer is not told, but they were captured and booked.
        # Of an order that costs nothing there is no entry, and must be none.
        held_minor = 0 if entry is None else cleared_minor(entry.postings)
        if held_minor != order.total_minor or (entry is None) != (order.total_minor == 0):
            self.early.append(order.order_id)
        self._seals += 1
        assert order.booked_at is not None, "I4: asserted by production, too"
        return Fulfilment(
            licences=[
                IssuedLicence(
                    licence_id=decide.licence_id(order.order_id, line.line_no),
                    line_no=line.line_no,
                    sku_id=line.sku_id,
                    release_id=line.release_id,
                    quantity=line.quantity,
                    key_id="key_1",
                    envelope=f"licence of {order.order_id} line {line.line_no}",
                    issued_at=order.booked_at,
                )
                for line in order.lines
            ],
            deliveries=[self._seal(order, line.line_no, line.release_id) for line in order.lines],
        )

    def _seal(self, order: Order, line_no: int, release_id: str) -> SealedDelivery:
        delivery_id = decide.delivery_id(order.order_id, line_no)
        held = order.delivery.mode == "released_key"
        return SealedDelivery(
            delivery_id=delivery_id,
            line_no=line_no,
            release_id=release_id,
            mode=order.delivery.mode,
            recipient=order.delivery.recipient or "age1made",
            header=f"header {self._seals}".encode(),
            manifest="manifest",
            wrapped_identity=f"{delivery_id} {self._seals}".encode() if held else None,
            key_ttl_s=decide.RELEASED_KEY_TTL_S if held else None,
        )


class SignerConnection:
    """One process's way to the signer, as ``deployments.placement.SignerDirectory`` is."""

    def __init__(self, network: Network, process: Process, server: Server, model: Signer) -> None:
        self._network = network
        self._process = process
        self._server = server
        self._model = model

    async def issue(self, requests: Sequence[IssueRequest]) -> Sequence[Fulfilment | Exception]:
        """See ``Issuer.issue``."""
        return await self._call(
            "issue",
            requests[0].order.order_id,
            lambda: self._model.issue(requests, self._network.executing),
        )

    async def unwrap_identity(self, delivery_id: str, wrapped: bytes) -> str:
        """See ``Issuer.unwrap_identity``."""
        return await self._call("unwrap", "", lambda: self._model.unwrap(delivery_id, wrapped))

    async def _call(self, what: str, subject: str, execute: Callable[[], T]) -> T:
        return await self._network.call(
            self._process,
            self._server,
            f"signer.{what}",
            subject,
            execute,
            _unavailable,
            SIGNER_DEADLINE_S,
        )


def _unavailable(why: str) -> DependencyError:
    return DependencyError("signer_unavailable", f"A part is being replaced: {why}.")
