"""``/_sim``: what a test or an operator wants to see of the simulator, and to break in it.

    GET    /_sim/deliveries?event=&state=&limit=     every delivery with its attempts, newest first
    POST   /_sim/events/{id}/resend                  send an event once more
    POST   /_sim/webhooks/pause | resume             hold webhooks back; they stay pending
    GET | POST | DELETE /_sim/faults                 see ``faults``; the body of POST is JSON

Only the secret key is let in. Nothing here exists at Stripe.
"""

import time

import orjson

from cluster.local.stripe.deliveries import LISTED_MAX
from cluster.local.stripe.exchange import JSON_TYPE, Reply, Request, json_reply
from cluster.local.stripe.forms import parse_pairs, to_tree
from cluster.local.stripe.parameters import Specification, choice, page_limit, read, text
from cluster.local.stripe.refusals import RefusedError, invalid
from cluster.local.stripe.simulator import Simulator
from cluster.local.stripe.store import StoreFailedError

PREFIX = "/_sim/"
DELIVERIES: Specification = {
    "event": text,
    "state": choice("pending", "delivered", "failed"),
    "limit": page_limit,
}


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
            case "GET", ["faults"]:
                return json_reply(200, simulator.faults.list())
            case "POST", ["faults"]:
                return json_reply(200, simulator.faults.add(_json(request.body)))
            case "DELETE", ["faults"]:
                simulator.faults.clear()
                return json_reply(200, simulator.faults.list())
            case _:
                raise RefusedError(404, "There is no such control.")


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid("The body is not JSON.") from None
