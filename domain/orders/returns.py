"""Decides on money that goes back: refunds, disputes, and what becomes of the licences.

Legal order of a refund::

    RequestRefund -> requested                      -> effect refund:<id>
    RecordRefund, NoticeRefund -> accepted, refunded -> effect book:refund:<id>
    RecordRefundRefused -> failed                   (Stripe never took it on; nothing to book)
    NoticeRefund(failed) -> failed                  -> effect book:refund_reversal:<id>

and of a dispute, told by webhooks only::

    NoticeDispute -> disputed                       -> effect book:dispute:<id>
    NoticeDispute, any -> dispute_fee_changed       -> effect book:dispute_fee:<id>:<balance transaction>
    NoticeDispute(won) -> dispute_won               -> effect book:dispute_won:<id>
    NoticeDispute(lost) -> dispute_lost

What is returned (refunds that did not fail, disputes that were not won) never exceeds what was captured, line
by line. News may come in any order and more than once: a refund or dispute only ever moves forward, and what
is known already causes nothing. News that this order cannot judge yet, because a payment or an answer of
Stripe's is still on its way, is put off (``DependencyError``); news that breaks the bound is refused and
becomes a dead letter for an operator, for then money moved that the order cannot explain.

A line's licence is revoked for good when the line is refunded in full or a dispute is lost; suspended while
that may still happen; restored when it did not. An inquiry (Stripe's ``warning_…``) moves no money and is
none of this. What this module refuses: to refund while a dispute is open, and anything on an unpaid order.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import assert_never

from domain.errors import ConflictError, DependencyError, RejectedError
from domain.ids import derive_id
from domain.money import format_money, smallest_step, split_by_weight
from domain.orders import commands as c
from domain.orders import evidence
from domain.orders.booking import cleared_minor, return_entry_key, return_postings
from domain.orders.events import (
    DisputeFeeChanged,
    DisputeLost,
    DisputeUpdated,
    DisputeWon,
    Event,
    FulfilmentEnded,
    LicencesRestored,
    LicencesRevoked,
    LicencesSuspended,
    OrderDisputed,
    OrderRefunded,
    RefundAccepted,
    RefundFailed,
    RefundRequested,
    ReturnBooked,
)
from domain.orders.lines import Share
from domain.orders.parts import shares_of
from domain.orders.returned import (
    DisputeStatus,
    Refund,
    RefundStatus,
    fees_to_record,
    left_by_line,
    shares_returned,
)
from domain.orders.state import Order, Status, evolve

REFUNDS_MAX = 100  # per order: two per line of the longest cart; bounds its history
REFUNDS_OF_BUYER_MAX = 50  # so many of them may be the buyer's: nobody shall use an operator's up
OPERATOR, BUYER, DASHBOARD = "operator", "buyer", "dashboard"
_FAILED = ("failed", "canceled")  # Stripe's words for a refund whose money came back
_STAGES = ("needs_response", "under_review")  # Stripe's words for an open dispute, in their order
_CLOSED = {"won": DisputeStatus.WON, "lost": DisputeStatus.LOST}


def decide(state: Order, command: c.ReturnCommand) -> list[Event]:
    """Return the events that ``command`` causes; an empty list when it was done before.

    Raises:
        RejectedError: the command is wrong whatever the state.
        ConflictError: the state does not allow it now.
        DependencyError: it cannot be judged yet; try again.
    """
    match command:
        case c.RequestRefund():
            return request_refund(state, command)
        case c.RecordRefund():
            return record_refund(state, command)
        case c.RecordRefundRefused():
            return record_refusal(state, command)
        case c.NoticeRefund():
            return notice_refund(state, command)
        case c.NoticeDispute():
            return notice_dispute(state, command)
        case c.RecordReturnBooked():
            return record_return_booked(state, command)
        case c.PrepareEvidence() | c.RecordEvidence() | c.RecordEvidenceRefused():
            return evidence.decide(state, command)
        case _ as unreachable:
            assert_never(unreachable)


def request_refund(state: Order, command: c.RequestRefund) -> list[Event]:
    """Decide on a refund that somebody asks us for; see ``decide`` for errors."""
    known = state.find_refund(command.refund_id)
    if known is not None:
        if known.request_digest != command.request_digest:
            raise RejectedError(
                "idempotency_key_reused",
                "This Idempotency-Key was used with another request. Use a new key for a new request.",
            )
        return []
    if state.paid_at is None:
        raise ConflictError("order_not_refundable", f"The order is {state.status}: nothing was paid for it.")
    if any(one.status is DisputeStatus.OPEN for one in state.disputes):
        raise ConflictError(
            "order_disputed", "The buyer's bank has taken the payment up. Wait until the dispute is closed."
        )
    window = timedelta(seconds=state.refund_window_s)  # as it was promised when the order was placed
    if command.origin == BUYER and command.at > state.paid_at + window:
        raise ConflictError(
            "refund_window_closed",
            f"The buyer could ask for a refund until {state.paid_at + window:%Y-%m-%d %H:%M} UTC. "
            "Ask the seller or an operator.",
        )
    if len(state.refunds) >= REFUNDS_MAX:
        raise ConflictError(
            "refunds_full", f"An order takes {REFUNDS_MAX} refunds. Refund what is left at once, at Stripe."
        )
    own = sum(one.origin == BUYER for one in state.refunds) if command.origin == BUYER else 0
    if own >= REFUNDS_OF_BUYER_MAX:
        raise ConflictError(
            "refunds_full", f"Buyers take {REFUNDS_OF_BUYER_MAX} refunds of an order. Ask an operator."
        )
    requested = RefundRequested(
        command.refund_id,
        _shares(state, _wanted(state, command)),
        command.origin,
        command.requested_by,
        command.reason,
        command.request_digest,
        command.at,
    )
    return _concluded(state, [requested], command.at, "refund")


def record_refund(state: Order, command: c.RecordRefund) -> list[Event]:
    """Record Stripe's answer to a refund of ours."""
    refund = _require_refund(state, command.refund_id)
    return _moved_on(state, refund, command.stripe_refund_id, command.status, "", command.at)


def record_refusal(state: Order, command: c.RecordRefundRefused) -> list[Event]:
    """Record that Stripe will not make a refund of ours."""
    refund = _require_refund(state, command.refund_id)
    if refund.status is not RefundStatus.REQUESTED:
        return []  # its webhook told us better
    failed = RefundFailed(
        refund.refund_id, None, accepted=False, code=command.code, reason=command.reason, at=command.at
    )
    return _concluded(state, [failed], command.at, "refund")


def notice_refund(state: Order, command: c.NoticeRefund) -> list[Event]:
    """Apply a webhook about a refund, made by us or in Stripe's dashboard."""
    if not _concerns(state, command.payment_intent_id):
        return []
    refund = next((one for one in state.refunds if one.stripe_refund_id == command.stripe_refund_id), None)
    if refund is None and command.refund_id:
        refund = state.find_refund(command.refund_id)
    if refund is None:
        return _dashboard_refund(state, command)
    counted = bool(refund.shares)  # not of one that was told of only after it had failed
    if counted and (command.amount_minor, command.currency) != (refund.amount_minor, state.currency):
        raise RejectedError(
            "refund_mismatch",
            f"Refund {refund.refund_id} is of {refund.amount_minor} {state.currency}, Stripe's "
            f"{command.stripe_refund_id} of {command.amount_minor} {command.currency}.",
        )
    return _moved_on(state, refund, command.stripe_refund_id, command.status, command.reason, command.at)


def notice_dispute(state: Order, command: c.NoticeDispute) -> list[Event]:
    """Apply a webhook about a dispute, whatever it tells of its life."""
    if command.status.startswith("warning") or not _concerns(state, command.payment_intent_id):
        return []
    outcome, at = _CLOSED.get(command.status), command.at
    known = state.find_dispute(command.dispute_id)
    events: list[Event] = []
    if known is None:
        # Of one that was won already nothing is gone, and meanwhile the money may have gone another way.
        won = outcome is DisputeStatus.WON
        shares = (
            () if won else _spread(state, command.amount_minor, command.currency, "dispute_exceeds_captured")
        )
        stage = _STAGES[0] if outcome else command.status
        events.append(OrderDisputed(command.dispute_id, shares, command.reason, stage, at, command.due_by))
    else:
        counted = bool(known.shares)
        if counted and (command.amount_minor, command.currency) != (known.amount_minor, state.currency):
            raise RejectedError(
                "dispute_mismatch",
                f"Dispute {known.dispute_id} is over {known.amount_minor} {state.currency}, the webhook says "
                f"{command.amount_minor} {command.currency}.",
            )
        open_now = known.status is DisputeStatus.OPEN
        stage = _later(known.stage, command.status) if open_now and not outcome else known.stage
        due_by = command.due_by if open_now and command.due_by else known.due_by
        if stage != known.stage or due_by != known.due_by:
            events.append(DisputeUpdated(known.dispute_id, stage, at, due_by))
        # A bank may give a lost dispute up after all: the money is back, the licence stays revoked.
        reversed_now = outcome is DisputeStatus.WON and known.status is DisputeStatus.LOST
        if outcome and not open_now and not reversed_now:
            if outcome is not known.status:
                raise ConflictError(
                    "dispute_contradicted", f"Dispute {known.dispute_id} was {known.status} before."
                )
            outcome = None
    # Of a closed one, too: a fee is given back when it is won, and may be raised later.
    events += [
        DisputeFeeChanged(command.dispute_id, transaction_id, amount_minor, at)
        for transaction_id, amount_minor in fees_to_record(known.fees if known else (), command.fees)
    ]
    if outcome is DisputeStatus.WON:
        events.append(DisputeWon(command.dispute_id, known is not None, at))
    elif outcome is DisputeStatus.LOST:
        events.append(DisputeLost(command.dispute_id, at))
    return _concluded(state, events, at, "dispute")


def record_return_booked(state: Order, command: c.RecordReturnBooked) -> list[Event]:
    """Record Finance's acknowledgement of a movement, if it is of the exact amount (invariant I4)."""
    if command.movement in state.booked_returns:
        return []
    _, postings = return_postings(state, command.movement)
    expected = (return_entry_key(state.order_id, command.movement), state.currency, cleared_minor(postings))
    if (command.entry_key, command.currency, command.cleared_minor) != expected:
        raise RejectedError(
            "booking_mismatch",
            f"Finance acknowledged {command.cleared_minor} {command.currency} under {command.entry_key}, "
            f"expected {expected[2]} {expected[1]} under {expected[0]}.",
        )
    return [ReturnBooked(command.movement, command.entry_key, command.entry_id, command.at)]


def entitlements(order: Order) -> tuple[frozenset[int], frozenset[int]]:
    """Return the lines whose licences must be suspended and those whose licences must be revoked."""
    lost = any(one.status is DisputeStatus.LOST for one in order.disputes)
    open_now = any(one.status is DisputeStatus.OPEN for one in order.disputes)
    left = left_by_line(order.lines, [*order.refunds, *order.disputes])
    unrefunded = left_by_line(
        order.lines, [one for one in order.refunds if one.status is RefundStatus.SUCCEEDED]
    )
    suspended, revoked = set(), set()
    for line in order.lines:
        # A line that cost nothing goes with the whole order.
        free = line.amount_minor == 0
        all_back = not any(unrefunded.values()) if free else unrefunded[line.line_no] == 0
        all_asked = not any(left.values()) if free else left[line.line_no] == 0
        if line.line_no in order.revoked_lines or lost or all_back:
            revoked.add(line.line_no)
        elif open_now or all_asked:
            suspended.add(line.line_no)
    return frozenset(suspended), frozenset(revoked)


def _concluded(state: Order, events: list[Event], at: datetime, reason: str) -> list[Event]:
    """Add to money's events what follows from them for the licences."""
    if not events:
        return []
    after = state
    for event in events:
        after = evolve(state.order_id, after, event)
    suspended, revoked = entitlements(after)
    told = list(events)
    if newly := revoked - state.revoked_lines:
        told.append(LicencesRevoked(tuple(sorted(newly)), reason, at))
    if newly := suspended - state.suspended_lines:
        told.append(LicencesSuspended(tuple(sorted(newly)), reason, at))
    if newly := state.suspended_lines - suspended - revoked:
        told.append(LicencesRestored(tuple(sorted(newly)), at))
    if state.stage is Status.BOOKED and len(revoked) == len(state.lines):
        told.append(FulfilmentEnded(at))
    return told


def _concerns(state: Order, payment_intent_id: str) -> bool:
    """Whether news of this payment is about this order's money.

    Raises:
        DependencyError: ``payment_not_recorded``; that cannot be said before the payment itself is known.
    """
    if state.paid_at is None:
        ended = state.stage in (Status.CANCELLED, Status.EXPIRED) and not state.to_void
        never = ended or state.total_minor == 0  # a payment that names a free order is none of its
        if never or state.payment_intent_id not in (None, payment_intent_id):
            return False
        raise DependencyError(
            "payment_not_recorded", "The payment that this is about is not recorded yet.", 1
        )
    # Otherwise it is a second charge, which somebody returns by hand.
    return state.payment_intent_id == payment_intent_id


def _require_refund(state: Order, refund_id: str) -> Refund:
    refund = state.find_refund(refund_id)
    if refund is None:
        raise RejectedError("refund_unknown", f"{state.order_id} has no refund {refund_id}.")
    return refund


def _dashboard_refund(state: Order, command: c.NoticeRefund) -> list[Event]:
    refund_id = derive_id("rfd", state.order_id, command.stripe_refund_id)
    failed = command.status in _FAILED
    # Of one that has failed already nothing was ever returned.
    shares = (
        () if failed else _spread(state, command.amount_minor, command.currency, "refund_exceeds_captured")
    )
    requested = RefundRequested(refund_id, shares, DASHBOARD, "", "made at Stripe", "", command.at)
    after = evolve(state.order_id, state, requested)
    moved = _steps(
        after, after.refunds[-1], command.stripe_refund_id, command.status, command.reason, command.at
    )
    return _concluded(state, [requested, *moved], command.at, "refund")


def _moved_on(
    state: Order, refund: Refund, stripe_refund_id: str, status: str, reason: str, at: datetime
) -> list[Event]:
    return _concluded(state, _steps(state, refund, stripe_refund_id, status, reason, at), at, "refund")


def _steps(
    state: Order, refund: Refund, stripe_refund_id: str, status: str, reason: str, at: datetime
) -> list[Event]:
    """Return how a refund moves on, given where Stripe says that it stands: forward, or not at all."""
    if refund.stripe_refund_id not in (None, stripe_refund_id):
        raise ConflictError(
            "refund_repeated",
            f"Refund {refund.refund_id} is {refund.stripe_refund_id} at Stripe, not {stripe_refund_id}.",
        )
    failed = RefundFailed(
        refund.refund_id,
        stripe_refund_id,
        accepted=refund.accepted_at is not None,
        code=f"refund_{status}",
        reason=reason,
        at=at,
    )
    if refund.stripe_refund_id is None:
        if status in _FAILED:
            return [failed] if refund.status is RefundStatus.REQUESTED else []
        shares = None
        if refund.status is RefundStatus.FAILED:
            parts = [(share.line_no, share.amount_minor) for share in refund.shares]
            _require_left(state, parts)
            shares = _shares(state, parts)  # others may have given their parts up meanwhile
        accepted = RefundAccepted(refund.refund_id, stripe_refund_id, at, shares)
        return [accepted, OrderRefunded(refund.refund_id, at)] if status == "succeeded" else [accepted]
    if refund.status is RefundStatus.FAILED:
        return []
    if status in _FAILED:
        return [failed]
    if status == "succeeded" and refund.status is RefundStatus.PENDING:
        return [OrderRefunded(refund.refund_id, at)]
    return []


def _wanted(state: Order, command: c.RequestRefund) -> list[tuple[int, int]]:
    """Return (line number, amount) of what is asked for, each above zero.

    Raises:
        RejectedError: ``refund_amount_invalid``, ``refund_line_unknown``, ``refund_line_duplicate``.
        ConflictError: ``refund_line_returned``, ``refund_exceeds_captured``.
    """
    left = left_by_line(state.lines, [*state.refunds, *state.disputes])
    amounts = [amount for _, amount in command.lines] + [command.amount_minor]
    if any(amount is not None and amount < 1 for amount in amounts):
        raise RejectedError("refund_amount_invalid", "An amount to refund is at least 1 minor unit.")
    if command.lines and command.amount_minor is not None:
        raise RejectedError("refund_amount_invalid", "Give lines, or one amount for the order, not both.")
    if not command.lines:
        total_left = sum(left.values())
        parts = _split(left, min(command.amount_minor or total_left, total_left), state.currency)
        if not parts or (command.amount_minor or 0) > total_left:
            raise _exceeds(state, command.amount_minor or state.total_minor, total_left)
        return _in_steps(state, parts, left)
    line_nos = [line_no for line_no, _ in command.lines]
    if len(set(line_nos)) < len(line_nos):
        raise RejectedError(
            "refund_line_duplicate", "A line is named twice. Name it once, with its whole amount."
        )
    parts = []
    for line_no, amount in command.lines:
        if line_no not in left:
            raise RejectedError("refund_line_unknown", f"The order has no line {line_no}.")
        if left[line_no] == 0:
            raise ConflictError("refund_line_returned", f"Nothing is left to refund of line {line_no}.")
        if amount is not None and amount > left[line_no]:
            raise _exceeds(state, amount, left[line_no], f" of line {line_no}")
        parts.append((line_no, left[line_no] if amount is None else amount))
    return _in_steps(state, parts, left)


def _in_steps(state: Order, parts: list[tuple[int, int]], left: Mapping[int, int]) -> list[tuple[int, int]]:
    """Require the currency's steps, but for what is left after a refund off them, made at Stripe by hand."""
    step = smallest_step(state.currency)
    rest = all(amount == left[line_no] for line_no, amount in parts)
    if sum(amount for _, amount in parts) % step and not rest:
        raise RejectedError(
            "refund_amount_invalid", f"Amounts in {state.currency} are multiples of {step} minor units."
        )
    return parts


def _spread(state: Order, amount_minor: int, currency: str, code: str) -> tuple[Share, ...]:
    """Spread money that moved without us over the lines, by what is left of each.

    Raises:
        DependencyError: ``refund_undecided``; a refund of ours may yet turn out not to have happened.
        ConflictError: ``code``; more would be returned than was captured.
        RejectedError: the currency is not the order's, or the amount is none.
    """
    if currency != state.currency or amount_minor < 1:
        raise RejectedError(
            "return_mismatch", f"{amount_minor} {currency} is no amount of an order in {state.currency}."
        )
    left = left_by_line(state.lines, [*state.refunds, *state.disputes])
    total_left = sum(left.values())
    if amount_minor > total_left:
        if any(one.status is RefundStatus.REQUESTED for one in state.refunds):
            raise DependencyError("refund_undecided", "Stripe has not answered yet to a refund of ours.", 1)
        raise _exceeds(state, amount_minor, total_left, code=code)
    return _shares(state, _split(left, amount_minor, state.currency))


def _split(left: Mapping[int, int], amount_minor: int, currency: str) -> list[tuple[int, int]]:
    """Split an amount over lines by what is left of each, which no part then exceeds.

    In the currency's steps, so that what is left of each line can be refunded by itself. What is off them
    goes first to lines that are off them already.
    """
    if not any(left.values()):
        return []
    step = smallest_step(currency)
    steps = {line_no: minor // step for line_no, minor in left.items()}
    whole = min(amount_minor // step, sum(steps.values()))
    shared = split_by_weight(whole, list(steps.values())) if whole else [0] * len(left)
    parts = {line_no: count * step for line_no, count in zip(left, shared, strict=True)}
    odd_minor = amount_minor - whole * step
    for line_no in sorted(left, key=lambda one: -(left[one] % step)):
        more_minor = min(odd_minor, left[line_no] - parts[line_no])
        parts[line_no] += more_minor
        odd_minor -= more_minor
    return [(line_no, part_minor) for line_no, part_minor in parts.items() if part_minor]


def _require_left(state: Order, parts: Sequence[tuple[int, int]]) -> None:
    left = left_by_line(state.lines, [*state.refunds, *state.disputes])
    for line_no, amount_minor in parts:
        if amount_minor > left[line_no]:
            raise _exceeds(state, amount_minor, left[line_no], f" of line {line_no}")


def _exceeds(
    state: Order, amount_minor: int, left_minor: int, of: str = "", code: str = "refund_exceeds_captured"
) -> ConflictError:
    asked, left = (format_money(amount, state.currency) for amount in (amount_minor, left_minor))
    return ConflictError(code, f"{asked} is more than the {left} that is left to return{of}.")


def _later(stage: str, told: str) -> str:
    """Return the later of two stages; a word of Stripe's that we do not know changes nothing."""
    if told not in _STAGES or stage not in _STAGES:
        return stage
    return max(stage, told, key=_STAGES.index)


def _shares(state: Order, parts: Sequence[tuple[int, int]]) -> tuple[Share, ...]:
    return shares_of(state.lines, shares_returned([*state.refunds, *state.disputes]), parts)
