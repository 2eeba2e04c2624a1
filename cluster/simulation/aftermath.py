"""After all has healed every host must answer, and carry one whole order alone, before a sweep could help.

This is where a stuck mailbox, a circuit that never closes or a state that is never dropped shows, however
well the other hosts make up for it.
"""

import asyncio
import functools
from collections.abc import Mapping

from cluster.simulation.buyers import canary
from cluster.simulation.hosts import Cluster, Outside
from cluster.simulation.loop import WORLD
from cluster.simulation.network import Network
from cluster.simulation.visits import visit
from domain.errors import DependencyError, MarketplaceError
from domain.orders.invariants import Violation
from domain.orders.ports import Idempotency, PaymentNews
from domain.orders.state import Status

TIMEOUT_S = 12.0  # above a grain's longest wait
CANARY_S = 2.0  # before any sweep may help: the committing host has a head start of 3 s


async def late_duplicates(network: Network, cluster: Cluster, outside: Outside) -> list[Violation]:
    """Tell every host every webhook once more: it must answer, and nothing may change."""
    found = []
    before = {order_id: row.seq for order_id, row in outside.database.orders.items()}
    for process, host in cluster.candidates():
        for row in list(outside.database.inbox.values()):
            news = row.news
            try:
                await visit(
                    network,
                    WORLD,
                    process,
                    "host.receive",
                    news.order_id,
                    functools.partial(host.receive, news),
                    _unanswered,
                    TIMEOUT_S,
                )
            except MarketplaceError as error:
                words = f"{process.name} does not take a late duplicate: {error}"
                found.append(Violation("I9", news.order_id, words))
    for order_id, order in outside.database.orders.items():
        if order.seq != before[order_id]:
            found.append(Violation("I6", order_id, "a late duplicate of a webhook changed the order"))
    return found


async def canaries(network: Network, cluster: Cluster, outside: Outside) -> list[Violation]:
    """Have every host do one whole order by itself: nothing in it may be stuck once all has healed."""
    found = []
    for number, (process, host) in enumerate(cluster.candidates()):
        placing = canary(number, outside.database.clock())
        order_id = placing.order_id
        ask = functools.partial(visit, network, WORLD, process)
        try:
            placed = await ask(
                "host.place",
                order_id,
                functools.partial(host.place, placing, Idempotency("canary", b"")),
                _unanswered,
                TIMEOUT_S,
            )
            news = _captured(outside, placed.payment_handle)
            await ask(
                "host.receive",
                order_id,
                functools.partial(host.receive, news),
                _unanswered,
                TIMEOUT_S,
            )
        except MarketplaceError as error:
            found.append(Violation("I9", order_id, f"{process.name} does not work by itself: {error}"))
        await asyncio.sleep(CANARY_S)
        status = outside.database.orders[order_id].status
        if status != Status.DELIVERED:
            words = f"{process.name} alone has not delivered within {CANARY_S} s: {status}"
            found.append(Violation("I9", order_id, words))
    return found


def _captured(outside: Outside, handle: Mapping[str, str] | None) -> PaymentNews:
    if handle is None:
        raise DependencyError("payment_not_open", "the order cannot be paid")
    emitted: list[PaymentNews] = []
    outside.stripe.emit = emitted.append
    intent = outside.stripe.begin(next(iter(handle.values())))
    assert intent is not None, "it was opened a moment ago"
    outside.stripe.capture(intent)
    return emitted[0]


def _unanswered(why: str) -> DependencyError:
    return DependencyError("no_answer", why)
