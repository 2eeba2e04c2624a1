"""Prices by hand: ``seller price``, ``… discount`` for sellers and operators, ``ops tax``.

A price list and a tax table are set whole, on the one that the command has read right before: what somebody
else has set in between is not overwritten. Amounts are given as ``USD=1999``, in minor units.
Refused: to take what cannot be read for something near it.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import quote

import typer

from cluster.client import PAGES_MAX, ClientError, MarketplaceClient
from cluster.client_documents import Discount, Sku
from cluster.connection import resolve
from cluster.terminal import JsonFlag, Terminal, command
from domain.errors import RejectedError
from domain.money import format_money, is_currency
from domain.pricing.taxes import TaxTable

BPS_PER_PERCENT = 100
TABLE_BYTES_MAX = 512 * 1024  # twice the largest table that is taken

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the bearer token (or MARKETPLACE_TOKEN).")
]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", help="Why; operators must say it, and it is kept for good.")
]


class PricesClient(MarketplaceClient):
    """The API's operations on prices."""

    def set_prices(self, sku: Sku, prices: Mapping[str, int], key: str) -> Sku:
        """Replace a SKU's price list, which ``sku`` shows."""
        body = {"base_version": sku["price_version"], "prices": dict(prices)}
        return cast("Sku", self._write("PUT", f"/v1/skus/{quote(sku['id'], safe='')}/prices", body, key))

    def create_discount(self, body: Mapping[str, Any], key: str) -> Discount:
        """Make a code."""
        return cast("Discount", self._write("POST", "/v1/discounts", body, key))

    def end_discount(self, discount_id: str, reason: str | None, key: str) -> Discount:
        """End a code."""
        path = f"/v1/discounts/{quote(discount_id, safe='')}/end"
        return cast("Discount", self._write("POST", path, {"reason": reason} if reason else {}, key))

    def discounts(self) -> list[Discount]:
        """List codes, newest first."""
        found: list[Discount] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = self._get("/v1/discounts", {"limit": "100"} | ({"cursor": cursor} if cursor else {}))
            found += page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                break
        return found

    def tax_table(self) -> dict[str, Any]:
        """Return the tax table in force."""
        return self._get("/v1/ops/tax-table")

    def set_tax_table(self, base_version: int, table: Any, reason: str, key: str) -> dict[str, Any]:
        """Replace the tax table."""
        body = {"base_version": base_version, "table": table, "reason": reason}
        return self._write("PUT", "/v1/ops/tax-table", body, key)


def client_of(role: str, url: str | None, token_file: Path | None) -> PricesClient:
    """Connect as ``role``."""
    connection = resolve(role, url=url, token_file=token_file)
    return PricesClient(connection.base_url, connection.require_token(role))


def amounts_of(texts: Sequence[str]) -> dict[str, int]:
    """Read ``USD=1999`` and so on.

    Raises:
        typer.BadParameter: something else was given.
    """
    found: dict[str, int] = {}
    for text in texts:
        currency, _, amount = text.partition("=")
        if not is_currency(currency) or not amount.isascii() or not amount.isdigit() or currency in found:
            raise typer.BadParameter(
                f"{text!r}: give amounts like USD=1999, in minor units, each currency once"
            )
        found[currency] = int(amount)
    return found


def price(
    sku: Annotated[str, typer.Argument(help="Name or id of your SKU.")],
    prices: Annotated[list[str], typer.Argument(help="The whole list: USD=1999 EUR=1899; 0 is free.")],
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put another price list in force; what is left out is not sold in any more."""
    with command(as_json=as_json) as terminal, client_of("seller", url, token_file) as client:
        changed = client.set_prices(client.sku(sku), amounts_of(prices), secrets.token_hex(16))
        listed = ", ".join(format_money(amount, currency) for currency, amount in changed["prices"].items())
        terminal.say(f"{changed['name']}: {listed} (list {changed['price_version']}).")
        terminal.result({"ok": True, **changed})


def discount_app(role: str) -> typer.Typer:
    """Return ``discount`` for sellers or for operators."""
    app = typer.Typer(no_args_is_help=True, help="Discount codes: create, list, end.")
    whose = "your SKUs" if role == "seller" else "all SKUs, paid from the platform's fee"

    @app.command(help=f"Make a code for {whose}.")
    def create(
        code: Annotated[str, typer.Argument(help="3 to 32 letters, digits, '-' and '_'.")],
        *,
        percent: Annotated[
            float | None, typer.Option("--percent", help="Per cent off, such as 12.5.")
        ] = None,
        amount: Annotated[list[str] | None, typer.Option("--amount", help="Or USD=500 off.")] = None,
        minimum: Annotated[
            list[str] | None, typer.Option("--minimum", help="USD=2000 and more only.")
        ] = None,
        sku: Annotated[list[str] | None, typer.Option("--sku", help="Only this SKU; again for more.")] = None,
        uses: Annotated[int | None, typer.Option("--uses", help="Orders that may use it, in all.")] = None,
        per_buyer: Annotated[int | None, typer.Option("--per-buyer", help="… and of one buyer.")] = None,
        valid_from: Annotated[str | None, typer.Option("--from", help="2026-12-01T00:00:00Z")] = None,
        until: Annotated[str | None, typer.Option("--until", help="2026-12-24T00:00:00Z")] = None,
        reason: ReasonOption = None,
        url: UrlOption = None,
        token_file: TokenOption = None,
        as_json: JsonFlag = False,
    ) -> None:
        with command(as_json=as_json) as terminal, client_of(role, url, token_file) as client:
            body = {
                "code": code,
                "percent_bps": None if percent is None else _basis_points(percent),
                "amounts_minor": amounts_of(amount or ()),
                "minimum_minor": amounts_of(minimum or ()),
                "sku_ids": [client.sku(name)["id"] for name in sku or ()],
                "uses_max": uses,
                "uses_per_buyer_max": per_buyer,
                "valid_from": valid_from,
                "valid_until": until,
                "reason": reason,
            }
            made = client.create_discount(body, secrets.token_hex(16))
            terminal.say(_line(made))
            terminal.result({"ok": True, **made})

    @app.command("list", help="List codes, newest first.")
    def list_codes(
        *, url: UrlOption = None, token_file: TokenOption = None, as_json: JsonFlag = False
    ) -> None:
        with command(as_json=as_json) as terminal, client_of(role, url, token_file) as client:
            found = client.discounts()
            for one in found:
                terminal.say(_line(one))
            terminal.result({"ok": True, "items": found})

    @app.command(help="End a code for good; orders that used it keep their price.")
    def end(
        discount_id: Annotated[str, typer.Argument(help="The code's id, as `list` prints it.")],
        *,
        reason: ReasonOption = None,
        url: UrlOption = None,
        token_file: TokenOption = None,
        as_json: JsonFlag = False,
    ) -> None:
        with command(as_json=as_json) as terminal, client_of(role, url, token_file) as client:
            ended = client.end_discount(discount_id, reason, secrets.token_hex(16))
            terminal.say(_line(ended))
            terminal.result({"ok": True, **ended})

    return app


tax = typer.Typer(no_args_is_help=True, help="The tax table: show, set.")


@tax.command()
def show(*, url: UrlOption = None, token_file: TokenOption = None, as_json: JsonFlag = False) -> None:
    """Print the tax table in force, as `set` takes it."""
    with command(as_json=as_json) as terminal, client_of("operator", url, token_file) as client:
        current = client.tax_table()
        terminal.note(f"Table {current['version']}, by {current['set_by']}: {current['reason']}")
        terminal.say(json.dumps(current["table"], indent=2))
        terminal.result({"ok": True, **current})


@tax.command("set")
def set_table(
    file: Annotated[Path, typer.Argument(help="The whole table, as JSON.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; 3 to 500 characters, kept for good.")],
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put another tax table in force; orders that are placed keep their tax."""
    with command(as_json=as_json) as terminal, client_of("operator", url, token_file) as client:
        table = _read_table(file)
        done = client.set_tax_table(client.tax_table()["version"], table, reason, secrets.token_hex(16))
        _tell_table(terminal, done)


def _tell_table(terminal: Terminal, table: Mapping[str, Any]) -> None:
    rates = len(table["table"]["rates"])
    terminal.say(f"Table {table['version']} is in force within five seconds: {rates} rates.")
    terminal.result({"ok": True, **table})


def _read_table(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > TABLE_BYTES_MAX:
            raise ClientError(f"{file} has more than {TABLE_BYTES_MAX} bytes.", "tax_table_invalid")
        return TaxTable.from_json(json.loads(file.read_text(encoding="utf-8"))).as_json()
    except (OSError, ValueError) as error:
        raise ClientError(f"{file} cannot be read as JSON: {error}", "tax_table_invalid") from error
    except RejectedError as error:
        raise ClientError(f"{file}: {error.detail}", error.code) from error


def _basis_points(percent: float) -> int:
    bps = round(percent * BPS_PER_PERCENT)
    if abs(bps - percent * BPS_PER_PERCENT) > 1e-6:  # noqa: PLR2004 - what a float of two decimals strays
        raise typer.BadParameter("--percent has at most two decimals")
    return bps


def _line(one: Discount) -> str:
    amounts = ", ".join(format_money(amount, currency) for currency, amount in one["amounts_minor"].items())
    takes = amounts if one["percent_bps"] is None else f"{one['percent_bps'] / BPS_PER_PERCENT:g} %"
    bound = "" if one["uses_max"] is None else f" of {one['uses_max']}"
    state = "ended" if one["ended"] else f"until {one['valid_until'] or 'it is ended'}"
    return f"{one['code']:<20} {takes:<24} used {one['uses']}{bound}, {state}  {one['id']}"
