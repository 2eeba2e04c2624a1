"""Attempts to publish: one process at a time encrypts a release, and what it sealed is not made again.

``take`` gets an attempt of one's own, or one that has sealed the same already, and waits a moment while
another process is at it. ``held`` says that the attempt is alive as long as its block runs, and gives it up
when the block fails before anything is sealed. Decides nothing about what may be published.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Protocol

from domain.errors import BusyError, ConflictError, MarketplaceError
from storage.market.catalogue import Publication
from storage.market.commands import Write
from storage.market.publications import Attempt, Sealed

log = logging.getLogger("marketplace.publisher")

LEASE_S = 60.0  # of a process that says nothing: what it sealed or not is then anybody's
LOOK_PAUSE_S = 0.5
LOOKS_MAX = 16  # below a request's deadline; its repetition looks on
RETRY_AFTER_S = 2


class AttemptStore(Protocol):
    """``storage.market.publications``."""

    async def begin(self, release_id: str, attempt: Attempt, lease_s: float) -> Attempt | None:
        """Begin an attempt and return it, or the one that is current; None when the release is no draft."""

    async def extend(self, payload_key: str, lease_s: float) -> None:
        """Say that an attempt is alive."""

    async def finish(self, payload_key: str, sealed: Sealed) -> None:
        """Record what an attempt has sealed."""

    async def abandon(self, payload_key: str) -> None:
        """Give up an attempt that has sealed nothing."""

    async def publish(self, write: Write, publication: Publication, key_id: str) -> bool:
        """Publish a draft by its current attempt; False when it is not that."""


async def take(store: AttemptStore, release_id: str, wanted: Attempt) -> Attempt | None:
    """Return ``wanted``, which was begun now, or the attempt that has sealed the same; None: it is published.

    Raises:
        ConflictError: ``publication_in_progress``, under another manifest.
        BusyError: ``publication_running``, elsewhere; repeat the request.
        DependencyError: the database failed.
    """
    for look in range(LOOKS_MAX):
        if look:
            await asyncio.sleep(LOOK_PAUSE_S)
        current = await store.begin(release_id, wanted, LEASE_S)
        if current is None or current.payload_key == wanted.payload_key:
            return current
        if current.statement_sha256 != wanted.statement_sha256:
            raise in_progress()
        if current.sealed is not None and current.upload_version == wanted.upload_version:
            return current
    raise running()


def in_progress() -> ConflictError:
    """Say that the release is being published under another manifest."""
    return ConflictError("publication_in_progress", "This release is being published under another manifest.")


def running() -> BusyError:
    """Say that another process is at it."""
    return BusyError(
        "publication_running",
        "The bundle is being checked and encrypted. Ask again: it is not begun anew.",
        RETRY_AFTER_S,
    )


@contextlib.asynccontextmanager
async def held(store: AttemptStore, payload_key: str) -> AsyncIterator[None]:
    """Keep an attempt's lease while the block runs."""
    keeper = asyncio.create_task(_keep(store, payload_key))
    try:
        yield
    except BaseException:
        # If this fails as well, the lease runs out by itself.
        with contextlib.suppress(MarketplaceError):
            await store.abandon(payload_key)
        raise
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper


async def _keep(store: AttemptStore, payload_key: str) -> None:
    while True:
        await asyncio.sleep(LEASE_S / 4)
        try:
            await store.extend(payload_key, LEASE_S)
        except MarketplaceError as failure:
            log.warning("the lease of a publication could not be extended: %s", failure)
