"""What buyers hold, checked on facts: each licence and delivery is its own order's and buyer's (I3, I5).

A part of ``domain.orders.invariants``, which gathers the facts and counts the rows. Decides which columns of
a row follow from the order's events, what the signed document of a row must name, and in which state a
licence must be. Refuses to guess: what was not read is ``None`` and is not checked. Signatures are not
verified here: who signed is the buyer's tools' question, whose row it is in is this one's.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.orders.decide import delivery_id, licence_id
from domain.orders.lines import Line
from domain.orders.state import Order

if TYPE_CHECKING:
    from domain.orders.invariants import StoredDelivery, StoredLicence

Found = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class LicenceTerms:
    """What a licence row says besides its keys.

    ``document`` is the predicate of the signed licence, empty when it cannot be read; ``buyer_id`` and
    ``document`` None: not asked.
    """

    sku_id: str
    buyer_id: str | None = None
    document: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class StoredSuccessor:
    """A document that took another's place (``domain.successions``); ``document`` as in ``LicenceTerms``."""

    document_id: str
    serial: int
    supersedes: str
    buyer_id: str
    document: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class DeliveryTerms:
    """What a delivery row says besides its keys; ``header`` is the age header. None: as in a licence."""

    mode: str
    recipient: str
    buyer_id: str | None = None
    header: bytes = b""
    document: Mapping[str, object] | None = None


def expected_status(order: Order, line: Line) -> str:
    """Return the state in which the licence of a licensed order's line must be."""
    if line.line_no in order.revoked_lines:
        return "revoked"
    return "suspended" if line.line_no in order.suspended_lines else "active"


def check_licences(order: Order, rows: "Sequence[StoredLicence]") -> Found:
    """Compare the licences of a licensed order with its lines; rows of unknown lines are told elsewhere."""
    lines = {line.line_no: line for line in order.lines}
    for row in rows:
        line = lines.get(row.line_no)
        if line is None:
            continue
        status = expected_status(order, line)
        if row.status and row.status != status:
            yield "I5", f"licence {row.licence_id} is {row.status} instead of {status}"
        terms = row.terms
        if terms is None:
            continue
        what = f"licence {row.licence_id}"
        if terms.buyer_id not in (None, order.buyer_id):
            yield "I3", f"{what} is {terms.buyer_id}'s, the order is {order.buyer_id}'s"
        if terms.sku_id != line.sku_id:
            yield "I3", f"{what} is for {terms.sku_id}, the line is of {line.sku_id}"
        root_id = licence_id(order.order_id, line.line_no)
        yield from _document(what, terms.document, _granted(order, line, root_id, order.buyer_id))
        yield from _successors(order, line, root_id, row.successors)


def _granted(order: Order, line: Line, document_id: str, buyer_id: str) -> Mapping[str, object]:
    """Return what a document of the line's licence must say, whoever holds it."""
    return {
        "licence_id": document_id,
        "order_id": order.order_id,
        "line_no": line.line_no,
        "buyer_id": buyer_id,
        "seller_id": line.seller_id,
        "sku_id": line.sku_id,
        "release_id": line.release_id,
        "version": line.version,
        "quantity": line.quantity,
    }


def _successors(order: Order, line: Line, root_id: str, rows: "Sequence[StoredSuccessor]") -> Found:
    """Each document follows the one before it, so that one alone counts, and says what the line bought."""
    before = root_id
    for serial, row in enumerate(rows, 2):
        what = f"licence document {row.document_id}"
        if (row.serial, row.supersedes) != (serial, before):
            yield "I3", f"{what} is number {row.serial} and follows {row.supersedes}, not {before}"
        yield from _document(what, row.document, _granted(order, line, row.document_id, row.buyer_id))
        before = row.document_id


def check_deliveries(order: Order, rows: "Sequence[StoredDelivery]") -> Found:
    """Compare the deliveries of a delivered order with its lines and the buyer's choice."""
    lines = {line.line_no: line for line in order.lines}
    for row in rows:
        line, terms = lines.get(row.line_no), row.terms
        if line is None or terms is None:
            continue
        what = f"delivery {row.delivery_id}"
        if terms.buyer_id not in (None, order.buyer_id):
            yield "I3", f"{what} is {terms.buyer_id}'s, the order is {order.buyer_id}'s"
        if terms.mode != order.delivery.mode:
            yield "I3", f"{what} is a {terms.mode}, the buyer chose {order.delivery.mode}"
        if order.delivery.recipient not in (None, terms.recipient):
            yield "I3", f"{what} is sealed for {terms.recipient}, the buyer gave {order.delivery.recipient}"
        yield from _document(
            what,
            terms.document,
            {
                "delivery_id": delivery_id(order.order_id, line.line_no),
                "order_id": order.order_id,
                "line_no": line.line_no,
                "licence_id": licence_id(order.order_id, line.line_no),
                "release_id": line.release_id,
                "mode": order.delivery.mode,
                "recipient": terms.recipient,
                "header_b64": base64.b64encode(terms.header).decode(),
            },
        )


def _document(what: str, document: Mapping[str, object] | None, expected: Mapping[str, object]) -> Found:
    if document is None:
        return
    if not document:
        yield "I3", f"{what} has a signed document that cannot be read"
        return
    wrong = [name for name, value in expected.items() if document.get(name) != value]
    if wrong:
        yield "I3", f"{what} has a signed document of another {', another '.join(wrong)}"
