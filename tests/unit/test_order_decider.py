"""The order's life, decided purely."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import ConflictError, MarketplaceError, NotFoundError, RejectedError
from domain.orders import commands as c
from domain.orders.booking import CLEARING, FEES, capture_entry_key, capture_postings
from domain.orders.decide import (
    FORGET_KEYS,
    FULFIL,
    RELEASED_KEY_TTL_S,
    Effect,
    decide,
    delivery_id,
    effects_after,
    licence_id,
)
from domain.orders.events import KIND_OF, decode_event
from domain.orders.lines import DeliveryChoice
from domain.orders.state import Order, Status, evolve, fold
from tests.fakes.carts import BUYER, NOW, cart, line, order_id

ORDER = order_id()


def run(*commands: c.Command) -> Order:
    state: Order | None = None
    for command in commands:
        for event in decide(state, command):
            state = evolve(ORDER, state, event)
    assert state is not None
    return state


def opened() -> c.RecordPaymentOpened:
    return c.RecordPaymentOpened("pi_1", None, NOW)


def paid(amount_minor: int = 1999, intent: str = "pi_1", currency: str = "USD") -> c.ConfirmPayment:
    return c.ConfirmPayment(intent, "evt_1", amount_minor, currency, NOW)


def booked(total_minor: int = 1999) -> c.RecordBooking:
    return c.RecordBooking(capture_entry_key(ORDER), "ent_1", "USD", total_minor, NOW)


def fulfilled(lines: int = 1) -> c.RecordFulfilment:
    return c.RecordFulfilment(
        tuple(licence_id(ORDER, n) for n in range(1, lines + 1)),
        tuple(delivery_id(ORDER, n) for n in range(1, lines + 1)),
        "key_1",
        NOW,
    )


def test_the_whole_life_in_order():
    steps = [cart(), opened(), paid(), booked(), fulfilled()]
    seen = [run(*steps[: n + 1]).status for n in range(len(steps))]
    assert seen == [
        Status.SCREENED,
        Status.AWAITING_PAYMENT,
        Status.PAID,
        Status.BOOKED,
        Status.DELIVERED,
    ]
    assert run(*steps).seq == 7


@pytest.mark.parametrize("repeated", [1, 2, 3, 4, 5])
def test_every_command_told_twice_changes_nothing(repeated):
    steps = [cart(), opened(), paid(), booked(), fulfilled()][:repeated]
    state = run(*steps)
    assert decide(state, steps[-1]) == []


def test_a_webhook_that_beats_our_own_record_of_the_intent_is_accepted():
    state = run(cart(), paid())
    assert state.status is Status.PAID
    assert decide(state, opened()) == []


def test_payment_wins_over_expiry():
    state = run(cart(), opened(), c.ExpireOrder(NOW), paid())
    assert state.status is Status.PAID


def test_an_order_that_is_paid_does_not_expire():
    assert decide(run(cart(), opened(), paid()), c.ExpireOrder(NOW)) == []


def test_a_second_charge_is_refused_with_its_own_code():
    with pytest.raises(ConflictError) as refused:
        decide(run(cart(), opened(), paid()), paid(intent="pi_2"))
    assert refused.value.code == "second_charge"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (paid(amount_minor=1998), "amount_mismatch"),
        (paid(currency="EUR"), "amount_mismatch"),
        (paid(intent="pi_other"), "payment_intent_mismatch"),
    ],
)
def test_a_payment_that_does_not_match_is_refused(command, code):
    with pytest.raises(RejectedError) as refused:
        decide(run(cart(), opened()), command)
    assert refused.value.code == code


def test_no_licence_before_finance_acknowledged():
    assert decide(run(cart(), opened(), paid()), fulfilled()) == []


def test_finance_must_acknowledge_the_exact_amount():
    with pytest.raises(RejectedError, match="booking_mismatch"):
        decide(run(cart(), opened(), paid()), booked(1998))


def test_every_line_gets_exactly_its_licence():
    state = run(cart(1, line(1), line(2)), opened(), paid(3998), booked(3998))
    with pytest.raises(RejectedError, match="fulfilment_mismatch"):
        decide(state, fulfilled(lines=1))
    assert [type(event).__name__ for event in decide(state, fulfilled(lines=2))] == [
        "OrderLicensed",
        "OrderDelivered",
    ]


def test_stripe_refusing_for_good_cancels():
    state = run(cart(), c.RecordPaymentRefused("payment_refused", "below minimum", NOW))
    assert (state.status, state.end_code) == (Status.CANCELLED, "payment_refused")


def test_a_declined_attempt_keeps_the_order_payable():
    state = run(cart(), opened(), c.RecordPaymentFailure("evt_9", "card_declined", "Declined.", NOW))
    assert state.status is Status.AWAITING_PAYMENT
    assert state.payment_error == ("card_declined", "")
    assert run(cart(), opened(), paid()).payment_error is None


def test_a_decline_is_recorded_once_however_often_and_in_whatever_order_it_is_told():
    first = c.RecordPaymentFailure("evt_1", "card_declined", "Declined.", NOW)
    second = c.RecordPaymentFailure("evt_2", "card_declined", "Declined.", NOW)
    state = run(cart(), opened(), first, second, first, second)
    assert state.seq == 5, "two attempts were declined, for the same reason"


def test_a_payment_is_voided_once():
    state = run(cart(), opened(), c.ExpireOrder(NOW), c.RecordPaymentVoided(NOW))
    assert decide(state, c.RecordPaymentVoided(NOW)) == []
    assert decide(run(cart(), opened()), c.RecordPaymentVoided(NOW)) == []


def test_commands_to_a_missing_order_are_not_found():
    with pytest.raises(NotFoundError):
        decide(None, opened())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"lines": ()}, "lines_out_of_range"),
        ({"lines": tuple(line(n) for n in range(1, 1001))}, "lines_out_of_range"),
        ({"lines": (line(quantity=0),)}, "quantity_out_of_range"),
        ({"lines": (line(quantity=-1),)}, "quantity_out_of_range"),
        ({"lines": (line(quantity=1001),)}, "quantity_out_of_range"),
        ({"lines": (line(price_minor=99_999_999, quantity=2),)}, "total_out_of_range"),
        ({"currency": "XXX"}, "currency_unknown"),
        ({"delivery": DeliveryChoice("carrier_pigeon", None)}, "delivery_mode_unknown"),
        ({"delivery": DeliveryChoice("recipient", None)}, "recipient_mismatch"),
        ({"delivery": DeliveryChoice("released_key", "age1x")}, "recipient_mismatch"),
        ({"payment_method": "cash"}, "payment_method_unknown"),
        ({"country": "KP"}, "policy_blocked"),
        ({"buyer_id": "seller_1"}, "policy_blocked"),
    ],
)
def test_a_wrong_cart_is_rejected_with_its_code(changes, code):
    with pytest.raises(RejectedError) as refused:
        decide(None, cart(**changes) if "lines" not in changes else cart(1, **changes))
    assert refused.value.code == code


def test_a_released_key_is_recorded_once_and_only_for_that_mode():
    delivery = delivery_id(ORDER, 1)
    steps = [opened(), paid(), booked(), fulfilled()]
    by_key = run(cart(delivery=DeliveryChoice("released_key", None)), *steps)
    events = decide(by_key, c.ReleaseDeliveryKey(delivery, NOW))
    assert len(events) == 1
    assert decide(evolve(ORDER, by_key, events[0]), c.ReleaseDeliveryKey(delivery, NOW)) == []
    with pytest.raises(ConflictError, match="delivery_has_recipient"):
        decide(run(cart(), *steps), c.ReleaseDeliveryKey(delivery, NOW))
    with pytest.raises(NotFoundError):
        decide(by_key, c.ReleaseDeliveryKey("dlv_other", NOW))


RELEASED = cart(delivery=DeliveryChoice("released_key", None))


def test_keys_are_forgotten_once_and_then_no_longer_released():
    state = run(RELEASED, opened(), paid(), booked())
    assert decide(state, c.ForgetKeys(NOW)) == [], "not before there are any"
    state = run(RELEASED, opened(), paid(), booked(), fulfilled())
    (forgotten,) = decide(state, c.ForgetKeys(NOW))
    assert effects_after(forgotten) == ([], [FORGET_KEYS])
    state = evolve(ORDER, state, forgotten)
    assert (state.status, state.keys_forgotten) == (Status.DELIVERED, True)
    assert decide(state, c.ForgetKeys(NOW)) == []
    with pytest.raises(RejectedError, match="delivery_key_expired"):
        decide(state, c.ReleaseDeliveryKey(delivery_id(ORDER, 1), NOW))


def test_forgetting_is_a_timer_of_released_key_deliveries_only():
    for command, due in ((RELEASED, [Effect(FORGET_KEYS, RELEASED_KEY_TTL_S)]), (cart(), [])):
        (_, delivered) = decide(run(command, opened(), paid(), booked()), fulfilled())
        assert effects_after(delivered) == (due, [FULFIL])


def test_what_moves_nothing_outside_may_join_the_commit_that_makes_it_due():
    """Money has moved, or may, in every other step: it is never done before what causes it is on record."""
    joining, steps = set(), set()
    for commands in (
        [RELEASED, opened(), paid(), booked(), fulfilled(), c.ForgetKeys(NOW)],
        [cart(), opened(), c.ExpireOrder(NOW), c.RecordPaymentVoided(NOW)],
    ):
        state: Order | None = None
        for command in commands:
            for event in decide(state, command):
                state = evolve(ORDER, state, event)
                steps |= {effect.step for effect in effects_after(event)[0]}
                joining |= {effect.step for effect in effects_after(event)[0] if effect.joins}
    assert joining == {FULFIL}
    assert len(steps) == 6


def test_expiry_voids_the_payment_and_payment_ends_the_voiding():
    state = run(cart(), opened())
    (expired,) = decide(state, c.ExpireOrder(NOW))
    assert [effect.step for effect in effects_after(expired)[0]] == ["void_payment"]
    (revived,) = decide(evolve(ORDER, state, expired), paid())
    assert "void_payment" in effects_after(revived)[1]


def test_unpaid_orders_always_have_a_timer_or_an_effect():
    """I9: after each event some effect is due, until a terminal state."""
    due: set[str] = set()
    state: Order | None = None
    for command in [cart(), opened(), paid(), booked(), fulfilled()]:
        for event in decide(state, command):
            starts, ends = effects_after(event)
            due = (due - set(ends)) | {effect.step for effect in starts}
            state = evolve(ORDER, state, event)
        assert state is not None
        assert due or state.status is Status.DELIVERED
    assert due == set()


def test_events_survive_storage_as_json():
    state: Order | None = None
    released = cart(1, line(1), line(2), delivery=DeliveryChoice("released_key", None))
    release = c.ReleaseDeliveryKey(delivery_id(ORDER, 2), NOW)
    for command in [
        released, opened(), paid(3998), booked(3998), fulfilled(2), release, c.ForgetKeys(NOW),
    ]:  # fmt: skip
        for event in decide(state, command):
            stored = orjson.loads(orjson.dumps(event))
            assert decode_event(KIND_OF[type(event)], stored) == event
            state = evolve(ORDER, state, event)
    assert state is not None
    assert (state.seq, state.keys_forgotten) == (9, True)


def test_a_delivery_on_record_from_before_timers_can_still_be_read():
    stored = {"delivery_ids": ["dlv_1"], "at": NOW.isoformat()}
    event = decode_event("order.delivered", stored)
    assert effects_after(event) == ([], [FULFIL])


@given(
    prices=st.lists(
        st.tuples(
            st.integers(1, 1_000_000), st.integers(1, 40), st.sampled_from(["seller_a", "seller_b", "s_c"])
        ),
        min_size=1,
        max_size=10,
    )
)
def test_a_sale_is_booked_to_the_last_unit(prices):
    lines = tuple(
        line(n, price_minor=price, quantity=quantity, seller_id=seller)
        for n, (price, quantity, seller) in enumerate(prices, 1)
    )
    total = sum(entry.amount_minor for entry in lines)
    if total > 99_999_999:
        return
    state = fold(ORDER, decide(None, cart(1, *lines)))
    assert state is not None
    postings = capture_postings(state)
    assert sum(amount for _, amount in postings) == 0
    assert dict(postings)[CLEARING] == total
    assert dict(postings).get(FEES, 0) <= 0
    assert len({account for account, _ in postings}) == len(postings)


@given(
    st.lists(
        st.sampled_from(
            [
                opened(),
                paid(),
                paid(intent="pi_2"),
                booked(),
                fulfilled(),
                c.ExpireOrder(NOW),
                c.RecordPaymentVoided(NOW),
                c.RecordPaymentFailure("evt_9", "card_declined", "no", NOW),
                c.RecordPaymentRefused("payment_refused", "no", NOW),
                c.ReleaseDeliveryKey(delivery_id(ORDER, 1), NOW),
                c.ForgetKeys(NOW),
            ]
        ),
        max_size=14,
    )
)
def test_any_order_of_news_keeps_the_promises(news):
    """At most one charge, licences only after booking and only once, sequence without a gap."""
    events = list(decide(None, cart()))
    state = fold(ORDER, events)
    for command in news:
        try:
            happened = decide(state, command)
        except MarketplaceError:
            continue
        for event in happened:
            state = evolve(ORDER, state, event)
        events += happened
    assert state is not None
    kinds = [KIND_OF[type(event)] for event in events]
    assert state.seq == len(kinds)
    assert kinds.count("order.paid") <= 1
    assert kinds.count("order.licensed") <= 1
    if "order.licensed" in kinds:
        assert kinds.index("order.booked") < kinds.index("order.licensed")
    if "order.booked" in kinds:
        assert kinds.index("order.paid") < kinds.index("order.booked")
    assert fold(ORDER, events) == state
    assert state.buyer_id == BUYER
