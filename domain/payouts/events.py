"""What can happen to one payout. Events are facts, stored as JSON; they carry no secret.

``KINDS`` maps the stored kind to its class, both ways.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class PayoutApproved:
    """A second operator approved it. ``amount_minor`` is the most that may be sent."""

    batch_id: str
    payee_id: str
    currency: str
    period: str
    account_id: str
    amount_minor: int
    held_back_minor: int
    minimum_minor: int
    approved_by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PayoutCleared:
    """Finance's balance covers ``amount_minor``, which is what will be sent. Nothing is booked yet."""

    amount_minor: int
    at: datetime


@dataclass(frozen=True, slots=True)
class PayoutBooked:
    """Finance moved it from the payee's account to what is in transit."""

    entry_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PayoutSent:
    """Stripe made the transfer, at ``made_at`` by its clock."""

    transfer_id: str
    made_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class PayoutSettled:
    """Finance took it from what is in transit and from what Stripe holds for us."""

    entry_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PayoutRefused:
    """Stripe will not make the transfer; the booking is to be reversed."""

    code: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PayoutWaits:
    """It cannot be sent now and is tried again: nothing is booked. ``code`` says what it waits for."""

    code: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PayoutFailed:
    """Nothing was sent and nothing is booked any more; the balance is carried."""

    code: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PayoutReturned:
    """A transfer reversal of Stripe's, booked back to the payee."""

    reversal_id: str
    amount_minor: int
    entry_id: str
    at: datetime


Event = (
    PayoutApproved
    | PayoutCleared
    | PayoutBooked
    | PayoutSent
    | PayoutSettled
    | PayoutRefused
    | PayoutWaits
    | PayoutFailed
    | PayoutReturned
)

KINDS: dict[str, type[Event]] = {
    "payout.approved": PayoutApproved,
    "payout.cleared": PayoutCleared,
    "payout.booked": PayoutBooked,
    "payout.sent": PayoutSent,
    "payout.settled": PayoutSettled,
    "payout.refused": PayoutRefused,
    "payout.waits": PayoutWaits,
    "payout.failed": PayoutFailed,
    "payout.returned": PayoutReturned,
}
_TIMES = ("at", "made_at")
KIND_OF: dict[type[Event], str] = {cls: kind for kind, cls in KINDS.items()}


def encode_event(event: Event) -> dict[str, Any]:
    """Return the stored JSON object of an event."""
    values = asdict(event)
    return values | {name: values[name].isoformat() for name in _TIMES if name in values}


def decode_event(kind: str, data: Mapping[str, Any]) -> Event:
    """Rebuild an event; raises KeyError for an unknown kind."""
    times = {name: datetime.fromisoformat(data[name]) for name in _TIMES if name in data}
    return KINDS[kind](**{**data, **times})
