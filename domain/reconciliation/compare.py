"""Compares what orders, Finance and Stripe tell of one order. Pure; every difference is told once.

    Stripe's charge, refund, dispute   against the order's payment, refunds, disputes
    Finance's entries                  against what ``domain.orders.booking`` makes of the order
    Finance's fee entry                against the fee of Stripe's balance transaction
    licences                           against the payment

So Finance and Stripe agree where both agree with the order. Given all facts, the differences are what is
wrong; given those of a window of time only, a difference that is dated in it asks for all facts
(``suspects``). What happened after ``settled_before`` is not judged: the others may only not have heard of
it yet.

What this module refuses: to guess which side is right where no side can mend itself. Then ``fix`` is None.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from domain.orders.booking import (
    CORRECTED,
    capture_entry_key,
    capture_postings,
    cleared_minor,
    fee_entry_key,
    fee_postings,
    is_fee_entry,
    return_entry_key,
    return_postings,
    standing,
)
from domain.orders.ports import PaymentNews
from domain.orders.return_invariants import movements_of
from domain.orders.returned import Dispute, DisputeStatus, Refund, RefundStatus, fees_to_record
from domain.orders.state import Order, Status
from domain.reconciliation.facts import (
    CHARGE,
    DISPUTE,
    REFUND,
    Booked,
    Difference,
    Facts,
    Findings,
    Kind,
    Post,
    Rebook,
    Reverse,
    StripeObject,
    TellOrder,
)

LICENCE_DUE = timedelta(hours=1)  # after payment; a licence takes a second, an outage of an hour is a case
# Stripe's words for a refund that returned money, or is about to, and for a dispute that holds some.
_REFUNDED = frozenset({"pending", "requires_action", "succeeded"})
_DISPUTED = frozenset({"needs_response", "under_review", "lost"})
_UNFULFILLED = frozenset({Status.GRANTED, Status.PAID, Status.BOOKED})
_Expected = tuple[datetime, Sequence[tuple[str, int]]]


def examine(facts: Facts, settled_before: datetime) -> Findings:
    """Return what differs between the sources of one order, and the fees that Stripe took for it."""
    found = [one for one in _differences(facts) if one.at < settled_before]
    return Findings(found, list(_fees(facts)))


def suspects(findings: Findings, since: datetime, until: datetime) -> bool:
    """Whether a comparison of a window's facts alone calls for all facts of the order."""
    return any(since <= one.at < until for one in findings.differences)


def _differences(facts: Facts) -> Iterator[Difference]:
    order = facts.order
    if order is None:
        yield from _of_no_order(facts)
        return
    yield from _charges(facts, order)
    yield from _refunds(facts, order)
    yield from _disputes(facts, order)
    yield from _entries(facts, order)
    yield from _fee_entries(facts)
    yield from _licences(facts, order)


def _of_no_order(facts: Facts) -> Iterator[Difference]:
    for one in facts.objects:
        if one.kind == CHARGE and one.amount_minor > one.returned_minor:
            yield _about(
                Kind.CAPTURE_WITHOUT_ORDER,
                facts,
                one,
                (0, one.amount_minor - one.returned_minor),
                f"Stripe captured {one.object_id} for order {facts.order_id}, which does not exist here.",
            )
    for entry in facts.entries:
        if not entry.undone:
            yield _booked(
                Kind.BOOKED_WITHOUT_ORDER,
                facts,
                entry,
                f"Finance has entry {entry.entry_key}, and there is no such order.",
                Reverse(entry.entry_key),
            )


def _charges(facts: Facts, order: Order) -> Iterator[Difference]:
    own: list[StripeObject] = []
    for one in facts.objects:
        if one.kind != CHARGE:
            continue
        if order.paid_at is not None and one.payment_intent_id == order.payment_intent_id:
            own.append(one)
        elif one.amount_minor > one.returned_minor:  # not of one that was returned in full by hand
            yield _unrecorded_charge(facts, order, one)
    if order.paid_at is None or order.total_minor == 0 or order.payment_intent_id is None:
        return
    if not own:
        yield Difference(
            Kind.CAPTURE_MISSING_AT_STRIPE,
            facts.order_id,
            order.payment_intent_id,
            order.paid_at,
            order.currency,
            order.total_minor,
            0,
            f"The order is paid by {order.payment_intent_id}, of which Stripe has no capture.",
        )
    for one in own:
        if (one.amount_minor, one.currency) != (order.total_minor, order.currency):
            yield _about(
                Kind.CAPTURE_DIFFERS,
                facts,
                one,
                (order.total_minor, one.amount_minor),
                f"The order is paid with {order.total_minor} {order.currency}, Stripe captured "
                f"{one.amount_minor} {one.currency}.",
            )


def _unrecorded_charge(facts: Facts, order: Order, one: StripeObject) -> Difference:
    if order.paid_at is not None:
        return _about(
            Kind.CAPTURED_TWICE,
            facts,
            one,
            (0, one.amount_minor - one.returned_minor),
            f"The order is paid by {order.payment_intent_id}, Stripe captured {one.payment_intent_id} too.",
        )
    return _about(
        Kind.CAPTURE_NOT_RECORDED,
        facts,
        one,
        (0, one.amount_minor),
        f"Stripe captured {one.payment_intent_id}, and the order is {order.status}.",
        _news(facts, one, "payment_intent.succeeded", about=one.payment_intent_id),
    )


def _refunds(facts: Facts, order: Order) -> Iterator[Difference]:
    if order.paid_at is None:
        return  # of a payment that the order cannot use or does not know yet: its charge says what is left
    at_stripe = [one for one in facts.objects if one.kind == REFUND and _is_own(order, one)]
    if not at_stripe and not order.refunds:
        return
    met = set()
    for one in at_stripe:
        refund = _refund_of(order, one)
        if refund is not None:
            met.add(refund.refund_id)
        yield from _refund(facts, refund, one)
    for refund in order.refunds:
        if refund.accepted_at is not None and refund.refund_id not in met:
            yield Difference(
                Kind.REFUND_MISSING_AT_STRIPE,
                facts.order_id,
                refund.stripe_refund_id or refund.refund_id,
                refund.accepted_at,
                order.currency,
                refund.amount_minor if refund.returns else 0,
                0,
                f"The order says that Stripe made refund {refund.stripe_refund_id}; Stripe has none.",
            )


def _refund(facts: Facts, refund: Refund | None, one: StripeObject) -> Iterator[Difference]:
    returned = one.status in _REFUNDED
    tell = _news(facts, one, "refund.updated")
    if refund is None or refund.stripe_refund_id is None:
        if returned:
            what = "does not know it" if refund is None else "does not know that Stripe has made it"
            yield _about(
                Kind.REFUND_NOT_RECORDED,
                facts,
                one,
                (0, one.amount_minor),
                f"Stripe returned {one.amount_minor} {one.currency} by {one.object_id}; the order {what}.",
                tell,
            )
        return
    known_minor = refund.amount_minor if refund.returns else 0
    told_minor = one.amount_minor if returned else 0
    unfinished = refund.status is RefundStatus.PENDING and one.status != "pending"
    if known_minor != told_minor or unfinished:
        # Only what the order can still take as news mends itself: failed is failed, amounts do not change.
        mendable = refund.returns and one.amount_minor == refund.amount_minor
        yield _about(
            Kind.REFUND_DIFFERS,
            facts,
            one,
            (told_minor, known_minor),
            f"Refund {one.object_id} is {one.status} over {one.amount_minor} {one.currency} at Stripe, "
            f"{refund.status} over {refund.amount_minor} at the order.",
            tell if mendable else None,
        )


def _disputes(facts: Facts, order: Order) -> Iterator[Difference]:
    if order.total_minor == 0:
        return  # of a payment that names a free order: its charge says what is left
    at_stripe = [one for one in facts.objects if one.kind == DISPUTE and _is_own(order, one)]
    if not at_stripe and not order.disputes:
        return
    for one in at_stripe:
        yield from _dispute(facts, order.find_dispute(one.object_id), one)
    known = {one.object_id for one in at_stripe}
    for dispute in order.disputes:
        if dispute.dispute_id not in known:
            yield Difference(
                Kind.DISPUTE_MISSING_AT_STRIPE,
                facts.order_id,
                dispute.dispute_id,
                dispute.opened_at,
                order.currency,
                dispute.amount_minor if dispute.returns else 0,
                0,
                f"The order knows dispute {dispute.dispute_id}; Stripe has none that took money.",
            )


def _dispute(facts: Facts, dispute: Dispute | None, one: StripeObject) -> Iterator[Difference]:
    held = one.status in _DISPUTED
    closed = one.status in ("won", "lost")
    tell = _news(facts, one, "charge.dispute.closed" if closed else "charge.dispute.updated")
    if dispute is None:
        if held or closed:
            yield _about(
                Kind.DISPUTE_NOT_RECORDED,
                facts,
                one,
                (0, one.amount_minor if held else 0),
                f"Dispute {one.object_id} over {one.amount_minor} {one.currency} is {one.status} at Stripe; "
                "the order does not know it.",
                tell,
            )
        return
    known_minor = dispute.amount_minor if dispute.returns else 0
    told_minor = one.amount_minor if held else 0
    unfinished = dispute.status is DisputeStatus.OPEN and closed
    fee_minor = sum(fee for _, fee in one.fees)
    fees_missing = bool(fees_to_record(dispute.fees, one.fees))
    if known_minor != told_minor or unfinished or fees_missing or dispute.fee_minor != fee_minor:
        # A bank may give up what is open, and also what it had won.
        takes_end = dispute.status is DisputeStatus.OPEN or (
            dispute.status is DisputeStatus.LOST and one.status == "won"
        )
        same = one.amount_minor == dispute.amount_minor
        mendable = (takes_end and same) or (known_minor == told_minor and fees_missing)
        yield _about(
            Kind.DISPUTE_DIFFERS,
            facts,
            one,
            (told_minor, known_minor),
            f"Dispute {one.object_id} is {one.status} over {one.amount_minor} {one.currency} with a fee of "
            f"{fee_minor} at Stripe, at the order {dispute.status} over {dispute.amount_minor} with "
            f"{dispute.fee_minor}.",
            tell if mendable else None,
        )


def _entries(facts: Facts, order: Order) -> Iterator[Difference]:
    expected = _expected(order)
    missing = dict(expected)
    for key, entry in standing(facts.entries):
        if key not in expected:
            if not is_fee_entry(facts.order_id, key):
                yield _unexplained(facts, order, entry)
            continue
        at, postings = missing.pop(key, expected[key])
        if entry.currency != order.currency or sorted(entry.postings) != sorted(postings):
            yield _booked(
                Kind.BOOKED_DIFFERENTLY,
                facts,
                entry,
                f"Finance booked {list(entry.postings)} {entry.currency}, the order makes it "
                f"{list(postings)} {order.currency}.",
                _rebook(entry, Post(f"{key}{CORRECTED}", order.currency, at, postings)),
                expected_minor=cleared_minor(postings),
            )
    undone = {entry.entry_key for entry in facts.entries if entry.undone}
    for key, (at, postings) in missing.items():
        post_key = f"{key}{CORRECTED}" if key in undone else key
        yield Difference(
            Kind.NOT_BOOKED,
            facts.order_id,
            key,
            at,
            order.currency,
            cleared_minor(postings),
            0,
            f"Finance has no entry {key}" + (": it was reversed." if key in undone else "."),
            fix=Post(post_key, order.currency, at, postings),
        )


def _rebook(entry: Booked, right: Post) -> Rebook | None:
    """Undo and correct once; an entry that was corrected wrongly is a person's matter."""
    return None if entry.entry_key.endswith(CORRECTED) else Rebook(entry.entry_key, right)


def _expected(order: Order) -> Mapping[str, _Expected]:
    """Return every entry that the order explains: when it happened and its postings, by key."""
    expected: dict[str, _Expected] = {}
    if order.paid_at is None:
        return expected
    if postings := capture_postings(order):
        expected[capture_entry_key(order.order_id)] = order.paid_at, postings
    if order.refunds or order.disputes:
        for movement in movements_of(order):
            expected[return_entry_key(order.order_id, movement)] = return_postings(order, movement)
    return expected


def _unexplained(facts: Facts, order: Order, entry: Booked) -> Difference:
    if order.paid_at is None:
        kind, why = Kind.BOOKED_WITHOUT_ORDER, f"the order is {order.status} and was never paid"
    else:
        kind, why = Kind.BOOKED_TWICE, "nothing in the order explains it"
    words = f"Finance has entry {entry.entry_key}; {why}."
    return _booked(kind, facts, entry, words, Reverse(entry.entry_key))


def _fees(facts: Facts) -> Iterator[Post]:
    """Fees that no entry of ``facts`` books. A dispute's own fee is the order's matter."""
    for one in facts.objects if facts.order is not None else ():
        if one.fee_minor > 0 and one.kind != DISPUTE:
            key = _fee_key(facts, one)
            if not any(entry.entry_key == key for entry in facts.entries):
                yield Post(key, one.fee_currency, one.at, fee_postings(one.fee_minor))


def _fee_entries(facts: Facts) -> Iterator[Difference]:
    taken = {_fee_key(facts, one): one for one in facts.objects if one.kind != DISPUTE}
    for key, entry in standing(facts.entries):
        if not is_fee_entry(facts.order_id, key):
            continue
        one = taken.get(key)
        fee_minor = one.fee_minor if one is not None else 0
        postings = fee_postings(fee_minor) if fee_minor else []
        currency = one.fee_currency if one is not None else entry.currency
        if entry.currency != currency or sorted(entry.postings) != sorted(postings):
            right = (
                Post(f"{key}{CORRECTED}", currency, one.at, postings)
                if one is not None and fee_minor
                else None
            )
            yield _booked(
                Kind.FEE_DIFFERS,
                facts,
                entry,
                f"Finance booked {-cleared_minor(entry.postings)} {entry.currency} as Stripe's fee, Stripe "
                f"took {fee_minor} {currency}.",
                Reverse(entry.entry_key) if right is None else _rebook(entry, right),
                expected_minor=-fee_minor,
            )


def _entitled_at(order: Order) -> datetime | None:
    """When the buyer got a claim to licences: by paying, or by an order that costs nothing."""
    return order.booked_at if order.total_minor == 0 else order.paid_at


def _licences(facts: Facts, order: Order) -> Iterator[Difference]:
    entitled_at = _entitled_at(order)
    if entitled_at is None:
        for line_no, status in facts.licences.items():
            if status != "revoked":
                yield Difference(
                    Kind.LICENCE_WITHOUT_PAYMENT,
                    facts.order_id,
                    f"line:{line_no}",
                    order.created_at,
                    order.currency,
                    order.total_minor,
                    0,
                    f"Line {line_no} has a licence that is {status}, and the order was never paid.",
                )
    elif order.stage in _UNFULFILLED and not order.suspended_lines:
        yield Difference(
            Kind.PAID_WITHOUT_LICENCE,
            facts.order_id,
            "licences",
            entitled_at + LICENCE_DUE,
            order.currency,
            None,
            None,
            f"The order was paid (or free) at {entitled_at.isoformat()} and is still {order.stage}.",
        )


def _is_own(order: Order, one: StripeObject) -> bool:
    """Whether a refund or dispute is of the order's own payment; one of a second charge is nothing of it."""
    return order.payment_intent_id in (None, one.payment_intent_id)


def _refund_of(order: Order, one: StripeObject) -> Refund | None:
    for refund in order.refunds:
        if refund.stripe_refund_id == one.object_id:
            return refund
    # By our own id only what Stripe has not answered yet: another one of the same id is a second refund.
    own = order.find_refund(one.refund_id) if one.refund_id else None
    return own if own is not None and own.stripe_refund_id is None else None


def _fee_key(facts: Facts, one: StripeObject) -> str:
    order = facts.order
    own = one.kind == CHARGE and (order is None or order.payment_intent_id in (None, one.payment_intent_id))
    return fee_entry_key(facts.order_id, "" if own else one.object_id)


def _news(facts: Facts, one: StripeObject, kind: str, *, about: str = "") -> TellOrder | None:
    """What a webhook would have told; None when one lies there already and waits, or was given up."""
    subject = about or one.object_id
    if any(known == subject for _, known, _ in facts.waiting):
        return None
    # Once for each thing that there is to tell: a dispute's fee may come after its status.
    told = f"{one.status}:{len(one.fees)}" if one.kind == DISPUTE else one.status
    return TellOrder(
        PaymentNews(
            event_id=f"{subject}:{told}:reconciled",
            order_id=facts.order_id,
            kind=kind,
            payment_intent_id=one.payment_intent_id,
            amount_minor=one.amount_minor,
            currency=one.currency,
            code=one.reason,
            message="",
            object_id="" if one.kind == CHARGE else one.object_id,
            object_status="" if one.kind == CHARGE else one.status,
            refund_id=one.refund_id,
            fees=one.fees,
        )
    )


def _about(
    kind: Kind,
    facts: Facts,
    one: StripeObject,
    amounts: tuple[int, int],
    detail: str,
    fix: TellOrder | None = None,
) -> Difference:
    """A difference about an object of Stripe's; ``amounts`` are expected and actual."""
    evidence = {
        "stripe_object": one.object_id,
        "payment_intent": one.payment_intent_id,
        "stripe_status": one.status,
        "waiting_webhooks": [event_id for event_id, _, _ in facts.waiting],
    }
    return Difference(
        kind, facts.order_id, one.object_id, one.at, one.currency, *amounts, detail, evidence, fix
    )


def _booked(
    kind: Kind,
    facts: Facts,
    entry: Booked,
    detail: str,
    fix: Reverse | Rebook | None = None,
    *,
    expected_minor: int = 0,
) -> Difference:
    """A difference about an entry of Finance's."""
    evidence = {"postings": [[account, amount] for account, amount in entry.postings]}
    actual_minor = cleared_minor(entry.postings)
    return Difference(
        kind,
        facts.order_id,
        entry.entry_key,
        entry.occurred_at,
        entry.currency,
        expected_minor,
        actual_minor,
        detail,
        evidence,
        fix,
    )
