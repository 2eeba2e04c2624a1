"""The composition root of the serving side: ``python -m cluster.serving``.

Reads the environment once (``MARKETPLACE_SETTINGS``, the path of the settings file), deploys the application
on the Ray cluster that the settings name, and stays in the foreground until SIGTERM or SIGINT, when it takes
Serve down again.
Exit status 0 after a clean stop, 1 when the application could not be deployed, 2 for wrong settings.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import ApplicationStatus

from cluster.local.services import SERVING_WORDS
from deployments.logs import configure_logging
from deployments.settings import Settings, load_settings
from serve_app.serving import build_application
from storage.market.access import Principal, register_access_tokens
from storage.signing.backends import FILE, parse_address
from storage.signing.devfile import DevelopmentKeyFile

log = logging.getLogger("marketplace.serving")

APPLICATION = "marketplace"
CONNECT_DEADLINE_S = 150.0  # over all attempts; ray.init itself waits some 30 s each time
JOINING_SINCE = "MARKETPLACE_JOINING_SINCE"  # how a process that began anew knows when it first tried
CONNECT_PAUSE_S = 1.0
WATCH_INTERVAL_S = 5.0  # how often a failed deployment is looked for
STATUS_FAILED = frozenset({ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY})


def deploy(settings: Settings) -> None:
    """Connect to Ray and (re)deploy the application; returns once all of it serves."""
    for backend in map(parse_address, settings.signing_backends):
        if backend.scheme == FILE:
            DevelopmentKeyFile.load_or_create(Path(backend.place))
    register_access_tokens(
        settings.postgres_dsn,
        [(bytes.fromhex(one.sha256), Principal(one.role, one.principal_id)) for one in settings.tokens],
    )
    _connect(settings)
    serve.start(http_options={"host": settings.http.host, "port": settings.http.port})
    # One replica of each serves first; the others join while requests are already answered. Starting
    # all at once would keep everybody waiting for the last of them.
    for single in (True, False):
        serve.run(build_application(settings, single=single), name=APPLICATION, route_prefix="/")


def _connect(settings: Settings) -> None:
    """Join the cluster; on a loaded machine its node registers long after its ports answer, or starts again.

    A process that has seen a cluster does not join its successor, whatever Ray calls that failure: after each
    one we begin anew, as the same process.

    Raises:
        ConnectionError, RuntimeError, RayError: the last failure, after ``CONNECT_DEADLINE_S``.
    """
    since_s = float(os.environ.get(JOINING_SINCE) or time.monotonic())
    try:
        ray.init(
            address=settings.ray_address,
            namespace=settings.ray_namespace,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, RayError) as error:
        if time.monotonic() - since_s > CONNECT_DEADLINE_S:
            raise
        log.warning("Ray at %s cannot be joined yet: %s", settings.ray_address, error)
        time.sleep(CONNECT_PAUSE_S)
        os.environ[JOINING_SINCE] = str(since_s)
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - our own command line
    os.environ.pop(JOINING_SINCE, None)


def watch(stop: threading.Event) -> None:
    """Stay until ``stop`` is set, and say so when the application turns unhealthy (Serve mends it)."""
    reported = ""
    while not stop.wait(WATCH_INTERVAL_S):
        application = serve.status().applications.get(APPLICATION)
        state = application.status if application else ApplicationStatus.NOT_STARTED
        if state in STATUS_FAILED and state != reported:
            log.error("application is %s: %s", state, application.message if application else "missing")
        reported = state


def _listen(stop: threading.Event) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())


def main() -> int:
    """Run until told to stop; see the module for exit statuses."""
    path = os.environ.get("MARKETPLACE_SETTINGS")
    if not path:
        print("MARKETPLACE_SETTINGS must name the settings file; `make up` sets it.", file=sys.stderr)
        return 2
    try:
        settings = load_settings(Path(path))
    except (OSError, ValueError) as error:
        print(f"The settings cannot be read: {error}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level)
    stop = threading.Event()
    _listen(stop)
    try:
        deploy(settings)
    except Exception:
        log.exception("the application could not be deployed")
        return 1
    _listen(stop)  # again: connecting to Ray puts its own handlers in place
    log.info("%s %s", SERVING_WORDS, settings.http.base_url)
    watch(stop)
    with contextlib.suppress(Exception):
        # Replicas finish what runs and let go; the rest of Serve keeps nothing and ends with Ray.
        serve.delete(APPLICATION)
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
