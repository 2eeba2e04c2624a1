"""kill -9 of a process that runs orders: every order that was paid is delivered all the same, and soon."""

import os
import signal
import time
from uuid import uuid4

import httpx
import pytest

from cluster.local.services import SERVING_WORDS

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

ORDERS = 12  # spread over both replicas, so the killed one holds some
WITHIN_S = 10.0
REPLACED_WITHIN_S = 120.0  # a new worker process on two shared cores


def order_hosts(market):
    """The processes that run orders: hosts apart where there are any, else the ingress replicas."""
    return market.replicas("OrderHost") or market.replicas("Ingress")


def answered(client, path):
    """Ask once; None if the replica that was asked is the one that died."""
    try:
        response = client.get(path, headers={"Accept": "application/json"})
    except httpx.TransportError:
        return None
    return response.json() if response.status_code == 200 else None


def wait_until_complete(market):
    """Replicas after the first join later: killing the only one that serves would be another test."""
    log = market.layout.log / "marketplace.log"
    deadline = time.monotonic() + REPLACED_WITHIN_S
    while SERVING_WORDS not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")[-2_000:]
        time.sleep(0.2)


def test_orders_paid_while_a_host_dies_are_delivered(market, buyer, wish):
    wait_until_complete(market)
    hosts = order_hosts(market)
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
            order = answered(buyer, f"/v1/orders/{order_id}")
            if order is not None and order["status"] == "delivered":
                waiting.discard(order_id)
        assert time.monotonic() < killed_at + WITHIN_S, f"{len(waiting)} of {ORDERS} are not delivered"
        time.sleep(0.05)
    for order in orders:
        events = eventually(buyer, f"/v1/orders/{order['id']}/events")["items"]
        numbers = [event["seq"] for event in events]
        assert numbers == list(range(1, len(numbers) + 1))
        assert [event["kind"] for event in events].count("order.paid") == 1
    _wait_for_replacement(market, victim.pid)


def eventually(client, path):
    deadline = time.monotonic() + WITHIN_S
    while (document := answered(client, path)) is None:
        assert time.monotonic() < deadline, path
        time.sleep(0.05)
    return document


def _wait_for_replacement(market, killed_pid):
    """Leave a whole marketplace to the next test."""
    deadline = time.monotonic() + REPLACED_WITHIN_S
    while True:
        pids = {host.pid for host in order_hosts(market)} - {killed_pid}
        with market.http() as client:
            ready = answered(client, "/readyz") is not None
        if len(pids) >= 2 and ready:
            return
        assert time.monotonic() < deadline, pids
        time.sleep(0.2)
