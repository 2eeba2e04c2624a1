"""Background work as a Serve deployment: what no request waits for.

The outbox relay, through which order events leave to their consumers, the audit log among them; the audit
log's sequencer; deletion of what has served its time; the runner of approved payouts; the daily
reconciliation, in a thread. One replica is enough; several share the outbox's shards and do each other no
harm. It is apart from the ingress so that a burst of events never stands before a buyer's request.
"""

from functools import partial
from typing import Any

from actors.audit.metrics import AuditMetrics
from actors.audit.sequencer import Sequencer
from actors.deliveries.upkeep import StorageUpkeep
from actors.orders.housekeeping import Housekeeping
from actors.reconciliation.daily import DailyReconciliation
from actors.reconciliation.metrics import ReconciliationMetrics
from actors.relay.bus import PostgresBus
from actors.relay.consumer import Consumer
from actors.relay.metrics import RelayMetrics
from actors.relay.relay import Relay
from actors.relay.upkeep import ConsumerUpkeep
from deployments.clock import draw_id, utc_now
from deployments.payouts import LocalRunner
from deployments.placement import SignerDirectory
from deployments.process import prepare_process
from deployments.reconciliation import open_reconciliation
from deployments.settings import Settings
from storage.market.audit_log import AuditLog, AuditProjection
from storage.market.consumers import PostgresConsumerStore
from storage.market.deliveries import Deliveries
from storage.market.housekeeping import PostgresHousekeeping
from storage.market.outbox import PostgresOutbox
from storage.market.pool import build_pool
from storage.market.publications import Publications
from storage.market.releases import Releases
from storage.market.sales import SalesProjection
from storage.s3 import Bucket, S3Access

POOL_MAX = 6  # consumers write one batch at a time; upkeep takes one, housekeeping and payouts two
POOL_OPEN_TIMEOUT_S = 20.0


class BackgroundDeployment:
    """One relay with the consumers that need Postgres alone, and what else goes on beside requests."""

    async def __init__(self, settings: Settings, signer: Any) -> None:  # type: ignore[misc] # Serve awaits it
        prepare_process(settings)
        self._pool = build_pool(settings.postgres_dsn, name="background", size_max=POOL_MAX)
        await self._pool.open(wait=True, timeout=POOL_OPEN_TIMEOUT_S)
        store = PostgresConsumerStore(self._pool, utc_now)
        sales, audit = Consumer(store, SalesProjection()), Consumer(store, AuditProjection())
        self._relay = Relay(PostgresOutbox(settings.postgres_dsn), PostgresBus([sales, audit]))
        # Not the audit log: its progress is never settled, so nothing can count as taken that it lacks.
        self._upkeep = ConsumerUpkeep(store, [sales.name], unsettled=[audit.name])
        self._sequencer = Sequencer(AuditLog(self._pool), SignerDirectory(signer))
        self._relay_metrics = RelayMetrics()
        self._audit_metrics = AuditMetrics()
        self._reconciliation_metrics = ReconciliationMetrics()
        self._housekeeping = Housekeeping(PostgresHousekeeping(self._pool))
        self._payouts = LocalRunner(settings, self._pool)
        self._reconciliation = DailyReconciliation(partial(open_reconciliation, settings), draw_id)
        s3 = settings.s3
        access = S3Access(s3.endpoint, s3.region, s3.access_key, s3.secret_key)
        self._uploads = Bucket(access, s3.bucket_uploads, utc_now)
        self._payloads = Bucket(access, s3.bucket_payloads, utc_now)
        self._storage_upkeep = StorageUpkeep(
            Deliveries(self._pool),
            Releases(self._pool),
            Publications(self._pool),
            self._uploads,
            self._payloads,
            utc_now,
        )
        self._work = (
            self._relay,
            self._upkeep,
            self._sequencer,
            self._housekeeping,
            self._storage_upkeep,
            self._payouts,
            self._reconciliation,
        )
        for part in self._work:
            part.start()

    async def check_health(self) -> None:
        """Serve's probe: a replica of which a loop has ended is replaced."""
        if not all(part.alive for part in self._work):
            raise RuntimeError(
                "the relay, its upkeep, the sequencer, housekeeping, payouts or reconciliation has ended"
            )

    async def ping(self) -> bool:
        """Answer a readiness probe."""
        return True

    async def exposition(self) -> bytes:
        """Return the series of everything here in Prometheus' text format."""
        self._relay_metrics.record(self._relay.figures(), self._upkeep.parked)
        self._audit_metrics.record(self._sequencer.figures)
        self._reconciliation_metrics.record(self._reconciliation.figures)
        return (
            self._relay_metrics.exposition()
            + self._audit_metrics.exposition()
            + self._reconciliation_metrics.exposition()
            + self._payouts.exposition()
        )

    async def __del__(self) -> None:
        """Serve awaits this at shutdown: shards are free for others at once."""
        if hasattr(self, "_work"):
            for part in self._work:
                await part.stop()
            await self._pool.close()
            self._uploads.close()
            self._payloads.close()
