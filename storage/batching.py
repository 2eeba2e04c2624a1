"""Batching across a hop: what arrives while one request is under way shares the next one.

A lone item goes out at once unless ``linger_s`` says otherwise, and under load batches grow by themselves
(group commit). Each item gets its own answer or its own error.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from domain.errors import BusyError, DependencyError

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Bounded; one per process, event loop and destination.

    ``send`` gets 1 to ``batch_max`` items and returns an answer or an exception for each, in order. If it
    raises, every item of that batch fails with that error. At most ``in_flight_max`` requests are open.
    ``linger_s`` is what an item waits at most for company before a request that is not full is made.
    """

    def __init__(
        self,
        send: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        batch_max: int,
        waiting_max: int,
        in_flight_max: int = 1,
        linger_s: float = 0.0,
    ) -> None:
        self._send = send
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._in_flight_max = in_flight_max
        self._linger_s = linger_s
        self._queue: list[tuple[T, asyncio.Future[R]]] = []
        self._senders: set[asyncio.Task[None]] = set()  # keeps them from being collected
        self._draining = 0

    async def submit(self, item: T) -> R:
        """Send ``item`` with its neighbours and return its own answer.

        Raises:
            BusyError: ``queue_full``; nothing was sent.
        """
        if len(self._queue) >= self._waiting_max:
            raise BusyError("queue_full", "Too many requests wait for the same part. Try again shortly.")
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.append((item, answer))
        if self._draining < self._in_flight_max:
            self._draining += 1
            sender = asyncio.create_task(self._drain())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await answer

    async def _drain(self) -> None:
        # The count falls in the same step that sees the queue empty. A task's done-callback would run
        # a step later, and an item that arrived in between would wait for ever.
        try:
            while self._queue:
                if len(self._queue) < self._batch_max:
                    # Zero is one turn of the loop: what is ready in this same tick shares the request.
                    await asyncio.sleep(self._linger_s)
                if self._queue:  # another sender may have taken it all meanwhile
                    await self._send_batch()
        finally:
            self._draining -= 1

    async def _send_batch(self) -> None:
        # Whoever has given up is not sent: after a stall the backlog must not stand before fresh work.
        waiting = [one for one in self._queue if not one[1].done()]
        batch, self._queue = waiting[: self._batch_max], waiting[self._batch_max :]
        if not batch:
            return
        try:
            answers = await self._send([item for item, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers for {len(batch)} items")  # noqa: TRY301 - shared path
        except Exception as failure:  # noqa: BLE001 - the error belongs to the waiters, whatever it is
            answers = [failure] * len(batch)
        except asyncio.CancelledError:
            # Ours or the remote call's: nobody may be left waiting.
            lost = DependencyError("request_cancelled", "The request was given up; nothing is known of it.")
            _answer(batch, [lost] * len(batch))
            raise
        _answer(batch, answers)


def _answer(batch: Sequence[tuple[T, asyncio.Future[R]]], answers: Sequence[R | Exception]) -> None:
    for (_, future), answer in zip(batch, answers, strict=True):
        if future.done():
            continue  # its waiter gave up
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
