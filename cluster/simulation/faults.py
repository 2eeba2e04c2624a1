"""Faults: what can go wrong at which call, when this seed makes it so, and how often it did.

A boundary is a kind of call between two parties (``postgres.commit``, ``stripe.create``). A seed has a mood,
a rate of random faults at every call, and aims: faults that wait for the next call at one boundary. Aims go
round all combinations by the seed's number, so that rare calls (a void, a dead letter) are hit as surely as
frequent ones. After ``heal`` nothing goes wrong any more.
"""

import random
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from itertools import chain

PARTIES = ("postgres", "stripe", "finance", "signer")
AIMS = (2, 6, 12, 24, 30)  # of one seed: from few, so that little masks a bug, to many that meet each other
AIMS_MAX = max(AIMS)
AIM_WINDOW_S = 120.0  # aims are armed during the time in which buyers are about
MOODS = (0.0, 0.01, 0.05, 0.12)  # share of calls that go wrong besides the aims
POLLED, RARELY_MADE = 0.1, 4.0  # times that rate: calls made every few seconds, and calls seldom made at all


class Fault(StrEnum):
    """What happens to one call."""

    DELAYED = "delayed"
    LOST = "lost"
    EXECUTED_THEN_LOST = "executed then lost"
    EXECUTED_LATE = "executed after the caller gave up"
    REFUSED = "refused by the server, nothing done"
    SERVER_CRASHED_BEFORE = "server crashed before executing"
    SERVER_CRASHED_AFTER = "server crashed after executing"
    CALLER_KILLED_BEFORE = "caller killed before the call"
    CALLER_KILLED_AFTER = "caller killed after execution, before the reply"
    CALLER_PAUSED_BEFORE = "caller paused with the call in hand"
    CALLER_PAUSED_AFTER = "caller paused before the reply"
    CALLER_STOPPED = "caller told to stop with the call in hand"
    CALLEE_KILLED_BEFORE = "callee killed on arrival"
    CALLEE_KILLED_AFTER = "callee killed before its reply"
    CALLEE_PAUSED = "callee paused on arrival"
    CALLER_CANCELLED = "caller gave up and cancelled the callee"
    STORED_500 = "error stored under the idempotency key, nothing done"
    EXECUTED_STORED_500 = "error stored under the idempotency key, yet done"
    REJECTED = "rejected for good"
    WRONG_AMOUNT = "acknowledged with another amount"
    UNFORESEEN = "failed in a way that nobody foresaw"


_NETWORK = (Fault.DELAYED, Fault.LOST, Fault.EXECUTED_THEN_LOST, Fault.EXECUTED_LATE)
_CALLER = (
    Fault.CALLER_KILLED_BEFORE,
    Fault.CALLER_KILLED_AFTER,
    Fault.CALLER_PAUSED_BEFORE,
    Fault.CALLER_PAUSED_AFTER,
    Fault.CALLER_STOPPED,
)
_DATABASE = (*_NETWORK, Fault.REFUSED, Fault.SERVER_CRASHED_BEFORE, Fault.SERVER_CRASHED_AFTER, *_CALLER)
_OUTSIDE = (*_NETWORK, Fault.REFUSED, *_CALLER)
_STRIPE_POST = (*_OUTSIDE, Fault.STORED_500, Fault.EXECUTED_STORED_500)
_CALLEE = (Fault.CALLEE_KILLED_BEFORE, Fault.CALLEE_KILLED_AFTER, Fault.CALLEE_PAUSED, Fault.CALLER_CANCELLED)
_HOST = (*_NETWORK, *_CALLER, *_CALLEE)
_INGRESS = (*_NETWORK, *_CALLEE)

BOUNDARIES: dict[str, tuple[Fault, ...]] = {
    "postgres.place": _DATABASE,
    "postgres.commit": _DATABASE,
    "postgres.load": _DATABASE,
    "postgres.find_command": _DATABASE,
    "postgres.claim_due_effects": _DATABASE,
    "postgres.defer_effect": _DATABASE,
    "postgres.bury_effect": _DATABASE,
    "postgres.store_webhook": _DATABASE,
    "postgres.claim_due_webhooks": _DATABASE,
    "postgres.settle_webhook": _DATABASE,
    "postgres.defer_webhook": _DATABASE,
    "postgres.bury_webhook": _DATABASE,
    "postgres.release_material": _DATABASE,
    "postgres.wrapped_identity": _DATABASE,
    "postgres.join_relays": _DATABASE,
    "postgres.standing": _DATABASE,
    "postgres.take_shard": _DATABASE,
    "postgres.release_shard": _DATABASE,
    "postgres.read_outbox": _DATABASE,
    "postgres.load_events": _DATABASE,
    "postgres.delete_published": _DATABASE,
    "postgres.outbox_lag": _DATABASE,
    "postgres.consumer_progress": _DATABASE,
    "postgres.begin_consumer": _DATABASE,
    "postgres.commit_consumer": _DATABASE,
    "postgres.record_failure": _DATABASE,
    "stripe.create_intent": _STRIPE_POST,
    "stripe.create_session": _STRIPE_POST,
    "stripe.retrieve_intent": _OUTSIDE,
    "stripe.cancel_intent": _OUTSIDE,
    "stripe.retrieve_session": _OUTSIDE,
    "stripe.expire_session": _OUTSIDE,
    "finance.post_entries": (*_OUTSIDE, Fault.REJECTED, Fault.WRONG_AMOUNT),
    "signer.issue": (*_OUTSIDE, Fault.REJECTED, Fault.UNFORESEEN),
    "signer.unwrap": _OUTSIDE,
    "host.place": _HOST,
    "host.receive": _HOST,
    "host.release_key": _HOST,
    "ingress.place": _INGRESS,
    "ingress.webhook": _INGRESS,
    "ingress.release_key": _INGRESS,
    "postgres.order_of_payment": _DATABASE,
    "stripe.create_refund": _STRIPE_POST,
    "stripe.list_refunds": _OUTSIDE,
    "host.refund": _HOST,
    "ingress.refund": _INGRESS,
    "stripe.capture_intent": _STRIPE_POST,
    "host.act": _HOST,
    "ingress.act": _INGRESS,
}
COMBINATIONS = tuple((boundary, fault) for boundary, faults in BOUNDARIES.items() for fault in faults)
_POLLS = frozenset(
    {
        "postgres.claim_due_effects",
        "postgres.claim_due_webhooks",
        "postgres.standing",
        "postgres.read_outbox",
        "postgres.take_shard",
    }
)
# Calls that are seldom made: aimed at three times as often, or some faults would never meet them.
_RARE = (
    "postgres.bury_effect",
    "postgres.bury_webhook",
    "postgres.defer_webhook",
    "postgres.store_webhook",
    "postgres.record_failure",
    "postgres.settle_webhook",
    "postgres.release_material",
    "postgres.wrapped_identity",
    "stripe.retrieve_intent",
    "stripe.cancel_intent",
    "stripe.retrieve_session",
    "stripe.expire_session",
    "finance.post_entries",
    "signer.issue",
    "signer.unwrap",
    "host.place",
    "host.receive",
    "host.release_key",
    "postgres.order_of_payment",
    "stripe.create_refund",
    "stripe.list_refunds",
    "host.refund",
    "stripe.capture_intent",
    "host.act",
)
_WEIGHTS = dict.fromkeys(_POLLS, POLLED) | dict.fromkeys(_RARE, RARELY_MADE)
_AIMED = (
    COMBINATIONS
    + 2 * tuple(one for one in COMBINATIONS if one[0] in _RARE)
    # A late request often finds its connection reset, and then nothing is executed.
    + 2 * tuple(one for one in COMBINATIONS if one[1] is Fault.EXECUTED_LATE)
)
# What must go wrong before some calls are made at all: nothing is buried that was not refused.
_PRELUDES: dict[str, tuple[tuple[str, Fault], ...]] = {
    "postgres.bury_effect": (("finance.post_entries", Fault.REJECTED),),
    # A relay that stands still over a failure while another one parks the event: it reports late.
    "postgres.record_failure": (("postgres.record_failure", Fault.CALLER_PAUSED_BEFORE),) * 3,
    "postgres.store_webhook": (("host.receive", Fault.LOST), ("postgres.commit", Fault.REFUSED)),
    "postgres.defer_webhook": (
        *((("host.receive", Fault.LOST),) * 4),
        *((("postgres.commit", Fault.REFUSED),) * 12),
        *((("postgres.settle_webhook", Fault.REFUSED),) * 4),
    ),
}
# Faults of the surroundings and moods of people, counted by name.
SITUATIONS = (
    "partition",
    "postgres down",
    "postgres down while a host recovers",
    "stripe down",
    "finance down",
    "signer down",
    "circuit open at an outage's end",
    "host killed",
    "host paused beyond its lease",
    "zombie beside its replacement",
    "ingress killed",
    "rolling update",
    "clock off by minutes",
    "webhook duplicated",
    "webhook late",
    "webhook never comes",
    "webhook for an unknown order",
    "webhook with a wrong amount",
    "webhook of a second charge",
    "buyer clicked twice",
    "buyer repeated after a lost reply",
    "buyer reused a key with another body",
    "buyer abandoned",
    "card declined first",
    "paid about the deadline",
    "key released",
    "key asked for too late",
    "order sent to two hosts",
    "dead letters dropped",
    "poison event parked",
    "relay session ended under it",
    "code used up",
    "free order",
    "payment for a free order",
    "refund asked for",
    "refund refused",
    "refund from the dashboard",
    "payment disputed",
    "buyer cancelled",
    "the bank asked",
    "review decided",
    "nobody reviewed",
    "decision came too late",
    "authorisation lapsed",
    "captured by hand",
)


class FaultPlan:
    """One seed's faults. ``coverage`` counts what really happened, by ``boundary: fault`` or situation."""

    def __init__(self, seed: int, rng: random.Random) -> None:
        self._rng = rng
        self._active = True
        self.rate = rng.choice(MOODS)
        self._aims: dict[str, list[tuple[float, Fault]]] = {}
        self.coverage: Counter[str] = Counter()
        count = rng.choice(AIMS)
        # A stride that shares no factor with their number visits all combinations before it repeats one.
        for index in range(seed * AIMS_MAX, seed * AIMS_MAX + count):
            boundary, fault = _AIMED[index * _STRIDE % len(_AIMED)]
            armed_s = max(0.0, rng.random() * 2 - 1) * AIM_WINDOW_S
            for prelude in _PRELUDES.get(boundary, ()):
                self._aim(*prelude, armed_s)
            self._aim(boundary, fault, armed_s)

    @property
    def aims(self) -> list[str]:
        """What this seed aims at, for people."""
        return sorted(f"{boundary}: {fault}" for boundary, all_ in self._aims.items() for _, fault in all_)

    @property
    def active(self) -> bool:
        """Whether things may still go wrong."""
        return self._active

    def aims_at(self, boundary: str) -> bool:
        """Whether this seed has something in store for a boundary."""
        return boundary in self._aims

    def heal(self) -> None:
        """Let everything go right from now on."""
        self._active = False

    def draw(self, boundary: str, now_s: float, *, caller_faulty: bool) -> Fault | None:
        """Say what happens to the call that is about to be made."""
        if not self._active:
            return None
        armed = self._aims.get(boundary)
        if armed:
            for aim in armed:
                if aim[0] <= now_s and (caller_faulty or aim[1] not in _CALLER):
                    armed.remove(aim)
                    return aim[1]
        if self._rng.random() >= self.rate * _WEIGHTS.get(boundary, 1.0):
            return None
        fault = self._rng.choice(BOUNDARIES[boundary])
        return fault if caller_faulty or fault not in _CALLER else None

    def _aim(self, boundary: str, fault: Fault, armed_s: float) -> None:
        self._aims.setdefault(boundary, []).append((armed_s, fault))

    def happened(self, boundary: str, fault: Fault) -> None:
        """Count a fault that took its effect."""
        self.coverage[f"{boundary}: {fault}"] += 1

    def situation(self, name: str) -> None:
        """Count a situation."""
        assert name in SITUATIONS, name
        self.coverage[name] += 1


def never_exercised(coverage: Iterable[str]) -> list[str]:
    """List the faults and situations that a set of seeds did not meet."""
    met = set(coverage)
    listed = chain((f"{boundary}: {fault}" for boundary, fault in COMBINATIONS), SITUATIONS)
    return [name for name in listed if name not in met]


def _coprime_stride(length: int) -> int:
    stride = length // 3 | 1
    while any(stride % divisor == 0 and length % divisor == 0 for divisor in range(2, length)):
        stride += 2
    return stride


_STRIDE = _coprime_stride(len(_AIMED))
