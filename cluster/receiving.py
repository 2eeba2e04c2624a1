"""Receives deliveries: fetch, check against the signed manifest, decrypt. Whole results or none.

The encrypted file is the buyer's age header (from the signed manifest) followed by the payload (from the
link), fetched so that it can go on after an interruption (``cluster.downloading``); it gets its name only
after size and digest agree with the manifest that a trusted key signed. Decryption writes to a temporary
file as well: age releases authentic chunks before the last one is seen, so a partial plaintext must never
get the final name. Refused: payloads that are not the manifest's, and manifests of another order, delivery
or recipient.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx

from cluster.client import ApiError, ClientError, MarketplaceClient
from cluster.client_documents import Delivery
from cluster.downloading import OnBytes, download
from cluster.private_files import create_secret, make_folder, read_bounded, whole_file, write_whole
from cluster.trust import TrustedKeys
from cluster.verification import SKIPPED, Check, judged, open_delivery_manifest
from domain.delivery_manifests import DeliveryManifest, FileDigest
from domain.dsse import ENVELOPE_BYTES_MAX
from domain.licences import ARMOURED_CHARS_MAX
from storage.age.errors import AgeError, NoMatchError
from storage.age.files import decrypt
from storage.age.recipients import parse_identity, public_half, recipient_text

_ORDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
AGE_SUFFIX, MANIFEST_SUFFIX, LICENCE_SUFFIX, KEY_SUFFIX = ".age", ".delivery.json", ".licence.txt", ".key.txt"


@dataclass(frozen=True, slots=True)
class Received:
    """A fetched delivery and where its files are; ``plaintext`` once it is decrypted."""

    manifest: DeliveryManifest
    encrypted: Path
    manifest_path: Path
    licence_path: Path
    plaintext: Path | None = None


def fetch_order(
    client: MarketplaceClient,
    order_id: str,
    trusted: TrustedKeys,
    out: Path,
    on_bytes: OnBytes = lambda _received, _total: None,
    transport: httpx.BaseTransport | None = None,
) -> list[Received]:
    """Fetch all deliveries of an order into ``out``, one folder per line when there are several.

    Raises:
        ClientError: ``delivery_not_found``, nothing is handed out; nothing with a final name was left by a
            delivery that failed; see ``fetch_delivery``.
    """
    try:
        deliveries = client.deliveries(order_id)
    except ApiError as error:
        if error.code != "order_not_delivered":
            raise
        raise ClientError(
            f"Order {order_id} is not delivered yet. Pay it if it waits for payment, then try again.",
            error.code,
        ) from error
    if not deliveries:
        raise _withdrawn()
    received = []
    for delivery in deliveries:
        folder = out if len(deliveries) == 1 else out / f"line-{int(delivery['line_no'])}"
        renew = partial(_new_link, client, order_id, delivery["id"])
        received.append(fetch_delivery(delivery, order_id, trusted, folder, renew, on_bytes, transport))
    return received


def _new_link(client: MarketplaceClient, order_id: str, delivery_id: str) -> str:
    for delivery in client.deliveries(order_id):
        if delivery["id"] == delivery_id:
            return delivery["payload"]["url"]
    raise _withdrawn()


def folder_of(out: Path, order_id: str) -> Path:
    """Return the folder of a purchase below ``out``.

    Raises:
        ClientError: ``order_id_invalid``; whoever answers with an order must not choose another folder.
    """
    if not _ORDER_ID.fullmatch(order_id):
        raise ClientError(f"{order_id[:80]!a} is no order's id. Nothing was written.", "order_id_invalid")
    return out / order_id


def _withdrawn() -> ClientError:
    return ClientError(
        "Nothing is handed out any more: what was bought was refunded, or is disputed. What you fetched "
        "before stays yours to look at.",
        "delivery_not_found",
    )


def fetch_delivery(
    delivery: Delivery,
    order_id: str,
    trusted: TrustedKeys,
    folder: Path,
    renew: Callable[[], str],
    on_bytes: OnBytes = lambda _received, _total: None,
    transport: httpx.BaseTransport | None = None,
) -> Received:
    """Fetch one delivery; ``renew`` gives a new link to its payload.

    Raises:
        ClientError: ``manifest_untrusted``, ``manifest_mismatch``, ``payload_altered``,
            and those of ``downloading.download``.
    """
    manifest = open_delivery_manifest(delivery["manifest"], trusted)
    if manifest.order_id != order_id or manifest.delivery_id != delivery["id"]:
        raise ClientError(
            "The signed manifest is of another delivery than the one asked for. Nothing was kept.",
            "manifest_mismatch",
        )
    make_folder(folder)
    encrypted = folder / f"{manifest.file_name}{AGE_SUFFIX}"
    received = Received(
        manifest,
        encrypted,
        folder / f"{manifest.file_name}{MANIFEST_SUFFIX}",
        folder / f"{manifest.file_name}{LICENCE_SUFFIX}",
    )
    if not _is_complete(encrypted, manifest):
        download(delivery["payload"]["url"], renew, manifest, encrypted, on_bytes, transport)
    text = json.dumps(delivery["manifest"], separators=(",", ":"), sort_keys=True)
    write_whole(received.manifest_path, text.encode(), 0o644)
    write_whole(received.licence_path, delivery["licence"]["armoured"].encode(), 0o644)
    return received


def _is_complete(encrypted: Path, manifest: DeliveryManifest) -> bool:
    """Whether an earlier fetch left exactly this file."""
    try:
        if encrypted.stat().st_size != manifest.ciphertext_size:
            return False
        with encrypted.open("rb") as file:
            if file.read(len(manifest.header)) != manifest.header:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == manifest.payload.sha256
    except OSError:
        return False


def load_received(encrypted: Path, manifest_path: Path, trusted: TrustedKeys) -> DeliveryManifest:
    """Read the signed manifest beside a fetched file.

    Raises:
        ClientError: it is missing, not trusted, or of another file.
    """
    text = read_bounded(manifest_path, ENVELOPE_BYTES_MAX).decode("utf-8", "replace")
    manifest = open_delivery_manifest(text, trusted)
    if not _is_complete(encrypted, manifest):
        raise ClientError(
            f"{encrypted} is not the file that {manifest_path.name} describes: it was altered or cut. Fetch "
            "it "
            "again.",
            "payload_altered",
        )
    return manifest


def decrypt_received(encrypted: Path, manifest: DeliveryManifest, identity: bytes, out: Path) -> Path:
    """Decrypt a fetched file to ``out`` and check it against the manifest.

    Raises:
        ClientError: ``identity_mismatch``, ``payload_altered``, ``plaintext_mismatch``,
            ``file_unwritable``; no part of the plaintext is left.
    """
    if recipient_text(public_half(identity)) != manifest.recipient:
        raise ClientError(
            f"The delivery is sealed for {manifest.recipient}, and this identity is another one. Name the "
            "right "
            "one with --identity.",
            "identity_mismatch",
        )
    try:
        with encrypted.open("rb") as source, whole_file(out) as target:
            digest = decrypt(source, identity, target)
            if FileDigest(digest.plaintext_size, digest.plaintext_sha256) != manifest.plaintext:
                raise ClientError(
                    "What was decrypted is not what the signed manifest says. Nothing was kept; tell the "
                    "seller.",
                    "plaintext_mismatch",
                )
    except NoMatchError as error:
        raise ClientError(f"{error.detail} Nothing was kept.", "identity_mismatch") from None
    except AgeError as error:
        raise ClientError(f"{error.detail} Nothing was kept; fetch it again.", "payload_altered") from None
    except OSError as error:
        raise ClientError(f"{encrypted} cannot be read: {error.strerror}.", "file_unreadable") from error
    return out


def released_identity(
    client: MarketplaceClient, manifest: DeliveryManifest, key_path: Path, now: datetime
) -> str:
    """Ask for a released key and keep it beside the file, since the marketplace deletes it in time.

    Raises:
        ClientError: ``delivery_key_expired``, ``identity_mismatch`` and what ``create_secret`` raises.
    """
    released = client.release_delivery_key(manifest.delivery_id, f"release-key:{manifest.delivery_id}")
    # Before it is kept: a wrong one would be taken for the right one ever after.
    if recipient_text(public_half(parse_identity(released["identity"]))) != manifest.recipient:
        raise ClientError(
            "The marketplace released a key that does not open this delivery. Nothing was kept; ask again, "
            "and tell the operator if it stays.",
            "identity_mismatch",
        )
    create_secret(
        key_path,
        f"# released: {now:%Y-%m-%dT%H:%M:%SZ}\n# public key: {manifest.recipient}\n{released['identity']}\n",
    )
    return released["identity"]


def check_file(name: str, path: Path, manifest: DeliveryManifest) -> Check:
    """Check a fetched file or the bundle decrypted from it against the signed manifest."""
    if not path.exists():
        return Check(name, SKIPPED, f"There is none at {path}.")
    if path.name.endswith(AGE_SUFFIX):
        holds = _is_complete(path, manifest)
    else:
        try:
            with path.open("rb") as file:
                holds = hashlib.file_digest(file, "sha256").hexdigest() == manifest.plaintext.sha256
        except OSError as error:
            return judged(name, holds=False, good="", bad=f"{path} cannot be read: {error.strerror}.")
    return judged(
        name,
        holds=holds,
        good=f"{path.name} is exactly what the manifest describes.",
        bad=f"{path.name} was altered or cut: it is not what the manifest describes. Fetch it again.",
    )


def read_licence(path: Path) -> str:
    """Read an armoured licence; raises ClientError."""
    return read_bounded(path, ARMOURED_CHARS_MAX).decode("utf-8", "replace")
