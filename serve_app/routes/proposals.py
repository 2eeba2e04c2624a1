"""Proposals and governed documents, for operators: propose, approve, reject, withdraw, read.

A bearer token lets an operator in; what counts is the signature in the envelope, which is made elsewhere with
a key that never comes here. The token's holder is recorded beside the key (invariant I12). Auditors may read.
Refused: to change a proposal, and to apply one by hand.
"""

from collections.abc import Sequence
from typing import Any, get_args

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from domain.ids import is_id
from domain.proposals.documents import DOCUMENT_BYTES_MAX, Kind
from domain.proposals.fields import GovernedDocumentError
from domain.proposals.refusals import refusal
from domain.proposals.state import Status
from domain.proposals.statements import VERSION_MAX, Action
from serve_app.auth import AUDITOR, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Handler, Operation
from serve_app.paging import (
    FROM_THE_TOP,
    QUERY,
    cursor_after,
    cursor_invalid,
    field_invalid,
    page_of,
    query_of,
)
from serve_app.ports import ProposalStore
from serve_app.problems import FieldsInvalidError
from serve_app.schemas import proposals as bodies
from storage.market.proposals import Request

ACTION_PREFIX = "act"
BODY_BYTES_MAX = 2 * DOCUMENT_BYTES_MAX  # a document, spaced for people, and its envelope
_OPERATORS = frozenset({OPERATOR})
_READERS = frozenset({OPERATOR, AUDITOR})
_NO_STORE = {"Cache-Control": "no-store"}

_ENVELOPE = (
    "operators_missing",
    "proposal_envelope_invalid",
    "proposal_kind_unknown",
    "approval_key_unknown",
    "approval_signature_invalid",
    "order_contended",
)
_CLOSED = (
    "proposal_not_found",
    "proposal_statement_mismatch",
    "proposal_applied",
    "proposal_rejected",
    "proposal_withdrawn",
    "proposal_stale",
    "proposal_expired",
)
_VOTE = (*_ENVELOPE, *_CLOSED, "approval_own_proposal", "approval_duplicate")
_NEW = (
    *_ENVELOPE,
    "proposal_document_invalid",
    "proposal_document_unchanged",
    "proposal_statement_mismatch",
    "proposal_id_invalid",
    "proposal_id_taken",
    "proposal_expiry_invalid",
    "proposal_base_stale",
    "governed_kind_not_found",
    "proposals_full",
)


class ProposalRoutes:
    """The handlers, over the proposals' store."""

    def __init__(self, store: ProposalStore) -> None:
        self._store = store

    async def propose(self, call: Call) -> Response:
        """POST /v1/ops/proposals."""
        value = await call.json(BODY_BYTES_MAX)
        body = read_model(bodies.NewProposal, value)
        try:
            return await self._submit(call, value, Action.PROPOSAL, body.envelope, body.reason, body.document)
        except GovernedDocumentError as error:
            raise FieldsInvalidError(
                error.code, "The document is not sound.", [(f"/document{error.pointer}", error.detail)]
            ) from None

    async def approve(self, call: Call) -> Response:
        """POST /v1/ops/proposals/{proposal_id}/approvals."""
        value = await call.json(BODY_BYTES_MAX)
        body = read_model(bodies.NewApproval, value)
        return await self._submit(call, value, Action.APPROVAL, body.envelope, body.reason)

    async def reject(self, call: Call) -> Response:
        """POST /v1/ops/proposals/{proposal_id}/rejections."""
        value = await call.json(BODY_BYTES_MAX)
        body = read_model(bodies.SignedReason, value)
        return await self._submit(call, value, Action.REJECTION, body.envelope, body.reason)

    async def withdraw(self, call: Call) -> Response:
        """POST /v1/ops/proposals/{proposal_id}/withdrawal."""
        value = await call.json(BODY_BYTES_MAX)
        body = read_model(bodies.SignedReason, value)
        return await self._submit(call, value, Action.WITHDRAWAL, body.envelope, body.reason)

    async def list_all(self, call: Call) -> Response:
        """GET /v1/ops/proposals."""
        before, limit = page_of(call, "prp")
        status = _status_of(call)
        rows = await self._store.page(before, limit + 1, status)
        page = rows[:limit]
        now = call.ports.clock()
        cursor = cursor_after(page[-1].proposal_id) if len(rows) > limit else None
        items = [bodies.summary_document(row, row.status_at(now)) for row in page]
        return reply(200, {"items": items, "next_cursor": cursor}, _NO_STORE)

    async def show(self, call: Call) -> Response:
        """GET /v1/ops/proposals/{proposal_id}."""
        proposal_id = call.parameters["proposal_id"]
        proposal = await self._store.find(proposal_id) if is_id("prp", proposal_id) else None
        if proposal is None:
            raise refusal("proposal_not_found")
        status = proposal.status_at(call.ports.clock())
        return reply(200, bodies.proposal_document(proposal, status), _NO_STORE)

    async def governed(self, _call: Call) -> Response:
        """GET /v1/ops/governed."""
        items = [bodies.version_document(one) for one in await self._store.current()]
        return reply(200, {"items": items}, _NO_STORE)

    async def governed_kind(self, call: Call) -> Response:
        """GET /v1/ops/governed/{kind}."""
        versions = await self._store.versions(_kind_of(call), VERSION_MAX, 1)
        if not versions:
            raise refusal("governed_kind_not_found")
        return reply(200, bodies.version_document(versions[0]), _NO_STORE)

    async def history(self, call: Call) -> Response:
        """GET /v1/ops/governed/{kind}/history."""
        kind = _kind_of(call)
        after, limit = page_of(call, "prp")
        below = VERSION_MAX if after == FROM_THE_TOP else await self._version_made_by(after, kind)
        rows = await self._store.versions(kind, below, limit + 1)
        page = rows[:limit]
        # Only the first version has no proposal, and none follows it.
        following = cursor_after(page[-1].proposal_id or "") if len(rows) > limit else None
        items = [bodies.version_document(one) for one in page]
        return reply(200, {"items": items, "next_cursor": following}, _NO_STORE)

    async def _version_made_by(self, proposal_id: str, kind: Kind) -> int:
        proposal = await self._store.find(proposal_id)
        if proposal is None or proposal.statement.kind is not kind:
            raise cursor_invalid()
        return proposal.statement.base_version + 1

    async def _submit(
        self,
        call: Call,
        value: Any,
        action: Action,
        envelope: dict[str, Any],
        reason: str,
        document: dict[str, Any] | None = None,
    ) -> Response:
        proposal_id = call.parameters.get("proposal_id", "")
        if action is not Action.PROPOSAL and not is_id("prp", proposal_id):
            raise refusal("proposal_not_found")
        request = Request(
            action=action,
            envelope=orjson.dumps(envelope).decode(),
            reason=reason,
            action_id=call.ports.new_id(ACTION_PREFIX),
            proposal_id=proposal_id,
            document=document,
        )
        receipt = await self._store.submit(write_of(call, value), request)
        return reply(
            201 if action is Action.PROPOSAL else 200, receipt.body, REPLAYED if receipt.replayed else None
        )


def _kind_of(call: Call) -> Kind:
    try:
        return Kind(call.parameters["kind"])
    except ValueError:
        raise refusal("governed_kind_not_found") from None


def _status_of(call: Call) -> Status | None:
    told = query_of(call).get("status")
    if told is None:
        return None
    try:
        return Status(told)
    except ValueError:
        raise field_invalid("status", f"Give one of {', '.join(Status)}, or leave it out.") from None


def operations(store: ProposalStore) -> Sequence[Operation]:
    """List the operations on proposals and governed documents."""
    routes = ProposalRoutes(store)
    return (*_reads(routes), *_writes(routes))


def _reads(routes: ProposalRoutes) -> Sequence[Operation]:
    governed, summary = bodies.EXAMPLE_GOVERNED, bodies.EXAMPLE_SUMMARY
    status = {"type": "string", "enum": list(get_args(bodies.ProposalStatus))}
    paged = ("query_invalid", "cursor_invalid")
    pages = {"next_cursor": None}
    return (
        Operation(
            "GET",
            "/v1/ops/proposals",
            "listProposals",
            "Proposals, newest first",
            routes.list_all,
            {200: Answer("A page", bodies.ProposalPage, {"items": [summary], **pages})},
            roles=_READERS,
            query={**QUERY, "status": {**status, "description": "Only proposals in this state"}},
            problems=paged,
        ),
        Operation(
            "GET",
            "/v1/ops/proposals/{proposal_id}",
            "showProposal",
            "One proposal, with its document and every signature",
            routes.show,
            {200: Answer("The proposal", bodies.WholeProposal, bodies.EXAMPLE_PROPOSAL)},
            roles=_READERS,
            problems=("proposal_not_found",),
        ),
        Operation(
            "GET",
            "/v1/ops/governed",
            "listGoverned",
            "What is in force: the current version of each governed document",
            routes.governed,
            {200: Answer("All", bodies.GovernedDocuments, {"items": [governed]})},
            roles=_READERS,
        ),
        Operation(
            "GET",
            "/v1/ops/governed/{kind}",
            "showGoverned",
            "The current version of one governed document",
            routes.governed_kind,
            {200: Answer("The document", bodies.GovernedDocument, governed)},
            roles=_READERS,
            problems=("governed_kind_not_found",),
        ),
        Operation(
            "GET",
            "/v1/ops/governed/{kind}/history",
            "listGovernedVersions",
            "All versions of one governed document, newest first",
            routes.history,
            {200: Answer("A page", bodies.GovernedHistory, {"items": [governed], **pages})},
            roles=_READERS,
            query=QUERY,
            problems=("governed_kind_not_found", *paged),
        ),
    )


def _writes(routes: ProposalRoutes) -> Sequence[Operation]:
    receipt = bodies.EXAMPLE_RECEIPT
    opened = receipt | {"action": "proposal", "status": "open", "approvals": 0, "version": None}
    return (
        Operation(
            "POST",
            "/v1/ops/proposals",
            "propose",
            "Propose a new version of a governed document, signed",
            routes.propose,
            {201: Answer("Open", bodies.ProposalReceipt, opened)},
            roles=_OPERATORS,
            write=True,
            request=bodies.NewProposal,
            request_example=bodies.EXAMPLE_NEW,
            problems=_NEW,
        ),
        _act(
            "approvals",
            "approveProposal",
            "Approve, signed; the k-th approval applies it",
            routes.approve,
            (bodies.NewApproval, bodies.EXAMPLE_APPROVAL),
            receipt,
            _VOTE,
        ),
        _act(
            "rejections",
            "rejectProposal",
            "Reject, signed",
            routes.reject,
            (bodies.SignedReason, bodies.EXAMPLE_REJECTION),
            opened | {"action": "rejection", "approvals": 1, "rejections": 1},
            _VOTE,
        ),
        _act(
            "withdrawal",
            "withdrawProposal",
            "Withdraw one's own proposal, signed",
            routes.withdraw,
            (bodies.SignedReason, bodies.EXAMPLE_WITHDRAWAL),
            opened | {"action": "withdrawal", "status": "withdrawn"},
            (*_ENVELOPE, *_CLOSED, "withdrawal_not_proposer"),
        ),
    )


def _act(
    name: str,
    operation_id: str,
    summary: str,
    handler: Handler,
    request: tuple[type[BaseModel], dict[str, Any]],
    receipt: dict[str, Any],
    problems: tuple[str, ...],
) -> Operation:
    return Operation(
        "POST",
        f"/v1/ops/proposals/{{proposal_id}}/{name}",
        operation_id,
        summary,
        handler,
        {200: Answer("Recorded, or recorded before", bodies.ProposalReceipt, receipt)},
        roles=_OPERATORS,
        write=True,
        request=request[0],
        request_example=request[1],
        problems=problems,
    )
