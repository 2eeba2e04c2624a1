"""One's licences: listing them, handing them to another buyer, and renewing them.

A transfer is offered by the owner and accepted by the receiver; until then nothing changes. Both ends are
recorded (``market.licence_events``). Signing comes before the database's word, which alone counts: a document
that was signed and then refused was never handed out, and its id is nobody's.
"""

from collections.abc import Sequence

from starlette.responses import Response

from domain.ids import is_id
from domain.licence_refusals import refusal
from domain.licences import Licence, open_envelope
from domain.successions import TRANSFER_LIFE_S, TRANSFER_PREFIX, renewal, transferred
from serve_app import examples_licences
from serve_app.auth import AUDITOR, BUYER, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Operation
from serve_app.paging import QUERY, cursor_after, page_of
from serve_app.routes.ownership import HELD, NO_STORE, licence_id_of
from serve_app.schemas import licences as schemas
from serve_app.schemas import licensing as bodies
from storage.market.commands import Recorded
from storage.market.licences import LicenceRow
from storage.market.licensing import Successor, Transfer

_BUYER = frozenset({BUYER})
_PAGE = {"items": [examples_licences.LICENCE], "next_cursor": None}
_SIGNER = ("signer_unavailable", "signer_busy")


async def list_licences(call: Call) -> Response:
    """GET /v1/licences."""
    before, limit = page_of(call, "lic")
    rows = await call.ports.licensing.licences_of(call.caller.principal_id, before, limit + 1)
    page = rows[:limit]
    more = cursor_after(page[-1].licence_id) if len(rows) > limit else None
    return reply(
        200, {"items": [schemas.licence_document(row) for row in page], "next_cursor": more}, NO_STORE
    )


async def offer(call: Call) -> Response:
    """POST /v1/licences/{licence_id}/transfers."""
    value = await call.json()
    body = read_model(bodies.NewTransfer, value)
    licence_id, transfer_id = licence_id_of(call), call.ports.new_id(TRANSFER_PREFIX)
    earlier = await call.ports.licensing.offer_transfer(
        write_of(call, value), transfer_id, licence_id, body.to_buyer_id, TRANSFER_LIFE_S
    )
    return await _transfer_reply(call, 201, transfer_id, earlier)


async def get(call: Call) -> Response:
    """GET /v1/transfers/{transfer_id}."""
    transfer = await _transfer(call, call.parameters["transfer_id"])
    return reply(200, bodies.transfer_document(transfer), NO_STORE)


async def end(call: Call) -> Response:
    """POST /v1/transfers/{transfer_id}/end."""
    value = await call.json(optional=True)
    transfer = await _transfer(call, call.parameters["transfer_id"])
    earlier = await call.ports.licensing.end_transfer(write_of(call, value), transfer.transfer_id)
    return await _transfer_reply(call, 200, transfer.transfer_id, earlier)


async def accept(call: Call) -> Response:
    """POST /v1/transfers/{transfer_id}/acceptance."""
    value = await call.json(optional=True)
    transfer = await _transfer(call, call.parameters["transfer_id"])
    write = write_of(call, value)
    earlier = await call.ports.commands.find(write)
    if earlier is None:
        licence = _document(await call.ports.licences.licence(transfer.document_id))
        successor = await signed_successor(
            call, transferred(licence, transfer.transfer_id, call.caller.principal_id, call.ports.clock())
        )
        earlier = await call.ports.licensing.accept_transfer(write, transfer.transfer_id, successor)
    return await _transfer_reply(call, 200, transfer.transfer_id, earlier)


async def renew(call: Call) -> Response:
    """POST /v1/licences/{licence_id}/renewals."""
    value = await call.json()
    body = read_model(bodies.NewRenewal, value)
    write = write_of(call, value)
    earlier = await call.ports.commands.find(write)
    if earlier is None:
        new, old = [await _own(call, one) for one in (licence_id_of(call), body.renews)]
        successor = await signed_successor(call, renewal(_document(new), _document(old), call.ports.clock()))
        earlier = await call.ports.licensing.renew(write, new.licence_id, old.licence_id, successor)
        subject = successor.document_id if earlier is None else earlier.subject
    else:
        subject = earlier.subject
    row = await _own(call, subject)
    return reply(201, schemas.licence_document(row), NO_STORE | (REPLAYED if earlier else {}))


async def _own(call: Call, licence_id: str) -> LicenceRow:
    row = await call.ports.licences.licence(licence_id) if is_id("lic", licence_id) else None
    if row is None or row.buyer_id != call.caller.principal_id:
        raise refusal("licence_not_found")
    return row


def _document(row: LicenceRow | None) -> Licence:
    if row is None:
        raise refusal("licence_not_found")
    return open_envelope(row.envelope)[1]


async def signed_successor(call: Call, licence: Licence) -> Successor:
    """Have a document signed that is to take another's place."""
    text = await call.ports.signing.sign_licensing(licence)
    envelope, signed = open_envelope(text)  # the signer may have dated it later
    return Successor(signed.licence_id, envelope.signatures[0].key_id or "", text, signed.issued_at)


async def _transfer(call: Call, transfer_id: str) -> Transfer:
    found = await call.ports.licensing.transfer(transfer_id) if is_id(TRANSFER_PREFIX, transfer_id) else None
    caller = call.caller
    if found is None or (
        caller.role == BUYER and caller.principal_id not in (found.from_buyer_id, found.to_buyer_id)
    ):
        raise refusal("transfer_not_found")
    return found


async def _transfer_reply(call: Call, status: int, transfer_id: str, earlier: Recorded | None) -> Response:
    """Answer with how the transfer stands now, also to a repetition."""
    transfer = await _transfer(call, transfer_id if earlier is None else earlier.subject)
    headers = NO_STORE | (REPLAYED if earlier is not None else {})
    return reply(status, bodies.transfer_document(transfer), headers)


def operations() -> Sequence[Operation]:
    """List the operations."""
    return (*_of_licences(), *_of_transfers())


def _of_licences() -> Sequence[Operation]:
    return (
        Operation(
            "GET",
            "/v1/licences",
            "listLicences",
            "The licences that are yours now",
            list_licences,
            {200: Answer("A page", bodies.LicencePage, _PAGE)},
            roles=_BUYER,
            query=QUERY,
            problems=("query_invalid", "cursor_invalid"),
        ),
        Operation(
            "POST",
            "/v1/licences/{licence_id}/transfers",
            "offerTransfer",
            "Offer your licence to another buyer, who has seven days to accept",
            offer,
            {201: Answer("Offered", bodies.TransferDocument, examples_licences.TRANSFER)},
            roles=_BUYER,
            write=True,
            request=bodies.NewTransfer,
            request_example={"to_buyer_id": "buyer_bob"},
            problems=(*HELD, "transfers_forbidden", "transfer_to_self", "transfer_open", "transfers_many"),
        ),
        Operation(
            "POST",
            "/v1/licences/{licence_id}/renewals",
            "renewLicence",
            "Have a licence that you bought begin where another one of yours ends",
            renew,
            {201: Answer("The licence's new document", schemas.IssuedLicence, examples_licences.LICENCE)},
            roles=_BUYER,
            write=True,
            request=bodies.NewRenewal,
            request_example={"renews": examples_licences.LICENCE["id"]},
            problems=(
                *HELD,
                "renewal_not_timed",
                "renewal_mismatch",
                "renewal_too_late",
                "renewal_too_far",
                "renewal_done",
                "licence_full",
                *_SIGNER,
            ),
        ),
    )


def _of_transfers() -> Sequence[Operation]:
    shown = bodies.TransferDocument, examples_licences.TRANSFER
    ended = ("transfer_not_found", "transfer_closed", "order_contended")
    return (
        Operation(
            "GET",
            "/v1/transfers/{transfer_id}",
            "getTransfer",
            "A transfer from you or to you",
            get,
            {200: Answer("The transfer", *shown)},
            roles=frozenset({BUYER, OPERATOR, AUDITOR}),
            problems=("transfer_not_found",),
        ),
        Operation(
            "POST",
            "/v1/transfers/{transfer_id}/acceptance",
            "acceptTransfer",
            "Take a licence over: you get a document of your own, and the old owner's is revoked",
            accept,
            {200: Answer("Accepted", *shown)},
            roles=_BUYER,
            write=True,
            problems=(*HELD, *ended[:2], "transfers_forbidden", "licence_full", *_SIGNER),
        ),
        Operation(
            "POST",
            "/v1/transfers/{transfer_id}/end",
            "endTransfer",
            "Withdraw your offer, or decline one that was made to you",
            end,
            {200: Answer("Ended", *shown)},
            roles=_BUYER,
            write=True,
            problems=ended,
        ),
    )
