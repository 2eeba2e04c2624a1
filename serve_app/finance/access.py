"""Who asks, and what they may do: a client certificate's identity, or the service token.

Identities are the URI names of client certificates (SPIFFE: exactly one, such as
``spiffe://marketplace/ingress``) that TLS has verified against the client CA; each has its roles. The
service token, if the operator sets one, has every role: it is for a machine's own loopback. Denies by
default: an unknown identity, a certificate that has expired since its connection was made, and a role that
is not listed are refused, each by its own code, for each is mended at another place.
"""

import functools
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from domain.errors import RejectedError

PEER = "finance.peer"  # in the scope: what TLS knows of the caller
PRINCIPAL = "finance.principal"  # in the scope: who it is

Handler = Callable[[Request], Awaitable[Response]]


class Role(StrEnum):
    """What a caller may do; none includes another."""

    POSTER = "poster"  # post entries and reversals
    READER = "reader"  # read entries, balances, statements, accounts and periods
    FINANCE_ADMIN = "finance_admin"  # declare and close accounts, close periods


@dataclass(frozen=True, slots=True)
class Peer:
    """A verified client certificate: its URI names, and when it expires (seconds since 1970)."""

    uris: tuple[str, ...]
    expires_at_s: float


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller by name, with its roles."""

    name: str
    roles: frozenset[Role]


_UNAUTHENTICATED = RejectedError(
    "unauthenticated",
    "Present a client certificate, or send the service token as 'Authorization: Bearer …'. It is missing "
    "or wrong.",
)
_CERTIFICATE_EXPIRED = RejectedError(
    "certificate_expired", "The client certificate has expired since this connection was made. Renew it."
)
_IDENTITY_UNKNOWN = RejectedError(
    "identity_unknown",
    "The client certificate is genuine, but Finance knows no such identity. It needs one URI name that the "
    "operator has given roles.",
)


class Access:
    """Tells principals. ``token`` is kept as its digest, which also evens out lengths in comparison."""

    def __init__(self, *, token: str | None, identities: Mapping[str, frozenset[Role]]) -> None:
        self._token_digest = None if token is None else hashlib.sha256(token.encode()).digest()
        self._holder_of_token = Principal("service-token", frozenset(Role))
        self._principals = {uri: Principal(uri, roles) for uri, roles in identities.items()}

    def principal(self, scope: Scope, authorization: bytes) -> Principal:
        """Return who asks.

        Raises:
            RejectedError: ``unauthenticated``, ``certificate_expired`` or ``identity_unknown``.
        """
        if authorization or PEER not in scope:
            if self._is_token(authorization):
                return self._holder_of_token
            raise _UNAUTHENTICATED
        peer: Peer = scope[PEER]
        if peer.expires_at_s <= time.time():
            raise _CERTIFICATE_EXPIRED
        principal = self._principals.get(peer.uris[0]) if len(peer.uris) == 1 else None
        if principal is None:
            raise _IDENTITY_UNKNOWN
        return principal

    def _is_token(self, authorization: bytes) -> bool:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or self._token_digest is None:
            return False
        return hmac.compare_digest(hashlib.sha256(token.strip()).digest(), self._token_digest)


def allowed(role: Role, handler: Handler) -> Handler:
    """Return ``handler`` for callers with ``role``; others get ``role_missing``."""

    @functools.wraps(handler)
    async def checked(request: Request) -> Response:
        principal: Principal = request.scope[PRINCIPAL]
        if role not in principal.roles:
            raise RejectedError(
                "role_missing",
                f"{principal.name} has not the role {role} that this takes. The operator gives roles.",
            )
        return await handler(request)

    return checked
