"""kill -9 of an order host in mid-purchase: every paid order is delivered all the same, and soon."""

import os
import signal
import time
from uuid import uuid4

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

ORDERS = 12  # spread over both hosts by consistent hash, so the killed one holds some
WITHIN_S = 10.0
REPLACED_WITHIN_S = 120.0  # a new worker process on two shared cores


def test_orders_paid_while_a_host_dies_are_delivered(market, buyer, wish):
    hosts = market.replicas("OrderHost")
    assert len(hosts) >= 2, hosts
    orders = [
        buyer.post("/v1/orders", json=wish(), headers={"Idempotency-Key": str(uuid4())}).json()
        for _ in range(ORDERS)
    ]
    for order in orders[: ORDERS // 2]:
        assert market.confirm(order).status_code == 200
    victim = hosts[0]
    assert victim.alive()
    os.kill(victim.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    for order in orders[ORDERS // 2 :]:
        assert market.confirm(order).status_code == 200
    waiting = {order["id"] for order in orders}
    while waiting:
        for order_id in list(waiting):
            response = buyer.get(f"/v1/orders/{order_id}")
            if response.status_code == 200 and response.json()["status"] == "delivered":
                waiting.discard(order_id)
        assert time.monotonic() < killed_at + WITHIN_S, f"{len(waiting)} of {ORDERS} are not delivered"
        time.sleep(0.05)
    for order in orders:
        events = buyer.get(f"/v1/orders/{order['id']}/events", headers={"Accept": "application/json"})
        numbers = [event["seq"] for event in events.json()["items"]]
        assert numbers == list(range(1, len(numbers) + 1))
        assert [event["kind"] for event in events.json()["items"]].count("order.paid") == 1
    _wait_for_replacement(market, victim.pid)


def _wait_for_replacement(market, killed_pid):
    """Leave a whole marketplace to the next test."""
    deadline = time.monotonic() + REPLACED_WITHIN_S
    while True:
        pids = {host.pid for host in market.replicas("OrderHost")} - {killed_pid}
        with market.http() as client:
            ready = client.get("/readyz").status_code == 200
        if len(pids) >= 2 and ready:
            return
        assert time.monotonic() < deadline, pids
        time.sleep(0.2)
