"""Catalogue: SKUs, sellers' keys, releases and their publication.

Anyone may see what is on sale. A SKU without a published release is shown to its seller and to operators
only, and a draft's upload link to its seller: for anyone else they do not exist.
"""

from collections.abc import Sequence
from dataclasses import replace

import orjson
from starlette.responses import Response

from domain import semver
from domain.catalogue import validate_listing, validate_prices
from domain.dsse import decode_base64
from domain.errors import ConflictError, NotFoundError, RejectedError
from domain.ids import is_id
from domain.releases import DRAFT_BUNDLE_KEPT_S, require_channel
from domain.strict_json import DocumentError
from serve_app import examples
from serve_app.auth import OPERATOR, SELLER
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, answer, write_of
from serve_app.operations import Answer, Guard, Operation
from serve_app.paging import (
    QUERY,
    cursor_after,
    cursor_invalid,
    limit_of,
    page_of,
    query_of,
    read_cursor,
)
from serve_app.schemas import catalogue as schemas
from serve_app.schemas.pricing import NewPriceList, PriceListPage, price_list_document
from storage.market.access import Principal
from storage.market.catalogue import Release, Sku
from storage.signing.keys import register

UPLOAD_LINK_LIFETIME_S = 3_600  # a bundle of gigabytes over a home line; a repetition gives a new link
PRICE_VERSIONS_MAX = 2**31 - 1
NAME_CHARS_MAX = 100  # longer than any SKU's id or name

PUBLISH_PROBLEMS = (
    "release_not_found",
    "manifest_invalid",
    "manifest_signature_invalid",
    "payload_type_wrong",
    "manifest_mismatch",
    "licence_policy_not_allowed",
    "bundle_not_uploaded",
    "bundle_unsafe",
    "release_already_published",
    "publication_in_progress",
    "version_not_newer",
    "bundle_changed",
    "seller_key_revoked",
    "publisher_busy",
    "publication_running",
    "storage_unavailable",
    "storage_busy",
    "storage_unversioned",
    "signer_unavailable",
    "signer_busy",
)

_SELLER = frozenset({SELLER})


class CatalogueRoutes:
    """Handlers; ``guard`` tells who asks a public operation."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def list_skus(self, call: Call) -> Response:
        """GET /v1/skus."""
        before, limit = page_of(call, "sku")
        skus = await call.ports.catalogue.published(before, limit + 1)
        page = skus[:limit]
        cursor = cursor_after(page[-1].sku_id) if len(skus) > limit else None
        return reply(200, {"items": [schemas.sku_document(sku) for sku in page], "next_cursor": cursor})

    async def get_sku(self, call: Call) -> Response:
        """GET /v1/skus/{sku_id}, by id or name."""
        name = call.parameters["sku_id"]
        sku = await call.ports.catalogue.find(name) if len(name) <= NAME_CHARS_MAX else None
        if sku is None or not (sku.latest_release or _may_see(await self._guard.identify(call), sku)):
            raise NotFoundError("sku_not_found", "There is no such SKU on sale.")
        return reply(200, schemas.sku_document(sku))

    async def create_sku(self, call: Call) -> Response:
        """POST /v1/skus."""
        value = await call.json()
        body = read_model(schemas.NewSku, value)
        validate_listing(body.name, body.title, body.description, body.prices, body.tax_category)
        sku = Sku(
            sku_id=call.ports.new_id("sku"),
            name=body.name,
            title=body.title,
            description=body.description,
            seller_id=call.caller.principal_id,
            created_at=call.ports.clock(),
            prices=body.prices,
            tax_category=body.tax_category,
        )
        document = schemas.sku_document(sku)
        return answer(
            201, document, await call.ports.catalogue.create_sku(write_of(call, value), sku, document)
        )

    async def set_prices(self, call: Call) -> Response:
        """PUT /v1/skus/{sku_id}/prices."""
        value = await call.json()
        body = read_model(NewPriceList, value)
        validate_prices(body.prices)
        sku = await self._own_sku(call)
        repriced = replace(sku, prices=body.prices, price_version=body.base_version + 1)
        document = schemas.sku_document(repriced)
        earlier = await call.ports.catalogue.set_prices(write_of(call, value), repriced, document)
        return answer(200, document, earlier)

    async def price_lists(self, call: Call) -> Response:
        """GET /v1/skus/{sku_id}/prices."""
        query = query_of(call)
        limit = limit_of(query)
        before = read_cursor(query["cursor"]) if query.get("cursor") else str(PRICE_VERSIONS_MAX)
        if not before.isascii() or not before.isdigit() or int(before) > PRICE_VERSIONS_MAX:
            raise cursor_invalid()
        sku = await self._own_sku(call)
        rows = await call.ports.catalogue.price_lists(sku.sku_id, int(before), limit + 1)
        page = rows[:limit]
        cursor = cursor_after(str(page[-1].version)) if len(rows) > limit else None
        return reply(200, {"items": [price_list_document(row) for row in page], "next_cursor": cursor})

    async def register_key(self, call: Call) -> Response:
        """POST /v1/seller-keys."""
        value = await call.json()
        body = read_model(schemas.NewSellerKey, value)
        try:
            public_key = decode_base64(body.public_key, "public_key")
        except DocumentError as error:
            raise RejectedError("public_key_invalid", error.detail) from error
        record = register(public_key, call.ports.clock())
        document = {
            "key_id": record.key_id,
            "seller_id": call.caller.principal_id,
            "state": record.state.value,
        }
        earlier = await call.ports.catalogue.register_seller_key(
            write_of(call, value), record.key_id, public_key, document
        )
        return answer(201, document, earlier)

    async def draft_release(self, call: Call) -> Response:
        """POST /v1/skus/{sku_id}/releases."""
        value = await call.json()
        body = read_model(schemas.NewRelease, value)
        version = str(semver.parse_version(body.version))
        sku = await self._own_sku(call)
        release_id = call.ports.new_id("rel")
        release = Release(
            release_id=release_id,
            sku_id=sku.sku_id,
            sku_name=sku.name,
            seller_id=sku.seller_id,
            version=version,
            state="draft",
            bundle_name=body.bundle_name,
            upload_key=f"{sku.sku_id}/{release_id}/{body.bundle_name}",
            channel=require_channel(body.channel),
        )
        document = schemas.draft_document(release)
        earlier = await call.ports.catalogue.draft_release(
            write_of(call, value), release, call.ports.clock(), document
        )
        if earlier is not None:
            first = await call.ports.catalogue.release(earlier.subject)
            assert first is not None, "the draft was recorded together with its key"
            if first.state != "draft":
                raise already_published(first)
            release, document = first, dict(earlier.body or document)
        # Before there is a link: whatever comes by it is on record, and dropped in its time.
        await call.ports.releases.expect_bundle(release.release_id, DRAFT_BUNDLE_KEPT_S)
        # A link is a secret and runs out, so it is never stored: a repetition gets a fresh one.
        link = call.ports.uploads.link_to_put(release.upload_key, UPLOAD_LINK_LIFETIME_S)
        document = {**document, "upload": schemas.upload_document(link)}
        return reply(201, document, None if earlier is None else REPLAYED)

    async def publish(self, call: Call) -> Response:
        """POST /v1/releases/{release_id}/publish."""
        value = await call.json()
        body = read_model(schemas.NewPublication, value)
        release_id = call.parameters["release_id"]
        write = write_of(call, value)
        earlier = await call.ports.commands.find(write)
        if earlier is None:
            if not is_id("rel", release_id):
                raise NotFoundError("release_not_found", "You have no such release.")
            manifest = orjson.dumps(body.manifest).decode()
            release = await call.ports.publisher.publish(write, release_id, manifest)
            # A key that joined another's publication, or found it done, is recorded here.
            await call.ports.commands.claim(write, release_id)
            return reply(200, schemas.published_document(release))
        published = await call.ports.catalogue.release(earlier.subject)
        assert published is not None, "the release was published together with its key"
        return reply(200, schemas.published_document(published), REPLAYED)

    async def get_release(self, call: Call) -> Response:
        """GET /v1/releases/{release_id}: what anyone may check a bundle with."""
        release_id = call.parameters["release_id"]
        release = await call.ports.catalogue.release(release_id) if is_id("rel", release_id) else None
        if release is None or release.state == "draft":
            raise NotFoundError("release_not_found", "There is no such published release.")
        return reply(200, schemas.published_document(release))

    async def _own_sku(self, call: Call) -> Sku:
        sku_id = call.parameters["sku_id"]
        sku = await call.ports.catalogue.find(sku_id) if len(sku_id) <= NAME_CHARS_MAX else None
        if sku is None or sku.seller_id != call.caller.principal_id:
            raise NotFoundError("sku_not_found", "You have no such SKU.")
        return sku


def already_published(release: Release) -> ConflictError:
    """Say that a release takes no other bundle, and why."""
    why = f"was yanked ({release.yank_reason})" if release.state == "yanked" else "is published"
    return ConflictError(
        "release_already_published",
        f"Version {release.version} {why} and takes no other bundle. Release a higher version.",
    )


def _may_see(principal: Principal | None, sku: Sku) -> bool:
    return principal is not None and (
        principal.role == OPERATOR or (principal.role, principal.principal_id) == (SELLER, sku.seller_id)
    )


def operations(guard: Guard) -> Sequence[Operation]:
    """List the catalogue's operations."""
    routes = CatalogueRoutes(guard)
    return (*_sku_operations(routes), *_price_operations(routes), *_release_operations(routes))


def _sku_operations(routes: CatalogueRoutes) -> Sequence[Operation]:
    return (
        Operation(
            "GET",
            "/v1/skus",
            "listSkus",
            "SKUs on sale, newest first",
            routes.list_skus,
            {200: Answer("A page", schemas.SkuPage, {"items": [examples.SKU], "next_cursor": None})},
            public=True,
            query=QUERY,
            problems=("cursor_invalid", "query_invalid"),
        ),
        Operation(
            "GET",
            "/v1/skus/{sku_id}",
            "getSku",
            "One SKU, by id or by name",
            routes.get_sku,
            {200: Answer("The SKU", schemas.Sku, examples.SKU)},
            public=True,
            problems=("sku_not_found",),
        ),
        Operation(
            "POST",
            "/v1/skus",
            "createSku",
            "List a SKU",
            routes.create_sku,
            {201: Answer("Listed", schemas.Sku, {**examples.SKU, "latest_release": None})},
            roles=_SELLER,
            write=True,
            request=schemas.NewSku,
            request_example=examples.NEW_SKU,
            problems=(
                "sku_name_taken",
                "sku_name_invalid",
                "sku_text_too_long",
                "tax_category_invalid",
                "currency_unknown",
                "price_invalid",
            ),
        ),
        Operation(
            "POST",
            "/v1/seller-keys",
            "registerSellerKey",
            "Register the key that your release manifests are signed with",
            routes.register_key,
            {201: Answer("Registered", schemas.SellerKey, examples.SELLER_KEY)},
            roles=_SELLER,
            write=True,
            request=schemas.NewSellerKey,
            request_example={"public_key": examples.PUBLIC_KEY},
            problems=("public_key_invalid", "public_key_type_wrong", "seller_key_taken", "seller_keys_full"),
        ),
    )


def _price_operations(routes: CatalogueRoutes) -> Sequence[Operation]:
    return (
        Operation(
            "PUT",
            "/v1/skus/{sku_id}/prices",
            "setPrices",
            "Put another price list in force; orders that are placed keep their prices",
            routes.set_prices,
            {200: Answer("In force within a second", schemas.Sku, {**examples.SKU, "price_version": 2})},
            roles=_SELLER,
            write=True,
            request=NewPriceList,
            request_example={"base_version": 1, "prices": examples.SKU["prices"]},
            problems=("sku_not_found", "currency_unknown", "price_invalid", "price_list_changed"),
        ),
        Operation(
            "GET",
            "/v1/skus/{sku_id}/prices",
            "listPriceLists",
            "Every price list that your SKU had, newest first",
            routes.price_lists,
            {200: Answer("A page", PriceListPage, {"items": [examples.PRICE_LIST], "next_cursor": None})},
            roles=_SELLER,
            query=QUERY,
            problems=("sku_not_found", "cursor_invalid", "query_invalid"),
        ),
    )


def _release_operations(routes: CatalogueRoutes) -> Sequence[Operation]:
    return (
        Operation(
            "POST",
            "/v1/skus/{sku_id}/releases",
            "draftRelease",
            "Draft a release; the answer says where to PUT the bundle",
            routes.draft_release,
            {201: Answer("A draft", schemas.DraftRelease, examples.DRAFT)},
            roles=_SELLER,
            write=True,
            request=schemas.NewRelease,
            request_example={"version": "1.2.0", "bundle_name": "logline-1.2.0.tar.gz"},
            problems=(
                "sku_not_found",
                "release_version_taken",
                "release_already_published",
                "version_invalid",
                "channel_unknown",
            ),
        ),
        Operation(
            "POST",
            "/v1/releases/{release_id}/publish",
            "publishRelease",
            "Publish a release under your signed manifest; it never changes afterwards",
            routes.publish,
            {200: Answer("Published", schemas.PublishedRelease, examples.RELEASE)},
            roles=_SELLER,
            write=True,
            request=schemas.NewPublication,
            request_example={"manifest": examples.ENVELOPE},
            problems=PUBLISH_PROBLEMS,
        ),
        Operation(
            "GET",
            "/v1/releases/{release_id}",
            "getRelease",
            "A published release with the seller's and the platform's signatures",
            routes.get_release,
            {200: Answer("The release", schemas.PublishedRelease, examples.RELEASE)},
            public=True,
            problems=("release_not_found",),
        ),
    )
