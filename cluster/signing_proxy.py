"""The signing proxy as a process: ``python -m cluster.signing_proxy``, configured by the environment alone.

``SIGNING_BACKEND`` is the backend's address (``storage.signing.backends``). ``SIGNING_TLS_CERTIFICATE``,
``SIGNING_TLS_KEY`` and ``SIGNING_TLS_CLIENT_CA`` are PEM files. ``SIGNING_IDENTITIES`` names callers: URI
names of client certificates, apart by ``;``. ``SIGNING_HOST`` (127.0.0.1) and ``SIGNING_PORT`` (8700) have
defaults. It runs where Ray does not, as another user, and is the only process with the backend's credentials.
Refuses to start (status 2, one line) on missing settings, and (status 1) when the backend does not prove
itself.
"""

import logging
import os
import signal
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from actors.signer.rehearsal import rehearse
from cluster.finance import JsonFormatter
from cluster.finance_tls import PeerProtocol, ServerTls, ServerTlsFiles
from domain.errors import MarketplaceError
from serve_app.signing.proxy import SigningProxySettings, build_app
from storage.signing.backends import open_backend

HOST_DEFAULT = "127.0.0.1"  # listening wider is a decision that the operator has to write down
PORT_DEFAULT = 8700
PORT_MAX = 65_535
IDENTITIES_MAX = 16  # one signer, and a second during a move
CONNECTIONS_MAX = 64
DRAIN_TIMEOUT_S = 5  # longer than a backend's deadline
_TLS_FILES = ("SIGNING_TLS_CERTIFICATE", "SIGNING_TLS_KEY", "SIGNING_TLS_CLIENT_CA")


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """Where to listen, for whom, and in front of what."""

    host: str
    port: int
    backend: str
    tls: ServerTlsFiles
    service: SigningProxySettings


def read_settings(environ: Mapping[str, str]) -> ProxySettings:
    """Read the process's settings.

    Raises:
        ValueError: naming the variable and what it should hold, never what it holds.
    """
    for name in ("SIGNING_BACKEND", "SIGNING_IDENTITIES", *_TLS_FILES):
        if not environ.get(name):
            raise ValueError(f"{name} is not set")
    certificate, key, client_ca = (Path(environ[name]) for name in _TLS_FILES)
    for name, path in zip(_TLS_FILES, (certificate, key, client_ca), strict=True):
        if not path.is_file():
            raise ValueError(f"{name} must name a file that exists")
    identities = frozenset(one.strip() for one in environ["SIGNING_IDENTITIES"].split(";") if one.strip())
    if not 1 <= len(identities) <= IDENTITIES_MAX or not all("://" in one for one in identities):
        raise ValueError(f"SIGNING_IDENTITIES must be 1 to {IDENTITIES_MAX} URIs, apart by ;")
    port = environ.get("SIGNING_PORT") or str(PORT_DEFAULT)
    if not port.isdigit() or not 1 <= int(port) <= PORT_MAX:
        raise ValueError(f"SIGNING_PORT must be a number from 1 to {PORT_MAX}")
    return ProxySettings(
        environ.get("SIGNING_HOST") or HOST_DEFAULT,
        int(port),
        environ["SIGNING_BACKEND"],
        ServerTlsFiles(certificate, key, client_ca),
        SigningProxySettings(identities),
    )


def serve(settings: ProxySettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    keys = open_backend(settings.backend)
    rehearse(keys, keys.public_key)
    tls = ServerTls(settings.tls)
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(keys, settings.service),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http=PeerProtocol,
            ssl_context_factory=lambda _config, _default: tls.listening_context(),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
        )
    )

    def stop(_number: int, _frame: object) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run()
    keys.close()
    if not server.started:
        sys.exit(1)


def main() -> None:
    """Run the proxy."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("marketplace.signing_proxy").setLevel(logging.INFO)  # who had how much signed
    try:
        settings = read_settings(os.environ)
    except ValueError as refused:
        print(f"signing proxy: {refused}", file=sys.stderr)
        sys.exit(2)
    try:
        serve(settings)
    except ssl.SSLError as refused:
        print(f"signing proxy: the TLS files cannot be used: {refused.reason or refused}", file=sys.stderr)
        sys.exit(2)
    except MarketplaceError as refused:
        print(f"signing proxy: the backend does not prove itself: {refused}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
