"""Quotes: what a cart costs now, before anybody buys it. Nothing is written and nothing is held."""

from collections.abc import Sequence

from starlette.responses import Response

from serve_app import examples
from serve_app.auth import BUYER
from serve_app.calls import Call, read_model, reply
from serve_app.limits import ORDER_BODY_BYTES_MAX
from serve_app.operations import Answer, Operation
from serve_app.quoting import QUOTE_PROBLEMS, Quoting
from serve_app.schemas.quotes import Cart, Quote, quote_document


class QuoteRoutes:
    """Handlers."""

    def __init__(self, quoting: Quoting) -> None:
        self._quoting = quoting

    async def quote(self, call: Call) -> Response:
        """POST /v1/quotes."""
        cart = read_model(Cart, await call.json(ORDER_BODY_BYTES_MAX))
        quoted = await self._quoting.quote(call, cart)
        return reply(200, quote_document(cart.currency, quoted.lines), {"Cache-Control": "no-store"})


def operations(quoting: Quoting) -> Sequence[Operation]:
    """List the operations on quotes."""
    return (
        Operation(
            "POST",
            "/v1/quotes",
            "quoteCart",
            "What a cart costs now, with discount and tax; an order of it freezes the same",
            QuoteRoutes(quoting).quote,
            {200: Answer("The quote", Quote, examples.QUOTE)},
            roles=frozenset({BUYER}),
            request=Cart,
            request_example=examples.CART,
            problems=QUOTE_PROBLEMS,
        ),
    )
