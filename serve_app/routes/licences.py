"""Licences: reading one's own, verifying any, the revocation list, and the platform's public keys.

Verification reports its findings apart from each other and never fails on a bad licence: that is a
finding. Nothing that a document says about its key is believed; keys come from our own records. A licence of
a key that is compromised since holds only if this very text is in the audit log that the key's record names.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import orjson
from starlette.responses import Response

from domain import canonical_json, offline_licences, revocations
from domain.audit.entries import LICENCE, document_record
from domain.audit.proofs import LogProof
from domain.errors import BusyError, DependencyError, NotFoundError, RejectedError
from domain.licence_refusals import refusal
from domain.licence_verification import Finding, Revocations, VerificationReport, judge
from domain.licences import Licence, open_envelope, unarmour
from domain.revocations import LISTED_MAX, RevocationList
from domain.signing import KeyRecord, KeyState
from domain.strict_json import DocumentError
from serve_app import examples, examples_licences
from serve_app.auth import AUDITOR, BUYER, OPERATOR
from serve_app.calls import JSON, Call, read_model, reply
from serve_app.idempotency import answer, write_of
from serve_app.operations import Answer, Guard, Operation
from serve_app.routes import activations, ownership, reissues, transfers
from serve_app.routes.ownership import OWNERSHIP, PROOF, licence_id_of, proven
from serve_app.schemas import licences as schemas
from storage.market.licences import LicenceRow
from storage.market.signing_keys import KeysOnRecord
from storage.signing.keys import verify

log = logging.getLogger("marketplace.licences")

KEYS_TTL_S = 5.0  # how long a key that was just declared compromised may still be believed here
LISTED_WARNING = LISTED_MAX * 8 // 10  # time to do something about it is needed
REVOCATIONS_TTL_S = 60.0  # a list that did not change is signed anew this often, for its times
REVOCATIONS_RETRY_S = 1.0  # readers do not queue up for a signer that has just failed
REVOCATIONS_LIFE = timedelta(hours=24)  # how long an offline verifier may rely on one list
_ACTIVE = "active"
TEXT = "text/plain; charset=utf-8"
_REASONS = {
    "superseded": "A newer document has taken this one's place: the licence was transferred or renewed.",
}
_READERS = frozenset({BUYER, OPERATOR, AUDITOR})


@dataclass(frozen=True, slots=True)
class _HeldList:
    """A signed revocation list, by monotonic seconds: when its times want renewing, and when it ends."""

    version: int
    key_id: str
    document: bytes
    fresh_until_s: float
    ends_s: float


_NO_LIST = _HeldList(0, "", b"", float("-inf"), float("-inf"))


class LicenceRoutes:
    """Handlers, with the keys and the list that they remember for a short while."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._record: KeysOnRecord | None = None
        self._record_until_s = float("-inf")
        self._list = _NO_LIST
        self._unsigned: DependencyError | BusyError | None = None
        self._unsigned_until_s = float("-inf")
        self._list_lock = asyncio.Lock()

    async def get(self, call: Call) -> Response:
        """GET /v1/licences/{licence_id}."""
        row = await self._own_licence(call)
        return reply(200, schemas.licence_document(row), {"Cache-Control": "no-store"})

    async def _own_licence(self, call: Call) -> LicenceRow:
        row = await call.ports.licences.licence(licence_id_of(call))
        if row is None or (call.caller.role == BUYER and row.buyer_id != call.caller.principal_id):
            raise refusal("licence_not_found")
        return row

    async def verify(self, call: Call) -> Response:
        """POST /v1/licences/verify."""
        question = read_model(schemas.LicenceQuestion, await call.json())
        try:
            text = _envelope_text(question.licence)
            envelope, licence = open_envelope(text)
        except DocumentError as error:
            return reply(200, schemas.unreadable_document(error))
        keys = await self.keys_by_id(call)
        now = call.ports.clock()
        key_id = envelope.signatures[0].key_id
        logged_at = log_proof = None
        if (key := keys.get(key_id or "")) is not None and key.state is KeyState.COMPROMISED:
            logged_at = await call.ports.licences.recorded_at(licence.licence_id, text)
            log_proof = await _log_proof(call, licence.licence_id, text, key)
        standing = await call.ports.licences.standing(licence.licence_id)
        status, grace = standing.status, timedelta(days=standing.grace_days)
        # The database is the list that is always current. A licence that it does not know is judged by
        # its signature alone: a restored database may be older than the licence.
        revoked = {} if status in (None, _ACTIVE) else {licence.licence_id: f"its status is {status}"}
        report = judge(
            envelope,
            licence,
            keys,
            verify,
            revocations=Revocations(1, now + REVOCATIONS_LIFE, revoked, grace=grace),
            now=now,
            buyer_id=question.buyer_id,
            logged_at=logged_at,
            log_proof=log_proof,
        )
        if question.proof is not None and report.signature.acceptable:
            report = replace(report, ownership=await _proof_finding(call, licence, report, question.proof))
        document = schemas.report_document(licence, key_id, report, logged_at, log_proof)
        if revoked:
            document["revocation"] = {
                "ok": False,
                "status": status,
                "reason": _REASONS.get(status or "", f"The platform says that the licence is {status}."),
            }
        elif report.revocation.acceptable:
            document["revocation"]["reason"] = "The platform has not revoked the licence."
        return reply(200, document)

    async def revocations(self, call: Call) -> Response:
        """GET /v1/licences/revocations."""
        return Response(await self._current_list(call), 200, {"Cache-Control": "no-cache"}, JSON)

    async def _current_list(self, call: Call) -> bytes:
        # The version is read each time: a verifier that saw a newer list, from another replica, must not get
        # an older one here, which it would have to take for an attack.
        version = await call.ports.licences.list_version()
        key = (await self._on_record(call)).find(self._list.key_id)
        async with self._list_lock:  # many readers at once cost one signature
            if key is not None and key.state is KeyState.COMPROMISED and key.key_id == self._list.key_id:
                self._list = _NO_LIST  # nobody believes it any more
            now_s = self._monotonic()
            if version > self._list.version or now_s >= self._list.fresh_until_s:
                await self._renew_list(call, version, now_s)
        return self._list.document

    async def _renew_list(self, call: Call, version: int, now_s: float) -> None:
        try:
            if now_s < self._unsigned_until_s and self._unsigned is not None:
                raise self._unsigned.with_traceback(None)
            known, key_id, document = await _signed_list(call)
        except (DependencyError, BusyError) as failure:
            if failure is not self._unsigned:
                self._unsigned, self._unsigned_until_s = failure, now_s + REVOCATIONS_RETRY_S
            # While nobody signs, the list that says the same is as true as it was.
            if version > self._list.version or now_s >= self._list.ends_s:
                raise
            return
        ends_s = now_s + REVOCATIONS_LIFE.total_seconds()
        self._list = _HeldList(known, key_id, document, now_s + REVOCATIONS_TTL_S, ends_s)

    async def offline(self, call: Call) -> Response:
        """GET /v1/licences/{licence_id}/offline."""
        row = await self._own_licence(call)
        if row.status != _ACTIVE:
            raise refusal("licence_superseded" if row.status == "superseded" else "licence_not_active")
        listed, record = await self._current_list(call), await self._on_record(call)
        key = record.find(row.key_id)
        proof = None if key is None else await _log_proof(call, row.licence_id, row.envelope, key)
        seal = offline_licences.seal_of(row.envelope, listed, record.keys, call.ports.clock(), proof)
        envelope = await call.ports.signing.sign_licensing(seal)
        text = offline_licences.write(envelope, row.envelope, listed, record.keys, proof)
        name = f"{row.licence_id}.offline-licence.txt"
        headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{name}"'}
        return Response(text, 200, headers, TEXT)

    async def keys_by_id(self, call: Call) -> Mapping[str, KeyRecord]:
        """Return the platform's keys, as fresh as ``KEYS_TTL_S``."""
        return {key.key_id: key for key in (await self._on_record(call)).keys}

    async def keys(self, call: Call) -> Response:
        """GET /v1/keys."""
        record = await self._on_record(call)
        return reply(200, {"items": [schemas.key_document(key) for key in record.keys]})

    async def key_list(self, call: Call) -> Response:
        """GET /v1/keys/list."""
        record = await self._on_record(call)
        if record.listed is None or record.envelope is None or record.root is None:
            raise NotFoundError("key_list_missing", "No root has signed a key list here; see GET /v1/keys.")
        return reply(
            200,
            schemas.key_list_document(record.listed, record.envelope, record.root),
            {"Cache-Control": f"public, max-age={KEYS_TTL_S:.0f}"},
        )

    async def publish_key_list(self, call: Call) -> Response:
        """POST /v1/ops/key-lists."""
        value = await call.json()
        envelope = read_model(schemas.NewKeyList, value).envelope
        try:
            text = canonical_json.dumps(envelope).decode()
        except ValueError as error:
            raise RejectedError("key_list_invalid", f"This is not a key list's envelope: {error}.") from None
        body = {"published": True}
        earlier = await call.ports.signing_keys.publish(write_of(call, value), text, body, call.ports.clock())
        self._record = None  # this replica shows it at once, the others within seconds
        return answer(200, body, earlier)

    async def _on_record(self, call: Call) -> KeysOnRecord:
        if self._record is None or self._monotonic() >= self._record_until_s:
            self._record = await call.ports.signing_keys.on_record()
            self._record_until_s = self._monotonic() + KEYS_TTL_S
        return self._record


async def _log_proof(call: Call, document_id: str, text: str, key: KeyRecord) -> LogProof | None:
    """Prove that exactly this licence is in the tree that its compromised key's record names; None if not."""
    if key.log is None:
        return None
    entry = await call.ports.audit.entry(document_id)
    if entry is None or not entry.commits_to(document_record(LICENCE, text)):
        return None  # nothing is told of an entry, its salt least of all, to whoever shows another text
    return await call.ports.audit.inclusion(entry, key.log.size)


async def _signed_list(call: Call) -> tuple[int, str, bytes]:
    found = await call.ports.licences.revocations()
    issued_at = call.ports.clock().replace(microsecond=0)
    count = len(found.revoked) + len(found.suspended)
    if count > LISTED_WARNING:
        log.warning("the revocation list names %d licences, and at %d it is refused", count, LISTED_MAX)
    listed = RevocationList(
        found.version,
        issued_at,
        issued_at + REVOCATIONS_LIFE,
        found.grace_days,
        found.revoked,
        found.suspended,
    )
    envelope = orjson.loads(await call.ports.signing.sign_revocations(listed))
    document = canonical_json.dumps(revocations.document(listed, envelope))
    return listed.version, envelope["signatures"][0]["keyid"], document


def _envelope_text(licence: str | dict[str, Any]) -> str:
    if isinstance(licence, str):
        return unarmour(licence.strip())  # blank lines around it come from mail and shells
    try:
        return canonical_json.dumps(licence).decode()
    except ValueError as error:
        raise DocumentError("envelope_not_canonical", f"This is not a licence's envelope: {error}.") from None


async def _proof_finding(call: Call, licence: Licence, report: VerificationReport, proof: Any) -> Finding:
    if not await proven(call, licence.licence_id, OWNERSHIP, proof):
        return Finding(
            "not_proven",
            acceptable=False,
            reason="The key that the owner registered did not sign this proof.",
        )
    if not report.ownership.acceptable:
        return report.ownership
    return Finding(
        "proven",
        acceptable=True,
        reason="Whoever signed the challenge holds the key that the owner registered.",
    )


def operations(guard: Guard, monotonic: Callable[[], float]) -> Sequence[Operation]:
    """List the operations on licences."""
    routes = LicenceRoutes(monotonic)
    return (
        *_operations(routes),
        *activations.operations(guard, routes.keys_by_id),
        *ownership.operations(monotonic),
        *transfers.operations(),
        *reissues.operations(routes.keys_by_id),
    )


def _operations(routes: LicenceRoutes) -> Sequence[Operation]:
    return (
        Operation(
            "GET",
            "/v1/licences/revocations",
            "listRevocations",
            "The signed list of revoked licences",
            routes.revocations,
            {200: Answer("The list", schemas.RevocationList, examples_licences.REVOCATIONS)},
            public=True,
            problems=("signer_unavailable", "signer_busy"),
        ),
        Operation(
            "POST",
            "/v1/licences/verify",
            "verifyLicence",
            "Verify any licence: signature, key, expiry, revocation and ownership, each by itself",
            routes.verify,
            {200: Answer("The findings", schemas.LicenceReport, examples_licences.LICENCE_REPORT)},
            public=True,
            request=schemas.LicenceQuestion,
            request_example={"licence": examples.ARMOURED, "buyer_id": "buyer_ada"},
            problems=PROOF,
        ),
        Operation(
            "GET",
            "/v1/licences/{licence_id}",
            "getLicence",
            "One of your licences",
            routes.get,
            {200: Answer("The licence", schemas.IssuedLicence, examples_licences.LICENCE)},
            roles=_READERS,
            problems=("licence_not_found",),
        ),
        *_key_operations(routes),
    )


def _key_operations(routes: LicenceRoutes) -> Sequence[Operation]:
    return (
        Operation(
            "GET",
            "/v1/licences/{licence_id}/offline",
            "getOfflineLicence",
            "One of your licences as a file that can be checked without a network for a day",
            routes.offline,
            {200: Answer("The armoured file", media_type=TEXT)},
            roles=_READERS,
            problems=(
                "licence_not_found",
                "licence_not_active",
                "licence_superseded",
                "signer_unavailable",
                "signer_busy",
            ),
        ),
        Operation(
            "GET",
            "/v1/keys",
            "listKeys",
            "The platform's public signing keys",
            routes.keys,
            {200: Answer("The keys", schemas.PlatformKeys, {"items": [examples_licences.PLATFORM_KEY]})},
            public=True,
        ),
        Operation(
            "GET",
            "/v1/keys/list",
            "getKeyList",
            "The key list that the platform's offline root has signed",
            routes.key_list,
            {200: Answer("The list", schemas.SignedKeyList, examples_licences.KEY_LIST)},
            public=True,
            problems=("key_list_missing",),
        ),
        Operation(
            "POST",
            "/v1/ops/key-lists",
            "publishKeyList",
            "Make a key list that the root has signed the current one",
            routes.publish_key_list,
            {200: Answer("Published, now or before", schemas.KeyListReceipt, {"published": True})},
            roles=frozenset({OPERATOR}),
            write=True,
            request=schemas.NewKeyList,
            request_example={"envelope": examples_licences.KEY_LIST["envelope"]},
            problems=(
                "key_root_missing",
                "key_list_not_newer",
                "key_list_invalid",
                "payload_type_wrong",
                "key_list_signature_invalid",
                "key_list_refused",
                "key_lists_full",
            ),
        ),
    )
