"""Planted bugs in what happens before payment: reviews, voids, cancellations, counted attempts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from actors.orders import effects as effects_module
from actors.orders import host as host_module
from domain.orders import commands as c
from domain.orders import decide as decide_module
from domain.orders import payments
from domain.orders.events import PaymentAuthorised, ReviewApproved
from domain.orders.state import ReviewStatus, Status
from storage import stripe_gateway
from tests.simulation.planting import Patch, planted


def _pays_whatever_was_decided(patch: Patch) -> None:
    real = payments.confirm_payment

    def confirm(state: Any, command: Any) -> Any:
        if state.flagged and state.paid_at is None:
            state = replace(state, review=ReviewStatus.APPROVED, stage=Status.IN_REVIEW)
        return real(state, command)

    patch.setattr(payments, "confirm_payment", confirm)


@planted(0)
def captured_without_approval(patch: Patch) -> None:
    """A payment is captured as soon as it is authorised; nobody waits for the review."""
    real = decide_module.effects_after

    def effects(event: Any) -> Any:
        due, done = real(event)
        if isinstance(event, PaymentAuthorised):
            due = [*due, decide_module.Effect(decide_module.CAPTURE_PAYMENT)]
        return [] if isinstance(event, ReviewApproved) else due, done

    async def capture(self: Any, order: Any) -> Any:
        return self._confirmed(await self._payments.capture_payment(order))

    patch.setattr(decide_module, "effects_after", effects)
    patch.setattr(effects_module.Effects, "_capture_payment", capture)
    _pays_whatever_was_decided(patch)


@planted(0)
def flag_forgotten_when_the_payment_is_opened(patch: Patch) -> None:
    """A flagged order's payment is opened like any other: its money is taken at once."""
    patch.setattr(stripe_gateway, "_capture_params", lambda _order: {})
    _pays_whatever_was_decided(patch)


@planted(0)
def captured_after_rejection(patch: Patch) -> None:
    """An approval that comes after the rejection counts, while its payment is still being voided."""
    real = payments.decide_review

    def review(state: Any, command: Any) -> Any:
        if command.approves and state.review is ReviewStatus.REJECTED:
            return [ReviewApproved(command.reviewer_id, command.reason, command.at)]
        return real(state, command)

    patch.setattr(payments, "decide_review", review)
    _pays_whatever_was_decided(patch)


@planted(1)
def rejection_forgets_to_void(patch: Patch) -> None:
    """A flagged order is rejected, and the buyer's money stays held."""
    real = payments.decide_review

    def review(state: Any, command: Any) -> Any:
        return [
            replace(event, voids=False) if type(event).__name__ == "OrderCancelled" else event
            for event in real(state, command)
        ]

    patch.setattr(payments, "decide_review", review)


@planted(0)
def review_without_a_deadline(patch: Patch) -> None:
    """Nobody ends a review that nobody decides."""
    real = decide_module.effects_after

    def effects(event: Any) -> Any:
        due, done = real(event)
        return [effect for effect in due if effect.step != decide_module.END_REVIEW], done

    patch.setattr(decide_module, "effects_after", effects)


@planted(0)
def cancellation_beats_a_capture(patch: Patch) -> None:
    """A payment that arrives after the buyer's cancellation is dropped."""

    def decider(state: Any, command: Any) -> Any:
        if isinstance(command, c.ConfirmPayment) and state and state.status is Status.CANCELLED:
            return []
        return decide_module.decide(state, command)

    patch.setattr(host_module, "decide", decider)


@planted(7)
def cancelled_before_its_payment_was_known(patch: Patch) -> None:
    """An order is cancelled while its payment is being opened, and nobody asks Stripe what became of it."""

    async def opened(_self: Any, order: Any) -> Any:
        return order

    patch.setattr(effects_module.Effects, "_opened", opened)


@planted(18)
def fresh_capture_for_every_reviewer(patch: Patch) -> None:
    """The second of two decisions counts as well."""
    real = payments.decide_review

    def review(state: Any, command: Any) -> Any:
        if state.review is ReviewStatus.APPROVED and state.status is Status.IN_REVIEW:
            state = replace(state, review=ReviewStatus.OPEN)
        return real(state, command)

    patch.setattr(payments, "decide_review", review)
