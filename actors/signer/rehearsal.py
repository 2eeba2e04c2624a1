"""Rehearsal: a signing backend proves itself before it serves, and is warm afterwards.

It signs, wraps and unwraps for real: the first order finds connections, sessions and libraries ready, and a
backend that signs with another key than the recorded one is found before an order is.
Refuses to serve with a key that is not the recorded one, or whose wrapped secrets do not open again.
"""

import secrets

from domain.dsse import Envelope, sign_all, signing_key
from domain.errors import DependencyError
from domain.signing import Keys
from storage.age.header import FILE_KEY_BYTES, wrap_file_key
from storage.age.recipients import public_half
from storage.signing.keys import verify

# No document of ours has this type, so what a rehearsal signs passes for nothing else.
PAYLOAD_TYPE = "application/vnd.illuvrse.rehearsal.v1"
CONTEXT = {"purpose": "rehearsal"}


def rehearse(keys: Keys, public_key: bytes) -> None:
    """Sign, verify against the recorded ``public_key``, wrap and unwrap once.

    Raises:
        DependencyError: ``signing_key_mismatch`` or ``wrapping_key_broken``; or the backend's own failure.
    """
    (envelope,) = sign_all(keys, PAYLOAD_TYPE, [secrets.token_bytes(32)])
    written = Envelope.parse(envelope.dumps())
    if signing_key(written, {keys.key_id: public_key}, verify) is None:
        raise DependencyError(
            "signing_key_mismatch",
            f"The signing backend does not sign with the recorded key {keys.key_id}. It is not used.",
        )
    file_key = secrets.token_bytes(FILE_KEY_BYTES)
    opened = keys.unwrap(keys.wrap(file_key, CONTEXT), CONTEXT)
    if opened != file_key:
        raise DependencyError(
            "wrapping_key_broken", "The signing backend does not open what it wrapped. It is not used."
        )
    wrap_file_key(opened, public_half(secrets.token_bytes(32)))
