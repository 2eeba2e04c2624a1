"""Screening: what is refused, what a person looks at first, and what goes on."""

import pytest

from domain.policy import BLOCK, CLEAR, REVIEW, Purchase, screen


def purchase(total_minor=1999, currency="USD", country="DE", seats_max=1, buyer_id="buyer_ada"):
    return Purchase(buyer_id, ("seller_1",), currency, total_minor, country, seats_max)


@pytest.mark.parametrize(
    ("facts", "outcome"),
    [
        ({}, CLEAR),
        ({"total_minor": 500_000}, CLEAR),
        ({"total_minor": 500_001}, REVIEW),
        ({"total_minor": 500_001, "currency": "JPY"}, CLEAR),
        ({"total_minor": 750_001, "currency": "JPY"}, REVIEW),
        ({"total_minor": 500_001, "currency": "PLN"}, REVIEW),
        ({"total_minor": 250_000, "country": None}, CLEAR),
        ({"total_minor": 250_001, "country": None}, REVIEW),
        ({"seats_max": 500}, CLEAR),
        ({"seats_max": 501}, REVIEW),
        ({"country": "KP"}, BLOCK),
        ({"buyer_id": "seller_1"}, BLOCK),
        ({"country": "KP", "total_minor": 900_000}, BLOCK),
    ],
)
def test_the_rules(facts, outcome):
    verdict = screen(purchase(**facts))
    assert verdict.outcome == outcome
    assert bool(verdict.reasons) == (outcome != CLEAR)


def test_no_reason_tells_a_limit():
    verdict = screen(purchase(total_minor=900_000, country=None, seats_max=900))
    assert len(verdict.reasons) == 3
    assert not any(character.isdigit() for reason in verdict.reasons for character in reason)
