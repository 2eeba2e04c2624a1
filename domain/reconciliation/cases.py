"""Cases: a difference that is kept until it is gone, so that a second run finds the same one again.

A case's id is made of what differs (kind, order, subject) and not of the amounts: it is opened once,
changed when the amounts change, **resolved** when a run does not find it any more, opened again when it
comes back, and **dismissed** by an operator who accepts it as it is. A dismissal ends when the amounts
change, when a run finds the difference again after another one has not (``gone_at``), and after
``DISMISSED_FOR``: then the case is open again and names the dismissal.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from domain.ids import derive_id
from domain.reconciliation.facts import Difference, Fix, Kind, Post, Rebook, Reverse, TellOrder

CASE_PREFIX = "cas"
DISMISSED_FOR = timedelta(days=90)  # whoever accepted it, and why, is asked again once a quarter
_OF_NO_ORDER = f"{CASE_PREFIX}_{'0' * 26}"
CaseStatus = Literal["open", "resolved", "dismissed"]
FixWord = Literal["tell_order", "post", "reverse", "rebook"]
_WORDS: dict[type[Fix], FixWord] = {
    TellOrder: "tell_order",
    Post: "post",
    Reverse: "reverse",
    Rebook: "rebook",
}
# What a run may do by itself: repeating it is harmless and it says nothing that another side has not said.
BY_ITSELF = (TellOrder, Post)

PROPOSALS: dict[FixWord, str] = {
    "tell_order": "Tell the order what Stripe says, as the webhook would have done.",
    "post": "Post the entry that the order explains, under its own key.",
    "reverse": "Reverse the entry at Finance.",
    "rebook": "Reverse the entry at Finance and post the right amounts under its key and ``:corrected``.",
}
# Where nothing mends itself: what a person has to find out or do.
BY_HAND: dict[Kind, str] = {
    Kind.CAPTURE_NOT_RECORDED: "A webhook about it waits or was given up: decide about the dead letter.",
    Kind.CAPTURE_MISSING_AT_STRIPE: "Look the payment up in Stripe's dashboard. If it never was "
    "captured, revoke the licences and reverse the order's entry.",
    Kind.CAPTURE_DIFFERS: "Refund what was captured too much at Stripe, or settle with the buyer.",
    Kind.CAPTURED_TWICE: "Refund the second payment at Stripe. The case closes once it is returned in full.",
    Kind.CAPTURE_WITHOUT_ORDER: "Find out which system made the payment. After a restore, wait for the "
    "orders; else refund it at Stripe.",
    Kind.BOOKED_DIFFERENTLY: "The correction is wrong too: reverse it at Finance and book it by hand.",
    Kind.REFUND_NOT_RECORDED: "A webhook about it waits or was given up: decide about the dead letter.",
    Kind.REFUND_MISSING_AT_STRIPE: "Look the refund up in Stripe's dashboard; make it there if it lacks.",
    Kind.REFUND_DIFFERS: "Compare both sides by hand: the order cannot take this as news.",
    Kind.DISPUTE_NOT_RECORDED: "A webhook about it waits or was given up: decide about the dead letter.",
    Kind.DISPUTE_MISSING_AT_STRIPE: "Look the dispute up in Stripe's dashboard.",
    Kind.DISPUTE_DIFFERS: "Compare both sides by hand: the order cannot take this as news.",
    Kind.FEE_DIFFERS: "The correction is wrong too: reverse it at Finance and book it by hand.",
    Kind.LICENCE_WITHOUT_PAYMENT: "Find out how it was issued; revoke it.",
    Kind.PAID_WITHOUT_LICENCE: "Look for a dead letter of the order, or an outage of Finance or the signer.",
    Kind.TRANSFER_WITHOUT_PAYOUT: "Find out who made the transfer; reverse it at Stripe if it is not ours.",
    Kind.PAYOUT_WITHOUT_TRANSFER: "Look the transfer up in Stripe's dashboard; it may never have been made.",
    Kind.TRANSFER_DIFFERS: "Compare transfer and payout by hand.",
    Kind.WEBHOOK_ENDPOINT_DISABLED: "Enable the endpoint in Stripe's dashboard; the next run finds what "
    "it missed.",
    Kind.EVENTS_UNDELIVERED: "See whether the endpoint answers; Stripe repeats for three days, then the "
    "run tells the orders.",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A kept difference. Times are UTC; ``fix`` None: a person has to decide.

    ``dismissal`` is the last one, also of a case that came back: ``action_id``, ``by``, ``at``, ``reason``.
    """

    case_id: str
    kind: str
    order_id: str
    subject: str
    status: CaseStatus
    happened_at: datetime
    currency: str
    expected_minor: int | None
    actual_minor: int | None
    detail: str
    evidence: dict[str, Any]
    fix: FixWord | None
    opened_at: datetime
    changed_at: datetime
    apply_requested_by: str | None
    applied_at: datetime | None
    closed_at: datetime | None
    closed_by: str | None
    reason: str | None
    dismissal: dict[str, str | None] | None = None
    gone_at: datetime | None = None

    @property
    def proposal(self) -> str:
        """What to do about it."""
        return (
            PROPOSALS[self.fix] if self.fix is not None else BY_HAND.get(Kind(self.kind), "Decide by hand.")
        )


def case_id(difference: Difference) -> str:
    """Return the id of a difference's case: the same in every run."""
    parent = difference.order_id or _OF_NO_ORDER
    return derive_id(CASE_PREFIX, parent, f"{difference.kind}\0{difference.subject}")


def fix_word(fix: Fix | None) -> FixWord | None:
    """Name a fix."""
    return None if fix is None else _WORDS[type(fix)]
