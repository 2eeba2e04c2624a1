"""When an effect is tried again, and when it is given up: the policy, apart from the work.

A failure of a dependency is tried for ever, ever more rarely: an outage of a day must lose nothing. A
refusal is final at once, and so is, after a few tries, an error that nobody foresaw: both become dead
letters, which an operator retries or drops (``marketplace ops dlq``).
"""

import random

from domain.errors import BusyError, DependencyError, MarketplaceError

BACKOFF_FIRST_S = 1.0
BACKOFF_CAP_S = 60.0  # an outage's end is noticed within a minute
DOUBLINGS_MAX = 10
UNFORESEEN_TRIES_MAX = 5  # a bug in this build may be one instance's; five tries see other hosts too


def backoff_s(attempts: int) -> float:
    """Seconds until the next try: exponential with equal jitter, capped (attempts counts from 0)."""
    ceiling_s = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** min(attempts, DOUBLINGS_MAX))
    return ceiling_s * (0.5 + random.random() / 2)  # noqa: S311 - spreads retries, guards nothing


def is_unforeseen(failure: Exception) -> bool:
    """Whether this is no error of ours: such tries are counted, and an outage's are not."""
    return not isinstance(failure, MarketplaceError)


def is_final(failure: Exception, unforeseen: int) -> bool:
    """Whether trying again cannot help; ``unforeseen`` counts the unforeseen failures before this one."""
    if isinstance(failure, DependencyError | BusyError):
        return False
    return not is_unforeseen(failure) or unforeseen + 1 >= UNFORESEEN_TRIES_MAX


def code_of(failure: Exception) -> str:
    """Return the stable code that a dead letter carries."""
    return failure.code if isinstance(failure, MarketplaceError) else "internal_error"
