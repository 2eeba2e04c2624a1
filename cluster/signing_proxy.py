"""The signing proxy as a process: ``python -m cluster.signing_proxy``, configured by the environment alone.

``SIGNING_BACKEND`` is the backend's address (``storage.signing.backends``). ``SIGNING_TLS_CERTIFICATE``,
``SIGNING_TLS_KEY`` and ``SIGNING_TLS_CLIENT_CA`` are PEM files. ``SIGNING_IDENTITIES`` names callers: URI
names of client certificates, apart by ``;``. ``SIGNING_HOST`` (127.0.0.1) and ``SIGNING_PORT`` (8700) have
defaults. It runs where Ray does not, as another user, and is the only process with the backend's credentials.
A connection without a certificate of the client CA is not taken at all, so that nobody else can use the
proxy's connections up; probe its port, or show a certificate to ``/livez``.
Refuses to start (status 2, one line) on missing settings, and (status 1) when the backend does not prove
itself.
"""

import logging
import os
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.signer.rehearsal import rehearse
from cluster.finance_tls import ServerTls, ServerTlsFiles
from cluster.listening import Bounds, listen, log_to_stderr
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
    try:
        rehearse(keys, keys.public_key)
        tls = ServerTls(settings.tls, clients_only=True)
        bounds = Bounds(connections_max=CONNECTIONS_MAX, drain_timeout_s=DRAIN_TIMEOUT_S)
        listen(build_app(keys, settings.service), settings.host, settings.port, tls, bounds, lifespan=False)
    finally:
        keys.close()


def main() -> None:
    """Run the proxy."""
    log_to_stderr()
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
