"""What must hold of an order's refunds and disputes, whoever stored them (I1 and I5).

A part of ``domain.orders.invariants``, which gathers the facts. It is held apart from the decider on purpose:
the bound and the standing of each licence are derived here once more, from the refunds and disputes alone.
"""

from collections.abc import Iterator, Mapping, Sequence

from domain.orders.booking import (
    DISPUTE,
    DISPUTE_FEE,
    DISPUTE_WON,
    REFUND,
    REFUND_REVERSAL,
    fee_of_dispute,
    return_entry_key,
    return_postings,
)
from domain.orders.decide import licence_id
from domain.orders.events import (
    Event,
    LicencesRestored,
    LicencesRevoked,
    LicencesSuspended,
    OrderLicensed,
)
from domain.orders.ledger_invariants import Charge
from domain.orders.lines import Line
from domain.orders.returned import DisputeStatus, RefundStatus, Return
from domain.orders.state import Order

Found = Iterator[tuple[str, str]]


def issued_lines(order: Order) -> tuple[Line, ...]:
    """Return the lines that have a licence: all, but for those that went back before there was one."""
    if not order.revoked_lines:
        return order.lines
    return tuple(
        line
        for line in order.lines
        if line.line_no not in order.revoked_lines
        or licence_id(order.order_id, line.line_no) in order.licence_ids
    )


def movements_of(order: Order) -> list[str]:
    """Return every movement of money that the order's returns explain, booked or not."""
    movements = []
    for refund in order.refunds:
        if refund.accepted_at is not None:
            movements.append(f"{REFUND}:{refund.refund_id}")
            if refund.status is RefundStatus.FAILED:
                movements.append(f"{REFUND_REVERSAL}:{refund.refund_id}")
    for dispute in order.disputes:
        movements += [
            f"{DISPUTE_FEE}:{fee_of_dispute(dispute.dispute_id, fee.transaction_id)}" for fee in dispute.fees
        ]
        if not dispute.shares:
            continue  # told of only after it was won
        movements.append(f"{DISPUTE}:{dispute.dispute_id}")
        if dispute.status is DisputeStatus.WON:
            movements.append(f"{DISPUTE_WON}:{dispute.dispute_id}")
    return movements


def return_entries(order: Order) -> Mapping[str, Sequence[tuple[str, int]]]:
    """Return the postings of every entry that the order's returns explain, by entry key."""
    return {
        return_entry_key(order.order_id, movement): return_postings(order, movement)[1]
        for movement in movements_of(order)
    }


def check_bound(order: Order) -> Found:
    """I1: of a line never more is returned than it cost."""
    if not order.refunds and not order.disputes:
        return
    returns: list[Return] = [*order.refunds, *order.disputes]
    if order.paid_at is None:
        yield "I1", "money was returned of an order that was never paid"
    for line in order.lines:
        back_minor = sum(
            share.amount_minor
            for one in returns
            if one.returns
            for share in one.shares
            if share.line_no == line.line_no
        )
        if not 0 <= back_minor <= line.amount_minor:
            yield "I1", f"returns {back_minor} of line {line.line_no}, which cost {line.amount_minor}"


def check_standing(order: Order, events: Sequence[Event]) -> Found:
    """I5: revoked after a full refund or a lost dispute, and never active again.

    That the licences' rows say the same is ``holding_invariants``' matter.
    """
    if not order.refunds and not order.disputes:
        return
    yield from _history(order, events)
    lost = any(one.status is DisputeStatus.LOST for one in order.disputes)
    disputed = any(one.status is DisputeStatus.OPEN for one in order.disputes)
    for line in order.lines:
        refunded_minor = sum(
            share.amount_minor
            for refund in order.refunds
            if refund.status is RefundStatus.SUCCEEDED
            for share in refund.shares
            if share.line_no == line.line_no
        )
        whole = line.amount_minor > 0 and refunded_minor == line.amount_minor
        number = line.line_no
        if (whole or lost) and number not in order.revoked_lines:
            yield "I5", f"line {number} was refunded in full or lost, and its licence is not revoked"
        if disputed and number not in order.suspended_lines | order.revoked_lines:
            yield "I5", f"line {number} is disputed, and its licence is not suspended"


def check_refunded(order: Order, charge: Charge) -> Found:
    """I1: what Stripe returned of a charge is what the order knows of."""
    refunded_minor = sum(
        one.amount_minor for one in order.refunds if one.returns and one.accepted_at is not None
    )
    for what, known_minor, told_minor in (
        ("refunded", refunded_minor, charge.refunded_minor),
        ("disputed", order.disputed_minor, charge.disputed_minor),
        (
            "took for disputes",
            sum(one.fee_minor for one in order.disputes),
            charge.dispute_fee_minor,
        ),
    ):
        if told_minor is not None and told_minor != known_minor:
            yield "I1", f"Stripe {what} {told_minor} of {charge.payment_intent_id}, the order {known_minor}"


def _history(order: Order, events: Sequence[Event]) -> Found:
    revoked: set[int] = set()
    for event in events:
        match event:
            case LicencesRevoked():
                if not revoked.isdisjoint(event.line_nos):
                    yield "I5", f"revokes lines {event.line_nos} a second time"
                revoked.update(event.line_nos)
            case LicencesSuspended() | LicencesRestored():
                if not revoked.isdisjoint(event.line_nos):
                    yield "I5", f"{type(event).__name__} of lines {event.line_nos} that are revoked for good"
            case OrderLicensed():
                for line_no in sorted(revoked):
                    if licence_id(order.order_id, line_no) in event.licence_ids:
                        yield "I5", f"line {line_no} was licensed after it had been revoked"
            case _:
                pass
