"""The Finance client against the real service."""

import asyncio

import pytest
from finance_process import TOKEN, FinanceProcess

from domain.errors import DependencyError, RejectedError
from storage import migrations
from storage.finance_client import FinanceClient
from tests.fakes.carts import NOW

pytestmark = pytest.mark.integration

POSTINGS = [("stripe:clearing", 1999), ("seller:seller_1:payable", -1800), ("platform:fees", -199)]


@pytest.fixture
def finance(database, tmp_path):
    migrations.apply(database.dsn, "storage.finance", "finance")
    process = FinanceProcess(database.dsn_for("finance_app"), tmp_path / "finance.log").start()
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


async def test_a_wrong_token_is_no_acknowledgement(finance):
    client = FinanceClient(finance.url, "another-token-altogether")
    with pytest.raises(DependencyError, match="finance_unavailable"):
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
