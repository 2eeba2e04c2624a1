"""A whole marketplace behind the ingress, in memory: ports for ``serve_app.app.build_app``.

Orders run through the real host, decider, issuer and publisher over fake stores, so an HTTP test sees
what a buyer would see. ``FakeMarket.writes`` counts everything that was ever stored: a refused request
must leave it unchanged.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any

from actors.deliveries.joining import Joiner
from actors.orders.effects import Effects
from actors.orders.host import OrderHost
from actors.publisher.publication import Publisher
from actors.publisher.sealing import ReleaseSealer
from actors.publisher.uploads import PartUploads
from domain.errors import DependencyError
from domain.fulfilment import ReleaseMaterial
from domain.ids import new_id
from domain.orders.events import OrderDelivered
from serve_app.app import build_app
from serve_app.ports import IngressPorts, IngressSettings
from storage.age.recipients import public_half, recipient_text
from storage.market.access import Principal
from storage.market.catalogue import Publication, Release, ReleaseSummary, Sku
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.cases import FakeCases
from tests.fakes.dead_letters import FakeDeadLetters
from tests.fakes.deliveries import FakeDeliveries
from tests.fakes.market_orders import FakeDirectory, FakeLicences, FakeReads, FakeSigner
from tests.fakes.market_stores import FakeAccess, FakeBucket, FakeCatalogue, FakeCommands
from tests.fakes.orders import FakeBooks, FakeClock, FakeGateway, FakeMonotonic, FakeOrderStore
from tests.fakes.pricing import FakeDiscounts, FakeGoverned, FakeTaxTables
from tests.fakes.proposals import KEYS, FakeProposals
from tests.fakes.proposals import register as register_operators
from tests.fakes.publications import FakePublications
from tests.fakes.releases import FakeReleases
from tests.fakes.reviews import FakeReviews, FakeTerms
from tests.fakes.sales import FakeSales
from tests.fakes.signing_keys import FakeSigningKeys

WEBHOOK_SECRET = "whsec_test"
OLD_WEBHOOK_SECRET = "whsec_rotated_out"
RECIPIENT = recipient_text(public_half(b"i" * 32))
TOKENS = {
    "buyer": ("buyer", "buyer_ada"),
    "buyer2": ("buyer", "buyer_bob"),
    "seller": ("seller", "seller_1"),
    "seller2": ("seller", "seller_2"),
    "operator": ("operator", "operator_1"),
    "fraud": ("fraud", "fraud_1"),
    "auditor": ("auditor", "auditor_1"),
}


class Absent:
    """A port that nobody answers."""

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: Any, **__: Any) -> Any:
            raise DependencyError("database_unavailable", f"there is no {name} here")

        return fail


class FakeMarket:
    """See the module."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.monotonic = FakeMonotonic()
        self.keys = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
        self.key_record = register(self.keys.public_key, self.clock() - timedelta(days=30))
        self.store = FakeOrderStore(self.clock)
        self.commands = FakeCommands(self.store)
        self.catalogue = FakeCatalogue(self.commands, self.clock)
        self.uploads = FakeBucket("uploads", self.clock)
        self.payloads = FakeBucket("payloads", self.clock)
        self.signer = FakeSigner(self)
        self.gateway = FakeGateway()
        self.books = FakeBooks()
        effects = Effects(self.gateway, self.books, self.signer, self.clock, self.monotonic)
        self.directory = FakeDirectory(OrderHost(self.store, effects, self.clock, self.monotonic))
        self.reads = FakeReads(self.store)
        self.licences = FakeLicences(self)
        self.signing_keys = FakeSigningKeys(self)
        self.audit: Any = Absent()  # on Postgres only: positions and digests are the database's
        self.releases = FakeReleases(self.catalogue)
        self.deliveries = FakeDeliveries(self.clock)
        self.joiner = Joiner(self.deliveries, self.payloads, self.uploads)  # type: ignore[arg-type]
        self.access = FakeAccess(self.commands)
        self.dead_letters = FakeDeadLetters(self.store, self.commands)
        self.cases = FakeCases(self.commands)
        self.sales = FakeSales(self)
        self.governed = FakeGoverned()
        self.discounts = FakeDiscounts(self.commands, self.clock, self.store)
        self.tax_tables = FakeTaxTables(self.commands, self.clock)
        self.reviews = FakeReviews(self.store)
        self.terms = FakeTerms()
        operators = register_operators(KEYS[:4], 2, self.clock())
        self.proposals = FakeProposals(self.commands, self.clock, operators)
        self.payouts: Any = None  # on real parts only: tests/integration/test_payouts_http.py
        self.publications = FakePublications(self.catalogue)
        self.publisher = self.make_publisher()
        self.checks: dict[str, bool] = {"database": True, "order_hosts": True, "signer": True}
        self._numbers = itertools.count(1)
        for token, (role, principal_id) in TOKENS.items():
            self.add_token(token, role, principal_id)
        self.settings = IngressSettings(
            **{
                "base_url": "http://market.test",
                "publishable_key": "pk_test",
                "webhook_secrets": (WEBHOOK_SECRET, OLD_WEBHOOK_SECRET),
                **settings,
            }
        )

    def add_token(self, token: str, role: str, principal_id: str) -> None:
        self.access.holders[hashlib.sha256(token.encode()).digest()] = Principal(role, principal_id)

    def make_publisher(self) -> Publisher:
        """One more process that publishes."""
        parts: Any = (self.catalogue, self.publications, self.uploads, self.payloads, self.signer)
        return Publisher(*parts, self.clock)

    def new_id(self, prefix: str) -> str:
        number = next(self._numbers)
        return new_id(prefix, int(self.clock().timestamp() * 1000), number.to_bytes(10))

    def material(self, release_id: str) -> ReleaseMaterial:
        one = self.catalogue.publications[release_id]
        name = self.catalogue.releases[release_id].bundle_name
        return ReleaseMaterial(
            release_id,
            name,
            one.bundle_sha256,
            one.bundle_bytes,
            one.payload_sha256,
            one.payload_bytes,
            one.wrapped_file_key,
        )

    def delivered_at(self, order_id: str) -> Any:
        events = self.store.orders[order_id].events
        return next(event.at for event in events if isinstance(event, OrderDelivered))

    def check(self, name: str) -> Any:
        async def answer() -> bool:
            return self.checks[name]

        return answer

    def ports(self) -> IngressPorts:
        return IngressPorts(
            orders=self.directory,
            reads=self.reads,
            catalogue=self.catalogue,
            publisher=self.publisher,
            releases=self.releases,
            part_uploads=PartUploads(self.releases, self.uploads),  # type: ignore[arg-type]
            licences=self.licences,
            signing_keys=self.signing_keys,
            audit=self.audit,
            deliveries=self.deliveries,
            joiner=self.joiner,
            licensing=Absent(),  # type: ignore[arg-type]  # tested on Postgres: its bounds are the database's
            access=self.access,
            commands=self.commands,
            dead_letters=self.dead_letters,
            cases=self.cases,
            sales=self.sales,
            proposals=self.proposals,
            governed=self.governed,
            discounts=self.discounts,
            taxes=self.tax_tables,
            tax_tables=self.tax_tables,
            payouts=self.payouts,
            reviews=self.reviews,
            terms=self.terms,
            signing=self.signer,
            payloads=self.payloads,
            uploads=self.uploads,
            checks={name: self.check(name) for name in self.checks},
            clock=self.clock,
            new_id=self.new_id,
            settings=self.settings,
        )

    def app(self, ports: IngressPorts | None = None, **options: Any) -> Any:
        return build_app(ports or self.ports(), monotonic=self.monotonic, **options)

    def writes(self) -> dict[str, int]:
        """Count everything stored."""
        return {
            "orders": len(self.store.orders),
            "events": sum(len(row.events) for row in self.store.orders.values()),
            "inbox": len(self.store.inbox),
            "commands": len(self.store.commands),
            "skus": len(self.catalogue.skus),
            "keys": len(self.catalogue.keys),
            "releases": len(self.catalogue.releases),
            "publications": len(self.catalogue.publications),
            "payloads": len(self.payloads.objects),
            "links": len(self.deliveries.issued),
            "tokens": len(self.access.holders),
            "intents": len(self.gateway.intents),
            "discounts": len(self.store.discounts),
            "discount uses": len(self.store.discount_uses),
            "price lists": sum(map(len, self.catalogue.price_history.values())),
            "tax tables": len(self.tax_tables.versions),
        }

    def list_sku(
        self, name: str = "logline", seller_id: str = "seller_1", prices: dict[str, int] | None = None
    ) -> Sku:
        """Put a SKU without a release into the catalogue."""
        sku = Sku(self.new_id("sku"), name, "Title", "Text", seller_id, self.clock(), prices or {"USD": 1999})
        self.catalogue.skus[sku.sku_id] = sku
        return sku

    def list_published(self, name: str = "logline", **more: Any) -> Sku:
        """Put a SKU with a published release into the catalogue, as publication would leave it."""
        sku = self.list_sku(name, **more)
        release_id = self.new_id("rel")
        file_key, payload = b"f" * 16, b"payload of " + name.encode()
        seal = ReleaseSealer(self.keys, self.keys)._wrapper.wrap(
            file_key, {"purpose": "release-file-key", "release_id": release_id}
        )
        bundle_name = f"{name}-1.0.0.tar.gz"
        self.payloads.put(f"{release_id}.age-payload", payload)
        self.catalogue.releases[release_id] = Release(
            release_id, sku.sku_id, name, sku.seller_id, "1.0.0", "published", bundle_name, "k",
            manifest="{}", countersignature="{}", minisig="m", bundle_sha256="ab" * 32, bundle_bytes=100,
            payload_sha256="cd" * 32, payload_bytes=len(payload), published_at=self.clock(),
        )  # fmt: skip
        self.catalogue.publications[release_id] = Publication(
            release_id, "{}", "{}", "m", "ab" * 32, 100, None, f"{release_id}.age-payload", "1",
            "cd" * 32, len(payload), self.clock(), seal,
        )  # fmt: skip
        summary = ReleaseSummary(release_id, "1.0.0", bundle_name, "ab" * 32, 100, None, self.clock())
        self.catalogue.summaries[release_id] = summary
        sku = self.catalogue.skus[sku.sku_id] = replace(sku, latest_release=summary)
        return sku
