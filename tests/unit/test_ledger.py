"""The pure ledger: what an entry may be, sameness, reversal."""

import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.errors import ConflictError, RejectedError
from domain.ledger import (
    AMOUNT_MINOR_MAX,
    Entry,
    EntryConflictError,
    EntryMalformedError,
    EntryUnbalancedError,
    Posting,
    is_account,
    is_currency_code,
    is_entry_key,
    reversal,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
PAIR = (Posting("stripe:clearing", 5), Posting("platform:fees", -5))


def make(**changes) -> Entry:
    fields = {
        "entry_key": "ord_1:capture",
        "currency": "USD",
        "occurred_at": NOON,
        "description": "Sale",
        "postings": PAIR,
    }
    return Entry(**(fields | changes))


# Time limits belong to pytest: on a busy machine Hypothesis' own would fail sound code.
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

amounts = st.integers(-AMOUNT_MINOR_MAX, AMOUNT_MINOR_MAX).filter(bool)
accounts = st.from_regex(r"[a-z][a-z0-9_]{0,10}(:[A-Za-z0-9_]{1,10}){0,3}", fullmatch=True)


@st.composite
def balanced_postings(draw) -> tuple[Posting, ...]:
    legs = draw(st.lists(st.tuples(accounts, amounts), min_size=1, max_size=15))
    mirrored = [(account, -amount) for account, amount in draw(st.permutations(legs))]
    return tuple(Posting(*leg) for leg in legs + mirrored)


@patient
@given(balanced_postings())
def test_postings_that_sum_to_zero_make_an_entry_and_so_does_its_reversal(postings) -> None:
    entry = make(postings=postings)
    undone = reversal(entry, "undo", NOON)
    assert sum(p.amount_minor for p in (*entry.postings, *undone.postings)) == 0
    net: dict[str, int] = {}
    for posting in (*entry.postings, *undone.postings):
        net[posting.account] = net.get(posting.account, 0) + posting.amount_minor
    assert set(net.values()) == {0}
    with pytest.raises(EntryMalformedError):
        reversal(undone, "redo", NOON)


@patient
@given(st.lists(st.tuples(accounts, amounts), min_size=2, max_size=30))
def test_an_entry_exists_exactly_when_its_postings_sum_to_zero(legs) -> None:
    postings = tuple(Posting(*leg) for leg in legs)
    total = sum(amount for _, amount in legs)
    if total == 0:
        assert make(postings=postings).postings == postings
    else:
        with pytest.raises(EntryUnbalancedError) as refused:
            make(postings=postings)
        assert (refused.value.code, refused.value.sum_minor) == ("entry_unbalanced", total)


@patient
@given(balanced_postings(), st.integers(0, 10_000))
def test_any_change_of_one_amount_is_refused(postings, seed) -> None:
    index = seed % len(postings)
    changed = list(postings)
    amount = postings[index].amount_minor
    changed[index] = Posting(postings[index].account, amount - 1 if amount > 1 else amount + 2)
    with pytest.raises((EntryUnbalancedError, EntryMalformedError)):
        make(postings=tuple(changed))


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"entry_key": ""}, "/entry_key"),
        ({"entry_key": "a" * 201}, "/entry_key"),
        ({"entry_key": "a b"}, "/entry_key"),
        ({"entry_key": "a\n"}, "/entry_key"),
        ({"currency": "usd"}, "/currency"),
        ({"currency": "USDT"}, "/currency"),
        ({"occurred_at": NOON.replace(tzinfo=None)}, "/occurred_at"),
        (
            {"occurred_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
            "/occurred_at",
        ),
        ({"description": "a" * 501}, "/description"),
        ({"description": "a\0b"}, "/description"),
        ({"description": "\ud800"}, "/description"),
        ({"postings": PAIR[:1]}, "/postings"),
        ({"postings": PAIR * 101}, "/postings"),
        ({"postings": (Posting("Stripe", 5), PAIR[1])}, "/postings/0/account"),
        ({"postings": (PAIR[0], Posting("a:b:c:d:e", -5))}, "/postings/1/account"),
        ({"postings": (PAIR[0], Posting("a" * 121, -5))}, "/postings/1/account"),
        ({"postings": (PAIR[0], Posting("a:", -5))}, "/postings/1/account"),
        ({"postings": (*PAIR, Posting("a", 0))}, "/postings/2/amount_minor"),
        ({"postings": (Posting("a", amount_minor=True), Posting("b", -1))}, "/postings/0/amount_minor"),
        ({"postings": (Posting("a", 1.0), Posting("b", -1))}, "/postings/0/amount_minor"),
        ({"postings": (Posting("a", 2**53), Posting("b", -(2**53)))}, "/postings/0/amount_minor"),
    ],
)
def test_malformed_fields_are_refused_by_name(changes, pointer) -> None:
    with pytest.raises(EntryMalformedError) as refused:
        make(**changes)
    assert (refused.value.code, refused.value.pointer) == ("entry_malformed", pointer)


def test_bounds_themselves_are_accepted() -> None:
    make(entry_key="a" * 200, description="é" * 500, postings=PAIR * 100)
    make(postings=(Posting("a" * 120, AMOUNT_MINOR_MAX), Posting("b", -AMOUNT_MINOR_MAX)))


def test_times_are_kept_in_utc_and_equal_instants_are_the_same_content() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert make(occurred_at=elsewhere) == make()
    assert make(occurred_at=elsewhere).content_digest == make().content_digest


@pytest.mark.parametrize(
    "changes",
    [
        {"currency": "EUR"},
        {"occurred_at": NOON + timedelta(microseconds=1)},
        {"description": "Sale "},
        {"postings": PAIR[::-1]},
        {"postings": (Posting("stripe:clearing", 6), Posting("platform:fees", -6))},
        {"postings": (Posting("stripe:clearing2", 5), Posting("platform:fees", -5))},
    ],
)
def test_every_part_of_the_content_is_in_the_digest(changes) -> None:
    assert make(**changes).content_digest != make().content_digest


def test_the_key_is_not_content() -> None:
    assert make(entry_key="other").content_digest == make().content_digest


def test_a_reversal_names_what_it_reverses_and_needs_its_own_key() -> None:
    undone = reversal(make(), "ord_1:capture:reversal", NOON + timedelta(days=1))
    assert undone.description == "Reversal of ord_1:capture"
    assert undone.occurred_at == NOON + timedelta(days=1)
    with pytest.raises(EntryMalformedError):
        reversal(make(), "ord_1:capture", NOON)


def test_the_longest_key_can_be_reversed() -> None:
    assert reversal(make(entry_key="k" * 200), "undo", NOON).description.endswith("k" * 200)


@pytest.mark.parametrize(
    "error",
    [EntryMalformedError("wrong", "/x"), EntryUnbalancedError(3, "USD"), EntryConflictError("key")],
)
def test_errors_survive_pickling(error) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_errors_say_whose_fault_they_are() -> None:
    assert issubclass(EntryMalformedError, RejectedError)
    assert issubclass(EntryUnbalancedError, RejectedError)
    assert issubclass(EntryConflictError, ConflictError)


def test_grammar_checks_take_whole_texts() -> None:
    assert is_account("seller:sel_01:payable")
    assert not is_account("seller\n")
    assert is_entry_key("a/b:c.d-e_f")
    assert not is_entry_key("ключ")
    assert is_currency_code("JPY")
    assert not is_currency_code("ÉUR")


LATE = {"occurred_at": NOON + timedelta(days=30), "original_occurred_at": NOON}


def test_an_entry_booked_late_is_the_same_content_as_on_its_own_date() -> None:
    assert make(**LATE).content_digest == make().content_digest
    assert make(**(LATE | {"occurred_at": NOON + timedelta(days=60)})).content_digest == make().content_digest
    other = LATE | {"original_occurred_at": NOON - timedelta(days=1)}
    assert make(**other).content_digest != make().content_digest


@pytest.mark.parametrize("original", [NOON, NOON + timedelta(seconds=1), NOON.replace(tzinfo=None)])
def test_the_original_date_lies_before_the_booked_one(original) -> None:
    with pytest.raises(EntryMalformedError) as refused:
        make(original_occurred_at=original)
    assert refused.value.pointer == "/original_occurred_at"


def test_the_original_date_is_kept_in_utc() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-8)))
    assert make(**(LATE | {"original_occurred_at": elsewhere})).original_occurred_at == NOON
    assert make(**LATE) == make(**(LATE | {"original_occurred_at": elsewhere}))


def test_a_reversal_is_other_content_than_the_same_postings_without_the_link() -> None:
    undone = reversal(make(), "undo", NOON)
    assert undone.reverses == "ord_1:capture"
    unlinked = make(entry_key="undo", description=undone.description, postings=undone.postings)
    assert unlinked.content_digest != undone.content_digest
    # The link cannot be imitated by a posting: no account is empty, and an amount is no key.
    numbered = reversal(make(entry_key="5"), "undo", NOON)
    assert numbered.content_digest != undone.content_digest


def test_a_reversal_is_not_dated_before_its_entry_and_keeps_its_own_words() -> None:
    with pytest.raises(EntryMalformedError) as refused:
        reversal(make(), "undo", NOON - timedelta(microseconds=1))
    assert refused.value.pointer == "/occurred_at"
    assert reversal(make(), "undo", NOON, "Wrong seller").description == "Wrong seller"
