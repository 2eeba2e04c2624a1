"""Joins a delivery's header and payload into one age file, inside object storage and on demand.

Made at most once a day per delivery and kept while it is asked for; the copy is S3's own work, so a payload
of gigabytes does not pass through this process, except for the first part, which begins with the header.
Work goes on when its caller hangs up: a repetition joins it or finds it done. Refuses more than
``RUNNING_MAX`` at once.
"""

import asyncio
import logging
import secrets
from typing import Protocol

from domain.errors import BusyError, DependencyError
from storage.s3 import Bucket, StoredObject

log = logging.getLogger("marketplace.joining")

KEPT_S = 86_400  # from the last time that it was asked for
WAIT_S = 8.0  # below a request's deadline; a gigabyte took 2.8 s where this was measured
RUNNING_MAX = 2  # of one process: each copies gigabytes
RETRY_AFTER_S = 3


class JoinedStore(Protocol):
    """``storage.market.deliveries``."""

    async def keep_joined(self, delivery_id: str, kept_s: int) -> StoredObject | None:
        """Return what was joined before, and keep it longer."""

    async def begin_joined(self, delivery_id: str, object_key: str, kept_s: int) -> None:
        """Record that an object is being joined under a key of its own."""

    async def record_joined(self, joined: StoredObject) -> None:
        """Record that it was made."""


class Joiner:
    """A plain class; one per process, on one event loop. What lies in ``target`` may be deleted."""

    def __init__(self, store: JoinedStore, payloads: Bucket, target: Bucket) -> None:
        self._store = store
        self._payloads = payloads
        self._target = target
        self._running: dict[str, asyncio.Task[StoredObject]] = {}

    async def joined(self, delivery_id: str, header: bytes, payload: StoredObject) -> StoredObject:
        """Return the object that holds ``header`` followed by ``payload``, making it if need be.

        Raises:
            BusyError: ``delivery_joining``, it is not ready yet; ``joiner_busy``.
            DependencyError: storage or database failed; repeat the request.
        """
        kept = await self._store.keep_joined(delivery_id, KEPT_S)
        if kept is not None:
            return kept
        task = self._running.get(delivery_id)
        if task is None:
            if len(self._running) >= RUNNING_MAX:
                raise BusyError("joiner_busy", "Other deliveries are being joined. Try again shortly.", 5)
            task = self._running[delivery_id] = asyncio.create_task(self._join(delivery_id, header, payload))
            task.add_done_callback(lambda done: self._ended(delivery_id, done))
        done, _ = await asyncio.wait((task,), timeout=WAIT_S)
        if not done:
            raise BusyError(
                "delivery_joining", "The file is being put together. Ask again shortly.", RETRY_AFTER_S
            )
        return task.result()

    async def close(self, wait_s: float) -> None:
        """Let what runs end within a bound; what is cut off can simply be repeated."""
        tasks = list(self._running.values())
        if tasks:
            await asyncio.wait(tasks, timeout=wait_s)
        for task in tasks:
            task.cancel()

    async def _join(self, delivery_id: str, header: bytes, payload: StoredObject) -> StoredObject:
        key = f"joined/{secrets.token_hex(8)}/{delivery_id}.age"
        # Before there is one: a process that dies over it leaves nothing that nobody knows of.
        await self._store.begin_joined(delivery_id, key, KEPT_S)
        joined = await self._target.call(lambda: self._target.join(key, header, self._payloads, payload))
        if joined.size != len(header) + payload.size:
            raise DependencyError(
                "storage_unavailable", "Object storage joined a file of another length. Try again.", 2
            )
        await self._store.record_joined(joined)
        return joined

    def _ended(self, delivery_id: str, task: asyncio.Task[StoredObject]) -> None:
        del self._running[delivery_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("joining of %s failed: %s", delivery_id, error)
