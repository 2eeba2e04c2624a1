"""``bench grains``: how many live orders fit in a gibibyte as grains, and how many as Ray actors.

Each measurement runs in a child process of its own, so that none inherits another's memory. The grains'
weighing, by which a host bounds its memory, is checked against what was measured. Measures, never judges.
"""

from collections.abc import Callable
from typing import Any

from actors.grains.runtime import GRAIN_BYTES, GrainLimits
from actors.orders.host import LINE_BYTES, STATE_BYTES
from cluster.bench import report
from cluster.bench.children import run_child

GRAINS = 100_000
GRAINS_MAX = 1_000_000  # 3 to 4 GB
SAMPLE_GRAINS = 20_000  # for the variants that only yield bytes per grain
ACTORS = 10
WIDE_LINES = 5
GIBI = 2**30
Note = Callable[[str], None]


def run(grains: int, actors: int, note: Note) -> dict[str, Any]:
    """Measure ``grains`` live grains and ``actors`` actors (0: leave the comparison out); returns the report.

    Raises:
        ClientError: ``measurement_failed``, with the child's last words.
    """
    note(f"{grains:,} orders that wait for payment, as grains of one process")
    main = _grains(grains, 1, "awaiting_payment")
    note(f"  {main['bytes_per_grain']:,} bytes each, {main['added_mb']:,} MB added")
    variants = {
        "without_state": _grains(SAMPLE_GRAINS, 1, "absent"),
        "five_lines": _grains(SAMPLE_GRAINS, WIDE_LINES, "awaiting_payment"),
        "delivered": _grains(SAMPLE_GRAINS, 1, "delivered"),
        "delivered_five_lines": _grains(SAMPLE_GRAINS, WIDE_LINES, "delivered"),
    }
    result = {
        "bench": "grains",
        "workload": {"what": "live orders of one line that wait for payment, decoded from their own rows"},
        "per_s": main["commands_per_s"],
        "grains": main,
        "variants": variants,
        "weighing": weighing(main, variants),
        "orders_per_gib": round(GIBI / main["bytes_per_grain"]),
        "held_by_default_limits": GrainLimits().bytes_max // max(1, main["weighed_bytes_per_grain"]),
        "machine": report.machine(),
    }
    if actors:
        note(f"{actors} orders as one Ray actor each")
        baseline = run_child("cluster.bench.actor_memory", "--actors", str(actors))
        baseline["orders_per_gib"] = round(GIBI / baseline["uss_bytes_per_actor"], 1)
        result["baseline"] = {"what": "one Ray actor per order", **baseline}
        result["orders_per_gib_ratio"] = round(baseline["uss_bytes_per_actor"] / main["bytes_per_grain"], 1)
    return result


def weighing(main: dict[str, Any], variants: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare the host's estimate with what was measured, and say which constants would fit.

    The heavier stage of an order decides, because a bound that is exceeded is worse than one not reached.
    """
    grain = variants["without_state"]["bytes_per_grain"]
    narrow = max(main["bytes_per_grain"], variants["delivered"]["bytes_per_grain"])
    wide = max(variants["five_lines"]["bytes_per_grain"], variants["delivered_five_lines"]["bytes_per_grain"])
    line = max(0.0, (wide - narrow) / (WIDE_LINES - 1))
    return {
        "error": round(main["weighed_bytes_per_grain"] / main["bytes_per_grain"] - 1, 3),
        "now": {"GRAIN_BYTES": GRAIN_BYTES, "STATE_BYTES": STATE_BYTES, "LINE_BYTES": LINE_BYTES},
        "measured": {
            "GRAIN_BYTES": _upwards(grain),
            "STATE_BYTES": _upwards(narrow - grain - line),
            "LINE_BYTES": _upwards(line),
        },
    }


def _upwards(measured: float) -> int:
    """Round up to the next fifty bytes: an estimate may be a little high."""
    return -int(-measured // 50) * 50


def _grains(grains: int, lines: int, stage: str) -> dict[str, Any]:
    return run_child(
        "cluster.bench.grain_memory",
        *("--grains", str(grains), "--lines", str(lines), "--stage", stage),
    )
