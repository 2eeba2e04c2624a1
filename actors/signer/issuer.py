"""Issuer: seals deliveries and signs licences and manifests, in batches, behind the ``Signer`` port.

Decides nothing about orders: it is handed a booked order and what publication left for its releases. It
keeps no key beyond the call that needs it. Repeating a request gives the same licence bytes (Ed25519 is
deterministic) and a fresh header for the same payload, of which only one is ever committed.

All orders of a call are signed together: a key service that is reached over a network answers a batch in
the time of one signature.
"""

import itertools
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from domain import licences, statements
from domain.dsse import Envelope, sign_each, signed_message
from domain.errors import MarketplaceError, RejectedError
from domain.fulfilment import (
    ReleaseMaterial,
    file_key_context,
    identity_context,
    issued_at,
    licence_payload,
    manifest_payload,
)
from domain.orders.decide import RELEASED_KEY_TTL_S, delivery_id, licence_id
from domain.orders.ports import Fulfilment, IssuedLicence, SealedDelivery
from domain.orders.state import Order
from domain.signing import MESSAGES_MAX, KeyWrapper, Signer
from storage.age.header import wrap_file_key
from storage.age.recipients import identity_text, parse_recipient, public_half, recipient_text

# Orders per call. One of a single line takes 0.7 ms, a full cart of 50 lines 35 ms: 0.6 s at the worst,
# well inside the callers' deadline.
REQUESTS_MAX = 16


@dataclass(frozen=True, slots=True)
class IssueRequest:
    """One booked order and the material of each line's release, in line order."""

    order: Order
    materials: tuple[ReleaseMaterial, ...]


@dataclass(frozen=True, slots=True)
class _Sealed:
    recipient: str
    header: bytes
    wrapped_identity: bytes | None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An order that only lacks its signatures: a licence and then a manifest per line."""

    order: Order
    sealed: tuple[_Sealed, ...]
    documents: tuple[tuple[str, bytes], ...]


class Issuer:
    """A plain class, safe to call from several threads; ``deployments.signer`` makes it an actor.

    ``each`` maps a function over requests; a pool's ``map`` makes calls of a remote backend overlap.
    ``not_before`` is since when the signing key is in use; nothing is dated before it.
    """

    def __init__(
        self,
        signer: Signer,
        wrapper: KeyWrapper,
        each: Callable[
            [Callable[[IssueRequest], "_Prepared | RejectedError"], Sequence[IssueRequest]],
            Iterable["_Prepared | RejectedError"],
        ] = map,
        not_before: datetime | None = None,
    ) -> None:
        self._not_before = not_before
        self._signer = signer
        self._wrapper = wrapper
        self._each = each

    def issue(self, requests: Sequence[IssueRequest]) -> list[Fulfilment | MarketplaceError]:
        """Fulfil each order by itself: one that cannot be sealed does not spoil its neighbours.

        Raises:
            RejectedError: ``batch_too_large``.
            DependencyError, BusyError: the signing backend failed; nothing was issued.
        """
        if len(requests) > REQUESTS_MAX:
            raise RejectedError("batch_too_large", f"At most {REQUESTS_MAX} orders are issued at once.")
        prepared = list(self._each(self._prepare, requests))
        documents = [document for one in prepared if isinstance(one, _Prepared) for document in one.documents]
        envelopes = iter(
            [
                envelope
                for start in range(0, len(documents), MESSAGES_MAX)
                for envelope in sign_each(self._signer, documents[start : start + MESSAGES_MAX])
            ]
        )
        return [
            self._finish(one, list(itertools.islice(envelopes, len(one.documents))))
            if isinstance(one, _Prepared)
            else one
            for one in prepared
        ]

    def unwrap_identity(self, of_delivery_id: str, wrapped: bytes) -> str:
        """Open a released-key delivery's identity (``AGE-SECRET-KEY-1…``).

        Raises:
            RejectedError: ``unwrap_refused``.
        """
        return identity_text(self._wrapper.unwrap(wrapped, identity_context(of_delivery_id)))

    def _prepare(self, request: IssueRequest) -> _Prepared | RejectedError:
        order, at = request.order, issued_at(request.order, self._not_before)
        try:
            sealed = tuple(
                self._seal(order, delivery_id(order.order_id, line.line_no), material)
                for line, material in zip(order.lines, request.materials, strict=True)
            )
            documents = [
                (licences.PAYLOAD_TYPE, licence_payload(order, line, material.licence_activation, at))
                for line, material in zip(order.lines, request.materials, strict=True)
            ]
            documents += [
                (
                    statements.PAYLOAD_TYPE,
                    manifest_payload(order, line, material, seal.recipient, seal.header, at),
                )
                for line, material, seal in zip(order.lines, request.materials, sealed, strict=True)
            ]
            for document in documents:
                signed_message(*document)  # a document that is too long is its own order's fault
        except RejectedError as refused:
            return refused
        return _Prepared(order, sealed, tuple(documents))

    def _finish(self, one: _Prepared, envelopes: list[Envelope]) -> Fulfilment:
        order = one.order
        licence_envelopes = envelopes[: len(order.lines)]
        manifest_envelopes = envelopes[len(order.lines) :]
        return Fulfilment(
            licences=[
                IssuedLicence(
                    licence_id=licence_id(order.order_id, line.line_no),
                    line_no=line.line_no,
                    sku_id=line.sku_id,
                    release_id=line.release_id,
                    quantity=line.quantity,
                    key_id=envelope.signatures[0].key_id or "",
                    envelope=envelope.dumps(),
                    issued_at=issued_at(order, self._not_before),
                )
                for line, envelope in zip(order.lines, licence_envelopes, strict=True)
            ],
            deliveries=[
                SealedDelivery(
                    delivery_id=delivery_id(order.order_id, line.line_no),
                    line_no=line.line_no,
                    release_id=line.release_id,
                    mode=order.delivery.mode,
                    recipient=seal.recipient,
                    header=seal.header,
                    manifest=envelope.dumps(),
                    wrapped_identity=seal.wrapped_identity,
                    key_ttl_s=None if seal.wrapped_identity is None else RELEASED_KEY_TTL_S,
                )
                for line, seal, envelope in zip(order.lines, one.sealed, manifest_envelopes, strict=True)
            ],
        )

    def _seal(self, order: Order, of_delivery_id: str, material: ReleaseMaterial) -> _Sealed:
        file_key = self._wrapper.unwrap(material.wrapped_file_key, file_key_context(material.release_id))
        if order.delivery.recipient is not None:
            recipient = order.delivery.recipient
            return _Sealed(recipient, wrap_file_key(file_key, parse_recipient(recipient)), None)
        # An age identity is any 32 random bytes; only its wrapped form is kept.
        identity = secrets.token_bytes(32)
        public_key = public_half(identity)
        wrapped = self._wrapper.wrap(identity, identity_context(of_delivery_id))
        return _Sealed(recipient_text(public_key), wrap_file_key(file_key, public_key), wrapped)
