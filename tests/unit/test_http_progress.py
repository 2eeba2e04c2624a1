"""Progress streams: resumed, shared, bounded, and ended; spoken to as an ASGI server would."""

import asyncio
import contextlib

import orjson
import pytest

from domain.errors import DependencyError
from domain.orders.commands import RecordPaymentFailure
from domain.orders.events import PaymentFailed
from serve_app import sse
from serve_app.sse import EventStream, EventWatcher
from tests.fakes.http_client import Client, pay
from tests.fakes.ingress import RECIPIENT, FakeMarket
from tests.fakes.market_orders import FakeReads

POLL_S = 0.002


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def app(market):
    return market.app()


@pytest.fixture
def client(app):
    return Client(app, "buyer")


@pytest.fixture
async def order_id(market, client):
    sku = market.list_published()
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    return (await client.post("/v1/orders", body)).json()["id"]


class Stream:
    """One open stream: what was sent so far, and a way to hang up."""

    def __init__(self, app, order_id, token="buyer", **headers):
        self.messages = []
        self._gone = asyncio.Event()
        self._news = asyncio.Event()
        names = {"authorization": f"Bearer {token}", **headers}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": f"/v1/orders/{order_id}/events",
            "raw_path": b"",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in names.items()],
            "client": ("127.0.0.1", 1),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.messages.append(message)
        self._news.set()

    @property
    def status(self):
        return self.messages[0]["status"] if self.messages else None

    @property
    def text(self):
        return b"".join(message.get("body", b"") for message in self.messages[1:]).decode()

    @property
    def events(self):
        return [orjson.loads(line[6:]) for line in self.text.split("\n") if line.startswith("data: ")]

    async def until(self, condition):
        async with asyncio.timeout(5):
            while not condition(self):
                self._news.clear()
                await self._news.wait()

    async def hang_up(self):
        self._gone.set()
        async with asyncio.timeout(5):
            await self.task


async def test_a_stream_tells_everything_from_the_start_and_ends_with_the_order(
    market, app, client, order_id
):
    stream = Stream(app, order_id)
    await stream.until(lambda s: len(s.events) == 3)
    assert not stream.task.done()
    await pay(market, client, order_id)
    async with asyncio.timeout(5):
        await stream.task
    kinds = [event["kind"] for event in stream.events]
    assert kinds == [
        "order.created",
        "order.screened",
        "order.payment_opened",
        "order.paid",
        "order.booked",
        "order.licensed",
        "order.delivered",
    ]
    assert [event["seq"] for event in stream.events] == list(range(1, 8))
    assert [event["status"] for event in stream.events][-3:] == ["booked", "licensed", "delivered"]
    assert stream.text.startswith("retry: 1000\n\nid: 1\nevent: order.created\ndata: {")
    headers = dict(stream.messages[0]["headers"])
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-request-id"]
    assert not stream.messages[-1].get("more_body")
    assert "secret" not in stream.text


async def test_a_stream_is_resumed_after_the_last_event_seen(market, app, client, order_id):
    stream = Stream(app, order_id, last_event_id="2")
    await stream.until(lambda s: s.events)
    assert [(event["seq"], event["status"]) for event in stream.events] == [(3, "awaiting_payment")]
    await stream.hang_up()


@pytest.mark.parametrize("last_event_id", ["-1", "abc", "9" * 30, "1.5", ""])
async def test_a_strange_last_event_id_starts_over(app, order_id, last_event_id):
    stream = Stream(app, order_id, last_event_id=last_event_id)
    await stream.until(lambda s: len(s.events) == 3)
    await stream.hang_up()


async def test_a_finished_order_is_told_and_closed_at_once(market, app, client, order_id):
    await pay(market, client, order_id)
    stream = Stream(app, order_id)
    async with asyncio.timeout(5):
        await stream.task
    assert (stream.status, len(stream.events)) == (200, 7)
    # Who has seen the end is told to stop reconnecting.
    stream = Stream(app, order_id, last_event_id="7")
    async with asyncio.timeout(5):
        await stream.task
    assert (stream.status, stream.text) == (204, "")


async def test_an_id_that_the_order_has_not_reached_begins_at_the_start(app, order_id):
    stream = Stream(app, order_id, **{"last-event-id": "999999999"})
    await stream.until(lambda s: len(s.events) == 3)
    await stream.hang_up()


async def test_a_decline_is_told_and_the_stream_goes_on(market, app, client, order_id):
    stream = Stream(app, order_id)
    await pay(market, client, order_id, kind="payment_intent.payment_failed", event_id="evt_no")
    await stream.until(lambda s: len(s.events) == 4)
    assert stream.events[-1]["kind"] == "order.payment_failed"
    assert stream.events[-1]["status"] == "awaiting_payment"
    await stream.hang_up()


async def test_all_streams_share_one_reader_that_rests_without_them(market, app, client, order_id):
    asked = []
    read = market.reads.events_since

    async def counted(watched):
        asked.append(dict(watched))
        return await read(watched)

    watcher = EventWatcher(counted, poll_s=POLL_S)
    with contextlib.ExitStack() as stack:
        for seq in (3, 1, 2):
            stack.enter_context(watcher.subscribed(order_id, seq))
        last = stack.enter_context(watcher.subscribed(order_id, 0))
        async with asyncio.timeout(5):
            assert (await last.queue.get()).seq == 1
        assert asked[0] == {order_id: 0}
        assert len(watcher) == 4
    async with asyncio.timeout(5):
        await watcher._task
    count = len(asked)
    await asyncio.sleep(5 * POLL_S)
    assert len(asked) == count


async def test_what_this_process_commits_is_passed_on_without_a_read(market, order_id):
    asked = []

    async def counted(watched):
        asked.append(watched)
        return await FakeReads(market.store).events_since(watched)

    watcher = EventWatcher(counted, poll_s=60)
    market.store.followers.append(watcher.push)
    with watcher.subscribed(order_id, 3) as subscription:
        await asyncio.sleep(0)  # the reader's first look
        await market.directory.host.execute(
            order_id, RecordPaymentFailure("evt_no", "card_declined", "No.", market.clock())
        )
        async with asyncio.timeout(5):
            event = await subscription.queue.get()
        assert (event.seq, type(event.event)) == (4, PaymentFailed)
        assert len(asked) == 1
    await watcher.close()


async def test_a_push_that_comes_too_early_waits_for_the_reader_and_nothing_comes_twice(market, order_id):
    watcher = EventWatcher(FakeReads(market.store).events_since, poll_s=60)
    with watcher.subscribed(order_id, 3) as late:
        await asyncio.sleep(0)
        with watcher.subscribed(order_id, 1) as early:  # after the reader's look: it has missed 2 and 3
            market.store.followers.append(watcher.push)
            await market.directory.host.execute(
                order_id, RecordPaymentFailure("evt_no", "card_declined", "No.", market.clock())
            )
            async with asyncio.timeout(5):
                assert [(await early.queue.get()).seq for _ in range(3)] == [2, 3, 4]
            assert (await late.queue.get()).seq == 4
            assert late.queue.empty()
            assert early.queue.empty()
    await watcher.close()


async def test_a_read_that_fails_is_repeated(market, order_id, monkeypatch):
    monkeypatch.setattr(sse, "POLL_AFTER_FAILURE_S", POLL_S)
    failures = [DependencyError("database_unavailable", "down"), RuntimeError("bug")]

    async def failing(watched):
        if failures:
            raise failures.pop(0)
        return await FakeReads(market.store).events_since(watched)

    watcher = EventWatcher(failing, poll_s=POLL_S)
    with watcher.subscribed(order_id, 2) as subscription:
        async with asyncio.timeout(5):
            assert (await subscription.queue.get()).seq == 3
    assert failures == []


async def test_streams_are_bounded(market, app, order_id, monkeypatch):
    monkeypatch.setattr(sse, "STREAMS_MAX", 2)
    streams = [Stream(app, order_id) for _ in range(2)]
    for stream in streams:
        await stream.until(lambda s: s.events)
    third = Stream(app, order_id)
    async with asyncio.timeout(5):
        await third.task
    assert third.status == 503
    assert orjson.loads(third.text)["code"] == "streams_full"
    await streams[0].hang_up()
    fourth = Stream(app, order_id)
    await fourth.until(lambda s: s.status == 200)
    for stream in (streams[1], fourth):
        await stream.hang_up()


async def test_a_reader_that_is_too_slow_is_cut(market, order_id, monkeypatch):
    monkeypatch.setattr(sse, "WAITING_MAX", 2)
    watcher = EventWatcher(market.reads.events_since, poll_s=POLL_S)
    with watcher.subscribed(order_id, 0) as slow:
        async with asyncio.timeout(5):
            await watcher._task  # nobody is left to read for
        assert [slow.queue.get_nowait() for _ in range(3)][-1] is None


async def test_a_silent_stream_beats_and_ends_when_its_life_is_over(market, order_id):
    watcher = EventWatcher(market.reads.events_since, poll_s=POLL_S)
    stream = EventStream(watcher, order_id, [], 3, lambda _: (b"", False), heartbeat_s=0.01, life_s=0.2)
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await stream({}, receive, send)
    assert sent[2]["body"] == b": still here\n\n"
    assert sent[-1] == {"type": "http.response.body", "body": b""}
    assert len(watcher) == 0


async def test_closing_ends_every_stream_so_that_clients_go_elsewhere(market, order_id):
    watcher = EventWatcher(market.reads.events_since, poll_s=POLL_S)
    with watcher.subscribed(order_id, 3) as subscription:
        await watcher.close()
        assert await subscription.queue.get() is None


async def test_a_stream_outlives_the_requests_deadline(market, order_id):
    stream = Stream(market.app(deadline_s=0.02), order_id)
    await stream.until(lambda s: len(s.events) == 3)
    await asyncio.sleep(0.05)
    assert not stream.task.done()
    await stream.hang_up()


async def test_open_streams_are_counted(app, order_id):
    stream = Stream(app, order_id)
    await stream.until(lambda s: s.events)
    assert "marketplace_http_streams 1.0" in (await Client(app).get("/metrics")).text
    await stream.hang_up()
    assert "marketplace_http_streams 0.0" in (await Client(app).get("/metrics")).text


async def test_anothers_stream_does_not_exist(app, order_id):
    stream = Stream(app, order_id, token="buyer2")
    async with asyncio.timeout(5):
        await stream.task
    assert (stream.status, orjson.loads(stream.text)["code"]) == (404, "order_not_found")


async def test_events_are_listed_as_json_on_request(client, order_id):
    answer = await client.get(f"/v1/orders/{order_id}/events", accept="application/json")
    assert [event["seq"] for event in answer.json()["items"]] == [1, 2, 3]
