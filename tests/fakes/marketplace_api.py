"""The marketplace's HTTP API, its storage and Stripe in memory, with real signatures and real age files.

One handler for ``httpx``: tests install it below the client, so the whole client stack runs. Only what
buyers and sellers call is here. ``tamper`` and ``fail`` spoil answers on purpose.
"""

import base64
import hashlib
import io
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import httpx

from domain import canonical_json, delivery_manifests, licences, releases, revocations
from domain.delivery_manifests import DeliveryManifest, FileDigest
from domain.dsse import sign_all
from domain.licence_policies import LicencePolicy
from domain.licences import Licence
from domain.releases import parts_of
from domain.revocations import RevocationList
from domain.statements import PAYLOAD_TYPE
from storage.age.header import wrap_file_key
from storage.age.payload import encrypt_payload
from storage.age.recipients import identity_text, parse_recipient, public_half, recipient_text
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem

BASE, STORAGE, STRIPE = "http://market.test", "http://storage.test", "http://stripe.test"
BUYER, SELLER, OPERATOR = "tok_buyer", "tok_seller", "tok_operator"
BUYER_ID = "usr_buyer"
NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


def new_signer() -> DevelopmentKeyFile:
    return DevelopmentKeyFile(secrets.token_bytes(32), secrets.token_bytes(32))


@dataclass
class FakeMarketplace:
    signer: DevelopmentKeyFile = field(default_factory=new_signer)
    bundle: bytes = b"bundle of logline " * 9_000
    file_key: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    skus: dict[str, dict[str, Any]] = field(default_factory=dict)
    releases: dict[str, dict[str, Any]] = field(default_factory=dict)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    replies: dict[tuple[str, str], httpx.Response] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    identities: dict[str, bytes] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    tamper: str = ""
    fail: list[httpx.Response | Exception] = field(default_factory=list)
    revoked: bool = False
    withdrawn: bool = False
    quote: dict[str, Any] = field(default_factory=dict)
    key_list: dict[str, Any] | None = None
    recorded_at: str | None = None
    yanked: str = ""
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    list_version: int = 1
    listed: list[str] = field(default_factory=list)
    list_signer: DevelopmentKeyFile | None = None  # of revocation lists, once the licences' key may not

    def __post_init__(self) -> None:
        out = io.BytesIO()
        self.digest = encrypt_payload(
            self.file_key, io.BytesIO(self.bundle), out, nonce=secrets.token_bytes(16)
        )
        self.payload = out.getvalue()
        self.add_sku("logline", hashlib.sha256(self.bundle).hexdigest())

    def add_sku(self, name: str, sha256: str | None, version: str = "1.2.0") -> dict[str, Any]:
        latest = None
        if sha256:
            latest = {
                "id": f"rel_{name}",
                "version": version,
                "bundle_name": f"{name}-{version}.tar.gz",
                "bundle_sha256": sha256,
                "bundle_bytes": len(self.bundle),
                "published_at": "2026-11-24T09:00:00Z",
            }
        self.skus[name] = {
            "id": f"sku_{name}",
            "name": name,
            "title": name.title(),
            "description": name,
            "seller_id": "usr_seller",
            "prices": {"USD": 1999, "EUR": 1849},
            "created_at": "2026-11-24T09:00:00Z",
            "latest_release": latest,
        }
        return self.skus[name]

    # -- transport ---------------------------------------------------------------------------------

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        if self.fail and request.url.host == "market.test":
            outcome = self.fail.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        if request.url.host == "storage.test":
            return self._storage(request)
        if request.url.host == "stripe.test":
            return self._stripe(request)
        return self._api(request)

    def _storage(self, request: httpx.Request) -> httpx.Response:
        assert "authorization" not in request.headers, "a token must never reach the storage"
        if request.method == "PUT" and "part" in request.url.params:
            data, digest = request.content, hashlib.md5(request.content, usedforsecurity=False)
            assert request.headers["content-md5"] == base64.b64encode(digest.digest()).decode()
            self.parts[request.url.path][int(request.url.params["part"])] = data
            return httpx.Response(200, headers={"ETag": f'"{digest.hexdigest()}"'})
        if request.method == "PUT":
            self.uploads[request.url.path] = request.content
            return httpx.Response(200)
        body = self.payload
        if self.tamper == "payload":
            body = body[:-1] + bytes([body[-1] ^ 1])
        elif self.tamper == "cut":
            body = body[:-100]
        elif self.tamper == "long":
            body += b"x"
        elif self.tamper == "expired":
            return httpx.Response(403)
        return httpx.Response(200, headers={"Content-Length": str(len(body))}, stream=httpx.ByteStream(body))

    def _stripe(self, request: httpx.Request) -> httpx.Response:
        form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        assert request.headers["authorization"] == "Bearer pk_test"
        order = next(one for one in self.orders.values() if one["secret"] == form["client_secret"])
        if order["status"] == "delivered":
            error = {"code": "payment_intent_unexpected_state", "payment_intent": {"status": "succeeded"}}
            return httpx.Response(400, json={"error": error})
        if form["payment_method"] == "pm_card_chargeDeclined":
            return httpx.Response(
                402, json={"error": {"code": "card_declined", "message": "Your card was declined."}}
            )
        if form["payment_method"] == "pm_card_authenticationRequired":
            self._deliver(order)
            page = {"redirect_to_url": {"url": f"{STRIPE}/3ds"}}
            return httpx.Response(200, json={"status": "requires_action", "next_action": page})
        self._deliver(order)
        return httpx.Response(200, json={"status": "succeeded"})

    # -- API -----------------------------------------------------------------------------------------

    def _api(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method, request.url.path
        key = request.headers.get("idempotency-key", "")
        if key and (path, key) in self.replies:
            return self.replies[path, key]
        response = self._route(method, path.strip("/").split("/")[1:], request)
        if key:
            self.replies[path, key] = response
        return response

    def _route(self, method: str, parts: list[str], request: httpx.Request) -> httpx.Response:
        match method, parts:
            case "GET", ["keys"]:
                return httpx.Response(200, json={"items": [self.key_document()]})
            case "GET", ["keys", "list"] if self.key_list is not None:
                return httpx.Response(200, json=self.key_list)
            case "POST", ["quotes"]:
                return httpx.Response(200, json=self.quote)
            case _, ["orders", *rest]:
                return self._route_orders(method, rest, request)
            case "POST", ["deliveries", delivery_id, "key"]:
                identity = self.identities[delivery_id]
                text = identity_text(secrets.token_bytes(32) if self.tamper == "released key" else identity)
                return httpx.Response(
                    200, json={"delivery_id": delivery_id, "identity": text, "expires_at": "x"}
                )
            case "GET", ["licences", "revocations"]:
                return httpx.Response(200, content=self.revocations())
            case "POST", ["licences", "verify"]:
                return httpx.Response(200, json=self._verify())
        return self._sell(method, parts, request)

    def _sell(self, method: str, parts: list[str], request: httpx.Request) -> httpx.Response:
        match method, parts:
            case "GET", ["skus"]:
                return httpx.Response(200, json={"items": list(self.skus.values()), "next_cursor": None})
            case "GET", ["skus", name]:
                return self._found(self.skus.get(name), "sku_not_found")
            case "POST", ["seller-keys"]:
                return httpx.Response(201, json={"key_id": "key_x", "seller_id": "s", "state": "active"})
            case "POST", ["skus"]:
                return httpx.Response(201, json=self.add_sku(json.loads(request.content)["name"], None))
            case "POST", ["skus", sku_id, "releases"]:
                return self._create_release(sku_id, json.loads(request.content))
            case "GET", ["skus", sku_id, "channels"]:
                return self._channels(sku_id)
            case "POST", ["releases", release_id, "upload"]:
                return self._begin_upload(release_id, json.loads(request.content))
            case "POST", ["releases", release_id, "upload", "complete"]:
                return self._complete_upload(release_id, json.loads(request.content))
            case "GET", ["releases", release_id]:
                yanked = {"at": "2026-11-25T09:00:00Z", "reason": self.yanked} if self.yanked else None
                return httpx.Response(200, json={"id": release_id, "yanked": yanked})
            case "POST", ["releases", release_id, "publish"]:
                return self._publish(release_id)
        return problem(404, "route_not_found", "There is no such path.")

    def _route_orders(self, method: str, rest: list[str], request: httpx.Request) -> httpx.Response:
        match method, rest:
            case "POST", []:
                return self._place(json.loads(request.content))
            case "GET", [order_id]:
                return self._found(self._public(order_id), "order_not_found")
            case "GET", [order_id, "events"]:
                return self._events(order_id, request)
            case "GET", [order_id, "deliveries"]:
                return self._deliveries(order_id)
        return problem(404, "route_not_found", "There is no such path.")

    def revocations(self, now: datetime | None = None) -> bytes:
        issued_at = (now or datetime.now(UTC)).replace(microsecond=0)
        listed = RevocationList(
            self.list_version, issued_at, issued_at + timedelta(hours=24), 0, self.listed, ()
        )
        (signed,) = sign_all(
            self.list_signer or self.signer, revocations.PAYLOAD_TYPE, [revocations.build(listed)]
        )
        return canonical_json.dumps(revocations.document(listed, json.loads(signed.dumps())))

    def key_document(self) -> dict[str, Any]:
        return {
            "key_id": self.signer.key_id,
            "public_key": base64.b64encode(self.signer.public_key).decode(),
            "pem": public_key_pem(self.signer.public_key),
            "algorithm": "ed25519",
            "state": "active",
            "not_before": "2026-01-01T00:00:00Z",
            "compromised_at": None,
        }

    def _found(self, document: dict[str, Any] | None, code: str) -> httpx.Response:
        return httpx.Response(200, json=document) if document else problem(404, code, "There is none.")

    def _create_release(self, sku_id: str, body: dict[str, Any]) -> httpx.Response:
        release_id = f"rel_{sku_id}_{body['version']}"
        where = f"/uploads/{release_id}"
        release = {
            "id": release_id,
            "sku_id": sku_id,
            "version": body["version"],
            "state": "draft",
            "bundle_name": body["bundle_name"],
            "upload": {
                "url": STORAGE + where,
                "method": "PUT",
                "headers": {"x-test": "1"},
                "expires_at": "x",
            },
        }
        self.releases[release_id] = release
        return httpx.Response(201, json=release)

    def _channels(self, sku_id: str) -> httpx.Response:
        sku = next(one for one in self.skus.values() if one["id"] == sku_id)
        latest = sku["latest_release"]
        if latest is None:
            return problem(404, "sku_not_found", "There is none.")
        return httpx.Response(
            200, json={"items": [{**latest, "release_id": latest["id"], "channel": "stable"}]}
        )

    def _begin_upload(self, release_id: str, body: dict[str, Any]) -> httpx.Response:
        where = f"/uploads/{release_id}"
        come = self.parts.setdefault(where, {})
        sizes = parts_of(body["bundle_bytes"])
        first = body["first_part"]
        numbers = range(first, min(first + 2, len(sizes) + 1))  # two parts a page
        parts = [
            {
                "number": number,
                "bytes": sizes[number - 1],
                "etag": hashlib.md5(come[number], usedforsecurity=False).hexdigest()
                if number in come
                else None,
                "url": f"{STORAGE}{where}?part={number}",
            }
            for number in numbers
        ]
        after = numbers[-1] + 1
        document = {
            "part_bytes": releases.PART_BYTES,
            "parts_total": len(sizes),
            "parts": parts,
            "next_part": after if after <= len(sizes) else None,
            "expires_at": "x",
        }
        return httpx.Response(200, json=document)

    def _complete_upload(self, release_id: str, body: dict[str, Any]) -> httpx.Response:
        come = self.parts[f"/uploads/{release_id}"]
        whole = [come[one["number"]] for one in body["parts"]]
        self.uploads[f"/uploads/{release_id}"] = b"".join(whole)
        return httpx.Response(200, json={"release_id": release_id, "bundle_version": "1"})

    def _publish(self, release_id: str) -> httpx.Response:
        data = self.uploads[f"/uploads/{release_id}"]
        release = {**self.releases[release_id], "state": "published"}
        release |= {"bundle_sha256": hashlib.sha256(data).hexdigest(), "bundle_bytes": len(data)}
        for sku in self.skus.values():
            if sku["id"] == release["sku_id"]:
                sku["latest_release"] = {**release, "published_at": "x"}
        return httpx.Response(200, json=release)

    def _place(self, body: dict[str, Any]) -> httpx.Response:
        order_id = f"ord_{len(self.orders) + 1:026d}"
        line = body["lines"][0]
        recipient = body["delivery"].get("recipient")
        self.orders[order_id] = {
            "id": order_id,
            "secret": f"pi_{order_id}_secret",
            "status": "awaiting_payment",
            "body": body,
            "recipient": recipient,
            "quantity": line["quantity"],
        }
        return httpx.Response(201, json=self._public(order_id))

    def _public(self, order_id: str) -> dict[str, Any] | None:
        order = self.orders.get(order_id)
        if order is None:
            return None
        waits = order["status"] == "awaiting_payment"
        return {
            "id": order_id,
            "status": order["status"],
            "buyer_id": BUYER_ID,
            "currency": order["body"]["currency"],
            "total_minor": 1999 * order["quantity"],
            "lines": [],
            "delivery": {"mode": order["body"]["delivery"]["mode"], "recipient": order["recipient"]},
            "country": None,
            "payment": {
                "method": order["body"]["payment_method"],
                "provider": "stripe",
                "payment_intent_id": f"pi_{order_id}",
                "checkout_session_id": None,
                "client_secret": order["secret"] if waits else None,
                "checkout_url": f"{STRIPE}/c/pay/1" if waits else None,
                "publishable_key": "pk_test",
                "error": None,
            },
            "end": None,
            "created_at": "2026-11-24T09:30:00Z",
            "updated_at": "2026-11-24T09:30:00Z",
            "seq": len(self._kinds(order)),
        }

    def _kinds(self, order: dict[str, Any]) -> list[tuple[str, str]]:
        first = [("order.created", "created"), ("order.payment_opened", "awaiting_payment")]
        rest = [("order.paid", "paid"), ("order.delivered", "delivered")]
        return first + (rest if order["status"] == "delivered" else [])

    def _events(self, order_id: str, request: httpx.Request) -> httpx.Response:
        order = self.orders[order_id]
        if order["body"]["payment_method"] == "checkout":
            self._deliver(order)  # somebody pays on the page
        events = [
            {"order_id": order_id, "seq": seq, "kind": kind, "at": "2026-11-24T09:30:00Z", "status": status}
            for seq, (kind, status) in enumerate(self._kinds(order), 1)
        ]
        if "event-stream" not in request.headers["accept"]:
            return httpx.Response(200, json={"items": events})
        after = int(request.headers.get("last-event-id", "0"))
        if self.tamper == "stream":  # the connection ends after one event each time
            events = [one for one in events if one["seq"] > after][:1]
        lines = ": hello\n\n" + "".join(
            f"id: {one['seq']}\nevent: {one['kind']}\ndata: {json.dumps(one)}\n\n"
            for one in events
            if one["seq"] > after
        )
        return httpx.Response(200, content=lines.encode(), headers={"Content-Type": "text/event-stream"})

    # -- fulfilment ----------------------------------------------------------------------------------

    def _deliver(self, order: dict[str, Any]) -> None:
        order["status"] = "delivered"

    def _deliveries(self, order_id: str) -> httpx.Response:
        order = self.orders.get(order_id)
        if order is None:
            return problem(404, "order_not_found", "There is none.")
        if order["status"] != "delivered":
            return problem(409, "order_not_delivered", "The order is not delivered yet.")
        items = [] if self.withdrawn else [self._delivery(order)]
        return httpx.Response(200, json={"items": items})

    def _delivery(self, order: dict[str, Any]) -> dict[str, Any]:
        delivery_id = f"dlv_{order['id'][4:]}"
        recipient = order["recipient"]
        if recipient is None:
            identity = self.identities.setdefault(delivery_id, secrets.token_bytes(32))
            recipient = recipient_text(public_half(identity))
        header = order.setdefault("header", wrap_file_key(self.file_key, parse_recipient(recipient)))
        file_name = "logline-1.2.0.tar.gz"
        manifest = DeliveryManifest(
            delivery_id=delivery_id,
            order_id="ord_" + "9" * 26 if self.tamper == "order" else order["id"],
            line_no=1,
            licence_id=f"lic_{order['id'][4:]}",
            release_id="rel_logline",
            mode=order["body"]["delivery"]["mode"],
            recipient=recipient,
            header=header,
            payload=FileDigest(self.digest.payload_size, self.digest.payload_sha256),
            plaintext=FileDigest(self.digest.plaintext_size, self.digest.plaintext_sha256),
            file_name=file_name,
            created_at=NOW,
        )
        licence = Licence(
            licence_id=manifest.licence_id,
            order_id=order["id"],
            line_no=1,
            sku_id="sku_logline",
            sku_name="logline",
            release_id="rel_logline",
            version="1.2.0",
            bundle_name=file_name,
            bundle_sha256=manifest.plaintext.sha256,
            buyer_id=BUYER_ID,
            seller_id="usr_seller",
            quantity=order["quantity"],
            policy=LicencePolicy(),
            issued_at=NOW,
            issuer="Test",
        )
        signer = new_signer() if self.tamper == "signer" else self.signer
        (signed,) = sign_all(signer, PAYLOAD_TYPE, [delivery_manifests.build(manifest)])
        (issued,) = sign_all(signer, licences.PAYLOAD_TYPE, [licences.build(licence)])
        return {
            "id": delivery_id,
            "line_no": 1,
            "release_id": "rel_logline",
            "licence_id": licence.licence_id,
            "mode": manifest.mode,
            "recipient": recipient,
            "file_name": file_name,
            "header_base64": base64.b64encode(header).decode(),
            "manifest": json.loads(signed.dumps()),
            "payload": {"url": f"{STORAGE}/payloads/1", "expires_at": "x", "bytes": 1, "sha256": "x"},
            "licence": {
                "id": licence.licence_id,
                "armoured": licences.armour(issued.dumps()),
                "envelope": json.loads(issued.dumps()),
            },
            "key_release": None,
        }

    def _verify(self) -> dict[str, Any]:
        return {
            "valid": not self.revoked,
            "signature": {"ok": True, "code": None, "reason": "valid"},
            "key": {"state": "active", "key_id": self.signer.key_id, "recorded_at": self.recorded_at},
            "expiry": {"status": "perpetual"},
            "revocation": {"status": "revoked" if self.revoked else "not_revoked", "reason": "refunded"},
            "ownership": {"status": "owner"},
            "licence": {},
        }


def problem(status: int, code: str, detail: str) -> httpx.Response:
    return httpx.Response(
        status,
        json={"type": f"urn:x:{code}", "title": code, "status": status, "detail": detail, "code": code},
        headers={"Content-Type": "application/problem+json", "X-Request-Id": "req-12345678"},
    )
