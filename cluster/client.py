"""A typed, synchronous client of the marketplace's HTTP API: what the command line and the demo use.

Decides when a request is repeated: after a lost connection, 429, 503 and ``idempotency_in_progress``,
a bounded number of times, with the *same* idempotency key, which is what makes repeating a write safe.
Progress streams (server-sent events) are resumed after ``Last-Event-ID``.
Refused: answers that are no JSON objects, and bodies above a bound. Tokens go to the marketplace only:
uploads and payments use clients of their own without it. Contract: ``docs/api.md``.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote
from uuid import uuid4

import httpx

from cluster.client_documents import (
    Channel,
    Delivery,
    IssuedToken,
    LicenceReport,
    Order,
    OrderEvent,
    PlatformKey,
    Quote,
    RegisteredKey,
    Release,
    ReleasedKey,
    SellerKeyRecord,
    SignedKeyList,
    Sku,
    UploadParts,
)

TIMEOUT_S = 15.0  # the server's own deadline is ten
ATTEMPTS_MAX = 5  # with the pauses below some ten seconds: a host that dies is replaced in that time
CONNECT_ATTEMPTS_MAX = 3  # nobody listens: a wrong address, most often, so the user hears it soon
RETRY_PAUSE_S = 0.5  # doubled on each further attempt
RETRY_PAUSE_MAX_S = 5.0  # also the most that a Retry-After is believed
STREAM_SILENCE_S = 40.0  # the server sends a heartbeat every 15 s
EVENT_LINE_CHARS_MAX = 65_536  # an order's event is about 1 KB
PAGES_MAX = 1_000  # of 100 SKUs each; a cursor that never ends is a broken server
TERMINAL = frozenset({"delivered", "expired", "cancelled", "refunded", "dispute_won", "dispute_lost"})
HTTP_TOO_MANY, HTTP_UNAVAILABLE, HTTP_CONFLICT = 429, 503, 409


class ClientError(Exception):
    """An expected failure; the text says what happened, why, and what to do."""

    def __init__(self, text: str, code: str = "client_error") -> None:
        super().__init__(text, code)
        self.text = text
        self.code = code

    def __str__(self) -> str:
        return self.text


class ApiError(ClientError):
    """The server refused: its status, stable code, detail, field errors and request id."""

    def __init__(
        self, status: int, code: str, detail: str, errors: list[dict[str, str]], request_id: str
    ) -> None:
        fields = "; ".join(f"{one.get('pointer', '')}: {one.get('detail', '')}" for one in errors)
        text = f"{detail}{f' ({fields})' if fields else ''} [{status} {code}, request {request_id}]"
        super().__init__(text, code)
        self.args = (status, code, detail, errors, request_id)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.request_id = request_id


class UnreachableError(ClientError):
    """Nobody answers."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"{url} does not answer: {reason}. Check the address, or start the marketplace with `make up`.",
            "unreachable",
        )
        self.args = (url, reason)


class MarketplaceClient:
    """One connection pool to one marketplace; use as a context manager.

    ``pause`` sleeps between attempts and ``transport`` carries requests; both are there for tests.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url, headers=headers, timeout=TIMEOUT_S, transport=transport
        )
        self._pause = pause

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._http.close()

    # -- catalogue ---------------------------------------------------------------------------------

    def skus(self) -> Iterator[Sku]:
        """Yield all published SKUs, page by page."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = self._get("/v1/skus", {"limit": "100"} | ({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                return
        raise ClientError("The catalogue's pages never end; tell the operator.", "cursor_invalid")

    def sku(self, name_or_id: str) -> Sku:
        """Return one SKU; raises ApiError ``sku_not_found``."""
        return cast("Sku", self._get(f"/v1/skus/{_segment(name_or_id)}"))

    def create_sku(self, name: str, title: str, description: str, prices: Mapping[str, int], key: str) -> Sku:
        """List a SKU; raises ApiError ``sku_name_taken``."""
        body = {"name": name, "title": title, "description": description, "prices": dict(prices)}
        return cast("Sku", self._write("POST", "/v1/skus", body, key))

    def register_seller_key(self, public_key_base64: str, key: str) -> SellerKeyRecord:
        """Register the key that release manifests are signed with."""
        return cast(
            "SellerKeyRecord", self._write("POST", "/v1/seller-keys", {"public_key": public_key_base64}, key)
        )

    def channels(self, name_or_id: str) -> list[Channel]:
        """Return a SKU's channels with their newest releases, none for a SKU that was never released."""
        try:
            return cast("list[Channel]", self._get(f"/v1/skus/{_segment(name_or_id)}/channels")["items"])
        except ApiError as error:
            if error.code != "sku_not_found":
                raise
            return []

    def release(self, release_id: str) -> Release:
        """Return a published release; raises ApiError ``release_not_found``."""
        return cast("Release", self._get(f"/v1/releases/{_segment(release_id)}"))

    def yank(self, release_id: str, reason: str, key: str) -> Release:
        """Take a release off sale for good."""
        path = f"/v1/releases/{_segment(release_id)}/yank"
        return cast("Release", self._write("POST", path, {"reason": reason}, key))

    def seller_keys(self) -> list[RegisteredKey]:
        """Return the seller's keys."""
        return cast("list[RegisteredKey]", self._get("/v1/seller-keys")["items"])

    def revoke_seller_key(self, key_id: str, state: str, reason: str, key: str) -> RegisteredKey:
        """Have a key sign nothing more."""
        path = f"/v1/seller-keys/{_segment(key_id)}/revoke"
        return cast("RegisteredKey", self._write("POST", path, {"state": state, "reason": reason}, key))

    def begin_upload(self, release_id: str, bundle_bytes: int, first_part: int) -> UploadParts:
        """Begin an upload in parts, or learn how it stands."""
        path = f"/v1/releases/{_segment(release_id)}/upload"
        body = {"bundle_bytes": bundle_bytes, "first_part": first_part}
        # Each asking is a request of its own: what it is answered changes as parts come.
        return cast("UploadParts", self._write("POST", path, body, f"upload:{uuid4()}"))

    def complete_upload(self, release_id: str, etags: Mapping[int, str]) -> None:
        """Make the bundle of its parts."""
        path = f"/v1/releases/{_segment(release_id)}/upload/complete"
        parts = [{"number": number, "etag": etag} for number, etag in sorted(etags.items())]
        self._write("POST", path, {"parts": parts}, f"complete:{uuid4()}")

    def create_release(self, sku_id: str, version: str, bundle_name: str, channel: str, key: str) -> Release:
        """Draft a release; the answer says where the bundle is to be put."""
        body = {"version": version, "bundle_name": bundle_name, "channel": channel}
        return cast("Release", self._write("POST", f"/v1/skus/{_segment(sku_id)}/releases", body, key))

    def publish(self, release_id: str, manifest: Mapping[str, Any], key: str) -> Release:
        """Publish a release under the seller's signed manifest (a DSSE object)."""
        path = f"/v1/releases/{_segment(release_id)}/publish"
        return cast("Release", self._write("POST", path, {"manifest": dict(manifest)}, key))

    # -- orders ------------------------------------------------------------------------------------

    def place_order(self, body: Mapping[str, Any], key: str) -> Order:
        """Place an order; the same key never places a second one."""
        return cast("Order", self._write("POST", "/v1/orders", body, key))

    def quote(self, body: Mapping[str, Any]) -> Quote:
        """Ask what a cart costs now; a pure read."""
        return cast("Quote", self._write("POST", "/v1/quotes", body, None))

    def order(self, order_id: str) -> Order:
        """Return one of the caller's orders."""
        return cast("Order", self._get(f"/v1/orders/{_segment(order_id)}"))

    def cancel_order(self, order_id: str, key: str) -> Order:
        """Cancel an order before it is paid; raises ApiError ``order_not_cancellable``."""
        return cast("Order", self._write("POST", f"/v1/orders/{_segment(order_id)}/cancellation", {}, key))

    def order_events(self, order_id: str) -> list[OrderEvent]:
        """Return all events of an order so far."""
        path = f"/v1/orders/{_segment(order_id)}/events"
        return cast("list[OrderEvent]", self._get(path, headers={"Accept": "application/json"})["items"])

    def follow(self, order_id: str, timeout_s: float) -> Iterator[OrderEvent]:
        """Yield an order's events as they happen until it ends.

        Raises:
            ClientError: ``follow_timeout`` after ``timeout_s`` seconds; the order goes on by itself.
        """
        deadline = time.monotonic() + timeout_s
        last_seq = 0
        failures = 0
        while True:
            try:
                for event in self._stream(order_id, last_seq, deadline):
                    last_seq = event["seq"]
                    failures = 0
                    yield event
                    if event["status"] in TERMINAL:
                        return
            except httpx.TransportError as error:
                failures += 1
                if failures >= ATTEMPTS_MAX:
                    raise UnreachableError(self.base_url, _reason(error)) from error
            if time.monotonic() > deadline:
                raise ClientError(
                    f"Order {order_id} is not finished after {timeout_s:.0f} s. It goes on by itself; look "
                    f"again with `marketplace buyer fetch {order_id}`.",
                    "follow_timeout",
                )
            self._pause(RETRY_PAUSE_S)

    def deliveries(self, order_id: str) -> list[Delivery]:
        """Return an order's deliveries; raises ApiError ``order_not_delivered`` before there are any."""
        return cast("list[Delivery]", self._get(f"/v1/orders/{_segment(order_id)}/deliveries")["items"])

    def release_delivery_key(self, delivery_id: str, key: str) -> ReleasedKey:
        """Ask for the key of a released-key delivery. The release is recorded for good."""
        path = f"/v1/deliveries/{_segment(delivery_id)}/key"
        return cast("ReleasedKey", self._write("POST", path, {}, key))

    # -- licences, keys, operators -----------------------------------------------------------------

    def platform_keys(self) -> list[PlatformKey]:
        """Return the platform's public signing keys."""
        return cast("list[PlatformKey]", self._get("/v1/keys")["items"])

    def key_list(self) -> SignedKeyList | None:
        """Return the signed key list; None where no root has signed one, or the server knows no lists."""
        try:
            return cast("SignedKeyList", self._get("/v1/keys/list"))
        except ApiError as error:
            if error.code in ("key_list_missing", "route_not_found"):
                return None
            raise

    def publish_key_list(self, envelope: Mapping[str, Any], key: str) -> None:
        """Make a signed key list the current one (operators); raises ApiError with the reason why not."""
        self._write("POST", "/v1/ops/key-lists", {"envelope": dict(envelope)}, key)

    def revocations(self) -> dict[str, Any]:
        """Return the signed revocation list; canonical JSON gives the bytes that were sent."""
        return self._get("/v1/licences/revocations")

    def verify_licence(self, armoured: str, buyer_id: str | None = None) -> LicenceReport:
        """Ask the server what it holds of a licence; a pure read."""
        body: dict[str, Any] = {"licence": armoured} | ({"buyer_id": buyer_id} if buyer_id else {})
        return cast("LicenceReport", self._write("POST", "/v1/licences/verify", body, None))

    def licences(self) -> Iterator[dict[str, Any]]:
        """Yield the caller's licences, page by page."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = self._get("/v1/licences", {"limit": "100"} | ({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                return
        raise ClientError("The pages of licences never end; tell the operator.", "cursor_invalid")

    def offline_licence(self, licence_id: str) -> str:
        """Return the licence's offline file."""
        return self._response("GET", f"/v1/licences/{_segment(licence_id)}/offline").text

    def text(self, path: str) -> str:
        """Return an answer's text."""
        return self._response("GET", path).text

    def data(self, path: str) -> bytes:
        """Return an answer's bytes."""
        return self._response("GET", path).content

    def log_proof(self, subject_id: str, since: int | None = None) -> dict[str, Any]:
        """Return the proof that something is in the audit log; ``since``: and that it continues that size."""
        query = {} if since is None else {"from": str(since)}
        return self._get(f"/v1/audit/proofs/{_segment(subject_id)}", query)

    def document_log_proof(self, document: str, size: int) -> dict[str, Any]:
        """Return the proof that a document that one holds is in the first part of the audit log."""
        return self._write("POST", "/v1/audit/proofs", {"document": document, "size": size}, None)

    def log_entries(self, begin: int, limit: int) -> list[dict[str, Any]]:
        """Return entries of the audit log (operators, auditors)."""
        page = self._get("/v1/audit/entries", {"from": str(begin), "limit": str(limit)})
        return [one for one in page["items"] if isinstance(one, dict)]

    def checkpoint_before(self, before: str) -> dict[str, Any]:
        """Return the last checkpoint that was kept before a time (operators, auditors)."""
        return self._get("/v1/audit/checkpoints", {"before": before})

    def act_on_licence(self, licence_id: str, act: str, body: Mapping[str, Any], key: str) -> dict[str, Any]:
        """POST to one of a licence's lists: ``activations``, ``transfers``, ``renewals`` and so on."""
        return self._write("POST", f"/v1/licences/{_segment(licence_id)}/{act}", body, key)

    def reissue_licence(self, licence_id: str, reason: str) -> dict[str, Any]:
        """Have a licence whose key is compromised reissued (operators); again, it is told what was made."""
        path = f"/v1/ops/licences/{_segment(licence_id)}/reissue"
        return self._write("POST", path, {"reason": reason}, f"reissue-{licence_id}")

    def act_on_activation(self, activation_id: str, act: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT a ``heartbeat`` or a ``release``; doing it twice is doing it once."""
        return self._write("PUT", f"/v1/activations/{_segment(activation_id)}/{act}", body, None)

    def act_on_transfer(self, transfer_id: str, act: str, key: str) -> dict[str, Any]:
        """POST an ``acceptance`` or an ``end``."""
        return self._write("POST", f"/v1/transfers/{_segment(transfer_id)}/{act}", {}, key)

    def issue_token(self, role: str, principal_id: str, key: str) -> IssuedToken:
        """Issue a bearer token (operators)."""
        body = {"role": role, "principal_id": principal_id}
        return cast("IssuedToken", self._write("POST", "/v1/ops/tokens", body, key))

    # -- how -----------------------------------------------------------------------------------------

    def _get(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        return self._send("GET", path, params=dict(params or {}), headers=dict(headers or {}))

    def _get_text(self, path: str, params: Mapping[str, str]) -> str:
        return self._response("GET", path, params=dict(params)).text

    def _write(self, method: str, path: str, body: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        headers = {"Idempotency-Key": key} if key else {}
        return self._send(method, path, json=dict(body), headers=headers)

    def _send(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        return _object(self._response(method, path, **request))

    def _response(self, method: str, path: str, **request: Any) -> httpx.Response:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                refused = isinstance(error, httpx.ConnectError) and attempt >= CONNECT_ATTEMPTS_MAX
                if refused or attempt == ATTEMPTS_MAX:
                    raise UnreachableError(self.base_url, _reason(error)) from error
                self._pause(_pause_s(attempt, None))
                continue
            if response.is_success:
                return response
            refusal = api_error(response)
            if attempt == ATTEMPTS_MAX or not _may_pass(refusal):
                raise refusal
            self._pause(_pause_s(attempt, response.headers.get("Retry-After")))
        raise AssertionError("the last attempt returns or raises")

    def _stream(self, order_id: str, last_seq: int, deadline: float) -> Iterator[OrderEvent]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(last_seq)} if last_seq else {})
        path = f"/v1/orders/{_segment(order_id)}/events"
        silence = httpx.Timeout(TIMEOUT_S, read=STREAM_SILENCE_S)
        with self._http.stream("GET", path, headers=headers, timeout=silence) as response:
            if not response.is_success:
                response.read()
                refusal = api_error(response)
                if _may_pass(refusal):
                    return
                raise refusal
            for line in response.iter_lines():
                if len(line) > EVENT_LINE_CHARS_MAX:
                    raise ClientError("The progress stream is not what it should be.", "stream_malformed")
                # `id` and `event` repeat what the data holds.
                if line.startswith("data:"):
                    yield cast("OrderEvent", json.loads(line.removeprefix("data:")))
                if time.monotonic() > deadline:
                    return


def api_error(response: httpx.Response) -> ApiError:
    """Read a problem document (RFC 9457); anything else becomes one by its status."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    return ApiError(
        response.status_code,
        str(problem.get("code", f"http_{response.status_code}")),
        str(problem.get("detail") or problem.get("title") or "The server gave no reason."),
        [one for one in problem.get("errors") or [] if isinstance(one, dict)],
        # A proxy in between may add one of its own: the first is the marketplace's.
        next(iter(response.headers.get_list("X-Request-Id", split_commas=True)), "-"),
    )


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ClientError(
            f"{response.request.url.path} did not answer with a JSON object. Is this a marketplace's "
            "address?",
            "answer_malformed",
        )
    return document


def _may_pass(refusal: ApiError) -> bool:
    return refusal.status in (HTTP_TOO_MANY, HTTP_UNAVAILABLE) or refusal.code == "idempotency_in_progress"


def _pause_s(attempt: int, retry_after: str | None) -> float:
    wanted = (
        float(retry_after) if retry_after and retry_after.isdigit() else RETRY_PAUSE_S * 2 ** (attempt - 1)
    )
    return min(wanted, RETRY_PAUSE_MAX_S)


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__


def _segment(text: str) -> str:
    return quote(text, safe="")
