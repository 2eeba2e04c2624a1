"""The HTTP API in a thread of its own, for command lines, which are synchronous."""

import asyncio
import threading
from typing import Any, Self

import httpx


class ApiThread:
    """An application and its pool on an event loop in a thread; ``tampering`` spoils answers on the way."""

    def __init__(self, app: Any, pool: Any) -> None:
        self._transport = httpx.ASGITransport(app=app)
        self._pool = pool
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.tampering: list[tuple[bytes, bytes]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._pool.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        raw = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        response = self._run(self._answer(raw))
        for old, new in self.tampering:
            response = httpx.Response(response.status_code, content=response.content.replace(old, new))
        return response

    async def _open(self) -> None:
        await self._pool.open(wait=True)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        return httpx.Response(
            response.status_code, headers=response.headers, content=await response.aread(), request=request
        )

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)
