"""Tax calculations: what tax a cart bears where its buyer is, by a handful of real rates.

Knows the standard rates of some countries and of one Californian city, and collects nowhere else, as an
account that is registered in those alone. Every tax code is taxed alike. A calculation is answered and not
kept; it moves nothing. Follows https://docs.stripe.com/api/tax/calculations/create.
"""

from cluster.local.stripe.parameters import (
    EXPAND,
    Specification,
    Values,
    choice,
    currency,
    integer,
    objects,
    quantity,
    text,
    unit_amount,
)
from cluster.local.stripe.refusals import Document, invalid, missing_parameter
from cluster.local.stripe.turn import Turn

LINES_MAX = 200
PPM = 1_000_000
EXPIRES_S = 90 * 86_400  # a calculation can be looked at for 90 days
ADDRESS: Specification = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"), text)
LINE: Specification = {
    "amount": unit_amount,
    "quantity": quantity,
    "reference": text,
    "tax_behavior": choice("exclusive", "inclusive"),
    "tax_code": text,
}
CREATE: Specification = {
    "currency": currency,
    "customer_details": {"address": ADDRESS, "address_source": choice("billing", "shipping")},
    "line_items": objects(LINE, ("amount",), LINES_MAX),
    "tax_date": integer,
    **EXPAND,
}
# Jurisdictions by country: (level, state, display name, tax type, rate in millionths).
Rate = tuple[str, str | None, str, str, int]
_COUNTRIES: dict[str, tuple[Rate, ...]] = {
    "DE": (("country", None, "Germany", "vat", 190_000),),
    "FR": (("country", None, "France", "vat", 200_000),),
    "GB": (("country", None, "United Kingdom", "vat", 200_000),),
    "JP": (("country", None, "Japan", "jct", 100_000),),
}
_US_BY_POSTAL_CODE: dict[str, tuple[Rate, ...]] = {
    "900": (
        ("state", "CA", "California", "sales_tax", 60_000),
        ("county", "CA", "Los Angeles County", "sales_tax", 2_500),
        ("district", "CA", "Los Angeles County District", "sales_tax", 35_000),
    ),
}
_US_POSTAL_CODE_DIGITS = 5


def create(turn: Turn, _object_id: str, values: Values) -> Document:
    """Work a cart's taxes out.

    Raises:
        RefusedError: 400 for an address that cannot be placed.
    """
    address = values.get("customer_details", {}).get("address")
    if not address or not address.get("country"):
        raise missing_parameter("customer_details[address][country]")
    rates = _rates(address)
    expanded = values.get("expand", [])
    lines = [
        _line(turn, index, line, address["country"], rates) for index, line in enumerate(values["line_items"])
    ]
    sums = {
        behaviour: sum(one["amount_tax"] for one in lines if one["tax_behavior"] == behaviour)
        for behaviour in ("exclusive", "inclusive")
    }
    document: Document = {
        "id": turn.new_id("taxcalc"),
        "object": "tax.calculation",
        "amount_total": sum(one["amount"] for one in lines) + sums["exclusive"],
        "currency": values["currency"],
        "customer": None,
        "customer_details": {"address": address, "address_source": "billing"},
        "expires_at": turn.now + EXPIRES_S,
        "livemode": False,
        "tax_amount_exclusive": sums["exclusive"],
        "tax_amount_inclusive": sums["inclusive"],
        "tax_date": values.get("tax_date", turn.now),
    }
    if any(path == "line_items" or path.startswith("line_items.") for path in expanded):
        if "line_items.data.tax_breakdown" not in expanded:
            for line in lines:
                line["tax_breakdown"] = None
        document["line_items"] = {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/tax/calculations/{document['id']}/line_items",
        }
    return document


def _rates(address: Values) -> tuple[Rate, ...]:
    country, postal_code = address["country"], address.get("postal_code", "")
    if country != "US":
        return _COUNTRIES.get(country, ())
    if len(postal_code) != _US_POSTAL_CODE_DIGITS or not postal_code.isascii() or not postal_code.isdigit():
        raise invalid(
            "The customer's location isn't recognized. Set a valid customer address in order to "
            "automatically calculate tax.",
            "customer_details[address]",
            "customer_tax_location_invalid",
        )
    return _US_BY_POSTAL_CODE.get(postal_code[:3], ())


def _line(turn: Turn, index: int, line: Values, country: str, rates: tuple[Rate, ...]) -> Document:
    inclusive = line.get("tax_behavior", "exclusive") == "inclusive"
    amount, total_ppm = line["amount"], sum(rate[-1] for rate in rates)
    base = _half_up(amount * PPM, PPM + total_ppm) if inclusive else amount
    # Each jurisdiction's share is rounded, and the last one takes what is left of the line's tax.
    tax = amount - base if inclusive else _half_up(amount * total_ppm, PPM)
    breakdown: list[Document] = []
    for place, rate in enumerate(rates):
        spent = sum(one["amount"] for one in breakdown)
        share = min(tax - spent, _half_up(base * rate[-1], PPM))
        breakdown.append(_share(tax - spent if place == len(rates) - 1 else share, base, country, rate))
    return {
        "id": turn.new_id("tax_li"),
        "object": "tax.calculation_line_item",
        "amount": amount,
        "amount_tax": tax,
        "livemode": False,
        "metadata": None,
        "product": None,
        "quantity": line.get("quantity", 1),
        "reference": line.get("reference", f"L{index + 1}"),
        "tax_behavior": "inclusive" if inclusive else "exclusive",
        "tax_breakdown": breakdown or [_share(0, 0, country, None)],
        "tax_code": line.get("tax_code", "txcd_10000000"),
    }


def _share(amount: int, base: int, country: str, rate: Rate | None) -> Document:
    level, state, name, kind, ppm = rate or ("country", None, country, "", 0)
    details = {
        "display_name": name,
        "percentage_decimal": f"{ppm / 10_000:g}",
        "tax_type": kind,
    }
    return {
        "amount": amount,
        "jurisdiction": {"country": country, "display_name": name, "level": level, "state": state},
        "sourcing": "destination",
        "tax_rate_details": None if rate is None else details,
        "taxability_reason": "not_collecting" if rate is None else "standard_rated",
        "taxable_amount": base,
    }


def _half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
