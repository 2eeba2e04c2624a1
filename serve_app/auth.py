"""Who calls: bearer tokens, looked up by the SHA-256 of their text and remembered for a short while.

A digest is compared by look-up, so time says nothing about a token's characters. A known token is
remembered for 30 s, which bounds how long a revoked one still works; an unknown one for 1 s, in a memory
of its own so that guesses cannot push known ones out.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from domain.errors import RejectedError
from serve_app.ports import AccessStore
from storage.market.access import Principal

T = TypeVar("T")

TOKEN_CHARS_MAX = 512
KNOWN_TTL_S = 30.0
UNKNOWN_TTL_S = 1.0
REMEMBERED_MAX = 10_000  # of each kind; about 200 bytes each
BUYER, SELLER, OPERATOR, FRAUD, AUDITOR = "buyer", "seller", "operator", "fraud", "auditor"

_INVALID = ("token_invalid", "The token is unknown or was revoked. Ask an operator for a new one.")


def bearer_digest(authorization: bytes) -> bytes:
    """Return the SHA-256 of the token in an ``Authorization`` header.

    Raises:
        RejectedError: ``token_missing`` or ``token_invalid``.
    """
    scheme, _, token = authorization.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token:
        raise RejectedError("token_missing", "Send a token as 'Authorization: Bearer …'.")
    if len(token) > TOKEN_CHARS_MAX:
        raise RejectedError(*_INVALID)
    return hashlib.sha256(token).digest()


class Authenticator:
    """Tokens' holders, remembered."""

    def __init__(self, store: AccessStore, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._unknown: OrderedDict[bytes, tuple[float, None]] = OrderedDict()

    def remembered(self, digest: bytes) -> Principal | None:
        """Return the holder without a look-up, or None."""
        entry = self._known.get(digest)
        return entry[1] if entry is not None and self._monotonic() < entry[0] else None

    async def principal(self, digest: bytes) -> Principal:
        """Return the holder of a token by its digest.

        Raises:
            RejectedError: ``token_invalid``.
            DependencyError: ``database_unavailable``.
        """
        known = self.remembered(digest)
        if known is not None:
            return known
        now_s = self._monotonic()
        refused = self._unknown.get(digest)
        if refused is None or now_s >= refused[0]:
            found = await self._store.principal(digest)
            if found is not None:
                _remember(self._known, digest, (now_s + KNOWN_TTL_S, found))
                return found
            self._known.pop(digest, None)
            _remember(self._unknown, digest, (now_s + UNKNOWN_TTL_S, None))
        raise RejectedError(*_INVALID)


def require_role(principal: Principal, roles: frozenset[str]) -> None:
    """Refuse a role that is not listed.

    Raises:
        RejectedError: ``role_not_allowed``.
    """
    if principal.role not in roles:
        raise RejectedError(
            "role_not_allowed",
            f"This is for {' or '.join(sorted(roles))}s; the token is a {principal.role}'s.",
        )


def _remember(memory: OrderedDict[bytes, tuple[float, T]], digest: bytes, entry: tuple[float, T]) -> None:
    memory[digest] = entry
    memory.move_to_end(digest)
    if len(memory) > REMEMBERED_MAX:
        memory.popitem(last=False)
