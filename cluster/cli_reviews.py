"""``marketplace ops reviews``, ``approve-order``, ``reject-order``: flagged orders whose payment is held.

A decision needs a reason, which is kept with the reviewer's name and is not shown to the buyer. The first
wins, be it another reviewer, the deadline, Stripe or the buyer; whoever was late is told so.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer

from cluster.client import PAGES_MAX, MarketplaceClient
from cluster.connection import resolve
from cluster.terminal import JsonFlag, command
from domain.money import format_money

app = typer.Typer(no_args_is_help=True)

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with an operator's token (or MARKETPLACE_TOKEN).")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; 3 to 500 characters, kept for good.")]
OrderArgument = Annotated[str, typer.Argument(help="The order's id.")]
Decision = Literal["approve", "reject"]


class ReviewClient(MarketplaceClient):
    """The API's operations on reviews."""

    def reviews(self, status: str | None) -> Iterator[dict[str, Any]]:
        """Yield reviews, newest order first, page by page."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            params = {"limit": "100", "status": status, "cursor": cursor}
            page = self._get(
                "/v1/ops/reviews", {name: value for name, value in params.items() if value is not None}
            )
            yield from page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                return

    def decide_review(self, order_id: str, decision: Decision, reason: str, key: str) -> dict[str, Any]:
        """Approve or reject; raises ApiError ``review_decided``, ``review_not_open`` and others."""
        path = f"/v1/ops/reviews/{quote(order_id, safe='')}/decision"
        return self._write("POST", path, {"decision": decision, "reason": reason}, key)


def _client(url: str | None, token_file: Path | None) -> ReviewClient:
    connection = resolve("operator", url=url, token_file=token_file)
    return ReviewClient(connection.base_url, connection.require_token("operator"))


@app.command("reviews")
def list_reviews(
    *,
    status: Annotated[
        str | None, typer.Option("--status", help="open, approved, rejected or ended; all if left out.")
    ] = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List flagged orders whose payment is or was held, newest first."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        found = list(client.reviews(status))
        for one in found:
            terminal.say(_line(one))
        if not found:
            terminal.say("No reviews.")
        terminal.result({"ok": True, "items": found})


@app.command("approve-order")
def approve_order(
    order_id: OrderArgument,
    *,
    reason: ReasonOption,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a flagged order go on: its payment is captured."""
    _decide(order_id, "approve", reason, url, token_file, as_json=as_json)


@app.command("reject-order")
def reject_order(
    order_id: OrderArgument,
    *,
    reason: ReasonOption,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Stop a flagged order: its payment is voided, nothing is charged."""
    _decide(order_id, "reject", reason, url, token_file, as_json=as_json)


def _decide(
    order_id: str, decision: Decision, reason: str, url: str | None, token_file: Path | None, *, as_json: bool
) -> None:
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        decided = client.decide_review(order_id, decision, reason, secrets.token_hex(16))
        follows = "its payment is being captured" if decision == "approve" else "its payment is being voided"
        terminal.say(f"{order_id} is {decided['status']}; {follows}.")
        terminal.result({"ok": True, **decided})


def _line(review: dict[str, Any]) -> str:
    amount = format_money(review["amount_minor"], review["currency"])
    if review["status"] == "open":
        state = f"decide by {review['decide_by'][:16]}Z"
    elif review["status"] == "ended":
        state = str(review["end_code"])
    else:
        state = f"by {review['reviewer_id']}: {review['reason']}"
    shown = (review["order_id"], review["status"], amount, review["buyer_id"], state)
    return "  ".join(shown) + "\n    " + " ".join(review["reasons"])
