"""The ASGI application: sends a request to the API, the hosted pages or the controls.

``GET /healthz`` answers once the database is open; it needs no key and tells nothing else.
"""

from cluster.local.stripe import control, hosted
from cluster.local.stripe.api import Api
from cluster.local.stripe.exchange import (
    JSON_TYPE,
    Receive,
    Reply,
    Request,
    Scope,
    Send,
    hang_up,
    json_reply,
    read_request,
    send_reply,
)
from cluster.local.stripe.operations import API_PREFIX
from cluster.local.stripe.refusals import RefusedError
from cluster.local.stripe.settings import Settings
from cluster.local.stripe.simulator import Simulator


class StripeApp:
    """An ASGI 3 application with lifespan."""

    def __init__(self, settings: Settings) -> None:
        self._simulator = Simulator(settings)
        self._api = Api(self._simulator, settings.secret_key, settings.publishable_key)
        self._hosted = hosted.HostedPages(self._simulator)
        self._control = control.Control(self._simulator)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert scope["type"] == "http", "the server is started without websockets"
        try:
            request = await read_request(scope, receive)
            reply = await self._route(request)
        except RefusedError as refused:
            reply = Reply(refused.status, refused.body(), [JSON_TYPE])
        if reply.lost:
            await hang_up(scope, receive)
        else:
            await send_reply(reply, send)

    async def _route(self, request: Request) -> Reply:
        path = request.path
        if path.startswith(API_PREFIX):
            return await self._api.answer(request)
        if path.startswith(hosted.PREFIX):
            return await self._hosted.answer(request)
        if path.startswith(control.PREFIX):
            self._api.require_secret(request)
            return await self._control.answer(request)
        if path == "/healthz" and request.method == "GET":
            return json_reply(200, {"status": "ok"})
        raise RefusedError(404, "There is nothing here. The API is under /v1.")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._simulator.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._simulator.stop()
        await send({"type": "lifespan.shutdown.complete"})
