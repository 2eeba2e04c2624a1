"""The ingress as a Serve deployment, and the whole application in one place.

``build_application`` is what the composition root deploys: typed settings in, a Serve application out.
Each ingress replica builds its own ports inside its own event loop; nothing unpicklable is shipped.
"""

import contextlib
import time
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from actors.deliveries.joining import Joiner
from actors.publisher.publication import Publisher
from actors.publisher.uploads import PartUploads
from deployments.backends import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, LOGGING, bind_backends
from deployments.clock import draw_id, utc_now
from deployments.local_orders import LocalOrders
from deployments.payouts import LocalDesk
from deployments.placement import BackgroundDirectory, OrderDirectory, SignerDirectory
from deployments.process import prepare_process, settle_process
from deployments.settings import Settings
from domain.errors import MarketplaceError
from serve_app.app import build_app
from serve_app.ports import IngressPorts, IngressSettings, RateLimit
from storage.market.access import AccessTokens
from storage.market.audit_log import AuditLog
from storage.market.cases import Cases
from storage.market.catalogue import Catalogue
from storage.market.commands import Commands
from storage.market.dead_letters import DeadLetters
from storage.market.deliveries import Deliveries
from storage.market.discounts import Discounts
from storage.market.governed import GovernedTerms
from storage.market.licences import LicenceReads
from storage.market.licensing import Licensing
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from storage.market.proposals import Governed, Proposals
from storage.market.publications import Publications
from storage.market.releases import Releases
from storage.market.reviews import Reviews
from storage.market.sales import Sales
from storage.market.signing_keys import SigningKeys
from storage.market.taxes import TaxTables
from storage.s3 import Bucket, S3Access
from storage.stripe_tax import StripeTax

POOL_MAX = 8  # statements of a millisecond each; more would only queue in Postgres instead of here
POOL_OPEN_TIMEOUT_S = 20.0
ONGOING_MAX = 2_048  # open progress streams count, and each replica serves up to a thousand of them
QUEUED_MAX = 512
SHUTDOWN_GRACE_S = 35.0  # Serve drains an ingress for up to 30 s
FINISH_WAIT_S = 10.0  # each, for publications and joins under way
SIGNER_WAIT_S = 5.0  # a replica without a signer serves all the same
ANONYMOUS_RATE = RateLimit(
    per_s=5_000, burst=10_000
)  # above what a replica can serve: it cannot starve others


class IngressDeployment:
    """One replica of the HTTP ingress."""

    async def __init__(self, settings: Settings, orders: Any | None, signer: Any, background: Any) -> None:  # type: ignore[misc] # Serve awaits it
        prepare_process(settings)
        self._settings = settings
        self._signer = SignerDirectory(signer)
        self._background = BackgroundDirectory(background)
        self._pool = build_pool(settings.postgres_dsn, name="ingress", size_max=POOL_MAX)
        await self._pool.open(wait=True, timeout=POOL_OPEN_TIMEOUT_S)
        self._store = PostgresOrderStore(self._pool)
        self._orders: LocalOrders | OrderDirectory
        if orders is None:
            self._orders = LocalOrders(settings, self._pool, self._store, self._signer)
            self._orders.start()
        else:
            self._orders = OrderDirectory(orders)
        access = S3Access(
            settings.s3.endpoint, settings.s3.region, settings.s3.access_key, settings.s3.secret_key
        )
        self._uploads = Bucket(access, settings.s3.bucket_uploads, utc_now)
        self._payloads = Bucket(access, settings.s3.bucket_payloads, utc_now)
        self._catalogue = Catalogue(self._pool)
        self._governed = Governed(self._pool, time.monotonic)
        self._tax_tables = TaxTables(self._pool, time.monotonic)
        self._stripe_tax = (
            StripeTax(settings.stripe.secret_key, settings.stripe.api_base, settings.tax.behaviour)
            if settings.tax.provider == "stripe"
            else None
        )
        publications = Publications(self._pool)
        self._publisher = Publisher(
            self._catalogue, publications, self._uploads, self._payloads, self._signer, utc_now
        )
        self._releases = Releases(self._pool)
        self._deliveries = Deliveries(self._pool)
        # Not the payloads' bucket: what is locked there can never be deleted.
        self._joiner = Joiner(self._deliveries, self._payloads, self._uploads)
        self._payouts = LocalDesk(settings, self._pool)
        await self._meet_signer()
        settle_process()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Serve's hook: the ASGI application of this replica."""
        return build_app(self._ports())

    def _ports(self) -> IngressPorts:
        settings = self._settings
        return IngressPorts(
            orders=self._orders,
            reads=self._store,
            catalogue=self._catalogue,
            publisher=self._publisher,
            releases=self._releases,
            part_uploads=PartUploads(self._releases, self._uploads),
            licences=LicenceReads(self._pool),
            signing_keys=SigningKeys(self._pool),
            audit=AuditLog(self._pool),
            deliveries=self._deliveries,
            joiner=self._joiner,
            licensing=Licensing(self._pool),
            access=AccessTokens(self._pool),
            commands=Commands(self._pool),
            dead_letters=DeadLetters(self._pool),
            cases=Cases(self._pool),
            sales=Sales(self._pool),
            proposals=Proposals(self._pool),
            governed=self._governed,
            discounts=Discounts(self._pool),
            taxes=self._stripe_tax or self._tax_tables,
            tax_tables=self._tax_tables,
            payouts=self._payouts.desk,
            reviews=Reviews(self._pool),
            terms=GovernedTerms(self._governed),
            signing=self._signer,
            payloads=self._payloads,
            uploads=self._uploads,
            checks={
                "database": self._database_answers,
                "order_hosts": self._orders.ready,
                "signer": self._signer.ready,
                "signing_backend": self._signer.backend_available,
            },
            deferrable=frozenset({"signing_backend"}),
            collectors=(self._orders.collector,) if isinstance(self._orders, LocalOrders) else (),
            expositions=(self._background.exposition, self._signer.exposition),
            clock=utc_now,
            new_id=draw_id,
            settings=IngressSettings(
                base_url=settings.http.base_url,
                publishable_key=settings.stripe.publishable_key,
                webhook_secrets=settings.stripe.webhook_secrets,
                # Serve's HAProxy does not pass the caller's address on, so callers without a token share
                # one bucket per replica; a header that a caller can write would be no bound at all.
                address_rate=ANONYMOUS_RATE,
                server_adds_request_id=True,
            ),
        )

    async def _meet_signer(self) -> None:
        """Have the way to the signer ready: its first call finds the replica and takes seconds."""
        with contextlib.suppress(MarketplaceError):  # it may be absent: then orders wait
            await self._signer.backend_available(SIGNER_WAIT_S)

    async def _database_answers(self) -> bool:
        async with self._pool.connection() as connection:
            await connection.execute("SELECT 1")
        return True

    async def check_health(self) -> None:
        """Serve's probe: a replica that runs orders and whose sweep has ended is replaced."""
        if isinstance(self._orders, LocalOrders) and not self._orders.alive:
            raise RuntimeError("the sweep has ended")

    async def __del__(self) -> None:
        """Serve awaits this at shutdown."""
        if hasattr(self, "_payouts"):
            if isinstance(self._orders, LocalOrders):
                await self._orders.close()
            await self._publisher.close(FINISH_WAIT_S)
            await self._joiner.close(FINISH_WAIT_S)
            await self._payouts.close()
            if self._stripe_tax is not None:
                await self._stripe_tax.close()
            await self._pool.close()
            self._uploads.close()
            self._payloads.close()


def build_application(settings: Settings, *, single: bool = False) -> Any:
    """Bind ingress, order hosts if apart, signer and background work into one Serve application.

    ``single`` asks for one replica of each. Nothing else differs, so that going from one to more starts
    replicas and restarts none.
    """
    backends = bind_backends(settings, single=single)
    return serve.deployment(
        serve.ingress()(IngressDeployment),
        name="Ingress",
        num_replicas=1 if single else settings.ingress_replicas,
        max_ongoing_requests=ONGOING_MAX,
        max_queued_requests=QUEUED_MAX,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        logging_config=LOGGING,
        graceful_shutdown_timeout_s=SHUTDOWN_GRACE_S,
        ray_actor_options={"num_cpus": 0.1},
    ).bind(settings, backends.orders, backends.signer, backends.background)
