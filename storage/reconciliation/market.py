"""Postgres as a reconciliation uses it: reads orders, tells them news, keeps cases and runs.

One session of its own, beside the pools that serve. Failures are ``DependencyError('database_unavailable')``.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import orjson
import psycopg
from psycopg.rows import TupleRow

from domain.errors import DependencyError
from domain.ids import new_id
from domain.orders.events import Event, decode_event
from domain.orders.ports import PaymentNews
from domain.orders.state import Order, fold
from domain.reconciliation.cases import DISMISSED_FOR, case_id, fix_word
from domain.reconciliation.facts import Difference
from domain.reconciliation.transfers import SentPayout
from storage.market.turn_rows import webhook_payload
from storage.sql import load_queries

SQL = {
    name: text.encode() for name, text in load_queries("storage.reconciliation", "reconciliation.sql").items()
}
LOCK = 0x7265636F6E  # "recon": one advisory lock per database
CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 60  # a page takes milliseconds
IDS_PAGE = 10_000
_OPTIONS = f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c enable_seqscan=off -c timezone=UTC"
_NO_RANDOMNESS = bytes(10)
_WITHOUT_MONEY = (
    *("order.screened", "order.payment_failed", "order.delivered", "order.delivery_key_released"),
    *("order.delivery_keys_forgotten", "order.payment_voided", "order.evidence_prepared"),
    *("order.evidence_sent", "order.evidence_refused"),
)


@dataclass(frozen=True, slots=True)
class OpenCase:
    """A case as a run needs it, open or dismissed; ``order_id`` and ``payment_intent_id`` may be empty."""

    case_id: str
    kind: str
    order_id: str
    subject: str
    payment_intent_id: str
    asked: bool


class Market:
    """A context manager."""

    def __init__(self, dsn: str) -> None:
        """Connect.

        Raises:
            DependencyError: ``database_unavailable``.
        """
        try:
            self._db: psycopg.Connection[TupleRow] = psycopg.connect(
                dsn,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="marketplace-reconcile",
                options=_OPTIONS,
            )
        except psycopg.Error as error:
            raise _unavailable(error) from error
        self.unreadable: set[str] = set()  # orders that a newer build has moved

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._db.close()

    def alone(self) -> bool:
        """Whether no other run is under way; holds until the connection closes."""
        return bool(self._ask("be_alone", lock=LOCK)[0][0])

    def now(self) -> datetime:
        """Return the database's time."""
        at: datetime = self._ask("clock")[0][0]
        return at

    def orders_placed(self, since: datetime, until: datetime) -> Iterator[list[str]]:
        """Yield the ids of orders that were placed in a window, by pages."""
        after, below = _first_id(since), _first_id(until)
        while rows := self._ask("orders_of_range", after=after, below=below, limit=IDS_PAGE):
            yield [row[0] for row in rows]
            after = rows[-1][0]

    def orders_returned(self, since: datetime, until: datetime) -> list[str]:
        """Return the ids of orders that recorded a refund's or dispute's progress in a window."""
        return [row[0] for row in self._ask("orders_of_returns", since=since, until=until)]

    def sent(self, since: datetime, until: datetime) -> list[SentPayout]:
        """Return the payouts that Stripe has sent in a window, by Stripe's clock."""
        return [
            SentPayout(payout_id, transfer_id, int(amount), currency, datetime.fromisoformat(made_at))
            for payout_id, transfer_id, amount, currency, made_at in self._ask(
                "payouts_sent", since=since, until=until
            )
        ]

    def recorded(self, transfer_ids: Sequence[str]) -> set[str]:
        """Return those of Stripe's transfers and transfer reversals that a payout has recorded."""
        return {row[0] for row in self._ask("recorded_transfers", ids=list(transfer_ids))}

    def look_at(self, transfer_id: str) -> bool:
        """Have the payout that a transfer is of look at Stripe again; whether there is one."""
        return bool(self._ask("look_at_payout", transfer_id=transfer_id))

    def orders_of_payments(self, payment_intent_ids: Sequence[str]) -> dict[str, str]:
        """Return the order that each PaymentIntent has paid."""
        found: dict[str, str] = {}
        for first in range(0, len(payment_intent_ids), IDS_PAGE):
            page = list(payment_intent_ids[first : first + IDS_PAGE])
            found |= dict(self._ask("orders_of_payments", payments=page))
        return found

    def orders(self, order_ids: Sequence[str], *, money_only: bool = False) -> dict[str, Order]:
        """Return the orders that there are among these; those that this build cannot read are remembered.

        ``money_only`` leaves out events that move no money and end no stage that money depends on.
        """
        histories: defaultdict[str, list[Event]] = defaultdict(list)
        without = list(_WITHOUT_MONEY) if money_only else []
        for order_id, kind, data in self._ask("histories", order_ids=list(order_ids), without=without):
            try:
                histories[order_id].append(decode_event(kind, orjson.loads(data)))
            except (KeyError, TypeError, ValueError):
                self.unreadable.add(order_id)
        return {
            order_id: order
            for order_id, events in histories.items()
            if order_id not in self.unreadable and (order := fold(order_id, events)) is not None
        }

    def licences(self, order_ids: Sequence[str]) -> Mapping[str, dict[int, str]]:
        """Return the licences' statuses by order and line."""
        found: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for order_id, line_no, status in self._ask("licences", order_ids=list(order_ids)):
            found[order_id][line_no] = status
        return found

    def waiting(self, order_ids: Sequence[str]) -> Mapping[str, list[tuple[str, str, bool]]]:
        """Return webhooks that nobody has applied, by order: (event, about what, given up)."""
        found: defaultdict[str, list[tuple[str, str, bool]]] = defaultdict(list)
        for order_id, *webhook in self._ask("waiting", order_ids=list(order_ids)):
            found[order_id].append((webhook[0], webhook[1], webhook[2]))
        return found

    def tell(self, news: PaymentNews) -> bool:
        """Put news into the inbox; whether it was not told before."""
        payload = orjson.dumps(webhook_payload(news)).decode()
        return bool(
            self._ask(
                "tell_order",
                event_id=news.event_id,
                order_id=news.order_id,
                kind=news.kind,
                payload=payload,
            )
        )

    def open_cases(self) -> list[OpenCase]:
        """Return open cases."""
        return [OpenCase(*row) for row in self._ask("open_cases")]

    def accepted_cases(self, limit: int) -> list[OpenCase]:
        """Return dismissed cases whose difference is still there, those looked for longest ago first."""
        return [OpenCase(*row) for row in self._ask("accepted_cases", limit=limit)]

    def seen(self, accepted: Sequence[str]) -> None:
        """Record that these dismissed cases were looked for."""
        self._do("seen_cases", case_ids=list(accepted))

    def pending_cases(self, settling_s: float) -> int:
        """Count open cases that are to be mended, or were within ``settling_s``."""
        return int(self._ask("pending_cases", settling_s=settling_s)[0][0])

    def record(self, differences: Sequence[Difference]) -> Counter[str]:
        """Keep differences as cases; counts ``opened`` and ``changed``."""
        rows = orjson.dumps([_row(one) for one in differences]).decode()
        kept = self._ask("record_cases", cases=rows, dismissed_for=DISMISSED_FOR)
        return Counter("opened" if fresh else "changed" for _, fresh in kept)

    def dismissed(self, case_ids: Sequence[str]) -> set[str]:
        """Return those of the cases that an operator has closed as they are."""
        return (
            {row[0] for row in self._ask("dismissed_cases", case_ids=list(case_ids))} if case_ids else set()
        )

    def resolve(self, order_ids: Sequence[str], found: Sequence[str], accepted: Sequence[str] = ()) -> int:
        """Close the open cases of these orders but those found; returns how many.

        Of the dismissed ones that were looked for (``accepted``) those not found are marked as gone.
        """
        if accepted:
            self._do("gone_cases", order_ids=list(order_ids), accepted=list(accepted), found=list(found))
        return len(self._ask("resolve_cases", order_ids=list(order_ids), found=list(found)))

    def resolve_loose(self, kinds: Sequence[str], found: Sequence[str], accepted: Sequence[str] = ()) -> int:
        """Close the open cases of these kinds that are about no order, but those found; as ``resolve``."""
        if accepted:
            self._do("gone_loose_cases", kinds=list(kinds), accepted=list(accepted), found=list(found))
        return len(self._ask("resolve_loose_cases", kinds=list(kinds), found=list(found)))

    def applied(self, of_case: str, note: str) -> None:
        """Record that a case's fix was made, or what came of trying."""
        self._do("applied", case_id=of_case, note=orjson.dumps({"applied": note}).decode())

    def open_by_kind(self) -> dict[str, int]:
        """Count open cases."""
        return dict(self._ask("open_by_kind"))

    def record_run(
        self,
        run_id: str,
        window: tuple[datetime, datetime],
        started_at: datetime,
        report: Mapping[str, Any],
        *,
        daily: bool,
        complete: bool,
    ) -> None:
        """Keep a run's report."""
        self._do(
            "record_run",
            run_id=run_id,
            since=window[0],
            until=window[1],
            daily=daily,
            complete=complete,
            started_at=started_at,
            report=orjson.dumps(report).decode(),
        )

    def daily_until(self) -> datetime | None:
        """Return up to when daily runs have looked at everything, None before the first."""
        at: datetime | None = self._ask("daily_until")[0][0]
        return at

    def last_daily_age_s(self) -> float | None:
        """Return how long ago the last daily run ended, None before the first."""
        age = self._ask("last_run")[0][0]
        return None if age is None else float(age)

    def _ask(self, name: str, **values: Any) -> list[TupleRow]:
        try:
            return self._db.execute(SQL[name], values).fetchall()
        except psycopg.Error as error:
            raise _unavailable(error) from error

    def _do(self, name: str, **values: Any) -> None:
        try:
            self._db.execute(SQL[name], values)
        except psycopg.Error as error:
            raise _unavailable(error) from error


def _row(difference: Difference) -> dict[str, Any]:
    return {
        "case_id": case_id(difference),
        "kind": difference.kind.value,
        "order_id": difference.order_id,
        "subject": difference.subject,
        "happened_at": difference.at,
        "currency": difference.currency,
        "expected_minor": difference.expected_minor,
        "actual_minor": difference.actual_minor,
        "detail": difference.detail,
        "evidence": difference.evidence,
        "fix": fix_word(difference.fix),
    }


def _first_id(at: datetime) -> str:
    """Return the lowest id of an order that was placed at ``at`` or later."""
    return new_id("ord", max(0, int(at.timestamp() * 1_000)), _NO_RANDOMNESS)


def _unavailable(error: psycopg.Error) -> DependencyError:
    # The text may quote values of a statement; the class and SQLSTATE tell operators enough.
    return DependencyError(
        "database_unavailable",
        f"The database did not answer: {type(error).__name__} {error.sqlstate or ''}.",
        2,
    )
