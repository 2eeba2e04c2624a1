"""The marketplace's side of mutual TLS with Finance: its certificate, whom it trusts, what a refusal means.

Decides when to load the files again (they are replaced when certificates are renewed, without a restart) and
whether a failed request was an outage or a matter of certificates. Refuses to send without a certificate
that is valid now, so that the reason is told here, by name, and not guessed from a closed connection.
TLS 1.3 only. Finance must be named by the trusted CA as the host that its address says.
"""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from domain.errors import DependencyError

log = logging.getLogger(__name__)

CHECK_PERIOD_S = 1.0  # how often the files are looked at: three stat calls
PROBE_TIMEOUT_S = 2.0
MISCONFIGURED_RETRY_AFTER_S = 10  # somebody has to mend a file; asking every second helps nobody
_HTTPS_PORT = 443

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ClientTlsFiles:
    """PEM files: the CA that names Finance, our certificate (chain) and its key."""

    ca: Path
    certificate: Path
    key: Path


def misconfigured(reason: str) -> DependencyError:
    """Return the error for what operators must mend: no outage, and time alone will not help."""
    return DependencyError("finance_misconfigured", reason, MISCONFIGURED_RETRY_AFTER_S)


class ClientTls:
    """The current TLS context; ``context`` is made again when the files have changed."""

    def __init__(
        self,
        files: ClientTlsFiles,
        *,
        clock_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._clock_s = clock_s
        self._monotonic_s = monotonic_s
        self._checked_at_s: float | None = None
        self._stamp: Stamp = ()
        self._context: ssl.SSLContext | None = None
        self._expires_at_s = 0.0

    def context(self) -> ssl.SSLContext:
        """Return the context to connect with; another object after the files changed.

        Raises:
            DependencyError: ``finance_misconfigured``, no usable files, or the certificate has expired.
        """
        now_s = self._monotonic_s()
        if self._checked_at_s is None or now_s - self._checked_at_s >= CHECK_PERIOD_S:
            self._checked_at_s = now_s
            self._load_if_changed()
        if self._context is None:
            self._checked_at_s = None
            raise misconfigured("The client certificate for Finance cannot be loaded; see the log.")
        if self._expires_at_s <= self._clock_s():
            expired_at = datetime.fromtimestamp(self._expires_at_s, UTC).isoformat()
            raise misconfigured(
                f"Our client certificate for Finance has expired at {expired_at}. Put a new one in its place."
            )
        return self._context

    def _load_if_changed(self) -> None:
        try:
            stamp = _stamp(self._files)
            if stamp == self._stamp:
                return
            context = ssl.create_default_context(cafile=str(self._files.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(self._files.certificate, self._files.key)
            certificate = x509.load_pem_x509_certificate(self._files.certificate.read_bytes())
        except (OSError, ValueError) as failure:  # ssl.SSLError is an OSError
            # Half-written files are whole a moment later; until then what was loaded before serves on.
            log.warning("certificates for Finance cannot be loaded: %s: %s", type(failure).__name__, failure)
            return
        self._stamp, self._context = stamp, context
        self._expires_at_s = certificate.not_valid_after_utc.timestamp()


async def refusal(url: str, context: ssl.SSLContext) -> str | None:
    """Ask Finance for a connection of its own, and return why TLS refuses it; None when it does not.

    In TLS 1.3 a client hears of its certificate's refusal only after its request is on the way, often as a
    mere end of connection. Sending nothing and listening makes the reason come through.
    """
    return await asyncio.to_thread(_probe, url, context)


def _probe(url: str, context: ssl.SSLContext) -> str | None:
    where = urlsplit(url)
    address = (where.hostname, where.port or _HTTPS_PORT)
    try:
        with socket.create_connection(address, timeout=PROBE_TIMEOUT_S) as plain:
            try:
                secure = context.wrap_socket(plain, server_hostname=where.hostname)
            except ssl.SSLEOFError:
                return None  # gone before it could judge: an outage
            except ssl.SSLError as failure:
                return str(failure.reason or failure)
            with secure:
                return _verdict(secure)
    except OSError:
        return None  # not reachable, or silent: an outage


def _verdict(secure: ssl.SSLSocket) -> str | None:
    closed = "it closed the connection after seeing our certificate"
    try:
        return None if secure.recv(1) else closed
    except TimeoutError:
        return None  # it waits for a request: TLS is in order
    except (ssl.SSLEOFError, ConnectionError):
        return closed
    except ssl.SSLError as failure:
        return str(failure.reason or failure)


def _stamp(files: ClientTlsFiles) -> Stamp:
    found = (path.stat() for path in (files.ca, files.certificate, files.key))
    return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)
