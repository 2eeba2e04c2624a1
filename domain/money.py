"""Money: integer minor units and an ISO 4217 currency. No floats, no implicit conversion.

The table lists the currencies that Stripe settles and that this marketplace accepts, with the number
of decimals that each has (ISO 4217). Splits are by largest remainder, so parts always sum to the whole.
"""

from collections.abc import Sequence

BASIS_POINTS = 10_000
AMOUNT_MINOR_MAX = 99_999_999  # Stripe refuses larger charges (docs: "amount", eight digits)

_NO_DECIMALS = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD JOD KWD OMR TND"
_TWO_DECIMALS = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BWP BYN BZD CAD CDF CHF CNY "
    "COP CRC CVE CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR ISK "
    "JMD KES KGS KHR KYD KZT LAK LBP LKR LRD LSL MAD MDL MKD MMK MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN "
    "NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SEK SGD SHP SLE SOS SRD SZL THB "
    "TJS TOP TRY TTD TWD TZS UAH UGX USD UYU UZS WST XCD YER ZAR ZMW"
)
CURRENCY_DECIMALS: dict[str, int] = {
    **dict.fromkeys(_TWO_DECIMALS.split(), 2),
    **dict.fromkeys(_NO_DECIMALS.split(), 0),
    **dict.fromkeys(_THREE_DECIMALS.split(), 3),
}


_STEPS = {"ISK": 100, "UGX": 100, **dict.fromkeys(_THREE_DECIMALS.split(), 10)}


def smallest_step(currency: str) -> int:
    """Minor units that every amount must be a multiple of (Stripe: "Supported currencies", special cases).

    The krona and the Ugandan shilling are written with two decimals that must be zero, and currencies of
    three decimals must end in zero.
    """
    return _STEPS.get(currency, 1)


def is_currency(code: str) -> bool:
    """Whether ``code`` is an upper-case ISO 4217 code that this marketplace accepts."""
    return code in CURRENCY_DECIMALS


def format_money(amount_minor: int, currency: str) -> str:
    """Write an amount for people: ``(1999, "USD")`` gives ``19.99 USD``, ``(500, "JPY")`` ``500 JPY``."""
    decimals = CURRENCY_DECIMALS[currency]
    sign, digits = ("-" if amount_minor < 0 else ""), str(abs(amount_minor)).rjust(decimals + 1, "0")
    if decimals == 0:
        return f"{sign}{digits} {currency}"
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]} {currency}"


def split_by_weight(amount_minor: int, weights: Sequence[int]) -> list[int]:
    """Split a non-negative amount in proportion to ``weights``; the parts sum to the whole exactly.

    Largest remainder (Hamilton): floor each share, then give the units left over to the largest
    fractions, first come first on ties.

    Raises:
        ValueError: for a negative amount or weight, or weights that sum to zero.
    """
    total = sum(weights)
    if amount_minor < 0 or total <= 0 or min(weights) < 0:
        raise ValueError("an amount >= 0 and weights >= 0 with a positive sum are needed")
    shares = [amount_minor * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(amount_minor * weights[i] % total), i))
    for index in by_remainder[: amount_minor - sum(shares)]:
        shares[index] += 1
    return shares
