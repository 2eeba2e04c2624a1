"""What must hold of an order's terms (I1): parts make up the whole, and nobody gives up more than they had.

A part of ``domain.orders.invariants``, which gathers the facts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from domain.orders.decide import gives_discount_back
from domain.orders.events import Event, OrderGranted
from domain.orders.parts import is_sound, parts_of_line, parts_of_share
from domain.orders.returned import shares_returned
from domain.orders.state import Order, Status


def check_terms(order: Order, granted: OrderGranted | None) -> Iterator[tuple[str, str]]:
    """Yield (invariant, words) of what is wrong."""
    if granted is not None and order.total_minor:
        yield "I1", f"totals {order.total_minor}, and was granted for nothing"
    if order.total_minor == 0 and order.stage in (Status.SCREENED, Status.AWAITING_PAYMENT):
        yield "I9", "costs nothing, and waits to be paid"
    returned = list(shares_returned([*order.refunds, *order.disputes]))
    for line in order.lines:
        if line.fee_minor is None:
            continue  # from before lines held their terms: per seller, not per line
        if not is_sound(line):
            yield "I1", f"line {line.line_no}: its parts do not make up its amount"
            continue
        left = Counter(dict.fromkeys((account for account, _ in parts_of_line(line)), 0))
        for account, minor in parts_of_line(line):
            left[account] += minor
        for share in returned:
            if share.line_no == line.line_no:
                for account, minor in parts_of_share(line, share):
                    left[account] -= minor
        for account, minor in left.items():
            if minor < 0:
                yield "I1", f"line {line.line_no}: {account} gives up {-minor} more than it had"


def check_uses(
    order: Order, events: Sequence[Event], uses: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """I6: an order holds one use of its code, until it ends unpaid; ``uses`` are (discount, buyer)."""
    holds = order.discount_id is not None and not gives_discount_back(events)
    expected = [(order.discount_id, order.buyer_id)] if holds else []
    if list(uses) != expected:
        yield "I6", f"holds uses of discount codes {list(uses)}, its events say {expected}"
