"""HashiCorp Vault's (or OpenBao's) Transit engine as a key service.

An ``ed25519`` key signs, its version pinned, so that a rotation inside Vault changes nothing here until the
new version is listed and configured. An ``aes256-gcm96`` key wraps, with the context as associated data.
The token is read from a file at each use of a new client and again when Vault says 403, so an agent may
renew it. One request signs a whole batch.
"""

import base64
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from domain.errors import RejectedError
from domain.signing import PUBLIC_KEY_BYTES, context_bytes
from storage.signing.guarded import Quota, refused, unavailable, unwrap_refused
from storage.signing.requests import request

WRAP_TAG = b"\x03"
QUOTA = Quota(per_s=500.0, burst=500)  # requests, not messages: a batch is one
TOKEN_BYTES_MAX = 4_096
_VERSION_PREFIX = "vault:v"
_VERSION_BYTES = 4
_BATCH_MAX = 250  # a megabyte of 4,096-byte messages in base64
_BAD_REQUEST = 400
_FORBIDDEN = 403
_TRANSIENT = frozenset({408, 412, 429, 472, 473})


class VaultTransit:
    """``KeyService`` over Transit. ``address`` is a URL, ``mount`` where the engine is mounted."""

    batch_max = _BATCH_MAX
    wrap_tag = WRAP_TAG

    def __init__(
        self,
        address: str,
        mount: str,
        signing_key: str,
        wrapping_key: str,
        *,
        token_file: Path,
        ca: Path | None = None,
        version: int | None = None,
    ) -> None:
        self.name = f"vault:{address}/{mount}/{signing_key}"
        self._path = f"/v1/{mount}"
        self._signing_key = signing_key
        self._wrapping_key = wrapping_key
        self._token_file = token_file
        self._version = version
        self._token = ""
        self._http = httpx.Client(
            base_url=address,
            verify=True if ca is None else ssl.create_default_context(cafile=str(ca)),
            trust_env=False,
        )

    def public_key(self, timeout_s: float) -> bytes:
        """Return the pinned version's public key, pinning the newest at first; see ``KeyService``."""
        data = self._call("GET", f"keys/{self._signing_key}", None, timeout_s)
        if data.get("type") != "ed25519":
            raise refused(self.name, f"its key is of type {data.get('type')}, not ed25519")
        self._version = self._version or int(data["latest_version"])
        shown = data["keys"].get(str(self._version))
        if shown is None:
            raise refused(self.name, f"it has no version {self._version} of the key")
        # Vault makes a wrapping key that is missing at its first use: a name that is mistyped would be one.
        wrapping = self._call("GET", f"keys/{self._wrapping_key}", None, timeout_s)
        if wrapping.get("type") != "aes256-gcm96":
            raise refused(self.name, f"its wrapping key is of type {wrapping.get('type')}, not aes256-gcm96")
        key = base64.b64decode(shown["public_key"])
        if len(key) != PUBLIC_KEY_BYTES:
            raise refused(self.name, "its public key is malformed")
        return key

    def sign(self, messages: Sequence[bytes], timeout_s: float) -> list[bytes]:
        """Sign a batch; see ``KeyService``."""
        body = {"batch_input": [{"input": _text(one)} for one in messages], "key_version": self._version}
        data = self._call("POST", f"sign/{self._signing_key}", body, timeout_s)
        return [self._signature(one) for one in data["batch_results"]]

    def wrap(self, plaintext: bytes, context: Mapping[str, str], timeout_s: float) -> bytes:
        """Encrypt under the wrapping key; see ``KeyService``."""
        body = {"plaintext": _text(plaintext), "associated_data": _text(context_bytes(context))}
        data = self._call("POST", f"encrypt/{self._wrapping_key}", body, timeout_s)
        # Decoded, because other texts decode to the same: a blob has one form, and any other is refused.
        kind, _, text = str(data["ciphertext"]).rpartition(":")
        version = int(kind.removeprefix(_VERSION_PREFIX))
        return WRAP_TAG + version.to_bytes(_VERSION_BYTES) + base64.b64decode(text)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str], timeout_s: float) -> bytes:
        """Decrypt with the wrapping key; see ``KeyService``."""
        head = len(WRAP_TAG) + _VERSION_BYTES
        if not wrapped.startswith(WRAP_TAG) or len(wrapped) <= head:
            raise unwrap_refused()
        version = int.from_bytes(wrapped[len(WRAP_TAG) : head])
        if version == 0:  # Vault reads it as 1
            raise unwrap_refused()
        body = {
            "ciphertext": f"{_VERSION_PREFIX}{version}:{_text(wrapped[head:])}",
            "associated_data": _text(context_bytes(context)),
        }
        data = self._call(
            "POST", f"decrypt/{self._wrapping_key}", body, timeout_s, bad_request=unwrap_refused()
        )
        return base64.b64decode(data["plaintext"])

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def _signature(self, result: Mapping[str, Any]) -> bytes:
        kind, _, text = str(result.get("signature", "")).rpartition(":")
        if kind != f"{_VERSION_PREFIX}{self._version}":
            raise refused(self.name, str(result.get("error") or "it signed with another version of the key"))
        return base64.b64decode(text)

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout_s: float,
        *,
        bad_request: RejectedError | None = None,
    ) -> Any:
        fresh = not self._token
        if fresh:
            self._read_token()
        response = self._send(method, path, body, timeout_s)
        if response.status_code == _FORBIDDEN and not fresh:
            self._read_token()  # an agent has renewed it
            response = self._send(method, path, body, timeout_s)
        if response.is_success:
            try:
                return response.json()["data"]
            except (ValueError, KeyError):
                raise unavailable(self.name, "its answer cannot be read") from None
        if response.status_code == _BAD_REQUEST and bad_request is not None:
            raise bad_request
        if response.is_server_error or response.status_code in _TRANSIENT:
            raise unavailable(self.name, f"status {response.status_code}")
        raise refused(self.name, f"status {response.status_code} for {path.partition('/')[0]}")

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> httpx.Response:
        headers = {"X-Vault-Token": self._token, "X-Vault-Request": "true"}
        try:
            return request(self._http, method, f"{self._path}/{path}", body, timeout_s, headers)
        except httpx.HTTPError as error:
            raise unavailable(self.name, type(error).__name__) from None

    def _read_token(self) -> None:
        try:
            with self._token_file.open(encoding="ascii") as file:
                self._token = file.read(TOKEN_BYTES_MAX).strip()
        except (OSError, ValueError):
            raise refused(self.name, f"the token file {self._token_file} cannot be read") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
