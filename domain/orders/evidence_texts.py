"""What an order itself can say in a dispute: what was bought, the licence, delivery and access, the terms.

Written from the order's history, with times, by Stripe's names of evidence. Refused: to name more of the
buyer than the order knows.
"""

from collections.abc import Iterator, Mapping, Sequence

from domain.money import format_money
from domain.orders.decide import delivery_id, licence_id
from domain.orders.events import (
    DeliveryKeyReleased,
    Event,
    OrderBooked,
    OrderCreated,
    OrderDelivered,
    OrderLicensed,
    OrderPaid,
    OrderScreened,
)
from domain.orders.lines import Line
from domain.orders.state import Order

DAY_S = 86_400
TEXT_CHARS_MAX = 20_000  # of one text; Stripe's limit


def compose(order: Order, events: Sequence[Event], text: str) -> Mapping[str, str]:
    """Return the evidence by Stripe's names of its texts; each is at most ``TEXT_CHARS_MAX`` long.

    ``events`` are the order's history; ``text`` is the operator's own words.
    See https://docs.stripe.com/api/disputes/object#dispute_object-evidence.
    """
    window_days = order.refund_window_s // DAY_S
    texts = {
        "product_description": _goods(order),
        "access_activity_log": "\n".join(_activity(order, events)),
        "refund_policy_disclosure": "Software, delivered online at once. The buyer may ask for a refund "
        f"during {window_days} days after payment; the money is returned to the card.",
        "uncategorized_text": "\n\n".join(part for part in (text, _receipt(order)) if part),
    }
    if order.paid_at is not None:
        texts["service_date"] = order.paid_at.date().isoformat()
    return {name: value[:TEXT_CHARS_MAX] for name, value in texts.items() if value}


def _goods(order: Order) -> str:
    lines = [
        f"{line.quantity} x {line.sku_name} {line.version} ({line.bundle_name}, SHA-256 "
        f"{line.bundle_sha256}), {_licence(line)}: {format_money(line.amount_minor, order.currency)}"
        for line in order.lines
    ]
    return "Downloadable software with a signed licence:\n" + "\n".join(lines)


def _licence(line: Line) -> str:
    return "perpetual licence" if line.licence_days is None else f"licence for {line.licence_days} days"


def _receipt(order: Order) -> str:
    paid = "" if order.paid_at is None else f", paid at {order.paid_at.isoformat()}"
    return (
        f"Receipt: order {order.order_id} of buyer {order.buyer_id}{paid}, payment "
        f"{order.payment_intent_id}, total {format_money(order.total_minor, order.currency)}."
    )


def _activity(order: Order, events: Sequence[Event]) -> Iterator[str]:
    """What the buyer did and was given, with times."""
    lines = {delivery_id(order.order_id, line.line_no): line for line in order.lines}
    for event in events:
        words = None
        match event:
            case OrderCreated():
                words = f"Buyer {event.buyer_id} placed the order, delivery by {event.delivery.mode}."
            case OrderScreened():
                words = f"The order passed screening at {event.stage}: {event.outcome}."
            case OrderPaid():
                words = f"The buyer paid by {event.payment_intent_id}."
            case OrderBooked():
                words = f"The sale was booked as {event.entry_key}."
            case OrderLicensed():
                issued = [
                    f"{licence_id(order.order_id, line.line_no)} for {line.sku_name} {line.version}"
                    for line in order.lines
                    if licence_id(order.order_id, line.line_no) in event.licence_ids
                ]
                words = f"Licences were issued to the buyer, signed by {event.key_id}: {', '.join(issued)}."
            case OrderDelivered():
                words = "The encrypted deliveries were ready for the buyer to download."
            case DeliveryKeyReleased():
                line = lines.get(event.delivery_id)
                of = "" if line is None else f" of {line.sku_name} {line.version}"
                words = f"The buyer asked for and was given the key of delivery {event.delivery_id}{of}."
            case _:
                pass
        if words is not None:
            yield f"{event.at.isoformat()} {words}"
