"""Orders and what belongs to them, page by page in the order of their ids, in memory that does not grow.

Each page is one short REPEATABLE READ transaction, so all rows of an order are of one instant (each commit
of an order writes them together). Not one snapshot for the whole run: held for minutes, it would keep vacuum
from the effects, whose table is written and emptied all the time, and slow the very orders that it checks.
Finance's entries of the page are read right after it, in Finance's own database: what the order had been told
by then must be in the books; what the books are ahead by is told from a violation by its age.

Refuses to write: the sessions are read-only. Failures of a database are ``DependencyError``.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

import orjson
import psycopg
from psycopg import IsolationLevel
from psycopg.rows import TupleRow

from domain import licences, statements
from domain.audit.invariants import Unlogged
from domain.errors import DependencyError
from domain.orders.booking import CLEARING
from domain.orders.events import Event, OrderPaid, decode_event
from domain.orders.holding_invariants import DeliveryTerms, LicenceTerms, StoredSuccessor
from domain.orders.invariants import (
    OrderFacts,
    OrderRow,
    RecordedEvent,
    StoredDelivery,
    StoredEffect,
    StoredLicence,
    StoredWebhook,
)
from domain.orders.ledger_invariants import Charge, LedgerEntry
from domain.orders.publication_invariants import SALES, Behind, Publication, Sums
from domain.orders.totals import LedgerTotal
from domain.payouts.entries import KEY_PREFIX
from domain.payouts.events import decode_event as decode_payout_event
from domain.payouts.invariants import PayoutFacts
from storage.audit.charges import SpooledCharges
from storage.audit.documents import predicate
from storage.audit.log import examine
from storage.sql import load_queries

CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 600  # the ledger's totals read every posting; everything else takes milliseconds
# Every query has its index, whatever the statistics of a young table say.
_OPTIONS = f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c enable_seqscan=off -c timezone=UTC"
_MARKET = {name: text.encode() for name, text in load_queries("storage.audit", "market.sql").items()}
_FINANCE = {name: text.encode() for name, text in load_queries("storage.audit", "finance.sql").items()}
_ABOVE_KEYS_OF = ";"  # follows ':', so `<order_id>;` is above all `<order_id>:<what>` and below the next id
Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True, slots=True)
class Page:
    """A page's orders, and what was found of orders that do not exist.

    ``strays`` maps a table to the ids of orders that only it knows. ``unlogged`` are facts that the audit log
    has not, by order. ``entries`` are all of the books' in the page's range; ``loose_entries`` those of them
    that belong to no order of the page, ``loose_charges`` likewise.
    """

    as_of: datetime
    orders: Sequence[OrderFacts]
    strays: Mapping[str, AbstractSet[str]]
    unlogged: Mapping[str, Sequence[Unlogged]]
    entries: Sequence[LedgerEntry]
    loose_entries: Sequence[LedgerEntry]
    loose_charges: Mapping[str, Sequence[Charge]]


@dataclass(frozen=True, slots=True)
class _Rows:
    """What one snapshot of the market holds of a page; everything but ``orders`` is by order id."""

    after: str
    last: str | None
    as_of: datetime
    orders: Mapping[str, OrderRow]
    events: Mapping[str, list[RecordedEvent]]
    licences: Mapping[str, list[StoredLicence]]
    deliveries: Mapping[str, list[StoredDelivery]]
    effects: Mapping[str, list[StoredEffect]]
    dropped: Mapping[str, list[str]]
    waiting: Mapping[str, list[StoredWebhook]]
    paying: Mapping[str, list[StoredWebhook]]
    outbox: Mapping[str, list[tuple[int, int]]]
    behind: Mapping[str, list[Behind]]
    uses: Mapping[str, list[tuple[str, str]]]
    unlogged: Mapping[str, list[Unlogged]]

    def strays(self) -> dict[str, AbstractSet[str]]:
        """Return the ids of orders that have rows and no order, by table."""
        tables: Mapping[str, Iterable[str]] = {
            "order_events": self.events,
            "licences": self.licences,
            "deliveries": self.deliveries,
            "effects": self.effects,
            "outbox": self.outbox,
            "discount_uses": self.uses,
            # A dead letter may name an order that we never had: that is why it is one.
            "inbox": [order_id for order_id, rows in self.waiting.items() if not all(r.dead for r in rows)],
        }
        return {table: found for table, ids in tables.items() if (found := set(ids) - self.orders.keys())}


class OrderPages:
    """Two read-only connections; a context manager.

    ``finance_dsn`` or ``charges`` None leaves the books or Stripe out, and what needs them unchecked.
    """

    def __init__(
        self, market_dsn: str, finance_dsn: str | None = None, charges: SpooledCharges | None = None
    ) -> None:
        """Connect.

        Raises:
            DependencyError: a database does not answer.
        """
        self._charges = charges
        self._market_dsn = market_dsn
        self._market = _connect(market_dsn, "market")
        self._finance: Connection | None = None
        if finance_dsn is not None:
            try:
                self._finance = _connect(finance_dsn, "finance")
            except DependencyError:
                self._market.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._market.close()
        if self._finance is not None:
            self._finance.close()

    def finance_now(self) -> datetime | None:
        """Return the time by Finance's clock, None without the books."""
        if self._finance is None:
            return None
        with _reading(self._finance, "finance"):
            now: datetime = self._finance.execute(_FINANCE["clock"]).fetchall()[0][0]
        return now

    def clearing(self) -> dict[str, int] | None:
        """Return what Finance says that Stripe holds for us by currency, None without the books."""
        if self._finance is None:
            return None
        with _reading(self._finance, "finance"):
            return dict(self._finance.execute(_FINANCE["clearing"], {"clearing": CLEARING}).fetchall())

    def ledger_totals(self, cut: datetime) -> dict[str, LedgerTotal]:
        """Return Finance's sums by currency of what was posted before ``cut``."""
        assert self._finance is not None, "the books were left out"
        values = {"clearing": CLEARING, "cut": cut}
        with _reading(self._finance, "finance"):
            rows = self._finance.execute(_FINANCE["ledger_totals"], values).fetchall()
        return {row[0]: LedgerTotal(*row) for row in rows}

    def sales_sums(self) -> Sums | None:
        """Return what the consumer ``sales`` holds now, None while it is not registered."""
        with _reading(self._market, "market"):
            if not self._ask("is_registered", {"consumer": SALES})[0][0]:
                return None
            rows = self._ask("sales_sums", {})
        return {
            (axis, name, currency): (orders, units, gross)
            for axis, name, currency, orders, units, gross in rows
        }

    def check_log(self) -> list[tuple[str, str]]:
        """Check the whole audit log, as of one instant."""
        with _reading(self._market, "market"):
            return examine(self._market, self._market_dsn)

    def bounds(self, orders_max: int) -> Iterator[tuple[str, str]]:
        """Cut the orders that there are into pages of ``orders_max``; what is left over has no page yet.

        A page is (below its first id, its last id). Together with ``pages`` from the last bound on, every
        order is in one page.
        """
        after = ""
        while True:
            with _reading(self._market, "market"):
                found = self._ask("end_of_page", {"after": after, "skipped": orders_max - 1})
            if not found:
                return
            yield after, found[0][0]
            after = found[0][0]

    def page(self, after: str, last: str) -> Page:
        """Read the orders above ``after``, up to and with ``last``.

        Raises:
            DependencyError: a database went away.
        """
        with _reading(self._market, "market"):
            rows = self._rows(after, last, None)
        return self._page(rows)

    def pages(self, after: str, orders_max: int) -> Iterator[Page]:
        """Read all orders above ``after`` in pages of ``orders_max``; orders placed meanwhile come last.

        Raises:
            DependencyError: a database went away. Nothing is known of what was not read yet.
        """
        start: str | None = after
        while start is not None:
            with _reading(self._market, "market"):
                rows = self._rows(start, None, orders_max)
            yield self._page(rows)
            start = rows.last

    def _rows(self, after: str, last: str | None, orders_max: int | None) -> _Rows:
        as_of: datetime = self._ask("snapshot_time", {})[0][0]
        values = {"after": after, "last": last, "limit": orders_max}
        orders = {row[0]: OrderRow(*row[1:]) for row in self._ask("page_of_orders", values)}
        if len(orders) == orders_max:
            last = max(orders)
        bounds = {"after": after, "last": last}
        events = _by_order(self._ask("events_of_page", bounds), _event)
        paid_by = [
            recorded.event.stripe_event_id
            for history in events.values()
            for recorded in history
            if isinstance(recorded.event, OrderPaid)
        ]
        return _Rows(
            after=after,
            last=last,
            as_of=as_of,
            orders=orders,
            events=events,
            licences=self._licences(bounds),
            deliveries=_by_order(self._ask("deliveries_of_page", bounds), _delivery),
            effects=_by_order(self._ask("effects_of_page", bounds), StoredEffect),
            dropped=_by_order(self._ask("dropped_of_page", bounds), str),
            waiting=_by_order(self._ask("waiting_webhooks_of_page", bounds), StoredWebhook),
            paying=_by_order(self._ask("processed_webhooks", {"event_ids": paid_by}), StoredWebhook),
            outbox=_by_order(self._ask("outbox_of_page", bounds), lambda first, last: (first, last)),
            behind=_by_order(self._ask("behind_of_page", bounds), Behind),
            uses=_by_order(self._ask("discount_uses_of_page", bounds), lambda code, buyer: (code, buyer)),
            unlogged=_by_order(self._ask("unlogged_of_page", bounds), Unlogged),
        )

    def _licences(self, bounds: Mapping[str, Any]) -> dict[str, list[StoredLicence]]:
        # Grouped by the licence, not by the order; few licences have any.
        followed: dict[str, list[StoredSuccessor]] = _by_order(
            self._ask("successors_of_page", bounds), _successor
        )
        return {
            order_id: [replace(row, successors=followed.get(row.licence_id, ())) for row in rows]
            for order_id, rows in _by_order(self._ask("licences_of_page", bounds), _licence).items()
        }

    def _ask(self, name: str, values: Mapping[str, Any]) -> list[TupleRow]:
        return self._market.execute(_MARKET[name], values).fetchall()

    def _page(self, rows: _Rows) -> Page:
        entries = self._entries(rows)
        own_entries: defaultdict[str, list[LedgerEntry]] = defaultdict(list)
        for entry in entries or ():
            own_entries[entry.entry_key.partition(":")[0]].append(entry)
        charges = None if self._charges is None else self._charges.of_range(rows.after, rows.last)
        return Page(
            as_of=rows.as_of,
            orders=[
                OrderFacts(
                    order_id=order_id,
                    events=rows.events.get(order_id, ()),
                    row=row,
                    licences=rows.licences.get(order_id, ()),
                    deliveries=rows.deliveries.get(order_id, ()),
                    effects=rows.effects.get(order_id, ()),
                    dropped_steps=rows.dropped.get(order_id, ()),
                    webhooks=[*rows.waiting.get(order_id, ()), *rows.paying.get(order_id, ())],
                    entries=None if entries is None else own_entries.pop(order_id, ()),
                    charges=None if charges is None else charges.pop(order_id, ()),
                    publication=Publication(rows.outbox.get(order_id, ()), rows.behind.get(order_id, ())),
                    discount_uses=rows.uses.get(order_id, ()),
                    as_of=rows.as_of,
                    charges_as_of=self._charges.as_of if self._charges else None,
                )
                for order_id, row in rows.orders.items()
            ],
            strays=rows.strays(),
            unlogged=rows.unlogged,
            entries=entries or (),
            loose_entries=[entry for loose in own_entries.values() for entry in loose],
            loose_charges=charges or {},
        )

    def payout_entries(self) -> list[LedgerEntry] | None:
        """Return all entries of payouts, None when Finance is not asked."""
        if self._finance is None:
            return None
        bounds = {"above": KEY_PREFIX, "below": KEY_PREFIX.replace(":", _ABOVE_KEYS_OF)}
        return self._entries_between(bounds)

    def payouts(self, batch: int) -> Iterator[PayoutFacts]:
        """Yield all payouts, in the order of their ids."""
        after = ""
        while True:
            with _reading(self._market, "market"):
                rows = self._ask("payouts", {"after": after, "limit": batch})
            for payout_id, status, seq, key, events in rows:
                numbered = [(n, decode_payout_event(kind, data)) for n, kind, data in orjson.loads(events)]
                yield PayoutFacts(payout_id, status, seq, key, numbered)
            if len(rows) < batch:
                return
            after = rows[-1][0]

    def _entries(self, rows: _Rows) -> list[LedgerEntry] | None:
        """Read the books of the page; the bounds are such that every key lies in one page or another."""
        if self._finance is None:
            return None
        bounds = {
            "above": rows.after + _ABOVE_KEYS_OF if rows.after else None,
            "below": rows.last + _ABOVE_KEYS_OF if rows.last is not None else None,
        }
        return self._entries_between(bounds)

    def _entries_between(self, bounds: Mapping[str, str | None]) -> list[LedgerEntry]:
        assert self._finance is not None, "callers have asked"
        with _reading(self._finance, "finance"):
            found = self._finance.execute(_FINANCE["entries_of_page"], bounds).fetchall()
        return [
            LedgerEntry(
                key, currency, tuple(zip(accounts or (), amounts or (), strict=True)), posted_at, undone
            )
            for key, currency, posted_at, accounts, amounts, undone in found
        ]


def _connect(dsn: str, what: str) -> Connection:
    try:
        connection = psycopg.connect(
            dsn,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="marketplace-check",
            options=_OPTIONS,
            prepare_threshold=None,  # a plan must know whether the page has an upper bound
        )
    except psycopg.Error as error:
        raise _unavailable(what, error) from error
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection


@contextmanager
def _reading(connection: Connection, what: str) -> Iterator[None]:
    """One transaction, and psycopg's errors in our words."""
    try:
        with connection.transaction():
            yield
    except psycopg.Error as error:
        raise _unavailable(what, error) from error


def _unavailable(what: str, error: psycopg.Error) -> DependencyError:
    reason = " ".join(str(error).split()) or type(error).__name__  # psycopg keeps passwords out of it
    return DependencyError(f"{what}_unreadable", f"The {what} database could not be read: {reason}.")


def _by_order(rows: Iterable[TupleRow], make: Any) -> dict[str, list[Any]]:
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for order_id, *values in rows:
        found[order_id].append(make(*values))
    return dict(found)


def _licence(licence_id: str, line_no: int, release_id: str, *columns: Any) -> StoredLicence:
    quantity, status, buyer_id, sku_id, envelope = columns
    granted = LicenceTerms(sku_id, buyer_id, predicate(envelope, licences.PAYLOAD_TYPE))
    return StoredLicence(licence_id, line_no, release_id, quantity, status, granted)


def _successor(
    document_id: str, serial: int, supersedes: str, buyer_id: str, envelope: str
) -> StoredSuccessor:
    document = predicate(envelope, licences.PAYLOAD_TYPE)
    return StoredSuccessor(document_id, serial, supersedes, buyer_id, document)


def _delivery(delivery_id: str, line_no: int, release_id: str, *columns: Any) -> StoredDelivery:
    holds_key, mode, recipient, buyer_id, header, manifest = columns
    document = predicate(manifest, statements.PAYLOAD_TYPE)
    sealed = DeliveryTerms(mode, recipient, buyer_id, header, document)
    return StoredDelivery(delivery_id, line_no, release_id, holds_key, sealed)


def _event(seq: int, event_id: str, kind: str, data: str) -> RecordedEvent:
    event: Event | None
    try:
        event = decode_event(kind, orjson.loads(data))
    except (KeyError, TypeError, ValueError, AttributeError):
        event = None  # an unknown kind, or members that its class does not have
    return RecordedEvent(seq, event_id, event)
