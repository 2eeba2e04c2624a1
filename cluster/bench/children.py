"""Measurements that run as a process of their own: one JSON object on the last line of their output."""

import json
import os
import subprocess
import sys
from typing import Any

from cluster.client import ClientError

CHILD_TIMEOUT_S = 600.0


def run_child(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module as a child and read the JSON object of its last line.

    Raises:
        ClientError: ``measurement_failed``.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CHILD_TIMEOUT_S,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        words = done.stderr.strip().splitlines()
        raise ClientError(
            f"{module} did not measure: {words[-1] if words else 'it said nothing'}", "measurement_failed"
        )
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures
