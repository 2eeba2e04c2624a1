"""Statements: sums that lead from Finance's opening balance to its closing one, whatever moved."""

import csv
import io
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.payouts.desk import PayeeStatement
from domain.payouts.batch import BatchStatus
from domain.payouts.cut import Division
from domain.payouts.periods import parse_period
from domain.payouts.statements import (
    AccountHistory,
    Movement,
    MovementKind,
    StatementUnsoundError,
    build_statement,
    sales_of,
)
from serve_app.schemas.statements import COLUMNS, statement_csv, statement_document
from storage.market.payout_batches import PeriodLine

NOW = datetime(2026, 10, 9, tzinfo=UTC)
KEYS = st.sampled_from(
    [
        *("ord_1:capture", "ord_2:capture", "ord_1:refund:rfd_1", "ord_1:refund_reversal:rfd_1"),
        *("ord_2:dispute:dp_1", "ord_2:dispute_won:dp_1", "payout:s:USD:2026-09", "=cmd()", "manual:7"),
        *("payout:s:USD:2026-09:reversal", "payout:s:USD:2026-09:returned:trr_1"),
    ]
)
MOVEMENTS = st.lists(st.builds(Movement, st.just(NOW), KEYS, st.integers(-(10**12), 10**12)), max_size=30)
GROSS = st.dictionaries(st.sampled_from(["ord_1", "ord_2"]), st.integers(0, 10**12))


def history(opening, movements):
    return AccountHistory(opening, opening + sum(one.amount_minor for one in movements), movements)


@given(st.integers(-(10**12), 10**12), MOVEMENTS, GROSS)
def test_the_sums_lead_to_the_closing_balance_in_json_and_csv(opening, movements, gross):
    told = history(opening, movements)
    statement = build_statement(told, gross)
    assert told.opening_minor + sum(statement.sums.values()) == told.closing_minor
    assert statement.sums[MovementKind.FEE] <= 0
    made = PayeeStatement("s", "USD", parse_period("2026-10"), statement, None)
    document = statement_document(made, NOW)
    kinds = ("sales", "fees", "refunds", "disputes", "payouts", "other")
    parts = sum(document[f"{kind}_minor"] for kind in kinds)
    assert document["opening_minor"] + parts == document["closing_minor"]
    rows = list(csv.DictReader(io.StringIO(statement_csv(made))))
    assert tuple(rows[0]) == COLUMNS
    balance = int(rows[0]["balance_minor"])
    for row in rows[1:-1]:
        balance += int(row["amount_minor"])
        assert balance == int(row["balance_minor"])
        assert not row["entry_key"].startswith(("=", "+", "-", "@"))
    assert (rows[-1]["kind"], int(rows[-1]["balance_minor"])) == ("closing", told.closing_minor)


def test_a_sale_is_shown_in_full_with_its_fee_where_the_payee_has_lines():
    movements = [Movement(NOW, "ord_1:capture", 900), Movement(NOW, "ord_2:capture", 50)]
    statement = build_statement(history(0, movements), {"ord_1": 1_000})
    assert [(one.kind, one.amount_minor, one.balance_minor) for one in statement.lines] == [
        ("sale", 1_000, 1_000),
        ("fee", -100, 900),
        ("sale", 50, 950),
    ]
    assert sales_of(history(0, movements)) == ["ord_1", "ord_2"]


def test_books_that_do_not_add_up_are_no_statement():
    with pytest.raises(StatementUnsoundError):
        build_statement(AccountHistory(0, 5, [Movement(NOW, "ord_1:capture", 4)]), {})


@pytest.mark.parametrize(("status", "shown"), [(BatchStatus.APPROVED, True), (BatchStatus.DRAFTED, False)])
def test_a_draft_is_not_told(status, shown):
    line = PeriodLine("pob_1", status, Division(70, 10, 20))
    statement = build_statement(history(100, []), {})
    made = PayeeStatement("s", "USD", parse_period("2026-10"), statement, line)
    assert (statement_document(made, NOW)["division"] is not None) == shown
    kinds = [row["kind"] for row in csv.DictReader(io.StringIO(statement_csv(made)))]
    assert kinds == ["opening", "closing", *(("paid", "carried", "held_back") if shown else ())]
