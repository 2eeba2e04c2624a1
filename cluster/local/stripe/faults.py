"""Faults that a test orders: the next requests that match fail, before or after they were executed.

``before``: nothing happens and the failure is not kept for the idempotency key, as when Stripe's edge is
down. ``after``: the request is executed; with a status, the failure is the answer that is kept and
replayed, as Stripe does with a 500. A delay alone lets the client's time limit run out. In memory only.
"""

from dataclasses import asdict, dataclass
from typing import Any

from cluster.local.stripe.refusals import Document, RefusedError, invalid

RULES_MAX = 100
TIMES_MAX = 100_000
DELAY_MS_MAX = 60_000
FIELDS = frozenset({"method", "path_prefix", "when", "status", "delay_ms", "times"})
METHODS = frozenset({"GET", "POST", "DELETE"})
MOMENTS = frozenset({"before", "after"})


@dataclass(slots=True)
class Fault:
    """``status`` None means that only the delay happens; ``times`` is how often it will still strike."""

    method: str | None
    path_prefix: str
    when: str
    status: int | None
    delay_ms: int
    times: int

    def refusal(self) -> RefusedError:
        """The answer of a fault with a status."""
        assert self.status is not None
        return RefusedError(
            self.status,
            "The Stripe simulator was told to fail this request.",
            kind="invalid_request_error" if self.status < 500 else "api_error",  # noqa: PLR2004 - HTTP's split
            code="rate_limit" if self.status == 429 else None,  # noqa: PLR2004 - too many requests
        )


class Faults:
    """The rules, oldest first; the first that matches strikes."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []

    def add(self, wanted: Any) -> Document:
        """Add a rule from its JSON.

        Raises:
            RefusedError: 400.
        """
        if not isinstance(wanted, dict) or not wanted.keys() <= FIELDS:
            raise invalid(f"A fault is an object of {', '.join(sorted(FIELDS))}.")
        if len(self._rules) >= RULES_MAX:
            raise invalid(f"There are {RULES_MAX} faults already; DELETE /_sim/faults removes them.")
        status = wanted.get("status")
        fault = Fault(
            method=wanted.get("method"),
            path_prefix=wanted.get("path_prefix", "/v1/"),
            when=wanted.get("when", "before"),
            status=None if status is None else _bounded(status, "status", 400, 599),
            delay_ms=_bounded(wanted.get("delay_ms", 0), "delay_ms", 0, DELAY_MS_MAX),
            times=_bounded(wanted.get("times", 1), "times", 1, TIMES_MAX),
        )
        if fault.method not in METHODS | {None} or fault.when not in MOMENTS:
            raise invalid("method is GET, POST, DELETE or absent; when is before or after.")
        if not isinstance(fault.path_prefix, str) or not fault.path_prefix.startswith("/v1/"):
            raise invalid("path_prefix starts with /v1/.", "path_prefix")
        self._rules.append(fault)
        return asdict(fault)

    def list(self) -> Document:
        """Return the rules that will still strike."""
        return {"object": "list", "data": [asdict(fault) for fault in self._rules]}

    def clear(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def strike(self, method: str, path: str) -> Fault | None:
        """Return the fault for this request, if any, and count it."""
        for fault in self._rules:
            if fault.method in {None, method} and path.startswith(fault.path_prefix):
                fault.times -= 1
                if fault.times == 0:
                    self._rules.remove(fault)
                return fault
        return None


def _bounded(value: Any, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise invalid(f"{name} must be a whole number from {low} to {high}.", name)
    return value
