"""Buyers: they click twice, repeat what got no answer, pay late, with a declined card, or not at all.

Each buyer wants one order. What a buyer sees is compared with what it was told before; what it is owed at the
end is the invariants' matter.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from actors.orders.host import PlacedOrder
from cluster.simulation.aftersale import Aftersale, wants_of
from cluster.simulation.faults import FaultPlan
from cluster.simulation.hosts import EPOCH, Cluster
from cluster.simulation.ingress import Acknowledgements, Cart, Ingress, is_worth_repeating
from cluster.simulation.loop import Process
from cluster.simulation.network import Network
from cluster.simulation.postgres import Postgres
from cluster.simulation.reviewing import Reviewing, ends_of
from cluster.simulation.stripe import Stripe
from cluster.simulation.visits import visit
from domain.catalogue import Offer
from domain.errors import ConflictError, DependencyError, MarketplaceError, RejectedError
from domain.ids import RANDOM_BYTES, derive_id, new_id
from domain.orders import decide
from domain.orders.commands import PlaceOrder
from domain.orders.events import PaymentOpened
from domain.orders.lines import DeliveryChoice, Line
from domain.orders.state import TERMINAL
from domain.pricing import terms
from domain.pricing.discounts import Discount
from domain.pricing.taxes import Rate, tax_on
from domain.pricing.terms import Rules, Wanted
from domain.proposals.documents import SELLER, PlatformFees, PriceModel, RoyaltySplits, Share

T = TypeVar("T")
DEADLINE_S = 11.0  # a browser's patience, above the ingress's own 10 s
TRIES_MAX = 80
POLL_S, LOOKS_S = 1.5, 0.05
PAYABLE_POLLS_MAX = 120
LAST_ABANDONS = 2  # the first buyer pays, these two never do, one by each way to pay
EARLY = 5  # buyers who come early enough for their deadlines to pass while things still go wrong
RULES = Rules(
    PriceModel(("USD",), 100),
    PlatformFees(1_000, {"USD": 3}, 0, 0, {}),
    RoyaltySplits(
        (Share(SELLER, 10_000),),
        {"sku_2": (Share(SELLER, 3_333), Share("author_1", 3_333), Share("a2", 3_334))},
    ),
)
RATES = (
    (),
    (Rate("DE", 190_000, inclusive=True),),
    (Rate("US_CA", 72_500, inclusive=False), Rate("US_CA_LA", 22_500, inclusive=False)),
)


def _code(
    discount_id: str,
    seller_id: str | None,
    percent_bps: int,
    *,
    uses_max: int,
    uses_per_buyer_max: int | None = None,
) -> Discount:
    return Discount(
        discount_id=discount_id,
        code=discount_id,
        seller_id=seller_id,
        percent_bps=percent_bps,
        amounts_minor={},
        minimum_minor={},
        sku_ids=frozenset(),
        uses_max=uses_max,
        uses_per_buyer_max=uses_per_buyer_max,
        valid_from=EPOCH,
        valid_until=None,
    )


HABITS = (
    *("prompt", "prompt", "prompt", "declined first", "late", "late", "abandons", "pays wrongly"),
    *("is asked", "cancels", "cancels and pays", "cancels at once"),
)
FLAGGED = 0.3  # share of carts so large that screening wants somebody to look
FLAGGED_AIMED = 0.8  # where the seed aims at their capture
FLAGGED_PRICE_MINOR = 600_000
FREE = 0.08  # share of carts that cost nothing by their prices
CODED = 0.25  # share of carts with a code; there are fewer uses than carts that want one
CODES = {
    "dsc_fair": _code("dsc_fair", None, 500, uses_max=2),
    "dsc_seller": _code("dsc_seller", "seller_0", 2_000, uses_max=1, uses_per_buyer_max=1),
    "dsc_gift": _code("dsc_gift", "seller_0", 10_000, uses_max=1),  # what seller_0 sells is then free
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a buyer is going to do."""

    number: int
    arrives_s: float
    cart: Cart
    habit: str
    clicks_twice: bool
    reuses_key: bool
    wants: tuple[str, ...]
    ends: tuple[str, ...]  # of the review, if the cart is flagged


def wish_of(number: int, rng: random.Random, plan: FaultPlan, arrivals_s: float) -> Wish:
    """Draw a buyer's intentions; some follow from what the seed aims at."""
    captures = plan.aims_at("stripe.capture_intent")
    flagged = number > LAST_ABANDONS and rng.random() < (FLAGGED_AIMED if captures else FLAGGED)
    free = number > LAST_ABANDONS and not flagged and rng.random() < FREE
    wanted = [
        _wanted(
            line_no,
            f"seller_{rng.randrange(2)}",
            price_minor=0
            if free
            else rng.randrange(1, 5_000) + (FLAGGED_PRICE_MINOR if flagged and line_no == 1 else 0),
            quantity=rng.randrange(1, 4),
        )
        for line_no in range(1, rng.randrange(2, 5))
    ]
    code = rng.choice(list(CODES.values())) if rng.random() < CODED and not flagged else None
    lines, discount_id = _priced(wanted, code)
    # The first ones cover, in every seed, what is rare otherwise.
    mode = "released_key" if number == 0 or rng.random() < 0.3 else "recipient"  # noqa: PLR2004 - a share
    method = ("payment_intent", "checkout")[number % 2]
    habit = rng.choice(HABITS)
    if number <= LAST_ABANDONS:
        habit = "prompt" if number == 0 else "abandons"
    if number > LAST_ABANDONS and plan.aims_at("postgres.bury_webhook") and rng.random() < 0.7:  # noqa: PLR2004 - a share
        habit = "pays wrongly"
    delivery = DeliveryChoice(mode, "age1recipient" if mode == "recipient" else None)
    return Wish(
        number=number,
        arrives_s=rng.random() * (arrivals_s / 2 if number < EARLY else arrivals_s),
        cart=Cart(f"buyer_{number}", lines, delivery, method, discount_id),
        habit=habit,
        clicks_twice=rng.random() < 0.4,  # noqa: PLR2004 - a share
        reuses_key=rng.random() < 0.2,  # noqa: PLR2004 - a share
        wants=wants_of(rng) if number and any(line.amount_minor for line in lines) else (),
        ends=("approve",) if flagged and captures else ends_of(rng) if flagged else (),
    )


def canary(number: int, at: datetime) -> PlaceOrder:
    """Return the plainest of orders, for a look at whether a host works."""
    return PlaceOrder(
        order_id=new_id("ord", int(at.timestamp() * 1000), number.to_bytes(RANDOM_BYTES)),
        buyer_id=f"canary_{number}",
        currency="USD",
        lines=_priced([_wanted(1, "seller_0", price_minor=100, quantity=1)], None)[0],
        delivery=DeliveryChoice("recipient", "age1recipient"),
        payment_method="payment_intent",
        country=None,
        at=at,
    )


class Buyer:
    """One buyer's browser, and a card."""

    def __init__(
        self,
        wish: Wish,
        network: Network,
        cluster: Cluster,
        database: Postgres,
        stripe: Stripe,
        acknowledged: Acknowledgements,
    ) -> None:
        self._wish = wish
        self._network = network
        self._cluster = cluster
        self._database = database
        self._stripe = stripe
        self._acknowledged = acknowledged
        self._process = Process(f"buyer-{wish.number}")
        self.order_id: str | None = None

    async def shop(self) -> None:
        """Do what the buyer came for."""
        wish = self._wish
        await asyncio.sleep(wish.arrives_s)
        key = f"key-{wish.number}"
        clicks: list[Coroutine[Any, Any, PlacedOrder | None]] = [self._place(key)]
        if wish.clicks_twice:
            self._network.plan.situation("buyer clicked twice")
            clicks.append(self._place(key))
        if wish.habit == "cancels at once":
            clicks.append(self._cancel_at_once())
        placed = [one for one in await asyncio.gather(*clicks) if one is not None]
        if not placed:
            return
        self.order_id = order_id = placed[0].order.order_id
        if wish.reuses_key:
            await self._reuse(key)
        if not placed[0].order.total_minor:
            await self._be_charged_for_nothing(order_id)
        await self._pay(order_id)
        if wish.ends and wish.habit != "abandons":
            await self._reviewing(order_id).happen(wish.ends)
        if wish.wants and wish.habit != "abandons":
            after = Aftersale(self._network, self._database, self._stripe, self._ask, order_id)
            await after.happen(wish.wants)
        if wish.cart.delivery.mode == "released_key":
            await self._fetch_key(order_id)

    async def _place(self, key: str) -> PlacedOrder | None:
        wish = self._wish
        for attempt in range(TRIES_MAX):
            if attempt:
                self._network.plan.situation("buyer repeated after a lost reply")
                await asyncio.sleep(0.3 + 3.0 * self._network.rng.random())
            try:
                return await self._ask("place", lambda ingress: ingress.place(wish.cart, key))
            except MarketplaceError as error:
                if error.code == "discount_used_up":
                    self._network.plan.situation("code used up")
                    return None
                if not is_worth_repeating(error) and not isinstance(error, ConflictError):
                    self._broken(f"an order in good form was refused: {error}")
                    return None
        self._broken(f"an order was not taken in {TRIES_MAX} tries")
        return None

    async def _be_charged_for_nothing(self, order_id: str) -> None:
        """Now and then somebody charges a free order by hand, and returns some of it in the order's name."""
        self._network.plan.situation("free order")
        if self._wish.habit != "pays wrongly":
            return
        self._network.plan.situation("payment for a free order")
        self._network.note("stripe", "is charged by hand", order_id)
        intent = self._stripe.charge_by_hand(order_id, 500, "USD")
        await asyncio.sleep(3.0 * self._network.rng.random())
        named = {"refund_id": derive_id("rfd", order_id, "by hand")}
        self._stripe.refund_intent(intent.intent_id, 200, named)

    async def _cancel_at_once(self) -> None:
        """Cancel as soon as there is an order, whatever has become of its payment."""
        for _ in range(PAYABLE_POLLS_MAX):
            for order_id, row in self._database.orders.items():
                if row.buyer_id == self._wish.cart.buyer_id:
                    await self._reviewing(order_id).cancel()
                    return
            await asyncio.sleep(LOOKS_S)

    async def _reuse(self, key: str) -> None:
        self._network.plan.situation("buyer reused a key with another body")
        line = self._wish.cart.lines[0]
        other = replace(self._wish.cart, lines=(replace(line, quantity=line.quantity + 1),))
        for _ in range(3):
            try:
                await self._ask("place", lambda ingress: ingress.place(other, key))
            except RejectedError:
                return
            except MarketplaceError:
                await asyncio.sleep(2.0)
            else:
                self._broken("a used key took another request")
                return

    async def _pay(self, order_id: str) -> None:
        handle = await self._handle(order_id)
        habit, rng = self._wish.habit, self._network.rng
        if handle is None:
            return
        if habit == "abandons":
            self._network.plan.situation("buyer abandoned")
            return
        short_minor = 0
        if habit == "pays wrongly":
            short_minor = await self._misfortune(order_id)
        if habit == "late":
            self._network.plan.situation("paid about the deadline")
            await asyncio.sleep(max(0.0, self._until_deadline_s(order_id) - 2.0 + 8.0 * rng.random()))
        else:
            await asyncio.sleep(0.5 + 8.0 * rng.random())
        if habit == "is asked":
            self._network.plan.situation("the bank asked")
            self._stripe.ask(handle)
            await asyncio.sleep(1.0 + 3.0 * rng.random())
        if habit in ("cancels", "cancels and pays"):
            cancelling = asyncio.create_task(self._reviewing(order_id).cancel())
            await asyncio.sleep(2.0 * rng.random())
            if habit == "cancels":
                await cancelling
        if habit == "declined first":
            self._network.plan.situation("card declined first")
            self._stripe.decline(handle)
            await asyncio.sleep(1.0 + 3.0 * rng.random())
        intent = self._stripe.begin(handle)
        if intent is not None:
            await asyncio.sleep(3.0 * rng.random() ** 2)
            self._network.note("stripe", f"captures {intent.intent_id}", order_id)
            self._stripe.capture(intent, short_minor=min(short_minor, intent.amount_minor - 1))

    async def _misfortune(self, order_id: str) -> int:
        """Have somebody err in Stripe's dashboard; returns by how much the buyer's own payment falls short.

        The order is charged by hand with a wrong amount, or with the right one besides the buyer's, or the
        buyer's payment is captured in part only.
        """
        order = self._database.orders[order_id]
        # Of what is held the whole is captured: a part of it would be another person's mistake.
        mistake = self._network.rng.randrange(2 if self._wish.ends else 3)
        self._network.plan.situation(
            "webhook of a second charge" if mistake == 1 else "webhook with a wrong amount"
        )
        if mistake == 2:  # noqa: PLR2004 - the third kind
            return 1
        self._network.note("stripe", "is charged by hand", order_id)
        self._stripe.charge_by_hand(order_id, order.total_minor + 1 - mistake, order.currency)
        await asyncio.sleep(3.0 * self._network.rng.random())
        return 0

    def _reviewing(self, order_id: str) -> Reviewing:
        return Reviewing(self._network, self._database, self._stripe, self._ask, order_id)

    async def _handle(self, order_id: str) -> str | None:
        for _ in range(PAYABLE_POLLS_MAX):
            row = self._database.orders[order_id]
            if row.payment_handle is not None:
                return next(iter(row.payment_handle.values()))
            if row.status in TERMINAL:
                return None
            await asyncio.sleep(POLL_S)
        return None

    def _until_deadline_s(self, order_id: str) -> float:
        for commit in self._database.commits:
            opened = any(isinstance(event, PaymentOpened) for event in commit.turn.events)
            if commit.order_id == order_id and opened:
                waited_s = (self._database.clock() - commit.at).total_seconds()
                return decide.PAYMENT_DEADLINE_S - waited_s
        return 0.0

    async def _fetch_key(self, order_id: str) -> None:
        for _ in range(PAYABLE_POLLS_MAX):
            if self._database.orders[order_id].status in TERMINAL:
                break
            await asyncio.sleep(POLL_S)
        if self._network.rng.random() < 0.3:  # noqa: PLR2004 - a share
            await asyncio.sleep(decide.RELEASED_KEY_TTL_S - 3.0 + 8.0 * self._network.rng.random())
        for delivery_id, row in list(self._database.deliveries.items()):
            if row.order_id == order_id:
                await asyncio.gather(*(self._ask_key(order_id, delivery_id) for _ in range(2)))

    async def _ask_key(self, order_id: str, delivery_id: str) -> None:
        for _ in range(12):
            try:
                await self._ask("release_key", lambda ingress: ingress.release_key(order_id, delivery_id))
            except RejectedError:
                self._network.plan.situation("key asked for too late")
                return
            except MarketplaceError:
                await asyncio.sleep(1.0 + 2.0 * self._network.rng.random())
            else:
                self._network.plan.situation("key released")
                return

    async def _ask(self, what: str, work: Callable[[Ingress], Coroutine[Any, Any, T]]) -> T:
        ingresses = self._cluster.ingresses()
        if not ingresses:
            raise _unanswered("no replica is up")
        ingress = self._network.rng.choice(ingresses)
        return await visit(
            self._network,
            self._process,
            ingress.process,
            f"ingress.{what}",
            self.order_id or "",
            lambda: work(ingress),
            _unanswered,
            DEADLINE_S,
        )

    def _broken(self, words: str) -> None:
        self._network.note(self._process.name, f"I10 BROKEN: {words}", self.order_id or "*")
        self._acknowledged.broken.append(("I10", self.order_id or "", words))


def _wanted(line_no: int, seller_id: str, *, price_minor: int, quantity: int) -> Wanted:
    offer = Offer(
        sku_id=f"sku_{line_no}",
        sku_name="logline",
        seller_id=seller_id,
        release_id=f"rel_{line_no}",
        version="1.0.0",
        bundle_name="logline-1.0.0.tar.gz",
        bundle_sha256="ab" * 32,
        unit_price_minor=price_minor,
        currency="USD",
    )
    return Wanted(offer, quantity)


def _priced(wanted: list[Wanted], code: Discount | None) -> tuple[tuple[Line, ...], str | None]:
    """Return the lines with their terms, and the code's id if it fits; the second and third are taxed."""
    try:
        off = terms.discounts(wanted, code, RULES, "USD", EPOCH)
    except RejectedError:  # it takes nothing off this cart
        code, off = None, [0] * len(wanted)
    taxes = [
        tax_on(one.price_minor - off_minor, rates)
        for one, off_minor, rates in zip(wanted, off, RATES, strict=False)
    ]
    platform = code is not None and code.seller_id is None
    lines = terms.lines(wanted, off, taxes, RULES, platform_discount=platform)
    return lines, None if code is None else code.discount_id


def _unanswered(why: str) -> DependencyError:
    return DependencyError("no_answer", why)
