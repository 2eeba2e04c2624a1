"""The Stripe simulator's storage: shared commits, failures, idempotency keys, deliveries and restarts."""

import asyncio
import hashlib
import hmac
import sqlite3

import pytest

from cluster.local.stripe.deliveries import ATTEMPTS_MAX, JITTER, RETRY_S_MAX, DeliveryRecord, retry_delay_s
from cluster.local.stripe.faults import Faults
from cluster.local.stripe.http_post import PostConnection, PostFailedError, target_of
from cluster.local.stripe.idempotency import IdempotencyKeys
from cluster.local.stripe.refusals import RefusedError
from cluster.local.stripe.rows import IdempotencyRecord
from cluster.local.stripe.schema import UnusableDataError
from cluster.local.stripe.settings import read_settings
from cluster.local.stripe.store import IDEMPOTENCY_KEPT_S, Store, StoreFailedError
from cluster.local.stripe.turn import IdSource, PageQuery, Turn
from cluster.local.stripe.webhook_endpoints import Registry, environment_endpoint
from cluster.local.stripe.webhooks import signature_headers

NOW = 1_795_000_000
ENVIRON = {
    "STRIPE_SIM_SECRET_KEY": "sk_test_0123456789",
    "STRIPE_SIM_PUBLISHABLE_KEY": "pk_test_0123456789",
    "STRIPE_SIM_WEBHOOK_SECRET": "whsec_0123456789",
}
COMMAND = ["--port", "8700", "--data-dir", "data"]


class Bench:
    """A store with turns whose events go to ``endpoints``."""

    def __init__(self, path, endpoints=()):
        self.path = path
        self.store = Store(path)
        self.ids = IdSource()
        self.endpoints = endpoints
        self.fresh = []
        self.store.on_commit = self.fresh.extend

    def turn(self, now=NOW):
        return Turn(self.store, now * 1_000, "http://sim", lambda _type: self.endpoints, str, self.ids)

    def put(self, number, parent="pi_x", topic="charge.succeeded"):
        turn = self.turn(NOW + number)
        document = {"id": turn.new_id("ch"), "created": turn.now, "number": number}
        turn.put("charge", document, parent=parent)
        turn.announce(topic, document["id"])
        self.store.write(turn, None)
        return document["id"]

    def numbers(self, **query):
        given = {"kind": "charge", "parent": None, "topics": None, "limit": 10, "created": {}}
        given |= {"starting_after": None, "ending_before": None}
        bodies, more = self.store.page(PageQuery(**given | query))
        return [int(body.split(b'"number":')[1].rstrip(b"}")) for body in bodies], more


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "data" / "stripe.sqlite3", ("we_1",))
    yield made
    made.store.close()


async def test_pages_go_both_ways_and_filter(bench):
    ids = [bench.put(number, parent=f"pi_{number % 2}") for number in range(7)]
    assert bench.numbers(limit=3) == ([6, 5, 4], True)
    assert bench.numbers(limit=3, starting_after=ids[4]) == ([3, 2, 1], True)
    assert bench.numbers(limit=3, starting_after=ids[3]) == ([2, 1, 0], False)
    assert bench.numbers(limit=3, ending_before=ids[2]) == ([5, 4, 3], True)
    assert bench.numbers(parent="pi_1") == ([5, 3, 1], False)
    assert bench.numbers(created={"gte": NOW + 2, "lt": NOW + 4}) == ([3, 2], False)
    with pytest.raises(RefusedError) as refused:
        bench.numbers(starting_after="ch_none")
    assert (refused.value.status, refused.value.param) == (404, "starting_after")


async def test_events_are_found_by_type(bench):
    bench.put(1, topic="charge.succeeded")
    bench.put(2, topic="charge.failed")
    query = PageQuery("event", None, ("charge.failed",), 10, None, None, {})
    bodies, _ = bench.store.page(query)
    assert len(bodies) == 1
    assert b'"type":"charge.failed"' in bodies[0]


async def test_a_kind_is_never_another(bench):
    charge_id = bench.put(1)
    assert bench.store.load("charge", charge_id) is not None
    assert bench.store.load("refund", charge_id) is None
    assert len(bench.store.children("charge", "pi_x")) == 1
    assert bench.store.children("refund", "pi_x") == []


async def test_one_commit_serves_all_who_wait(bench):
    bench.put(1)
    bench.put(2)
    assert bench.fresh == []
    await asyncio.gather(bench.store.settled(), bench.store.settled())
    assert [delivery.delivery_id for delivery in bench.fresh] == [1, 2]
    outside = sqlite3.connect(bench.path)
    assert outside.execute("SELECT count(*) FROM objects").fetchone() == (4,)
    outside.close()
    await bench.store.settled()


async def test_a_failed_write_takes_its_whole_transaction_back(bench):
    async def good():
        charge_id = bench.put(1)
        with pytest.raises(StoreFailedError):
            await bench.store.settled()
        return charge_id

    async def bad():
        turn = bench.turn()
        turn.put("charge", {"id": "ch_bad", "created": None})
        with pytest.raises(StoreFailedError):
            bench.store.write(turn, None)

    charge_id, _ = await asyncio.gather(good(), bad())
    assert bench.store.load("charge", charge_id) is None
    assert bench.fresh == []
    bench.put(2)
    await bench.store.settled()
    assert bench.numbers() == ([2], False)


async def test_everything_is_there_after_a_restart(tmp_path):
    path = tmp_path / "stripe.sqlite3"
    first = Bench(path, ("we_1",))
    charge_id = first.put(1)
    await first.store.settled()
    first.store.close()
    second = Bench(path, ("we_1",))
    assert second.store.load("charge", charge_id) is not None
    second.put(2)
    await second.store.settled()
    due = DeliveryRecord(second.store).due("we_1", (NOW + 60) * 1_000, 10)
    assert [(delivery.delivery_id, delivery.attempts) for delivery in due] == [(1, 0), (2, 0)]
    second.store.close()


def test_the_database_is_for_its_owner_only_and_versions_are_checked(tmp_path):
    path = tmp_path / "new" / "stripe.sqlite3"
    Store(path).close()
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(UnusableDataError, match="schema 99"):
        Store(path)
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(UnusableDataError):
        Store(path)


async def test_what_is_old_is_pruned(bench):
    for number, age in ((1, IDEMPOTENCY_KEPT_S + 5), (2, 5)):
        record = IdempotencyRecord(f"key-{number}", b"f", 200, b"{}", "req_1", NOW - age)
        bench.store.write(bench.turn(), record)
    assert bench.store.find_idempotency("key-1", NOW) is None
    assert bench.store.find_idempotency("key-2", NOW) is not None
    bench.store.prune(NOW)
    await bench.store.settled()
    assert bench.store.query("SELECT key FROM idempotency") == [("key-2",)]


async def test_checkpoints_keep_the_log_small(bench, monkeypatch):
    monkeypatch.setattr("cluster.local.stripe.store.WAL_BYTES_BEFORE_CHECKPOINT", 1)
    for number in range(50):
        bench.put(number)
        await bench.store.settled()
    await bench.store.checkpoint()
    log = bench.path.with_name(bench.path.name + "-wal")
    size = log.stat().st_size
    bench.put(51)
    await bench.store.settled()
    assert log.stat().st_size == size


async def test_idempotency_keys(bench):
    keys = IdempotencyKeys(bench.store, b"sk_test")
    fingerprint = keys.fingerprint("shop", "/v1/refunds", [("a", "1"), ("b", "2")])
    assert fingerprint == keys.fingerprint("shop", "/v1/refunds", [("b", "2"), ("a", "1")])
    assert fingerprint != keys.fingerprint("shop", "/v1/other", [("a", "1"), ("b", "2")])
    assert fingerprint != IdempotencyKeys(bench.store, b"other").fingerprint(
        "shop", "/v1/refunds", [("a", "1"), ("b", "2")]
    )
    assert fingerprint != keys.fingerprint("browser", "/v1/refunds", [("a", "1"), ("b", "2")])
    assert keys.begin("k", fingerprint, NOW) is None
    with pytest.raises(RefusedError) as refused:
        keys.begin("k", fingerprint, NOW)
    assert (refused.value.status, refused.value.code) == (409, "idempotency_key_in_use")
    bench.store.write(bench.turn(), IdempotencyRecord("k", fingerprint, 402, b"declined", "req_1", NOW))
    keys.end("k")
    assert keys.begin("k", fingerprint, NOW + 5).body == b"declined"
    with pytest.raises(RefusedError) as refused:
        keys.begin("k", b"other", NOW + 5)
    assert (refused.value.status, refused.value.kind) == (400, "idempotency_error")
    assert keys.begin("k", b"other", NOW + IDEMPOTENCY_KEPT_S) is None
    for wrong in ("", "k" * 256):
        with pytest.raises(RefusedError):
            keys.begin(wrong, fingerprint, NOW)


async def test_deliveries_are_retried_and_then_given_up(bench):
    bench.put(1)
    await bench.store.settled()
    record = DeliveryRecord(bench.store)
    now_ms = (NOW + 10) * 1_000
    for attempt in range(1, ATTEMPTS_MAX + 1):
        (delivery,) = record.due("we_1", now_ms, 10)
        assert delivery.attempts == attempt - 1
        record.failed(delivery, now_ms, {"status": 500})
        assert record.due("we_1", now_ms, 10) == []
        now_ms = record.next_due_ms("we_1", now_ms) or now_ms
    assert record.due("we_1", now_ms + 10**9, 10) == []
    (row,) = record.recent(None, "failed", 10)["data"]
    assert (row["attempts"], len(row["log"]), row["log"][0]["status"]) == (ATTEMPTS_MAX, ATTEMPTS_MAX, 500)
    assert record.recent("evt_none", None, 10)["data"] == []


async def test_a_delivery_that_succeeded_is_over(bench):
    bench.put(1)
    await bench.store.settled()
    record = DeliveryRecord(bench.store)
    (delivery,) = record.due("we_1", NOW * 2_000, 10)
    assert record.pending_by_event([delivery.event_id]) == {delivery.event_id: 1}
    record.succeeded(delivery, NOW * 1_000, 204)
    assert record.pending_by_event([delivery.event_id]) == {}
    assert record.recent(delivery.event_id, None, 10)["data"][0]["state"] == "delivered"


async def test_deliveries_to_endpoints_that_are_gone_are_given_up(bench):
    bench.put(1)
    bench.endpoints = ("we_2",)
    bench.put(2)
    await bench.store.settled()
    record = DeliveryRecord(bench.store)
    record.abandon_unknown(("we_2",), NOW * 1_000)
    states = {row["endpoint"]: (row["state"], row["log"]) for row in record.recent(None, None, 10)["data"]}
    assert states["we_2"] == ("pending", [])
    assert states["we_1"][0] == "failed"
    assert "no longer exists" in states["we_1"][1][0]["error"]


async def test_resending_makes_new_deliveries(bench):
    registry = Registry(environment_endpoint("http://x.test", "whsec_1", ["charge.succeeded"]))
    bench.put(1)
    await bench.store.settled()
    record, event_id = DeliveryRecord(bench.store), bench.fresh[0].event_id
    assert record.resend(registry, event_id, NOW * 1_000) == 1
    await bench.store.settled()
    assert (bench.fresh[-1].endpoint_id, bench.fresh[-1].event_id) == ("we_environment", event_id)
    with pytest.raises(RefusedError):
        record.resend(registry, "evt_none", NOW * 1_000)


def test_delays_double_up_to_their_bound():
    assert [retry_delay_s(n, 0) for n in (1, 2, 3, 6, 7, 40)] == [1, 2, 4, 32, RETRY_S_MAX, RETRY_S_MAX]
    assert retry_delay_s(1, 1) == 1 + JITTER
    assert retry_delay_s(1, -1) == 1 - JITTER


def test_signatures_are_stripes():
    header = signature_headers("whsec_x", b'{"a":1}', 1_700_000_000)
    digest = hmac.new(b"whsec_x", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
    assert header == f"Stripe-Signature: t=1700000000,v1={digest}\r\n".encode()


def test_request_heads_of_endpoints():
    target = target_of("https://[::1]/hook?a=1")
    assert (target.host, target.port, target.tls) == ("::1", 443, True)
    assert target.head.startswith(b"POST /hook?a=1 HTTP/1.1\r\nHost: [::1]\r\n")
    assert b"Host: shop.test:8080\r\n" in target_of("http://shop.test:8080").head


class Wire(asyncio.Transport):
    """Keeps what was sent."""

    def __init__(self):
        super().__init__()
        self.sent = b""

    def write(self, data):
        self.sent += data

    def abort(self):
        pass


async def post(*pieces, end=False):
    """Post once and feed the answer piece by piece; return the connection and the task."""
    connection = PostConnection()
    connection.connection_made(Wire())
    task = asyncio.create_task(connection.post(target_of("http://shop.test/hook"), b"A: b\r\n", b"{}"))
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
    if end:
        connection.connection_lost(None)
    return connection, task


async def test_a_post_keeps_its_connection():
    connection, task = await post(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 20", b"4 No Content\r\n\r\n")
    assert await task == 204
    assert connection.usable
    assert connection._transport.sent.endswith(b"Content-Length: 2\r\nA: b\r\n\r\n{}")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 200 OK\r\n\r\nfine", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfine"]
)
async def test_an_answer_may_end_with_its_connection(answer):
    connection, task = await post(answer, end=True)
    assert await task == 200
    assert not connection.usable


@pytest.mark.parametrize(
    ("pieces", "end"),
    [
        ((), True),
        ((b"HTTP/1.1 20",), True),
        ((b"SSH-2.0-OpenSSH\r\n",), False),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + b"x" * 70_000,), False),
    ],
)
async def test_what_is_no_answer(pieces, end):
    connection, task = await post(*pieces, end=end)
    with pytest.raises(PostFailedError):
        await task
    assert not connection.usable


def test_endpoints_get_what_they_asked_for():
    registry = Registry(environment_endpoint("http://x.test", "whsec_1", ["charge.refunded"]))
    assert registry.subscribers("charge.refunded") == ("we_environment",)
    assert registry.subscribers("charge.succeeded") == ()
    assert Registry(environment_endpoint("http://x.test", "whsec_1", ["*"])).subscribers("any.thing")
    assert Registry(None).subscribers("charge.refunded") == ()


def test_faults_match_count_and_end():
    faults = Faults()
    faults.add({"method": "POST", "path_prefix": "/v1/refunds", "status": 503, "times": 2})
    faults.add({"delay_ms": 5, "when": "after"})
    assert faults.strike("POST", "/v1/refunds").status == 503
    assert faults.strike("GET", "/v1/refunds").delay_ms == 5
    assert faults.strike("GET", "/v1/refunds") is None
    assert faults.strike("POST", "/v1/refunds/re_1").status == 503
    assert faults.list()["data"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"colour": 1},
        {"status": 200},
        {"status": "500"},
        {"status": True},
        {"when": "later"},
        {"times": 0},
        {"delay_ms": 10**9},
        {"path_prefix": "/healthz"},
        {"method": "PATCH"},
    ],
)
def test_faults_that_make_no_sense(wrong):
    with pytest.raises(RefusedError) as refused:
        Faults().add(wrong)
    assert refused.value.status == 400


def test_settings_are_read():
    settings = read_settings(COMMAND, ENVIRON | {"STRIPE_SIM_WEBHOOK_EVENTS": " a.b , c.d "})
    assert (settings.host, settings.port, settings.public_url) == ("127.0.0.1", 8700, "http://127.0.0.1:8700")
    assert settings.webhook_events == ("a.b", "c.d")
    assert settings.webhook_url is None
    assert "0123456789" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STRIPE_SIM_SECRET_KEY", ""),
        ("STRIPE_SIM_SECRET_KEY", "sk_live_0123456789"),
        ("STRIPE_SIM_SECRET_KEY", "sk_test_1"),
        ("STRIPE_SIM_PUBLISHABLE_KEY", "sk_test_0123456789"),
        ("STRIPE_SIM_WEBHOOK_SECRET", "whsec_01234 56789"),
        ("STRIPE_SIM_WEBHOOK_URL", "ftp://shop.test"),
        ("STRIPE_SIM_WEBHOOK_EVENTS", "Everything"),
    ],
)
def test_settings_that_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name) as refused:
        read_settings(COMMAND, ENVIRON | {name: value})
    assert value == "" or value not in str(refused.value)
