"""Bodies of licences, their verification and revocation, and the platform's keys."""

import base64
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from domain.audit.proofs import LogProof, proof_json
from domain.document_fields import format_time
from domain.dsse import ENVELOPE_BYTES_MAX
from domain.key_lists import KeyList, log_json
from domain.licence_verification import Finding, VerificationReport
from domain.licences import ARMOURED_CHARS_MAX, Licence, armour
from domain.signing import KeyRecord
from domain.strict_json import DocumentError
from serve_app.schemas.audit import LogProofBody
from serve_app.schemas.base import Document, Request, rfc3339
from storage.market.licences import LicenceRow
from storage.signing.keys import public_key_pem
from storage.signing.minisig import public_key_text

BUYER_ID_CHARS_MAX = 128


class LicenceQuestion(Request):
    """A licence, armoured or as its DSSE object; and, if ownership matters, who shows it.

    ``buyer_id`` is compared with the licence; ``proof`` is a challenge that the owner's key has signed.
    """

    licence: Annotated[str, Field(max_length=ARMOURED_CHARS_MAX)] | dict[str, Any]
    buyer_id: Annotated[str, Field(max_length=BUYER_ID_CHARS_MAX)] | None = None
    proof: Annotated[str, Field(max_length=ENVELOPE_BYTES_MAX)] | dict[str, Any] | None = None


class SignatureFinding(Document):
    """Whether the named key signed exactly this licence; ``code`` is stable, and null where it did."""

    ok: bool
    code: str | None
    reason: str


class KeyFinding(Document):
    """What we know of the key that the licence names."""

    ok: bool
    state: str
    key_id: str | None
    reason: str
    recorded_at: str | None  # only for a compromised key: when this very licence entered our record
    log_proof: LogProofBody | None  # … and the proof that it is in the log's tree that the key list names


class StatusFinding(Document):
    """A finding with its stable state."""

    ok: bool
    status: str
    reason: str


class LicenceClaims(Document):
    """What a licence says; shown only if its signature holds."""

    id: str
    order_id: str
    line_no: int
    sku_id: str
    sku_name: str
    release_id: str
    version: str
    bundle_name: str
    bundle_sha256: str
    buyer_id: str
    seller_id: str
    quantity: int
    policy: dict[str, Any]
    issued_at: str
    issuer: str


class LicenceReport(Document):
    """Five findings that are kept apart; ``valid`` is their conjunction."""

    valid: bool
    signature: SignatureFinding
    key: KeyFinding
    expiry: StatusFinding
    revocation: StatusFinding
    ownership: StatusFinding
    licence: LicenceClaims | None


class IssuedLicence(Document):
    """A licence as issued, with its status now."""

    id: str
    order_id: str
    line_no: int
    sku_id: str
    release_id: str
    quantity: int
    status: str
    key_id: str
    issued_at: str
    envelope: dict[str, Any]
    armoured: str


class RevocationList(Document):
    """Licences that do not hold: for ever, and for now. In canonical JSON.

    ``envelope`` signs version, times, grace, and of each part the count and the SHA-256 of the ids, each
    followed by a line feed. ``version`` never falls.
    """

    version: int
    issued_at: str
    expires_at: str
    grace_days: int
    revoked: list[str]
    suspended: list[str]
    envelope: dict[str, Any]


class KeyLog(Document):
    """The audit log as of the last checkpoint before a key's compromise: what is in it stays valid."""

    size: int
    root: str


class PlatformKey(Document):
    """A public signing key in the forms that tools read."""

    key_id: str
    public_key: str
    pem: str
    minisign: str
    algorithm: str
    state: str
    not_before: str
    compromised_at: str | None
    log: KeyLog | None


class PlatformKeys(Document):
    """Newest first."""

    items: list[PlatformKey]


class SignedKeyList(Document):
    """The current key list: ``envelope`` is what the root signed, the rest is for reading.

    ``root_public_key`` is base64; compare it with the operator's before you believe it.
    """

    version: int
    issued_at: str
    expires_at: str
    signs: str | None
    root_public_key: str
    envelope: dict[str, Any]


class NewKeyList(Request):
    """A key list's envelope, as the root signed it."""

    envelope: dict[str, Any]


class KeyListReceipt(Document):
    """The list is the current one, or was."""

    published: Literal[True]


def licence_document(row: LicenceRow) -> dict[str, Any]:
    """Write an ``IssuedLicence``."""
    return {
        "id": row.licence_id,
        "order_id": row.order_id,
        "line_no": row.line_no,
        "sku_id": row.sku_id,
        "release_id": row.release_id,
        "quantity": row.quantity,
        "status": row.status,
        "key_id": row.key_id,
        "issued_at": rfc3339(row.issued_at),
        "envelope": orjson.loads(row.envelope),
        "armoured": armour(row.envelope),
    }


def report_document(
    licence: Licence,
    key_id: str | None,
    report: VerificationReport,
    recorded_at: datetime | None,
    log_proof: LogProof | None,
) -> dict[str, Any]:
    """Write a ``LicenceReport`` of a well-formed licence."""
    return {
        "valid": report.acceptable,
        "signature": {
            "ok": report.signature.acceptable,
            "code": None if report.signature.acceptable else "signature_invalid",
            "reason": report.signature.reason,
        },
        "key": {
            "ok": report.key_state.acceptable,
            "state": report.key_state.state,
            "key_id": key_id,
            "reason": report.key_state.reason,
            "recorded_at": None if recorded_at is None else rfc3339(recorded_at),
            "log_proof": None if log_proof is None else proof_json(log_proof),
        },
        "expiry": _finding(report.expiry),
        "revocation": _finding(report.revocation),
        "ownership": _finding(report.ownership),
        "licence": _claims(licence) if report.signature.acceptable else None,
    }


def unreadable_document(error: DocumentError) -> dict[str, Any]:
    """Write a ``LicenceReport`` of a text that is no licence: nothing else can be found out."""
    unknown = {"ok": False, "status": "unknown", "reason": "There is no licence to judge."}
    return {
        "valid": False,
        "signature": {"ok": False, "code": error.code, "reason": f"{error.detail} ({error.code})"},
        "key": {
            "ok": False,
            "state": "unknown",
            "key_id": None,
            "reason": unknown["reason"],
            "recorded_at": None,
            "log_proof": None,
        },
        "expiry": unknown,
        "revocation": unknown,
        "ownership": unknown,
        "licence": None,
    }


def key_document(key: KeyRecord) -> dict[str, Any]:
    """Write a ``PlatformKey``."""
    return {
        "key_id": key.key_id,
        "public_key": base64.b64encode(key.public_key).decode(),
        "pem": public_key_pem(key.public_key),
        "minisign": public_key_text(key.public_key),
        "algorithm": key.algorithm,
        "state": key.state.value,
        "not_before": rfc3339(key.not_before),
        "compromised_at": None if key.compromised_at is None else rfc3339(key.compromised_at),
        "log": log_json(key.log).get("log"),
    }


def key_list_document(listed: KeyList, envelope: str, root: bytes) -> dict[str, Any]:
    """Write a ``SignedKeyList``."""
    return {
        "version": listed.version,
        "issued_at": format_time(listed.issued_at),
        "expires_at": format_time(listed.expires_at),
        "signs": listed.signs,
        "root_public_key": base64.b64encode(root).decode(),
        "envelope": orjson.loads(envelope),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"ok": finding.acceptable, "status": finding.state, "reason": finding.reason}


def _claims(licence: Licence) -> dict[str, Any]:
    return {
        "id": licence.licence_id,
        "order_id": licence.order_id,
        "line_no": licence.line_no,
        "sku_id": licence.sku_id,
        "sku_name": licence.sku_name,
        "release_id": licence.release_id,
        "version": licence.version,
        "bundle_name": licence.bundle_name,
        "bundle_sha256": licence.bundle_sha256,
        "buyer_id": licence.buyer_id,
        "seller_id": licence.seller_id,
        "quantity": licence.quantity,
        "policy": licence.policy.as_json(),
        "issued_at": format_time(licence.issued_at),
        "issuer": licence.issuer,
    }
