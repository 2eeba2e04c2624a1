"""What must hold of payouts and their entries at Finance, whatever happened (invariant I7).

One payout per payee, currency and period; its row says what its events say; the books have its entries,
exactly and no others. What a payout has not recorded yet the books may know already: a runner books first and
records then. The other way round nothing may be missing. Refused: to repair anything.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.orders.ledger_invariants import LedgerEntry
from domain.payouts import entries
from domain.payouts.events import (
    Event,
    PayoutBooked,
    PayoutFailed,
    PayoutReturned,
    PayoutSettled,
    PayoutWaits,
)
from domain.payouts.state import Payout, Status, attempt_key, evolve, fold

KEY_PARTS = 4  # payout:<payee>:<currency>:<period>


@dataclass(frozen=True, slots=True)
class PayoutFacts:
    """A payout as it is stored: its row's status, fence and key, and its numbered events."""

    payout_id: str
    status: str
    seq: int
    key: str
    events: Sequence[tuple[int, Event]]


def is_payout_entry(entry_key: str) -> bool:
    """Whether an entry is named as a payout's."""
    return entry_key.startswith(entries.KEY_PREFIX)


def check_payouts(
    payouts: Iterable[PayoutFacts], booked: Iterable[LedgerEntry] | None, settled_before: datetime
) -> Iterator[tuple[str, str]]:
    """Yield (payout id, what is wrong).

    ``booked`` are Finance's payout entries, read before the payouts, or None when it was not asked. What was
    recorded after ``settled_before`` may be younger than that reading.
    """
    by_key: dict[str, dict[str, LedgerEntry]] = {}
    for entry in booked or ():
        key = ":".join(entry.entry_key.split(":")[:KEY_PARTS])
        by_key.setdefault(key, {})[entry.entry_key] = entry
    keys: set[str] = set()
    for facts in payouts:
        if facts.key in keys:
            yield facts.payout_id, f"is a second payout of {facts.key}"
        keys.add(facts.key)
        if [seq for seq, _ in facts.events] != list(range(1, facts.seq + 1)):
            yield facts.payout_id, f"has other events than 1 to {facts.seq}"
            continue
        payout = fold(facts.payout_id, [event for _, event in facts.events])
        if (payout.status.value, payout.key) != (facts.status, facts.key):
            yield facts.payout_id, f"is {facts.status} of {facts.key}, its events say {payout.status}"
        if booked is not None:
            for words in _check_entries(payout, facts, by_key.get(facts.key, {}), settled_before):
                yield facts.payout_id, words
    for key in sorted(by_key.keys() - keys):
        yield "", f"the books have {key}, and there is no such payout"


def _check_entries(
    payout: Payout, facts: PayoutFacts, found: Mapping[str, LedgerEntry], settled_before: datetime
) -> Iterator[str]:
    due = _recorded(facts, settled_before)
    allowed = {**due, **_possible(payout)}
    for key in sorted(due.keys() - found.keys()):
        yield f"the books lack {key}"
    for key, entry in sorted(found.items()):
        postings = allowed.get(key)
        if postings is None and key.startswith(f"{payout.key}:returned:") and payout.finished:
            continue  # booked and about to be recorded; its amount is Stripe's
        if postings is None:
            yield f"the books have {key}, which the payout does not explain"
        elif sorted(entry.postings) != sorted(postings) or entry.currency != payout.currency:
            yield f"the books have {key} with other amounts than the payout's"


def _recorded(facts: PayoutFacts, settled_before: datetime) -> Mapping[str, entries.Postings]:
    """What the payout has recorded as booked, long enough ago."""
    due: dict[str, entries.Postings] = {}
    payout: Payout | None = None
    for _, event in facts.events:
        before, payout = payout, evolve(facts.payout_id, payout, event)
        if event.at > settled_before:
            continue
        if isinstance(event, PayoutBooked):
            due[payout.attempt_key] = entries.booking(payout)
        elif isinstance(event, PayoutSettled):
            due[entries.settlement_key(payout)] = entries.settlement(payout)
        elif isinstance(event, PayoutFailed | PayoutWaits) and before and before.amount_minor:
            due[entries.reversal_key(before)] = _undone(before)
        elif isinstance(event, PayoutReturned):
            key = entries.return_key(payout, event.reversal_id)
            due[key] = entries.returned(payout, event.amount_minor)
    return due


def _undone(payout: Payout) -> entries.Postings:
    return entries.booking_of(payout, -payout.amount_minor)


def _possible(payout: Payout) -> Mapping[str, entries.Postings]:
    """What may be in the books by now, recorded or not."""
    may: dict[str, entries.Postings] = {}
    for number, amount_minor in enumerate(payout.undone_minor, 1):
        key = attempt_key(payout.key, number)
        may[key] = entries.booking_of(payout, amount_minor)
        may[entries.reversal_of(key)] = entries.booking_of(payout, -amount_minor)
    if not payout.amount_minor:
        return may  # not cleared: nothing more
    may[payout.attempt_key] = entries.booking(payout)
    if payout.status in (Status.REFUSED, Status.FAILED):
        may[entries.reversal_key(payout)] = _undone(payout)
    if payout.status in (Status.SENT, Status.SETTLED, Status.RETURNED):
        may[entries.settlement_key(payout)] = entries.settlement(payout)
    for one in payout.returns:
        may[entries.return_key(payout, one.reversal_id)] = entries.returned(payout, one.amount_minor)
    return may
