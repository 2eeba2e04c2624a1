"""What the signer does beside orders: for releases, the revocation list, and licences after their issue.

The caller never says what bytes are to be signed: a release's statement must parse as a release manifest,
and every other document is built here from its parts, under a payload type of its own. So whoever can reach
the signer's actor cannot pass one kind of document off as another.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from domain import activations, licences, manifests, offline_licences, revocations, statements
from domain.activations import Activation
from domain.dsse import sign_all
from domain.errors import RejectedError
from domain.fulfilment import file_key_context, first_second
from domain.licences import Licence
from domain.offline_licences import OfflineSeal
from domain.revocations import RevocationList
from domain.signing import KeyWrapper, Signer
from storage.age.header import FILE_KEY_BYTES
from storage.signing import minisig


@dataclass(frozen=True, slots=True)
class SealRequest:
    """A release that is ready: the seller's verified statement, its file key, the bundle's BLAKE2b-512."""

    release_id: str
    statement: bytes
    bundle_blake2b: bytes
    file_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Seal:
    """The platform's part of a release: its own envelope and .minisig, and the file key wrapped."""

    countersignature: str
    minisig: str
    wrapped_file_key: bytes = field(repr=False)


LicensingDocument = Licence | Activation | OfflineSeal
"""What is signed for a licence after its issue: a successor's document, a seat, an offline file's seal."""


class ReleaseSealer:
    """A plain class over the signing backend; its deployment makes it an actor.

    ``not_before`` is since when the signing key is in use; no licence is dated before it.
    """

    def __init__(self, signer: Signer, wrapper: KeyWrapper, not_before: datetime | None = None) -> None:
        self._not_before = not_before
        self._signer = signer
        self._wrapper = wrapper

    def seal_release(self, request: SealRequest) -> Seal:
        """Countersign the statement, sign the bundle for ``minisign``, wrap the file key.

        Raises:
            DocumentError: the statement is no release manifest.
            RejectedError: ``file_key_invalid``.
            DependencyError: the backend failed; nothing was sealed.
        """
        if len(request.file_key) != FILE_KEY_BYTES:
            raise RejectedError("file_key_invalid", f"A file key has {FILE_KEY_BYTES} bytes.")
        manifest = manifests.parse(request.statement)
        (envelope,) = sign_all(self._signer, statements.PAYLOAD_TYPE, [request.statement])
        comment = f"file:{manifest.bundle_name} sku:{manifest.sku} version:{manifest.version}"
        return Seal(
            countersignature=envelope.dumps(),
            minisig=minisig.sign(self._signer, request.bundle_blake2b, comment),
            wrapped_file_key=self._wrapper.wrap(request.file_key, file_key_context(request.release_id)),
        )

    def sign_revocations(self, listed: RevocationList) -> str:
        """Sign a revocation list; returns a DSSE envelope's text.

        Raises:
            RejectedError: ``revocations_too_many``.
            DocumentError: ``revocations_invalid``.
        """
        (envelope,) = sign_all(self._signer, revocations.PAYLOAD_TYPE, [revocations.build(listed)])
        return envelope.dumps()

    def sign_licensing(self, document: LicensingDocument) -> str:
        """Sign what a licence needs after its issue; returns a DSSE envelope's text.

        A licence may come back with a later ``issued_at`` (``domain.fulfilment.issued_at`` says why).

        Raises:
            DocumentError: the document could not be read back; such a thing is never signed.
        """
        match document:
            case Licence():
                signed = licences.PAYLOAD_TYPE, licences.build(self._dated(document))
            case Activation():
                signed = activations.PAYLOAD_TYPE, activations.build(document)
            case OfflineSeal():
                signed = offline_licences.PAYLOAD_TYPE, document.payload()
            case _ as unreachable:
                assert_never(unreachable)
        (envelope,) = sign_all(self._signer, signed[0], [signed[1]])
        return envelope.dumps()

    def _dated(self, licence: Licence) -> Licence:
        if self._not_before is None or licence.issued_at >= self._not_before:
            return licence
        return replace(licence, issued_at=first_second(self._not_before))
