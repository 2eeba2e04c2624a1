"""Carts for tests: valid by default, each part replaceable."""

from datetime import UTC, datetime

from domain.ids import new_id
from domain.orders.commands import PlaceOrder
from domain.orders.lines import DeliveryChoice, Line

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
BUYER = "buyer_ada"
RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kudz9qsnq8rqz5n"


def order_id(number: int = 1) -> str:
    return new_id("ord", int(NOW.timestamp() * 1000), number.to_bytes(10))


def line(
    line_no: int = 1, *, price_minor: int = 1999, quantity: int = 1, seller_id: str = "seller_1"
) -> Line:
    return Line(
        line_no=line_no,
        sku_id=f"sku_{line_no}",
        sku_name="logline",
        seller_id=seller_id,
        release_id=f"rel_{line_no}",
        version="1.0.0",
        bundle_name="logline-1.0.0.tar.gz",
        bundle_sha256="ab" * 32,
        unit_price_minor=price_minor,
        quantity=quantity,
    )


def cart(number: int = 1, *lines: Line, **changes: object) -> PlaceOrder:
    values: dict[str, object] = {
        "order_id": order_id(number),
        "buyer_id": BUYER,
        "currency": "USD",
        "lines": lines or (line(),),
        "delivery": DeliveryChoice("recipient", RECIPIENT),
        "payment_method": "payment_intent",
        "country": None,
        "at": NOW,
    }
    return PlaceOrder(**(values | changes))  # type: ignore[arg-type]
