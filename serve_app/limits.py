"""The ingress's bounds: bodies, deadlines, and how many requests a caller may send.

Rates are token buckets in this process's memory, so a caller that reaches several replicas has that many
times the rate: they keep one caller from starving the others and are no billing quota.
"""

import math
from collections import OrderedDict
from collections.abc import Callable

from domain.errors import BusyError
from serve_app.ports import RateLimit

BODY_BYTES_MAX = 1024 * 1024  # bundles go to S3; the largest document here is a manifest of 16 KB
ORDER_BODY_BYTES_MAX = 64 * 1024  # fifty lines take 4 KB
REQUEST_DEADLINE_S = 10.0  # above the order host's nine, so that the caller hears the better reason
CALLERS_MAX = 20_000  # buckets kept; the least recently used caller starts afresh with a full one


class TokenBuckets:
    """One bucket per caller."""

    def __init__(self, rate: RateLimit, monotonic: Callable[[], float]) -> None:
        self._per_s = rate.per_s
        self._burst = float(rate.burst)
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller -> (tokens, at)

    def take(self, caller: str) -> None:
        """Take one token.

        Raises:
            BusyError: ``rate_limited``, with the seconds until there is one.
        """
        now_s = self._monotonic()
        tokens, at_s = self._buckets.get(caller, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - at_s) * self._per_s)
        if tokens < 1.0:
            raise BusyError(
                "rate_limited",
                f"At most {self._per_s:g} requests a second are taken from one caller. Slow down.",
                math.ceil((1.0 - tokens) / self._per_s),
            )
        self._buckets[caller] = (tokens - 1.0, now_s)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > CALLERS_MAX:
            self._buckets.popitem(last=False)
