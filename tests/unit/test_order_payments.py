"""What happens between screening and payment, decided purely: attempts, reviews, cancellation, races."""

import itertools
from dataclasses import replace

import orjson
import pytest

from domain.errors import ConflictError, DependencyError, MarketplaceError, NotFoundError, RejectedError
from domain.orders import commands as c
from domain.orders.decide import (
    BOOK,
    CAPTURE_PAYMENT,
    END_REVIEW,
    EXPIRE,
    OPEN_PAYMENT,
    VOID_PAYMENT,
    Effect,
    decide,
    effects_after,
    turn_effects,
)
from domain.orders.events import KIND_OF, PaymentFailed, decode_event
from domain.orders.payment_invariants import check_before_payment
from domain.orders.payments import ACTIONS_MAX, PAYMENT_ATTEMPTS_MAX, REVIEW_S_MAX, attempts_left, terms_of
from domain.orders.state import Order, ReviewStatus, Status, evolve, fold
from domain.proposals.documents import PaymentFlow
from tests.fakes.carts import BUYER, NOW, cart, line, order_id

ORDER, TOTAL = order_id(), 900_000
TERMS = c.PaymentTerms(review_s=7_200)
FLAGGED = cart(1, line(price_minor=TOTAL), payment_terms=TERMS)
OPENED = c.RecordPaymentOpened("pi_1", None, NOW)
AUTHORISED = c.NoticeAuthorisation("pi_1", "evt_a", TOTAL, "USD", NOW)
CAPTURED = c.ConfirmPayment("pi_1", "evt_1", TOTAL, "USD", NOW)
APPROVE = c.DecideReview("operator_1", approves=True, reason="Known.", at=NOW)
REJECT = c.DecideReview("operator_2", approves=False, reason="Stolen card.", at=NOW)
CANCEL, DEADLINE = c.CancelOrder(NOW), c.EndReview(NOW)
LAPSE = c.NoticePaymentCancelled("pi_1", "expired", NOW)
VOIDED = c.RecordPaymentVoided(NOW)


def run(*commands: c.Command) -> Order:
    state: Order | None = None
    for command in commands:
        for event in decide(state, command):
            state = evolve(ORDER, state, event)
    assert state is not None
    return state


def code_of(state, command):
    with pytest.raises(MarketplaceError) as refused:
        decide(state, command)
    return refused.value.code


def declined(number=1, decline_code="insufficient_funds"):
    return c.RecordPaymentFailure(f"evt_{number}", "card_declined", "Declined.", NOW, decline_code)


def test_a_flagged_order_is_held_approved_and_paid():
    steps = [FLAGGED, OPENED, AUTHORISED, APPROVE, CAPTURED]
    seen = [run(*steps[: n + 1]) for n in range(len(steps))]
    assert [state.status for state in seen] == [
        Status.SCREENED,
        Status.AWAITING_PAYMENT,
        Status.IN_REVIEW,
        Status.IN_REVIEW,
        Status.PAID,
    ]
    assert [state.review for state in seen] == [None, None, "open", "approved", "approved"]
    for state, command in zip(seen, steps, strict=True):
        assert decide(state, command) == [], "told twice, it changes nothing"


def test_every_step_has_its_effects():
    due = {}
    state = None
    for command in (FLAGGED, OPENED, AUTHORISED, APPROVE, CAPTURED):
        events = decide(state, command)
        for event in events:
            state = evolve(ORDER, state, event)
        starts, ends = turn_effects(events)
        for step in ends:
            due.pop(step, None)
        due |= {effect.step: effect for effect in starts}
        if command is AUTHORISED:
            assert due == {END_REVIEW: Effect(END_REVIEW, 7_200)}
        if command is APPROVE:
            assert due == {CAPTURE_PAYMENT: Effect(CAPTURE_PAYMENT)}
    assert set(due) == {BOOK}


@pytest.mark.parametrize("end", [REJECT, DEADLINE, CANCEL])
def test_what_is_not_approved_is_voided_and_never_paid(end):
    state = run(FLAGGED, OPENED, AUTHORISED)
    events = decide(state, end)
    for event in events:
        state = evolve(ORDER, state, event)
    assert state.status is Status.CANCELLED
    assert turn_effects(events)[0] == [Effect(VOID_PAYMENT)]
    assert code_of(state, CAPTURED) == "order_cancelled"
    assert state.to_void
    (voided,) = decide(state, VOIDED)
    assert effects_after(voided) == ([], [VOID_PAYMENT])
    assert not evolve(ORDER, state, voided).to_void


def test_a_capture_before_the_approval_is_refused():
    assert code_of(run(FLAGGED, OPENED), CAPTURED) == "review_undecided"
    assert code_of(run(FLAGGED, OPENED, AUTHORISED), CAPTURED) == "review_undecided"
    assert code_of(run(FLAGGED, OPENED, c.ExpireOrder(NOW)), CAPTURED) == "order_cancelled"


@pytest.mark.parametrize(
    "order", list(itertools.permutations([APPROVE, REJECT, DEADLINE, CANCEL, LAPSE])), ids=lambda _: ""
)
def test_of_all_that_may_end_a_review_the_first_wins(order):
    state = run(FLAGGED, OPENED, AUTHORISED)
    for command in order:
        try:
            events = decide(state, command)
        except (ConflictError, RejectedError):
            events = []
        for event in events:
            state = evolve(ORDER, state, event)
    ends = {
        REJECT: ("review_rejected", ReviewStatus.REJECTED),
        DEADLINE: ("review_expired", ReviewStatus.ENDED),
        CANCEL: ("cancelled_by_buyer", ReviewStatus.ENDED),
        LAPSE: ("authorisation_lapsed", ReviewStatus.ENDED),
        # An approval only starts the capture: of what may still happen to it, a lapse is Stripe's word.
        APPROVE: ("authorisation_lapsed", ReviewStatus.APPROVED),
    }
    assert state.status is Status.CANCELLED
    assert (state.end_code, state.review) == ends[order[0]]


def test_a_capture_that_stripe_refuses_ends_the_order():
    state = run(FLAGGED, OPENED, AUTHORISED, APPROVE)
    refused = c.RecordCaptureRefused("capture_refused", "It ended.", NOW)
    assert run(FLAGGED, OPENED, AUTHORISED, APPROVE, refused).end_code == "authorisation_lapsed"
    assert decide(evolve(ORDER, state, decide(state, CAPTURED)[0]), refused) == []


def test_who_reviews_has_no_part_in_the_order():
    (sold,) = FLAGGED.lines
    shared = replace(sold, fee_minor=0, payees=(("author", sold.amount_minor),))
    state = run(replace(FLAGGED, lines=(shared,)), OPENED, AUTHORISED)
    for reviewer_id in (BUYER, "seller_1", "author"):
        assert code_of(state, replace(APPROVE, reviewer_id=reviewer_id)) == "reviewer_not_independent"
        assert code_of(state, replace(REJECT, reviewer_id=reviewer_id)) == "reviewer_not_independent"


def test_a_decision_stands_and_is_the_same_for_who_repeats_it():
    state = run(FLAGGED, OPENED, AUTHORISED, APPROVE)
    assert decide(state, APPROVE) == []
    assert code_of(state, replace(APPROVE, reviewer_id="operator_9")) == "review_decided"
    assert code_of(state, replace(REJECT, reviewer_id="operator_1")) == "review_decided"


def test_there_is_nothing_to_review_without_a_flag_or_an_authorisation():
    with pytest.raises(NotFoundError, match="review_not_found"):
        decide(run(cart(), OPENED), APPROVE)
    assert code_of(run(FLAGGED, OPENED), APPROVE) == "review_not_open"
    assert code_of(run(FLAGGED, OPENED, AUTHORISED, CANCEL), APPROVE) == "review_not_open"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (replace(AUTHORISED, amount_minor=TOTAL - 1), "amount_mismatch"),
        (replace(AUTHORISED, currency="EUR"), "amount_mismatch"),
        (replace(AUTHORISED, payment_intent_id="pi_9"), "payment_intent_mismatch"),
    ],
)
def test_an_authorisation_must_be_the_orders_own(command, code):
    assert code_of(run(FLAGGED, OPENED), command) == code


def test_an_authorisation_of_an_order_that_is_captured_at_once_is_a_case_for_an_operator():
    news = replace(AUTHORISED, amount_minor=1999)
    assert code_of(run(cart(), OPENED), news) == "authorisation_unexpected"


def test_an_authorisation_may_beat_our_own_record_and_does_not_revive_what_ended():
    assert run(FLAGGED, AUTHORISED).status is Status.IN_REVIEW
    assert decide(run(FLAGGED, AUTHORISED), OPENED) == []
    for end in (c.ExpireOrder(NOW), CANCEL):
        assert decide(run(FLAGGED, OPENED, end), AUTHORISED) == []


def test_a_flagged_order_is_refused_where_nobody_reviews():
    refused = replace(FLAGGED, payment_terms=replace(TERMS, reviews=False))
    assert code_of(None, refused) == "policy_blocked"
    assert decide(None, replace(refused, lines=(line(),)))


def test_the_hosted_page_can_be_switched_off():
    terms = replace(TERMS, checkout_allowed=False)
    assert code_of(None, cart(payment_method="checkout", payment_terms=terms)) == "checkout_not_offered"
    assert decide(None, cart(payment_terms=terms))


def test_the_refund_window_is_the_one_of_the_placement():
    assert run(cart(payment_terms=replace(TERMS, refund_window_s=60))).refund_window_s == 60


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (
            PaymentFlow("automatic", 604_800, 0, checkout_allowed=False),
            c.PaymentTerms(reviews=False, review_s=REVIEW_S_MAX, refund_window_s=0, checkout_allowed=False),
        ),
        (
            PaymentFlow("manual_when_flagged", 3_600, 9, checkout_allowed=True),
            c.PaymentTerms(reviews=True, review_s=3_600, refund_window_s=9, checkout_allowed=True),
        ),
    ],
)
def test_what_the_governed_flow_means_for_an_order(flow, expected):
    assert terms_of(flow) == expected


def test_declines_are_counted_and_the_last_one_ends_the_order():
    steps = [cart(), OPENED, *(declined(number) for number in range(1, PAYMENT_ATTEMPTS_MAX))]
    state = run(*steps)
    assert (state.status, attempts_left(state)) == (Status.AWAITING_PAYMENT, 1)
    assert decide(state, declined(1)) == [], "told again, it is no new attempt"
    _, cancelled = decide(state, declined(99))
    assert (cancelled.code, cancelled.voids) == ("payment_attempts_exhausted", True)
    ended = run(*steps, declined(99))
    assert (ended.status, attempts_left(ended)) == (Status.CANCELLED, 0)
    assert decide(ended, declined(100)) == []
    paid = replace(CAPTURED, amount_minor=1999)
    assert run(*steps, declined(99), paid).status is Status.PAID, "a payment that was faster counts"


def test_a_question_of_the_bank_is_shown_until_it_is_answered():
    asked = c.NoticeActionRequired("evt_q", "redirect_to_url", NOW)
    state = run(cart(), OPENED, asked)
    assert state.next_action == "redirect_to_url"
    assert decide(state, asked) == []
    assert run(cart(), OPENED, asked, declined()).next_action is None
    assert run(cart(), OPENED, asked, replace(CAPTURED, amount_minor=1999)).next_action is None
    assert run(cart(), OPENED, asked, CANCEL).next_action is None
    many = [c.NoticeActionRequired(f"evt_{n}", "redirect_to_url", NOW) for n in range(ACTIONS_MAX + 5)]
    assert len(run(cart(), OPENED, *many).action_event_ids) == ACTIONS_MAX


@pytest.mark.parametrize("before", [[cart()], [cart(), OPENED]])
def test_a_buyer_cancels_before_payment(before):
    state = run(*before, CANCEL)
    assert (state.status, state.end_code, state.to_void) == (Status.CANCELLED, "cancelled_by_buyer", True)
    assert decide(state, CANCEL) == []
    assert decide(state, OPENED) == []
    assert turn_effects(decide(run(*before), CANCEL)) == (
        [Effect(VOID_PAYMENT)],
        [OPEN_PAYMENT, EXPIRE, END_REVIEW, CAPTURE_PAYMENT],
    )


def test_a_payment_that_wins_against_the_cancellation_counts():
    paid = replace(CAPTURED, amount_minor=1999)
    state = run(cart(), OPENED, CANCEL, paid)
    assert (state.status, state.end_code) == (Status.PAID, None)
    assert decide(state, VOIDED) == []
    assert code_of(state, CANCEL) == "order_not_cancellable"


@pytest.mark.parametrize(
    "before",
    [
        [cart(), OPENED, replace(CAPTURED, amount_minor=1999)],
        [cart(), OPENED, c.ExpireOrder(NOW)],
        [FLAGGED, OPENED, AUTHORISED, APPROVE],
        [FLAGGED, OPENED, AUTHORISED, REJECT],
    ],
)
def test_what_is_paid_being_charged_or_over_cannot_be_cancelled(before):
    assert code_of(run(*before), CANCEL) == "order_not_cancellable"


def test_a_hosted_page_that_ended_ends_its_order():
    checkout, opened = cart(payment_method="checkout"), c.RecordPaymentOpened(None, "cs_1", NOW)
    ended = c.NoticeCheckoutEnded("cs_1", "checkout_expired", "Closed.", NOW)
    state = run(checkout, opened, ended)
    assert (state.status, state.end_code, state.to_void) == (Status.CANCELLED, "checkout_expired", True)
    assert decide(run(checkout, opened), replace(ended, checkout_session_id="cs_9")) == []
    assert decide(run(checkout, opened), LAPSE) == [], "the page makes a new intent for the next attempt"
    paid = c.ConfirmPayment("pi_7", "evt_1", 1999, "USD", NOW)
    assert decide(run(checkout, opened, paid), ended) == []


def test_events_survive_their_json_and_old_ones_stay_readable():
    asked = c.NoticeActionRequired("evt_q", "redirect_to_url", NOW)
    states = [
        [
            FLAGGED,
            OPENED,
            asked,
            declined(),
            AUTHORISED,
            REJECT,
        ],
        [FLAGGED, OPENED, AUTHORISED, APPROVE],
    ]
    for commands in states:
        state = None
        for command in commands:
            for event in decide(state, command):
                state = evolve(ORDER, state, event)
                assert decode_event(KIND_OF[type(event)], orjson.loads(orjson.dumps(event))) == event
    at = "2026-11-24T12:00:00+00:00"
    old = {"stripe_event_id": "evt_1", "code": "insufficient_funds", "message": "No funds.", "at": at}
    assert decode_event("order.payment_failed", old) == PaymentFailed(
        "evt_1", "insufficient_funds", "No funds.", NOW
    )
    cancelled = decode_event("order.cancelled", {"code": "payment_refused", "reason": "no", "at": at})
    assert not cancelled.voids
    screened = {"stage": "payment", "outcome": "clear", "reasons": [], "policy_version": "1", "at": at}
    assert decode_event("order.screened", screened).review_s == 0


def history(*commands):
    events, state = [], None
    for command in commands:
        for event in decide(state, command):
            state = evolve(ORDER, state, event)
            events.append(event)
    return events


HELD = history(FLAGGED, OPENED, AUTHORISED)
(APPROVED,), (PAID,) = (
    decide(run(FLAGGED, OPENED, AUTHORISED), APPROVE),
    decide(run(FLAGGED, OPENED, AUTHORISED, APPROVE), CAPTURED),
)
DECLINED = history(cart(), OPENED, declined())[3]
REJECTED = decide(run(FLAGGED, OPENED, AUTHORISED), REJECT)


def violations(events):
    return [invariant for invariant, _ in check_before_payment(fold(ORDER, events), events)]


@pytest.mark.parametrize(
    ("events", "invariants"),
    [
        ([*HELD, APPROVED, PAID], []),
        ([*HELD, *REJECTED], []),
        (HELD, []),
        ([*HELD, PAID], ["I1"]),
        ([*HELD, *REJECTED, PAID], ["I1"]),
        ([*HELD, *REJECTED, APPROVED, PAID], ["I12", "I1"]),
        ([*HELD, APPROVED, APPROVED, PAID], ["I12"]),
        ([*HELD, REJECTED[0]], ["I9"]),
        ([*HELD[:3], APPROVED, HELD[3], PAID], ["I12"]),
        ([*HELD[:3], replace(HELD[3], amount_minor=1), APPROVED, PAID], ["I1"]),
        ([*history(cart(), OPENED), HELD[3]], ["I12"]),
        (
            [*history(cart(), OPENED), *(replace(DECLINED, stripe_event_id=f"evt_{n}") for n in range(11))],
            ["I2"],
        ),
    ],
)
def test_the_invariants_of_what_happens_before_payment(events, invariants):
    assert violations(events) == invariants


def test_news_of_a_refund_waits_until_it_is_known_that_nothing_was_paid():
    told = c.NoticeRefund("re_1", "", "pi_1", 100, "USD", "succeeded", "", NOW)
    cancelled = run(cart(), OPENED, CANCEL)
    with pytest.raises(DependencyError, match="payment_not_recorded"):
        decide(cancelled, told)
    assert decide(run(cart(), OPENED, CANCEL, VOIDED), told) == []
