"""``bench recovery``: kill -9 of a replica that runs orders, with many of them under way.

Places all orders, then pays them at once and kills one replica in the midst. Measured from the kill: until a
replacement runs, and until every acknowledged order is delivered. Which replica runs orders depends on the
deployment (``deployments.settings``): order hosts where they stand apart, else the ingress. Refuses to kill
anything but a process of this run's own stack.
"""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Iterator
from typing import Any

import orjson
import psutil
import psycopg
import uvloop

from cluster.bench import process_groups, report
from cluster.bench.http_client import OK, HttpConnection
from cluster.bench.load import CREATED, TRANSPORT_ERRORS, Acknowledged, Tally, Target, pay
from cluster.bench.orders_http import buyer_tokens, target_of
from cluster.bench.settling import undelivered
from cluster.client import ClientError
from cluster.local.layout import Layout

ORDERS = 200
BUYERS = 32  # at once
KILL_AFTER_SHARE = 0.25  # of the orders are paid when the replica dies
TRIES_MAX = 200  # with the pause below, longer than a replacement takes
PAUSE_S = 0.25
REPLACED_TIMEOUT_S = 120.0  # a new worker process on two shared cores
SETTLE_TIMEOUT_S = 120.0
_OPEN = "SELECT count(*) FROM market.orders WHERE order_id = ANY(%s) AND status <> 'delivered'"


def replicas(layout: Layout) -> list[psutil.Process]:
    """Return the replicas of this run that run orders: order hosts, or else the ingress."""
    by_group: dict[str, list[psutil.Process]] = {}
    for process in process_groups.members(layout):
        try:
            by_group.setdefault(process_groups.group_of(" ".join(process.cmdline())), []).append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return by_group.get("order_hosts") or by_group.get("ingress") or []


def run(layout: Layout, local: dict[str, Any], orders: int = ORDERS) -> dict[str, Any]:
    """Kill a replica amid ``orders`` orders and measure the recovery; returns the report.

    Raises:
        ClientError: ``replica_missing`` or ``not_placed``.
    """
    target = target_of(layout, local)
    tokens = buyer_tokens(local, BUYERS, secrets.token_hex(4))
    before = replicas(layout)
    if not before:
        raise ClientError("No replica of this run's stack runs orders.", "replica_missing")
    try:
        return uvloop.run(_Drill(layout, local, target, before).run(list(tokens), orders))
    except* ClientError as failures:
        raise failures.exceptions[0] from None


class _Drill:
    def __init__(
        self, layout: Layout, local: dict[str, Any], target: Target, before: list[psutil.Process]
    ) -> None:
        self._layout = layout
        self._local = local
        self._target = target
        self._before = before
        self._tally = Tally()
        self._payments: dict[str, dict[str, Any]] = {}  # order id -> how to pay it
        self._half_paid = asyncio.Event()
        self._killed_at = 0.0
        self._open_at_kill = 0

    async def run(self, tokens: list[str], orders: int) -> dict[str, Any]:
        numbers = iter(range(orders))
        async with asyncio.TaskGroup() as group:
            for token in tokens:
                group.create_task(self._place(token, numbers))
        killed = process_groups.group_of(" ".join(self._before[0].cmdline()))
        replaced = asyncio.create_task(self._kill())
        unpaid = iter(list(self._payments.items()))
        async with asyncio.TaskGroup() as group:
            for _ in tokens:
                group.create_task(self._pay(unpaid))
        self._half_paid.set()  # also when few could be paid
        lost = await undelivered(self._target, self._tally, SETTLE_TIMEOUT_S)
        total_s = time.monotonic() - self._killed_at
        replaced_s = await replaced - self._killed_at
        return {
            "bench": "recovery",
            "workload": {
                "what": "kill -9 of one replica that runs orders, while placed orders are being paid",
                "orders": orders,
                "buyers": len(tokens),
                "replicas": len(self._before),
                "killed": killed,
            },
            "acknowledged": len(self._tally.acknowledged),
            "under_way_at_kill": self._open_at_kill,
            "replaced_after_s": round(replaced_s, 2),
            "all_delivered_after_s": round(total_s, 2),
            "after_replacement_s": round(max(0.0, total_s - replaced_s), 2),
            "errors": dict(self._tally.errors),
            "acknowledged_not_delivered": lost,
            "machine": report.machine(),
        }

    async def _place(self, token: str, numbers: Iterator[int]) -> None:
        api = HttpConnection(self._target.origin)
        run = secrets.token_hex(4)
        try:
            for number in numbers:
                await self._place_one(api, token, f"recovery-{run}-{number}")
        finally:
            api.close()

    async def _place_one(self, api: HttpConnection, token: str, key: str) -> None:
        """Place an order; a failed request is repeated with its key, as buyers are told to."""
        headers = (
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n"
        )
        for _ in range(TRIES_MAX):
            try:
                answer = await api.request("POST", "/v1/orders", headers, self._target.order_body())
            except TRANSPORT_ERRORS as error:
                self._tally.errors[f"transport_{type(error).__name__}"] += 1
            else:
                if answer.status == CREATED:
                    document = orjson.loads(answer.body)
                    self._tally.acknowledged[document["id"]] = Acknowledged(token)
                    self._payments[document["id"]] = document["payment"]
                    return
                self._tally.errors[str(answer.status)] += 1
            await asyncio.sleep(PAUSE_S)
        raise ClientError(f"An order could not be placed in {TRIES_MAX} tries.", "not_placed")

    async def _pay(self, unpaid: Iterator[tuple[str, dict[str, Any]]]) -> None:
        stripe = HttpConnection(self._target.stripe_origin)
        try:
            for order_id, payment in unpaid:
                mine = self._tally.acknowledged[order_id]
                mine.paid = not await pay(stripe, payment, self._target.card)
                if sum(one.paid for one in self._tally.acknowledged.values()) >= KILL_AFTER_SHARE * len(
                    self._payments
                ):
                    self._half_paid.set()
        finally:
            stripe.close()

    async def _kill(self) -> float:
        """Kill a replica when its moment has come; returns when as many as before run again."""
        await self._half_paid.wait()
        os.kill(self._before[0].pid, signal.SIGKILL)
        self._killed_at = time.monotonic()
        self._open_at_kill = await asyncio.to_thread(self._count_open)
        deadline = self._killed_at + REPLACED_TIMEOUT_S
        while time.monotonic() < deadline:
            if await self._whole():
                break
            await asyncio.sleep(PAUSE_S)
        return time.monotonic()

    def _count_open(self) -> int:
        with psycopg.connect(self._local["postgres_dsn"]) as connection:
            row = connection.execute(_OPEN, [list(self._payments)]).fetchone()
        assert row is not None, "a count gives a row"
        return int(row[0])

    async def _whole(self) -> bool:
        """Whether Serve says that every replica runs, by its own account on the dashboard."""
        connection = HttpConnection(self._local["ray_dashboard_url"])
        token = self._layout.ray_token.read_text(encoding="utf-8").strip()
        try:
            answer = await connection.request(
                "GET", "/api/serve/applications/", f"Authorization: Bearer {token}\r\n", timeout_s=5.0
            )
        except TRANSPORT_ERRORS:
            return False
        finally:
            connection.close()
        return answer.status == OK and serve_is_whole(orjson.loads(answer.body), self._before[0].pid)


def serve_is_whole(document: dict[str, Any], killed_pid: int) -> bool:
    """Whether all deployments in Serve's details are healthy and the killed process is not among them."""
    deployments = [
        deployment
        for application in document["applications"].values()
        for deployment in application["deployments"].values()
    ]
    running = [
        replica for deployment in deployments for replica in deployment["replicas"] if replica.get("pid")
    ]
    return (
        bool(running)
        and all(deployment["status"] == "HEALTHY" for deployment in deployments)
        and all(replica["state"] == "RUNNING" and replica["pid"] != killed_pid for replica in running)
    )
