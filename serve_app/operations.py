"""Operations: one declaration each for routing, access, bounds and documentation.

The guard runs before a route does: token, role, rate, idempotency key, in this order. It denies by
default: an operation without ``roles`` must say ``public``. What OpenAPI tells is derived from the same
declaration (``serve_app.openapi``), so the two cannot drift apart.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from domain.errors import RejectedError
from serve_app.auth import Authenticator, bearer_digest, require_role
from serve_app.calls import Call
from serve_app.idempotency import require_key
from serve_app.limits import TokenBuckets
from serve_app.middleware import CALL
from serve_app.ports import IngressSettings
from storage.market.access import Principal

Handler = Callable[[Call], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: its body's schema (None: not JSON), an example, and the media type."""

    description: str
    model: type[BaseModel] | None = None
    example: Any = None
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """See the module. ``problems`` are the codes beyond those that every operation may answer."""

    method: str
    path: str
    operation_id: str
    summary: str
    handler: Handler
    answers: Mapping[int, Answer]
    roles: frozenset[str] = frozenset()
    public: bool = False
    write: bool = False  # takes an Idempotency-Key
    rated: bool = True
    request: type[BaseModel] | None = None
    request_example: Any = None
    request_optional: bool = False
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.roles) == self.public:
            raise ValueError(f"{self.operation_id} is either public or for some roles")


class Guard:
    """Access and rates, shared by all operations of one application."""

    def __init__(
        self,
        authenticator: Authenticator,
        settings: IngressSettings,
        monotonic: Callable[[], float],
    ) -> None:
        self._authenticator = authenticator
        self._of_principals = TokenBuckets(settings.principal_rate, monotonic)
        self._of_addresses = TokenBuckets(settings.address_rate, monotonic)
        header = settings.client_address_header
        self._address_header = header.encode() if header else None

    async def admit(self, call: Call, operation: Operation) -> None:
        """Let a request through or raise why not; sets ``call.principal`` where a token is needed."""
        if operation.public:
            if operation.rated:
                self._of_addresses.take(self._address(call))
            if operation.write:
                require_key(call.headers)
            return
        call.principal = await self._authenticate(call)
        self._of_principals.take(call.principal.principal_id)
        require_role(call.principal, operation.roles)
        if operation.write:
            require_key(call.headers)

    async def identify(self, call: Call) -> Principal | None:
        """Return who sends a valid token to a public operation; anyone else is simply anonymous."""
        if b"authorization" not in call.headers:
            return None
        try:
            return await self._authenticator.principal(bearer_digest(call.headers[b"authorization"]))
        except RejectedError:
            return None

    async def _authenticate(self, call: Call) -> Principal:
        digest = bearer_digest(call.headers.get(b"authorization", b""))
        principal = self._authenticator.remembered(digest)
        if principal is None:
            # Guesses cost a look-up each, so they are paid from the address's bucket.
            self._of_addresses.take(self._address(call))
            principal = await self._authenticator.principal(digest)
        return principal

    def _address(self, call: Call) -> str:
        if self._address_header is not None and (told := call.headers.get(self._address_header)):
            # The last entry is the one that our own proxy wrote; those before it are the caller's claim.
            return told.rpartition(b",")[2].strip().decode("latin-1")[:64]
        client = call.scope.get("client")
        return str(client[0]) if client else "unknown"


class Endpoint:
    """The ASGI app behind one operation's route."""

    __slots__ = ("_guard", "operation")

    def __init__(self, operation: Operation, guard: Guard) -> None:
        self.operation = operation
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the call, run the route, send what it returns."""
        call: Call = scope[CALL]
        call.route = self.operation.path
        call.parameters = scope["path_params"]
        await self._guard.admit(call, self.operation)
        response = await self.operation.handler(call)
        await response(scope, receive, send)
