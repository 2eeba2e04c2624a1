"""The balance: the sum of all balance transactions, by currency, available and pending.

Kept in memory as running totals: pending money becomes available at the starts of days, so that there are
few sums to keep. They follow the stored transactions by id, and start anew after a rollback, which may have
taken back what was counted. Follows https://docs.stripe.com/api/balance.
"""

from collections import defaultdict

import orjson

from cluster.local.stripe.kinds import BALANCE_TRANSACTION
from cluster.local.stripe.parameters import Values
from cluster.local.stripe.refusals import Document
from cluster.local.stripe.store import Store
from cluster.local.stripe.turn import Turn

FOLLOWED_AT_ONCE = 5_000  # some 20 ms
CURRENCY_DEFAULT = "usd"  # of an account that has had no money yet


class Balances:
    """One per process, over its store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rollbacks = store.rollbacks
        self._last = ""
        self._available: defaultdict[str, int] = defaultdict(int)
        self._pending: defaultdict[tuple[str, int], int] = defaultdict(int)

    def follow(self) -> bool:
        """Count up to ``FOLLOWED_AT_ONCE`` more transactions; return whether there may be more."""
        if self._store.rollbacks != self._rollbacks:
            self._rollbacks = self._store.rollbacks
            self._last = ""
            self._available.clear()
            self._pending.clear()
        rows = self._store.after(BALANCE_TRANSACTION, self._last, FOLLOWED_AT_ONCE)
        for _, body in rows:
            booked = orjson.loads(body)
            if booked["status"] == "available":
                self._available[booked["currency"]] += booked["net"]
            else:
                self._pending[booked["currency"], booked["available_on"]] += booked["net"]
        if rows:
            self._last = rows[-1][0]
        return len(rows) == FOLLOWED_AT_ONCE

    def at(self, now: int) -> dict[str, tuple[int, int]]:
        """Return (available, pending) minor units by currency at ``now`` (Unix seconds)."""
        while self.follow():
            pass
        for currency, available_on in [key for key in self._pending if key[1] <= now]:
            self._available[currency] += self._pending.pop((currency, available_on))
        totals = {currency: (amount, 0) for currency, amount in self._available.items()}
        for (currency, _), amount in self._pending.items():
            available, pending = totals.get(currency, (0, 0))
            totals[currency] = available, pending + amount
        return totals

    def retrieve(self, turn: Turn, _object_id: str, _values: Values) -> Document:
        """Return the account's balance."""
        totals = sorted(self.at(turn.now).items()) or [(CURRENCY_DEFAULT, (0, 0))]
        return {
            "object": "balance",
            "available": [_sum(currency, available) for currency, (available, _) in totals],
            "livemode": False,
            "pending": [_sum(currency, pending) for currency, (_, pending) in totals],
        }


def _sum(currency: str, amount: int) -> Document:
    return {"amount": amount, "currency": currency, "source_types": {"card": amount}}
