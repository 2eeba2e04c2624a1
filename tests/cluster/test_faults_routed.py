"""Orders in hosts of their own, behind the consistent-hash router (ADR 0008), and one of them dies."""

import time

import harness
import pytest
from harness_shoppers import Shoppers

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(600)]

HOSTS = 2
FIRST_S = 60.0
GOES_ON_S = 30.0


@pytest.fixture(scope="module")
def routed():
    with harness.running(harness.ProxiedStack(harness.new_home(), order_hosts=HOSTS)) as stack:
        yield harness.Stand(stack)


def test_orders_go_on_when_one_of_the_order_hosts_dies(routed):
    hosts = routed.replicas("OrderHost")
    assert len(hosts) == HOSTS
    with Shoppers(routed) as shoppers:
        shoppers.wait_for_deliveries(20, FIRST_S)
        killed_at = routed.kill(hosts[0])
        shoppers.wait_for_deliveries(20, GOES_ON_S)
        goes_on_s = time.monotonic() - killed_at
        healed_s = routed.heal()
        shoppers.wait_for_deliveries(20, GOES_ON_S)
        seen = shoppers.stop()
    assert hosts[0] not in routed.replicas("OrderHost")
    report = routed.judge(seen)
    assert report.orders >= 60
    seen.tell("one of two order hosts killed", recovered=goes_on_s, whole=healed_s)
