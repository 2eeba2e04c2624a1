"""Discount codes: who may take one off which cart, and how much of each line.

A seller's code takes from the seller's own lines; an operator's from everybody's, at the cost of the
platform's fee and never more than it (``terms``). Decides whether a code fits a cart and spreads it over
the lines by largest remainder; how often it was used is counted by the store, in the commit that places the
order. Codes are read without regard to case.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.errors import ConflictError, RejectedError
from domain.money import (
    AMOUNT_MINOR_MAX,
    BASIS_POINTS,
    format_money,
    is_currency,
    smallest_step,
    split_by_weight,
)

SKUS_MAX = 100  # SKUs that a code names; more is a code for all of them
USES_MAX = 1_000_000
BPS_PER_PERCENT = 100
CODE_CHARS_MAX = 32
_CODE = re.compile(r"[A-Z0-9][A-Z0-9_-]{2,31}")


@dataclass(frozen=True, slots=True)
class Discount:
    """A code's rule: ``percent_bps``, or ``amounts_minor`` by currency.

    ``seller_id`` None is the platform's own. No ``sku_ids`` is every SKU that the code may touch.
    ``uses_max`` and ``uses_per_buyer_max`` None is without bound; it holds from ``valid_from`` until before
    ``valid_until``.
    """

    discount_id: str
    code: str
    seller_id: str | None
    percent_bps: int | None
    amounts_minor: Mapping[str, int]
    minimum_minor: Mapping[str, int]
    sku_ids: frozenset[str]
    uses_max: int | None
    uses_per_buyer_max: int | None
    valid_from: datetime
    valid_until: datetime | None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Priced:
    """A cart's line as a discount sees it: a whole line's price in minor units."""

    sku_id: str
    seller_id: str
    price_minor: int


def read_code(text: str) -> str:
    """Return a code as it is stored.

    Raises:
        RejectedError: ``discount_invalid``.
    """
    code = text.strip().upper()
    if not _CODE.fullmatch(code):
        raise RejectedError(
            "discount_invalid",
            "A code is 3 to 32 letters, digits, '-' and '_', and begins with none of '-_'.",
        )
    return code


def validate(discount: Discount, percent_max: int) -> None:
    """Check a new code's rule; ``percent_max`` is the price model's.

    Raises:
        RejectedError: ``discount_invalid``, ``discount_too_large``, ``currency_unknown``.
    """
    if (discount.percent_bps is None) == (not discount.amounts_minor):
        raise RejectedError("discount_invalid", "Give a percentage, or amounts by currency, and not both.")
    if discount.percent_bps is not None and discount.percent_bps < 1:
        raise RejectedError("discount_invalid", "A percentage is at least 1 basis point.")
    if (discount.percent_bps or 0) > percent_max * BPS_PER_PERCENT:
        raise RejectedError("discount_too_large", f"A discount may take {percent_max} % at most.")
    for amounts in (discount.amounts_minor, discount.minimum_minor):
        for currency, amount_minor in amounts.items():
            if not is_currency(currency):
                raise RejectedError(
                    "currency_unknown", f"{currency!r} is not an ISO 4217 code accepted here."
                )
            if not 1 <= amount_minor <= AMOUNT_MINOR_MAX or amount_minor % smallest_step(currency):
                raise RejectedError("discount_invalid", f"{amount_minor} is no amount of {currency}.")
    for uses in (discount.uses_max, discount.uses_per_buyer_max):
        if uses is not None and not 1 <= uses <= USES_MAX:
            raise RejectedError("discount_invalid", f"Uses are bounded by 1 to {USES_MAX}.")
    if len(discount.sku_ids) > SKUS_MAX:
        raise RejectedError("discount_invalid", f"A code names {SKUS_MAX} SKUs at most.")
    if discount.valid_until is not None and discount.valid_until <= discount.valid_from:
        raise RejectedError("discount_invalid", "A code ends after it begins.")


def taken_off(
    discount: Discount,
    lines: Sequence[Priced],
    currency: str,
    caps_minor: Sequence[int],
    percent_max: int,
    at: datetime,
) -> list[int]:
    """Return what the code takes off each line, in minor units; at least one unit in all.

    ``caps_minor`` is the most that it may take off each line. ``percent_max`` bounds amounts, too: it may
    have been lowered since the code was made.

    Raises:
        ConflictError: ``discount_not_valid`` at this time.
        RejectedError: ``discount_currency``, ``discount_not_applicable``, ``discount_minimum``.
    """
    _require_valid(discount, at)
    if discount.percent_bps is None and currency not in discount.amounts_minor:
        raise RejectedError(
            "discount_currency",
            f"This code takes amounts off in {', '.join(sorted(discount.amounts_minor))} only.",
        )
    prices = [one.price_minor if _touches(discount, one) else 0 for one in lines]
    if not any(prices):
        raise RejectedError("discount_not_applicable", "This code is not for anything in the cart.")
    whole_minor = sum(prices)
    minimum_minor = _minimum(discount, currency)
    if whole_minor < minimum_minor:
        raise RejectedError(
            "discount_minimum",
            f"This code is for {format_money(minimum_minor, currency)} and more of what it is for.",
        )
    wanted_minor = (
        discount.amounts_minor[currency]
        if discount.percent_bps is None
        else whole_minor * discount.percent_bps // BASIS_POINTS
    )
    step = smallest_step(currency)
    steps = min(wanted_minor, whole_minor * percent_max // 100) // step
    parts = split_by_weight(steps, [price // step for price in prices])
    off = [min(part, cap // step) * step for part, cap in zip(parts, caps_minor, strict=True)]
    if not any(off):
        raise RejectedError("discount_not_applicable", "This code takes nothing off this cart.")
    return off


def _require_valid(discount: Discount, at: datetime) -> None:
    if at < discount.valid_from:
        raise ConflictError("discount_not_valid", "This code cannot be used yet.")
    if discount.ended_at is not None or (discount.valid_until is not None and at >= discount.valid_until):
        raise ConflictError("discount_not_valid", "This code cannot be used any more.")


def _touches(discount: Discount, line: Priced) -> bool:
    if discount.seller_id is not None and discount.seller_id != line.seller_id:
        return False
    return not discount.sku_ids or line.sku_id in discount.sku_ids


def _minimum(discount: Discount, currency: str) -> int:
    if not discount.minimum_minor:
        return 0
    if currency not in discount.minimum_minor:
        raise RejectedError(
            "discount_currency",
            f"This code is for carts in {', '.join(sorted(discount.minimum_minor))} only.",
        )
    return discount.minimum_minor[currency]
