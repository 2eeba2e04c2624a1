"""Progress streams: server-sent events of orders, all fed by one reader of Postgres per process.

The reader asks one question for all watched orders every ``POLL_S`` while there is a watcher, so a
thousand streams cost what one does. Bounded: streams per process, events waiting for a slow reader (who
is cut off and resumes after ``Last-Event-ID``), and a stream's life. A database that is down is waited for.
Format: WHATWG HTML, 9.2 "Server-sent events".
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from domain.errors import BusyError, MarketplaceError
from storage.market.order_store import EventRecord

log = logging.getLogger("marketplace.streams")

POLL_S = 0.05  # what an event waits at most before it is seen; one query for all streams
POLL_AFTER_FAILURE_S = 1.0
HEARTBEAT_S = 15.0  # keeps proxies from cutting a silent stream
LIFE_S = 300.0  # then the client reconnects, perhaps to another replica
STREAMS_MAX = 1_000  # per process; about 10 KiB each
WAITING_MAX = 64  # events; an order has some ten in its life, so only a dead reader reaches this
RETRY_MS = 1_000  # what clients are told to wait before they reconnect

Read = Callable[[Mapping[str, int]], Awaitable[Sequence[EventRecord]]]


@dataclass(eq=False, slots=True)
class Subscription:
    """One stream's place at the reader. None in the queue means that it was cut off."""

    order_id: str
    seq: int
    queue: asyncio.Queue[EventRecord | None] = field(default_factory=lambda: asyncio.Queue(WAITING_MAX + 1))


class EventWatcher:
    """The one reader; starts with the first subscription and ends with the last."""

    def __init__(
        self, read: Read, *, poll_s: float = POLL_S, on_count: Callable[[int], None] = lambda _: None
    ) -> None:
        self._read = read
        self._poll_s = poll_s
        self._on_count = on_count
        self._subscriptions: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._subscriptions)

    @contextlib.contextmanager
    def subscribed(self, order_id: str, seq: int) -> Iterator[Subscription]:
        """Watch an order from the event after ``seq`` on.

        Raises:
            BusyError: ``streams_full``.
        """
        if len(self._subscriptions) >= STREAMS_MAX:
            raise BusyError(
                "streams_full", "Too many progress streams are open. Ask for the order itself instead.", 5
            )
        subscription = Subscription(order_id, seq)
        self._subscriptions.add(subscription)
        self._on_count(len(self._subscriptions))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            self._on_count(len(self._subscriptions))

    async def close(self) -> None:
        """End every stream; clients reconnect elsewhere."""
        for subscription in list(self._subscriptions):
            self._cut(subscription)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while self._subscriptions:
            pause_s = self._poll_s
            try:
                self._dispatch(await self._read(self._watched()))
            except MarketplaceError as failure:
                log.warning("progress streams wait for the database: %s", failure)
                pause_s = POLL_AFTER_FAILURE_S
            except Exception:
                # Streams must not fall silent for ever because one read went wrong.
                log.exception("progress streams could not be read")
                pause_s = POLL_AFTER_FAILURE_S
            await asyncio.sleep(pause_s)

    def _watched(self) -> dict[str, int]:
        lowest: dict[str, int] = {}
        for subscription in self._subscriptions:
            known = lowest.get(subscription.order_id)
            lowest[subscription.order_id] = (
                subscription.seq if known is None else min(known, subscription.seq)
            )
        return lowest

    def _dispatch(self, records: Sequence[EventRecord]) -> None:
        if not records:
            return
        by_order: dict[str, list[EventRecord]] = {}
        for record in records:
            by_order.setdefault(record.order_id, []).append(record)
        for subscription in list(self._subscriptions):
            for record in by_order.get(subscription.order_id, ()):
                if record.seq <= subscription.seq:
                    continue
                if subscription.queue.qsize() >= WAITING_MAX:
                    self._cut(subscription)
                    break
                subscription.seq = record.seq
                subscription.queue.put_nowait(record)

    def _cut(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)
        with contextlib.suppress(asyncio.QueueFull):  # then it has been told already
            subscription.queue.put_nowait(None)


class EventStream:
    """An ASGI response that sends ``first`` and then what the watcher brings.

    ``render`` turns a record into an event's text and says whether the stream ends with it.
    """

    def __init__(
        self,
        watcher: EventWatcher,
        order_id: str,
        first: Sequence[EventRecord],
        after_seq: int,
        render: Callable[[EventRecord], tuple[bytes, bool]],
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
