"""The sender of webhooks: signs events as Stripe does and delivers them at least once, in no fixed order.

Each endpoint has a lane of its own, with a bounded queue in memory and a bounded number of connections, so
that a slow endpoint delays no other. What does not fit in a queue waits in the database, from where a
timer takes it when it is due; so do retries, and everything that was pending when the process ended.
Follows https://docs.stripe.com/webhooks#verify-manually.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
from collections import deque
from typing import cast

import orjson

from cluster.local.stripe.deliveries import MILLISECONDS, DeliveryRecord
from cluster.local.stripe.faults import Faults
from cluster.local.stripe.http_post import PostConnection, PostFailedError, Target, target_of
from cluster.local.stripe.refusals import Document
from cluster.local.stripe.rows import Delivery
from cluster.local.stripe.store import StoreFailedError
from cluster.local.stripe.webhook_endpoints import Endpoint, Registry

# A receiver answers once it has committed, which under load takes a tenth of a second: with eight, the
# sender held a whole marketplace down to eighty payments a second.
CONNECTIONS_PER_ENDPOINT_MAX = 64
QUEUE_PER_ENDPOINT_MAX = 2_000  # 4 MB of events; the rest waits in the database
HELD_PER_ENDPOINT_MAX = QUEUE_PER_ENDPOINT_MAX + CONNECTIONS_PER_ENDPOINT_MAX
ATTEMPT_TIMEOUT_S = 10.0  # connect, send and answer
OVERTAKEN_MAX = 1_000  # more are only late
POLL_S_MIN = 0.1  # between two looks at the database: how late a retry may be
POLL_S_MAX = 60.0  # safe, since every retry and every overflow wakes the poller
BACKLOG_POLL_S = 0.25  # while the database holds more than the queues

LOG = logging.getLogger(__name__)


def signature_headers(secret: str, body: bytes, timestamp: int) -> bytes:
    """Sign a body: the ``Stripe-Signature`` header line."""
    digest = hmac.new(secret.encode(), b"%d.%b" % (timestamp, body), hashlib.sha256).hexdigest()
    return f"Stripe-Signature: t={timestamp},v1={digest}\r\n".encode()


class Lane:
    """The deliveries of one endpoint that are under way or next."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.target: Target = target_of(endpoint.url)
        self.queue: deque[Delivery] = deque()
        self.idle: list[PostConnection] = []
        self.workers: set[asyncio.Task[None]] = set()
        self.overtaken: list[Delivery] = []  # by a fault's order they go after the next one that arrives


class WebhookSender:
    """Delivers what the store hands over (``offer``) and what the database holds."""

    def __init__(self, record: DeliveryRecord, registry: Registry, faults: Faults) -> None:
        self._record = record
        self._registry = registry
        self._faults = faults
        self._lanes: dict[str, Lane] = {}
        self._held: set[int] = set()  # deliveries that are in a queue or under way
        self._poller: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._known: tuple[str, ...] | None = None  # the endpoints of the last look at the database
        self._backlog = False  # the database holds due deliveries that no queue had room for
        self.paused = False

    def start(self) -> None:
        """Begin with what is pending in the database."""
        self._poller = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Stop sending; attempts under way are given up and will be repeated after the next start."""
        tasks = [task for lane in self._lanes.values() for task in lane.workers]
        if self._poller is not None:
            tasks.append(self._poller)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lane in self._lanes.values():
            self._close(lane)

    def offer(self, fresh: list[Delivery]) -> None:
        """Take deliveries that were committed a moment ago."""
        if self.paused:
            return
        try:
            for delivery in fresh:
                self._enqueue(delivery)
        except StoreFailedError:
            self._wake.set()  # they are pending in the database

    def pause(self) -> None:
        """Hold back every delivery that is not under way."""
        self.paused = True
        for lane in self._lanes.values():
            self._held.difference_update(delivery.delivery_id for delivery in lane.queue)
            lane.queue.clear()

    def resume(self) -> None:
        """Go on, with what was held back first."""
        self.paused = False
        self._wake.set()

    def _enqueue(self, delivery: Delivery) -> None:
        if delivery.delivery_id in self._held:
            return
        lane = self._lane_of(delivery.endpoint_id)
        if lane is None:
            self._record.abandoned(delivery, _now_ms())
            return
        if len(lane.queue) >= QUEUE_PER_ENDPOINT_MAX:
            self._backlog = True  # it stays pending in the database until the queue has room
            self._wake.set()
            return
        self._held.add(delivery.delivery_id)
        lane.queue.append(delivery)
        if len(lane.workers) < CONNECTIONS_PER_ENDPOINT_MAX:
            lane.workers.add(asyncio.create_task(self._work(lane)))

    def _lane_of(self, endpoint_id: str) -> Lane | None:
        endpoint = self._registry.find(endpoint_id)
        lane = self._lanes.get(endpoint_id)
        if endpoint is None:
            if lane is not None:
                self._close(self._lanes.pop(endpoint_id))
            return None
        if lane is None:
            lane = self._lanes[endpoint_id] = Lane(endpoint)
        return lane

    async def _poll(self) -> None:
        while True:
            self._wake.clear()
            now_ms = _now_ms()
            wait_s = POLL_S_MAX
            if not self.paused:
                wait_s = self._take_due(now_ms)
            await asyncio.sleep(POLL_S_MIN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(wait_s - POLL_S_MIN, 0)):
                    await self._wake.wait()

    def _take_due(self, now_ms: int) -> float:
        """Enqueue what is due; return how long there is nothing more to do, in seconds."""
        self._backlog = False
        next_due_ms = now_ms + int(POLL_S_MAX * MILLISECONDS)
        try:
            endpoint_ids = self._registry.endpoint_ids()
            if endpoint_ids != self._known:
                self._record.abandon_unknown(endpoint_ids, now_ms)
                self._known = endpoint_ids
            for endpoint_id in endpoint_ids:
                # One more than can be held: so what is not held yet is among them, and an overflow is seen.
                for delivery in self._record.due(endpoint_id, now_ms, HELD_PER_ENDPOINT_MAX + 1):
                    self._enqueue(delivery)
                next_due_ms = min(next_due_ms, self._record.next_due_ms(endpoint_id, now_ms) or next_due_ms)
        except StoreFailedError:
            LOG.warning("pending webhooks could not be read or marked; trying again")
            return BACKLOG_POLL_S
        return BACKLOG_POLL_S if self._backlog else (next_due_ms - now_ms) / MILLISECONDS

    async def _work(self, lane: Lane) -> None:
        try:
            while lane.queue:
                delivery = lane.queue.popleft()
                try:
                    await self._deliver(lane, delivery)
                finally:
                    self._held.discard(delivery.delivery_id)
        finally:
            # At once, not by a callback later: an offer in between would count on a worker that has ended.
            lane.workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _deliver(self, lane: Lane, delivery: Delivery) -> None:
        try:
            if self._registry.find(lane.endpoint.endpoint_id) is None:
                self._record.abandoned(delivery, _now_ms())
            else:
                await self._attempt(lane, delivery)
        except StoreFailedError:
            LOG.warning("the outcome of a webhook could not be stored; it will be sent again")
            self._backlog = True
            self._wake.set()

    async def _attempt(self, lane: Lane, delivery: Delivery) -> None:
        outcome: Document
        try:
            body = self._record.body_of(delivery)
            copies = 1
            if self._faults.on_webhooks and not delivery.attempts:
                copies = self._copies(lane, delivery, body)
            if not copies:
                return
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                if copies > 1:
                    await self._post(lane, body)
                status = await self._post(lane, body)
            if lane.overtaken:
                self._let_overtaken_go(lane)
            if 200 <= status < 300:  # noqa: PLR2004 - success, by HTTP's definition; redirects are failures
                self._record.succeeded(delivery, _now_ms(), status)
                return
            outcome = {"status": status}
        except TimeoutError:
            outcome = {"error": f"no answer within {ATTEMPT_TIMEOUT_S:g} s"}
        except PostFailedError as error:
            outcome = {"error": str(error)}
        self._record.failed(delivery, _now_ms(), outcome)
        self._wake.set()  # the poller has to know of the retry

    def _copies(self, lane: Lane, delivery: Delivery, body: bytes) -> int:
        """Let a fault that strikes this delivery have its way; return how many are sent now: 0, 1 or 2."""
        fault = self._faults.strike_webhook(orjson.loads(body)["type"])
        if fault is None:
            return 1
        if fault.action == "duplicate":
            return 2
        if fault.action == "drop":
            self._record.dropped(delivery, _now_ms())
            return 0
        self._record.held_up(delivery, _now_ms(), fault.delay_ms)
        if fault.action == "reorder" and len(lane.overtaken) < OVERTAKEN_MAX:
            lane.overtaken.append(delivery)
        self._wake.set()  # the poller has to know when it is due
        return 0

    def _let_overtaken_go(self, lane: Lane) -> None:
        overtaken, lane.overtaken = lane.overtaken, []
        for delivery in overtaken:
            if not self.paused and self._record.is_pending(delivery):
                self._enqueue(delivery)

    async def _post(self, lane: Lane, body: bytes) -> int:
        headers = signature_headers(lane.endpoint.secret, body, int(time.time()))
        while True:
            connection = self._idle_of(lane) or await PostConnection.connect(lane.target)
            try:
                status = await connection.post(lane.target, headers, body)
            except PostFailedError as error:
                if not error.stale:
                    raise
                continue  # a kept connection had been closed by the other side: use the next or a new one
            if connection.usable:
                lane.idle.append(connection)
            return status

    def _idle_of(self, lane: Lane) -> PostConnection | None:
        while lane.idle:
            connection = lane.idle.pop()
            if connection.usable:
                return connection
        return None

    def _close(self, lane: Lane) -> None:
        for connection in lane.idle:
            connection.close()
        lane.idle.clear()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
