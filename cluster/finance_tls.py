"""The server's side of mutual TLS: the listener's certificate, whose clients it trusts, who a client is.

The context is made again for the next connection when a file has changed, so certificates and the client CA
are renewed without a restart. Clients' certificates are verified here, by TLS, when they present one. At
Finance a caller without one reaches only what is open to all (the kubelet's probes have none). Sessions are
not resumed: every connection shows its certificate. TLS 1.3 only.
"""

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve_app.finance.access import PEER, Peer

log = logging.getLogger(__name__)

_URI = "URI"


@dataclass(frozen=True, slots=True)
class ServerTlsFiles:
    """PEM files: the certificate (chain), its key, and the CA of clients (None: they have none)."""

    certificate: Path
    key: Path
    client_ca: Path | None


class ServerTls:
    """Makes the listener's context and keeps it current.

    ``clients_only`` takes no connection without a client's certificate.
    """

    def __init__(self, files: ServerTlsFiles, *, clients_only: bool = False) -> None:
        self._files = files
        self._verify_mode = ssl.CERT_REQUIRED if clients_only else ssl.CERT_OPTIONAL
        self._stamp = self._read_stamp()
        self._current = self._load()

    def listening_context(self) -> ssl.SSLContext:
        """Return the context to listen with; each handshake moves to the current one."""
        context = self._load()
        context.sni_callback = self._use_current
        return context

    def _use_current(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        # OpenSSL calls this in every handshake, whether the client names a host or not.
        try:
            stamp = self._read_stamp()
            if stamp != self._stamp:
                self._current, self._stamp = self._load(), stamp
                log.warning("certificates were renewed")
        except (OSError, ValueError) as failure:
            # Half-written files are whole a moment later; until then what was loaded before serves on.
            log.warning("renewed certificates cannot be loaded: %s: %s", type(failure).__name__, failure)
        connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self._files.certificate, self._files.key)
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        if self._files.client_ca is not None:
            context.verify_mode = self._verify_mode
            context.load_verify_locations(self._files.client_ca)
        return context

    def _read_stamp(self) -> tuple[tuple[int, int, int], ...]:
        paths = (self._files.certificate, self._files.key, self._files.client_ca)
        found = (path.stat() for path in paths if path is not None)
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which tells the application whose certificate the connection has shown."""

    _peer: Peer | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Read the certificate once per connection."""
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        self._peer = peer_of(certificate) if certificate else None

    def on_message_begin(self) -> None:
        """Put the certificate's names into the request's scope."""
        super().on_message_begin()
        if self._peer is not None:
            cast("dict[str, Any]", self.scope)[PEER] = self._peer  # a key of our own


def peer_of(certificate: dict[str, Any]) -> Peer:
    """Return who a verified certificate names, from ``ssl``'s form of it."""
    uris = tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == _URI)
    return Peer(uris, ssl.cert_time_to_seconds(certificate["notAfter"]))
