"""What stands between us and a key service: bounds, quota, deadline, retries, circuit, verification.

A ``KeyService`` only speaks its service's language. ``GuardedKeys`` makes a ``Signer`` and a ``KeyWrapper``
of it: every call ends within ``DEADLINE_S``, no more calls are made than its quota allows, a service
that is away is left alone for a moment, and no signature passes that is not valid for the key that the
service showed when it was opened. Signing and unwrapping give the same result however often they run, and a
secret that is wrapped twice is harmless, so every call may be repeated.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from domain.errors import BusyError, DependencyError, RejectedError
from domain.signing import context_bytes, key_id_of, require_batch, require_secret
from storage.signing.keys import require_valid

log = logging.getLogger("marketplace.signing")

R = TypeVar("R")

DEADLINE_S = 4.0  # below the 5 s that callers wait for the signer, so that they hear why
TRY_TIMEOUT_S = 1.5  # of one request: two whole tries fit into the deadline
TRIES_MAX = 3
PAUSE_S = 0.1  # before a second try, doubling, with jitter
FAILURES_MAX = 3  # calls in a row that failed with all their tries
OPEN_S = 2.0  # how long a service is then left alone
PARALLEL_MAX = 16  # requests at once where a service signs one message at a time
# How reading fails when an answer is not what the service's documentation says: a load balancer's page, or a
# service that is being replaced. Time mends it, and no order may be given up for it.
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


class KeyService(Protocol):
    """One key service, unguarded: each method makes one request and ends within about ``timeout_s``.

    They raise ``DependencyError`` with ``signer_unavailable`` (try again) or ``signer_refused`` (operators
    must mend something), and ``unwrap`` raises ``RejectedError`` with ``unwrap_refused``.
    """

    @property
    def name(self) -> str:
        """For messages, metrics and logs; holds no secret."""

    @property
    def batch_max(self) -> int:
        """How many messages one request signs."""

    @property
    def wrap_tag(self) -> bytes:
        """What its wrapped secrets begin with; empty where that is the backend's behind it."""

    def public_key(self, timeout_s: float) -> bytes:
        """Return the signing key's public half, 32 bytes, as the service shows it."""

    def sign(self, messages: Sequence[bytes], timeout_s: float) -> list[bytes]:
        """Sign up to ``batch_max`` messages."""

    def wrap(self, plaintext: bytes, context: Mapping[str, str], timeout_s: float) -> bytes:
        """Encrypt under the wrapping key, bound to the context."""

    def unwrap(self, wrapped: bytes, context: Mapping[str, str], timeout_s: float) -> bytes:
        """Decrypt what ``wrap`` gave."""

    def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Requests per second that the service grants us, and how many may come at once."""

    per_s: float
    burst: int


Observer = Callable[[str, str, float, str], None]
"""``(backend, operation, seconds, outcome)``; the outcome is ``ok`` or an error's code."""


def ignore(_backend: str, _operation: str, _seconds: float, _outcome: str) -> None:
    """Observe nothing."""


class TokenBucket:
    """A quota, kept by waiting. Safe in threads."""

    def __init__(self, quota: Quota, monotonic: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._quota = quota
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._tokens = float(quota.burst)
        self._at_s = monotonic()

    def take(self, deadline_s: float) -> None:
        """Take a token, waiting for it until ``deadline_s`` at most.

        Raises:
            BusyError: ``signer_busy``; no token is taken, and none will be there in time.
        """
        with self._lock:
            now_s = self._monotonic()
            self._tokens = min(
                float(self._quota.burst), self._tokens + (now_s - self._at_s) * self._quota.per_s
            )
            self._at_s = now_s
            wait_s = max(0.0, (1.0 - self._tokens) / self._quota.per_s)
            if now_s + wait_s > deadline_s:
                raise BusyError(
                    "signer_busy", "The key service's quota is used up. Try again shortly.", 1 + int(wait_s)
                )
            self._tokens -= 1.0  # below zero: later callers wait their turn
        if wait_s:
            self._sleep(wait_s)


class Circuit:
    """Leaves a failing service alone; lets one call through at a time to see whether it is back."""

    def __init__(self, name: str, monotonic: Callable[[], float]) -> None:
        self._name = name
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at_s: float | None = None
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether calls pass."""
        return self._opened_at_s is None

    def admit(self) -> None:
        """Let a call pass, or not; each admitted call ends with ``settle``.

        Raises:
            DependencyError: ``signer_unavailable``; nothing was called.
        """
        with self._lock:
            if self._opened_at_s is None:
                return
            if self._probing or self._monotonic() - self._opened_at_s < OPEN_S:
                raise DependencyError(
                    "signer_unavailable", f"{self._name} is away; orders wait for it and nothing is lost.", 2
                )
            self._probing = True

    def settle(self, *, failed: bool | None) -> None:
        """Learn how an admitted call ended; None: it never reached the service, so nothing is learnt."""
        with self._lock:
            self._probing = False
            if failed is None:
                return
            was_closed = self._opened_at_s is None
            if not failed:
                self._failures, self._opened_at_s = 0, None
            else:
                self._failures += 1
                if not was_closed or self._failures >= FAILURES_MAX:
                    self._opened_at_s = self._monotonic()
            is_closed = self._opened_at_s is None
        if was_closed and not is_closed:
            log.error("%s keeps failing and is left alone for a moment", self._name)
        elif is_closed and not was_closed:
            log.warning("%s is back", self._name)


class GuardedKeys:
    """``Keys`` of ``domain.signing`` over a key service. Safe in threads."""

    def __init__(
        self,
        service: KeyService,
        quota: Quota | None = None,
        observe: Observer = ignore,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._service = service
        self._observe = observe
        self._monotonic = monotonic
        self._sleep = sleep
        self._bucket = TokenBucket(quota, monotonic, sleep) if quota is not None else None
        self._circuit = Circuit(service.name, monotonic)
        self._pool: ThreadPoolExecutor | None = None
        if service.batch_max == 1:
            self._pool = ThreadPoolExecutor(PARALLEL_MAX, thread_name_prefix="sign")
        try:
            self.public_key = self._call("public_key", service.public_key, self._deadline())
        except Exception:
            self.close()
            raise
        self.key_id = key_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"GuardedKeys({self._service.name}, {self.key_id})"

    @property
    def available(self) -> bool:
        """Whether calls reach the service, as far as the last ones told."""
        return self._circuit.closed

    def sign_many(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign each message; see ``domain.signing.Signer``."""
        require_batch(messages)
        deadline_s = self._deadline()
        size = self._service.batch_max
        batches = [messages[start : start + size] for start in range(0, len(messages), size)]

        def sign(batch: Sequence[bytes]) -> list[bytes]:
            # Verified inside the call: a service that signs wrongly is failing, is counted and left alone.
            return self._call(
                "sign",
                lambda timeout_s: require_valid(
                    self.public_key, batch, list(self._service.sign(batch, timeout_s))
                ),
                deadline_s,
            )

        each = self._pool.map if self._pool is not None and len(batches) > 1 else map
        return [signature for signed in each(sign, batches) for signature in signed]

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt a short secret under a context; see ``domain.signing.KeyWrapper``."""
        require_secret(plaintext)
        context_bytes(context)
        return self._call(
            "wrap", lambda timeout_s: self._service.wrap(plaintext, context, timeout_s), self._deadline()
        )

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt what ``wrap`` gave; see ``domain.signing.KeyWrapper``."""
        context_bytes(context)
        if not wrapped.startswith(self._service.wrap_tag):
            raise unwrap_refused()  # another backend's: this one is not asked, and nothing is learnt of it
        return self._call(
            "unwrap", lambda timeout_s: self._service.unwrap(wrapped, context, timeout_s), self._deadline()
        )

    def close(self) -> None:
        """Let go of threads and connections."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._service.close()

    def _deadline(self) -> float:
        return self._monotonic() + DEADLINE_S

    def _call(self, operation: str, work: Callable[[float], R], deadline_s: float) -> R:
        self._circuit.admit()
        started_s = self._monotonic()
        outcome = "unforeseen"
        try:
            result = self._tries(work, deadline_s)
            outcome = "ok"
        except (RejectedError, BusyError) as refused:
            outcome = refused.code
            raise
        except DependencyError as failure:
            outcome = failure.code
            raise
        finally:
            # A refusal is an answer; our own quota says nothing of the other side, so all stays as it is.
            failed = outcome in ("signer_unavailable", "signer_refused", "signature_wrong", "unforeseen")
            self._circuit.settle(failed=None if outcome == "signer_busy" else failed)
            if outcome == "signature_wrong":
                log.error("%s made a signature that is not valid for %s", self._service.name, self.key_id)
            self._observe(self._service.name, operation, self._monotonic() - started_s, outcome)
        return result

    def _tries(self, work: Callable[[float], R], deadline_s: float) -> R:
        for left in reversed(range(TRIES_MAX)):
            if self._bucket is not None:
                self._bucket.take(deadline_s)
            try:
                return self._read(work, min(TRY_TIMEOUT_S, max(0.05, deadline_s - self._monotonic())))
            except DependencyError as failure:
                pause_s = PAUSE_S * 2 ** (TRIES_MAX - 1 - left) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
                late = self._monotonic() + pause_s + TRY_TIMEOUT_S > deadline_s
                if failure.code != "signer_unavailable" or left == 0 or late:
                    raise
                self._sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def _read(self, work: Callable[[float], R], timeout_s: float) -> R:
        try:
            return work(timeout_s)
        except _UNREADABLE as fault:
            # Only its kind is told: the text may hold what was answered.
            raise unavailable(
                self._service.name, f"its answer cannot be read: {type(fault).__name__}"
            ) from None


def unavailable(name: str, reason: str) -> DependencyError:
    """Make the error for a service that is away: orders wait, and nothing is lost."""
    return DependencyError(
        "signer_unavailable", f"{name} does not answer ({reason}). Orders wait for it; nothing is lost.", 2
    )


def refused(name: str, reason: str) -> DependencyError:
    """Make the error for what operators must mend: a permission, a disabled key, a wrong setting."""
    return DependencyError(
        "signer_refused", f"{name} refuses: {reason}. Orders wait until operators mend it.", 10
    )


def unwrap_refused() -> RejectedError:
    """Make the error for a blob that does not open."""
    return RejectedError(
        "unwrap_refused", "The wrapped secret is damaged, or belongs to another key or context."
    )
