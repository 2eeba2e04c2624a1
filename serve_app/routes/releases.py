"""Releases beside their publication: uploads in parts, channels, yanks, and the revocation of sellers' keys.

A yank and a revocation are states that never go back: asking again changes nothing and is answered with what
holds. Links of parts are secrets and made afresh by each request.
"""

from collections.abc import Sequence

from starlette.responses import Response

from domain.errors import ConflictError, NotFoundError, RejectedError
from domain.ids import is_id
from domain.manifests import CHANNELS
from domain.releases import DRAFT_BUNDLE_KEPT_S
from serve_app import examples_delivery
from serve_app.auth import OPERATOR, SELLER
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Operation
from serve_app.routes.catalogue import NAME_CHARS_MAX, UPLOAD_LINK_LIFETIME_S, already_published
from serve_app.schemas import releases as schemas
from serve_app.schemas.catalogue import PublishedRelease, published_document
from storage.market.catalogue import Release

LINKS_MAX = 100  # of parts in one answer: some 50 KB
PRIVATE = {"Cache-Control": "no-store"}

_SELLER = frozenset({SELLER})
_STORAGE_PROBLEMS = ("storage_unavailable", "storage_busy", "storage_unversioned")


async def begin_upload(call: Call) -> Response:
    """POST /v1/releases/{release_id}/upload."""
    value = await call.json()
    body = read_model(schemas.NewUpload, value)
    release = await _own_draft(call)
    await call.ports.releases.expect_bundle(release.release_id, DRAFT_BUNDLE_KEPT_S)
    state = await call.ports.part_uploads.begin(release, body.bundle_bytes)
    if body.first_part > len(state.sizes):
        raise RejectedError("upload_part_unknown", f"The upload has {len(state.sizes)} parts.")
    numbers = range(body.first_part, min(body.first_part + LINKS_MAX, len(state.sizes) + 1))
    links = {
        number: call.ports.uploads.link_to_put_part(
            release.upload_key, state.upload_id, number, UPLOAD_LINK_LIFETIME_S
        )
        for number in numbers
    }
    # Harmless to repeat and answered as things stand now, so the key is only held to its request.
    earlier = await call.ports.commands.claim(write_of(call, value), release.release_id)
    document = schemas.upload_parts_document(state.sizes, state.come, links)
    return reply(200, document, PRIVATE if earlier is None else {**PRIVATE, **REPLAYED})


async def complete_upload(call: Call) -> Response:
    """POST /v1/releases/{release_id}/upload/complete."""
    value = await call.json()
    body = read_model(schemas.CompletedUpload, value)
    release = await _own_draft(call)
    etags = {part.number: part.etag.strip('"') for part in body.parts}
    version_id = await call.ports.part_uploads.complete(release, etags)
    earlier = await call.ports.commands.claim(write_of(call, value), release.release_id)
    document = {"release_id": release.release_id, "bundle_version": version_id}
    return reply(200, document, None if earlier is None else REPLAYED)


async def yank(call: Call) -> Response:
    """POST /v1/releases/{release_id}/yank."""
    value = await call.json()
    body = read_model(schemas.NewYank, value)
    release = await _release(call)
    if call.caller.role == SELLER and release.seller_id != call.caller.principal_id:
        raise _not_found()
    if release.state == "draft":
        raise ConflictError("release_not_published", "A draft is not on sale; there is nothing to yank.")
    earlier = await call.ports.releases.yank(
        write_of(call, value), release.release_id, body.reason, call.ports.clock()
    )
    yanked = await call.ports.catalogue.release(release.release_id)
    assert yanked is not None, "a release is never deleted"
    return reply(200, published_document(yanked), None if earlier is None else REPLAYED)


async def list_channels(call: Call) -> Response:
    """GET /v1/skus/{sku_id}/channels."""
    name = call.parameters["sku_id"]
    sku = await call.ports.catalogue.find(name) if len(name) <= NAME_CHARS_MAX else None
    heads = {} if sku is None else await call.ports.releases.heads(sku.sku_id)
    if not heads:
        raise NotFoundError("sku_not_found", "There is no such SKU with a published release.")
    items = [schemas.channel_document(channel, heads[channel]) for channel in CHANNELS if channel in heads]
    return reply(200, {"items": items})


async def list_keys(call: Call) -> Response:
    """GET /v1/seller-keys."""
    keys = await call.ports.releases.seller_keys(call.caller.principal_id)
    return reply(200, {"items": [schemas.key_document(key) for key in keys]})


async def revoke_key(call: Call) -> Response:
    """POST /v1/seller-keys/{key_id}/revoke."""
    value = await call.json()
    body = read_model(schemas.NewKeyRevocation, value)
    seller_id, key_id = call.caller.principal_id, call.parameters["key_id"][:NAME_CHARS_MAX]
    if await call.ports.releases.seller_key(seller_id, key_id) is None:
        raise NotFoundError("seller_key_not_found", "You have registered no such key.")
    earlier = await call.ports.releases.revoke_key(
        write_of(call, value), key_id, body.state, body.reason, call.ports.clock()
    )
    key = await call.ports.releases.seller_key(seller_id, key_id)
    assert key is not None, "a key is never deleted"
    return reply(200, schemas.key_document(key), None if earlier is None else REPLAYED)


async def _release(call: Call) -> Release:
    release_id = call.parameters["release_id"]
    release = await call.ports.catalogue.release(release_id) if is_id("rel", release_id) else None
    if release is None:
        raise _not_found()
    return release


async def _own_draft(call: Call) -> Release:
    release = await _release(call)
    if release.seller_id != call.caller.principal_id:
        raise _not_found()
    if release.state != "draft":
        raise already_published(release)
    return release


def _not_found() -> NotFoundError:
    return NotFoundError("release_not_found", "You have no such release.")


def operations() -> Sequence[Operation]:
    """List the operations."""
    return (*_upload_operations(), *_standing_operations())


def _upload_operations() -> Sequence[Operation]:
    return (
        Operation(
            "POST",
            "/v1/releases/{release_id}/upload",
            "beginUpload",
            "Upload a large bundle in parts; asking again tells what has come and gives fresh links",
            begin_upload,
            {200: Answer("The parts", schemas.UploadParts, examples_delivery.UPLOAD_PARTS)},
            roles=_SELLER,
            write=True,
            request=schemas.NewUpload,
            request_example={"bundle_bytes": 20_000_000},
            problems=(
                "release_not_found",
                "release_already_published",
                "bundle_size_invalid",
                "upload_part_unknown",
                "upload_missing",
                *_STORAGE_PROBLEMS,
            ),
        ),
        Operation(
            "POST",
            "/v1/releases/{release_id}/upload/complete",
            "completeUpload",
            "Make the bundle of its parts",
            complete_upload,
            {200: Answer("Completed", schemas.CompleteUpload, examples_delivery.COMPLETE_UPLOAD)},
            roles=_SELLER,
            write=True,
            request=schemas.CompletedUpload,
            request_example={"parts": [{"number": 1, "etag": "9e107d9d372bb6826bd81d3542a419d6"}]},
            problems=(
                "release_not_found",
                "release_already_published",
                "upload_missing",
                "upload_incomplete",
                *_STORAGE_PROBLEMS,
            ),
        ),
    )


def _standing_operations() -> Sequence[Operation]:
    return (
        Operation(
            "POST",
            "/v1/releases/{release_id}/yank",
            "yankRelease",
            "Take a release off sale for good; who owns it keeps it",
            yank,
            {200: Answer("Yanked", PublishedRelease, examples_delivery.YANKED)},
            roles=frozenset({SELLER, OPERATOR}),
            write=True,
            request=schemas.NewYank,
            request_example={"reason": "Writes outside its folder; use 1.2.1."},
            problems=("release_not_found", "release_not_published"),
        ),
        Operation(
            "GET",
            "/v1/skus/{sku_id}/channels",
            "listChannels",
            "A SKU's channels with the newest release of each",
            list_channels,
            {200: Answer("The channels", schemas.Channels, {"items": [examples_delivery.CHANNEL]})},
            public=True,
            problems=("sku_not_found",),
        ),
        Operation(
            "GET",
            "/v1/seller-keys",
            "listSellerKeys",
            "Your signing keys and their states",
            list_keys,
            {200: Answer("The keys", schemas.RegisteredKeys, {"items": [examples_delivery.REGISTERED_KEY]})},
            roles=_SELLER,
        ),
        Operation(
            "POST",
            "/v1/seller-keys/{key_id}/revoke",
            "revokeSellerKey",
            "Have a key sign nothing more; what it signed before stays published",
            revoke_key,
            {200: Answer("The key", schemas.RegisteredKey, examples_delivery.REGISTERED_KEY)},
            roles=_SELLER,
            write=True,
            request=schemas.NewKeyRevocation,
            request_example={"state": "retired", "reason": "Rotated."},
            problems=("seller_key_not_found",),
        ),
    )
