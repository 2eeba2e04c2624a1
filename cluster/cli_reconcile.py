"""``marketplace ops reconcile`` and ``ops cases``: what differs between orders, Finance and Stripe.

``reconcile`` runs here, with the marketplace's own settings file (that of the stack on this machine, or the
one that ``MARKETPLACE_SETTINGS`` names). ``cases`` goes over the API. Exit statuses of ``reconcile``: 0 no
differences, 1 differences (each is a case), 2 it could not be run or not to its end.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer

from actors.reconciliation.run import Window
from cluster.client import PAGES_MAX, ClientError, MarketplaceClient
from cluster.connection import resolve
from cluster.local.layout import Layout, default_home
from cluster.terminal import EXIT_INTERRUPTED, JsonFlag, Terminal, command
from deployments.clock import draw_id
from deployments.reconciliation import open_reconciliation
from deployments.settings import Settings, load_settings
from domain.errors import MarketplaceError
from domain.money import CURRENCY_DECIMALS, format_money
from domain.reconciliation.report import Report
from domain.reconciliation.schedule import window_of_day
from storage.reconciliation.market import Market

EXIT_FOUND, EXIT_CANNOT_RUN = 1, 2
CASES_MAX = 10_000  # listed by one command
LOCK_TRIES, LOCK_PAUSE_S = 10, 0.3
GRACE_S, GRACE_S_MAX = 600.0, 86_400.0

app = typer.Typer()
cases = typer.Typer(no_args_is_help=True, help="Reconciliation cases: list, show, apply, close.")
app.add_typer(cases, name="cases")

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The marketplace's address (or MARKETPLACE_URL).")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with an operator's token (or MARKETPLACE_TOKEN).")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; 3 to 500 characters, kept for good.")]
CaseId = Annotated[str, typer.Argument(help="A case's id.")]


class CasesClient(MarketplaceClient):
    """The API's operations on cases."""

    def cases(self, status: str | None, kind: str | None) -> Iterator[dict[str, Any]]:
        """Yield cases, the one opened last first, page by page."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            params = {"limit": "100", "status": status, "kind": kind, "cursor": cursor}
            page = self._get(
                "/v1/ops/cases", {name: value for name, value in params.items() if value is not None}
            )
            yield from page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                return

    def case(self, case_id: str) -> dict[str, Any]:
        """Return one case; raises ApiError ``case_not_found``."""
        return self._get(f"/v1/ops/cases/{quote(case_id, safe='')}", {})

    def decide(self, verb: Literal["apply", "close"], case_id: str, reason: str) -> dict[str, Any]:
        """Have a case's fix made, or close it; raises ApiError."""
        path = f"/v1/ops/cases/{quote(case_id, safe='')}/{verb}"
        return self._write("POST", path, {"reason": reason}, secrets.token_hex(16))


@app.command()
def reconcile(
    *,
    date: Annotated[
        str | None, typer.Option("--date", help="The day (UTC), as 2026-11-27; yesterday if left out.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Also tell orders what Stripe says, and post what is missing.")
    ] = False,
    grace_s: Annotated[
        float,
        typer.Option("--grace-s", min=0, max=GRACE_S_MAX, help="What is younger than this is not judged."),
    ] = GRACE_S,
    as_json: JsonFlag = False,
) -> None:
    """Compare orders, Finance and Stripe over a day, and look at all open cases again."""
    terminal = Terminal(as_json=as_json)
    try:
        day = _day(date)
        with _settings() as settings:
            report = _run(settings, day, terminal, apply=apply, grace=timedelta(seconds=grace_s))
    except (ClientError, MarketplaceError) as error:
        terminal.error(error)
        raise typer.Exit(EXIT_CANNOT_RUN) from None
    except KeyboardInterrupt:
        terminal.note("Interrupted. What was found before is kept; run it again for the rest.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    terminal.say(report.markdown())
    terminal.result({"ok": not report.differences and report.complete, **report.document()})
    if not report.complete:
        raise typer.Exit(EXIT_CANNOT_RUN)
    if report.differences:
        raise typer.Exit(EXIT_FOUND)


def _run(
    settings: Settings, day: datetime | None, terminal: Terminal, *, apply: bool, grace: timedelta
) -> Report:
    with open_reconciliation(settings, lambda: False, terminal.note) as (market, reconciler):
        if not any(_is_alone(market) for _ in range(LOCK_TRIES)):
            raise ClientError(
                "Another reconciliation is under way. Wait for its end.", "reconciliation_running"
            )
        now = market.now()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        window = window_of_day(day or midnight - timedelta(days=1), now + timedelta(seconds=1))
        if window[0] > now:
            raise ClientError("The day is in the future.", "date_invalid")
        report = reconciler().run(Window(*window), apply=apply, grace=grace)
        market.record_run(
            draw_id("rec"), window, now, report.document(), daily=False, complete=report.complete
        )
    return report


def _is_alone(market: Market) -> bool:
    """Try once more a moment later: the daily one's look at what is due takes some milliseconds."""
    if market.alone():
        return True
    time.sleep(LOCK_PAUSE_S)
    return False


def _day(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ClientError(f"{text!r} is no day such as 2026-11-27.", "date_invalid") from None


@contextmanager
def _settings() -> Iterator[Settings]:
    path = Path(os.environ.get("MARKETPLACE_SETTINGS") or Layout(default_home()).settings_json)
    try:
        yield load_settings(path)
    except FileNotFoundError:
        raise ClientError(
            "No marketplace runs here. Start one with `make up`, or name its settings file in "
            "MARKETPLACE_SETTINGS.",
            "settings_missing",
        ) from None
    except ValueError as error:
        raise ClientError(str(error), "settings_invalid") from None


@cases.command("list")
def list_cases(
    *,
    status: Annotated[str, typer.Option("--status", help="open, resolved, dismissed or all.")] = "open",
    kind: Annotated[str | None, typer.Option("--kind", help="Only cases of this kind.")] = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List cases, the one opened last first."""
    with command(as_json=as_json) as terminal:
        with _client(url, token_file) as client:
            found: list[dict[str, Any]] = []
            for case in client.cases(None if status == "all" else status, kind):
                if len(found) == CASES_MAX:
                    terminal.note(f"There are more than {CASES_MAX}; these are the newest.")
                    break
                found.append(case)
        for case in found:
            terminal.say(_line(case))
        if not found:
            terminal.say("No cases." if status == "all" else f"No {status} cases.")
        terminal.result({"ok": True, "items": found})


@cases.command()
def show(
    case_id: CaseId, *, url: UrlOption = None, token_file: TokenOption = None, as_json: JsonFlag = False
) -> None:
    """Show one case with its evidence."""
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        case = client.case(case_id)
        for name, value in case.items():
            terminal.say(f"{name:<19} {value}")
        terminal.result({"ok": True, **case})


@cases.command()
def apply(
    case_id: CaseId,
    *,
    reason: ReasonOption,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Have a case's proposed fix made."""
    _decide("apply", case_id, reason, url, token_file, as_json=as_json)


@cases.command()
def close(
    case_id: CaseId,
    *,
    reason: ReasonOption,
    url: UrlOption = None,
    token_file: TokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Accept a difference as it is; the case opens again if it changes, or comes back after it was gone."""
    _decide("close", case_id, reason, url, token_file, as_json=as_json)


def _decide(
    verb: Literal["apply", "close"],
    case_id: str,
    reason: str,
    url: str | None,
    token_file: Path | None,
    *,
    as_json: bool,
) -> None:
    with command(as_json=as_json) as terminal, _client(url, token_file) as client:
        decided = client.decide(verb, case_id, reason)
        terminal.say(f"{case_id} {decided['decision'].replace('_', ' ')} ({decided['action_id']}).")
        terminal.say(decided["consequence"])
        terminal.result({"ok": True, **decided})


def _client(url: str | None, token_file: Path | None) -> CasesClient:
    connection = resolve("operator", url=url, token_file=token_file)
    return CasesClient(connection.base_url, connection.require_token("operator"))


def _line(case: dict[str, Any]) -> str:
    shown = [case["opened_at"][:19] + "Z", case["id"], case["kind"], case["order_id"] or case["subject"]]
    currency = case["currency"]
    if case["expected_minor"] is not None and currency in CURRENCY_DECIMALS:
        expected, actual = (format_money(case[name], currency) for name in ("expected_minor", "actual_minor"))
        shown.append(f"expected {expected}, there is {actual}")
    if case["status"] == "open" and (before := case["dismissal"]) is not None:
        shown.append(f"accepted before, by {before['by']} at {before['at'][:19]}Z: {before['reason']}")
    return "  ".join(shown) + f"\n    {case['detail']} {case['proposal']}"
