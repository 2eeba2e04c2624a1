"""``/_sim``: what a test or an operator wants to see of the simulator, and to break in it.

    GET    /_sim/deliveries?event=&state=&limit=     every delivery with its attempts, newest first
    POST   /_sim/events/{id}/resend                  send an event once more
    POST   /_sim/webhooks/pause | resume             hold webhooks back; they stay pending
    GET | POST | DELETE /_sim/faults                 see ``faults``; the body of POST is JSON
    GET | POST /_sim/dials                           see ``dials``: fees, waiting times; JSON
    POST   /_sim/payment_intents/{id}/lapse          an authorisation is over before its time
    POST   /_sim/refunds                             a refund made in the dashboard: form as the API's
    POST   /_sim/refunds/{id}/fail                   form: reason
    POST   /_sim/disputes                            form: charge, amount, reason, inquiry
    POST   /_sim/disputes/{id}/decide                form: outcome (won, lost, warning_closed, needs_response)
    POST   /_sim/accounts/{id}/restrict              form: payouts_enabled, transfers (active, inactive, …)
    POST   /_sim/disputes/{id}/fee                   form: amount; given_back, else it is taken

Only the secret key is let in. Nothing here exists at Stripe.
"""

import time
from collections.abc import Callable
from dataclasses import asdict

import orjson

from cluster.local.stripe import accounts, charging, disputes, refunds
from cluster.local.stripe.deliveries import LISTED_MAX
from cluster.local.stripe.dials import turned
from cluster.local.stripe.exchange import JSON_TYPE, Reply, Request, json_reply
from cluster.local.stripe.forms import parse_pairs, to_tree
from cluster.local.stripe.parameters import (
    Specification,
    Values,
    amount,
    boolean,
    choice,
    page_limit,
    read,
    text,
)
from cluster.local.stripe.refusals import Document, RefusedError, invalid
from cluster.local.stripe.simulator import Simulator
from cluster.local.stripe.store import StoreFailedError
from cluster.local.stripe.turn import Turn

PREFIX = "/_sim/"
DELIVERIES: Specification = {
    "event": text,
    "state": choice("pending", "delivered", "failed"),
    "limit": page_limit,
}
REFUND: Specification = {
    "payment_intent": text,
    "charge": text,
    "amount": amount,
    "reason": choice("duplicate", "fraudulent", "requested_by_customer"),
}
DISPUTE: Specification = {"charge": text, "amount": amount, "reason": text, "inquiry": boolean}


class Control:
    """Answers requests under ``/_sim``."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def answer(self, request: Request) -> Reply:
        """Answer one request that came with the secret key."""
        try:
            return await self._answer(request)
        except RefusedError as refused:
            return Reply(refused.status, refused.body(), [JSON_TYPE])
        except StoreFailedError:
            return json_reply(500, {"error": {"type": "api_error", "message": "Nothing was stored."}})

    async def _answer(self, request: Request) -> Reply:
        simulator = self._simulator
        match request.method, request.path.removeprefix(PREFIX).split("/"):
            case "GET", ["deliveries"]:
                wanted = read(to_tree(parse_pairs(request.query)), DELIVERIES)
                limit = wanted.get("limit", LISTED_MAX)
                found = simulator.deliveries.recent(wanted.get("event"), wanted.get("state"), limit)
                return json_reply(200, found)
            case "POST", ["events", event_id, "resend"]:
                now_ms = time.time_ns() // 1_000_000
                count = simulator.deliveries.resend(simulator.registry, event_id, now_ms)
                await simulator.store.settled()
                return json_reply(200, {"event": event_id, "deliveries": count})
            case "POST", ["webhooks", "pause"]:
                simulator.webhooks.pause()
                return json_reply(200, {"paused": True})
            case "POST", ["webhooks", "resume"]:
                simulator.webhooks.resume()
                return json_reply(200, {"paused": False})
            case (("GET" | "POST" | "DELETE"), ["faults"]):
                return json_reply(200, self._faults(request))
            case "GET", ["dials"]:
                return json_reply(200, asdict(simulator.dials))
            case "POST", ["dials"]:
                dials = turned(simulator.dials, _json(request.body))
                return json_reply(200, await simulator.turn_dials(time.time_ns() // 1_000_000, dials))
            case "POST", [resource, *rest] if (resource, len(rest), *rest[1:]) in DECISIONS:
                decide, specification, required = DECISIONS[resource, len(rest), *rest[1:]]
                values = read(to_tree(parse_pairs(request.body)), specification, required)
                turn = simulator.turn(time.time_ns() // 1_000_000, None, None)
                document = decide(turn, rest[0] if rest else "", values)
                await simulator.commit(turn, None)
                return json_reply(200, document)
            case _:
                raise RefusedError(404, "There is no such control.")

    def _faults(self, request: Request) -> Document:
        faults = self._simulator.faults
        if request.method == "POST":
            return faults.add(_json(request.body))
        if request.method == "DELETE":
            faults.clear()
        return faults.list()


def _lapse(turn: Turn, object_id: str, _values: Values) -> Document:
    intent = turn.require(charging.KIND, object_id, charging.KIND, "intent")
    if intent["status"] != "requires_capture":
        raise invalid(f"Only an authorisation can lapse, not a payment that {intent['status']}.")
    charging.lapse(turn, intent)
    return intent


def _refund(turn: Turn, _object_id: str, values: Values) -> Document:
    document: Document = orjson.loads(refunds.create(turn, "", values))
    return document


def _fail_refund(turn: Turn, object_id: str, values: Values) -> Document:
    return refunds.fail(turn, object_id, values.get("reason", refunds.FAILURE_REASON))


def _dispute(turn: Turn, _object_id: str, values: Values) -> Document:
    charge = turn.require(charging.CHARGE, values["charge"], charging.CHARGE, "charge")
    return disputes.open_on(
        turn,
        charge,
        amount_minor=values.get("amount"),
        reason=values.get("reason", "fraudulent"),
        inquiry=values.get("inquiry", False),
    )


def _decide(turn: Turn, object_id: str, values: Values) -> Document:
    return disputes.decide(turn, object_id, values["outcome"])


def _change_fee(turn: Turn, object_id: str, values: Values) -> Document:
    sign = -1 if values.get("given_back", False) else 1
    return disputes.change_fee(turn, object_id, sign * values["amount"])


Decision = tuple[Callable[[Turn, str, Values], Document], Specification, tuple[str, ...]]
# What follows /_sim/: the resource, how many parts follow it, and the last of them behind an id.
DECISIONS: dict[tuple[str | int, ...], Decision] = {
    ("accounts", 2, "restrict"): (accounts.restrict, accounts.RESTRICT, ()),
    ("payment_intents", 2, "lapse"): (_lapse, {}, ()),
    ("refunds", 0): (_refund, REFUND, ()),
    ("refunds", 2, "fail"): (_fail_refund, {"reason": text}, ()),
    ("disputes", 0): (_dispute, DISPUTE, ("charge",)),
    ("disputes", 2, "decide"): (_decide, {"outcome": text}, ("outcome",)),
    ("disputes", 2, "fee"): (_change_fee, {"amount": amount, "given_back": boolean}, ("amount",)),
}


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid("The body is not JSON.") from None
