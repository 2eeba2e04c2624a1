"""The product under every listed fault: nothing breaks, and nothing listed is missed."""

import functools
import os

import pytest

from cluster.simulation.faults import never_exercised
from cluster.simulation.runner import Summary, run

SEEDS, CHUNK = 200, 50
FIRST_SEEDS = range(0, SEEDS, CHUNK)


@functools.cache
def chunk(first):
    return run(range(first, first + CHUNK), os.cpu_count() or 1)


@pytest.mark.parametrize("first", FIRST_SEEDS)
def test_no_seed_fails(first):
    summary = chunk(first)
    assert summary.document()["failures"] == []
    assert summary.orders > 5 * CHUNK
    assert summary.virtual_s / 60 > 3 * CHUNK


def test_every_fault_meets_every_call_within_these_seeds():
    coverage = sum((chunk(first).coverage for first in FIRST_SEEDS), Summary().coverage)
    assert never_exercised(coverage) == []
