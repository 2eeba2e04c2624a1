"""``/c``: the hosted pages' requests: showing a checkout, paying, and the outcome of 3-D Secure.

A page's address holds what nobody can guess; no cookie is set, so no other site can act for the buyer. A
wrong address looks like one that does not exist. Card details go to the decision and nowhere else.
"""

import hmac
import logging
import time

from cluster.local.stripe import charging, checkout_sessions, pages
from cluster.local.stripe.exchange import Reply, Request
from cluster.local.stripe.forms import parse_pairs
from cluster.local.stripe.pages import Page
from cluster.local.stripe.parameters import Values
from cluster.local.stripe.refusals import Document, RefusedError
from cluster.local.stripe.simulator import Simulator
from cluster.local.stripe.store import StoreFailedError
from cluster.local.stripe.turn import Turn

PREFIX = "/c/"
EXPIRY_DIGITS = (3, 4, 6)  # 134, 1234, 122034
CARD_ERROR = 402

LOG = logging.getLogger(__name__)


class HostedPages:
    """Answers requests under ``/c``."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def answer(self, request: Request) -> Reply:
        """Answer one request."""
        try:
            return await self._answer(request)
        except RefusedError as refused:
            return _html(pages.notice(refused.status, "This did not work", refused.message))
        except StoreFailedError:
            return _html(pages.notice(500, "This did not work", "Nothing was stored. Please try again."))
        except Exception:
            LOG.exception("a hosted page failed")
            return _html(pages.notice(500, "This did not work", "The simulator's log says why."))

    async def _answer(self, request: Request) -> Reply:
        parts = request.path.removeprefix(PREFIX).split("/")
        turn = self._simulator.turn(time.time_ns() // 1_000_000, None, None)
        if request.method not in {"GET", "POST"}:
            raise RefusedError(405, "This page is read by GET and answered by POST.")
        match parts:
            case ["pay", session_id]:
                return await self._checkout(request, turn, session_id)
            case ["authenticate", intent_id, token]:
                return await self._authentication(request, turn, intent_id, token)
            case ["done"]:
                return _html(pages.notice(200, "Done", "You can close this page and go back to the shop."))
            case _:
                raise RefusedError(404, "There is no such page.")

    async def _checkout(self, request: Request, turn: Turn, session_id: str) -> Reply:
        record = turn.find(checkout_sessions.KIND, session_id)
        if record is None:
            raise RefusedError(404, "There is no such checkout.")
        if not _is_open(record, turn.now):
            return _html(pages.finished(record))
        if request.method == "GET":
            return _html(pages.checkout(record, error=_last_error(turn, record)))
        form = dict(parse_pairs(request.body))
        try:
            intent = checkout_sessions.pay(turn, session_id, _card(form))
        except RefusedError as refused:
            if refused.status != CARD_ERROR:
                raise
            if not refused.keeps_changes:
                turn.forget()
            await self._simulator.commit(turn, None)
            return _html(pages.checkout(record, status=CARD_ERROR, error=refused.message))
        await self._simulator.commit(turn, None)
        if intent["status"] == "requires_action":
            return _see_other(intent["next_action"]["redirect_to_url"]["url"])
        return _see_other(checkout_sessions.success_address(record["session"]))

    async def _authentication(self, request: Request, turn: Turn, intent_id: str, token: str) -> Reply:
        intent = turn.find(charging.KIND, intent_id)
        expected = self._simulator.page_token(f"{intent_id}:{intent['payment_method'] if intent else ''}")
        if intent is None or not hmac.compare_digest(token.encode(), expected.encode()):
            raise RefusedError(404, "There is no such authentication, or it is no longer the last one.")
        if intent["status"] != "requires_action":
            raise RefusedError(409, "This payment was authenticated or cancelled before.")
        record = next(turn.children(checkout_sessions.KIND, intent_id), None)
        return_url = intent["next_action"]["redirect_to_url"]["return_url"]
        onward = _onward(record, return_url)
        if request.method == "GET":
            return _html(pages.challenge(intent, onward))
        outcome = dict(parse_pairs(request.body)).get("outcome")
        if outcome not in {"approve", "fail"}:
            raise RefusedError(400, "Choose approve or fail.")
        try:
            charging.authenticate(turn, intent, approved=outcome == "approve")
        except RefusedError as refused:
            if not refused.keeps_changes:
                raise
        record = checkout_sessions.follow(turn, intent_id)
        await self._simulator.commit(turn, None)
        return _see_other(self._next_address(intent, record, return_url))

    def _next_address(self, intent: Document, record: Document | None, return_url: str | None) -> str:
        if record is not None:
            session = record["session"]
            if session["status"] == "complete":
                return checkout_sessions.success_address(session)
            return f"{self._simulator.base_url}{PREFIX}pay/{session['id']}"
        if return_url is None:
            return f"{self._simulator.base_url}{PREFIX}done"
        return charging.return_address(intent, return_url)


def _is_open(record: Document, now: int) -> bool:
    session = record["session"]
    return bool(session["status"] == "open" and session["expires_at"] > now)


def _last_error(turn: Turn, record: Document) -> str | None:
    """Why the last attempt failed, for a buyer who comes back from 3-D Secure."""
    intent_id = record["session"]["payment_intent"]
    intent = turn.find(charging.KIND, intent_id) if intent_id is not None else None
    if intent is None or intent["last_payment_error"] is None:
        return None
    return str(intent["last_payment_error"]["message"])


def _card(form: dict[str, str]) -> Values:
    """Read the page's three fields.

    Raises:
        RefusedError: 402 in the buyer's words.
    """
    digits = "".join(character for character in form.get("expiry", "") if character in "0123456789")
    if len(digits) not in EXPIRY_DIGITS:
        raise RefusedError(
            CARD_ERROR, "Your card's expiration date is incomplete: write it as MM / YY.", kind="card_error"
        )
    split = 1 if len(digits) == EXPIRY_DIGITS[0] else 2
    return {
        "number": form.get("number", ""),
        "exp_month": int(digits[:split]),
        "exp_year": int(digits[split:]),
        "cvc": form.get("cvc", "").strip(),
    }


def _onward(record: Document | None, return_url: str | None) -> tuple[str, ...]:
    if record is not None:
        return (checkout_sessions.success_address(record["session"]),)
    return () if return_url is None else (return_url,)


def _html(page: Page) -> Reply:
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", page.policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    ]
    return Reply(page.status, page.body, headers)


def _see_other(address: str) -> Reply:
    return Reply(303, b"", [(b"location", address.encode("utf-8")), (b"cache-control", b"no-store")])
