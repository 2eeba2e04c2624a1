"""Orders whose next event the bus refused: they stand still while all others flow.

Kept in memory only. A relay that takes the shard over starts without it, meets the same refusal once and
stops the order again, so nothing depends on it but the speed of the others.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from domain.events import shard_of

BACKOFF_FIRST_S = 1.0
BACKOFF_CAP_S = 60.0  # an order waits at most this long once its cause is mended
DOUBLINGS_MAX = 10
STOPPED_MAX = 1_000  # more orders than this do not fail for reasons of their own: then the relay pauses


def backoff_s(failures: int, cap_s: float) -> float:
    """Seconds to wait after ``failures`` failures in a row (from 1): doubling, capped, equal jitter."""
    ceiling_s = min(cap_s, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, DOUBLINGS_MAX))
    return ceiling_s * (0.5 + random.random() / 2)  # noqa: S311 - spreads retries, guards nothing


@dataclass(frozen=True, slots=True)
class Stop:
    """``retry_at`` is on the event loop's clock; ``from_seq`` is where to resume, None at the outbox row."""

    failures: int
    retry_at: float
    from_seq: int | None


class StoppedKeys:
    """Bounded by ``STOPPED_MAX``: ``full`` tells when."""

    def __init__(self) -> None:
        self._stops: dict[str, Stop] = {}

    def __len__(self) -> int:
        """Orders that are stopped now."""
        return len(self._stops)

    @property
    def full(self) -> bool:
        """Whether no further order can be stopped."""
        return len(self._stops) >= STOPPED_MAX

    def waiting(self, now: float) -> Sequence[str]:
        """Return the orders that must not be tried yet."""
        return [order_id for order_id, stop in self._stops.items() if stop.retry_at > now]

    def resume_seq(self, order_id: str) -> int | None:
        """Return the event from which an order's records must be sent again, if that is known."""
        stop = self._stops.get(order_id)
        return stop.from_seq if stop else None

    def stop(self, order_id: str, now: float) -> float:
        """Stop an order after a failure; returns for how many seconds."""
        before = self._stops.get(order_id)
        failures = before.failures + 1 if before else 1
        delay_s = backoff_s(failures, BACKOFF_CAP_S)
        self._stops[order_id] = Stop(failures, now + delay_s, before.from_seq if before else None)
        return delay_s

    def resume_from(self, order_id: str, seq: int, now: float) -> None:
        """Let an order go on at once from event ``seq``, wherever its outbox row begins."""
        before = self._stops.get(order_id)
        self._stops[order_id] = Stop(before.failures if before else 0, now, seq)

    def clear(self, order_id: str) -> None:
        """Forget an order that got through."""
        self._stops.pop(order_id, None)

    def keep_shards(self, owned: frozenset[int]) -> None:
        """Forget the orders of shards that are another relay's now."""
        for order_id in [key for key in self._stops if shard_of(key) not in owned]:
            del self._stops[order_id]
