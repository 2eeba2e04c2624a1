"""The simulator as a process: ``python -m cluster.local.stripe --port P --data-dir DIR``.

Secrets come from the environment (see ``settings``). It listens on ``--host`` only. SIGTERM and SIGINT
end it with everything committed, exit status 0. Refuses to start (status 2, one line, no value shown) on
settings or data that it cannot use. There is no access log: requests may hold card numbers.
"""

import gc
import logging
import os
import signal
import sys

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cluster.local.stripe.app import StripeApp
from cluster.local.stripe.exchange import ABORT
from cluster.local.stripe.schema import UnusableDataError
from cluster.local.stripe.settings import Settings, read_settings

DRAIN_TIMEOUT_S = 5  # requests take milliseconds, unless a fault delays them
KEEP_ALIVE_TIMEOUT_S = 75  # longer than clients keep idle connections, so that they close first
CONNECTIONS_MAX = 2_048
BACKLOG = 512
GC_THRESHOLDS = (50_000, 20, 50)  # requests die by reference count; the default walks them hundreds of times


class AbortableProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests can be left without an answer, which ASGI alone cannot say."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["state"][ABORT] = self.transport.abort


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        UnusableDataError: the data directory holds something else.
        OSError: the data directory cannot be written.
    """
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    gc.set_threshold(*GC_THRESHOLDS)
    server = uvicorn.Server(
        uvicorn.Config(
            StripeApp(settings),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http=AbortableProtocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_TIMEOUT_S,
            timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
        )
    )

    def stop(_number: int, _frame: object) -> None:
        server.should_exit = True

    # uvicorn's own handlers are active while it serves; these see a signal before that, and the one that
    # uvicorn repeats to itself once it has drained: a clean stop is not a death by signal.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run()
    if not server.started:
        sys.exit(1)


def main() -> None:
    """Run the simulator."""
    try:
        serve(read_settings(sys.argv[1:], os.environ))
    except (ValueError, UnusableDataError, OSError) as refused:
        print(f"stripe simulator: {refused}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
