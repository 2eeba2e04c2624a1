"""kill -9 of each part under load, and aimed at each step of an order."""

import asyncio
import contextlib
import logging
import threading
import time

import httpx
import pytest
from harness_proxy import Mode
from harness_shoppers import Buyer, Purchase, Seen, Shoppers

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(420)]

log = logging.getLogger("faults")

WARM_S = 60.0
HEAL_RAY_S = 240.0  # Ray and all of Serve start anew on two cores


VICTIMS = {
    # Orders run where requests land (ADR 0008): the busy replica is their host as well.
    "the busy ingress replica": lambda stand: stand.ingress_by_load()[0],
    "the standby ingress replica": lambda stand: stand.ingress_by_load()[-1],
    "background work": lambda stand: stand.replicas("Background")[0],
    "the signer": lambda stand: stand.replicas("Signer")[0],
    "Finance": lambda stand: stand.part("finance"),
    "Postgres": lambda stand: stand.part("postgres"),
    "the Stripe simulator": lambda stand: stand.part("stripe"),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_orders_go_on_after_a_part_is_killed(stand, victim):
    with Shoppers(stand) as shoppers:
        shoppers.wait_for_deliveries(10, WARM_S)
        killed_at = stand.kill(VICTIMS[victim](stand))
        first_s = shoppers.wait_for_deliveries(1, 60)
        healed_s = stand.heal()
        shoppers.wait_for_deliveries(10, 30)
        seen = shoppers.stop()
    stand.judge(seen)
    seen.tell(f"kill -9 of {victim}", next_delivery=first_s, whole=healed_s)
    assert seen.slowest_s(killed_at) < 60


@pytest.mark.parametrize("program", ["gcs_server", "raylet"])
def test_the_launcher_starts_ray_again_and_nothing_is_lost(stand, program):
    with Shoppers(stand) as shoppers:
        shoppers.wait_for_deliveries(10, WARM_S)
        stand.kill(stand.ray_process(program))
        time.sleep(2)  # not for healing: the launcher must have noticed before `heal` looks
        healed_s = stand.heal(HEAL_RAY_S)
        shoppers.wait_for_deliveries(10, WARM_S)
        seen = shoppers.stop()
    stand.judge(seen)
    seen.tell(f"kill -9 of {program}", whole=healed_s)


def test_selling_does_not_need_s3_and_files_are_there_when_it_is_back(stand):
    with Shoppers(stand) as shoppers:
        shoppers.wait_for_deliveries(5, WARM_S)
        with stand.stopped(stand.part("seaweedfs")):  # longer than a restart would take
            shoppers.wait_for_deliveries(10, 30)
        stand.kill(stand.part("seaweedfs"))
        shoppers.wait_for_deliveries(10, 30)
        stand.heal()
        seen = shoppers.stop()
    stand.judge(seen)
    purchase = seen.delivered()[-1]
    with stand.http(token=purchase.token) as client:
        deadline = time.monotonic() + 30
        while (answer := client.get(f"/v1/orders/{purchase.order_id}/deliveries")).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.5)
        (delivery,) = answer.json()["items"]
        url, status = delivery["payload"]["url"], 0
        while status != 200:
            assert time.monotonic() < deadline, "the payload cannot be fetched"
            with contextlib.suppress(httpx.ConnectError):  # S3 is being started again
                status = client.get(url, headers={"Authorization": ""}).status_code
            time.sleep(0.2)


# -- aimed: all orders stand at one step when their host dies -------------------------------------------

IN_FLIGHT = 200
WITHIN_S = 10.0  # of the replacement


def placed_and_paid(stand, count):
    """Orders that are paid at Stripe, placed by a few buyers at once."""
    seen, wish, tokens = Seen(), stand.wish(), stand.buyer_tokens(8)

    async def one_buyer(number, token):
        buyer = Buyer(
            stand.local["base_url"], stand.local["stripe"]["api_base"], token, seen, threading.Event()
        )
        for index in range(number, count, len(tokens)):
            purchase = Purchase(f"aimed-{token[-8:]}-{index}", token)
            seen.purchases.append(purchase)
            order = await buyer.place(purchase, wish)
            assert await buyer.pay(purchase, order)
        buyer.close()

    async def all_buyers():
        await asyncio.gather(*(one_buyer(number, token) for number, token in enumerate(tokens)))

    asyncio.run(all_buyers())
    return seen


def wait_for_status(stand, seen, statuses, within_s=60.0):
    """Wait until all of the buyers' orders have one of these statuses in Postgres."""
    wanted = {one.order_id for one in seen.purchases}
    deadline = time.monotonic() + within_s
    while True:
        found = stand.statuses(wanted)
        if set(found.values()) <= statuses:
            return
        assert time.monotonic() < deadline, sorted(found.values())
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("held", "statuses"),
    [("finance", {"paid"}), ("signer", {"paid", "booked"})],
)
def test_orders_that_stand_at_one_step_when_their_host_dies_are_delivered(stand, held, statuses):
    part = stand.part("finance") if held == "finance" else stand.replicas("Signer")[0]
    with stand.stopped(part):
        seen = placed_and_paid(stand, IN_FLIGHT)
        wait_for_status(stand, seen, statuses)
        stand.kill(stand.order_hosts()[0])
    resumed = time.monotonic()
    stand.heal()
    replaced = time.monotonic()
    stand.judge(seen, within_s=WITHIN_S if held == "finance" else 60)
    log.info(
        "%d orders at %s: host replaced after %.1f s, all delivered %.1f s later",
        IN_FLIGHT,
        sorted(statuses),
        replaced - resumed,
        max(one.delivered_at for one in seen.purchases) - replaced,
    )


def test_payments_that_were_being_opened_when_their_host_died_are_opened(stand):
    """Stripe is silent, so orders stand at ``screened``; repeating the request finds the same orders."""
    stand.proxies["stripe"].set(Mode.SILENT)
    try:
        with Shoppers(stand) as shoppers:
            deadline = time.monotonic() + 60
            while not any(one.order_id for one in shoppers.seen.purchases):
                assert time.monotonic() < deadline, "no order is acknowledged while Stripe is silent"
                time.sleep(0.2)
            stand.kill(stand.order_hosts()[0])
            stand.proxies["stripe"].set(Mode.PASS)
            shoppers.wait_for_deliveries(10, 90)
            stand.heal()
            seen = shoppers.stop()
    finally:
        stand.proxies["stripe"].set(Mode.PASS)
    stand.judge(seen)
    seen.tell("Stripe silent, host killed")
