"""The Finance client against the real service."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from finance_process import TOKEN, FinanceProcess

from domain.errors import DependencyError, RejectedError
from storage.finance_client import FinanceClient
from tests.fakes.carts import NOW

pytestmark = pytest.mark.integration

POSTINGS = [("stripe:clearing", 1999), ("seller:seller_1:payable", -1800), ("platform:fees", -199)]


@pytest.fixture
def finance(finance_database, tmp_path):
    process = FinanceProcess(finance_database.dsn_for("finance_app"), tmp_path / "finance.log").start()
    yield process
    process.stop()


@pytest.fixture
async def books(finance):
    client = FinanceClient(finance.url, TOKEN)
    yield client
    await client.close()


async def test_the_exact_amounts_are_acknowledged_and_repeats_agree(books):
    first = await books.book("ord_1:capture", "USD", NOW, POSTINGS)
    assert sorted(first.postings) == sorted(POSTINGS)
    assert (first.entry_key, first.currency) == ("ord_1:capture", "USD")
    assert await books.book("ord_1:capture", "USD", NOW, POSTINGS) == first


async def test_concurrent_bookings_share_requests_and_a_bad_one_spoils_no_other(books):
    good = [books.book(f"ord_{n}:capture", "USD", NOW, POSTINGS) for n in range(50)]
    bad = books.book("ord_bad:capture", "USD", NOW, [("stripe:clearing", 1), ("platform:fees", -2)])
    *answers, refused = await asyncio.gather(*good, bad, return_exceptions=True)
    assert {answer.entry_key for answer in answers} == {f"ord_{n}:capture" for n in range(50)}
    assert isinstance(refused, RejectedError)
    assert refused.code == "entry_unbalanced"


async def test_another_content_under_the_same_key_is_refused(books):
    await books.book("ord_1:capture", "USD", NOW, POSTINGS)
    with pytest.raises(RejectedError, match="entry_conflict"):
        await books.book("ord_1:capture", "EUR", NOW, POSTINGS)


async def test_a_wrong_token_is_no_acknowledgement_and_no_outage(finance):
    client = FinanceClient(finance.url, "another-token-altogether")
    with pytest.raises(DependencyError, match=r"finance_misconfigured: .*unauthenticated"):
        await client.book("ord_1:capture", "USD", NOW, POSTINGS)
    await client.close()


async def test_an_outage_is_told_and_passes(finance):
    client = FinanceClient(finance.url, TOKEN)
    finance.stop()
    with pytest.raises(DependencyError, match="finance_unavailable"):
        await client.book("ord_1:capture", "USD", NOW, POSTINGS)
    finance.start()
    assert (await client.book("ord_1:capture", "USD", NOW, POSTINGS)).entry_key == "ord_1:capture"
    await client.close()


async def test_an_order_that_comes_after_its_period_was_closed_is_booked_in_the_open_one(finance):
    """However often it is repeated, and whether or not the first answer arrived."""
    paid_at = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    client = FinanceClient(finance.url, TOKEN)
    with finance.client() as admin:
        assert admin.post("/v1/periods/2026-01/close").status_code == 200
        first = await client.book("ord_1:capture", "USD", paid_at, POSTINGS)
        assert sorted(first.postings) == sorted(POSTINGS)
        assert await client.book("ord_1:capture", "USD", paid_at, POSTINGS) == first
        kept = admin.get("/v1/entries/ord_1:capture").json()
        assert kept["original_occurred_at"] == "2026-01-31T23:59:59Z"
        assert kept["occurred_at"] > "2026-02"
        with pytest.raises(RejectedError, match="entry_conflict"):
            await client.book("ord_1:capture", "EUR", paid_at, POSTINGS)
    await client.close()


async def test_a_clock_that_is_behind_does_not_book_into_the_past(finance):
    paid_at = datetime(2026, 1, 31, tzinfo=UTC)
    client = FinanceClient(finance.url, TOKEN, now=lambda: paid_at - timedelta(days=1))
    with finance.client() as admin:
        assert admin.post("/v1/periods/2026-01/close").status_code == 200
    with pytest.raises(RejectedError, match="period_closed"):
        await client.book("ord_1:capture", "USD", paid_at, POSTINGS)
    await client.close()
