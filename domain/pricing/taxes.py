"""Tax by a table of rates: which apply to a buyer's country and a SKU's category, and what they come to.

Tax is worked out once per line, on what is left after the discount, over the sum of the line's rates, and
rounded half up once; several jurisdictions share it by largest remainder. A rate is part of the price
(``inclusive``, as consumers in the EU are quoted) or comes on top of it; a line's rates are all of one kind.
Refused: guessing. A table says what happens in a country that it does not name, and once it has any rate the
buyer must say where they are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from domain.catalogue import is_tax_category
from domain.errors import RejectedError
from domain.money import smallest_step, split_by_weight
from domain.orders.lines import Tax

PPM = 1_000_000
RATE_PPM_MAX = PPM  # no tax on sales doubles a price
RATES_MAX = 2_000  # eight for each country
RATES_OF_LINE_MAX = 5  # country, state, county, city and a special district
ANY_CATEGORY = "*"
UNTAXED, REFUSED = "untaxed", "refused"
_COUNTRY = re.compile(r"[A-Z]{2}")
_JURISDICTION = re.compile(r"[A-Z]{2}(_[A-Z0-9]{1,30}){0,3}")  # a part of an account's name at Finance


@dataclass(frozen=True, slots=True)
class Rate:
    """One jurisdiction's rate in millionths; ``inclusive``: prices hold it already."""

    jurisdiction: str
    rate_ppm: int
    inclusive: bool


@dataclass(frozen=True, slots=True)
class TaxableLine:
    """What tax is asked about: a line's price after discount, in minor units."""

    amount_minor: int
    category: str


@dataclass(frozen=True, slots=True)
class TaxQuestion:
    """A cart as tax sees it; ``country`` and ``postal_code`` are the buyer's, as far as they say."""

    currency: str
    country: str | None
    postal_code: str | None
    lines: Sequence[TaxableLine]
    at: datetime


class TaxCalculator(Protocol):
    """Whoever knows the rates. Answers one tuple of taxes per line; keeps nothing of the buyer."""

    async def taxes(self, question: TaxQuestion) -> Sequence[tuple[Tax, ...]]:
        """Work the taxes out.

        Raises:
            RejectedError: ``tax_country_needed``, ``tax_rate_missing``, ``tax_refused``.
            DependencyError: ``tax_table_missing``, ``tax_unavailable``, ``database_unavailable``.
        """


@dataclass(frozen=True, slots=True)
class TaxTable:
    """Rates by country and category; ``*`` is every category without rates of its own."""

    rates: Mapping[tuple[str, str], tuple[Rate, ...]]
    elsewhere: str

    @classmethod
    def from_json(cls, value: Any) -> "TaxTable":
        """Read ``{"rates": [{country, category, jurisdiction, rate_ppm, inclusive}], "elsewhere"}``.

        Raises:
            RejectedError: ``tax_table_invalid``.
        """
        if type(value) is not dict or set(value) != {"rates", "elsewhere"}:
            raise _invalid("Give an object of exactly `rates` and `elsewhere`.")
        if value["elsewhere"] not in (UNTAXED, REFUSED):
            raise _invalid(f"`elsewhere` is {UNTAXED} or {REFUSED}.")
        if type(value["rates"]) is not list or len(value["rates"]) > RATES_MAX:
            raise _invalid(f"`rates` is an array of at most {RATES_MAX}.")
        found: dict[tuple[str, str], tuple[Rate, ...]] = {}
        for index, one in enumerate(value["rates"]):
            place, rate = _read_rate(index, one)
            before = found.get(place, ())
            if any(other.jurisdiction == rate.jurisdiction for other in before):
                raise _invalid(f"Rate {index}: {rate.jurisdiction} has a rate there already.")
            if any(other.inclusive != rate.inclusive for other in before) or len(before) >= RATES_OF_LINE_MAX:
                raise _invalid(
                    f"Rate {index}: a category has at most {RATES_OF_LINE_MAX} rates, all inclusive or none."
                )
            found[place] = (*before, rate)
        return cls(found, value["elsewhere"])

    def as_json(self) -> dict[str, Any]:
        """Give the document."""
        return {
            "rates": [
                {
                    "country": country,
                    "category": category,
                    "jurisdiction": rate.jurisdiction,
                    "rate_ppm": rate.rate_ppm,
                    "inclusive": rate.inclusive,
                }
                for (country, category), rates in self.rates.items()
                for rate in rates
            ],
            "elsewhere": self.elsewhere,
        }

    def taxes(self, question: TaxQuestion) -> list[tuple[Tax, ...]]:
        """Work out the taxes of a cart.

        Raises:
            RejectedError: ``tax_country_needed``, ``tax_rate_missing``.
        """
        if not self.rates and self.elsewhere == UNTAXED:
            return [()] * len(question.lines)
        if question.country is None:
            raise RejectedError("tax_country_needed", "Say in which country you are: tax depends on it.")
        step = smallest_step(question.currency)
        return [
            tax_on(line.amount_minor, self._rates(question.country, line.category), step)
            for line in question.lines
        ]

    def _rates(self, country: str, category: str) -> tuple[Rate, ...]:
        rates = self.rates.get((country, category)) or self.rates.get((country, ANY_CATEGORY))
        if rates is None and self.elsewhere == REFUSED:
            raise RejectedError(
                "tax_rate_missing", f"We have no tax rate for {category} in {country} and cannot sell there."
            )
        return rates or ()


def tax_on(amount_minor: int, rates: Sequence[Rate], step: int = 1) -> tuple[Tax, ...]:
    """Return the taxes on a line of ``amount_minor``; tax on top of it is a multiple of ``step``."""
    total_ppm = sum(rate.rate_ppm for rate in rates)
    if not rates:
        return ()
    if rates[0].inclusive:
        tax_minor = amount_minor - _half_up(amount_minor * PPM, PPM + total_ppm)
    else:
        tax_minor = _half_up(amount_minor * total_ppm, PPM * step) * step
    weights = [rate.rate_ppm for rate in rates]
    parts = split_by_weight(tax_minor, weights) if total_ppm else [0] * len(rates)
    return tuple(
        Tax(rate.jurisdiction, rate.rate_ppm, part, rate.inclusive)
        for rate, part in zip(rates, parts, strict=True)
    )


def is_jurisdiction(text: str) -> bool:
    """Whether ``text`` can name whom tax is owed to: ``DE``, ``US_CA``."""
    return _JURISDICTION.fullmatch(text) is not None


def _half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _read_rate(index: int, value: Any) -> tuple[tuple[str, str], Rate]:
    names = {"country": str, "category": str, "jurisdiction": str, "rate_ppm": int, "inclusive": bool}
    if type(value) is not dict or {name: type(one) for name, one in value.items()} != names:
        raise _invalid(f"Rate {index}: give exactly {', '.join(names)}; country and names are texts.")
    category = value["category"]
    if not _COUNTRY.fullmatch(value["country"]):
        raise _invalid(f"Rate {index}: the country is two capital letters (ISO 3166-1).")
    if category != ANY_CATEGORY and not is_tax_category(category):
        raise _invalid(f"Rate {index}: the category is a SKU's tax category, or {ANY_CATEGORY} for the rest.")
    if not is_jurisdiction(value["jurisdiction"]):
        raise _invalid(f"Rate {index}: a jurisdiction is named like DE or US_CA.")
    if not 0 <= value["rate_ppm"] <= RATE_PPM_MAX:
        raise _invalid(f"Rate {index}: the rate is 0 to {RATE_PPM_MAX} millionths; 19 % is 190000.")
    return (value["country"], category), Rate(value["jurisdiction"], value["rate_ppm"], value["inclusive"])


def _invalid(detail: str) -> RejectedError:
    return RejectedError("tax_table_invalid", detail)
