"""A PKCS#11 token as a key service: an HSM, or SoftHSM in tests.

An Ed25519 key signs (``CKM_EDDSA``, curve OID 1.3.101.112) and an AES-256 key wraps (``CKM_AES_GCM`` with the
context as associated data); neither can leave the token. One session serves one call at a time: a call takes
about 0.15 ms. When the token fails, the session is dropped and the next call logs in anew, with the
PIN from its file. A PKCS#11 call cannot be interrupted; only the wait for the session is bounded.
Needs the package ``python-pkcs11`` (``pip install illuvrse-marketplace[pkcs11]``).
"""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import (
    EncryptedDataInvalid,
    EncryptedDataLenRange,
    FunctionFailed,
    GeneralError,
    MultipleObjectsReturned,
    NoSuchKey,
    NoSuchToken,
    PinExpired,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
    UserPinNotInitialized,
)

from domain.signing import PUBLIC_KEY_BYTES, context_bytes
from storage.signing.guarded import refused, unavailable, unwrap_refused

R = TypeVar("R")

WRAP_TAG = b"\x04"
PIN_BYTES_MAX = 256
_NONCE_BYTES = 12
_TAG_BYTES = 16
_BATCH_MAX = 100  # some 15 ms, so that callers take turns
_POINT_PREFIX = b"\x04\x20"  # DER of the octet string around a point
_DAMAGED = (EncryptedDataInvalid, EncryptedDataLenRange)
_UNCLEAR = (GeneralError, FunctionFailed)  # what some tokens, SoftHSM too, say of a wrong tag
_OPERATORS = (
    *(NoSuchKey, NoSuchToken, MultipleObjectsReturned, UserPinNotInitialized),
    *(PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked),
)


@dataclass(frozen=True, slots=True)
class _Open:
    session: Any
    private: Any
    public: Any
    wrapping: Any


class Pkcs11Token:
    """``KeyService`` over one token; keys are found by their labels."""

    batch_max = _BATCH_MAX
    wrap_tag = WRAP_TAG

    def __init__(
        self, module: Path, token: str, signing_key: str, wrapping_key: str, *, pin_file: Path
    ) -> None:
        self.name = f"pkcs11:token={token};object={signing_key}"
        self._module = module
        self._token = token
        self._signing_key = signing_key
        self._wrapping_key = wrapping_key
        self._pin_file = pin_file
        self._lock = threading.Lock()
        self._open: _Open | None = None

    def public_key(self, timeout_s: float) -> bytes:
        """Read the public key object; see ``KeyService``."""
        point: bytes = self._call(timeout_s, lambda one: bytes(one.public[Attribute.EC_POINT]))
        # PKCS#11 3.0 wants the point in a DER octet string; older tokens give it bare.
        key = point.removeprefix(_POINT_PREFIX) if len(point) > PUBLIC_KEY_BYTES else point
        if len(key) != PUBLIC_KEY_BYTES:
            raise refused(self.name, "its public key is no Ed25519 point")
        return key

    def sign(self, messages: Sequence[bytes], timeout_s: float) -> list[bytes]:
        """Sign a batch; see ``KeyService``."""
        return self._call(
            timeout_s,
            lambda one: [bytes(one.private.sign(message, mechanism=Mechanism.EDDSA)) for message in messages],
        )

    def wrap(self, plaintext: bytes, context: Mapping[str, str], timeout_s: float) -> bytes:
        """Encrypt under the wrapping key; see ``KeyService``."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._call(timeout_s, lambda one: _encrypt(one, plaintext, nonce, context_bytes(context)))
        return WRAP_TAG + nonce + sealed

    def unwrap(self, wrapped: bytes, context: Mapping[str, str], timeout_s: float) -> bytes:
        """Decrypt with the wrapping key; see ``KeyService``."""
        head = len(WRAP_TAG) + _NONCE_BYTES
        if not wrapped.startswith(WRAP_TAG) or len(wrapped) <= head + _TAG_BYTES:
            raise unwrap_refused()
        nonce, sealed = wrapped[len(WRAP_TAG) : head], wrapped[head:]
        parameters = GCMParams(nonce, context_bytes(context))

        def decrypt(one: _Open) -> bytes:
            try:
                return bytes(
                    one.wrapping.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
                )
            except _DAMAGED:
                raise unwrap_refused() from None
            except _UNCLEAR:
                # The token is in order if it still encrypts: then the blob is not.
                _encrypt(one, b"\0", secrets.token_bytes(_NONCE_BYTES), b"")
                raise unwrap_refused() from None

        return self._call(timeout_s, decrypt)

    def close(self) -> None:
        """Log out, once a call under way has ended."""
        with self._lock:
            self._drop()

    def _call(self, timeout_s: float, work: Callable[[_Open], R]) -> R:
        with self._session(timeout_s) as opened:
            try:
                return work(opened)
            except PKCS11Error as error:
                self._drop()
                raise unavailable(self.name, type(error).__name__) from None

    @contextmanager
    def _session(self, timeout_s: float) -> Iterator[_Open]:
        if not self._lock.acquire(timeout=timeout_s):
            raise unavailable(self.name, "its session is busy")
        try:
            if self._open is None:
                self._open = self._log_in()
            yield self._open
        finally:
            self._lock.release()

    def _log_in(self) -> _Open:
        session = None
        try:
            token = pkcs11.lib(str(self._module)).get_token(token_label=self._token)
            session = token.open(user_pin=self._pin())
            label, wrap = self._signing_key, self._wrapping_key
            return _Open(
                session,
                session.get_key(
                    object_class=ObjectClass.PRIVATE_KEY, key_type=KeyType.EC_EDWARDS, label=label
                ),
                session.get_key(
                    object_class=ObjectClass.PUBLIC_KEY, key_type=KeyType.EC_EDWARDS, label=label
                ),
                session.get_key(object_class=ObjectClass.SECRET_KEY, key_type=KeyType.AES, label=wrap),
            )
        except _OPERATORS as error:
            _close(session)
            raise refused(self.name, type(error).__name__) from None
        except PKCS11Error as error:
            _close(session)
            raise unavailable(self.name, type(error).__name__) from None
        except (OSError, RuntimeError) as error:
            raise refused(self.name, f"the module cannot be used: {error}") from None

    def _pin(self) -> str:
        try:
            with self._pin_file.open(encoding="utf-8") as file:
                return file.read(PIN_BYTES_MAX).strip()
        except (OSError, ValueError):
            raise refused(self.name, f"the PIN file {self._pin_file} cannot be read") from None

    def _drop(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            _close(opened.session)


def _encrypt(one: _Open, plaintext: bytes, nonce: bytes, associated: bytes) -> bytes:
    parameters = GCMParams(nonce, associated)
    return bytes(one.wrapping.encrypt(plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=parameters))


def _close(session: Any) -> None:
    if session is not None:
        try:
            session.close()
        except PKCS11Error:
            return  # it is gone already
