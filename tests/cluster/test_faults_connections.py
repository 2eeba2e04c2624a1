"""Connections lost in mid-flight, replies lost after the work was done, and a database that is away."""

import time

import pytest
from harness_proxy import Mode
from harness_shoppers import Shoppers

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(420)]

WARM_S = 60.0
FAULT_S = 15.0
DOWN_S = 60.0


def test_every_session_is_ended_again_and_again(stand):
    """Some end inside a commit, whose outcome nobody hears."""
    with Shoppers(stand) as shoppers:
        shoppers.wait_for_deliveries(10, WARM_S)
        ended, until = 0, time.monotonic() + FAULT_S
        while time.monotonic() < until:
            ended += stand.terminate_connections()
            time.sleep(0.1)  # the fault's own rhythm
        shoppers.wait_for_deliveries(20, 60)
        seen = shoppers.stop()
    stand.judge(seen)
    assert ended > 50
    seen.tell("pg_terminate_backend", sessions=ended)


@pytest.mark.parametrize(("server", "every"), [("postgres", 25), ("finance", 3), ("stripe", 3)])
def test_replies_are_lost_after_the_work_was_done(stand, server, every):
    proxy = stand.proxies[server]
    before = proxy.lost
    with Shoppers(stand) as shoppers:
        shoppers.wait_for_deliveries(10, WARM_S)
        proxy.set(Mode.LOSE_REPLIES, every)
        time.sleep(FAULT_S)  # the fault itself
        proxy.set(Mode.PASS)
        shoppers.wait_for_deliveries(20, 90)
        seen = shoppers.stop()
    stand.judge(seen, within_s=90)
    assert proxy.lost > before + 5
    seen.tell(f"replies of {server} lost", lost=proxy.lost - before)


@pytest.mark.parametrize("server", ["postgres", "finance", "stripe"])
def test_connections_are_cut_in_mid_flight(stand, server):
    with Shoppers(stand) as shoppers:
        shoppers.wait_for_deliveries(10, WARM_S)
        cut, until = 0, time.monotonic() + FAULT_S
        while time.monotonic() < until:
            cut += stand.proxies[server].cut()
            time.sleep(0.2)  # the fault's own rhythm
        shoppers.wait_for_deliveries(20, 90)
        seen = shoppers.stop()
    stand.judge(seen, within_s=90)
    assert cut > 5
    seen.tell(f"connections to {server} cut", cut=cut)


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.SILENT])
def test_postgres_is_away_for_a_minute(stand, mode):
    """Buyers are told to come back (503 with Retry-After), nothing is lost, and it recovers by itself."""
    proxy = stand.proxies["postgres"]
    (token,) = stand.buyer_tokens(1)
    wish = stand.wish()
    with Shoppers(stand) as shoppers, stand.http(token=token) as client:

        def place(key):
            return client.post("/v1/orders", json=wish, headers={"Idempotency-Key": key})

        assert place("before").status_code == 201  # so that the token is known to the replicas
        shoppers.wait_for_deliveries(10, WARM_S)
        proxy.set(mode)
        until, refused = time.monotonic() + DOWN_S, []
        while time.monotonic() < until:
            answer = place(f"during-{len(refused)}")
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            refused.append(answer.elapsed.total_seconds())
        proxy.set(Mode.PASS)
        first_s = shoppers.wait_for_deliveries(1, 60)
        shoppers.wait_for_deliveries(20, 60)
        healed_s = stand.heal()
        orders = [place(f"during-{number}") for number in range(len(refused))]
        assert {answer.status_code for answer in orders} == {201}, "the same keys are good afterwards"
        assert len({answer.json()["id"] for answer in orders}) == len(orders)
        seen = shoppers.stop()
    stand.judge(seen, within_s=120)
    seen.tell(
        f"Postgres away ({mode.value})",
        next_delivery=first_s,
        whole=healed_s,
        refused=len(refused),
        slowest_refusal=max(refused),
    )
