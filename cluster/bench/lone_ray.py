"""A Ray of its own on loopback, for a benchmark that runs as a child: with a token and without a dashboard.

Everything that it starts ends with it.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.local.layout import make_temporary, remove_tree, write_private

OBJECT_STORE_BYTES = 100 * 1024 * 1024


@contextmanager
def running(cpus: int) -> Iterator[Any]:
    """Start Ray with ``cpus`` and give its module; imports it here, once per process."""
    temporary = make_temporary()
    token_file = temporary / "ray-token"
    write_private(token_file, secrets.token_hex(32))
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token_file),
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # keeps 127.0.0.1 as the node's address
        RAY_USAGE_STATS_ENABLED="0",
        RAY_worker_niceness="0",
    )
    import ray  # noqa: PLC0415 - reads the environment above when it is imported

    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(temporary / "ray"),
        )
        yield ray
    finally:
        ray.shutdown()
        remove_tree(temporary)
