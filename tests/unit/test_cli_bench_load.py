"""What the load counts: delivered orders, shed requests apart from errors, and who is owed a delivery."""

import asyncio
import time
from types import SimpleNamespace

import orjson
import pytest

from cluster.bench import load, orders_http, recovery, settling
from cluster.bench.http_client import Answer, HttpError
from cluster.bench.load import Tally, Target, Window, closed_loop, open_loop

TARGET = Target("http://market", "http://stripe", "sku_1", "USD", "age1x")
PAYMENT = {"client_secret": "s", "publishable_key": "pk", "payment_intent_id": "pi_1"}
STREAM = (
    b'id: 1\nevent: order.paid\ndata: {"at":"2026-11-24T12:00:00+00:00"}\n\n',
    b'id: 2\nevent: order.licensed\ndata: {"at":"2026-11-24T12:00:00.040000+00:00"}\n\nid: 3\nevent: ord',
    b'er.delivered\ndata: {"at":"2026-11-24T12:00:00.050000+00:00"}\n\n',
)


class FakeMarket:
    """Answers as the marketplace and the payment page do; ``refusals`` are given to the next placings."""

    def __init__(self):
        self.refusals = []
        self.stream = STREAM
        self.payment = PAYMENT
        self.delivered = set()
        self.confirmed = 0
        self.placed = 0
        self.keys = set()

    def connection(self, origin):
        return SimpleNamespace(request=self.request, close=lambda: None)

    async def request(self, method, path, headers="", body=b"", timeout_s=1.0, on_body=None):
        await asyncio.sleep(0.001)
        if path.endswith("/confirm"):
            self.confirmed += 1
            return Answer(200, b"", b"{}")
        if path.endswith("/events"):
            for piece in self.stream:
                on_body(piece)
            return Answer(200, b"", b"")
        if method == "GET":
            status = "delivered" if path.rpartition("/")[2] in self.delivered else "awaiting_payment"
            self.delivered.add(path.rpartition("/")[2])  # the next look finds it delivered
            return Answer(200, b"", orjson.dumps({"status": status, "payment": PAYMENT}))
        self.keys.add(headers.partition("Idempotency-Key: ")[2].strip())
        if self.refusals:
            refusal = self.refusals.pop(0)
            if isinstance(refusal, Exception):
                raise refusal
            return Answer(refusal, b"", orjson.dumps({"code": f"code_{refusal}"}))
        self.placed += 1
        return Answer(201, b"", orjson.dumps({"id": f"ord_{self.placed}", "payment": self.payment}))


@pytest.fixture
def market(monkeypatch):
    fake = FakeMarket()
    for module in (load, settling):
        monkeypatch.setattr(module, "HttpConnection", fake.connection)
    monkeypatch.setattr(load, "FAILURE_PAUSE_S", 0.001)
    return fake


async def test_a_closed_loop_counts_what_is_delivered_within_its_window(market):
    tally = await closed_loop(TARGET, ["t1", "t2"], "run", Window.after(0.0, 0.05))
    assert 0 < tally.delivered <= tally.started == len(tally.acknowledged)
    assert len(market.keys) == tally.started
    assert set(tally.paid_to_licensed_ms) == {40.0}
    assert set(tally.fulfil_ms) == {50.0}
    assert len(tally.webhook_to_licence_ms) == len(tally.place_ms) == tally.delivered
    assert all(one.paid and one.delivered for one in tally.acknowledged.values())


async def test_an_order_outside_the_window_is_remembered_and_not_counted(market):
    tally = await closed_loop(
        TARGET, ["t1"], "run", Window(time.monotonic() + 0.02, time.monotonic() + 0.021)
    )
    assert len(tally.acknowledged) > tally.delivered


async def test_shed_requests_count_apart_from_errors(market):
    market.refusals = [429, 503, 500, HttpError("cut")]
    tally = await closed_loop(TARGET, ["t1"], "run", Window.after(0.0, 0.05))
    assert tally.shed == {"code_429": 1, "code_503": 1}
    assert tally.errors == {"code_500": 1, "transport_HttpError": 1}
    assert tally.delivered > 0


async def test_an_open_loop_keeps_its_rate_and_times_from_when_each_was_due(market):
    tally = await open_loop(TARGET, ["t1"], "run", Window.after(0.0, 0.2), 100.0)
    assert 15 <= tally.started <= 21
    assert len(tally.purchase_ms) == tally.started
    assert len(market.keys) == tally.started
    assert min(tally.purchase_ms) > 0


async def test_an_open_loop_times_what_was_due_and_counts_what_came_within_its_window(market):
    begin = time.monotonic() + 0.05
    tally = await open_loop(TARGET, ["t1"], "run", Window(begin, begin + 0.05), 200.0)
    assert 8 <= len(tally.purchase_ms) <= 12
    assert 1 <= tally.delivered <= tally.started
    assert len(tally.purchase_ms) < tally.started


async def test_an_open_loop_drops_and_counts_what_it_cannot_carry(market, monkeypatch):
    monkeypatch.setattr(load, "IN_FLIGHT_MAX", 1)
    tally = await open_loop(TARGET, ["t1"], "run", Window.after(0.0, 0.05), 2_000.0)
    assert tally.errors["generator_full"] > 0
    assert len(tally.purchase_ms) == tally.started


async def test_a_stream_that_ends_early_leaves_the_order_to_the_check_at_the_end(market):
    market.stream = STREAM[:2]
    tally = await closed_loop(TARGET, ["t1"], "run", Window.after(0.0, 0.01))
    assert tally.delivered == 0
    assert tally.errors["order_not_delivered"] == tally.started
    assert await settling.undelivered(TARGET, tally, 5.0) == []


async def test_an_order_that_could_not_be_paid_is_paid_at_the_end(market):
    market.payment = None
    tally = await closed_loop(TARGET, ["t1"], "run", Window.after(0.0, 0.01))
    assert tally.errors["payment_not_open"] == tally.started
    assert await settling.undelivered(TARGET, tally, 5.0) == []
    assert market.confirmed == tally.started


async def test_what_is_never_delivered_is_told(market, monkeypatch):
    async def pending(*_arguments, **_options):
        return Answer(200, b"", orjson.dumps({"status": "paid", "payment": None}))

    market.stream = ()
    tally = await closed_loop(TARGET, ["t1"], "run", Window.after(0.0, 0.005))
    monkeypatch.setattr(market, "request", pending)
    assert await settling.undelivered(TARGET, tally, 0.0) == sorted(tally.acknowledged)


def test_the_figures_name_what_a_reader_asks_for():
    tally = Tally(place_ms=[1.0], purchase_ms=[2.0], webhook_to_licence_ms=[3.0], delivered=1, started=2)
    tally.shed["host_full"] += 1
    figures = orders_http.figures(tally, 2.0)
    assert figures["per_s"] == 0.5
    assert figures["place_order"]["p95_ms"] == 1.0
    assert figures["webhook_to_licence"]["p95_ms"] == 3.0
    assert (figures["p95_ms"], figures["shed"], figures["errors"]) == (2.0, {"host_full": 1}, {})


def serve_details(*replicas, status="HEALTHY"):
    deployment = {
        "status": status,
        "replicas": [dict(zip(("pid", "state"), one, strict=True)) for one in replicas],
    }
    return {"applications": {"marketplace": {"deployments": {"Ingress": deployment}}}}


@pytest.mark.parametrize(
    ("details", "whole"),
    [
        (serve_details((2, "RUNNING"), (3, "RUNNING")), True),
        (serve_details((1, "RUNNING"), (3, "RUNNING")), False),
        (serve_details((2, "STARTING"), (3, "RUNNING")), False),
        (serve_details((3, "RUNNING"), status="UPDATING"), False),
        (serve_details(), False),
    ],
)
def test_serve_is_whole_once_all_run_and_the_killed_one_is_gone(details, whole):
    assert recovery.serve_is_whole(details, killed_pid=1) is whole
