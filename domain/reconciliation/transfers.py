"""Transfers to connected accounts against payouts: what left Stripe, and what we meant to send.

The side of payouts is told by whoever keeps them (``actors.reconciliation.run`` takes it as a port);
without it transfers are counted and not judged. Pure.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from domain.reconciliation.facts import Difference, Kind


@dataclass(frozen=True, slots=True)
class SentTransfer:
    """A transfer at Stripe, in minor units; what came back of it is a ``ReversedTransfer``."""

    transfer_id: str
    payout_id: str  # from its metadata; empty: it names none
    amount_minor: int
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SentPayout:
    """A payout that we say Stripe has sent. ``transfer_id`` is Stripe's answer."""

    payout_id: str
    transfer_id: str
    amount_minor: int
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ReversedTransfer:
    """A transfer reversal at Stripe: ``amount_minor`` came back."""

    reversal_id: str
    transfer_id: str
    amount_minor: int
    currency: str
    at: datetime


def compare_reversals(
    reversals: Iterable[ReversedTransfer], recorded: Collection[str]
) -> Iterator[Difference]:
    """Yield the reversals of our payouts' transfers that no payout has booked back.

    ``recorded`` are the ids of transfers and reversals that payouts know.
    """
    for one in reversals:
        if one.transfer_id in recorded and one.reversal_id not in recorded:
            yield Difference(
                Kind.TRANSFER_DIFFERS,
                "",
                one.reversal_id,
                one.at,
                one.currency,
                0,
                one.amount_minor,
                f"Stripe took {one.amount_minor} {one.currency} of {one.transfer_id} back by "
                f"{one.reversal_id}, and its payout does not know it.",
                {"transfer": one.transfer_id},
            )


def compare_transfers(
    transfers: Iterable[SentTransfer], payouts: Mapping[str, SentPayout]
) -> Iterator[Difference]:
    """Compare Stripe's transfers with payouts by transfer id; both of the same window."""
    met = set()
    for transfer in transfers:
        payout = payouts.get(transfer.transfer_id)
        if payout is None:
            if transfer.amount_minor:
                yield Difference(
                    Kind.TRANSFER_WITHOUT_PAYOUT,
                    "",
                    transfer.transfer_id,
                    transfer.at,
                    transfer.currency,
                    0,
                    transfer.amount_minor,
                    f"Stripe sent {transfer.transfer_id}, and no payout knows it.",
                )
            continue
        met.add(transfer.transfer_id)
        if (transfer.amount_minor, transfer.currency) != (payout.amount_minor, payout.currency):
            yield Difference(
                Kind.TRANSFER_DIFFERS,
                "",
                transfer.transfer_id,
                transfer.at,
                payout.currency,
                payout.amount_minor,
                transfer.amount_minor,
                f"Payout {payout.payout_id} is over {payout.amount_minor} {payout.currency}, the transfer "
                f"over {transfer.amount_minor} {transfer.currency}.",
            )
    for transfer_id, payout in payouts.items():
        if transfer_id not in met:
            yield Difference(
                Kind.PAYOUT_WITHOUT_TRANSFER,
                "",
                transfer_id,
                payout.at,
                payout.currency,
                payout.amount_minor,
                0,
                f"Payout {payout.payout_id} names {transfer_id}, which Stripe has not sent.",
            )
