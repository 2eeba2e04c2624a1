"""A TCP proxy on loopback that stands before a server and can fail as networks do.

Its loop runs in a thread of its own. ``PASS`` forwards; ``REFUSE`` answers connects as a server that is down
(the port is closed, what is open is cut); ``SILENT`` takes bytes and gives none, as a cut cable does;
``LOSE_REPLIES`` forwards requests and cuts the connection when the answer comes: executed, then lost.
"""

import asyncio
import contextlib
import threading
from enum import Enum

CHUNK_BYTES = 65_536
STOP_TIMEOUT_S = 10.0


class Mode(Enum):
    PASS = "pass"
    REFUSE = "refuse"
    SILENT = "silent"
    LOSE_REPLIES = "lose_replies"


class Proxy:
    """One listening port before ``target_port``; start and stop it, and set its mode from any thread."""

    def __init__(self, name: str, target_port: int, port: int = 0) -> None:
        self.name, self.target_port, self.port = name, target_port, port
        self.mode = Mode.PASS
        self.lost = 0  # replies dropped
        self._every = 1
        self._replies = 0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{name}", daemon=True)

    def start(self) -> "Proxy":
        self._thread.start()
        self._call(self._listen())
        return self

    def stop(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_TIMEOUT_S)
        self._loop.close()

    def set(self, mode: Mode, every: int = 1) -> None:
        """Change the mode; with LOSE_REPLIES only each ``every``-th reply is lost."""
        self._call(self._set(mode, every))

    def cut(self) -> int:
        """Reset all connections now; returns how many there were."""
        return self._call(self._cut())

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(STOP_TIMEOUT_S)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _set(self, mode: Mode, every: int) -> None:
        before, self.mode = self.mode, mode
        self._every, self._replies = every, 0
        if mode is Mode.REFUSE and self._server is not None:
            self._server.close()
            self._server = None
            await self._cut()
        elif mode is not Mode.REFUSE and self._server is None:
            await self._listen()
        elif before is Mode.SILENT:
            await self._cut()  # what was swallowed cannot be brought back

    async def _cut(self) -> int:
        count = len(self._open)
        for writer in list(self._open):
            writer.transport.abort()
        return count

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self._open.add(writer)
        upstream = None
        try:
            up_reader, upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._open.add(upstream)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream, is_reply=False))
                group.create_task(self._pump(up_reader, writer, is_reply=True))
        except* OSError:
            pass  # the server is down, or one end has gone: the other one hears of it below
        finally:
            for one in filter(None, (writer, upstream)):
                self._open.discard(one)
                one.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        while data := await source.read(CHUNK_BYTES):
            if self.mode is Mode.SILENT:
                continue
            if is_reply and self.mode is Mode.LOSE_REPLIES:
                self._replies += 1
                if self._replies % self._every == 0:
                    self.lost += 1
                    raise ConnectionResetError
            sink.write(data)
            await sink.drain()
        with contextlib.suppress(OSError, RuntimeError):
            sink.write_eof()
        if is_reply:
            raise ConnectionResetError  # a server that has closed answers nothing more
