"""The signer as a Serve deployment: one replica in front of the signing backend."""

from collections.abc import Sequence
from pathlib import Path

from actors.publisher.sealing import LicensingDocument, ReleaseSealer, Seal, SealRequest
from actors.signer.issuer import Issuer, IssueRequest
from deployments.process import prepare_process, settle_process
from deployments.settings import Settings
from domain.errors import MarketplaceError
from domain.orders.ports import Fulfilment
from domain.revocations import RevocationList
from storage.signing.devfile import DevelopmentKeyFile


class SignerDeployment:
    """Holds the development key file; production backends sign outside Ray's workers."""

    def __init__(self, settings: Settings) -> None:
        prepare_process(settings)
        keys = DevelopmentKeyFile.load(Path(settings.signing_key_file))
        self._issuer = Issuer(keys, keys)
        self._sealer = ReleaseSealer(keys, keys)
        settle_process()

    async def issue(self, requests: Sequence[IssueRequest]) -> list[Fulfilment | MarketplaceError]:
        """See ``Issuer.issue``."""
        return await self._issuer.issue(requests)

    async def unwrap_identity(self, delivery_id: str, wrapped: bytes) -> str:
        """See ``Issuer.unwrap_identity``."""
        return self._issuer.unwrap_identity(delivery_id, wrapped)

    async def seal_release(self, request: SealRequest) -> Seal:
        """See ``ReleaseSealer.seal_release``."""
        return self._sealer.seal_release(request)

    async def sign_revocations(self, listed: RevocationList) -> str:
        """See ``ReleaseSealer.sign_revocations``."""
        return self._sealer.sign_revocations(listed)

    async def sign_licensing(self, document: LicensingDocument) -> str:
        """See ``ReleaseSealer.sign_licensing``."""
        return self._sealer.sign_licensing(document)

    async def ping(self) -> bool:
        """Answer a readiness probe."""
        return True
