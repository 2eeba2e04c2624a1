"""Finance as a process: ``python -m cluster.finance``, configured by the environment alone.

``FINANCE_DSN`` and ``FINANCE_TOKEN`` are required, ``FINANCE_HOST`` (127.0.0.1), ``FINANCE_PORT``
(8600) and ``FINANCE_POOL_MAX`` (4) have defaults. Starts without its database and reports readiness
by ``/readyz``. SIGTERM drains: no new connections, running requests are answered, exit status 0.
Refuses to start (status 2, one line, no value shown) on missing or nonsensical settings.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import uvicorn

from serve_app.finance.app import POOL_MAX_DEFAULT, FinanceServiceSettings, build_app

HOST_DEFAULT = "127.0.0.1"  # listening wider is a decision that the operator has to write down
PORT_DEFAULT = 8600
TOKEN_CHARS_MIN = 16  # below that a token is a word, not a secret
POOL_MAX_HIGHEST = 64
DRAIN_TIMEOUT_S = 10  # two request deadlines
KEEP_ALIVE_TIMEOUT_S = 75  # longer than clients keep idle connections, so that they close first
CONNECTIONS_MAX = 2_048
BACKLOG = 512


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Where to listen and what to serve."""

    host: str
    port: int
    service: FinanceServiceSettings


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


def read_settings(environ: Mapping[str, str]) -> ProcessSettings:
    """Read the process's settings.

    Raises:
        ValueError: naming the variable and what it should hold, never what it holds.
    """
    for name in ("FINANCE_DSN", "FINANCE_TOKEN"):
        if not environ.get(name):
            raise ValueError(f"{name} is not set; Finance needs FINANCE_DSN and FINANCE_TOKEN")
    token = environ["FINANCE_TOKEN"]
    if len(token) < TOKEN_CHARS_MIN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"FINANCE_TOKEN needs {TOKEN_CHARS_MIN} or more printable characters, no spaces")
    return ProcessSettings(
        host=environ.get("FINANCE_HOST") or HOST_DEFAULT,
        port=_number(environ, "FINANCE_PORT", PORT_DEFAULT, 65_535),
        service=FinanceServiceSettings(
            dsn=environ["FINANCE_DSN"],
            token=token,
            pool_max=_number(environ, "FINANCE_POOL_MAX", POOL_MAX_DEFAULT, POOL_MAX_HIGHEST),
        ),
    )


def _number(environ: Mapping[str, str], name: str, default: int, highest: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdigit() or not 1 <= int(text) <= highest:
        raise ValueError(f"{name} must be a number from 1 to {highest}")
    return int(text)


def serve(settings: ProcessSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(settings.service),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
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
    """Run Finance."""
    try:
        settings = read_settings(os.environ)
    except ValueError as refused:
        print(f"finance: {refused}", file=sys.stderr)
        sys.exit(2)
    serve(settings)


if __name__ == "__main__":
    main()
