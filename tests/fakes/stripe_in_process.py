"""The whole Stripe simulator without sockets or processes: its own API and controls answer requests."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from cluster.local.stripe.api import Api
from cluster.local.stripe.control import Control
from cluster.local.stripe.exchange import Reply, Request
from cluster.local.stripe.settings import Settings
from cluster.local.stripe.simulator import Simulator

SECRET_KEY = "sk_test_in_process_0001"
PUBLISHABLE_KEY = "pk_test_in_process_0001"


class RefusedAnswerError(AssertionError):
    """An answer that is no success: the status, and Stripe's error."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"{status}: {error}")
        self.status, self.error = status, error
        self.code = error.get("code")


class StripeInProcess:
    """``post`` and ``get`` take parameters with brackets in their names, as the form has them."""

    def __init__(self, data_dir: Path) -> None:
        settings = Settings(
            host="127.0.0.1",
            port=1,
            data_dir=data_dir,
            public_url="http://sim.test",
            secret_key=SECRET_KEY,
            publishable_key=PUBLISHABLE_KEY,
            webhook_secret="whsec_in_process_0001",
            webhook_url=None,
            webhook_events=("*",),
        )
        self.simulator = Simulator(settings)
        self._api = Api(self.simulator, SECRET_KEY, PUBLISHABLE_KEY)
        self._control = Control(self.simulator)

    async def reply(self, method: str, path: str, key: str | None = None, **form: Any) -> Reply:
        encoded = urlencode(form).encode()
        headers = {b"authorization": f"Bearer {SECRET_KEY}".encode()}
        if key is not None:
            headers[b"idempotency-key"] = key.encode()
        query, body = (b"", encoded) if method == "POST" else (encoded, b"")
        request = Request(method, path, query, headers, body)
        answer = self._control.answer if path.startswith("/_sim/") else self._api.answer
        return await answer(request)

    async def post(self, path: str, key: str | None = None, **form: Any) -> Any:
        return _document(await self.reply("POST", path, key, **form))

    async def get(self, path: str, **query: Any) -> Any:
        return _document(await self.reply("GET", path, **query))

    async def send_json(self, path: str, value: Any) -> Any:
        return _document(await self._control.answer(Request("POST", path, b"", {}, orjson.dumps(value))))

    async def pay(self, card: str = "visa", amount: int = 10_000, **more: Any) -> Any:
        """Pay by a test card; return the charge, or the intent when it is only authorised."""
        intent = await self.post(
            "/v1/payment_intents",
            amount=amount,
            currency=more.pop("currency", "usd"),
            payment_method=f"pm_card_{card}",
            confirm="true",
            **more,
        )
        if intent["status"] == "requires_capture":
            return intent
        return await self.get(f"/v1/charges/{intent['latest_charge']}")

    async def event_types(self, object_id: str) -> list[str]:
        """The types of the events about an object, oldest first."""
        events = (await self.get("/v1/events", limit=100))["data"][::-1]
        return [event["type"] for event in events if event["data"]["object"]["id"] == object_id]

    async def wait_s(self, seconds: int) -> None:
        """Let housekeeping see what is due ``seconds`` from now."""
        now_ms = self.simulator.ids._last // 4_096
        self.simulator.look_after_due(now_ms + seconds * 1_000)
        await self.simulator.store.settled()


def _document(reply: Reply) -> Any:
    document = orjson.loads(reply.body)
    if reply.status != 200:
        raise RefusedAnswerError(reply.status, document["error"])
    return document
