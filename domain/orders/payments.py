"""Decides what happens between screening and payment: attempts, authorisation, review, cancellation.

Legal order of a payment that is captured at once::

    RecordPaymentOpened -> payment_opened            -> timer expire
    NoticeActionRequired -> payment_action_required
    RecordPaymentFailure -> payment_failed           (the last that is allowed ends the order)
    ConfirmPayment -> paid

and of one that screening flagged::

    NoticeAuthorisation -> payment_authorised        -> timer end_review
    DecideReview -> review_approved                  -> effect capture_payment
    DecideReview -> review_rejected, cancelled       -> effect void_payment
    EndReview -> cancelled                           -> effect void_payment
    ConfirmPayment -> paid                           (once approved)

Whoever comes first wins: a decision, the deadline, a lapse at Stripe, the buyer's cancellation. A capture
that arrives after an order expired or was cancelled by its buyer revives it, because the buyer's money is
real. An authorisation does not: it holds money and takes none, and is being released.
What this module refuses: a second charge, a wrong amount, a capture that no review approved, and a reviewer
who has a part in the order. Such news is a dead letter: money moved that the order cannot explain.
"""

from typing import assert_never

from domain.errors import ConflictError, NotFoundError, RejectedError
from domain.orders import commands as c
from domain.orders.events import (
    Event,
    OrderCancelled,
    OrderExpired,
    OrderPaid,
    PaymentActionRequired,
    PaymentAuthorised,
    PaymentFailed,
    PaymentOpened,
    PaymentVoided,
    ReviewApproved,
    ReviewRejected,
)
from domain.orders.parts import earners
from domain.orders.state import Order, ReviewStatus, Status
from domain.policy import BLOCK, REVIEW, Verdict
from domain.proposals.documents import PaymentFlow

# Attempts at one order that may fail. Card networks charge for more than 15 in 30 days (Visa's excessive
# retries), and whoever tries out stolen numbers shall find no patience here.
PAYMENT_ATTEMPTS_MAX = 10
ACTIONS_MAX = 2 * PAYMENT_ATTEMPTS_MAX  # of the bank's questions, as many are kept; they are only hints
REVIEW_S_MAX = 518_400  # 6 days: Stripe lets most cards' authorisations lapse after 7
CANCELLED_BY_BUYER = "cancelled_by_buyer"
ATTEMPTS_EXHAUSTED = "payment_attempts_exhausted"
REVIEW_REJECTED, REVIEW_EXPIRED = "review_rejected", "review_expired"
AUTHORISATION_LAPSED = "authorisation_lapsed"
RELEASED_WORDS = "Nothing was charged, and the amount held on your card is released."
_WAITING = (Status.SCREENED, Status.AWAITING_PAYMENT)


def decide(state: Order, command: c.PaymentCommand) -> list[Event]:
    """Return the events that ``command`` causes; an empty list when it was done before.

    Raises:
        RejectedError: the command is wrong whatever the state.
        ConflictError: the state does not allow it now.
        NotFoundError: there is nothing to review.
    """
    match command:
        case c.ConfirmPayment():
            return confirm_payment(state, command)
        case c.RecordPaymentFailure():
            return record_failure(state, command)
        case c.NoticeActionRequired():
            return notice_action(state, command)
        case c.NoticeAuthorisation():
            return notice_authorisation(state, command)
        case c.NoticePaymentCancelled():
            return notice_cancelled(state, command)
        case c.NoticeCheckoutEnded():
            return notice_checkout_ended(state, command)
        case c.CancelOrder():
            return cancel(state, command)
        case c.DecideReview():
            return decide_review(state, command)
        case _:
            return _result_of_ours(state, command)


def _result_of_ours(state: Order, command: c.PaymentResult) -> list[Event]:
    """Take what an effect or a timer of ours brought."""
    match command:
        case c.RecordPaymentOpened():
            opened = PaymentOpened(command.payment_intent_id, command.checkout_session_id, command.at)
            return [opened] if state.status is Status.SCREENED else []
        case c.RecordPaymentRefused():
            refused = OrderCancelled(command.code, command.reason, command.at)
            return [refused] if state.status is Status.SCREENED else []
        case c.RecordCaptureRefused():
            refused = OrderCancelled(AUTHORISATION_LAPSED, command.reason, command.at)
            return [refused] if state.status is Status.IN_REVIEW else []
        case c.EndReview():
            if state.status is not Status.IN_REVIEW or state.review is not ReviewStatus.OPEN:
                return []
            reason = f"Nobody reviewed this payment in time. {RELEASED_WORDS}"
            return [OrderCancelled(REVIEW_EXPIRED, reason, command.at, voids=True)]
        case c.ExpireOrder():
            return [OrderExpired(command.at)] if state.status is Status.AWAITING_PAYMENT else []
        case c.RecordPaymentVoided():
            return [PaymentVoided(command.at)] if state.to_void else []
        case _ as unreachable:
            assert_never(unreachable)


def terms_of(flow: PaymentFlow) -> c.PaymentTerms:
    """Return what a governed payment flow means for the orders that are placed under it."""
    return c.PaymentTerms(
        reviews=flow.capture == "manual_when_flagged",
        review_s=min(flow.authorisation_deadline_s, REVIEW_S_MAX),
        refund_window_s=flow.refund_window_s,
        checkout_allowed=flow.checkout_allowed,
    )


def require_sellable(command: c.PlaceOrder, verdict: Verdict) -> None:
    """Refuse an order that screening or the governed payment flow does not let go to payment.

    Raises:
        RejectedError: ``policy_blocked``, ``checkout_not_offered``.
    """
    terms = command.payment_terms
    if command.payment_method == "checkout" and not terms.checkout_allowed:
        raise RejectedError(
            "checkout_not_offered", "Payment on the hosted page is switched off. Use 'payment_intent'."
        )
    # Nobody would look at it: what is captured at once is sold only if nothing speaks against it.
    if verdict.outcome == BLOCK or (verdict.outcome == REVIEW and not terms.reviews):
        raise RejectedError("policy_blocked", " ".join(verdict.reasons))


def attempts_left(state: Order) -> int:
    """How many attempts to pay may still fail."""
    return max(0, PAYMENT_ATTEMPTS_MAX - len(state.failure_event_ids))


def confirm_payment(state: Order, command: c.ConfirmPayment) -> list[Event]:
    """Record a capture; see ``decide`` for errors."""
    if state.paid_at is not None:
        if state.payment_intent_id == command.payment_intent_id:
            return []  # the same capture, told again
        raise ConflictError(
            "second_charge",
            f"Order is already paid by {state.payment_intent_id}; {command.payment_intent_id} must be "
            "returned.",
        )
    ended = state.status is Status.CANCELLED and not state.voids
    # What ended before a review approved it can never be approved.
    if ended or (state.flagged and state.status in (Status.CANCELLED, Status.EXPIRED)):
        raise ConflictError(
            "order_cancelled", "An order that has ended was paid; the payment must be returned."
        )
    # A webhook can beat our own record of the PaymentIntent; Checkout only names it once it is paid.
    _require_intent(state, command.payment_intent_id)
    _require_amount(state, command.amount_minor, command.currency, "captured")
    if state.flagged and state.review is not ReviewStatus.APPROVED:
        raise ConflictError(
            "review_undecided",
            "A flagged order was captured at Stripe before its review approved it. Decide the review and try "
            "this again, or return the payment.",
        )
    return [
        OrderPaid(
            command.payment_intent_id,
            command.stripe_event_id,
            command.amount_minor,
            command.currency,
            command.at,
        )
    ]


def record_failure(state: Order, command: c.RecordPaymentFailure) -> list[Event]:
    """Record a declined attempt; the last one that is allowed ends the order."""
    if state.status is not Status.AWAITING_PAYMENT:
        return []  # late news of an attempt that no longer matters
    if command.stripe_event_id in state.failure_event_ids:
        return []
    failed = PaymentFailed(
        command.stripe_event_id, command.code, command.message, command.at, command.decline_code
    )
    if attempts_left(state) > 1:
        return [failed]
    reason = f"{PAYMENT_ATTEMPTS_MAX} attempts to pay were declined. Place a new order to try again."
    return [failed, OrderCancelled(ATTEMPTS_EXHAUSTED, reason, command.at, voids=True)]


def notice_action(state: Order, command: c.NoticeActionRequired) -> list[Event]:
    """Record that the bank asks the buyer for something; a hint, so late news of it does no harm."""
    known = command.stripe_event_id in state.action_event_ids or len(state.action_event_ids) >= ACTIONS_MAX
    if state.status is not Status.AWAITING_PAYMENT or known:
        return []
    return [PaymentActionRequired(command.stripe_event_id, command.action, command.at)]


def notice_authorisation(state: Order, command: c.NoticeAuthorisation) -> list[Event]:
    """Open the review of an authorised payment."""
    if state.status not in _WAITING:
        return []  # told again, or of an order that has ended: then its authorisation is being released
    if not state.flagged:
        raise RejectedError(
            "authorisation_unexpected",
            f"{command.payment_intent_id} is authorised only, and this order is captured at once.",
        )
    _require_intent(state, command.payment_intent_id)
    _require_amount(state, command.amount_minor, command.currency, "authorised")
    return [
        PaymentAuthorised(
            command.payment_intent_id,
            command.stripe_event_id,
            command.amount_minor,
            command.currency,
            state.review_s,
            command.at,
        )
    ]


def notice_cancelled(state: Order, command: c.NoticePaymentCancelled) -> list[Event]:
    """End an order whose PaymentIntent was cancelled at Stripe, but not by us."""
    if state.payment_intent_id not in (None, command.payment_intent_id):
        return []
    if state.status is Status.IN_REVIEW:
        reason = f"The authorisation ended before it was captured. {RELEASED_WORDS}"
        return [OrderCancelled(AUTHORISATION_LAPSED, reason, command.at)]
    # A hosted page makes a new intent at the next attempt; only the page's own end is the order's.
    if state.status in _WAITING and state.payment_method != "checkout":
        reason = f"The payment was cancelled at Stripe ({command.reason or 'no reason given'})."
        return [OrderCancelled("payment_cancelled", reason, command.at)]
    return []


def notice_checkout_ended(state: Order, command: c.NoticeCheckoutEnded) -> list[Event]:
    """End an order whose hosted page can no longer be paid."""
    if state.status not in _WAITING or state.checkout_session_id not in (None, command.checkout_session_id):
        return []
    return [OrderCancelled(command.code, command.reason, command.at, voids=True)]


def cancel(state: Order, command: c.CancelOrder) -> list[Event]:
    """End an order at its buyer's wish, while nothing is captured or about to be."""
    if state.end_code == CANCELLED_BY_BUYER:
        return []
    open_review = state.status is Status.IN_REVIEW and state.review is ReviewStatus.OPEN
    if state.status not in _WAITING and not open_review:
        what = "paid; ask for a refund instead" if state.paid_at else f"{state.status} already"
        if state.status is Status.IN_REVIEW:
            what = "approved and being charged; ask for a refund as soon as it is paid"
        raise ConflictError("order_not_cancellable", f"The order is {what}.")
    return [OrderCancelled(CANCELLED_BY_BUYER, "You cancelled the order.", command.at, voids=True)]


def decide_review(state: Order, command: c.DecideReview) -> list[Event]:
    """Take a person's decision about a flagged order."""
    if not state.flagged:
        raise NotFoundError("review_not_found", "This order was not flagged; there is nothing to review.")
    if command.reviewer_id in {state.buyer_id, *earners(state.lines)}:
        raise RejectedError(
            "reviewer_not_independent",
            "Who buys, sells or earns in an order cannot review it. Ask a colleague.",
        )
    wanted = ReviewStatus.APPROVED if command.approves else ReviewStatus.REJECTED
    if state.review in (ReviewStatus.APPROVED, ReviewStatus.REJECTED):
        if (state.review, state.reviewer_id) == (wanted, command.reviewer_id):
            return []
        raise ConflictError("review_decided", f"The review was {state.review} by {state.reviewer_id}.")
    if state.status is not Status.IN_REVIEW:
        raise ConflictError(
            "review_not_open", f"The order is {state.status}: there is nothing to decide now."
        )
    if command.approves:
        return [ReviewApproved(command.reviewer_id, command.reason, command.at)]
    reason = f"The review did not approve this payment. {RELEASED_WORDS}"
    return [
        ReviewRejected(command.reviewer_id, command.reason, command.at),
        OrderCancelled(REVIEW_REJECTED, reason, command.at, voids=True),
    ]


def _require_intent(state: Order, payment_intent_id: str) -> None:
    if state.payment_intent_id not in (None, payment_intent_id):
        raise RejectedError(
            "payment_intent_mismatch",
            f"Order expects {state.payment_intent_id}, the webhook names {payment_intent_id}.",
        )


def _require_amount(state: Order, amount_minor: int, currency: str, what: str) -> None:
    if (amount_minor, currency) != (state.total_minor, state.currency):
        raise RejectedError(
            "amount_mismatch",
            f"Order totals {state.total_minor} {state.currency}, Stripe {what} {amount_minor} {currency}.",
        )
