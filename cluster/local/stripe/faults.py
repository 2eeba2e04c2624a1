"""Faults that a test orders: requests that match fail, webhooks that match go astray.

A rule strikes ``times`` times, or with ``probability`` (drawn under its ``seed``) until it is removed; with
both, at most ``times`` times. The first rule that matches and strikes counts. In memory only.

Requests (``target`` request, the default) are chosen by ``method`` and by ``path_prefix`` or ``path``, in
which ``*`` stands for one part: ``/v1/payment_intents/*/capture``. What happens is ``delay_ms`` and then

    when=before   nothing is executed; ``status`` is answered and not kept for the idempotency key, as when
                  Stripe's edge is down or limits the rate (429, ``code`` rate_limit or lock_timeout)
    when=instead  nothing is executed; ``status`` is answered, kept for the key and replayed
    when=after    the request is executed; ``status``, if any, is the answer that is kept and replayed, as
                  Stripe does with a 500
    drop=true     the connection ends without an answer: before execution, or after it (then the true answer
                  is kept for the key)

Webhooks (``target`` webhook) are chosen by ``event``, a type in which ``*`` stands for any text; a rule looks
at each delivery once. ``action`` is ``drop`` (never sent), ``duplicate`` (sent twice), ``delay`` (sent
``delay_ms`` later) or ``reorder`` (sent after the next other delivery to its endpoint, at the latest
``delay_ms`` later).
"""

import random
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.local.stripe.refusals import Document, RefusedError, invalid

RULES_MAX = 100
TIMES_MAX = 100_000
SEED_MAX = 2**53
DELAY_MS_MAX = 60_000
TOO_MANY_REQUESTS = 429
COMMON = frozenset({"target", "delay_ms", "times", "probability", "seed"})
REQUEST_FIELDS = COMMON | {"method", "path_prefix", "path", "when", "status", "code", "drop"}
WEBHOOK_FIELDS = COMMON | {"event", "action"}
METHODS = frozenset({"GET", "POST", "DELETE"})
MOMENTS = frozenset({"before", "instead", "after"})
PATHS = frozenset({"path", "path_prefix"})
ACTIONS = frozenset({"drop", "duplicate", "delay", "reorder"})
REORDER_MS_DEFAULT = 1_000
PATH = re.compile(r"/v1/[A-Za-z0-9_/.*-]*")
EVENT = re.compile(r"[a-z0-9_.*]+")
TOLD = "The Stripe simulator was told to fail this request."
LOCKED = (
    "This object cannot be accessed right now because another API request or Stripe process is currently "
    "accessing it. If you see this error intermittently, retry the request."
)
LIMITED = "Request rate limit exceeded. You can learn more about rate limits at https://docs.stripe.com/rate-limits."


class LostReplyError(Exception):
    """The connection has to end without an answer."""


@dataclass(slots=True)
class Chance:
    """How often a rule strikes; ``times`` None means without end."""

    times: int | None
    probability: float
    seed: int
    _random: random.Random = field(repr=False)

    def strikes(self) -> bool:
        """Draw; a strike is counted."""
        if self.times == 0 or (self.probability < 1 and self._random.random() >= self.probability):
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def shown(self) -> Document:
        """Return what the rule's listing says of it."""
        return {"times": self.times, "probability": self.probability, "seed": self.seed}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request; ``status`` None means that only the delay or the drop does."""

    method: str | None
    path: str
    when: str
    status: int | None
    code: str | None
    delay_ms: int
    drop: bool

    def refusal(self) -> RefusedError:
        """The answer of a fault with a status."""
        assert self.status is not None
        message = {"rate_limit": LIMITED, "lock_timeout": LOCKED, None: TOLD}[self.code]
        return RefusedError(
            self.status,
            message,
            kind="invalid_request_error" if self.status < 500 else "api_error",  # noqa: PLR2004 - HTTP's split
            code=self.code,
        )


@dataclass(frozen=True, slots=True)
class WebhookFault:
    """What happens to a delivery."""

    event: str
    action: str
    delay_ms: int


class Faults:
    """The rules, oldest first."""

    def __init__(self) -> None:
        self._requests: list[tuple[Chance, Fault, re.Pattern[str]]] = []
        self._webhooks: list[tuple[Chance, WebhookFault, re.Pattern[str]]] = []

    @property
    def on_webhooks(self) -> bool:
        """Whether any rule is about webhooks: without one, a delivery costs nothing here."""
        return bool(self._webhooks)

    def add(self, wanted: Any) -> Document:
        """Add a rule from its JSON; return it as it is listed.

        Raises:
            RefusedError: 400.
        """
        target = wanted.get("target", "request") if isinstance(wanted, dict) else None
        known = {"request": REQUEST_FIELDS, "webhook": WEBHOOK_FIELDS}.get(str(target))
        if known is None or not wanted.keys() <= known:
            listed = ", ".join(sorted(known or REQUEST_FIELDS | WEBHOOK_FIELDS))
            raise invalid(f"A fault is an object of {listed}; its target is request or webhook.")
        if len(self._requests) + len(self._webhooks) >= RULES_MAX:
            raise invalid(f"There are {RULES_MAX} faults already; DELETE /_sim/faults removes them.")
        chance = _chance(wanted)
        if target == "webhook":
            astray = _webhook_fault(wanted)
            self._webhooks.append((chance, astray, _pattern(astray.event, ".*")))
            return {"target": target, **asdict(astray), **chance.shown()}
        fault = _fault(wanted)
        path = _pattern(fault.path, "[^/]+") if "path" in wanted else re.compile(re.escape(fault.path) + ".*")
        self._requests.append((chance, fault, path))
        return {"target": target, **asdict(fault), **chance.shown()}

    def list(self) -> Document:
        """Return the rules that may still strike."""
        data = [
            {"target": "request", **asdict(fault), **chance.shown()} for chance, fault, _ in self._requests
        ]
        data += [
            {"target": "webhook", **asdict(fault), **chance.shown()} for chance, fault, _ in self._webhooks
        ]
        return {"object": "list", "data": data}

    def clear(self) -> None:
        """Remove all rules."""
        self._requests.clear()
        self._webhooks.clear()

    def strike(self, method: str, path: str) -> Fault | None:
        """Return the fault for this request, if any, and count it."""
        for rule in self._requests:
            chance, fault, pattern = rule
            if fault.method in {None, method} and pattern.fullmatch(path) and chance.strikes():
                if chance.times == 0:
                    self._requests.remove(rule)
                return fault
        return None

    def strike_webhook(self, event_type: str) -> WebhookFault | None:
        """Return the fault for a delivery of this event type, if any, and count it."""
        for rule in self._webhooks:
            chance, fault, pattern = rule
            if pattern.fullmatch(event_type) and chance.strikes():
                if chance.times == 0:
                    self._webhooks.remove(rule)
                return fault
        return None


def _chance(wanted: Document) -> Chance:
    probability = wanted.get("probability", 1)
    if not isinstance(probability, int | float) or isinstance(probability, bool) or not 0 < probability <= 1:
        raise invalid("probability must be a number above 0, at most 1.", "probability")
    times: int | None = None
    if "times" in wanted or "probability" not in wanted:
        times = _bounded(wanted.get("times", 1), "times", 1, TIMES_MAX)
    seed = _bounded(wanted.get("seed", 0), "seed", 0, SEED_MAX)
    return Chance(times, float(probability), seed, random.Random(seed))  # noqa: S311 - to be repeated, not a secret


def _fault(wanted: Document) -> Fault:
    status = wanted.get("status")
    fault = Fault(
        method=wanted.get("method"),
        path=wanted["path"] if "path" in wanted else wanted.get("path_prefix", "/v1/"),
        when=wanted.get("when", "before"),
        status=None if status is None else _bounded(status, "status", 400, 599),
        code=wanted.get("code", "rate_limit" if status == TOO_MANY_REQUESTS else None),
        delay_ms=_bounded(wanted.get("delay_ms", 0), "delay_ms", 0, DELAY_MS_MAX),
        drop=wanted.get("drop", False),
    )
    if fault.method not in METHODS | {None} or fault.when not in MOMENTS:
        raise invalid("method is GET, POST, DELETE or absent; when is before, instead or after.")
    if (
        not isinstance(fault.path, str)
        or PATH.fullmatch(fault.path) is None
        or len(wanted.keys() & PATHS) > 1
    ):
        raise invalid("One of path and path_prefix is given; it starts with /v1/.", "path")
    if not isinstance(fault.drop, bool) or (fault.drop and (status is not None or fault.when == "instead")):
        raise invalid("drop is true or false; what is dropped has no status.", "drop")
    if fault.when == "instead" and status is None:
        raise invalid("What happens instead of the request needs a status.", "status")
    if fault.code not in {None, "rate_limit", "lock_timeout"} or (fault.code and status != TOO_MANY_REQUESTS):
        raise invalid("code is rate_limit or lock_timeout, of status 429.", "code")
    return fault


def _webhook_fault(wanted: Document) -> WebhookFault:
    action = wanted.get("action")
    default = REORDER_MS_DEFAULT if action == "reorder" else 0
    delay_ms = _bounded(wanted.get("delay_ms", default), "delay_ms", 0, DELAY_MS_MAX)
    fault = WebhookFault(wanted.get("event", "*"), str(action), delay_ms)
    if not isinstance(fault.event, str) or EVENT.fullmatch(fault.event) is None:
        raise invalid("event is an event type, in which * stands for any text.", "event")
    if action not in ACTIONS or (action == "delay") != (action != "reorder" and delay_ms > 0):
        raise invalid(f"action is one of {', '.join(sorted(ACTIONS))}; delay needs a delay_ms.", "action")
    return fault


def _pattern(text: str, star: str) -> re.Pattern[str]:
    return re.compile(star.join(re.escape(part) for part in text.split("*")))


def _bounded(value: Any, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise invalid(f"{name} must be a whole number from {low} to {high}.", name)
    return value
