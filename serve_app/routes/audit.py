"""The audit log: checkpoint and tiles for everybody (C2SP tlog-tiles), facts and proofs for those concerned.

Tiles and entry bundles hold hashes and salted digests, which tell how many facts there are and nothing else;
so anybody may watch the log and keep us honest. A fact and its salt are shown to operators and auditors, and
to the buyer whose order or licence it is about, unless it holds what buyers are not told. Nothing beyond the
last checkpoint is shown: what is not signed yet is not ours to be held to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from domain import canonical_json, delivery_manifests, licences
from domain.audit.entries import DELIVERY, EVENT, LICENCE, Entry, document_record, kind_in
from domain.dsse import Envelope
from domain.errors import ConflictError, MarketplaceError, NotFoundError, RejectedError
from domain.merkle.tiles import Tile, parse_tile
from domain.merkle.tree import SIZE_MAX
from domain.strict_json import DocumentError
from serve_app import examples_audit as examples
from serve_app.auth import AUDITOR, BUYER, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.examples import ENVELOPE
from serve_app.operations import Answer, Operation
from serve_app.paging import field_invalid, query_of
from serve_app.schemas import audit as schemas
from serve_app.schemas.orders import SHOWN_WHOLE
from storage.market.audit_log import ENTRIES_MAX, KeptCheckpoint

NOTE = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
FRESH = {"Cache-Control": "max-age=1"}  # a checkpoint is signed once a second at most
FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}
PRIVATE = {"Cache-Control": "no-store"}
SUBJECT_CHARS_MAX = 64
ENTRIES_DEFAULT = 100
_WATCHERS = frozenset({OPERATOR, AUDITOR})
_SIZE = {"type": "integer", "minimum": 0, "maximum": SIZE_MAX}
_MISSING = ("checkpoint_missing",)
_PROOF = (
    "query_invalid",
    "audit_entry_not_found",
    "audit_entry_pending",
    "audit_entry_erased",
    "audit_log_damaged",
)
_TILE = ("audit_tile_not_found", *_MISSING)


async def checkpoint(call: Call) -> Response:
    """GET /v1/audit/checkpoint."""
    newest = await _newest(call)
    return Response(newest.note, 200, FRESH, NOTE)


async def kept_checkpoint(call: Call) -> Response:
    """GET /v1/audit/checkpoints."""
    before = _time(query_of(call).get("before", ""))
    kept = await call.ports.audit.checkpoint_before(before)
    if kept is None:
        raise NotFoundError("checkpoint_missing", f"None was kept before {before:%Y-%m-%d %H:%M:%S}.")
    return reply(200, schemas.checkpoint_document(kept), PRIVATE)


async def hash_tile(call: Call) -> Response:
    """GET /v1/audit/tile/{level}/{tile}."""
    level = call.parameters["level"]
    canonical = level.isascii() and level.isdigit() and len(level) == 1
    tile = await _tile(call, int(level) if canonical else -1)
    found = await call.ports.audit.tile(tile)
    if found is None:
        raise _no_tile()
    return Response(found, 200, FOR_EVER, BYTES)


async def entry_bundle(call: Call) -> Response:
    """GET /v1/audit/tile/entries/{tile}."""
    found = await call.ports.audit.bundle(await _tile(call, 0))
    if found is None:
        raise _no_tile()
    return Response(b"".join(len(one).to_bytes(2) + one for one in found), 200, FOR_EVER, BYTES)


async def proof(call: Call) -> Response:
    """GET /v1/audit/proofs/{subject_id}."""
    query, newest = query_of(call), await _newest(call)
    asked = _integer(query, "size", newest.head.size)
    size = newest.head.size if asked is None else asked
    since = _integer(query, "from", size)
    subject_id = call.parameters["subject_id"]
    entry = await call.ports.audit.entry(subject_id) if len(subject_id) <= SUBJECT_CHARS_MAX else None
    if entry is None or (call.caller.role == BUYER and not await _may_see(call, entry)):
        raise _no_entry()
    return await _proven(call, entry, newest, size, since)


async def _may_see(call: Call, entry: Entry) -> bool:
    """Whether a buyer may see an entry's record, which cannot be shown in part."""
    if entry.kind == EVENT and kind_in(entry.record or "") not in SHOWN_WHOLE:
        return False
    return await call.ports.audit.is_party(entry.subject_id, call.caller.principal_id)


async def document_proof(call: Call) -> Response:
    """POST /v1/audit/proofs."""
    question = read_model(schemas.DocumentQuestion, await call.json())
    newest = await _newest(call)
    size = question.size or newest.head.size
    if size > newest.head.size:
        raise field_invalid("size", f"Give an integer up to {newest.head.size}.")
    kind, subject_id, text = _read_document(question.document)
    entry = await call.ports.audit.entry(subject_id)
    # Whoever shows the text may have its proof; the id alone, or another text under it, tells nothing. What
    # the database says now is not asked: who rewrites it takes no proof away.
    record = document_record(kind, text)
    if entry is None or (entry.salt is not None and not entry.commits_to(record)):
        raise _no_entry()
    return await _proven(call, replace(entry, record=record), newest, size, None)


def _read_document(given: str | dict[str, Any]) -> tuple[str, str, str]:
    """Return kind, id and text of a licence or delivery manifest."""
    try:
        text = given if isinstance(given, str) else canonical_json.dumps(given).decode()
        envelope = Envelope.parse(text)
        if envelope.payload_type == licences.PAYLOAD_TYPE:
            return LICENCE, licences.parse(envelope.payload).licence_id, text
        return DELIVERY, delivery_manifests.parse(envelope.payload).delivery_id, text
    except (DocumentError, ValueError):
        raise _no_entry() from None


async def _proven(call: Call, entry: Entry, newest: KeptCheckpoint, size: int, since: int | None) -> Response:
    audit = call.ports.audit
    if entry.salt is None or entry.record is None:
        raise RejectedError("audit_entry_erased", "What this entry was about is erased; its digest stays.")
    proven = await audit.inclusion(entry, size)
    if proven is None:
        raise ConflictError(
            "audit_entry_pending", f"The entry came after the tree of {size}. Ask again in some seconds."
        )
    kept = newest if size == newest.head.size else await audit.checkpoint_of_size(size)
    head = await audit.head(size) if kept is None else kept.head
    path = None if since is None else (since, await audit.consistency(since, size))
    document = schemas.proof_document(entry, proven, head.root, kept.note if kept else None, path)
    return reply(200, document, PRIVATE)


async def entries(call: Call) -> Response:
    """GET /v1/audit/entries."""
    query, newest = query_of(call), await _newest(call)
    begin = _integer(query, "from", SIZE_MAX) or 0
    limit = _integer(query, "limit", ENTRIES_MAX) or ENTRIES_DEFAULT
    end = min(begin + limit, newest.head.size)
    found = await call.ports.audit.entries(begin, end - begin) if end > begin else []
    following = end if end < newest.head.size else None
    document = {"items": [schemas.entry_document(one) for one in found], "next_from": following}
    return reply(200, document, PRIVATE)


async def _newest(call: Call) -> KeptCheckpoint:
    newest = await call.ports.audit.newest_checkpoint()
    if newest is None:
        raise NotFoundError("checkpoint_missing", "Nothing is in the audit log yet.")
    return newest


async def _tile(call: Call, level: int) -> Tile:
    tile = parse_tile(level, call.parameters["tile"])
    if tile is None or tile.leaves > (await _newest(call)).head.size:
        raise _no_tile()
    return tile


def _no_entry() -> NotFoundError:
    return NotFoundError(
        "audit_entry_not_found", "Nothing of this id is in the log, or not yet, or it is not yours to see."
    )


def _no_tile() -> MarketplaceError:
    return NotFoundError(
        "audit_tile_not_found", "The last checkpoint covers no such tile, or its path is wrong."
    )


def _integer(query: Mapping[str, str], name: str, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(SIZE_MAX)) and int(text) <= most):
        raise field_invalid(name, f"Give an integer from 0 to {most}.")
    return int(text)


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # refused below, as a time without a zone is
    raise field_invalid("before", "Give a time such as 2026-11-24T09:30:00Z.")


def operations() -> Sequence[Operation]:
    """List the operations on the audit log."""
    return (
        Operation(
            "GET",
            "/v1/audit/checkpoint",
            "getCheckpoint",
            "The head of the audit log, a signed note (C2SP tlog-checkpoint)",
            checkpoint,
            {200: Answer("The note", media_type=NOTE)},
            public=True,
            problems=_MISSING,
        ),
        Operation(
            "GET",
            "/v1/audit/tile/entries/{tile:path}",
            "getEntryBundle",
            "Entries: salted digests of 32 bytes, each behind its length (C2SP tlog-tiles)",
            entry_bundle,
            {200: Answer("The bundle", media_type=BYTES)},
            public=True,
            problems=_TILE,
        ),
        Operation(
            "GET",
            "/v1/audit/tile/{level}/{tile:path}",
            "getTile",
            "A tile of the Merkle tree, such as tile/0/x001/x234/067 or tile/0/000.p/17 (C2SP tlog-tiles)",
            hash_tile,
            {200: Answer("The hashes", media_type=BYTES)},
            public=True,
            problems=_TILE,
        ),
        *_watchers_operations(),
    )


def _watchers_operations() -> Sequence[Operation]:
    return (
        Operation(
            "POST",
            "/v1/audit/proofs",
            "proveDocument",
            "The proof that a licence or delivery manifest that you show is in the audit log",
            document_proof,
            {200: Answer("The proof", schemas.EntryProof, examples.PROOF)},
            public=True,
            request=schemas.DocumentQuestion,
            request_example={"document": ENVELOPE, "size": 4711},
            problems=(*_PROOF, *_MISSING),
        ),
        Operation(
            "GET",
            "/v1/audit/proofs/{subject_id}",
            "getEntryProof",
            "An event, licence or delivery with the proof that it is in the audit log",
            proof,
            {200: Answer("The proof", schemas.EntryProof, examples.PROOF)},
            roles=_WATCHERS | {BUYER},
            query={
                "size": {**_SIZE, "description": "of an earlier tree; else the last checkpoint's"},
                "from": {**_SIZE, "description": "a size that you know: adds the consistency proof"},
            },
            problems=(*_PROOF, *_MISSING),
        ),
        Operation(
            "GET",
            "/v1/audit/entries",
            "listLogEntries",
            "What is in the audit log, in its order",
            entries,
            {200: Answer("A page", schemas.LogEntries, examples.ENTRIES)},
            roles=_WATCHERS,
            query={
                "from": {**_SIZE, "description": "next_from of the last page"},
                "limit": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": ENTRIES_MAX,
                    "default": ENTRIES_DEFAULT,
                },
            },
            problems=("query_invalid", *_MISSING),
        ),
        Operation(
            "GET",
            "/v1/audit/checkpoints",
            "getCheckpointBefore",
            "The last checkpoint that was kept before a time, to be named with a key's compromise",
            kept_checkpoint,
            {200: Answer("The checkpoint", schemas.KeptHead, examples.CHECKPOINT)},
            roles=_WATCHERS,
            query={"before": {"type": "string", "format": "date-time"}},
            problems=("query_invalid", *_MISSING),
        ),
    )
