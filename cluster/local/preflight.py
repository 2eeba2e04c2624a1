"""What is checked before anything starts, so that a lacking machine gets one sentence and no debris.

Decides whether this machine and directory can host the parts: Python's version, Linux, programs,
space and write access. Refuses with ``PreflightError``, whose text names the command that helps.
"""

import shutil
import sys

from cluster.local import postgres, ray_head, seaweed
from cluster.local.failures import PreflightError
from cluster.local.layout import Layout

PYTHON_MIN = (3, 11)
FREE_BYTES_MIN = 1024**3  # a fresh Postgres, its WAL and a demo's bundles take some 300 MB


def check(layout: Layout) -> None:
    """Check the machine and make the directories.

    Raises:
        PreflightError: naming what is missing and what to do about it.
    """
    if sys.version_info < PYTHON_MIN:
        running = ".".join(map(str, sys.version_info[:2]))
        raise PreflightError(
            f"Python {running} is too old, 3.11 or newer is needed. "
            "Install one and run `make dev PYTHON=python3.11`."
        )
    if not sys.platform.startswith("linux"):
        raise PreflightError(
            f"The local parts run on Linux only, this is {sys.platform}. Use a Linux machine or container."
        )
    postgres.wheel_programs()
    seaweed.program()
    ray_head.require_ray()
    ray_head.haproxy_program()
    layout.create()
    free = shutil.disk_usage(layout.var).free
    if free < FREE_BYTES_MIN:
        raise PreflightError(
            f"Only {free // 1024**2} MiB are free below {layout.var}, {FREE_BYTES_MIN // 1024**2} MiB are "
            "needed. Free some space, or set MARKETPLACE_HOME to a directory on a larger disk."
        )
