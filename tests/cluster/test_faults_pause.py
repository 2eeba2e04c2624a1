"""SIGSTOP beyond every lease, then SIGCONT: a process that believes that no time has passed."""

import time

import pytest
from harness_shoppers import Shoppers

from actors.orders.sweep import LEASE_S

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(420)]

WARM_S = 60.0
BEYOND_LEASE_S = LEASE_S + 6


def pause_under_load(stand, process, seconds):
    with Shoppers(stand) as shoppers:
        shoppers.wait_for_deliveries(10, WARM_S)
        with stand.stopped(process):
            time.sleep(seconds)  # the fault itself
        shoppers.wait_for_deliveries(20, 60)
        healed_s = stand.heal()
        seen = shoppers.stop()
    stand.judge(seen)
    seen.tell(f"a pause of {seconds} s", whole=healed_s)


def test_a_host_that_wakes_up_after_its_leases_does_no_harm(stand):
    # Serve replaces it after its health checks fail; what it wakes up to finds the fences moved on.
    pause_under_load(stand, stand.order_hosts()[0], BEYOND_LEASE_S)


def test_a_host_that_wakes_up_before_it_is_replaced_does_no_harm(stand):
    pause_under_load(stand, stand.order_hosts()[-1], 6)  # above the head start of a grain, below the probes


def test_postgres_that_stands_still_stops_everything_and_loses_nothing(stand):
    pause_under_load(stand, stand.part("postgres"), BEYOND_LEASE_S)


def test_finance_that_stands_still_delays_and_loses_nothing(stand):
    pause_under_load(stand, stand.part("finance"), BEYOND_LEASE_S)
