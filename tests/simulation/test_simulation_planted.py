"""The simulation finds what it is for: each planted bug breaks a seed, and none without it."""

from itertools import chain

import pytest

from cluster.simulation.world import simulate
from tests.simulation import (  # noqa: F401 - they fill PLANTED
    planted_hosts,
    planted_payments,
    planted_returns,
    planted_stores,
    planted_terms,
)
from tests.simulation.planting import PLANTED

SEEDS = 200  # as many as the unmutated product passes in test_simulation_seeds.py


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name, monkeypatch):
    planted = PLANTED[name]
    planted.plant(monkeypatch)
    # Where it is known to show comes first, so that the suite is fast; any of the seeds will do.
    for seed in chain(range(planted.shows_at, SEEDS), range(planted.shows_at)):
        if simulate(seed).violations:
            return
    pytest.fail(f"{name} went unnoticed in {SEEDS} seeds")


def test_there_are_many_different_bugs():
    assert len(PLANTED) >= 35
