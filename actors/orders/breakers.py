"""Circuit breakers: an outside system that fails again and again is left alone for a while.

Without one, an outage keeps every effect's turn, connection and timeout busy with calls that fail. Closed:
calls pass. After ``FAILURES_MAX`` failures in a row it opens: calls fail at once and effects stay in the
store. After ``OPEN_S`` one call at a time is let through as a probe; the first success closes it again.
Only ``DependencyError`` counts: a refusal is an answer. (Nygard, "Release It!", chapter 5.)
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

from domain.errors import BusyError, DependencyError

R = TypeVar("R")

FAILURES_MAX = 8  # in a row: single lost calls are the retries' matter
# Effects read our own database on their way, and an order may hold its own fulfilment back.
_NOT_ITS_FAULT = frozenset({"database_unavailable", "fulfilment_held"})
OPEN_S = 2.0  # an outage's end is noticed this much later than its first retry would have


class BreakerState(StrEnum):
    """Closed lets calls through, open none, half-open one at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """One per outside system and process. ``now_s`` is a monotonic clock in seconds."""

    def __init__(self, name: str, now_s: Callable[[], float]) -> None:
        self.name = name
        self._now_s = now_s
        self._failures = 0
        self._opened_at_s: float | None = None
        self._probing = False

    @property
    def state(self) -> BreakerState:
        """Where it stands now."""
        if self._opened_at_s is None:
            return BreakerState.CLOSED
        waited_s = self._now_s() - self._opened_at_s
        return BreakerState.HALF_OPEN if waited_s >= OPEN_S else BreakerState.OPEN

    async def call(self, work: Callable[[], Awaitable[R]]) -> R:
        """Run ``work`` unless the circuit is open.

        Raises:
            DependencyError: ``circuit_open``; nothing was called. Or whatever ``work`` raised.
        """
        state = self.state
        if state is BreakerState.OPEN or (state is BreakerState.HALF_OPEN and self._probing):
            raise DependencyError(
                "circuit_open", f"{self.name} keeps failing and is left alone for a moment.", 2
            )
        probe = state is BreakerState.HALF_OPEN
        self._probing = self._probing or probe
        try:
            result = await work()
        except DependencyError as failure:
            if failure.code not in _NOT_ITS_FAULT:
                self._failed()
            raise
        except BusyError:
            raise  # our own queue was full: it says nothing of the other side
        except Exception:
            self._succeeded()  # it answered, whatever it said
            raise
        else:
            self._succeeded()
            return result
        finally:
            if probe:
                self._probing = False

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            self._opened_at_s = self._now_s()

    def _succeeded(self) -> None:
        self._failures = 0
        self._opened_at_s = None
