"""Reissues: a licence whose key is compromised gets a document by the key that signs now.

Its owner, what it grants and its owner's key stay; the document before is on the revocation list, and
machines activate again. Only for licences whose key is compromised, whatever the audit log proves of them:
an operator decides which, gives a reason, and both are on record (I12).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.responses import Response

from domain.licence_refusals import refusal
from domain.licences import open_envelope
from domain.signing import KeyRecord, KeyState
from domain.successions import reissued
from serve_app import examples_licences
from serve_app.auth import OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Operation
from serve_app.routes.ownership import HELD, NO_STORE, licence_id_of
from serve_app.routes.transfers import signed_successor
from serve_app.schemas import licences as schemas
from serve_app.schemas import licensing as bodies

PlatformKeys = Callable[[Call], Awaitable[Mapping[str, KeyRecord]]]


class ReissueRoute:
    """The handler; ``keys`` reads the platform's."""

    def __init__(self, keys: PlatformKeys) -> None:
        self._keys = keys

    async def reissue(self, call: Call) -> Response:
        """POST /v1/ops/licences/{licence_id}/reissue."""
        value = await call.json()
        body = read_model(bodies.NewReissue, value)
        write = write_of(call, value)
        earlier = await call.ports.commands.find(write)
        if earlier is None:
            row = await call.ports.licences.licence(licence_id_of(call))
            if row is None:
                raise refusal("licence_not_found")
            key = (await self._keys(call)).get(row.key_id)
            if key is None or key.state is not KeyState.COMPROMISED:
                raise refusal("reissue_not_needed")
            licence = open_envelope(row.envelope)[1]
            successor = await signed_successor(call, reissued(licence, row.key_id, call.ports.clock()))
            earlier = await call.ports.licensing.reissue(write, row.licence_id, body.reason, successor)
            subject = successor.document_id if earlier is None else earlier.subject
        else:
            subject = earlier.subject
        found = await call.ports.licences.licence(subject)
        if found is None:
            raise refusal("licence_not_found")
        return reply(201, schemas.licence_document(found), NO_STORE | (REPLAYED if earlier else {}))


def operations(keys: PlatformKeys) -> Sequence[Operation]:
    """List the operation."""
    return (
        Operation(
            "POST",
            "/v1/ops/licences/{licence_id}/reissue",
            "reissueLicence",
            "Give a licence whose key is compromised a document by the key that signs now",
            ReissueRoute(keys).reissue,
            {201: Answer("The licence's new document", schemas.IssuedLicence, examples_licences.LICENCE)},
            roles=frozenset({OPERATOR}),
            write=True,
            request=bodies.NewReissue,
            request_example={"reason": "Signed after the theft of 2026-12-01."},
            problems=(*HELD, "reissue_not_needed", "signer_unavailable", "signer_busy"),
        ),
    )
