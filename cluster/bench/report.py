"""Figures of a benchmark: percentiles, and the machine that they were taken on."""

import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile (``share`` in 0..1), None for no values."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def latencies(values_ms: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p95 and p99 in milliseconds."""
    return {
        f"p{round(share * 100)}_ms": None
        if (found := percentile(values_ms, share)) is None
        else round(found, 2)
        for share in (0.5, 0.95, 0.99)
    }


def machine() -> dict[str, Any]:
    """Describe the machine: cores that may be used, model, memory, kernel."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cores": len(os.sched_getaffinity(0)),
        "model": model,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
