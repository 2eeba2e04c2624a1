"""What buyers are told of declines: what to do, and never that a card is known as stolen."""

import pytest

from domain.orders.declines import HIDDEN, advice

GENERIC = advice("card_declined", "generic_decline")


@pytest.mark.parametrize("decline_code", sorted(HIDDEN))
def test_what_must_not_be_told_looks_like_any_decline(decline_code):
    assert advice("card_declined", decline_code) == GENERIC
    # As it was recorded before decline codes had a member of their own.
    assert advice(decline_code, "") == GENERIC


def test_a_decline_code_that_is_not_known_is_not_told():
    assert advice("card_declined", "some_new_code") == GENERIC


@pytest.mark.parametrize(
    ("code", "decline_code", "shown", "words"),
    [
        ("card_declined", "insufficient_funds", "insufficient_funds", "not enough money"),
        ("expired_card", "expired_card", "expired_card", "expired"),
        ("incorrect_cvc", "incorrect_cvc", "incorrect_cvc", "security code"),
        ("processing_error", "processing_error", "processing_error", "Try again"),
        ("card_declined", "authentication_required", "authentication_required", "confirm"),
        ("payment_intent_authentication_failure", "", None, "confirm it with your bank"),
        ("payment_failed", "", None, "another card"),
        ("insufficient_funds", "", None, "not enough money"),
    ],
)
def test_each_reason_says_what_to_do(code, decline_code, shown, words):
    told = advice(code, decline_code)
    assert (told.code, told.decline_code) == (code, shown)
    assert words in told.message
