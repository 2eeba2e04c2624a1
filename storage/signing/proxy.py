"""A signing proxy as a key service: ``cluster.signing_proxy`` holds the backend's credentials, we do not.

Mutual TLS tells both sides who the other is; there is no token. The proxy signs and wraps, and never shows a
key. What it signs is verified here again, against the recorded key: it is trusted to hold the key, not to be
right.
"""

import base64
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from domain.errors import BusyError, DependencyError, RejectedError
from domain.signing import PUBLIC_KEY_BYTES
from storage.signing.guarded import refused, unavailable, unwrap_refused
from storage.signing.requests import request

_BATCH_MAX = 250  # a megabyte of 4,096-byte messages in base64
CONNECTIONS_MAX = 16


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """PEM files: the CA that names the proxy, our certificate (chain) and its key."""

    ca: Path
    certificate: Path
    key: Path


class SigningProxy:
    """``KeyService`` over a proxy at ``address``, an ``https`` URL."""

    batch_max = _BATCH_MAX
    wrap_tag = b""

    def __init__(self, address: str, files: ClientFiles) -> None:
        self.name = f"proxy:{address}"
        self._address = address
        self._files = files
        self._stamp: tuple[int, ...] = ()
        self._http: httpx.Client | None = None

    def public_key(self, timeout_s: float) -> bytes:
        """Ask for the proxy's signing key; see ``KeyService``."""
        key = _bytes(self._call("GET", "/v1/key", None, timeout_s), "public_key", self.name)
        if len(key) != PUBLIC_KEY_BYTES:
            raise refused(self.name, "its public key is malformed")
        return key

    def sign(self, messages: Sequence[bytes], timeout_s: float) -> list[bytes]:
        """Sign a batch; see ``KeyService``."""
        answer = self._call("POST", "/v1/sign", {"messages": [_text(one) for one in messages]}, timeout_s)
        signatures = answer.get("signatures")
        if not isinstance(signatures, list) or len(signatures) != len(messages):
            raise unavailable(self.name, "its answer cannot be read")
        return [_bytes({"signature": one}, "signature", self.name) for one in signatures]

    def wrap(self, plaintext: bytes, context: Mapping[str, str], timeout_s: float) -> bytes:
        """Encrypt under the proxy's wrapping key; see ``KeyService``."""
        body = {"plaintext": _text(plaintext), "context": dict(context)}
        return _bytes(self._call("POST", "/v1/wrap", body, timeout_s), "wrapped", self.name)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str], timeout_s: float) -> bytes:
        """Decrypt with the proxy's wrapping key; see ``KeyService``."""
        body = {"wrapped": _text(wrapped), "context": dict(context)}
        return _bytes(self._call("POST", "/v1/unwrap", body, timeout_s), "plaintext", self.name)

    def close(self) -> None:
        """Close connections."""
        if self._http is not None:
            self._http.close()

    def _client(self) -> httpx.Client:
        """Return the client, made again when a certificate was renewed."""
        try:
            files = (self._files.ca, self._files.certificate, self._files.key)
            stamp = tuple(
                number for path in files for number in (path.stat().st_mtime_ns, path.stat().st_ino)
            )
            if self._http is None or stamp != self._stamp:
                context = ssl.create_default_context(cafile=str(self._files.ca))
                context.minimum_version = ssl.TLSVersion.TLSv1_3
                context.load_cert_chain(self._files.certificate, self._files.key)
                # The one before is left to its running calls and the collector.
                self._http = httpx.Client(
                    base_url=self._address,
                    verify=context,
                    trust_env=False,
                    limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
                )
                self._stamp = stamp
        except (OSError, ValueError) as failure:
            if self._http is None:
                raise refused(
                    self.name, f"our certificate for it cannot be loaded: {type(failure).__name__}"
                ) from None
        return self._http

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> Any:
        try:
            response = request(self._client(), method, path, body, timeout_s)
        except httpx.HTTPError as error:
            raise unavailable(self.name, type(error).__name__) from None
        try:
            answer = response.json()
            if response.is_success and isinstance(answer, dict):
                return answer
            code, detail = str(answer["code"]), str(answer["detail"])
        except (ValueError, KeyError, TypeError):
            raise unavailable(self.name, f"status {response.status_code}") from None
        raise self._translated(code, detail)

    def _translated(self, code: str, detail: str) -> RejectedError | DependencyError | BusyError:
        if code == "unwrap_refused":
            return unwrap_refused()
        if code == "signer_busy":
            return BusyError("signer_busy", detail)
        if code == "signer_unavailable":
            return unavailable(self.name, "its backend is away")
        return refused(self.name, f"{detail} ({code})")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(answer: Mapping[str, Any], name: str, proxy: str) -> bytes:
    try:
        return base64.b64decode(answer[name], validate=True)
    except (KeyError, TypeError, ValueError):
        raise unavailable(proxy, "its answer cannot be read") from None
