"""A store of orders that holds none: each history is written down as JSON when it is asked for, then decoded.

So a grain's state is built as in production, from a row's own JSON by ``decode_event``, and shares no string
with another order's that a driver's rows would not share; and the store's own memory does not count. Only the
sequence numbers of orders that were changed are kept, which is what the fence needs.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson

from cluster.bench.order_life import place_command, whole_life
from domain.orders.events import KIND_OF, OrderDelivered, PaymentOpened, decode_event
from domain.orders.ports import StoredOrder, Turn

STAGES = {"awaiting_payment": PaymentOpened, "delivered": OrderDelivered}
_PREFIX = "ord_01ky000000"
_DIGITS = 16
_MARK = "@N@"
_AT = datetime(2026, 1, 1, tzinfo=UTC)  # only a text in a row


def order_id_of(number: int) -> str:
    """Return the id of order ``number``."""
    return f"{_PREFIX}{number:0{_DIGITS}d}"


class SyntheticOrders:
    """The part of ``OrderStore`` that a grain uses once its order is placed.

    Every order has ``lines`` lines and stands at ``stage``, one of ``STAGES``.
    """

    def __init__(self, lines: int, stage: str) -> None:
        order_id = order_id_of(0)
        turns = whole_life(place_command(order_id, "usr_01ky0000000000000000000000", _AT, lines))
        history = [event for turn in turns for event in turn.events]
        last = next(place for place, event in enumerate(history) if isinstance(event, STAGES[stage]))
        self._rows = [
            (KIND_OF[type(event)], _template(orjson.dumps(event).decode(), order_id))
            for event in history[: last + 1]
        ]
        self._handle = _template(orjson.dumps(turns[1].payment_handle).decode(), order_id)
        self._moved: dict[str, int] = {}

    async def load(self, order_id: str) -> StoredOrder | None:
        """Write the order's rows and decode them, as the driver and the store do with theirs."""
        if not order_id.startswith(_PREFIX):
            return None
        number = order_id[-_DIGITS:]
        events = [
            decode_event(str(kind.encode(), "utf-8"), json.loads(text.replace(_MARK, number)))
            for kind, text in self._rows
        ]
        return StoredOrder(events, json.loads(self._handle.replace(_MARK, number)))

    async def commit(self, turn: Turn) -> bool:
        """Keep the fence's promise."""
        order_id = turn.order.order_id
        if self._moved.get(order_id, len(self._rows)) != turn.fence:
            return False
        self._moved[order_id] = turn.order.seq
        return True

    def forget(self, order_ids: Sequence[str]) -> None:
        """Forget that these orders were changed."""
        for order_id in order_ids:
            self._moved.pop(order_id, None)


def _template(text: str, order_id: str) -> str:
    return text.replace(order_id[-_DIGITS:], _MARK)
