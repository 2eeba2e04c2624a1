"""DSSE envelopes (Dead Simple Signing Envelope, v1): signed bytes with their type, in JSON.

Decides what exactly is signed (``pae``), which envelopes are well-formed, and which trusted key made a
signature. The ``keyid`` in an envelope is an unauthenticated hint: it orders the tries and grants
nothing. Both base64 alphabets are read, as the specification asks; only the standard one is written.

Refused: unknown or duplicate members, mixed or non-canonical base64, more than ``SIGNATURES_MAX``
signatures, and documents above the size bound. The payload that is parsed is the one that was verified:
callers read ``Envelope.payload`` and nothing else.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domain import canonical_json, strict_json
from domain.document_fields import closed_object, text_field
from domain.signing import MESSAGE_BYTES_MAX, SIGNATURE_BYTES, Signer, Verifier
from domain.strict_json import DocumentError

ENVELOPE_BYTES_MAX = 16_384  # a payload of 4 KB, base64, and eight signatures fit twice over
SIGNATURES_MAX = 8  # seller, platform and witnesses; a bound on verification work per document
TRUSTED_KEYS_MAX = 64  # with eight signatures at most 512 verifications, some 20 ms
PAYLOAD_TYPE_CHARS_MAX = 128  # RFC 6838 allows 127 for each half; ours take 40
KEY_ID_CHARS_MAX = 128  # a SHA-256 in hexadecimal and a prefix; ours take 20
SIGNATURE_CHARS_MAX = 1_024  # other tools may add RSA signatures next to an Ed25519 one

_ENVELOPE = frozenset({"payloadType", "payload", "signatures"})
_SIGNATURE = frozenset({"sig"})
_KEY_ID = frozenset({"keyid"})
_TO_STANDARD = str.maketrans("-_", "+/")


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: the exact bytes that a DSSE signature is over."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature; ``key_id`` is a hint by whoever wrote the envelope, and may be missing."""

    key_id: str | None
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its media type, and one to eight signatures over ``pae`` of both."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes | str, *, max_bytes: int = ENVELOPE_BYTES_MAX) -> "Envelope":
        """Read an envelope from JSON. Nothing is verified yet.

        Raises:
            DocumentError: the codes of ``strict_json.loads``, ``field_missing``, ``field_unknown``,
                ``field_invalid``, ``base64_invalid`` or ``signatures_invalid``.
        """
        members = closed_object(strict_json.loads(data, max_bytes=max_bytes), "The envelope", _ENVELOPE)
        entries = members["signatures"]
        if not isinstance(entries, list) or not 1 <= len(entries) <= SIGNATURES_MAX:
            raise DocumentError("signatures_invalid", f"An envelope has 1 to {SIGNATURES_MAX} signatures.")
        return cls(
            payload_type=text_field(members, "payloadType", PAYLOAD_TYPE_CHARS_MAX),
            payload=decode_base64(members["payload"], "payload"),
            signatures=tuple(_parse_signature(entry) for entry in entries),
        )

    def dumps(self) -> str:
        """Write the one canonical JSON text of this envelope: sorted, compact, standard base64."""
        return canonical_json.dumps(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": self.payload_type,
                "signatures": [
                    ({} if one.key_id is None else {"keyid": one.key_id})
                    | {"sig": base64.b64encode(one.sig).decode()}
                    for one in self.signatures
                ],
            }
        ).decode()


def _parse_signature(entry: object) -> Signature:
    members = closed_object(entry, "A signature", _SIGNATURE, _KEY_ID)
    text = members["sig"]
    if not isinstance(text, str) or len(text) > SIGNATURE_CHARS_MAX:
        raise DocumentError(
            "field_invalid", f"sig must be base64 of at most {SIGNATURE_CHARS_MAX} characters."
        )
    # The specification calls an empty keyid the same as none.
    key_id = text_field(members, "keyid", KEY_ID_CHARS_MAX) if members.get("keyid", "") != "" else None
    return Signature(key_id, decode_base64(text, "sig"))


def decode_base64(text: object, where: str) -> bytes:
    """Decode padded base64 in the standard or the URL-safe alphabet, not a mixture; canonical only.

    Raises:
        DocumentError: ``base64_invalid``.
    """
    invalid = DocumentError("base64_invalid", f"{where} is not canonical, padded base64.")
    if not isinstance(text, str):
        raise invalid
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            raise invalid
        text = text.translate(_TO_STANDARD)
    try:
        raw = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are both
        raise invalid from None
    # Strict mode ignores the unused bits of the last character: encode again to see them.
    if binascii.b2a_base64(raw, newline=False).decode() != text:
        raise invalid
    return raw


def signed_message(payload_type: str, payload: bytes) -> bytes:
    """``pae``, refused above what a KMS signs in one piece.

    Raises:
        DocumentError: ``payload_too_large``.
    """
    message = pae(payload_type, payload)
    if len(message) > MESSAGE_BYTES_MAX:
        raise DocumentError(
            "payload_too_large",
            f"The document takes {len(message)} bytes to sign, and a key service signs at most "
            f"{MESSAGE_BYTES_MAX}. Shorten its texts.",
        )
    return message


def sign_each(signer: Signer, documents: Sequence[tuple[str, bytes]]) -> list[Envelope]:
    """Sign documents, each a payload type and a payload, with one batch; envelopes come in their order.

    Raises:
        DocumentError: ``payload_too_large``; nothing was signed.
    """
    signatures = signer.sign_many([signed_message(*document) for document in documents])
    return [
        Envelope(payload_type, payload, (Signature(signer.key_id, sig),))
        for (payload_type, payload), sig in zip(documents, signatures, strict=True)
    ]


def sign_all(signer: Signer, payload_type: str, payloads: Sequence[bytes]) -> list[Envelope]:
    """Sign payloads of one type with one batch; see ``sign_each``."""
    return sign_each(signer, [(payload_type, payload) for payload in payloads])


def signing_key(envelope: Envelope, trusted: Mapping[str, bytes], verify: Verifier) -> str | None:
    """Id of a trusted key with a valid signature on this envelope, or None.

    ``trusted`` maps our own key ids to 32-byte public keys. The hint only decides what is tried first.

    Raises:
        ValueError: for more than ``TRUSTED_KEYS_MAX`` keys, which is the caller's mistake.
    """
    if len(trusted) > TRUSTED_KEYS_MAX:
        raise ValueError(f"at most {TRUSTED_KEYS_MAX} trusted keys, not {len(trusted)}")
    message = pae(envelope.payload_type, envelope.payload)
    for one in envelope.signatures:
        if len(one.sig) != SIGNATURE_BYTES:
            continue
        hint = one.key_id
        for key_id in sorted(trusted, key=lambda candidate, hint=hint: candidate != hint):  # type: ignore[misc]
            if verify(trusted[key_id], message, one.sig):
                return key_id
    return None
