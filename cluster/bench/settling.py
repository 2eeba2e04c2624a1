"""The check after a load: every acknowledged order is delivered in the end.

Asks over HTTP, as buyers would: with the token that placed each order. An order whose buyer was turned away
before it was paid (the load was too much for the payment page, or the payment was not open yet) is paid now,
as that buyer would do. Deliveries that a buyer has heard of are not asked for again.
"""

import asyncio
import time
from collections.abc import Iterator

import orjson

from cluster.bench.http_client import OK, HttpConnection
from cluster.bench.load import TRANSPORT_ERRORS, Acknowledged, Tally, Target, pay

ASKERS = 8  # connections that ask at once
ROUND_PAUSE_S = 0.25


async def undelivered(target: Target, tally: Tally, timeout_s: float) -> list[str]:
    """Return the acknowledged orders that are not delivered within ``timeout_s`` seconds, sorted."""
    deadline = time.monotonic() + timeout_s
    waiting = {order_id: one for order_id, one in tally.acknowledged.items() if not one.delivered}
    while waiting:
        orders = iter(list(waiting.items()))
        async with asyncio.TaskGroup() as askers:
            for _ in range(ASKERS):
                askers.create_task(_ask(target, orders))
        waiting = {order_id: one for order_id, one in waiting.items() if not one.delivered}
        if time.monotonic() > deadline:
            break
        if waiting:
            await asyncio.sleep(ROUND_PAUSE_S)
    return sorted(waiting)


async def _ask(target: Target, orders: Iterator[tuple[str, Acknowledged]]) -> None:
    api, stripe = HttpConnection(target.origin), HttpConnection(target.stripe_origin)
    try:
        for order_id, one in orders:
            try:
                await _look(target, api, stripe, order_id, one)
            except TRANSPORT_ERRORS:
                continue  # asked again in the next round
    finally:
        api.close()
        stripe.close()


async def _look(
    target: Target, api: HttpConnection, stripe: HttpConnection, order_id: str, one: Acknowledged
) -> None:
    answer = await api.request("GET", f"/v1/orders/{order_id}", f"Authorization: Bearer {one.token}\r\n")
    if answer.status != OK:
        return
    document = orjson.loads(answer.body)
    one.delivered = document["status"] == "delivered"
    if not one.paid and document["status"] == "awaiting_payment":
        one.paid = not await pay(stripe, document["payment"], target.card)
