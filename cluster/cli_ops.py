"""``marketplace ops``: what operators do by hand. Here: ``dlq``, the dead letters, and ``refund``.

Reviews and proposals are in modules of their own.
Every decision needs a reason, which is kept with the operator's name. ``retry`` takes ids, or every letter of
one code at once, as after a fault that has been mended; ``drop`` takes ids only, because each one leaves
something undone. A letter that is gone meanwhile is told and is no failure.
Refused: to retry without saying which.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, cast
from urllib.parse import quote

import typer

from cluster import (
    cli_disputes,
    cli_keys,
    cli_payouts,
    cli_prices,
    cli_proposals,
    cli_reconcile,
    cli_reviews,
)
from cluster.client import PAGES_MAX, ApiError, ClientError, MarketplaceClient
from cluster.connection import resolve
from cluster.terminal import JsonFlag, Terminal, command
from domain.money import format_money

LETTERS_MAX = 10_000  # listed or retried by one command; more are a fault to be mended first
ERROR_CHARS_MAX = 160  # of an error in the list; --json has all of it
GONE = frozenset({"dead_letter_gone", "dead_letter_not_found"})

app = typer.Typer(
    no_args_is_help=True,
    help="Operate: dlq, refund, dispute, reviews, approve-order, reject-order, discount, tax, payouts, keys, "
    "reconcile, cases, propose, approve, reject, withdraw, proposals, operators.",
)
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, retry, drop.")
app.add_typer(dlq, name="dlq")
app.add_typer(cli_payouts.app, name="payouts")
app.add_typer(cli_proposals.app)
app.add_typer(cli_reconcile.app)
app.add_typer(cli_reviews.app)
app.add_typer(cli_prices.discount_app("operator"), name="discount")
app.add_typer(cli_prices.tax, name="tax")
app.add_typer(cli_disputes.dispute, name="dispute")
app.add_typer(cli_keys.app, name="keys")

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with an operator's token (or MARKETPLACE_TOKEN).")
]
KindOption = Annotated[
    str | None, typer.Option("--kind", help="Only letters of this kind: effect, webhook or event.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; 3 to 500 characters, kept for good.")]
Ids = Annotated[list[str], typer.Argument(help="Letters' ids, as `list` prints them.")]
Verb = Literal["retry", "drop"]


class DeadLetter(TypedDict):
    """Work that was given up; see docs/api.md."""

    id: str
    kind: str
    subject: str
    work: str
    code: str
    error: str
    attempts: int
    dead_since: str


class Decision(TypedDict):
    """What was done about a letter, and what follows."""

    id: str
    decision: str
    action_id: str
    reason: str
    consequence: str


class OperatorClient(MarketplaceClient):
    """The API's operations that are for operators."""

    def dead_letters(self, kind: str | None = None) -> Iterator[DeadLetter]:
        """Yield dead letters, newest first, page by page."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            params = {"limit": "100", "kind": kind, "cursor": cursor}
            page = self._get(
                "/v1/ops/dead-letters", {name: value for name, value in params.items() if value is not None}
            )
            yield from page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                return

    def decide(self, verb: Verb, letter_id: str, reason: str, key: str) -> Decision:
        """Retry or drop a letter; raises ApiError ``dead_letter_not_found`` or ``dead_letter_gone``."""
        path = f"/v1/ops/dead-letters/{quote(letter_id, safe='')}/{verb}"
        return cast("Decision", self._write("POST", path, {"reason": reason}, key))

    def refund(self, order_id: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Ask for a refund; raises ApiError with the reason why not."""
        path = f"/v1/orders/{quote(order_id, safe='')}/refunds"
        return self._write("POST", path, body, key)


def _client(url: str | None, token_file: Path | None) -> OperatorClient:
    connection = resolve("operator", url=url, token_file=token_file)
    return OperatorClient(connection.base_url, connection.require_token("operator"))


@dlq.command("list")
def list_letters(
    *,
    kind: KindOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List what was given up, newest first."""
    with command(as_json=as_json) as terminal:
        with _client(url, token_file) as client:
            letters, complete = _taken(client.dead_letters(kind))
        for letter in letters:
            terminal.say(_line(letter))
        if not letters:
            terminal.say("No dead letters.")
        if not complete:
            terminal.note(f"There are more than {LETTERS_MAX}; these are the newest.")
        terminal.result({"ok": True, "items": letters, "complete": complete})


@dlq.command()
def show(
    letter_id: Annotated[str, typer.Argument(help="A letter's id.")],
    *,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show one letter with its whole error."""
    with command(as_json=as_json) as terminal:
        with _client(url, token_file) as client:
            kind = letter_id.partition(":")[0]
            listed = client.dead_letters(kind if kind in ("effect", "webhook", "event") else None)
            letter = next((one for one in listed if one["id"] == letter_id), None)
        if letter is None:
            raise ClientError(
                f"{letter_id} is not among the dead letters. `marketplace ops dlq list` lists them.",
                "dead_letter_not_found",
            )
        for name, value in letter.items():
            terminal.say(f"{name:<11} {value}")
        terminal.result({"ok": True, **letter})


@dlq.command()
def retry(
    ids: Annotated[list[str] | None, typer.Argument(help="Letters' ids, as `list` prints them.")] = None,
    *,
    reason: ReasonOption,
    code: Annotated[str | None, typer.Option("--code", help="Instead of ids: all letters of a code.")] = None,
    kind: KindOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Try dead letters again, now and with all their tries."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        if bool(ids) == bool(code) or (ids and kind):
            raise ClientError("Name the letters by their ids, or by --code (and --kind).", "letters_unnamed")
        # All are known before the first is tried: one that dies again meanwhile must not be met twice.
        chosen = ids or [
            letter["id"] for letter in _taken(client.dead_letters(kind))[0] if letter["code"] == code
        ]
        if not chosen:
            terminal.say(f"No dead letter has the code {code}.")
        _decide_all(client, terminal, "retry", chosen, reason)


@dlq.command()
def drop(
    ids: Ids,
    *,
    reason: ReasonOption,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let dead letters go; what stays undone is told for each."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        _decide_all(client, terminal, "drop", ids, reason)


@app.command()
def refund(
    order_id: Annotated[str, typer.Argument(help="The order's id.")],
    *,
    reason: ReasonOption,
    line: Annotated[int | None, typer.Option("--line", help="Only this line, by its number.")] = None,
    amount_minor: Annotated[
        int | None,
        typer.Option("--amount-minor", help="Only this much, in minor units; else all that is left."),
    ] = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Return money of an order: all of it, an amount, or a line. Stripe is asked right after."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        body: dict[str, Any] = {"reason": reason}
        if line is not None:
            named = {"line_no": line, "amount_minor": amount_minor}
            body["lines"] = [{name: value for name, value in named.items() if value is not None}]
        elif amount_minor is not None:
            body["amount_minor"] = amount_minor
        made = client.refund(order_id, body, secrets.token_hex(16))
        terminal.say(
            f"{made['id']}: {format_money(made['amount_minor'], made['currency'])} of {order_id}, "
            f"{made['status']}. GET /v1/orders/{order_id} says how it goes on."
        )
        terminal.result({"ok": True, **made})


def _decide_all(client: OperatorClient, terminal: Terminal, verb: Verb, ids: list[str], reason: str) -> None:
    done: list[Decision] = []
    gone: list[str] = []
    for letter_id in dict.fromkeys(ids):
        try:
            decision = client.decide(verb, letter_id, reason, secrets.token_hex(16))
        except ApiError as refusal:
            if refusal.code not in GONE or len(ids) == 1:
                raise
            gone.append(letter_id)
            terminal.say(f"{letter_id} is gone: {refusal.detail}")
        else:
            done.append(decision)
            terminal.say(f"{letter_id} {decision['decision']} ({decision['action_id']}).")
    # What follows is the same for many letters, so it is told once.
    for consequence in dict.fromkeys(decision["consequence"] for decision in done):
        terminal.say(consequence)
    terminal.result({"ok": True, "items": done, "gone": gone})


def _taken(letters: Iterator[DeadLetter]) -> tuple[list[DeadLetter], bool]:
    """Return up to ``LETTERS_MAX`` letters, and whether these are all."""
    taken: list[DeadLetter] = []
    for letter in letters:
        if len(taken) == LETTERS_MAX:
            return taken, False
        taken.append(letter)
    return taken, True


def _line(letter: DeadLetter) -> str:
    error = " ".join(letter["error"].split())
    short = error if len(error) <= ERROR_CHARS_MAX else f"{error[: ERROR_CHARS_MAX - 1]}…"
    shown: list[Any] = [
        letter["dead_since"][:19] + "Z",
        letter["id"],
        letter["code"],
        f"after {letter['attempts']} tries",
    ]
    if letter["kind"] == "webhook":
        shown.insert(2, letter["subject"])
    return "  ".join(shown) + f"\n    {short}"
