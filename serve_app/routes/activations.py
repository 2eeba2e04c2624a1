"""Activations: seats of a licence for machines, their heartbeats and their end.

Who may take a seat: the owner by token, or software that answers a challenge with the licence's key. The
licence's text alone activates nothing, because it is shown to whoever verifies it. A heartbeat or release
needs the activation itself, which only its machine holds; the owner can release any seat. Both are PUT: doing
them twice is doing them once.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.responses import Response

from domain import activations, canonical_json
from domain.activations import ACTIVATION_PREFIX, Activation, kind_of, life_of
from domain.document_fields import format_time
from domain.errors import ConflictError, RejectedError
from domain.licence_refusals import refusal
from domain.licence_verification import Revocations, assess
from domain.licences import Licence, open_envelope
from domain.signing import KeyRecord
from domain.strict_json import DocumentError, rejection
from serve_app import examples_licences
from serve_app.auth import AUDITOR, BUYER, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import write_of
from serve_app.operations import Answer, Guard, Operation
from serve_app.routes.ownership import ACTIVATION, HELD, NO_STORE, PROOF, licence_id_of, proven
from serve_app.schemas import licensing as bodies
from storage.market.licences import LicenceRow
from storage.market.licensing import ActivationRow
from storage.signing.keys import verify

PlatformKeys = Callable[[Call], Awaitable[Mapping[str, KeyRecord]]]
_SIGNER = ("signer_unavailable", "signer_busy")
_INVALID = ("activation_invalid", "payload_type_wrong")


class ActivationRoutes:
    """Handlers; ``guard`` tells who asks a public operation, ``keys`` what the platform signs with."""

    def __init__(self, guard: Guard, keys: PlatformKeys) -> None:
        self._guard = guard
        self._keys = keys

    async def activate(self, call: Call) -> Response:
        """POST /v1/licences/{licence_id}/activations."""
        body = read_model(bodies.NewActivation, await call.json())
        if not body.name.isprintable():
            raise RejectedError("body_invalid", "name holds control characters.")
        row = await self._licence_for(call, licence_id_of(call), body.proof)
        licence, ends_at = await _usable(call, row)
        # The machine's fingerprint makes a repetition harmless; the key is kept so that it names one machine.
        write = write_of(call, {"fingerprint": body.fingerprint}, row.licence_id)
        earlier = await call.ports.commands.find(write)
        kind = kind_of(licence.policy)
        seat = await call.ports.licensing.activate(
            row.licence_id,
            call.ports.new_id(ACTIVATION_PREFIX),
            body.fingerprint,
            body.name,
            kind,
            int(life_of(kind).total_seconds()),
        )
        if earlier is None:
            await call.ports.commands.claim(write, seat.activation_id)
        return await _issued(call, 201, seat, ends_at)

    async def heartbeat(self, call: Call) -> Response:
        """PUT /v1/activations/{activation_id}/heartbeat."""
        body = read_model(bodies.HeldActivation, await call.json())
        held = await self._held(call, body.activation)
        row = await call.ports.licences.licence(held.licence_id)
        if row is None:
            raise refusal("licence_not_found")
        _, ends_at = await _usable(call, row)
        seat = await call.ports.licensing.heartbeat(
            held.activation_id, held.licence_id, int(life_of(held.kind).total_seconds())
        )
        return await _issued(call, 200, seat, ends_at)

    async def release(self, call: Call) -> Response:
        """PUT /v1/activations/{activation_id}/release."""
        body = read_model(bodies.Release, await call.json(optional=True))
        activation_id = call.parameters["activation_id"]
        owner = None
        if body.activation is not None:
            await self._held(call, body.activation)
        else:
            owner = await self._buyer(call)
        freed = await call.ports.licensing.release(activation_id, owner)
        return reply(200, {"id": activation_id, "released": freed}, NO_STORE)

    async def list_seats(self, call: Call) -> Response:
        """GET /v1/licences/{licence_id}/activations."""
        row = await call.ports.licences.licence(licence_id_of(call))
        if row is None or (call.caller.role == BUYER and row.buyer_id != call.caller.principal_id):
            raise refusal("licence_not_found")
        seats = [
            bodies.seat_document(seat)
            for seat in await call.ports.licensing.activations(row.root_id)
            if seat.document_id
            == row.licence_id  # an earlier document has no seats, and none of a later owner's
        ]
        return reply(200, {"quantity": row.quantity, "items": seats}, NO_STORE)

    async def _licence_for(self, call: Call, licence_id: str, proof: Any) -> LicenceRow:
        if proof is not None:
            if not await proven(call, licence_id, ACTIVATION, proof):
                raise RejectedError("proof_refused", "The licence's registered key did not sign this proof.")
            row = await call.ports.licences.licence(licence_id)
            owner = None if row is None else row.buyer_id
        else:
            owner = await self._buyer(call)
            row = await call.ports.licences.licence(licence_id)
        if row is None or row.buyer_id != owner:
            raise refusal("licence_not_found")
        return row

    async def _buyer(self, call: Call) -> str:
        principal = await self._guard.identify(call)
        if principal is None:
            raise RejectedError(
                "token_missing",
                "Send the owner's token as 'Authorization: Bearer …', or what proves the right.",
            )
        if principal.role != BUYER:
            raise RejectedError("role_not_allowed", f"This is for buyers; the token is a {principal.role}'s.")
        return principal.principal_id

    async def _held(self, call: Call, shown: Any) -> Activation:
        """Read the activation that a caller shows; it may be out of date, and must be the one in the path."""
        try:
            text = shown if isinstance(shown, str) else canonical_json.dumps(shown).decode()
            envelope, activation = activations.open_envelope(text)
        except DocumentError as error:
            raise rejection(error, "activation_invalid", "The activation") from None
        except ValueError:
            raise RejectedError("activation_invalid", "This is no DSSE envelope.") from None
        fault = activations.check_signature(envelope, await self._keys(call), verify)
        if fault is not None:
            raise RejectedError("activation_invalid", fault.reason)
        if activation.activation_id != call.parameters["activation_id"]:
            raise RejectedError("activation_invalid", "The activation is another one than the path names.")
        return activation


async def _usable(call: Call, row: LicenceRow) -> tuple[Licence, datetime | None]:
    """Return a licence that is in its time, and when it ends with its grace.

    Raises:
        ConflictError: ``licence_expired``, ``licence_not_begun``.
    """
    licence = open_envelope(row.envelope)[1]
    now = call.ports.clock()
    grace = timedelta(days=(await call.ports.licences.standing(row.licence_id)).grace_days)
    report = assess(
        licence,
        signature_ok=True,  # it is our own record's
        key=None,
        revocations=Revocations(1, now, grace=grace),
        now=now,
        buyer_id=None,
    )
    if not report.expiry.acceptable:
        code = "licence_expired" if report.expiry.state == "expired" else "licence_not_begun"
        raise ConflictError(code, report.expiry.reason)
    end = licence.policy.expires_at
    return licence, None if end is None else end + grace


async def _issued(call: Call, status: int, seat: ActivationRow, ends_at: datetime | None) -> Response:
    """Sign a seat's document; it never outlives the licence."""
    now = call.ports.clock().replace(microsecond=0)
    expires_at = now + life_of(seat.kind)
    if ends_at is not None:
        expires_at = min(expires_at, ends_at)
    envelope = await call.ports.signing.sign_licensing(
        Activation(seat.activation_id, seat.document_id, seat.fingerprint, seat.kind, now, expires_at)
    )
    return reply(status, bodies.activation_document(seat, format_time(expires_at), envelope), NO_STORE)


def operations(guard: Guard, keys: PlatformKeys) -> Sequence[Operation]:
    """List the operations."""
    routes = ActivationRoutes(guard, keys)
    issued = bodies.IssuedActivation, examples_licences.ACTIVATION
    seat = examples_licences.ACTIVATION["seat"]
    ended = ("licence_expired", "licence_not_begun")
    return (
        Operation(
            "POST",
            "/v1/licences/{licence_id}/activations",
            "activateLicence",
            "Take a seat for a machine, by the owner's token or a proof; the same machine gets the same seat",
            routes.activate,
            {201: Answer("The seat and its signed document", *issued)},
            public=True,
            write=True,
            request=bodies.NewActivation,
            request_example={"fingerprint": "9f86d081884c7d65", "name": "build-7"},
            problems=(
                *HELD,
                *PROOF,
                *ended,
                "activations_full",
                "proof_refused",
                "token_missing",
                "role_not_allowed",
                *_SIGNER,
            ),
        ),
        Operation(
            "GET",
            "/v1/licences/{licence_id}/activations",
            "listActivations",
            "Your licence's seats in use",
            routes.list_seats,
            {200: Answer("The seats", bodies.Seats, {"quantity": 3, "items": [seat]})},
            roles=frozenset({BUYER, OPERATOR, AUDITOR}),
            problems=("licence_not_found",),
        ),
        Operation(
            "PUT",
            "/v1/activations/{activation_id}/heartbeat",
            "renewActivation",
            "Renew a seat: show its document, get the next one",
            routes.heartbeat,
            {200: Answer("The seat and its next document", *issued)},
            public=True,
            request=bodies.HeldActivation,
            request_example={"activation": examples_licences.ACTIVATION["envelope"]},
            problems=(*HELD, *ended, *_INVALID, "activation_ended", *_SIGNER),
        ),
        Operation(
            "PUT",
            "/v1/activations/{activation_id}/release",
            "releaseActivation",
            "Free a seat, by its document or by the owner's token",
            routes.release,
            {200: Answer("It is free", bodies.Released, {"id": seat["id"], "released": True})},
            public=True,
            request=bodies.Release,
            request_optional=True,
            request_example={"activation": examples_licences.ACTIVATION["envelope"]},
            problems=(*_INVALID, "token_missing", "role_not_allowed"),
        ),
    )
