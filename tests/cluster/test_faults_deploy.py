"""Deploying under load, and two Ray clusters that serve the same database at once."""

import time

import harness
import pytest
from harness_shoppers import Shoppers

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(600)]

WARM_S = 60.0
ROLLED_WITHIN_S = 240.0  # each replica is a new process, one after another


def test_a_rolling_update_fails_no_order(stand):
    before = {one for found in stand.all_replicas().values() for one in found}
    with Shoppers(stand) as shoppers:
        shoppers.wait_for_deliveries(10, WARM_S)
        began = time.monotonic()
        update = stand.redeploy(log_level="DEBUG")
        deadline = began + ROLLED_WITHIN_S
        while update.poll() is None:
            assert time.monotonic() < deadline, "the update does not end"
            time.sleep(0.5)
        assert update.returncode == 0, (stand.stack.layout.log / "redeploy.log").read_text()[-2000:]
        stand.heal()
        took_s = time.monotonic() - began
        shoppers.wait_for_deliveries(10, 30)
        seen = shoppers.stop()
    assert not before & {one for found in stand.all_replicas().values() for one in found}
    stand.judge(seen)
    seen.tell("a rolling update", took=took_s)
    refused = {status for status in seen.statuses if not status.startswith("201")}
    assert not refused, "a buyer was refused during the update"
    assert not seen.lost, "a buyer was left without an answer during the update"


def test_two_clusters_on_one_database_sell_each_order_once(stand):
    second = harness.SecondStack(harness.new_home(), stand)
    with harness.running(second):
        origins = [stand.local["base_url"], second.local["base_url"]]
        with Shoppers(stand, 8, origins=origins) as shoppers:
            shoppers.wait_for_deliveries(40, 120)
            # The second one dies with orders under way; the first finishes them.
            for process in harness.order_hosts_of(second):
                stand.kill(process)
            shoppers.wait_for_deliveries(5, 60)
            seen = shoppers.stop()
    stand.judge(seen, within_s=60)
    seen.tell("two clusters, one dies")
