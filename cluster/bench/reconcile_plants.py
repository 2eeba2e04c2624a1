"""Planted differences between orders, Finance and Stripe, each made by the parts themselves.

Payments, refunds and disputes are made at the Stripe simulator, which sends no webhooks here; entries over
Finance's contract; orders by the domain's own decider through the order store. What is left out or made
otherwise on one side is the difference. ``PLANTS`` names each with the kind that a reconciliation must
find.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import stripe

from cluster.bench.order_life import PRICE_MINOR, order_id_at, place_command, turn_of, whole_life
from domain.orders import commands as c
from domain.orders.booking import (
    capture_entry_key,
    capture_postings,
    fee_entry_key,
    return_entry_key,
    return_postings,
)
from domain.orders.booking import fee_postings as fee_postings_of
from domain.orders.decide import decide, licence_id
from domain.orders.ports import Idempotency, Turn
from domain.orders.return_invariants import movements_of
from domain.orders.state import Order
from domain.reconciliation.facts import Kind
from storage.finance_client import entry_body
from storage.market.order_store import PostgresOrderStore

Entry = tuple[str, Sequence[tuple[str, int]]]
AGO = timedelta(hours=2)  # when planted orders were placed: long enough for a licence to be missed
_LICENCE = """
INSERT INTO market.licences
    (licence_id, order_id, line_no, buyer_id, sku_id, release_id, quantity, key_id, envelope, issued_at)
VALUES (%s, %s, 1, 'usr_plant', 'sku_plant', 'rel_plant', 1, 'key_plant', '', now())
"""


class Planter:
    """The three sides, as their own clients see them."""

    def __init__(
        self, store: PostgresOrderStore, owner_dsn: str, finance: httpx.Client, api: str, key: str
    ) -> None:
        self.store = store
        self.owner_dsn = owner_dsn
        self.finance = finance
        self._stripe_http = stripe.RequestsClient()
        self.stripe = stripe.StripeClient(key, base_addresses={"api": api}, http_client=self._stripe_http)
        self.controls = httpx.Client(base_url=f"{api}/_sim", headers={"Authorization": f"Bearer {key}"})

    def close(self) -> None:
        """Close what it opened."""
        self._stripe_http.close()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped
        self.controls.close()

    def pay(
        self, order_id: str, amount_minor: int = PRICE_MINOR, currency: str = "usd", card: str = "visa"
    ) -> str:
        """Capture a payment at Stripe; returns its PaymentIntent."""
        params: Any = {
            "amount": amount_minor,
            "currency": currency,
            "confirm": True,
            "payment_method": f"pm_card_{card}",
            "payment_method_types": ["card"],
            "metadata": {"order_id": order_id},
        }
        made = self.stripe.v1.payment_intents.create(params)
        return str(made.id)

    def control(self, path: str, **form: Any) -> dict[str, Any]:
        """Do something at Stripe that no API does: a refund in the dashboard, a bank's decision."""
        answer = self.controls.post(path, data=form)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def charge_of(self, intent: str) -> str:
        """Return a payment's charge."""
        return str(self.stripe.v1.payment_intents.retrieve(intent).latest_charge)

    async def record(self, intent: str | None, *, turns_max: int | None = None) -> Order:
        """Write an order that ``intent`` pays, or its first turns: after two it waits for payment."""
        at = datetime.now(UTC) - AGO
        command = place_command(order_id_at(int(at.timestamp() * 1_000)), "usr_plant", at)
        if intent is not None:
            # The payment names its order, so the order's id is Stripe's here.
            found = self.stripe.v1.payment_intents.retrieve(intent).metadata
            command = replace(command, order_id=dict(found.to_dict())["order_id"])
        turns = whole_life(command, intent)[:turns_max]
        assert await self.store.place(turns[0], Idempotency(secrets.token_hex(8), b"d" * 32))
        for turn in turns[1:]:
            assert await self.store.commit(turn)
        return turns[-1].order

    async def go_on(self, order: Order, *commands: c.Command) -> Order:
        """Have an order decide on commands, and commit."""
        for command in commands:
            turn: Turn = turn_of(order.order_id, order, decide(order, command))
            assert await self.store.commit(turn), command
            order = turn.order
        return order

    def book(self, order: Order, *entries: Entry, currency: str = "USD") -> None:
        """Post entries at Finance; the sale's own when none are given."""
        own = ((capture_entry_key(order.order_id), capture_postings(order)),)
        at = order.paid_at or datetime.now(UTC)
        self.post(*(entries or own), at=at, currency=currency)

    def post(self, *entries: Entry, at: datetime, currency: str = "USD") -> None:
        """Post entries at Finance."""
        for key, postings in entries:
            body = entry_body(key, currency, at, postings)
            answer = self.finance.post(
                "/v1/entries", json={**body, "occurred_at": at.isoformat().replace("+00:00", "Z")}
            )
            assert answer.status_code == httpx.codes.CREATED, answer.text

    def reverse(self, entry_key: str) -> None:
        """Undo an entry at Finance."""
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        body = {"entry_key": f"{entry_key}:reversal", "occurred_at": at}
        answer = self.finance.post(f"/v1/entries/{entry_key}/reversal", json=body)
        assert answer.status_code == httpx.codes.CREATED, answer.text

    async def sold_unbooked(self) -> Order:
        """Make an order that Finance knows nothing of."""
        return await self.record(self.pay(new_order_id()))

    async def sold(self, amount_minor: int = PRICE_MINOR, currency: str = "usd", card: str = "visa") -> Order:
        """Make an order that all three agree on, but for what the arguments say."""
        order = await self.record(self.pay(new_order_id(), amount_minor, currency, card))
        self.book(order)
        return order


def new_order_id() -> str:
    """Return an order id of some time ago."""
    return order_id_at(time.time_ns() // 1_000_000 - int(AGO.total_seconds() * 1_000))


async def capture_not_recorded(planter: Planter) -> None:
    """Stripe captured, and its webhook never came."""
    await planter.record(planter.pay(new_order_id()), turns_max=2)


async def capture_missing_at_stripe(planter: Planter) -> None:
    """The order is paid by a payment that Stripe does not have."""
    planter.book(await planter.record(None))


async def capture_differs(planter: Planter) -> None:
    """Stripe captured less."""
    await planter.sold(amount_minor=1_500)


async def capture_in_another_currency(planter: Planter) -> None:
    """Stripe captured the same number of euros."""
    await planter.sold(currency="eur")


async def captured_twice(planter: Planter) -> None:
    """Two payments of one order."""
    planter.pay((await planter.sold()).order_id)


async def capture_without_order(planter: Planter) -> None:
    """A payment names an order that does not exist."""
    planter.pay(new_order_id())


async def not_booked(planter: Planter) -> None:
    """Finance acknowledged, and has no entry."""
    await planter.sold_unbooked()


async def booked_too_little(planter: Planter) -> None:
    """The sale's entry is a dollar short."""
    order = await planter.record(planter.pay(new_order_id()))
    (clearing, total), (payable, net), *fees = capture_postings(order)
    planter.book(
        order, (capture_entry_key(order.order_id), [(clearing, total - 100), (payable, net + 100), *fees])
    )


async def booked_to_another_seller(planter: Planter) -> None:
    """The total is right, the seller is not."""
    order = await planter.record(planter.pay(new_order_id()))
    clearing, (_, net), *fees = capture_postings(order)
    planter.book(
        order, (capture_entry_key(order.order_id), [clearing, ("seller:usr_other:payable", net), *fees])
    )


async def booked_twice(planter: Planter) -> None:
    """The sale stands in the books under two keys."""
    order = await planter.sold()
    planter.book(order, (f"{order.order_id}:capture:again", capture_postings(order)))


async def booked_without_order(planter: Planter) -> None:
    """An entry of an order that does not exist."""
    legs = [("stripe:clearing", 1_000), ("platform:fees", -1_000)]
    planter.post((capture_entry_key(new_order_id()), legs), at=datetime.now(UTC))


async def booked_by_hand(planter: Planter) -> None:
    """An entry on the clearing account that is about nothing."""
    legs = [("stripe:clearing", 777), ("platform:fees", -777)]
    planter.post((f"manual:{secrets.token_hex(6)}", legs), at=datetime.now(UTC))


async def refund_not_recorded(planter: Planter) -> None:
    """A refund made in Stripe's dashboard, whose webhook never came."""
    order = await planter.sold()
    planter.control("/refunds", payment_intent=order.payment_intent_id, amount=500)


async def refund_missing_at_stripe(planter: Planter) -> None:
    """The order says that Stripe returned money; Stripe did not."""
    order = await _refunded(planter, await planter.sold(), "re_gone", "succeeded")
    _book_returns(planter, order)


async def refund_failed_unheard(planter: Planter) -> None:
    """A refund failed at Stripe after the order had heard that it succeeded."""
    order = await planter.sold()
    made = planter.control("/refunds", payment_intent=order.payment_intent_id, amount=500)
    order = await _refunded(planter, order, made["id"], "succeeded")
    _book_returns(planter, order)
    planter.control(f"/refunds/{made['id']}/fail")


async def dispute_not_recorded(planter: Planter) -> None:
    """A bank took money back, and no webhook told."""
    order = await planter.sold()
    planter.control("/disputes", charge=planter.charge_of(str(order.payment_intent_id)))


async def dispute_missing_at_stripe(planter: Planter) -> None:
    """The order knows a dispute that Stripe does not have."""
    order = await planter.sold()
    order = await _disputed(planter, order, "dp_gone", order.total_minor)
    _book_returns(planter, order)


async def dispute_lost_unheard(planter: Planter) -> None:
    """A dispute is lost at Stripe and open at the order."""
    order = await planter.sold()
    made = planter.control("/disputes", charge=planter.charge_of(str(order.payment_intent_id)))
    order = await _disputed(planter, order, made["id"], made["amount"], _fees(made))
    _book_returns(planter, order)
    planter.control(f"/disputes/{made['id']}/decide", outcome="lost")


async def dispute_fee_given_back_unheard(planter: Planter) -> None:
    """Stripe gives a dispute's fee back, and no webhook tells."""
    order = await planter.sold()
    made = planter.control("/disputes", charge=planter.charge_of(str(order.payment_intent_id)))
    order = await _disputed(planter, order, made["id"], made["amount"], _fees(made))
    _book_returns(planter, order)
    planter.control(f"/disputes/{made['id']}/fee", amount=_fees(made)[0][1], given_back="true")


async def fee_differs(planter: Planter) -> None:
    """Stripe's fee is booked at one dollar."""
    order = await planter.sold()
    planter.book(order, (fee_entry_key(order.order_id), fee_postings_of(100)))


async def paid_without_licence(planter: Planter) -> None:
    """Paid and booked, and nobody issued the licence."""
    order = await planter.record(planter.pay(new_order_id()), turns_max=3)
    planter.book(order)
    booking = c.RecordBooking(
        *(capture_entry_key(order.order_id), "ent_1", "USD", order.total_minor, datetime.now(UTC))
    )
    await planter.go_on(order, booking)


async def licence_without_payment(planter: Planter) -> None:
    """A licence of an order that nobody paid."""
    order = await planter.record(None, turns_max=2)
    with psycopg.connect(planter.owner_dsn, autocommit=True) as owner:
        owner.execute(_LICENCE, (licence_id(order.order_id, 1), order.order_id))


async def _refunded(planter: Planter, order: Order, stripe_refund_id: str, status: str) -> Order:
    return await planter.go_on(
        order,
        c.NoticeRefund(
            *(stripe_refund_id, "", str(order.payment_intent_id), 500, "USD", status, "", datetime.now(UTC))
        ),
    )


async def _disputed(
    planter: Planter,
    order: Order,
    dispute_id: str,
    amount_minor: int,
    fees: tuple[tuple[str, int], ...] = (),
) -> Order:
    return await planter.go_on(
        order,
        c.NoticeDispute(
            *(dispute_id, str(order.payment_intent_id), amount_minor, "USD", "needs_response", "fraudulent"),
            fees,
            datetime.now(UTC),
        ),
    )


def _fees(dispute: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    return tuple((one["id"], one["fee"]) for one in dispute["balance_transactions"])


def _book_returns(planter: Planter, order: Order) -> None:
    for movement in movements_of(order):
        at, postings = return_postings(order, movement)
        planter.post((return_entry_key(order.order_id, movement), postings), at=at)


PLANTS: Sequence[tuple[Callable[[Planter], Awaitable[None]], Kind]] = (
    (capture_not_recorded, Kind.CAPTURE_NOT_RECORDED),
    (capture_missing_at_stripe, Kind.CAPTURE_MISSING_AT_STRIPE),
    (capture_differs, Kind.CAPTURE_DIFFERS),
    (capture_in_another_currency, Kind.CAPTURE_DIFFERS),
    (captured_twice, Kind.CAPTURED_TWICE),
    (capture_without_order, Kind.CAPTURE_WITHOUT_ORDER),
    (not_booked, Kind.NOT_BOOKED),
    (booked_too_little, Kind.BOOKED_DIFFERENTLY),
    (booked_to_another_seller, Kind.BOOKED_DIFFERENTLY),
    (booked_twice, Kind.BOOKED_TWICE),
    (booked_without_order, Kind.BOOKED_WITHOUT_ORDER),
    (booked_by_hand, Kind.BOOKED_WITHOUT_ORDER),
    (refund_not_recorded, Kind.REFUND_NOT_RECORDED),
    (refund_missing_at_stripe, Kind.REFUND_MISSING_AT_STRIPE),
    (refund_failed_unheard, Kind.REFUND_DIFFERS),
    (dispute_not_recorded, Kind.DISPUTE_NOT_RECORDED),
    (dispute_missing_at_stripe, Kind.DISPUTE_MISSING_AT_STRIPE),
    (dispute_lost_unheard, Kind.DISPUTE_DIFFERS),
    (dispute_fee_given_back_unheard, Kind.DISPUTE_DIFFERS),
    (fee_differs, Kind.FEE_DIFFERS),
    (paid_without_licence, Kind.PAID_WITHOUT_LICENCE),
    (licence_without_payment, Kind.LICENCE_WITHOUT_PAYMENT),
)


async def plant(planter: Planter) -> dict[str, int]:
    """Make every difference once; returns how many of each kind a reconciliation must find."""
    expected: dict[str, int] = {}
    for make, kind in PLANTS:
        await make(planter)
        expected[kind.value] = expected.get(kind.value, 0) + 1
    return expected
