"""One order's whole life as the turns that commit it: what benchmarks write without HTTP, Stripe or Ray.

Follows ``actors.orders.host``: created and screened are placed together, the webhook is kept in the commit
of ``paid``, and a booking is committed together with its licences and deliveries. The domain's own decider
makes the events and effects. Documents are of a real document's size and of random characters, because
what compresses well would flatter the database. Refuses to invent rules: it only strings commands together.
"""

import base64
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from domain.ids import new_id
from domain.orders import commands as c
from domain.orders.booking import capture_entry_key
from domain.orders.decide import decide, delivery_id, effects_after, licence_id
from domain.orders.events import (
    Event,
    OrderDelivered,
    OrderLicensed,
    OrderScreened,
)
from domain.orders.lines import DeliveryChoice, Line
from domain.orders.ports import IssuedLicence, PaymentNews, SealedDelivery, Turn
from domain.orders.state import Order, evolve

RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kudz9qsnq8rqz5n"
CURRENCY = "USD"
PRICE_MINOR = 1_999
# Characters of the documents that the signer makes for one line of the demo catalogue.
LICENCE_CHARS = 988
MANIFEST_CHARS = 2_296
HEADER_BYTES = 168
_JOINING = (OrderScreened, OrderLicensed, OrderDelivered)  # committed with the event before them


def order_id_at(unix_ms: int) -> str:
    """Return a new order id of that time."""
    return new_id("ord", unix_ms, secrets.token_bytes(10))


def place_command(order_id: str, buyer_id: str, at: datetime, lines: int = 1) -> c.PlaceOrder:
    """Return a cart of ``lines`` lines."""
    return c.PlaceOrder(
        order_id=order_id,
        buyer_id=buyer_id,
        currency=CURRENCY,
        lines=tuple(
            Line(
                line_no=number,
                sku_id=f"sku_01m86ptpg0fesm6ahfmjqj{number:04d}",
                sku_name="logline",
                seller_id="usr_seller",
                release_id=f"rel_01m86ptpg0fesm6ahfmjqj{number:04d}",
                version="1.4.0",
                bundle_name="logline-1.4.0.tar.gz",
                bundle_sha256="c7" * 32,
                unit_price_minor=PRICE_MINOR,
                quantity=1,
            )
            for number in range(1, lines + 1)
        ),
        delivery=DeliveryChoice("recipient", RECIPIENT),
        payment_method="payment_intent",
        country=None,
        at=at,
    )


def turn_of(
    order_id: str,
    order: Order | None,
    events: Sequence[Event],
    *,
    payment_handle: Mapping[str, str] | None = None,
    news: PaymentNews | None = None,
    licences: Sequence[IssuedLicence] = (),
    deliveries: Sequence[SealedDelivery] = (),
) -> Turn:
    """Return the turn that commits ``events`` on ``order``, with the effects that they start and end."""
    fence = order.seq if order else 0
    started, done = [], []
    for event in events:
        order = evolve(order_id, order, event)
        starts, ends = effects_after(event)
        started += starts
        done += ends
    assert order is not None, "a turn has events"
    return Turn(
        order=order,
        fence=fence,
        events=events,
        # What starts and ends within one turn is never written down as due.
        due=[effect for effect in started if effect.step not in done],
        done=done,
        payment_handle=payment_handle,
        news=news,
        licences=licences,
        deliveries=deliveries,
    )


def whole_life(command: c.PlaceOrder, intent: str | None = None) -> list[Turn]:
    """Return the turns of an order that is placed, paid and delivered: the first one places it.

    ``intent`` is the PaymentIntent that pays it; one of no Stripe's when left out.
    """
    order_id, at = command.order_id, command.at
    placed = turn_of(order_id, None, decide(None, command))
    intent = intent or f"pi_{secrets.token_hex(12)}"
    opened = turn_of(
        order_id,
        placed.order,
        decide(placed.order, c.RecordPaymentOpened(intent, None, at)),
        payment_handle={"client_secret": f"{intent}_secret_{secrets.token_hex(12)}"},
    )
    total_minor = opened.order.total_minor
    news = PaymentNews(
        f"evt_{secrets.token_hex(12)}",
        *(order_id, "payment_intent.succeeded", intent, total_minor, command.currency, "", ""),
    )
    paid = turn_of(
        order_id,
        opened.order,
        decide(opened.order, c.ConfirmPayment(intent, news.event_id, news.amount_minor, news.currency, at)),
        news=news,
    )
    entry_key = capture_entry_key(order_id)
    booking = c.RecordBooking(entry_key, f"ent_{order_id}", command.currency, total_minor, at)
    return [placed, opened, paid, _fulfilled(paid.order, decide(paid.order, booking))]


def _fulfilled(paid: Order, events: Sequence[Event]) -> Turn:
    order = paid
    for event in events:
        order = evolve(paid.order_id, order, event)
    lines = order.lines
    at = order.updated_at
    fulfilment = c.RecordFulfilment(
        tuple(licence_id(order.order_id, line.line_no) for line in lines),
        tuple(delivery_id(order.order_id, line.line_no) for line in lines),
        "key_bench",
        at,
    )
    return turn_of(
        order.order_id,
        paid,
        [*events, *decide(order, fulfilment)],
        licences=[
            IssuedLicence(
                *(licence_id(order.order_id, line.line_no), line.line_no, line.sku_id, line.release_id),
                *(line.quantity, "key_bench", document(LICENCE_CHARS), at),
            )
            for line in lines
        ],
        deliveries=[
            SealedDelivery(
                delivery_id=delivery_id(order.order_id, line.line_no),
                line_no=line.line_no,
                release_id=line.release_id,
                mode="recipient",
                recipient=RECIPIENT,
                header=secrets.token_bytes(HEADER_BYTES),
                manifest=document(MANIFEST_CHARS),
                wrapped_identity=None,
                key_ttl_s=None,
            )
            for line in lines
        ],
    )


def document(chars: int) -> str:
    """Return a text of about ``chars`` characters that does not compress."""
    return base64.b64encode(secrets.token_bytes(chars * 3 // 4)).decode()


def turns_committed(events: Iterable[Event]) -> list[list[Event]]:
    """Cut an order's history into the turns that commit it when nothing fails."""
    turns: list[list[Event]] = []
    for event in events:
        if not turns or not isinstance(event, _JOINING):
            turns.append([])
        turns[-1].append(event)
    return turns
