"""Tax by Stripe Tax: adapter of ``TaxCalculator`` over ``POST /v1/tax/calculations``.

Stripe knows the rates, where we are registered, and what a tax code is worth; what it answers per line is
taken as it is, if it adds up. One call per quote and per order. A calculation moves nothing and is not
turned into a transaction of Stripe Tax: the books of Finance say what is owed to whom. Source:
https://docs.stripe.com/api/tax/calculations/create.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import aiohttp
import stripe

from domain.errors import DependencyError, RejectedError
from domain.orders.lines import Tax
from domain.pricing.taxes import PPM, TaxQuestion, is_jurisdiction

TIMEOUT_S = 4.0  # a buyer waits for it, and the request's own deadline is ten
RETRY_AFTER_S = 2
# Stripe's tax codes by our categories (https://docs.stripe.com/tax/digital-products); any other category is
# taxed as the account's own settings say.
TAX_CODES = {
    "software": "txcd_10202000",  # software, downloaded, for personal use
    "software-business": "txcd_10202003",  # … for business use
    "saas": "txcd_10103000",  # software as a service, for personal use
    "saas-business": "txcd_10103001",  # … for business use
}
BEHAVIOURS = ("exclusive", "inclusive")
_PPM_PER_PERCENT = PPM // 100
_NAME_CHARS_MAX = 30
_LOST = (aiohttp.ClientError, TimeoutError)


class StripeTax:
    """One per process and event loop. ``behaviour``: whether prices hold their tax, or it comes on top."""

    def __init__(self, secret_key: str, api_base: str, behaviour: str) -> None:
        if behaviour not in BEHAVIOURS:
            raise ValueError(f"tax comes {' or '.join(BEHAVIOURS)}, not {behaviour}")
        self._behaviour = behaviour
        self._http = stripe.AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        self._client = stripe.StripeClient(
            secret_key, base_addresses={"api": api_base}, max_network_retries=0, http_client=self._http
        )

    async def taxes(self, question: TaxQuestion) -> Sequence[tuple[Tax, ...]]:
        """See the port."""
        if question.country is None:
            raise RejectedError("tax_country_needed", "Say in which country you are: tax depends on it.")
        if not any(line.amount_minor for line in question.lines):
            return [()] * len(question.lines)
        try:
            response = await self._client.raw_request_async(
                "post", "/v1/tax/calculations", **parameters(question, self._behaviour)
            )
        except stripe.InvalidRequestError as refused:
            raise RejectedError("tax_refused", f"Stripe Tax: {refused.user_message or refused}") from refused
        except (stripe.StripeError, *_LOST) as error:
            raise _unavailable(f"Stripe Tax does not answer: {type(error).__name__}.") from error
        try:
            return _read(question, response.data)
        except (KeyError, TypeError, ValueError, InvalidOperation) as error:
            raise _unavailable(f"Stripe Tax's answer cannot be used: {error}") from error

    async def close(self) -> None:
        """Close connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped


def parameters(question: TaxQuestion, behaviour: str) -> dict[str, Any]:
    """Return the request; lines that cost nothing are left out, as Stripe takes positive amounts only."""
    address = {"country": question.country}
    if question.postal_code:
        address["postal_code"] = question.postal_code
    lines = []
    for number, line in enumerate(question.lines, 1):
        if line.amount_minor:
            item = {"amount": line.amount_minor, "reference": str(number), "tax_behavior": behaviour}
            code = TAX_CODES.get(line.category)
            lines.append(item if code is None else {**item, "tax_code": code})
    return {
        "currency": question.currency.lower(),
        "customer_details": {"address": address, "address_source": "billing"},
        "line_items": lines,
        "expand": ["line_items", "line_items.data.tax_breakdown"],
    }


def _read(question: TaxQuestion, calculation: Mapping[str, Any]) -> list[tuple[Tax, ...]]:
    taxes: list[tuple[Tax, ...]] = [()] * len(question.lines)
    items = calculation["line_items"]
    wanted = sum(1 for line in question.lines if line.amount_minor)
    if items["has_more"] or len(items["data"]) != wanted:
        raise ValueError(f"{len(items['data'])} lines for {wanted}")
    for item in items["data"]:
        found = tuple(
            _tax(one, item["tax_behavior"])
            for one in item["tax_breakdown"]
            if one["tax_rate_details"] is not None
        )
        if sum(tax.amount_minor for tax in found) != item["amount_tax"]:
            raise ValueError(f"line {item['reference']}: the taxes do not sum to {item['amount_tax']}")
        taxes[int(item["reference"]) - 1] = found
    return taxes


def _tax(share: Mapping[str, Any], behaviour: str) -> Tax:
    rate = Decimal(share["tax_rate_details"]["percentage_decimal"]) * _PPM_PER_PERCENT
    return Tax(
        _jurisdiction(share["jurisdiction"]), int(rate), int(share["amount"]), behaviour == "inclusive"
    )


def _jurisdiction(place: Mapping[str, Any]) -> str:
    """Return a name that an account can have: ``DE``, ``US_CA``, ``US_CA_LOSANGELESCOUNTY``."""
    parts = [place["country"]]
    if place.get("state"):
        parts.append(place["state"])
    if place["level"] not in ("country", "state"):
        parts.append(place["display_name"])
    words = [re.sub(r"[^A-Z0-9]", "", part.upper())[:_NAME_CHARS_MAX] for part in parts]
    name = "_".join(words)
    if not is_jurisdiction(name):
        raise ValueError(f"no jurisdiction is called {name}")
    return name


def _unavailable(detail: str) -> DependencyError:
    return DependencyError("tax_unavailable", detail, RETRY_AFTER_S)
