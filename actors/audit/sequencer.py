"""The sequencer: once a second it appends what waits beside the outbox, and has the new head signed.

Orders' events need nothing from it: the relay's consumer ``audit`` appends them. Here are documents that no
order event issued, orders that the log has not met yet or not to their end (a page at a time, and only while
little else waits), and checkpoints. Several sequencers at once do no harm: the database orders appends, and
the signer signs only what continues. A round that fails is tried again, ever later; nothing is kept in
memory.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actors.relay.stopped_keys import backoff_s
from actors.signer.checkpoints import HeadClaim, LastSigned, SignedHead
from domain.errors import ConflictError, MarketplaceError, RejectedError
from domain.merkle.tree import Head
from storage.market.audit_log import DOCUMENTS_MAX, KeptCheckpoint, LogState

log = logging.getLogger("marketplace.audit")

INTERVAL_S = 1.0  # how long an event waits at most for a checkpoint, and how often one is signed at most
PAUSE_CAP_S = 15.0
DOCUMENT_PAGES_MAX = 20  # of one round


class Log(Protocol):
    """``storage.market.audit_log.AuditLog``; see there for errors."""

    async def state(self) -> LogState:
        """Read name and size."""

    async def newest_checkpoint(self) -> KeptCheckpoint | None:
        """Read the last checkpoint."""

    async def append_waiting_documents(self, limit: int = DOCUMENTS_MAX) -> int:
        """Append waiting documents."""

    async def send_unlogged(self, after: str, *, keep: bool) -> str | None:
        """Publish again what the log has not taken of some orders; returns where to go on."""

    async def head(self, size: int) -> Head:
        """Return the tree of a size."""

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """Return a consistency proof."""

    async def keep_checkpoint(self, head: Head, key_id: str, note: str) -> bool:
        """Keep a signed head."""


class SignsHeads(Protocol):
    """The signer's actor, as far as the sequencer needs it."""

    async def last_checkpoint(self) -> LastSigned:
        """Return the last head that was signed, and who signs."""

    async def sign_checkpoint(self, claim: HeadClaim) -> SignedHead:
        """Sign a head that continues it."""


@dataclass(frozen=True, slots=True)
class SequencerFigures:
    """``size`` of the log and of its last checkpoint; ``failures`` in a row."""

    size: int
    signed_size: int
    failures: int
    catching_up: bool


class Sequencer:
    """One per background process. A plain class; ``deployments.background`` runs it."""

    def __init__(self, kept: Log, signer: SignsHeads, *, interval_s: float = INTERVAL_S) -> None:
        self._log = kept
        self._signer = signer
        self._interval_s = interval_s
        self._figures = SequencerFigures(0, 0, 0, catching_up=False)
        self._failures = 0
        self._swept_to: str | None = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the loop runs."""
        return self._task is not None and not self._task.done()

    @property
    def figures(self) -> SequencerFigures:
        """As of the last round."""
        return self._figures

    def start(self) -> None:
        """Begin on the running loop."""
        self._task = asyncio.create_task(self._forever())

    async def stop(self) -> None:
        """Stop at once."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(self._task, return_exceptions=True)

    async def once(self) -> None:
        """Run one round; raises what the log or the signer raised.

        What is in the log is signed for, even if something else of the round fails.
        """
        try:
            await self._append()
        finally:
            await self._sign()

    async def _append(self) -> None:
        for _ in range(DOCUMENT_PAGES_MAX):
            if await self._log.append_waiting_documents() < DOCUMENTS_MAX:
                break
        await self._sweep(await self._log.state())

    async def _sign(self) -> None:
        state = await self._log.state()
        newest = await self._log.newest_checkpoint()
        # Before the signer is asked: a signer that is away leaves the two sizes apart.
        self._figures = SequencerFigures(
            state.size,
            newest.head.size if newest else 0,
            self._failures,
            catching_up=state.history_after is not None,
        )
        signed_size = await self._checkpoint(state, newest)
        self._figures = replace(self._figures, signed_size=signed_size)

    async def _sweep(self, state: LogState) -> None:
        """Look through all orders once after a start. How far the log's first look is, is on record."""
        if self._swept_to is None:
            return
        first = state.history_after is not None
        after = state.history_after or self._swept_to
        self._swept_to = await self._log.send_unlogged(after, keep=first)

    async def _checkpoint(self, state: LogState, newest: KeptCheckpoint | None) -> int:
        last = await self._signer.last_checkpoint()
        if state.size < last.head.size:
            state = await self._log.state()  # another sequencer may have had more signed meanwhile
        if state.size < last.head.size:
            raise RejectedError(
                "checkpoint_inconsistent",
                f"The database has {state.size} entries, and {last.head.size} are signed for: "
                "it was restored to an earlier state (docs/audit.md).",
            )
        if state.size == 0:
            return 0
        if newest is not None and newest.head.size == state.size and newest.key_id == last.key_id:
            return state.size
        head = await self._log.head(state.size)
        proof: Sequence[bytes] = await self._log.consistency(last.head.size, head.size)
        claim = HeadClaim(state.origin, head, last.head, tuple(proof))
        signed = await self._signer.sign_checkpoint(claim)
        await self._log.keep_checkpoint(head, signed.key_id, signed.note)
        return head.size

    def _failed(self) -> None:
        self._failures += 1
        self._figures = replace(self._figures, failures=self._failures)

    async def _forever(self) -> None:
        while True:
            try:
                await self.once()
                self._failures = 0
            except ConflictError:
                pass  # another sequencer had a later head signed meanwhile
            except MarketplaceError as failure:
                self._failed()
                log.warning("the audit log's sequencer waits: %s", failure)
            except Exception:
                self._failed()
                log.exception("a round of the audit log's sequencer failed")
            await asyncio.sleep(
                backoff_s(self._failures, PAUSE_CAP_S) if self._failures else self._interval_s
            )
