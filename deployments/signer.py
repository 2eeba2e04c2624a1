"""The signer as a Serve deployment: one replica in front of the signing backends.

Calls run in threads, because backends are reached by blocking requests; health probes are answered
meanwhile. A watch looks at the key record and at a backend that is away every ``WATCH_PERIOD_S``.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import psycopg

from actors.publisher.sealing import LicensingDocument, Seal, SealRequest
from actors.signer.checkpoints import CheckpointSigner, HeadClaim, LastSigned, SignedHead
from actors.signer.issuer import IssueRequest
from actors.signer.metrics import SignerMetrics
from actors.signer.roster import Roster
from deployments.clock import utc_now
from deployments.process import prepare_process, settle_process
from deployments.settings import Settings
from domain.errors import DependencyError, MarketplaceError
from domain.orders.ports import Fulfilment
from domain.revocations import RevocationList
from storage.market.audit_log import read_newest_notes
from storage.market.signing_keys import KeysOnRecord, OwnConnectionKeys, register_signing_key
from storage.signing.backends import FILE, open_backend, parse_address
from storage.signing.keys import register

log = logging.getLogger("marketplace.signer")

R = TypeVar("R")

CALLS_MAX = 8  # at once; more wait, and no caller waits longer than its deadline
PREPARING_MAX = 16  # orders whose keys are unwrapped at once by a remote backend
WATCH_PERIOD_S = 2.0  # how long a rotation, a compromise or a backend's return takes to be noticed


class SignerDeployment:
    """Production backends sign outside Ray's workers; the development backend's keys are in here."""

    def __init__(self, settings: Settings) -> None:
        prepare_process(settings)
        dsn = settings.postgres_dsn
        self._keys = OwnConnectionKeys(dsn)
        self._metrics = SignerMetrics()
        self._calls = ThreadPoolExecutor(CALLS_MAX, thread_name_prefix="signer")
        self._record = KeysOnRecord(())
        self._checkpoints = CheckpointSigner(lambda: self._on_record().keys, partial(_newest_notes, dsn))
        remote = any(parse_address(one).scheme != FILE for one in settings.signing_backends)
        self._roster = Roster(
            settings.signing_backends,
            lambda address: open_backend(address, self._metrics.observe),
            self._on_record,
            lambda public_key: register_signing_key(dsn, register(public_key, utc_now())),
            ThreadPoolExecutor(PREPARING_MAX, thread_name_prefix="prepare").map if remote else map,
        )
        self._roster.refresh()  # a wrong key ends the process here, and the deployment says why
        self._ending = threading.Event()
        self._watch = threading.Thread(target=self._look, name="signer-watch", daemon=True)
        self._watch.start()
        settle_process()

    async def issue(self, requests: Sequence[IssueRequest]) -> list[Fulfilment | MarketplaceError]:
        """See ``Issuer.issue``."""
        self._metrics.orders(len(requests))
        return await self._run(lambda: self._roster.desk.issuer.issue(requests))

    async def unwrap_identity(self, delivery_id: str, wrapped: bytes) -> str:
        """See ``Issuer.unwrap_identity``."""
        return await self._run(lambda: self._roster.desk.issuer.unwrap_identity(delivery_id, wrapped))

    async def seal_release(self, request: SealRequest) -> Seal:
        """See ``ReleaseSealer.seal_release``."""
        return await self._run(lambda: self._roster.desk.sealer.seal_release(request))

    async def sign_revocations(self, listed: RevocationList) -> str:
        """See ``ReleaseSealer.sign_revocations``."""
        return await self._run(lambda: self._roster.desk.sealer.sign_revocations(listed))

    async def sign_licensing(self, document: LicensingDocument) -> str:
        """See ``ReleaseSealer.sign_licensing``."""
        return await self._run(lambda: self._roster.desk.sealer.sign_licensing(document))

    async def last_checkpoint(self) -> LastSigned:
        """See ``CheckpointSigner.last``."""
        return await self._run(lambda: self._checkpoints.last(self._roster.desk.keys))

    async def sign_checkpoint(self, claim: HeadClaim) -> SignedHead:
        """See ``CheckpointSigner.sign``."""
        return await self._run(lambda: self._checkpoints.sign(claim, self._roster.desk.keys))

    async def ping(self) -> bool:
        """Answer a readiness probe."""
        return True

    async def available(self) -> bool:
        """Whether documents can be signed now."""
        return self._roster.available

    async def exposition(self) -> bytes:
        """Return the signer's series in Prometheus' text format."""
        return self._metrics.exposition(
            available=self._roster.available,
            list_expires_at_s=self._record.listed.expires_at.timestamp() if self._record.listed else 0.0,
            lists_passed_over=self._record.passed_over,
        )

    async def check_health(self) -> None:
        """Serve's probe: a signer whose watch has ended is replaced."""
        if not self._watch.is_alive():
            raise RuntimeError("the signer's watch has ended")

    def __del__(self) -> None:
        """Serve calls this at shutdown."""
        if hasattr(self, "_watch"):
            self._ending.set()
            self._roster.close()

    async def _run(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._calls, work)

    def _on_record(self) -> KeysOnRecord:
        try:
            self._record = self._keys.on_record()
        except psycopg.Error as error:
            raise DependencyError("database_unavailable", "The database did not answer.", 2) from error
        return self._record

    def _look(self) -> None:
        while not self._ending.wait(WATCH_PERIOD_S):
            try:
                self._roster.refresh()
            except MarketplaceError as failure:
                log.error("the signer does not sign: %s", failure)
            except Exception:
                log.exception("the signer's watch met something unforeseen")


def _newest_notes(dsn: str, key_ids: Sequence[str]) -> list[str] | None:
    try:
        return read_newest_notes(dsn, key_ids)
    except psycopg.Error as error:
        raise DependencyError("database_unavailable", "The database did not answer.", 2) from error
