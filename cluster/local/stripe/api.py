"""``/v1``: authenticates, keeps idempotency, strikes with faults, runs the operation, answers.

The order is Stripe's: key, route, idempotency, parameters, execution. A reply leaves only after what it
tells is committed. An unexpected error is logged without the request's content and answered by 500.
"""

import asyncio
import base64
import binascii
import hmac
import logging
import time
from dataclasses import dataclass

import orjson

from cluster.local.stripe import charging
from cluster.local.stripe.exchange import JSON_TYPE, Reply, Request
from cluster.local.stripe.expansion import expand
from cluster.local.stripe.faults import Fault, LostReplyError
from cluster.local.stripe.forms import Pairs, parse_pairs, to_tree
from cluster.local.stripe.parameters import Values, read
from cluster.local.stripe.refusals import Document, RefusedError, not_found, unauthorised
from cluster.local.stripe.routing import Operation
from cluster.local.stripe.rows import IdempotencyRecord
from cluster.local.stripe.simulator import Simulator
from cluster.local.stripe.store import StoreFailedError
from cluster.local.stripe.turn import API_VERSION, Turn

LOG = logging.getLogger(__name__)
MILLISECONDS = 1_000
VERSION_HEADER = (b"stripe-version", API_VERSION.encode())
CORS_HEADERS = [
    # Browsers use the publishable key from a shop's own pages. No cookie is involved, so any origin may.
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, idempotency-key, stripe-version"),
    (b"access-control-expose-headers", b"request-id"),
    (b"access-control-max-age", b"600"),
]
# What a browser may see of a PaymentIntent: no metadata, no charge.
PUBLISHABLE_FIELDS = frozenset(
    {
        "id",
        "object",
        "amount",
        "canceled_at",
        "cancellation_reason",
        "capture_method",
        "client_secret",
        "confirmation_method",
        "created",
        "currency",
        "description",
        "last_payment_error",
        "livemode",
        "next_action",
        "payment_method",
        "payment_method_types",
        "processing",
        "receipt_email",
        "setup_future_usage",
        "shipping",
        "source",
        "status",
    }
)


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request for an operation; ``trusted`` tells that it came with the secret key."""

    operation: Operation
    object_id: str
    pairs: Pairs
    trusted: bool


class Api:
    """Answers requests under ``/v1``."""

    def __init__(self, simulator: Simulator, secret_key: str, publishable_key: str) -> None:
        self._simulator = simulator
        self._secret_key = secret_key.encode()
        self._publishable_key = publishable_key.encode()

    async def answer(self, request: Request) -> Reply:
        """Answer one request."""
        if request.method == "OPTIONS":
            return Reply(204, b"", list(CORS_HEADERS))
        now_ms = time.time_ns() // 1_000_000
        request_id = self._simulator.ids.mint("req", now_ms)
        try:
            status, body, original = await self._authenticated(request, now_ms, request_id)
        except RefusedError as refused:
            status, body, original = refused.status, refused.body(), None
        except LostReplyError:
            return Reply(0, b"", lost=True)
        except StoreFailedError:
            status, body, original = 500, _server_error("could not store this request").body(), None
        except Exception:
            LOG.exception("request %s failed", request_id)
            status, body, original = 500, _server_error("failed").body(), None
        headers = [JSON_TYPE, (b"request-id", request_id.encode()), VERSION_HEADER]
        if original is not None:
            headers += [(b"idempotent-replayed", b"true"), (b"original-request", original.encode())]
        if status == 401:  # noqa: PLR2004 - unauthorised
            headers.append((b"www-authenticate", b'Bearer realm="Stripe"'))
        if b"origin" in request.headers:
            headers += CORS_HEADERS
        return Reply(status, body, headers)

    def require_secret(self, request: Request) -> None:
        """Let only the secret key pass.

        Raises:
            RefusedError: 401 or 403.
        """
        if not self._is_secret(request):
            raise RefusedError(403, "The publishable key may not do this. Use the secret key.")

    def _is_secret(self, request: Request) -> bool:
        """Return whether the request has the secret key, False for the publishable one; else raise 401."""
        key = _presented_key(request.headers.get(b"authorization"))
        if key is None:
            raise unauthorised(
                "You did not provide an API key. You need to provide your API key in the Authorization "
                "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
            )
        is_secret = hmac.compare_digest(key, self._secret_key)
        if not is_secret and not hmac.compare_digest(key, self._publishable_key):
            raise unauthorised("Invalid API Key provided.")
        return is_secret

    async def _authenticated(
        self, request: Request, now_ms: int, request_id: str
    ) -> tuple[int, bytes, str | None]:
        """Return status, body, and the id of the first request when this is a replay."""
        trusted = self._is_secret(request)
        operation, object_id = self._simulator.operations.find(request.method, request.path)
        if not trusted and not operation.publishable:
            raise RefusedError(
                401,
                "This API call cannot be made with a publishable API key. Please use a secret API key.",
                code="secret_key_required",
            )
        is_post = request.method == "POST"
        pairs = parse_pairs(request.body if is_post else request.query)
        call = Call(operation, object_id, pairs, trusted)
        key = request.text_header(b"idempotency-key") if is_post else None
        if key is None:
            turn = self._simulator.turn(now_ms, request_id, None)
            return *await self._execute(request, call, turn, None), None
        keys = self._simulator.idempotency
        fingerprint = keys.fingerprint("shop" if trusted else "browser", request.path, pairs)
        record = keys.begin(key, fingerprint, now_ms // MILLISECONDS)
        if record is not None:
            await self._simulator.store.settled()
            return record.status, record.body, record.request_id
        try:
            turn = self._simulator.turn(now_ms, request_id, key)
            return *await self._execute(request, call, turn, fingerprint), None
        finally:
            keys.end(key)

    async def _execute(
        self, request: Request, call: Call, turn: Turn, fingerprint: bytes | None
    ) -> tuple[int, bytes]:
        """Execute and commit, with the fault that is due for this request, if any.

        Raises:
            LostReplyError: the fault was to lose the answer.
        """
        fault = self._simulator.faults.strike(request.method, request.path)
        if fault is not None and fault.when == "before":
            await _suffer(fault)
            if fault.status is not None:
                raise fault.refusal()
            fault = None
        if fault is not None and fault.when == "instead":
            status, body = fault.status or 500, fault.refusal().body()
        else:
            status, body = _decided(call, turn)
            if fault is not None and fault.status is not None:
                status, body = fault.status, fault.refusal().body()
        record = None
        if fingerprint is not None:
            assert turn.idempotency_key is not None
            record = IdempotencyRecord(
                turn.idempotency_key, fingerprint, status, body, str(turn.request_id), turn.now
            )
        await self._simulator.commit(turn, record)
        if fault is not None:
            await _suffer(fault)
        return status, body


async def _suffer(fault: Fault) -> None:
    """Take a fault's delay, and the loss of the answer.

    Raises:
        LostReplyError: the fault is to lose the answer.
    """
    await asyncio.sleep(fault.delay_ms / MILLISECONDS)
    if fault.drop:
        raise LostReplyError


def _decided(call: Call, turn: Turn) -> tuple[int, bytes]:
    """Run the operation; what is returned is final for the request's idempotency key.

    Raises:
        RefusedError: refused as written, nothing was executed.
    """
    operation = call.operation
    try:
        values = read(to_tree(call.pairs), operation.specification, operation.required)
        if not call.trusted or "client_secret" in values:
            _check_client_secret(turn, call.object_id, values)
        result = operation.run(turn, call.object_id, values)
        if call.trusted and "expand" not in values:
            return 200, result if isinstance(result, bytes) else orjson.dumps(result)
        document: Document = orjson.loads(result) if isinstance(result, bytes) else result
        if not call.trusted:
            return 200, orjson.dumps(_for_browsers(document))
        expand(turn, document, values["expand"])
        return 200, orjson.dumps(document)
    except RefusedError as refused:
        if not refused.executed:
            raise
        if not refused.keeps_changes:
            turn.forget()
        if not call.trusted and "payment_intent" in refused.details:
            refused.details["payment_intent"] = _for_browsers(refused.details["payment_intent"])
        return refused.status, refused.body()


def _check_client_secret(turn: Turn, intent_id: str, values: Values) -> None:
    """Refuse alike an intent that does not exist and one whose secret is not this."""
    intent = turn.find(charging.KIND, intent_id)
    secret = intent["client_secret"] if intent is not None else turn.new_secret_id("none")
    if not hmac.compare_digest(str(values.get("client_secret", "")).encode(), secret.encode()):
        raise not_found(charging.KIND, intent_id, "intent")


def _for_browsers(intent: Document) -> Document:
    return {name: value for name, value in intent.items() if name in PUBLISHABLE_FIELDS}


def _presented_key(authorization: bytes | None) -> bytes | None:
    """The key of ``Bearer KEY`` or ``Basic base64(KEY:)``."""
    if not authorization:
        return None
    scheme, _, value = authorization.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip() or None
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[0] or None
    except binascii.Error:
        return None


def _server_error(what: str) -> RefusedError:
    return RefusedError(500, f"The Stripe simulator {what}; its log says why.", kind="api_error")
