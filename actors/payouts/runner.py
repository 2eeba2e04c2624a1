"""The runner: takes approved payouts step by step to their end, and books back what Stripe reversed.

A payout that is due is claimed for ``LEASE_S`` and walked through its steps: clear, book, send, settle. Each
step is outside work under the payout's own key, then one commit under the fence; whatever dies in between,
the next claim repeats the step and finds what was done. Several runners at once do no harm: claims are
exclusive while their lease runs, and the fence and the keys hold when it has run out.

What waits for Stripe's balance or for the payee's account is left alone for some hours, or until it is woken.
Refused by Finance for good, or failed too often in a way that nobody foresaw: the payout is stuck, and waits
for an operator (docs/runbooks/payouts.md). An outage is waited out, ever more rarely.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime

from actors.orders.retries import backoff_s, code_of, is_final, is_unforeseen
from domain.errors import BusyError, MarketplaceError, RejectedError
from domain.payouts import decide as results
from domain.payouts import entries
from domain.payouts.ports import DuePayout, PayoutBooks, PayoutFigures, PayoutStore, Transfers
from domain.payouts.state import PAUSE, WAITING, Payout, Step, evolve, fold, next_step

log = logging.getLogger("marketplace.payouts")

INTERVAL_S = 5.0  # nobody waits for the second at which a payout leaves
RUNNING_MAX = 8  # at once; more only queue at Stripe, which allows some 100 requests a second
LEASE_S = 60.0  # above all steps of a payout at the slowest: a dead runner's payouts wait that long
STALE_MAX = 5  # commits lost to another runner before this one lets go
FIGURES_INTERVAL_S = 30.0

Work = Callable[[Payout], Awaitable[results.Result | None]]


class PayoutRunner:
    """One per process that runs payouts; make it inside the event loop that uses it."""

    def __init__(
        self,
        store: PayoutStore,
        books: PayoutBooks,
        transfers: Transfers,
        clock: Callable[[], datetime],
        *,
        interval_s: float = INTERVAL_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self._store = store
        self._books = books
        self._transfers = transfers
        self._clock = clock
        self._interval_s = interval_s
        self._lease_s = lease_s
        self._figures: PayoutFigures | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._works: dict[Step, Work] = {
            Step.CLEAR: self._clear,
            Step.BOOK: self._book,
            Step.SEND: self._send,
            Step.SETTLE: self._settle,
            Step.REVERSE: self._reverse,
            Step.CHECK: self._check,
        }

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def figures(self) -> PayoutFigures | None:
        """What the store counted lately; None before the first time."""
        return self._figures

    def start(self) -> None:
        """Begin on the running loop."""
        self._tasks = [
            asyncio.create_task(self._forever(self._sweep, self._interval_s)),
            asyncio.create_task(self._forever(self._count, FIGURES_INTERVAL_S)),
        ]

    async def stop(self) -> None:
        """Stop at once; payouts under way are taken up again when their lease has run out."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def once(self) -> int:
        """Claim some due payouts and take each as far as it goes; returns how many.

        Raises:
            DependencyError: the database is down.
        """
        due = await self._store.claim_due(RUNNING_MAX, self._lease_s)
        await asyncio.gather(*(self._guarded(one) for one in due))
        return len(due)

    async def _sweep(self) -> None:
        while await self.once():
            pass

    async def _count(self) -> None:
        self._figures = await self._store.figures()

    async def _guarded(self, due: DuePayout) -> None:
        try:
            await self._walk(due.payout_id)
        except Exception as failure:
            if is_final(failure, due.unforeseen):
                log.error("payout %s is stuck", due.payout_id, exc_info=failure)
                await self._store.bury(due.payout_id, code_of(failure), str(failure))
                return
            unforeseen = is_unforeseen(failure)
            log.warning("payout %s is tried again: %s", due.payout_id, failure, exc_info=unforeseen)
            await self._store.defer(
                due.payout_id, backoff_s(due.attempts - 1), str(failure), unforeseen=unforeseen
            )

    async def _walk(self, payout_id: str) -> None:
        lost = 0
        while True:
            stored = await self._store.load(payout_id)
            assert stored is not None, "payouts are never deleted"
            payout = fold(payout_id, stored.events)
            step = next_step(payout)
            result = await self._works[step](payout) if step is not None else None
            events = results.decide(payout, result, self._clock()) if result is not None else ()
            if not events:
                if payout.status in WAITING:
                    await self._store.wait(payout_id, stored.nudges, PAUSE.total_seconds())
                else:
                    await self._store.rest(payout_id, stored.nudges)
                return
            moved = payout
            for event in events:
                moved = evolve(payout_id, moved, event)
            # A check goes on until there is nothing left to book back: a crash must not end it half-way.
            rests = moved.finished and step is not Step.CHECK
            if await self._store.commit(moved, payout.seq, stored.nudges, events, rests=rests):
                if moved.status in WAITING:
                    await self._store.wait(payout_id, stored.nudges, PAUSE.total_seconds())
                if rests or moved.status in WAITING:
                    return
                continue
            lost += 1
            if lost > STALE_MAX:
                raise BusyError("payout_contended", "Another runner moves this payout.")

    async def _clear(self, payout: Payout) -> results.Result:
        try:
            account = await self._transfers.account(payout.account_id)
        except RejectedError as refused:
            return results.Refused(refused.code, refused.detail)
        owed_minor = await self._books.owed_minor(payout.payee_id, payout.currency)
        return results.Standing(account, owed_minor)

    async def _book(self, payout: Payout) -> results.Result:
        return results.Booked(
            await self._books.book(payout.attempt_key, payout, payout.moved_at, entries.booking(payout))
        )

    async def _send(self, payout: Payout) -> results.Result:
        try:
            made = await self._transfers.send(payout)
        except RejectedError as refused:
            return results.Refused(refused.code, refused.detail)
        return results.Sent(made.transfer_id, made.made_at)

    async def _settle(self, payout: Payout) -> results.Result:
        key = entries.settlement_key(payout)
        return results.Booked(
            await self._books.book(key, payout, payout.moved_at, entries.settlement(payout))
        )

    async def _reverse(self, payout: Payout) -> results.Result:
        assert payout.cleared_at is not None, "what is reversed was booked"
        # Two runners' clocks may differ, and a reversal is not dated before what it undoes.
        at = max(payout.moved_at, payout.cleared_at)
        return results.Booked(await self._books.reverse(payout, at))

    async def _check(self, payout: Payout) -> results.Result | None:
        """Book back the oldest transfer reversal that is not booked yet; None when there is none."""
        assert payout.transfer_id is not None, "what was settled was sent"
        known = {one.reversal_id for one in payout.returns}
        for found in await self._transfers.reversals(payout.transfer_id):
            if found.reversal_id in known:
                continue
            key = entries.return_key(payout, found.reversal_id)
            postings = entries.returned(payout, found.amount_minor)
            entry_id = await self._books.book(key, payout, found.at, postings)
            return results.Reversed(found.reversal_id, found.amount_minor, entry_id)
        return None

    async def _forever(self, work: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while True:
            try:
                await work()
            except MarketplaceError as failure:
                log.warning("payouts wait for their store: %s", failure)
            except Exception:
                log.exception("payouts failed")
            # Runners that were started together drift apart.
            await asyncio.sleep(interval_s * (0.75 + random.random() / 4))  # noqa: S311 - guards nothing
