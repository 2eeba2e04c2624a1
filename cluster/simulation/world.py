"""One seed: a world is put together, shaken, healed, watched until it is quiet, and judged.

The same seed gives the same timeline, byte by byte, whatever the interpreter's hash seed. Production's own
randomness (backoff jitter) is seeded too; its timers of 30 minutes and a day are shortened, so that ten
virtual minutes hold a whole life of an order.
"""

import asyncio
import contextlib
import logging
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cluster.simulation.aftermath import canaries, late_duplicates
from cluster.simulation.buyers import CODES, Buyer, wish_of
from cluster.simulation.faults import FaultPlan
from cluster.simulation.finance import Finance
from cluster.simulation.hosts import EPOCH, Cluster, Outside
from cluster.simulation.ingress import Acknowledgements
from cluster.simulation.invariants import FINAL_CODES, SafetyWatch, final_violations, settled
from cluster.simulation.loop import WORLD, LivelockError, SimulatedLoop
from cluster.simulation.network import Network
from cluster.simulation.outbox import Relaying
from cluster.simulation.postgres import Postgres
from cluster.simulation.relays import RelayWatch
from cluster.simulation.signer import Signer, UnforeseenError
from cluster.simulation.stripe import CAPTURABLE, SUCCEEDED, Stripe
from cluster.simulation.timeline import Timeline
from cluster.simulation.weather import Weather
from cluster.simulation.webhooks import Deliveries
from domain.errors import MarketplaceError
from domain.events import SHARDS
from domain.ids import new_id
from domain.orders import decide
from domain.orders.invariants import Violation
from domain.orders.ports import PaymentNews

ARRIVALS_S = 90.0
BUYERS = (6, 12)
CHAOS_S = 170.0  # faults end here, after every shortened deadline has had its chance to race
HEALED_S_MAX = 420.0  # seven times the longest backoff: what is not done by then never will be
CHECK_S = 5.0
POISONED_SHARDS_MAX = 3
RELAY_CHECKS_MAX = 24  # two minutes: twice the longest that a relay leaves an order alone
OPERATOR_S = 40.0  # how often an operator retries what lies dead, once all has healed
SHORT_PAYMENT_DEADLINE_S, SHORT_KEY_TTL_S = 60, 45


@dataclass(frozen=True)
class Outcome:
    """What one seed gave. ``timeline`` has every line; ``virtual_s`` is how much time passed in it."""

    seed: int
    violations: list[Violation]
    timeline: Timeline
    coverage: Counter[str]
    aims: list[str]
    orders: int
    steps: int
    virtual_s: float


def simulate(seed: int) -> Outcome:
    """Run one seed."""
    with (
        _short_timers(),
        _seeded_jitter(seed),
        _logged_failures() as failures,
        warnings.catch_warnings(),
    ):
        # A process may die, or stop, between making a coroutine and running it.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        return _World(seed).run(failures)


class _World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)  # noqa: S311 - replayable on purpose
        self.loop = loop = SimulatedLoop(  # type: ignore[abstract]  # asyncio's base class raises where nothing is implemented
            random.Random(rng.getrandbits(64))  # noqa: S311 - as above
        )
        self.timeline = Timeline()
        self.plan = FaultPlan(seed, rng)
        self.network = Network(loop, rng, self.plan, self.timeline)
        self.acknowledged = Acknowledgements()
        finance = Finance()
        self.outside = Outside(Postgres(self._now), Stripe(self._emit), finance, Signer(finance))
        self.outside.database.discounts = dict(CODES)
        self.outside.stripe.returns.chance = rng.random
        self.outside.stripe.returns.later = lambda delay_s, what: loop.call_later(
            delay_s, what, context=WORLD.context.copy()
        )
        self.safety = SafetyWatch(self.outside)
        self.relays = RelayWatch(
            Relaying(self.outside.database, self.outside.servers["postgres"], loop.time),
            self._poisoned_shards(),
        )
        self.cluster = Cluster(self.network, self.outside, self.acknowledged, self.relays)
        self.deliveries = Deliveries(self.network, self.cluster.ingresses, self._now)

    def run(self, failures: list[str]) -> Outcome:
        violations: list[Violation] = []
        try:
            violations += self.loop.run(self._main())
        except LivelockError as error:
            violations.append(Violation("livelock", "", str(error)))
        except Exception as error:  # noqa: BLE001 - whatever the code under test raised, it is a finding
            violations.append(Violation("crash", "", repr(error)))
        violations = self.safety.violations + violations
        violations += [Violation("crash", "", words) for words in (*failures, *self.loop.unhandled)]
        return Outcome(
            seed=self.seed,
            violations=violations,
            timeline=self.timeline,
            coverage=self.plan.coverage,
            aims=self.plan.aims,
            orders=len(self.outside.database.orders),
            steps=self.loop.steps,
            virtual_s=self.loop.time(),
        )

    async def _main(self) -> list[Violation]:
        self.cluster.boot_all()
        buyers = [self._buyer(number) for number in range(self.rng.randrange(*BUYERS))]
        tasks = [asyncio.create_task(buyer.shop()) for buyer in buyers]
        weather = asyncio.create_task(Weather(self.network, self.cluster, self.outside, CHAOS_S).blow())
        stranger = asyncio.create_task(self._stranger())
        await asyncio.sleep(CHAOS_S)
        if not weather.cancel():
            weather.result()  # raises what the weather itself did wrong
        self._heal()
        await self._until_quiet(tasks)
        await stranger
        found = [
            Violation("E2", row.order_id, "its events wait, though nothing but another order's is parked")
            for row in self.relays.relaying.database.outbox.values()
        ]
        found += await late_duplicates(self.network, self.cluster, self.outside)
        found += await canaries(self.network, self.cluster, self.outside)
        found += [
            Violation("I9", buyer.order_id or "", "the buyer still waits")
            for buyer, task in zip(buyers, tasks, strict=True)
            if not task.done()
        ]
        if self.deliveries.pending:
            found.append(Violation("I9", "", f"{self.deliveries.pending} webhooks are still unanswered"))
        found += [
            Violation("I10", "", f"{event_id} of an unknown order was answered with 200")
            for event_id in self.deliveries.taken_strangers
        ]
        await self._mend_consumers()
        return found + self.relays.final_violations() + final_violations(self.outside, self.acknowledged)

    async def _mend_consumers(self) -> None:
        """Mend the poisoned consumer and have everything taken that was parked."""
        self.relays.mended = True
        if self.relays.relaying.lost:
            self.plan.situation("relay session ended under it")
        for _ in range(RELAY_CHECKS_MAX):
            if self.relays.relaying.retry_parked():
                self.plan.situation("poison event parked")
            if self.relays.caught_up():
                break
            await asyncio.sleep(CHECK_S)

    async def _until_quiet(self, buyers: list[asyncio.Task[None]]) -> None:
        deadline_s = self.loop.time() + HEALED_S_MAX
        operator_s = self.loop.time()
        while self.loop.time() < deadline_s:
            if self.loop.time() >= operator_s:
                operator_s += OPERATOR_S
                count = self.outside.database.retry_dead_letters()
                if count:
                    self.network.note("operator", f"retries {count} dead letters", "*")
                    await asyncio.sleep(2 * CHECK_S)
            await asyncio.sleep(CHECK_S)
            idle = all(task.done() for task in buyers) and not self.deliveries.pending
            if idle and settled(self.outside) and self.relays.idle():
                self._drop_letters()
                return

    def _drop_letters(self) -> None:
        """Have the operator give up, by a coin, what no retry can mend; duplicates must not bring it back."""
        if self.network.coin():
            count = self.outside.database.drop_dead_letters(FINAL_CODES.__contains__)
            if count:
                self.plan.situation("dead letters dropped")
                self.network.note("operator", f"drops {count} dead letters", "*")

    def _heal(self) -> None:
        self.network.note("world", "everything heals", "*")
        self.plan.heal()
        self.network.mend_all()
        self.cluster.heal()
        self.outside.stripe.prune_keys()  # by the time that an outage of hours ends, a day has passed
        for server in self.outside.servers.values():
            server.up = True

    async def _stranger(self) -> None:
        await asyncio.sleep(ARRIVALS_S * self.rng.random())
        order_id = new_id("ord", int(EPOCH.timestamp() * 1000), self.rng.randbytes(10))
        self.deliveries.emit_for_stranger(
            PaymentNews("evt_stranger", order_id, SUCCEEDED, "pi_stranger", 100, "USD", "", "")
        )

    def _poisoned_shards(self) -> frozenset[int]:
        count = self.rng.randrange(POISONED_SHARDS_MAX + 1)
        if self.plan.aims_at("postgres.record_failure"):
            count = SHARDS // 2  # otherwise that call may never be made
        return frozenset(self.rng.sample(range(SHARDS), count))

    def _buyer(self, number: int) -> Buyer:
        return Buyer(
            wish_of(number, self.rng, self.plan, ARRIVALS_S),
            self.network,
            self.cluster,
            self.outside.database,
            self.outside.stripe,
            self.acknowledged,
        )

    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.loop.time())

    def _emit(self, news: PaymentNews) -> None:
        self.network.note("stripe", f"emits {news.event_id} {news.kind}", news.order_id)
        # What nobody is told cannot be found out yet (reconciliation will), unless the order asks by itself.
        order = self.outside.database.orders.get(news.order_id)
        alone = sum(charge.order_id == news.order_id for charge in self.outside.stripe.charges) == 1
        whole = order is not None and order.total_minor == news.amount_minor
        intent = self.outside.stripe.intents.get(news.payment_intent_id)
        own = intent is not None and not intent.stray and not intent.by_hand
        found_out = news.kind == CAPTURABLE or (news.kind == SUCCEEDED and alone)
        self.deliveries.emit(news, may_vanish=found_out and own and whole)


@contextlib.contextmanager
def _short_timers() -> Iterator[None]:
    """Shorten the decider's timers; they are read when an event is decided, so this is all it takes."""
    kept = decide.PAYMENT_DEADLINE_S, decide.RELEASED_KEY_TTL_S
    decide.PAYMENT_DEADLINE_S, decide.RELEASED_KEY_TTL_S = SHORT_PAYMENT_DEADLINE_S, SHORT_KEY_TTL_S
    try:
        yield
    finally:
        decide.PAYMENT_DEADLINE_S, decide.RELEASED_KEY_TTL_S = kept


@contextlib.contextmanager
def _seeded_jitter(seed: int) -> Iterator[None]:
    """Seed the module-level generator that production's jitter draws from."""
    kept = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(kept)


@contextlib.contextmanager
def _logged_failures() -> Iterator[list[str]]:
    """Silence the product's log, and keep what it reports of exceptions that nobody foresaw."""
    failures: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            if error is not None and not isinstance(error, MarketplaceError | UnforeseenError):
                failures.append(f"{record.getMessage()}: {error!r}")

    logger = logging.getLogger("marketplace")
    kept = logger.level, logger.propagate, logger.disabled
    keeper = Keeper()
    logger.addHandler(keeper)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield failures
    finally:
        logger.removeHandler(keeper)
        logger.level, logger.propagate, logger.disabled = kept
