"""Licences: what a buyer may use, as an in-toto statement about the bundle that was bought.

Decides the one byte sequence that a licence's signature is over, and reads it back strictly. The signed
text is a DSSE envelope with its own payload type, so that no other document of ours can pass for a
licence; buyers hold it armoured, which survives mail and copying. The platform is the only issuer, so
``open_envelope`` demands the exact text that the platform writes: any changed byte is refused.

Whether a licence is *acceptable* now is decided in ``domain.licence_verification``.
"""

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.document_fields import (
    closed_object,
    format_time,
    integer_field,
    text_field,
    time_field,
    token_field,
)
from domain.dsse import Envelope, decode_base64
from domain.licence_policies import LicencePolicy
from domain.platform_documents import open_exactly
from domain.semver import parse_version
from domain.statements import Statement, Subject
from domain.strict_json import DocumentError

PAYLOAD_TYPE = "application/vnd.illuvrse.licence.v1+json"
PREDICATE_TYPE = "urn:illuvrse:marketplace:licence:v1"
SEATS_MAX = 100_000  # an order line's own bound is lower; this one only keeps the reader safe
LINE_NO_MAX = 1_000  # same
NAME_CHARS_MAX = 128  # names are slugs of at most 64 characters, issuers are short titles

ARMOUR_BEGIN = "-----BEGIN ILLUVRSE LICENCE-----"
ARMOUR_END = "-----END ILLUVRSE LICENCE-----"
ARMOUR_COLUMNS = 64  # the line length of PEM (RFC 7468)
ARMOURED_CHARS_MAX = 24_576  # an envelope of 16 KB in base64 with its line ends

_PREDICATE = frozenset(
    {
        "licence_id",
        "order_id",
        "line_no",
        "sku_id",
        "sku_name",
        "release_id",
        "version",
        "buyer_id",
        "seller_id",
        "quantity",
        "policy",
        "issued_at",
        "issuer",
    }
)


@dataclass(frozen=True, slots=True)
class Licence:
    """One line's licence. ``quantity`` counts seats; ``issued_at`` is UTC with whole seconds."""

    licence_id: str
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
    policy: LicencePolicy
    issued_at: datetime
    issuer: str


def build(licence: Licence) -> bytes:
    """Return the payload to sign: equal licences always give equal bytes.

    Raises:
        DocumentError: for a licence that ``parse`` would refuse; such a thing is never signed.
    """
    payload = Statement(
        (Subject(licence.bundle_name, licence.bundle_sha256),), PREDICATE_TYPE, _predicate(licence)
    ).build()
    if parse(payload) != licence:
        raise DocumentError("licence_invalid", "A licence has whole seconds of UTC and plain names.")
    return payload


def _predicate(licence: Licence) -> dict[str, Any]:
    return {
        "licence_id": licence.licence_id,
        "order_id": licence.order_id,
        "line_no": licence.line_no,
        "sku_id": licence.sku_id,
        "sku_name": licence.sku_name,
        "release_id": licence.release_id,
        "version": licence.version,
        "buyer_id": licence.buyer_id,
        "seller_id": licence.seller_id,
        "quantity": licence.quantity,
        "policy": licence.policy.as_json(),
        "issued_at": format_time(licence.issued_at),
        "issuer": licence.issuer,
    }


def parse(payload: bytes) -> Licence:
    """Read a licence's payload. Says nothing about who signed it.

    Raises:
        DocumentError: the codes of ``Statement.parse``, ``licence_policy_unknown``, ``version_invalid``.
    """
    statement = Statement.parse(payload, predicate_type=PREDICATE_TYPE)
    if len(statement.subjects) != 1:
        raise DocumentError("subjects_invalid", "A licence is about exactly one bundle.")
    members = closed_object(statement.predicate, "The licence", _PREDICATE)
    return Licence(
        licence_id=token_field(members, "licence_id"),
        order_id=token_field(members, "order_id"),
        line_no=integer_field(members, "line_no", 1, LINE_NO_MAX),
        sku_id=token_field(members, "sku_id"),
        sku_name=text_field(members, "sku_name", NAME_CHARS_MAX),
        release_id=token_field(members, "release_id"),
        version=str(parse_version(token_field(members, "version"))),
        bundle_name=statement.subjects[0].name,
        bundle_sha256=statement.subjects[0].sha256,
        buyer_id=token_field(members, "buyer_id"),
        seller_id=token_field(members, "seller_id"),
        quantity=integer_field(members, "quantity", 1, SEATS_MAX),
        policy=LicencePolicy.from_json(members["policy"]),
        issued_at=time_field(members, "issued_at"),
        issuer=text_field(members, "issuer", NAME_CHARS_MAX),
    )


def open_envelope(text: str) -> tuple[Envelope, Licence]:
    """Read a licence's envelope, which must be exactly as the platform writes it. Verifies nothing.

    Raises:
        DocumentError: the codes of ``open_exactly`` and ``parse``.
    """
    envelope = open_exactly(text, PAYLOAD_TYPE, "a licence")
    return envelope, parse(envelope.payload)


def armour(envelope_text: str) -> str:
    """Wrap a licence's envelope as text in 64 columns that survives mail."""
    body = base64.b64encode(envelope_text.encode()).decode()
    lines = [body[start : start + ARMOUR_COLUMNS] for start in range(0, len(body), ARMOUR_COLUMNS)]
    return "\n".join((ARMOUR_BEGIN, *lines, ARMOUR_END, ""))


def unarmour(text: str) -> str:
    """Return the envelope inside armoured text. Line ends may be LF or CRLF, the last one may be missing.

    Raises:
        DocumentError: ``document_too_large``, ``armour_invalid``, ``base64_invalid``.
    """
    if len(text) > ARMOURED_CHARS_MAX:
        raise DocumentError("document_too_large", f"A licence has at most {ARMOURED_CHARS_MAX} characters.")
    body = text.replace("\r\n", "\n").removesuffix("\n").removeprefix(f"{ARMOUR_BEGIN}\n")
    body = body.removesuffix(f"\n{ARMOUR_END}")
    try:
        envelope_text = decode_base64(body.replace("\n", ""), "The licence").decode()
    except UnicodeDecodeError:
        raise DocumentError("armour_invalid", "The armoured licence does not hold text.") from None
    if armour(envelope_text).rstrip("\n") != text.replace("\r\n", "\n").removesuffix("\n"):
        raise DocumentError(
            "armour_invalid", f"A licence starts with {ARMOUR_BEGIN} and has lines of {ARMOUR_COLUMNS}."
        )
    return envelope_text
