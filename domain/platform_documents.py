"""Envelopes that the platform alone writes: read only as the exact text that it wrote.

DSSE leaves a reader some freedom: two base64 alphabets, spaces, an unsigned ``keyid``. Where there is one
writer, that freedom serves nobody but a forger, so any other text of the same envelope is refused, and the
key that the envelope names must be the one that signed. The payload is what was verified.
"""

from collections.abc import Mapping

from domain.dsse import ENVELOPE_BYTES_MAX, Envelope, pae
from domain.signing import Verifier
from domain.strict_json import DocumentError


def open_exactly(text: str, payload_type: str, what: str, *, max_bytes: int = ENVELOPE_BYTES_MAX) -> Envelope:
    """Read an envelope; ``what`` names the document in errors, as in ``a licence``. Verifies nothing.

    Raises:
        DocumentError: the codes of ``Envelope.parse``, ``payload_type_wrong``, ``signatures_invalid`` or
            ``envelope_not_canonical``.
    """
    envelope = Envelope.parse(text, max_bytes=max_bytes)
    if envelope.payload_type != payload_type:
        raise DocumentError("payload_type_wrong", f"The payload type of {what} is {payload_type}.")
    if len(envelope.signatures) != 1 or envelope.signatures[0].key_id is None:
        raise DocumentError(
            "signatures_invalid", f"The envelope of {what} has one signature, which names its key."
        )
    if envelope.dumps() != text:
        raise DocumentError("envelope_not_canonical", f"The text of {what} differs from what was issued.")
    return envelope


def named_key_signed(envelope: Envelope, trusted: Mapping[str, bytes], verify: Verifier) -> bool:
    """Whether the key that the envelope names is in ``trusted`` (public keys by id) and signed it."""
    one = envelope.signatures[0]
    public_key = trusted.get(one.key_id or "")
    if public_key is None:
        return False
    return verify(public_key, pae(envelope.payload_type, envelope.payload), one.sig)


def open_signed(
    text: str, payload_type: str, what: str, trusted: Mapping[str, bytes], verify: Verifier
) -> Envelope:
    """Read an envelope as ``open_exactly`` does, and only if a key in ``trusted`` signed it.

    Raises:
        DocumentError: the codes of ``open_exactly``, ``signature_untrusted``.
    """
    envelope = open_exactly(text, payload_type, what)
    if not named_key_signed(envelope, trusted, verify):
        raise DocumentError("signature_untrusted", f"No trusted key has signed {what}.")
    return envelope
