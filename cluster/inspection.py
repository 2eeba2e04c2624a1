"""Inspects what a buyer holds: all checks of a purchase just made, or of files that lie in a folder.

Each finding stands by itself (``cluster.verification``); this module only decides which files belong
together and what is asked of the marketplace. A file that is not there is skipped, never passed.
"""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cluster import receiving, trust
from cluster.client import ApiError, ClientError, MarketplaceClient
from cluster.private_files import read_bounded
from cluster.receiving import AGE_SUFFIX, MANIFEST_SUFFIX, Received
from cluster.verification import (
    FAILED,
    OK,
    SKIPPED,
    Check,
    check_agreement,
    check_licence,
    check_online,
    open_delivery_manifest,
)
from domain.audit.proofs import LogProof, read_proof
from domain.dsse import ENVELOPE_BYTES_MAX
from domain.errors import RejectedError
from domain.licences import Licence


def verify_received(
    client: MarketplaceClient, received: list[Received], trusted: trust.TrustedKeys, buyer_id: str
) -> list[Check]:
    """Run every check on a purchase just made, offline and online.

    Raises:
        ClientError: a file vanished, or the marketplace does not answer.
    """
    checks = []
    for one in received:
        armoured = receiving.read_licence(one.licence_path)
        licence, found = check_licence(armoured, trusted, datetime.now(UTC), buyer_id)
        checks += found
        if licence:
            checks.append(check_agreement(licence, one.manifest))
        checks += check_online(client.verify_licence(armoured, buyer_id))
    return checks


def check_release(client: MarketplaceClient, release_id: str) -> Check:
    """Say whether the release is still on sale; owners of one that was yanked keep it.

    Raises:
        ClientError: the marketplace does not answer.
    """
    try:
        yanked = client.release(release_id).get("yanked")
    except ApiError as error:
        if error.code != "release_not_found":
            raise
        return Check("online: release", SKIPPED, "The marketplace knows no such release.")
    if yanked:
        return Check("online: release", SKIPPED, f"Taken off sale at {yanked['at']}: {yanked['reason']}")
    return Check("online: release", OK, "The release was not taken off sale.")


def _log_proof(client: MarketplaceClient, document: str, size: int) -> LogProof | None:
    try:
        return read_proof(client.document_log_proof(document, size)["proof"])
    except (ApiError, RejectedError, KeyError):
        return None  # without a proof the manifest is not believed, and the check says so


def check_delivery(
    base: Path,
    chosen: Path | None,
    licence: Licence | None,
    trusted: trust.TrustedKeys,
    client: MarketplaceClient | None = None,
) -> list[Check]:
    """Check the delivery manifest and the files beside ``base``, the path of the decrypted bundle.

    ``client`` is asked for the log proof of a manifest whose key was compromised since; None: nobody is.
    """
    path = chosen or base.with_name(f"{base.name}{MANIFEST_SUFFIX}")
    if not chosen and not path.exists():
        return [Check("delivery manifest", SKIPPED, f"There is none at {path}.")]
    try:
        text = read_bounded(path, ENVELOPE_BYTES_MAX).decode("utf-8", "replace")
        manifest = open_delivery_manifest(text, trusted, partial(_log_proof, client) if client else None)
    except ClientError as error:
        return [Check("delivery manifest", FAILED, error.text, error.code)]
    checks = [Check("delivery manifest", OK, f"{manifest.delivery_id} is signed by a trusted key.")]
    if licence:
        checks.append(check_agreement(licence, manifest))
    for name, file in (("encrypted file", base.with_name(base.name + AGE_SUFFIX)), ("bundle", base)):
        checks.append(receiving.check_file(name, file, manifest))
    return checks
