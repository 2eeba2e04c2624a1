"""``marketplace ops dispute``: which disputes are open until when, and the evidence that the bank gets."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cluster.client import PAGES_MAX, MarketplaceClient
from cluster.connection import resolve
from cluster.terminal import JsonFlag, command
from domain.money import format_money

dispute = typer.Typer(no_args_is_help=True, help="Disputes: list, evidence.")
UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with an operator's token (or MARKETPLACE_TOKEN).")
]


class DisputesClient(MarketplaceClient):
    """The API's operations on disputes."""

    def open_disputes(self) -> Iterator[dict[str, Any]]:
        """Yield open disputes, the one opened last first, page by page."""
        params = {"limit": "100"}
        for _ in range(PAGES_MAX):
            page = self._get("/v1/ops/disputes", params)
            yield from page["items"]
            if not page["next_cursor"]:
                return
            params["cursor"] = page["next_cursor"]

    def send_evidence(self, order_id: str, dispute_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send evidence; raises ApiError with the reason why not."""
        path = f"/v1/ops/orders/{quote(order_id, safe='')}/disputes/{quote(dispute_id, safe='')}/evidence"
        return self._write("POST", path, body, secrets.token_hex(16))


def _client(url: str | None, token_file: Path | None) -> DisputesClient:
    connection = resolve("operator", url=url, token_file=token_file)
    return DisputesClient(connection.base_url, connection.require_token("operator"))


@dispute.command("list")
def list_open(*, url: UrlOption = None, token_file: TokenOption = None, as_json: JsonFlag = False) -> None:
    """List open disputes with their deadlines."""
    with command(as_json=as_json) as terminal:
        with _client(url, token_file) as client:
            found = list(client.open_disputes())
        for one in found:
            until = one["due_by"][:16].replace("T", " ") if one["due_by"] else "unknown"
            terminal.say(
                f"{one['id']}  {one['order_id']}  {format_money(one['amount_minor'], one['currency'])}  "
                f"{one['reason']}, {one['stage']}; evidence until {until}"
                f"{', submitted' if one['evidence_submitted'] else ''}"
            )
        if not found:
            terminal.say("No open disputes.")
        terminal.result({"ok": True, "items": found})


@dispute.command()
def evidence(
    order_id: Annotated[str, typer.Argument(help="The order's id.")],
    dispute_id: Annotated[str, typer.Argument(help="The dispute's id, as `list` prints it.")],
    *,
    text: Annotated[str, typer.Option("--text", help="Your own words to the bank.")] = "",
    submit: Annotated[bool, typer.Option("--submit", help="Final; without it, a draft.")] = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send evidence: what the order says of sale, licence, delivery and access, and your own words."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        sent = client.send_evidence(order_id, dispute_id, {"text": text, "submit": submit})
        terminal.say(f"{sent['id']} is on its way to Stripe, {'for good' if submit else 'as a draft'}:")
        for name, value in sent["texts"].items():
            terminal.say(f"\n{name}\n{value}")
        terminal.result({"ok": True, **sent})
