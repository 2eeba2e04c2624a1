"""Finance as a process: ``python -m cluster.finance``, configured by the environment alone.

``FINANCE_DSN`` is required. Callers are told by ``FINANCE_TOKEN`` (the plain local mode, every role), by
client certificates (``FINANCE_TLS_CERTIFICATE``, ``FINANCE_TLS_KEY``, ``FINANCE_TLS_CLIENT_CA`` and
``FINANCE_IDENTITIES``, such as ``spiffe://marketplace/ingress=poster;spiffe://acme/audit=reader``), or by
both while callers move from one to the other; with neither it does not start. ``FINANCE_HOST`` (127.0.0.1),
``FINANCE_PORT`` (8600) and ``FINANCE_POOL_MAX`` (4) have defaults. Starts without its database and reports
readiness by ``/readyz``. SIGTERM drains: no new connections, running requests are answered, exit status 0.
Refuses to start (status 2, one line, no value shown) on missing or nonsensical settings.
"""

import os
import re
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.finance_tls import ServerTls, ServerTlsFiles
from cluster.listening import Bounds, listen, log_to_stderr
from serve_app.finance.access import Role
from serve_app.finance.app import POOL_MAX_DEFAULT, FinanceServiceSettings, build_app

HOST_DEFAULT = "127.0.0.1"  # listening wider is a decision that the operator has to write down
PORT_DEFAULT = 8600
TOKEN_CHARS_MIN = 16  # below that a token is a word, not a secret
POOL_MAX_HIGHEST = 64
DRAIN_TIMEOUT_S = 10  # two request deadlines
KEEP_ALIVE_TIMEOUT_S = 75  # longer than clients keep idle connections, so that they close first
CONNECTIONS_MAX = 2_048
BACKLOG = 512
IDENTITIES_MAX = 100  # services that call Finance; a longer list is a mistake
_IDENTITY = re.compile(r"[a-z][a-z0-9+.-]*://[!-~]{1,200}")
_TLS_FILES = ("FINANCE_TLS_CERTIFICATE", "FINANCE_TLS_KEY", "FINANCE_TLS_CLIENT_CA")


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Where to listen and what to serve; ``tls`` None: plain HTTP, for loopback."""

    host: str
    port: int
    service: FinanceServiceSettings
    tls: ServerTlsFiles | None = None


def read_settings(environ: Mapping[str, str]) -> ProcessSettings:
    """Read the process's settings.

    Raises:
        ValueError: naming the variable and what it should hold, never what it holds.
    """
    if not environ.get("FINANCE_DSN"):
        raise ValueError("FINANCE_DSN is not set; Finance needs a database")
    tls, identities = _tls(environ), _identities(environ)
    if bool(identities) != bool(tls and tls.client_ca):
        raise ValueError("FINANCE_IDENTITIES and FINANCE_TLS_CLIENT_CA need each other")
    return ProcessSettings(
        host=environ.get("FINANCE_HOST") or HOST_DEFAULT,
        port=_number(environ, "FINANCE_PORT", PORT_DEFAULT, 65_535),
        service=FinanceServiceSettings(
            dsn=environ["FINANCE_DSN"],
            token=_token(environ, needed=not identities),
            identities=identities,
            pool_max=_number(environ, "FINANCE_POOL_MAX", POOL_MAX_DEFAULT, POOL_MAX_HIGHEST),
        ),
        tls=tls,
    )


def _token(environ: Mapping[str, str], *, needed: bool) -> str | None:
    token = environ.get("FINANCE_TOKEN")
    if not token:
        if needed:
            raise ValueError("FINANCE_TOKEN is not set; Finance needs it, or client certificates")
        return None
    if len(token) < TOKEN_CHARS_MIN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"FINANCE_TOKEN needs {TOKEN_CHARS_MIN} or more printable characters, no spaces")
    return token


def _tls(environ: Mapping[str, str]) -> ServerTlsFiles | None:
    paths = [Path(environ[name]) if environ.get(name) else None for name in _TLS_FILES]
    certificate, key, client_ca = paths
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise ValueError("TLS needs FINANCE_TLS_CERTIFICATE and FINANCE_TLS_KEY")
    for name, path in zip(_TLS_FILES, paths, strict=True):
        if path is not None and not path.is_file():
            raise ValueError(f"{name} must name a file that exists")
    return ServerTlsFiles(certificate, key, client_ca)


def _identities(environ: Mapping[str, str]) -> dict[str, frozenset[Role]]:
    identities: dict[str, frozenset[Role]] = {}
    for one in filter(None, environ.get("FINANCE_IDENTITIES", "").split(";")):
        uri, _, roles = one.strip().rpartition("=")
        names = roles.split(",")
        if not _IDENTITY.fullmatch(uri) or not all(name in list(Role) for name in names) or uri in identities:
            raise ValueError(
                f"FINANCE_IDENTITIES must be uri=role,role;uri=role with roles of {', '.join(Role)}"
            )
        identities[uri] = frozenset(Role(name) for name in names)
    if len(identities) > IDENTITIES_MAX:
        raise ValueError(f"FINANCE_IDENTITIES must name at most {IDENTITIES_MAX} identities")
    return identities


def _number(environ: Mapping[str, str], name: str, default: int, highest: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdigit() or not 1 <= int(text) <= highest:
        raise ValueError(f"{name} must be a number from 1 to {highest}")
    return int(text)


def serve(settings: ProcessSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    log_to_stderr()
    listen(
        build_app(settings.service),
        settings.host,
        settings.port,
        None if settings.tls is None else ServerTls(settings.tls),
        Bounds(
            connections_max=CONNECTIONS_MAX,
            backlog=BACKLOG,
            keep_alive_timeout_s=KEEP_ALIVE_TIMEOUT_S,
            drain_timeout_s=DRAIN_TIMEOUT_S,
        ),
        lifespan=True,
    )


def main() -> None:
    """Run Finance."""
    try:
        settings = read_settings(os.environ)
    except ValueError as refused:
        print(f"finance: {refused}", file=sys.stderr)
        sys.exit(2)
    try:
        serve(settings)
    except ssl.SSLError as refused:
        print(f"finance: the TLS files cannot be used: {refused.reason or refused}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
