"""What a line's money is made of, and what of it goes back: arithmetic on frozen terms (ADR 0010).

A line's amount is the platform's fee, its taxes, and what its payees earn; the parts sum to the amount.
When a part of the amount goes back, each of them gives up its own part of it: in proportion to the unit,
never more than it had, and the whole when the whole line has gone back, whatever the steps were, in
whatever order, and whether or not some of them came to nothing.

Orders from before lines held their terms: the fee is ten per cent, floored per seller and order, all else is
the seller's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from domain.money import BASIS_POINTS, split_by_weight
from domain.orders.lines import Line, Share

FEES = "platform:fees"
EARLIER_FEE_BPS = 1_000  # of lines that hold no fee of their own


def payable(payee: str) -> str:
    """Return the account of what is owed to a seller or another payee."""
    return f"seller:{payee}:payable"


def tax_payable(jurisdiction: str) -> str:
    """Return the account of what is owed to a tax office."""
    return f"tax:{jurisdiction}:payable"


def parts_of_line(line: Line) -> Iterator[tuple[str, int]]:
    """Yield (account, minor units) of everybody's part; an earlier line's fee is still in the seller's."""
    accounts = _accounts(line)
    return zip(accounts, _amounts(line), strict=True)


def parts_of_share(line: Line, share: Share) -> Iterator[tuple[str, int]]:
    """Yield (account, minor units) of what each gives up of ``line``."""
    given = [share.fee_minor, *share.taxes]
    given += share.payees if line.payees else [share.amount_minor - sum(given)]
    return zip(_accounts(line), given, strict=True)


def earners(lines: Iterable[Line]) -> set[str]:
    """Return everybody who sells or has a share in what is sold."""
    return {one for line in lines for one in (line.seller_id, *(payee for payee, _ in line.payees))}


def is_sound(line: Line) -> bool:
    """Whether a line's parts sum to its amount, and none is negative."""
    parts = _amounts(line)
    taken = 0 <= line.discount_minor <= line.price_minor
    return taken and min(parts) >= 0 and sum(parts) == line.amount_minor


def earlier_fees(lines: Iterable[Line]) -> Mapping[str, int]:
    """Return the platform's fee by seller, of lines that hold none of their own."""
    return {seller: _earlier_fee(gross) for seller, gross in _earlier_gross(lines).items()}


def shares_of(
    lines: Sequence[Line], returned: Iterable[Share], parts: Iterable[tuple[int, int]]
) -> tuple[Share, ...]:
    """Return the shares of (line number, amount) ``parts`` that go back after ``returned`` have.

    No part may exceed what is left of its line.
    """
    line_of = {line.line_no: line for line in lines}
    before = list(returned)
    made: list[Share] = []
    for line_no, amount_minor in parts:
        line = line_of[line_no]
        share = (
            _earlier_share(lines, before, line, amount_minor)
            if line.fee_minor is None
            else _share(line, before, amount_minor)
        )
        before.append(share)
        made.append(share)
    return tuple(made)


def _accounts(line: Line) -> list[str]:
    payees = [payee for payee, _ in line.payees] or [line.seller_id]
    taxes = [tax_payable(tax.jurisdiction) for tax in line.taxes]
    return [FEES, *taxes, *(payable(payee) for payee in payees)]


def _amounts(line: Line) -> list[int]:
    parts = [line.fee_minor or 0, *(tax.amount_minor for tax in line.taxes)]
    parts += [minor for _, minor in line.payees] or [line.amount_minor - sum(parts)]
    return parts


def _share(line: Line, before: Iterable[Share], amount_minor: int) -> Share:
    whole = _amounts(line)
    given = [0] * len(whole)
    for share in before:
        if share.line_no == line.line_no:
            for index, (_, minor) in enumerate(parts_of_share(line, share)):
                given[index] += minor
    # What each has given up in all, were it in exact proportion. A step that came to nothing may have left
    # somebody a unit above: then it gives nothing now, and the others that much less.
    target = split_by_weight(sum(given) + amount_minor, whole)
    short = [max(0, wanted - had) for wanted, had in zip(target, given, strict=True)]
    fee_minor, *rest = split_by_weight(amount_minor, short)
    taxes, payees = rest[: len(line.taxes)], rest[len(line.taxes) :]
    return Share(line.line_no, amount_minor, fee_minor, tuple(taxes), tuple(payees) if line.payees else ())


def _earlier_share(lines: Iterable[Line], before: Iterable[Share], line: Line, amount_minor: int) -> Share:
    """Return a share with the fee of that time: per seller, floored, over everything returned so far."""
    of_seller = {one.line_no for one in lines if one.seller_id == line.seller_id}
    gross_minor = _earlier_gross(lines)[line.seller_id]
    returned = [share for share in before if share.line_no in of_seller]
    back_minor = sum(share.amount_minor for share in returned) + amount_minor
    due_minor = _earlier_fee(gross_minor) * back_minor // gross_minor
    return Share(line.line_no, amount_minor, max(0, due_minor - sum(share.fee_minor for share in returned)))


def _earlier_gross(lines: Iterable[Line]) -> dict[str, int]:
    gross: dict[str, int] = {}
    for line in lines:
        if line.fee_minor is None:
            gross[line.seller_id] = gross.get(line.seller_id, 0) + line.amount_minor
    return gross


def _earlier_fee(gross_minor: int) -> int:
    return gross_minor * EARLIER_FEE_BPS // BASIS_POINTS
