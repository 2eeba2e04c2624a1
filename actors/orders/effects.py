"""Effects: the outside work of an order, one function per step, each result a command.

A step may run twice, at once, on two hosts: every outside call carries an idempotency key that is a
function of (order, step), and the command that records the result is harmless the second time. Each outside
system stands behind its own circuit breaker.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from actors.orders.breakers import Breaker
from domain.errors import RejectedError
from domain.orders import commands as c
from domain.orders import decide as steps
from domain.orders.booking import (
    capture_entry_key,
    capture_postings,
    cleared_minor,
    return_entry_key,
    return_postings,
)
from domain.orders.ports import (
    Books,
    CapturedPayment,
    Fulfiller,
    IssuedLicence,
    PaymentGateway,
    PaymentNews,
    SealedDelivery,
)
from domain.orders.state import Order, ReviewStatus


@dataclass(frozen=True, slots=True)
class EffectResult:
    """What a step brings besides its command: rows to be stored in the same commit."""

    payment_handle: Mapping[str, str] | None = field(default=None, repr=False)
    news: PaymentNews | None = None
    licences: Sequence[IssuedLicence] = ()
    deliveries: Sequence[SealedDelivery] = ()


Outcome = tuple[c.Command, EffectResult]


class Effects:
    """Runs steps against the ports. Keeps nothing but the breakers. ``now_s`` is monotonic seconds."""

    def __init__(
        self,
        payments: PaymentGateway,
        books: Books,
        fulfiller: Fulfiller,
        clock: Callable[[], datetime],
        now_s: Callable[[], float],
    ) -> None:
        self._payments = payments
        self._books = books
        self._fulfiller = fulfiller
        self._clock = clock
        stripe, finance, signer = (Breaker(name, now_s) for name in ("Stripe", "Finance", "The signer"))
        self.breakers = (stripe, finance, signer)
        self._runs: dict[str, tuple[Breaker | None, Callable[[Order], Awaitable[Outcome]]]] = {
            steps.OPEN_PAYMENT: (stripe, self._open_payment),
            steps.EXPIRE: (None, self._expire),
            steps.BOOK: (finance, self._book),
            steps.FULFIL: (signer, self._fulfil),
            steps.END_REVIEW: (None, self._end_review),
            steps.CAPTURE_PAYMENT: (stripe, self._capture_payment),
            steps.VOID_PAYMENT: (stripe, self._void_payment),
            steps.FORGET_KEYS: (None, self._forget_keys),
        }
        # Steps with an object of their own, as in ``refund:<refund>``.
        self._runs_of: dict[str, tuple[Breaker, Callable[[Order, str], Awaitable[Outcome]]]] = {
            steps.REFUND_STEP: (stripe, self._refund),
            steps.BOOK_RETURN: (finance, self._book_return),
            steps.EVIDENCE_STEP: (stripe, self._send_evidence),
        }

    async def run(self, step: str, order: Order) -> Outcome:
        """Do the step's outside work and return the command that records it.

        Raises:
            DependencyError: not known to be done; try again.
            RejectedError: the other side refuses for good, or the step is unknown.
        """
        kind, _, subject = step.partition(":")
        if subject and kind in self._runs_of:
            guard, work_on = self._runs_of[kind]
            return await guard.call(lambda: work_on(order, subject))
        if step not in self._runs:
            raise RejectedError("effect_unknown", f"No effect is called {step!r} in this build.")
        breaker, work = self._runs[step]
        if breaker is None:
            return await work(order)
        return await breaker.call(lambda: work(order))

    async def open_identity(self, order_id: str, delivery_id: str) -> tuple[str, datetime]:
        """Unwrap the identity of a released-key delivery; see the port."""
        return await self._fulfiller.open_identity(order_id, delivery_id)

    async def _open_payment(self, order: Order) -> Outcome:
        try:
            opened = await self._payments.open_payment(order)
        except RejectedError as refused:
            return c.RecordPaymentRefused(refused.code, refused.detail, self._clock()), EffectResult()
        command = c.RecordPaymentOpened(opened.payment_intent_id, opened.checkout_session_id, self._clock())
        return command, EffectResult(payment_handle=opened.handle)

    async def _expire(self, _order: Order) -> Outcome:
        return c.ExpireOrder(self._clock()), EffectResult()

    async def _end_review(self, _order: Order) -> Outcome:
        return c.EndReview(self._clock()), EffectResult()

    async def _forget_keys(self, _order: Order) -> Outcome:
        return c.ForgetKeys(self._clock()), EffectResult()

    async def _book(self, order: Order) -> Outcome:
        assert order.paid_at is not None, "booking is due only after payment"
        postings = capture_postings(order)
        answer = await self._books.book(
            capture_entry_key(order.order_id), order.currency, order.paid_at, postings
        )
        # Invariant I4: the acknowledgement must be of these exact amounts, not merely a 200.
        if sorted(answer.postings) != sorted(postings):
            raise RejectedError(
                "booking_mismatch", f"Finance booked {answer.postings} where {postings} was asked."
            )
        command = c.RecordBooking(
            answer.entry_key,
            answer.entry_id,
            answer.currency,
            cleared_minor(answer.postings),
            self._clock(),
        )
        return command, EffectResult()

    async def _book_return(self, order: Order, movement: str) -> Outcome:
        at, postings = return_postings(order, movement)
        key = return_entry_key(order.order_id, movement)
        answer = await self._books.book(key, order.currency, at, postings)
        if sorted(answer.postings) != sorted(postings):
            raise RejectedError(
                "booking_mismatch", f"Finance booked {answer.postings} where {postings} was asked."
            )
        command = c.RecordReturnBooked(
            movement,
            answer.entry_key,
            answer.entry_id,
            answer.currency,
            cleared_minor(answer.postings),
            self._clock(),
        )
        return command, EffectResult()

    async def _refund(self, order: Order, refund_id: str) -> Outcome:
        refund = order.find_refund(refund_id)
        if refund is None:
            raise RejectedError("refund_unknown", f"{order.order_id} has no refund {refund_id}.")
        try:
            made = await self._payments.refund(order, refund)
        except RejectedError as refused:
            refusal = c.RecordRefundRefused(refund_id, refused.code, refused.detail, self._clock())
            return refusal, EffectResult()
        command = c.RecordRefund(refund_id, made.stripe_refund_id, made.status, self._clock())
        return command, EffectResult()

    async def _send_evidence(self, order: Order, evidence_id: str) -> Outcome:
        found = order.find_evidence(evidence_id)
        if found is None:
            raise RejectedError("evidence_unknown", f"{order.order_id} has no evidence {evidence_id}.")
        dispute, evidence = found
        try:
            status = await self._payments.send_evidence(order, dispute.dispute_id, evidence)
        except RejectedError as refused:
            refusal = c.RecordEvidenceRefused(evidence_id, refused.code, refused.detail, self._clock())
            return refusal, EffectResult()
        return c.RecordEvidence(evidence_id, status, self._clock()), EffectResult()

    async def _fulfil(self, order: Order) -> Outcome:
        steps.require_settled(order)
        lines = steps.entitled_lines(order)
        if not lines:  # all of it went back meanwhile; the order says so when it is told
            return c.RecordFulfilment((), (), "", self._clock()), EffectResult()
        fulfilment = await self._fulfiller.fulfil(
            order if lines is order.lines else replace(order, lines=lines)
        )
        command = c.RecordFulfilment(
            licence_ids=tuple(licence.licence_id for licence in fulfilment.licences),
            delivery_ids=tuple(delivery.delivery_id for delivery in fulfilment.deliveries),
            key_id=fulfilment.licences[0].key_id,
            at=self._clock(),
        )
        return command, EffectResult(licences=fulfilment.licences, deliveries=fulfilment.deliveries)

    async def _capture_payment(self, order: Order) -> Outcome:
        if order.review is not ReviewStatus.APPROVED:
            raise RejectedError(
                "review_undecided", f"No review has approved the capture of {order.order_id}."
            )
        try:
            captured = await self._payments.capture_payment(order)
        except RejectedError as refused:
            return c.RecordCaptureRefused(refused.code, refused.detail, self._clock()), EffectResult()
        return self._confirmed(captured)

    async def _void_payment(self, order: Order) -> Outcome:
        captured = await self._payments.void_payment(await self._opened(order)) if order.to_void else None
        if captured is not None:
            return self._confirmed(captured)
        return c.RecordPaymentVoided(self._clock()), EffectResult()

    async def _opened(self, order: Order) -> Order:
        """Return an order with its payment's ids, even if it was cancelled before they were recorded.

        Opening again names the payment that was opened before, or makes one for a moment: either way there is
        none left that only Stripe knows of.
        """
        if order.payment_intent_id is not None or order.checkout_session_id is not None:
            return order
        with contextlib.suppress(RejectedError):  # then Stripe has none, and never will
            opened = await self._payments.open_payment(order)
            return replace(
                order,
                payment_intent_id=opened.payment_intent_id,
                checkout_session_id=opened.checkout_session_id,
            )
        return order

    def _confirmed(self, captured: CapturedPayment) -> Outcome:
        # Its webhook may never come: Stripe's own answer serves as well.
        return c.ConfirmPayment(
            captured.payment_intent_id,
            f"{captured.payment_intent_id}:retrieved",
            captured.amount_minor,
            captured.currency,
            self._clock(),
        ), EffectResult()
