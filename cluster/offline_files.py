"""Reads what ``marketplace buyer verify`` is given: an armoured licence, or an offline licence file.

An offline file brings its revocation list with it, and may say that a key that was trusted is so no more.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from cluster.client import ClientError
from cluster.private_files import read_bounded
from cluster.trust import TrustedKeys
from domain.audit.proofs import LogProof
from domain.errors import RejectedError
from domain.licences import ARMOURED_CHARS_MAX, armour, open_envelope, unarmour
from domain.offline_licences import FILE_BYTES_MAX, is_offline_licence, open_file
from storage.signing.keys import verify

OFFLINE_SUFFIX = ".offline-licence.txt"


@dataclass(frozen=True, slots=True)
class HeldLicence:
    """A licence to judge, the keys to judge it by, and the list and log proof that came with it."""

    armoured: str
    trusted: TrustedKeys
    revocations: bytes | None = None
    log_proof: LogProof | None = None

    @property
    def licence_id(self) -> str:
        """The id that the text claims; empty for a text that is no licence."""
        try:
            return open_envelope(unarmour(self.armoured))[1].licence_id
        except RejectedError:
            return ""


def read(path: Path, trusted: TrustedKeys) -> HeldLicence:
    """Read a file of either kind.

    Raises:
        ClientError: ``file_unreadable``, ``file_too_large``, and for an offline file the codes of
            ``domain.offline_licences.open_file``.
    """
    text = read_bounded(path, FILE_BYTES_MAX).decode("utf-8", "replace")
    if not is_offline_licence(text):
        if len(text) > ARMOURED_CHARS_MAX:
            raise ClientError(f"{path} is larger than any licence.", "file_too_large")
        return HeldLicence(text, trusted)
    try:
        opened = open_file(text, trusted.records, verify)
    except RejectedError as error:
        raise ClientError(f"The offline licence is refused: {error.detail}", error.code) from None
    return HeldLicence(
        armour(opened.licence),
        replace(trusted, records=dict(opened.keys)),
        opened.revocations,
        opened.log_proof,
    )
