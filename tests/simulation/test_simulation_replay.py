"""A seed replays byte by byte: in the same process, in another one, under another hash seed."""

import os
import subprocess
import sys
from pathlib import Path

from cluster.simulation.world import simulate

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (3, 8)
PRINT = (
    f"from cluster.simulation.world import simulate; print([simulate(s).timeline.digest() for s in {SEEDS}])"
)


def test_the_same_seed_gives_the_same_timeline():
    first, second = simulate(3), simulate(3)
    assert first.timeline.all() == second.timeline.all()
    assert first.coverage == second.coverage
    assert len(first.timeline.entries) > 250
    assert simulate(4).timeline.digest() != first.timeline.digest()


def test_hash_seeds_and_earlier_seeds_do_not_matter():
    here = str([simulate(seed).timeline.digest() for seed in SEEDS])
    for hash_seed in ("1", "2"):
        printed = subprocess.run(
            [sys.executable, "-c", PRINT],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.strip() == here
