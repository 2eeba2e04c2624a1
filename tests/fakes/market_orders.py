"""Orders behind the ingress, in memory: reads, the directory of hosts, the signer, what buyers hold.

The host, the issuer and the sealer are the real ones; only what they stand on is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from actors.orders.host import (
    ActedOrder,
    EvidenceReply,
    OrderHost,
    PlacedOrder,
    RefundReply,
    ReleasedKey,
)
from actors.publisher.sealing import LicensingDocument, ReleaseSealer, Seal, SealRequest
from actors.signer.issuer import Issuer, IssueRequest
from domain.errors import RejectedError
from domain.orders.commands import CancelOrder, DecideReview, PlaceOrder, PrepareEvidence, RequestRefund
from domain.orders.decide import RELEASED_KEY_TTL_S
from domain.orders.events import OrderDisputed, OrderPaid
from domain.orders.ports import Fulfilment, Idempotency, NumberedEvent, PaymentNews, StoredOrder, Turn
from domain.orders.state import Order, fold
from domain.revocations import RevocationList
from storage.market.licences import DeliveryOwner, DeliveryRow, LicenceRow, RevocationSnapshot, Standing
from storage.market.order_store import OrderSummary
from tests.fakes.orders import FakeOrderStore

if TYPE_CHECKING:
    from tests.fakes.ingress import FakeMarket


@dataclass
class FakeReads:
    """The order store as the ingress reads it."""

    store: FakeOrderStore
    failure: Exception | None = None

    async def load(self, order_id: str) -> StoredOrder | None:
        if self.failure is not None:
            raise self.failure
        return await self.store.load(order_id)

    async def order_of_payment(self, payment_intent_id: str) -> str | None:
        for order_id, row in self.store.orders.items():
            if any(isinstance(e, OrderPaid) and e.payment_intent_id == payment_intent_id for e in row.events):
                return order_id
        return None

    async def disputed(
        self, before: tuple[datetime, str, str] | None, limit: int
    ) -> list[tuple[str, str, datetime]]:
        found = [
            (order_id, event.dispute_id, event.at)
            for order_id, row in self.store.orders.items()
            for event in row.events
            if isinstance(event, OrderDisputed) and fold(order_id, row.events).status == "disputed"  # type: ignore[union-attr]
        ]
        found.sort(key=lambda one: (one[2], one[0], one[1]), reverse=True)
        below = [one for one in found if before is None or (one[2], one[0], one[1]) < before]
        return below[:limit]

    async def list_of_buyer(self, buyer_id: str, before: str, limit: int) -> list[OrderSummary]:
        summaries = []
        for order_id, row in sorted(self.store.orders.items(), reverse=True):
            order = fold(order_id, row.events)
            assert order is not None
            if row.buyer_id == buyer_id and order_id < before:
                summaries.append(
                    OrderSummary(
                        order_id,
                        order.status.value,
                        order.currency,
                        order.total_minor,
                        order.created_at,
                        order.updated_at,
                    )
                )
        return summaries[:limit]

    async def events_since(self, watched: Mapping[str, int]) -> list[NumberedEvent]:
        if self.failure is not None:
            raise self.failure
        return [
            NumberedEvent(order_id, number, event)
            for order_id, seq in watched.items()
            if (row := self.store.orders.get(order_id)) is not None
            for number, event in enumerate(row.events, 1)
            if number > seq
        ]

    def follow(self, follower: Callable[[Turn], None]) -> None:
        self.store.followers.append(follower)

    async def store_webhook(self, news: PaymentNews) -> tuple[bool, bool]:
        if self.failure is not None:
            raise self.failure
        return await self.store.store_webhook(news)


@dataclass
class FakeDirectory:
    """Orders' hosts: one real host; ``failure`` is raised instead of an answer."""

    host: OrderHost
    failure: Exception | None = None
    calls: int = 0

    async def place(self, command: PlaceOrder, idempotency: Idempotency) -> PlacedOrder:
        self._called()
        return await self.host.place(command, idempotency)

    async def receive(self, news: PaymentNews) -> str:
        self._called()
        return await self.host.receive(news)

    async def release_key(self, order_id: str, delivery_id: str) -> ReleasedKey:
        self._called()
        return await self.host.release_key(order_id, delivery_id)

    async def refund(self, order_id: str, command: RequestRefund) -> RefundReply:
        self._called()
        return await self.host.refund(order_id, command)

    async def act(self, order_id: str, command: CancelOrder | DecideReview) -> ActedOrder:
        self._called()
        return await self.host.act(order_id, command)

    async def prepare_evidence(self, order_id: str, command: PrepareEvidence) -> EvidenceReply:
        self._called()
        return await self.host.prepare_evidence(order_id, command)

    def _called(self) -> None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure


class FakeSigner:
    """The signer's actor over a key in memory."""

    def __init__(self, market: FakeMarket) -> None:
        self._market = market
        self._sealer = ReleaseSealer(market.keys, market.keys)
        self._issuer = Issuer(market.keys, market.keys)
        self.failure: Exception | None = None
        self.asked_lists = self.signed_lists = 0

    async def seal_release(self, request: SealRequest) -> Seal:
        if self.failure is not None:
            raise self.failure
        return self._sealer.seal_release(request)

    async def sign_revocations(self, listed: RevocationList) -> str:
        self.asked_lists += 1
        if self.failure is not None:
            raise self.failure
        self.signed_lists += 1
        return self._sealer.sign_revocations(listed)

    async def sign_licensing(self, document: LicensingDocument) -> str:
        if self.failure is not None:
            raise self.failure
        return self._sealer.sign_licensing(document)

    async def fulfil(self, order: Order) -> Fulfilment:
        materials = tuple(self._market.material(line.release_id) for line in order.lines)
        (answer,) = self._issuer.issue([IssueRequest(order, materials)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def open_identity(self, order_id: str, delivery_id: str) -> tuple[str, Any]:
        delivery = self._market.store.deliveries[delivery_id]
        assert delivery.wrapped_identity is not None
        expires_at = self._market.delivered_at(order_id) + timedelta(seconds=RELEASED_KEY_TTL_S)
        if self._market.clock() >= expires_at:
            raise RejectedError("delivery_key_expired", "too late")
        return self._issuer.unwrap_identity(delivery_id, delivery.wrapped_identity), expires_at


@dataclass
class FakeLicences:
    """Reads over the order store's licences and deliveries; ``statuses`` overrides ``active``."""

    market: FakeMarket
    statuses: dict[str, str] = field(default_factory=dict)
    grace_days: int = 0
    said: list[Any] = field(default_factory=list)

    def _buyer_of(self, order_id: str) -> str:
        return self.market.store.orders[order_id].buyer_id

    def _order_of(self, thing_id: str, names: str) -> str:
        for order_id, row in self.market.store.orders.items():
            order = fold(order_id, row.events)
            if order is not None and thing_id in getattr(order, names):
                return order_id
        raise AssertionError(f"nobody's {thing_id}")

    async def licence(self, licence_id: str) -> LicenceRow | None:
        issued = self.market.store.licences.get(licence_id)
        if issued is None:
            return None
        order_id = self._order_of(licence_id, "licence_ids")
        return LicenceRow(
            licence_id,
            order_id,
            issued.line_no,
            self._buyer_of(order_id),
            issued.sku_id,
            issued.release_id,
            issued.quantity,
            self._standing(licence_id),
            issued.key_id,
            issued.envelope,
            issued.issued_at,
            licence_id,
            1,
        )

    async def standing(self, licence_id: str) -> Standing:
        known = licence_id in self.market.store.licences
        return Standing(self._standing(licence_id) if known else None, self.grace_days)

    async def list_version(self) -> int:
        return (await self.revocations()).version

    async def revocations(self) -> RevocationSnapshot:
        standings = self.market.store.standings | self.statuses
        parts = [
            sorted(one for one, found in standings.items() if found == status)
            for status in ("revoked", "suspended")
        ]
        said = (self.grace_days, *parts)
        if not self.said or self.said[-1] != said:  # as the database: another content, another version
            self.said.append(said)
        return RevocationSnapshot(len(self.said), *said)

    def _standing(self, licence_id: str) -> str:
        return self.statuses.get(licence_id) or self.market.store.standings.get(licence_id, "active")

    async def recorded_at(self, licence_id: str, envelope: str) -> datetime | None:
        issued = self.market.store.licences.get(licence_id)
        return issued.issued_at if issued is not None and issued.envelope == envelope else None

    async def deliveries(self, order_id: str) -> list[DeliveryRow]:
        order = fold(order_id, self.market.store.orders[order_id].events)
        assert order is not None
        rows = []
        for delivery_id, licence_id in zip(order.delivery_ids, order.licence_ids, strict=True):
            sealed = self.market.store.deliveries[delivery_id]
            publication = self.market.catalogue.publications[sealed.release_id]
            ttl = None if sealed.key_ttl_s is None else timedelta(seconds=sealed.key_ttl_s)
            rows.append(
                DeliveryRow(
                    delivery_id,
                    sealed.line_no,
                    sealed.release_id,
                    licence_id,
                    sealed.mode,
                    sealed.recipient,
                    self.market.catalogue.releases[sealed.release_id].bundle_name,
                    sealed.header,
                    sealed.manifest,
                    publication.payload_key,
                    publication.payload_version,
                    publication.payload_bytes,
                    publication.payload_sha256,
                    self.market.store.licences[licence_id].envelope,
                    None if ttl is None else self.market.delivered_at(order_id) + ttl,
                )
            )
        return rows

    async def delivery_owner(self, delivery_id: str) -> DeliveryOwner | None:
        if delivery_id not in self.market.store.deliveries:
            return None
        order_id = self._order_of(delivery_id, "delivery_ids")
        return DeliveryOwner(order_id, self._buyer_of(order_id))
