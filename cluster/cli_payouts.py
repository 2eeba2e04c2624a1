"""``marketplace ops payouts``: draft a period's payouts, show, approve or withdraw them, run them again.

Approval needs another operator than the draft. The runner sends by itself what is approved; ``run`` makes it
look now, also at what is stuck, and follows the batch for a while. Exit status 1 when something stays undone.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cluster.client import PAGES_MAX, MarketplaceClient
from cluster.connection import resolve
from cluster.terminal import EXIT_FAILED, JsonFlag, Terminal, command
from domain.money import format_money

FOLLOW_S = 60.0  # some 2,000 payouts; more go on by themselves
FOLLOW_PAUSE_S = 1.0
UNFINISHED = frozenset(
    {"approved", "awaiting_account", "awaiting_balance", "cleared", "booked", "sent", "refused"}
)

app = typer.Typer(no_args_is_help=True, help="Payouts: draft, list, show, approve, withdraw, run.")

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with an operator's token (or MARKETPLACE_TOKEN).")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; 3 to 500 characters, kept for good.")]
BatchArgument = Annotated[str, typer.Argument(help="A batch's id, as `list` prints it.")]
Document = dict[str, Any]


class PayoutsClient(MarketplaceClient):
    """The API's operations on batches of payouts."""

    def draft(self, period: str, currency: str, reason: str) -> Document:
        """Draft a period's payouts; raises ApiError with the reason why not."""
        body = {"period": period, "currency": currency, "reason": reason}
        return self._write("POST", "/v1/ops/payouts", body, secrets.token_hex(16))

    def batches(self) -> list[Document]:
        """List the newest batches."""
        items: list[Document] = self._get("/v1/ops/payouts", {"limit": "100"})["items"]
        return items

    def batch(self, batch_id: str) -> Document:
        """Read a batch."""
        return self._get(_path(batch_id))

    def lines(self, batch_id: str) -> Iterator[Document]:
        """Yield a batch's lines, page by page."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            params = {"limit": "100", **({"cursor": cursor} if cursor else {})}
            page = self._get(f"{_path(batch_id)}/lines", params)
            yield from page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                return

    def decide(self, batch_id: str, what: str, reason: str) -> Document:
        """Approve (``approval``), withdraw (``withdrawal``) or run (``run``) a batch."""
        return self._write("POST", f"{_path(batch_id)}/{what}", {"reason": reason}, secrets.token_hex(16))


def _path(batch_id: str) -> str:
    return f"/v1/ops/payouts/{quote(batch_id, safe='')}"


def _client(url: str | None, token_file: Path | None) -> PayoutsClient:
    connection = resolve("operator", url=url, token_file=token_file)
    return PayoutsClient(connection.base_url, connection.require_token("operator"))


@app.command()
def draft(
    period: Annotated[str, typer.Argument(help="A month (2026-10) or an ISO week (2026-W43) that is over.")],
    currency: Annotated[str, typer.Argument(help="ISO 4217, in capitals.")],
    *,
    reason: ReasonOption,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Work out what each payee gets, and put it down for another operator to approve."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        batch = client.draft(period, currency, reason)
        _say_batch(terminal, batch)
        terminal.say(
            f"Another operator approves it: marketplace ops payouts approve {batch['id']} --reason …"
        )
        terminal.result({"ok": True, **batch})


@app.command("list")
def list_batches(*, url: UrlOption = None, token_file: TokenOption = None, as_json: JsonFlag = False) -> None:
    """List the newest hundred batches."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        batches = client.batches()
        for one in batches:
            terminal.say(f"{one['id']}  {one['period']:<8} {one['currency']}  {one['status']}")
        if not batches:
            terminal.say("No payouts were drafted yet.")
        terminal.result({"ok": True, "items": batches})


@app.command()
def show(
    batch_id: BatchArgument,
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a batch with its lines: what each payee gets, or why not."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        batch = client.batch(batch_id)
        lines = list(client.lines(batch_id))
        for line in lines:
            terminal.say(_line(line, batch["currency"]))
        _say_batch(terminal, batch)
        terminal.result({"ok": True, **batch, "lines": lines})


@app.command()
def approve(
    batch_id: BatchArgument,
    *,
    reason: ReasonOption,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Approve a batch that another operator drafted. Its payouts are sent."""
    _decide(batch_id, "approval", reason, lambda: _client(url, token_file), as_json=as_json)


@app.command()
def withdraw(
    batch_id: BatchArgument,
    *,
    reason: ReasonOption,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Withdraw a draft; its period may be drafted anew."""
    _decide(batch_id, "withdrawal", reason, lambda: _client(url, token_file), as_json=as_json)


@app.command()
def run(
    batch_id: BatchArgument,
    *,
    reason: ReasonOption,
    follow_s: Annotated[float, typer.Option("--follow", min=0, max=3_600, help="Seconds.")] = FOLLOW_S,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Have what is not finished of an approved batch tried now, and follow it."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        batch = client.decide(batch_id, "run", reason)
        deadline = time.monotonic() + follow_s
        while _undone(batch) > batch["stuck"] and time.monotonic() < deadline:
            time.sleep(FOLLOW_PAUSE_S)
            batch = client.batch(batch_id)
        _say_batch(terminal, batch)
        undone = _undone(batch)
        terminal.result({"ok": not undone, **batch})
        if undone:
            raise typer.Exit(EXIT_FAILED)


def _decide(
    batch_id: str, what: str, reason: str, connect: Callable[[], PayoutsClient], *, as_json: bool
) -> None:
    with command(as_json=as_json) as terminal, connect() as client:
        batch = client.decide(batch_id, what, reason)
        _say_batch(terminal, batch)
        terminal.result({"ok": True, **batch})


def _undone(batch: Document) -> int:
    return sum(count for status, count in batch["progress"].items() if status in UNFINISHED)


def _say_batch(terminal: Terminal, batch: Document) -> None:
    currency = batch["currency"]
    paid, carried, held = (
        format_money(batch[f"{part}_minor"], currency) for part in ("paid", "carried", "held_back")
    )
    terminal.say(
        f"{batch['id']}  {batch['period']} {currency}, {batch['status']}: {paid} to {batch['payouts']} of "
        f"{batch['payees']} payees, {carried} carried, {held} held back."
    )
    for reason, payees in batch["carried_by_reason"].items():
        terminal.say(f"  not paid: {payees} payees, {reason}")
    for status, count in batch["progress"].items():
        terminal.say(f"  {status}: {count}")
    if batch["stuck"]:
        terminal.say(f"  stuck: {batch['stuck']}; see docs/runbooks/payouts.md")


def _line(line: Document, currency: str) -> str:
    paid, carried, held = (
        format_money(line[f"{part}_minor"], currency) for part in ("paid", "carried", "held_back")
    )
    what = line["reason"]
    if what is None:  # an account that was changed a moment ago is what an approver should see
        what = f"{line['account_id']} since {line['account_named_at'][:16]}Z"
    return f"{line['payee_id']:<24} {paid:>16} paid {carried:>16} carried {held:>16} held back  {what}"
