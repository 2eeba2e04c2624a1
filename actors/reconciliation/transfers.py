"""Transfers and their reversals in a reconciliation: what Stripe moved, against what payouts have recorded.

What differs is decided in ``domain.reconciliation.transfers``. Refused: to book anything. A reversal that its
payout does not know is for the payout's runner, which asks Stripe itself.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from domain.reconciliation.facts import Difference, Kind
from domain.reconciliation.transfers import (
    ReversedTransfer,
    SentPayout,
    SentTransfer,
    compare_reversals,
    compare_transfers,
)
from storage.reconciliation.market import OpenCase
from storage.reconciliation.stripe_moves import Move

# Kinds of cases that a payout settles by recording what they are about.
SETTLING = (Kind.TRANSFER_WITHOUT_PAYOUT, Kind.TRANSFER_DIFFERS)
_REVERSALS = "trr_"  # how Stripe's ids of transfer reversals begin


class Payouts(Protocol):
    """Whoever keeps payouts."""

    def sent(self, since: datetime, until: datetime) -> Iterable[SentPayout]:
        """List payouts that Stripe sent in a window, by our account."""

    def recorded(self, transfer_ids: Sequence[str]) -> Collection[str]:
        """Return those of Stripe's transfers and transfer reversals that a payout has recorded."""

    def look_at(self, transfer_id: str) -> bool:
        """Have the payout that a transfer is of look at Stripe again."""


def judge(payouts: Payouts, moves: Sequence[Move], since: datetime, until: datetime) -> list[Difference]:
    """Compare the transfers and reversals among ``moves`` of a window with its payouts."""
    sent = [
        SentTransfer(
            move.source_id, move.metadata.get("payout_id", ""), -move.amount_minor, move.currency, move.at
        )
        for move in moves
        if move.type == "transfer" and move.at < until
    ]
    known = {one.transfer_id: one for one in payouts.sent(since, until)}
    back = [
        ReversedTransfer(move.source_id, move.transfer_id, move.amount_minor, move.currency, move.at)
        for move in moves
        if move.type == "transfer_refund" and move.at < until
    ]
    recorded = payouts.recorded([id_ for one in back for id_ in (one.transfer_id, one.reversal_id)])
    return [*compare_transfers(sent, known), *compare_reversals(back, recorded)]


def still_open(payouts: Payouts, cases: Sequence[OpenCase]) -> list[str]:
    """Return the ids of those cases that no payout has settled.

    A transfer that is recorded may still differ; a reversal that is recorded is booked.
    """
    recorded = payouts.recorded([one.subject for one in cases])
    return [
        one.case_id
        for one in cases
        if one.subject not in recorded
        or (one.kind == Kind.TRANSFER_DIFFERS and not one.subject.startswith(_REVERSALS))
    ]
