"""What the runner and the desk need of the world: ports that ``storage`` adapts.

``DependencyError`` means "not known to be done, try again", ``RejectedError`` "will never work". All writes
are safe to repeat: their keys are functions of payee, currency and period.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from domain.payouts.events import Event
from domain.payouts.payees import AccountState
from domain.payouts.state import Payout
from domain.payouts.statements import AccountHistory


@dataclass(frozen=True, slots=True)
class Turnover:
    """Sums of an account's debits and credits up to a moment, both >= 0."""

    debit_minor: int
    credit_minor: int


@dataclass(frozen=True, slots=True)
class MadeTransfer:
    """A transfer, and when Stripe made it by Stripe's clock."""

    transfer_id: str
    made_at: datetime


@dataclass(frozen=True, slots=True)
class TransferReversal:
    """A transfer reversal at Stripe."""

    reversal_id: str
    amount_minor: int
    at: datetime


class PayoutBooks(Protocol):
    """Finance."""

    def payables(self, currency: str, as_of: datetime) -> AsyncIterator[tuple[str, Turnover]]:
        """Yield (payee, turnover) of every payee's account in use, up to and including ``as_of``."""

    async def owed_minor(self, payee_id: str, currency: str) -> int:
        """Return what we owe a payee now."""

    async def book(self, key: str, payout: Payout, at: datetime, postings: Sequence[tuple[str, int]]) -> str:
        """Post an entry of a payout and return its id; the amounts echoed are checked."""

    async def reverse(self, payout: Payout, at: datetime) -> str:
        """Undo a payout's booking and return the reversal's id."""

    async def history(
        self, payee_id: str, currency: str, since: datetime, until: datetime, lines_max: int
    ) -> AccountHistory:
        """Return the statement of a payee's account; RejectedError ``payout_statement_too_large``."""


class Transfers(Protocol):
    """Stripe Connect."""

    async def account(self, account_id: str) -> AccountState:
        """Read a connected account; RejectedError ``payee_account_unknown``."""

    async def send(self, payout: Payout) -> MadeTransfer:
        """Make the payout's transfer, or find the one that was made.

        RejectedError: Stripe refuses for good; then none was made.
        """

    async def reversals(self, transfer_id: str) -> Sequence[TransferReversal]:
        """List what was taken back of a transfer, oldest first."""


@dataclass(frozen=True, slots=True)
class DuePayout:
    """A payout that a runner claimed. ``attempts`` counts claims since its last step, this one included."""

    payout_id: str
    attempts: int
    unforeseen: int


@dataclass(frozen=True, slots=True)
class StoredPayout:
    """A payout's history; ``nudges`` counts the times that somebody asked to look at it again."""

    events: Sequence[Event]
    nudges: int


class PayoutStore(Protocol):
    """Postgres, as far as the runner needs it."""

    async def claim_due(self, limit: int, lease_s: float) -> Sequence[DuePayout]:
        """Claim due payouts; of one payee and currency only the one that was approved first."""

    async def load(self, payout_id: str) -> StoredPayout | None:
        """Read a payout's history."""

    async def commit(
        self, payout: Payout, fence: int, nudges: int, events: Sequence[Event], *, rests: bool
    ) -> bool:
        """Append events under the fence; False when the payout has moved on. ``rests``: as ``rest`` does."""

    async def rest(self, payout_id: str, nudges: int) -> None:
        """Nothing is to be done, unless somebody asked again meanwhile."""

    async def wait(self, payout_id: str, nudges: int, delay_s: float) -> None:
        """Look again after ``delay_s``, or at once if somebody asked meanwhile. Nothing has failed."""

    async def defer(self, payout_id: str, delay_s: float, error: str, *, unforeseen: bool = False) -> None:
        """Try again later and keep why."""

    async def bury(self, payout_id: str, code: str, error: str) -> None:
        """Give up until an operator runs the batch again."""

    async def figures(self) -> "PayoutFigures":
        """Count payouts, for metrics."""


@dataclass(frozen=True, slots=True)
class PayoutFigures:
    """Payouts by status, those that are stuck, and payees carried in the last batches by reason."""

    by_status: Mapping[str, int]
    stuck: int
    carried_by_reason: Mapping[str, int]
