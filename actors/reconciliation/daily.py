"""The daily reconciliation: yesterday, once its bookings have settled, and soon again what was mended.

Runs in every background process; one at a time by a lock of the database, and several would do no
harm. A round looks what is due and mostly finds nothing. The work is done in a thread: it is synchronous
and may take a minute, and the relay's loop must go on meanwhile. A run that failed or stopped at a bound is
repeated later.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from actors.reconciliation.run import Reconciler, StoppedError, Window
from domain.errors import MarketplaceError
from domain.reconciliation.report import Report
from domain.reconciliation.schedule import due_window
from storage.reconciliation.market import Market

log = logging.getLogger("marketplace.reconciliation")

INTERVAL_S = 30.0  # how soon a fix that somebody asked for is made
RETRY_S = 1_800.0  # after a run that failed or was not complete
SETTLING_S = 600.0  # so long a mended case is looked at again, until it closes
STOP_WAIT_S = 10.0  # a page takes a tenth of a second, a request at the most some ten

Stopping = Callable[[], bool]
# Opens the run's own connections: to Postgres first, and the rest only when there is something to do.
Open = Callable[[Stopping], AbstractContextManager[tuple[Market, Callable[[], Reconciler]]]]


@dataclass(frozen=True, slots=True)
class CaseFigures:
    """Open cases by kind, and the age of the last daily run (None: there was none)."""

    open_by_kind: Mapping[str, int] = field(default_factory=dict)
    last_run_age_s: float | None = None


def work(opened: tuple[Market, Callable[[], Reconciler]], new_id: Callable[[str], str]) -> CaseFigures:
    """Do what is due: the daily run, or a look at cases that are being mended.

    Raises:
        IncompleteRunError: a run stopped at a bound; its report is kept.
        DependencyError: a source is away.
        StoppedError: the process is ending.
    """
    market, reconciler = opened
    if not market.alone():
        return _figures(market)
    started_at = market.now()
    due = due_window(market.daily_until(), started_at)
    if due is not None:
        report = reconciler().run(Window(*due), apply=True)
        market.record_run(
            new_id("rec"), due, started_at, report.document(), daily=True, complete=report.complete
        )
        _tell(report)
        if not report.complete:
            raise IncompleteRunError(report.stopped_by)
    elif market.pending_cases(SETTLING_S):
        _tell(reconciler().look_again(apply=False))
    return _figures(market)


class IncompleteRunError(Exception):
    """A run stopped at a bound."""


class DailyReconciliation:
    """The loop of one process."""

    def __init__(self, open_: Open, new_id: Callable[[str], str], *, interval_s: float = INTERVAL_S) -> None:
        self._open = open_
        self._new_id = new_id
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._figures = CaseFigures()
        self._not_before_s = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the loop runs."""
        return self._task is not None and not self._task.done()

    @property
    def figures(self) -> CaseFigures:
        """What the last round saw."""
        return self._figures

    def start(self) -> None:
        """Begin on the running loop; the first round comes after an interval."""
        self._task = asyncio.create_task(self._forever())

    async def stop(self) -> None:
        """Stop; a run under way is given up at its next page."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                async with asyncio.timeout(STOP_WAIT_S):
                    await asyncio.gather(self._task, return_exceptions=True)

    async def once(self) -> CaseFigures:
        """Run one round; raises as ``work``."""
        self._figures = await asyncio.to_thread(self._round)
        return self._figures

    def _round(self) -> CaseFigures:
        with self._open(self._stopping.is_set) as opened:
            return work(opened, self._new_id)

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            if time.monotonic() < self._not_before_s:
                continue
            try:
                await self.once()
            except StoppedError:
                return
            except (MarketplaceError, IncompleteRunError) as failure:
                log.warning("reconciliation waits %.0f s: %s", RETRY_S, failure)
                self._not_before_s = time.monotonic() + RETRY_S
            except Exception:
                # Whatever it was, the relay beside it must go on.
                log.exception("reconciliation failed")
                self._not_before_s = time.monotonic() + RETRY_S


def _figures(market: Market) -> CaseFigures:
    return CaseFigures(market.open_by_kind(), market.last_daily_age_s())


def _tell(report: Report) -> None:
    log.info(
        "reconciled %s to %s: %d orders, %d fees booked; "
        "cases: %d opened, %d changed, %d closed, %d mended, open %s",
        report.since.isoformat(),
        report.until.isoformat(),
        report.orders,
        report.fees_booked,
        report.opened,
        report.changed,
        report.resolved,
        report.applied,
        report.open_by_kind,
    )
