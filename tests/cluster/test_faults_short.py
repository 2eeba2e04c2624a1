"""The faults that every change must survive: a host and then Postgres killed under load, in one go."""

import time

import pytest
from harness_shoppers import Shoppers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

FIRST_S = 60.0  # a fresh stack still starts replicas while it answers
GOES_ON_S = 20.0  # one replica of two is left; Postgres recovers within a second or two


def test_buyers_do_not_notice_that_a_host_and_postgres_die(stand):
    with Shoppers(stand) as shoppers:
        shoppers.wait_for_deliveries(10, FIRST_S)
        stand.kill(stand.order_hosts()[0])
        shoppers.wait_for_deliveries(10, GOES_ON_S)
        killed_at = stand.kill(stand.part("postgres"))
        shoppers.wait_for_deliveries(10, GOES_ON_S)
        recovered_s = time.monotonic() - killed_at
        healed_s = stand.heal()
        seen = shoppers.stop()
    report = stand.judge(seen)
    assert report.orders >= 30
    assert any(one.events for one in seen.purchases), "nobody followed a stream"
    seen.tell("host and Postgres killed", recovered=recovered_s, whole=healed_s)
