"""Stripe's deliveries: signed events, late, twice, in any order, repeated until answered, or never made.

The bodies and signatures are real ones, because the ingress reads them with the production route.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson

from cluster.simulation.ingress import WEBHOOK_SECRET, Ingress
from cluster.simulation.loop import WORLD, Process
from cluster.simulation.network import Network
from cluster.simulation.stripe import ACTION, CAPTURABLE, FAILED, PAGE_EXPIRED, SUCCEEDED
from cluster.simulation.visits import visit
from domain.errors import DependencyError, MarketplaceError, NotFoundError
from domain.orders.ports import PaymentNews

DEADLINE_S = 20.0  # Stripe's own
BACKOFF_S_MAX = 20.0  # Stripe's is hours; the order of things is the same
UNKNOWN_TRIES = 3
LATE_S_MAX = 150.0


class Deliveries:
    """See the module. ``pending`` counts events that have not been answered with 200."""

    def __init__(
        self,
        network: Network,
        ingresses: Callable[[], list[Ingress]],
        clock: Callable[[], datetime],
    ) -> None:
        self._network = network
        self._ingresses = ingresses
        self._clock = clock
        self._stripe = Process("stripe")
        self.pending = 0
        self.refused_strangers = 0
        self.taken_strangers: list[str] = []

    def emit(self, news: PaymentNews, *, may_vanish: bool) -> None:
        """Deliver one event, and sometimes deliver it twice, or never if it may vanish."""
        rng = self._network.rng
        delays_s = [0.02 + 0.5 * rng.random()]
        if rng.random() < 0.15:  # noqa: PLR2004 - shares of events, not limits
            delays_s = [5.0 + LATE_S_MAX * rng.random()]
            self._network.plan.situation("webhook late")
        if may_vanish and rng.random() < 0.15:  # noqa: PLR2004 - as above
            self._network.plan.situation("webhook never comes")
            return
        if rng.random() < 0.3:  # noqa: PLR2004 - as above
            delays_s.append(delays_s[0] + rng.choice((0.0, 0.001, 2.0, 30.0)))
            self._network.plan.situation("webhook duplicated")
        self.pending += len(delays_s)
        for delay_s in delays_s:
            self._spawn(self._deliver(news, delay_s))

    def emit_for_stranger(self, news: PaymentNews) -> None:
        """Deliver an event of an order that is not ours, a few times."""
        self._network.plan.situation("webhook for an unknown order")
        self._spawn(self._deliver_stranger(news))

    async def _deliver(self, news: PaymentNews, delay_s: float) -> None:
        tries = 0
        while True:
            await asyncio.sleep(delay_s)
            try:
                await self._send(news)
            except MarketplaceError:
                tries += 1
                delay_s = min(BACKOFF_S_MAX, 1.0 * 2**tries) * (0.5 + self._network.rng.random() / 2)
            else:
                self.pending -= 1
                return

    async def _deliver_stranger(self, news: PaymentNews) -> None:
        for _ in range(UNKNOWN_TRIES):
            try:
                await self._send(news)
            except NotFoundError:
                self.refused_strangers += 1
            except MarketplaceError:
                pass  # not answered at all
            else:
                self.taken_strangers.append(news.event_id)
            await asyncio.sleep(5.0)

    async def _send(self, news: PaymentNews) -> None:
        ingresses = self._ingresses()
        if not ingresses:
            raise _unanswered("no replica is up")
        ingress = self._network.rng.choice(ingresses)
        body, signature = signed(news, int(self._clock().timestamp()))
        await visit(
            self._network,
            self._stripe,
            ingress.process,
            "ingress.webhook",
            news.order_id,
            lambda: ingress.webhook(body, signature),
            _unanswered,
            DEADLINE_S,
        )

    def _spawn(self, work: Any) -> None:
        self._network.loop.create_task(work, context=WORLD.context.copy())


def signed(news: PaymentNews, at_s: int) -> tuple[bytes, bytes]:
    """Return an event's body and its ``Stripe-Signature`` header."""
    if news.kind == PAGE_EXPIRED:
        page = {"id": news.object_id, "metadata": {"order_id": news.order_id}, "payment_status": "unpaid"}
        return _signed(news, page, at_s)
    if news.object_id:
        intent = _returned(news)
        return _signed(news, intent, at_s)
    intent = {
        "id": news.payment_intent_id,
        "metadata": {"order_id": news.order_id},
        "amount_received": news.amount_minor,
        "currency": news.currency.lower(),
    }
    if news.kind == FAILED:
        intent["last_payment_error"] = {"code": news.code, "message": news.message}
    elif news.kind == CAPTURABLE:
        intent |= {"amount_received": 0, "amount_capturable": news.amount_minor}
    elif news.kind == ACTION:
        intent["next_action"] = {"type": news.code}
    elif news.kind != SUCCEEDED:
        intent["cancellation_reason"] = "abandoned"
    return _signed(news, intent, at_s)


def _returned(news: PaymentNews) -> dict[str, Any]:
    """Write a Refund or a Dispute as its event shows it; only our own refunds name their order."""
    own = {"order_id": news.order_id, "refund_id": news.refund_id} if news.refund_id else {}
    currency = news.currency.lower()
    return {
        "id": news.object_id,
        "payment_intent": news.payment_intent_id,
        "amount": news.amount_minor,
        "currency": currency,
        "status": news.object_status,
        "metadata": own,
        "failure_reason": news.code or None,
        "reason": news.code or None,
        "balance_transactions": [
            {"id": transaction_id, "fee": fee_minor, "currency": currency}
            for transaction_id, fee_minor in news.fees
        ],
    }


def _signed(news: PaymentNews, intent: dict[str, Any], at_s: int) -> tuple[bytes, bytes]:
    body = orjson.dumps({"id": news.event_id, "type": news.kind, "data": {"object": intent}})
    signature = hmac.new(WEBHOOK_SECRET.encode(), b"%d.%b" % (at_s, body), hashlib.sha256).hexdigest()
    return body, b"t=%d,v1=%b" % (at_s, signature.encode())


def _unanswered(why: str) -> DependencyError:
    return DependencyError("webhook_unanswered", why)
