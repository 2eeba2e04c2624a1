"""Opens what was received with the right key: the buyer's own, or one that the marketplace releases.

A delivery that is sealed for somebody else is left sealed and said so; that is no failure, since a buyer
may buy for another. A released key is kept beside the file, because the marketplace deletes it in time.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cluster import identities, receiving
from cluster.client import MarketplaceClient
from cluster.receiving import KEY_SUFFIX, Received
from storage.age.recipients import parse_identity, public_half, recipient_text


def unseal(
    client: MarketplaceClient, one: Received, identity_path: Path, note: Callable[[str], None]
) -> Received:
    """Decrypt what can be decrypted here; another recipient's delivery stays sealed.

    Raises:
        ClientError: see ``identity_for`` and ``receiving.decrypt_received``.
    """
    plaintext = one.encrypted.with_name(one.manifest.file_name)
    identity = identity_for(client, one, identity_path)
    if identity is None:
        note(f"{one.encrypted} is sealed for {one.manifest.recipient}: decrypt it where that key is.")
        return one
    receiving.decrypt_received(one.encrypted, one.manifest, identity, plaintext)
    return replace(one, plaintext=plaintext)


def identity_for(client: MarketplaceClient, one: Received, identity_path: Path) -> bytes | None:
    """Return the 32-byte identity that opens a delivery, None when it is sealed for somebody else.

    Raises:
        ClientError: the key cannot be read, or the marketplace does not release it (any more).
    """
    manifest = one.manifest
    if manifest.mode == "released_key":
        key_path = one.encrypted.with_name(f"{manifest.file_name}{KEY_SUFFIX}")
        if key_path.exists():
            return identities.load_identity(key_path)
        return parse_identity(receiving.released_identity(client, manifest, key_path, datetime.now(UTC)))
    if not identity_path.exists():
        return None
    identity = identities.load_identity(identity_path)
    return identity if recipient_text(public_half(identity)) == manifest.recipient else None
