"""Stripe's refunds and disputes, modelled: never more than was captured, no refund while a dispute is open.

A refund succeeds at once, or is pending for a while and then succeeds or fails; some fail long after they
succeeded. A dispute is fought over for a while and then won or lost. Every change emits an event whose object
is as Stripe shows it at that moment. Who asks for all this is ``aftersale``'s matter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from domain.orders.ports import PaymentNews

FAILS_AT_ONCE = 0.25  # shares of refunds, not limits
PENDS = 0.4
FAILS_LATE = 0.15
WON = 0.5
FEE_GIVEN_BACK = 0.5  # of the won ones
FEE_RAISED = 0.2  # of all, some time after they were opened
DISPUTE_FEE_MINOR = 1_500
RAISE_MINOR = 500
SETTLES_S_MAX, CLOSES_S_MAX = 25.0, 45.0


class ReturnRefusedError(Exception):
    """Stripe will not return this money."""


@dataclass
class Refund:
    """A refund; ``metadata`` is empty for one made in the dashboard."""

    refund_id: str
    intent_id: str
    order_id: str
    amount_minor: int
    currency: str
    metadata: Mapping[str, str]
    status: str

    @property
    def returns(self) -> bool:
        """Whether the money is gone."""
        return self.status != "failed"


@dataclass
class Dispute:
    """A dispute."""

    dispute_id: str
    intent_id: str
    order_id: str
    amount_minor: int
    currency: str
    status: str = "needs_response"
    fees: tuple[tuple[str, int], ...] = ()

    @property
    def returns(self) -> bool:
        """Whether the money is gone."""
        return self.status != "won"

    @property
    def fee_minor(self) -> int:
        """What was taken for it and not given back."""
        return sum(minor for _, minor in self.fees)


@dataclass
class Returns:
    """See the module. ``emit`` takes events, ``later`` runs it after seconds, ``chance`` is in [0, 1)."""

    emit: Callable[[PaymentNews], None]
    new_id: Callable[[str], str]
    chance: Callable[[], float] = lambda: 0.99
    later: Callable[[float, Callable[[], None]], object] = lambda _delay_s, _what: None
    refunds: dict[str, Refund] = field(default_factory=dict)
    disputes: dict[str, Dispute] = field(default_factory=dict)

    def refund(
        self,
        intent_id: str,
        order_id: str,
        received_minor: int,
        currency: str,
        amount_minor: int,
        metadata: Mapping[str, str],
    ) -> Mapping[str, Any]:
        """POST /v1/refunds.

        Raises:
            ReturnRefusedError: more than is left, or a dispute is open.
        """
        if any(one.intent_id == intent_id and one.status in _OPEN for one in self.disputes.values()):
            raise ReturnRefusedError("This charge has been charged back.")
        if amount_minor > received_minor - self.returned_minor(intent_id):
            raise ReturnRefusedError("The amount is greater than the unrefunded amount.")
        pends = self.chance() < PENDS
        one = Refund(
            self.new_id("re"),
            intent_id,
            order_id,
            amount_minor,
            currency,
            dict(metadata),
            "pending" if pends else "succeeded",
        )
        self.refunds[one.refund_id] = one
        self._tell_refund("refund.created", one)
        if pends:
            fails = self.chance() < FAILS_AT_ONCE
            self._settle_later(one, "failed" if fails else "succeeded")
        elif self.chance() < FAILS_LATE:
            self._settle_later(one, "failed")
        return {"id": one.refund_id, "status": one.status}

    def listed(self, intent_id: str) -> Mapping[str, Any]:
        """GET /v1/refunds."""
        own = [one for one in self.refunds.values() if one.intent_id == intent_id]
        return {"data": [{"id": o.refund_id, "status": o.status, "metadata": dict(o.metadata)} for o in own]}

    def open_dispute(self, intent_id: str, order_id: str, amount_minor: int, currency: str) -> None:
        """Have the buyer's bank take money back, and decide about it later."""
        one = Dispute(self.new_id("dp"), intent_id, order_id, amount_minor, currency)
        self.disputes[one.dispute_id] = one
        self._tell_dispute("charge.dispute.created", one)
        self._change_fee(one, DISPUTE_FEE_MINOR)
        self._tell_dispute("charge.dispute.funds_withdrawn", one)
        self.later(CLOSES_S_MAX * self.chance(), lambda: self._close(one))
        if self.chance() < FEE_RAISED:
            self.later(CLOSES_S_MAX * self.chance(), lambda: self._raise_fee(one))

    def returned_minor(self, intent_id: str) -> int:
        """Return what is gone of a payment."""
        both: list[Refund | Dispute] = [*self.refunds.values(), *self.disputes.values()]
        return sum(one.amount_minor for one in both if one.intent_id == intent_id and one.returns)

    def _settle_later(self, one: Refund, status: str) -> None:
        def settle() -> None:
            one.status = status
            self._tell_refund("refund.failed" if status == "failed" else "refund.updated", one)
            if status == "failed":
                self._tell_refund("charge.refund.updated", one)

        self.later(1.0 + SETTLES_S_MAX * self.chance(), settle)

    def _close(self, one: Dispute) -> None:
        one.status = "won" if self.chance() < WON else "lost"
        if one.status == "won":
            if self.chance() < FEE_GIVEN_BACK:
                self._change_fee(one, -one.fee_minor)
            self._tell_dispute("charge.dispute.funds_reinstated", one)
        self._tell_dispute("charge.dispute.closed", one)

    def _raise_fee(self, one: Dispute) -> None:
        self._change_fee(one, RAISE_MINOR)
        self._tell_dispute("charge.dispute.updated", one)

    def _change_fee(self, one: Dispute, minor: int) -> None:
        one.fees = (*one.fees, (self.new_id("txn"), minor))

    def _tell_refund(self, kind: str, one: Refund) -> None:
        self.emit(
            PaymentNews(
                self.new_id("evt"),
                one.order_id,
                kind,
                one.intent_id,
                one.amount_minor,
                one.currency,
                "expired_or_canceled_card" if one.status == "failed" else "",
                "",
                object_id=one.refund_id,
                object_status=one.status,
                refund_id=one.metadata.get("refund_id", ""),
            )
        )

    def _tell_dispute(self, kind: str, one: Dispute) -> None:
        self.emit(
            PaymentNews(
                self.new_id("evt"),
                one.order_id,
                kind,
                one.intent_id,
                one.amount_minor,
                one.currency,
                "fraudulent",
                "",
                object_id=one.dispute_id,
                object_status=one.status,
                fees=one.fees,
            )
        )


_OPEN = ("needs_response", "under_review")
