"""Logs of every process: one JSON object a line, secrets removed by name before they are written."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

REDACTED = "[redacted]"
_SECRET_NAMES = ("authorization", "client_secret", "secret", "token", "password", "identity", "dsn")


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: blank the values of fields whose names say that they are secret."""
    for name in event:
        if any(secret in name.lower() for secret in _SECRET_NAMES):
            event[name] = REDACTED
    return event


def configure_logging(level: str, file: str | None = None) -> None:
    """Send this process's ``marketplace`` loggers to stderr, or to ``file``, as JSON lines.

    Several processes may share ``file``: each line is one append. Safe to call twice.
    """
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    # The real stderr: Serve replaces `sys.stderr` by a logger of its own that holds lines back.
    handler = logging.FileHandler(file, delay=True) if file else logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(formatter)
    root = logging.getLogger("marketplace")
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
