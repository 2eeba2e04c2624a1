"""A process that serves HTTP by itself, outside Ray: Finance and the signing proxy.

Settles what both need alike: one JSON line per log record on standard error, uvicorn's bounds, mutual TLS,
and a stop that drains.
"""

import logging
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import uvicorn
from starlette.types import ASGIApp

from cluster.finance_tls import PeerProtocol, ServerTls


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is taken, and for how long."""

    connections_max: int
    drain_timeout_s: int
    backlog: int = 128
    keep_alive_timeout_s: int = 75  # longer than clients keep idle connections, so that they close first


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, option=orjson.OPT_UTC_Z, default=str).decode()


def log_to_stderr() -> None:
    """Log warnings and worse as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def listen(
    app: ASGIApp, host: str, port: int, tls: ServerTls | None, bounds: Bounds, *, lifespan: bool
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; ends the process (status 1) if it could not listen.

    ``lifespan``: the application opens and closes what it holds.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            loop="uvloop",
            http="httptools" if tls is None else PeerProtocol,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls.listening_context(),
            ws="none",
            lifespan="on" if lifespan else "off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=bounds.backlog,
            limit_concurrency=bounds.connections_max,
            timeout_keep_alive=bounds.keep_alive_timeout_s,
            timeout_graceful_shutdown=bounds.drain_timeout_s,
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
