"""When an effect is tried again, and when it is given up."""

import pytest

from actors.orders.retries import (
    BACKOFF_CAP_S,
    BACKOFF_FIRST_S,
    UNFORESEEN_TRIES_MAX,
    backoff_s,
    code_of,
    is_final,
)
from domain.errors import BusyError, ConflictError, DependencyError, NotFoundError, RejectedError


def test_pauses_double_until_the_cap():
    for attempts in range(40):
        ceiling_s = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2**attempts)
        pauses = [backoff_s(attempts) for _ in range(200)]
        assert ceiling_s / 2 <= min(pauses)
        assert max(pauses) <= ceiling_s


def test_an_outage_of_a_year_overflows_nothing():
    assert BACKOFF_CAP_S / 2 <= backoff_s(10_000_000) <= BACKOFF_CAP_S


def test_hosts_that_failed_together_do_not_come_back_together():
    pauses = sorted(backoff_s(3) for _ in range(200))
    assert pauses[-1] - pauses[0] > 2.0, "of 4 to 8 s"
    assert len(set(pauses)) > 100


@pytest.mark.parametrize("failure", [DependencyError("down", "x"), BusyError("full", "x")])
@pytest.mark.parametrize("attempts", [0, 4, 5, 100_000])
def test_a_dependency_is_waited_for_for_ever(failure, attempts):
    assert not is_final(failure, attempts)


@pytest.mark.parametrize(
    "failure", [RejectedError("no", "x"), ConflictError("no", "x"), NotFoundError("no", "x")]
)
def test_a_refusal_is_final_at_once(failure):
    assert is_final(failure, 0)


@pytest.mark.parametrize("failure", [KeyError("bug"), RuntimeError("bug"), TimeoutError()])
def test_what_nobody_foresaw_is_tried_five_times(failure):
    assert UNFORESEEN_TRIES_MAX == 5
    assert [is_final(failure, before) for before in range(6)] == [False] * 4 + [True] * 2


def test_a_dead_letter_names_its_reason():
    assert code_of(RejectedError("booking_mismatch", "x")) == "booking_mismatch"
    assert code_of(KeyError("hunter2")) == "internal_error"
