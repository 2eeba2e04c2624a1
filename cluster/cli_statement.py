"""``marketplace seller account`` and ``statement``: where a seller is paid, and what it is owed and why.

The CSV is written as the server made it, to a file or to standard output; a file that exists is not replaced.
"""

import secrets
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cluster.client import ClientError, MarketplaceClient
from cluster.connection import resolve
from cluster.private_files import write_whole
from cluster.terminal import JsonFlag, command
from domain.money import format_money

CSV_MODE = 0o600  # what somebody earns is nobody else's business
PARTS = ("opening", "sales", "fees", "refunds", "disputes", "payouts", "other", "closing")

app = typer.Typer(no_args_is_help=True)

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the bearer token (or MARKETPLACE_TOKEN).")
]


class PayeeClient(MarketplaceClient):
    """The API's operations for payees."""

    def name_account(self, payee_id: str, account_id: str) -> dict[str, Any]:
        """Name the account that a payee is paid to."""
        path = f"/v1/payees/{quote(payee_id, safe='')}"
        return self._write("PUT", path, {"account_id": account_id}, secrets.token_hex(16))

    def statement(self, period: str, currency: str, payee: str | None) -> dict[str, Any]:
        """Read a statement's sums."""
        return self._get(_path(period), _asked(currency, payee))

    def statement_csv(self, period: str, currency: str, payee: str | None) -> str:
        """Read a statement's lines."""
        return self._get_text(_path(period), {**_asked(currency, payee), "format": "csv"})


def _path(period: str) -> str:
    return f"/v1/payouts/{quote(period, safe='')}/statement"


def _asked(currency: str, payee: str | None) -> dict[str, str]:
    return {"currency": currency, **({"payee": payee} if payee else {})}


def _client(url: str | None, token_file: Path | None) -> PayeeClient:
    connection = resolve("seller", url=url, token_file=token_file)
    return PayeeClient(connection.base_url, connection.require_token("seller"))


@app.command()
def account(
    payee_id: Annotated[str, typer.Argument(help="Your id as a seller.")],
    account_id: Annotated[str, typer.Argument(help="Your connected account at Stripe, acct_….")],
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Name the connected account that you are paid to, or have it looked at again."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        payee = client.name_account(payee_id, account_id)
        ready = "can be paid" if payee["ready"] else "cannot be paid yet: finish its onboarding at Stripe"
        terminal.say(f"{payee['id']} is paid to {payee['account_id']}, which {ready}.")
        terminal.result({"ok": True, **payee})


@app.command()
def statement(
    period: Annotated[str, typer.Argument(help="A month (2026-10) or an ISO week (2026-W43).")],
    currency: Annotated[str, typer.Argument(help="ISO 4217, in capitals.")],
    *,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all lines there; - prints them.")] = None,
    payee: Annotated[str | None, typer.Option("--payee", help="With an operator's token: whose.")] = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what was earned, what was taken off, and what was paid."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        made = client.statement(period, currency, payee)
        if csv is not None:
            text = client.statement_csv(period, currency, payee)
            if str(csv) == "-":
                terminal.say(text.rstrip())
                terminal.result({"ok": True, **made})
                return
            if csv.exists():
                raise ClientError(f"{csv} exists. Name another file.", "file_exists")
            write_whole(csv, text.encode(), CSV_MODE)
            terminal.note(f"{made['line_count']} lines in {csv}")
        for part in PARTS:
            terminal.say(f"{part:<10} {format_money(made[f'{part}_minor'], currency):>18}")
        division = made["division"]
        if division is not None:
            for part in ("paid", "carried", "held_back"):
                terminal.say(f"{part:<10} {format_money(division[f'{part}_minor'], currency):>18}")
        terminal.result({"ok": True, **made})
