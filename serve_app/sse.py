"""Progress streams: server-sent events of orders, pushed by this process's own commits or read from Postgres.

Most orders are run by the replica that streams them, and what it commits it passes on at once. What other
replicas commit is found by one reader, which asks one question for all watched orders every ``POLL_S``
while there is a watcher, so a thousand streams cost what one does. Both ways are numbered, so an event that
comes by both is sent once, and one that comes too early waits for the reader. Bounded: streams per process,
events waiting for a slow reader (who is cut off and resumes after ``Last-Event-ID``), and a stream's life.
A database that is down is waited for. Format: WHATWG HTML, 9.2 "Server-sent events".
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from starlette.types import Receive, Scope, Send

from domain.errors import BusyError, MarketplaceError
from domain.orders.ports import NumberedEvent, Turn

log = logging.getLogger("marketplace.streams")

POLL_S = 0.1  # what an event of another replica waits at most; one query for all streams
POLL_AFTER_FAILURE_S = 1.0
HEARTBEAT_S = 15.0  # keeps proxies from cutting a silent stream
LIFE_S = 300.0  # then the client reconnects, perhaps to another replica
STREAMS_MAX = 1_000  # per process; about 10 KiB each
WAITING_MAX = 64  # events; an order has some ten in its life, so only a dead reader reaches this
RETRY_MS = 1_000  # what clients are told to wait before they reconnect

Read = Callable[[Mapping[str, int]], Awaitable[Sequence[NumberedEvent]]]


@dataclass(eq=False, slots=True)
class Subscription:
    """One stream's place at the reader. None in the queue means that it was cut off."""

    order_id: str
    seq: int  # of the last event that is in the queue or was sent
    queue: asyncio.Queue[NumberedEvent | None] = field(default_factory=lambda: asyncio.Queue(WAITING_MAX + 1))


class EventWatcher:
    """The one reader; starts with the first subscription and ends with the last."""

    def __init__(
        self, read: Read, *, poll_s: float = POLL_S, on_count: Callable[[int], None] = lambda _: None
    ) -> None:
        self._read = read
        self._poll_s = poll_s
        self._on_count = on_count
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._count = 0
        self._behind = asyncio.Event()  # a push came too early: the reader must fetch what is before it
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return self._count

    def push(self, turn: Turn) -> None:
        """Pass on what this process has just committed."""
        subscriptions = self._subscriptions.get(turn.order.order_id)
        if subscriptions:
            first_seq = turn.order.seq - len(turn.events) + 1
            self._deliver(
                subscriptions,
                [
                    NumberedEvent(turn.order.order_id, seq, event)
                    for seq, event in enumerate(turn.events, first_seq)
                ],
            )

    @contextlib.contextmanager
    def subscribed(self, order_id: str, seq: int) -> Iterator[Subscription]:
        """Watch an order from the event after ``seq`` on.

        Raises:
            BusyError: ``streams_full``.
        """
        if self._count >= STREAMS_MAX:
            raise BusyError(
                "streams_full", "Too many progress streams are open. Ask for the order itself instead.", 5
            )
        subscription = Subscription(order_id, seq)
        self._subscriptions.setdefault(order_id, []).append(subscription)
        self._changed(1)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            yield subscription
        finally:
            self._remove(subscription)

    async def close(self) -> None:
        """End every stream; clients reconnect elsewhere."""
        for subscription in [one for listed in self._subscriptions.values() for one in listed]:
            self._cut(subscription)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while self._subscriptions:
            pause_s = self._poll_s
            self._behind.clear()
            try:
                self._dispatch(await self._read(self._watched()))
            except MarketplaceError as failure:
                log.warning("progress streams wait for the database: %s", failure)
                pause_s = POLL_AFTER_FAILURE_S
            except Exception:
                # Streams must not fall silent for ever because one read went wrong.
                log.exception("progress streams could not be read")
                pause_s = POLL_AFTER_FAILURE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._behind.wait()

    def _watched(self) -> dict[str, int]:
        return {
            order_id: min(subscription.seq for subscription in listed)
            for order_id, listed in self._subscriptions.items()
        }

    def _dispatch(self, events: Sequence[NumberedEvent]) -> None:
        for order_id, of_order in groupby(events, key=attrgetter("order_id")):
            subscriptions = self._subscriptions.get(order_id)
            if subscriptions:
                self._deliver(subscriptions, list(of_order))

    def _deliver(self, subscriptions: Sequence[Subscription], events: Sequence[NumberedEvent]) -> None:
        for subscription in tuple(subscriptions):
            for event in events:
                if event.seq <= subscription.seq:
                    continue
                if event.seq > subscription.seq + 1:
                    self._behind.set()
                    break
                if subscription.queue.qsize() >= WAITING_MAX:
                    self._cut(subscription)
                    break
                subscription.seq = event.seq
                subscription.queue.put_nowait(event)

    def _cut(self, subscription: Subscription) -> None:
        self._remove(subscription)
        with contextlib.suppress(asyncio.QueueFull):  # then it has been told already
            subscription.queue.put_nowait(None)

    def _remove(self, subscription: Subscription) -> None:
        listed = self._subscriptions.get(subscription.order_id, [])
        if subscription in listed:
            listed.remove(subscription)
            self._changed(-1)
        if not listed:
            self._subscriptions.pop(subscription.order_id, None)

    def _changed(self, by: int) -> None:
        self._count += by
        self._on_count(self._count)


class EventStream:
    """An ASGI response that sends ``first`` and then what the watcher brings.

    ``render`` turns a record into an event's text and says whether the stream ends with it.
    """

    def __init__(
        self,
        watcher: EventWatcher,
        order_id: str,
        first: Sequence[NumberedEvent],
        after_seq: int,
        render: Callable[[NumberedEvent], tuple[bytes, bool]],
        *,
        heartbeat_s: float = HEARTBEAT_S,
        life_s: float = LIFE_S,
    ) -> None:
        self._watcher = watcher
        self._order_id = order_id
        self._first = first
        self._after_seq = after_seq
        self._render = render
        self._heartbeat_s = heartbeat_s
        self._life_s = life_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the order ends, the reader leaves, or the stream's life is over."""
        head = bytearray(b"retry: %d\n\n" % RETRY_MS)
        seen_seq, ended = self._after_seq, False
        for record in self._first:
            # Every record is rendered, also those that the reader has: the status is built up from them.
            text, ended = self._render(record)
            if record.seq > self._after_seq:
                head += text
            seen_seq = max(seen_seq, record.seq)
        if ended:
            # 204 tells a browser that has seen the end to stop reconnecting.
            await _start(send, 200 if seen_seq > self._after_seq else 204)
            await send(
                {"type": "http.response.body", "body": bytes(head) if seen_seq > self._after_seq else b""}
            )
            return
        with self._watcher.subscribed(self._order_id, seen_seq) as subscription:
            await _start(send)
            await send({"type": "http.response.body", "body": bytes(head), "more_body": True})
            gone = asyncio.create_task(_disconnected(receive))
            sending = asyncio.create_task(self._send_events(subscription, send))
            try:
                await asyncio.wait((gone, sending), timeout=self._life_s, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            finally:
                gone.cancel()
                sending.cancel()
                await asyncio.wait((gone, sending))
        if not gone.done() or gone.cancelled():
            await send({"type": "http.response.body", "body": b""})

    async def _send_events(self, subscription: Subscription, send: Send) -> None:
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    record = await subscription.queue.get()
            except TimeoutError:
                await send({"type": "http.response.body", "body": b": still here\n\n", "more_body": True})
                continue
            if record is None:
                return
            text, ended = self._render(record)
            # What came in together leaves together: a commit often brings two events.
            while not ended and not subscription.queue.empty():
                record = subscription.queue.get_nowait()
                if record is None:
                    break
                more, ended = self._render(record)
                text += more
            await send({"type": "http.response.body", "body": text, "more_body": True})
            if ended or record is None:
                return


async def _start(send: Send, status: int = 200) -> None:
    headers = [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
